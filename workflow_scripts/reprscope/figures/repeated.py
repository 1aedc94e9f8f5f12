"""One value with an interval from a table that repeats its rows, as under several noise seeds.

An interval over images says how far a value would move with other images under the same noise;
this one says how far it would move with other noise on the same images.
"""

from __future__ import annotations

from typing import Any, Final

import polars as pl

from reprscope.errors import UserError
from reprscope.figures.frames import KEYS

NOTE: Final = "intervals_over"
"""Column that says over what the intervals of a table are, such as ``5 noise seeds``."""

_KEYS: Final = {*KEYS, "alpha", "threshold"}
_NAMES: Final = {"seed": "noise seeds"}


def over(table: pl.DataFrame, column: str, options: Any) -> pl.DataFrame:
    """Mean of a figure's metric over the values of a column, with its 95 % t interval.

    Parameters
    ----------
    table : DataFrame
        Rows that differ in ``column`` alone stand for the same thing: all but their numbers agrees.
    column : str
        What is repeated, such as ``seed``.
    options : Options of a figure kind
        With ``metric``, ``low`` and ``high``, the columns of the value and its interval.

    Returns
    -------
    A row for each thing, without ``column``. Every number with a fraction is the mean of its rows;
    ``low`` and ``high`` are the ends of the interval mean ± t(0.975, n - 1) s / √n, where n is the
    number of the repetitions and s their standard deviation (Student 1908). Counts are those of
    the first. :data:`NOTE` says what was repeated.

    Raises
    ------
    UserError
        If the figure has no interval, or something was measured less than twice or not as often as
        the rest.
    """
    names = [getattr(options, name, "") for name in ("metric", "low", "high")]
    if not all(names):
        raise UserError(f"A figure of this kind has no interval: leave out `over: {column}`.")
    metric, low, high = names
    for name in (column, metric):
        if name not in table.columns:
            raise UserError(f"The figure needs a column {name!r}: correct `over` or the metric.")
    schema = table.schema
    measured = {name for name in table.columns if schema[name].is_float()} - _KEYS
    measured |= {metric, low, high}
    counts = [name for name in ("images", "pairs", "points") if name in table.columns]
    nested = [name for name in table.columns if schema[name].is_nested()]
    keys = [n for n in table.columns if n not in {*measured, *counts, *nested, column}]
    plain = sorted((measured & set(table.columns)) - {low, high})
    value = pl.col(metric).cast(pl.Float64)
    found = table.group_by(keys, maintain_order=True).agg(
        *(pl.col(name).cast(pl.Float64).mean() for name in plain),
        *(pl.col(name).first() for name in counts),
        _rows=pl.len(),
        _values=pl.col(column).n_unique(),
        _spread=value.std() / value.count().sqrt(),
    )
    times = int(table[column].n_unique())
    uneven = found.filter((pl.col("_values") != times) | (pl.col("_rows") != times))
    if times < 2 or len(uneven):
        raise UserError(
            f"`over: {column}` needs every row once for each of at least two values of {column}, "
            f"and the table has {times}: give the experiment more, or choose with `filter`."
        )
    reach = pl.col("_spread") * _quantile(times - 1)
    return found.with_columns(
        (pl.col(metric) - reach).alias(low),
        (pl.col(metric) + reach).alias(high),
        pl.lit(f"{times} {_NAMES.get(column, f'values of {column}')}").alias(NOTE),
    ).drop("_rows", "_values", "_spread")


def intervals(table: pl.DataFrame, marks: str) -> str:
    """Sentence of a caption: what the marks of intervals show, such as ``Bands``."""
    if NOTE not in table.columns:
        return f" {marks} are 95 % bootstrap intervals."
    return f" Values are means over {table[NOTE][0]}; {marks.lower()} are their 95 % t intervals."


def _quantile(freedom: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))
