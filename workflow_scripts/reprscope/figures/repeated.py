"""One value with an interval from a table that repeats its rows, as under several noise seeds.

An interval over images says how far a value would move with other images under the same noise;
this one says how far it would move with other noise on the same images.
"""

from __future__ import annotations

import itertools
from typing import Any, Final

import polars as pl

from reprscope.figures import frames
from reprscope.models.labels import KEYS, block_label, words
from reprscope.runtime.errors import UserError

NOTE: Final = "intervals_over"
"""Column that says over what the intervals of a table are, such as ``5 noise seeds``."""

DEVIATION: Final = "deviation"
"""Column with the standard deviation of the repetitions."""

REACH: Final = "reach"
"""Column with half the mean width of their own intervals."""

LEFT_OUT: Final = "left_out"
"""Column with the number of things that are not there in all repetitions."""

_KEYS: Final = {*KEYS, "alpha", "threshold"}
_CHOSEN: Final = ("x", "series", "panel", "compare")
_COUNTS: Final = ("images", "pairs", "points", "tokens", "patches", "all_images")
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
        With ``metric``, ``low`` and ``high``, the columns of the value and its interval, and
        ``filter``, which chooses the rows.

    Returns
    -------
    A row for each thing that all values have, without ``column``: under other noise there may be
    no match at some distance. Every number with a fraction is the mean of its rows; ``low`` and
    ``high`` are the ends of the interval mean ± t(0.975, n - 1) s / √n, where n is the number of
    the repetitions that have a value and s their standard deviation (Student 1908). So are
    ``change_low`` and ``change_high`` of a column ``change``, and the like; other ends of intervals
    are left out. Counts are means, too, rounded. :data:`NOTE` says what was repeated,
    :data:`LEFT_OUT` how many things not all values have, :data:`DEVIATION` is s, and :data:`REACH`
    half the mean width of the rows' own intervals, null where they have none.

    Raises
    ------
    UserError
        If the figure has no interval, a column is missing, no row is chosen, there is one value
        alone, or several rows of one value stand for the same thing.
    """
    names = [getattr(options, name, "") for name in ("metric", "low", "high")]
    if not all(names):
        raise UserError(f"A figure of this kind has no interval: leave out `over: {column}`.")
    metric, low, high = names
    for name in (column, metric):
        if name not in table.columns:
            raise UserError(f"The figure needs a column {name!r}: correct `over` or the metric.")
    table = frames.select(table, options.filter, [])
    schema = table.schema
    chosen = {getattr(options, name, "") for name in _CHOSEN}
    measured = {name for name in table.columns if schema[name].is_float()} - _KEYS - chosen
    ends = {metric: (low, high)} | {
        name: (f"{name}_low", f"{name}_high")
        for name in sorted(measured - {metric})
        if {f"{name}_low", f"{name}_high"} <= measured
    }
    # The mean of ends of intervals is none, nor that of p values.
    unlike = ("_low", "_high", "_p", "_p_holm")
    dropped = {low, high, "gains_tried", *(name for name in measured if name.endswith(unlike))}
    dropped |= {n for n, kind in schema.items() if kind.is_nested() or kind == pl.Binary}
    counts = [name for name in _COUNTS if name in table.columns]
    means = sorted((measured | {metric}) - dropped)
    keys = [n for n in table.columns if n not in {*means, *dropped, *counts, column}]
    has_own = {low, high} <= set(table.columns)
    width = (pl.col(high) - pl.col(low) if has_own else pl.lit(None)).cast(pl.Float64)
    found = table.group_by(keys, maintain_order=True).agg(
        *(pl.col(name).cast(pl.Float64).mean() for name in means),
        *(pl.col(name).mean().round().cast(schema[name]) for name in counts),
        *(pl.col(name).cast(pl.Float64).std().alias(f"_spread_{name}") for name in ends),
        *(pl.col(name).count().alias(f"_known_{name}") for name in ends),
        (width / 2).mean().alias(REACH),
        _rows=pl.len(),
        _values=pl.col(column).n_unique(),
    )
    times = int(table[column].n_unique())
    several = found.filter(pl.col("_values") != pl.col("_rows"))
    whole = found.filter(pl.col("_values") == times)
    if times < 2 or len(several) or whole.is_empty():
        raise UserError(
            f"`over: {column}` needs every row once for each of at least two values of {column}, "
            f"and the table has {times}: give the experiment more, or choose with `filter`."
        )
    return whole.with_columns(
        *(
            (pl.col(name) + sign * _half(name)).alias(end)
            for name, both in ends.items()
            for sign, end in zip((-1, 1), both, strict=True)
        ),
        pl.col(f"_spread_{metric}").alias(DEVIATION),
        pl.lit(f"{times} {_NAMES.get(column, f'values of {column}')}").alias(NOTE),
        pl.lit(len(found) - len(whole)).alias(LEFT_OUT),
    ).select(
        *keys, *means, *counts, *itertools.chain(*ends.values()), DEVIATION, REACH, NOTE, LEFT_OUT
    )


def _half(name: str) -> pl.Expr:
    """Half the width of the t interval of a mean."""
    known = pl.col(f"_known_{name}")
    return pl.col(f"_spread_{name}") * known.map_batches(_factors, return_dtype=pl.Float64)


def _factors(counts: pl.Series) -> pl.Series:
    """t(0.975, n - 1) / √n; null for fewer than two values."""
    from scipy.special import stdtrit

    n = counts.cast(pl.Float64).clip(1)
    factors = pl.Series(stdtrit(n.to_numpy() - 1, 0.975) / n.to_numpy() ** 0.5)
    return factors.set(n < 2, None)


def intervals(table: pl.DataFrame, marks: str) -> str:
    """Sentence of a caption: what the marks of intervals show, such as ``Bands``."""
    if NOTE not in table.columns:
        return f" {marks} are 95 % intervals."
    text = f" Values are means over {table[NOTE][0]}; {marks.lower()} are their 95 % t intervals."
    left = table[LEFT_OUT][0]
    return text + f" {left} that not all of these have are left out." * bool(left)


def sentence(table: pl.DataFrame, options: Any) -> str:
    """Say how far a figure's metric moves from one to another, beside its own interval.

    Parameters
    ----------
    table : DataFrame
        As :func:`over` returns it.
    options : Options of a figure kind
        As for :func:`over`.
    """
    found = table.drop_nulls(DEVIATION)
    if "estimator" in found.columns:
        # Those without features see no noise.
        looking = found.filter(pl.col("estimator") == getattr(options, "estimator", "cosine"))
        found = looking if len(looking) else found
    # Where the values run along the horizontal axis there is no other title.
    title = getattr(options, "y_title", getattr(options, "x_title", ""))
    metric = title.partition(",")[0] or words(options.metric)
    if found.is_empty():
        return f"Nothing can be said of how {metric} moves with other noise: it has no values."
    print_ = _points if getattr(options, "percent", True) else "{:.2g}".format
    most = found.sort(DEVIATION, descending=True, maintain_order=True).row(0, named=True)
    middle = float(found[DEVIATION].median())  # type: ignore[arg-type]
    text = (
        f"Over {most[NOTE]}, {metric} has a standard deviation of {print_(middle)} in the median "
        f"of {len(found)} values and of {print_(most[DEVIATION])} at most"
    )
    if "position" in found.columns:
        when = f" at t = {most['timestep']}" if "timestep" in found.columns else ""
        text += f", in {block_label(most['position'])}{when}"
    reach = found[REACH].drop_nulls()
    if len(reach):
        items = "pairs" if "pairs" in found.columns else "images"
        half = float(reach.median())  # type: ignore[arg-type]
        text += f"; its interval over {items} reaches {print_(half)} to each side"
    return text + "."


def _points(share: float) -> str:
    return f"{100 * share:.1f} points"
