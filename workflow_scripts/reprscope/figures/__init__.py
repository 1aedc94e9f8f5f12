"""Figures: one module per kind, each a table in and an Altair chart out.

A kind is a module of this package with ``Options`` (a frozen dataclass of its settings),
``needs(options)``, ``draw(table, options, theme)`` and ``caption(table, options)``. To add one, add
a file.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol, cast

import altair as alt
import polars as pl

from reprscope.errors import UserError, perhaps
from reprscope.figures.theme import Theme

SUPPORT = frozenset({"frames", "maps", "render", "repeated", "theme"})


class Figure(Protocol):
    """What a module of a figure kind provides."""

    Options: type[Any]

    def needs(self, options: Any, /) -> Sequence[str]:
        """Columns of a table without which the figure cannot be drawn."""

    def draw(self, table: pl.DataFrame, options: Any, theme: Theme) -> alt.TopLevelMixin:
        """Draw the rows of a table."""

    def caption(self, table: pl.DataFrame, options: Any) -> str:
        """Say what the figure shows, and over how many images or pairs."""


def kinds() -> list[str]:
    """Names of all kinds of figures."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in SUPPORT)


def load(kind: str) -> Figure:
    """Return the module of one kind of figure.

    Raises
    ------
    UserError
        If there is no such kind; lists those that exist.
    """
    if kind not in kinds():
        raise UserError(
            f"There is no figure kind {kind!r}: choose one of "
            f"{', '.join(kinds())}{perhaps(kind, kinds())}."
        )
    return cast(Figure, import_module(f"{__name__}.{kind}"))
