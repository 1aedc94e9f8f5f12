"""How a score changes from an undegraded view to its degradations, on the same items."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import polars as pl

from reprscope.degradations import starts
from reprscope.labels import KEYS, block_label
from reprscope.metrics import ratios

CHANGE: Final = ("change", "change_low", "change_high")


def with_changes(
    table: pl.DataFrame,
    scores: pl.DataFrame,
    above: pl.DataFrame,
    *,
    values: str,
    alike: str,
    further: tuple[str, ...],
    sampling: Callable[[Mapping[str, Any]], tuple[int, int]],
) -> pl.DataFrame:
    """Add to a table how its scores differ from those of the undegraded view.

    Parameters
    ----------
    table
        Of an experiment, with ``view``.
    scores
        Those of its rows that have a score.
    above
        Those of ``scores`` that something can be lost from.
    values : str
        Column of ``scores`` with lists: what each item adds to the score.
    alike : str
        Column in which a view agrees with the undegraded one if both show the same items.
    further : tuple of str
        Columns, beside :data:`reprscope.labels.KEYS`, that tell rows apart.
    sampling : callable
        For a row, number and seed of the bootstrap resamples; alike for all views and positions.

    Returns
    -------
    The table with ``change``, the score relative to that of the view from which a degradation
    starts (:func:`reprscope.degradations.start_of`), minus 1, ``change_low`` and ``change_high``,
    its 95 % bootstrap interval: items are resampled together with their undegraded selves. Null in
    rows without such a view.
    """
    keys = [key for key in (*KEYS, *further) if key in table.columns and key != "view"]
    start = starts(table["view"].unique(maintain_order=True).to_list())
    both = scores.with_columns(start=pl.col("view").replace_strict(start, return_dtype=pl.String))
    both = both.join(
        above.select(*keys, start="view", undegraded=values, shown=alike),
        on=[*keys, "start"],
        maintain_order="left",
    ).filter(pl.col("shown") == pl.col(alike))
    columns = [*keys, "view"]
    parts = [
        table.select(columns)
        .clear()
        .with_columns(pl.lit(None, pl.Float64()).alias(c) for c in CHANGE)
    ]
    together = [key for key in keys if key != "position"]
    for rows in both.partition_by(*together, "start", maintain_order=True):
        replicates, seed = sampling(rows.row(0, named=True))
        after, before = (np.array(rows[name].to_list()).T for name in (values, "undegraded"))
        found = ratios(after, before, replicates=replicates, seed=seed)
        changes = {name: pl.Series(one - 1) for name, one in zip(CHANGE, found, strict=True)}
        parts.append(rows.select(columns).with_columns(**changes))
    return table.join(pl.concat(parts), on=columns, how="left", maintain_order="left")


def losses(rows: pl.DataFrame, noun: str) -> str:
    """Which block loses most in a degraded view, and which least; empty if none is known to.

    Parameters
    ----------
    rows
        Of one view under one condition, with ``position`` and :data:`CHANGE`.
    noun : str
        What the score is called.
    """
    known = rows.filter(pl.col("change").is_not_null()).sort("change", maintain_order=True)
    # An undegraded view has no change from itself.
    if len(known) < 2 or not (known["change"] != 0).any():
        return ""
    most, least = known.row(0, named=True), known.row(-1, named=True)
    return (
        f"{block_label(most['position'])} loses {_lost(most)} of its undegraded {noun} and "
        f"{block_label(least['position'])} {_lost(least)}"
    )


def _lost(row: Mapping[str, Any]) -> str:
    """Loss with its interval: ``50 % [48, 52]``."""
    most, least = -100 * row["change_low"], -100 * row["change_high"]
    return f"{-100 * row['change']:.0f} % [{least:.0f}, {most:.0f}]"
