"""Figures: one module per kind, each a table in and an Altair chart out.

A kind is a module of :mod:`reprscope.figures.kinds` with ``Options`` (a frozen dataclass of its
settings), ``needs(options)``, ``draw(table, options, theme)`` and ``caption(table, options)``. To
add one, add a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

import altair as alt
import polars as pl

from reprscope.base.plugins import Plugins
from reprscope.figures.theme import Theme


class Figure(Protocol):
    """What a module of a figure kind provides."""

    Options: type[Any]

    def needs(self, options: Any, /) -> Sequence[str]:
        """Columns of a table without which the figure cannot be drawn."""

    def draw(self, table: pl.DataFrame, options: Any, theme: Theme) -> alt.TopLevelMixin:
        """Draw the rows of a table."""

    def caption(self, table: pl.DataFrame, options: Any) -> str:
        """Say what the figure shows, and over how many images or pairs."""


KINDS: Final = Plugins[Figure]("figure kind", "reprscope.figures.kinds")
available = KINDS.names
load = KINDS.get
