"""How a score changes from an undegraded view to its degradations, on the same items.

The change is a ratio of two means over the same items, minus 1; its interval follows from the delta
method, in which an item's share in the error is (after - ratio * before) / mean(before). What
"keeps least" claims is that the change differs from that of every other position: it has the
largest of the p values of these differences (an intersection-union test, Berger 1982), so that
choosing the lowest of many cannot make it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import polars as pl

from reprscope.measures.statistics import SIGNIFICANT, Estimate, holm
from reprscope.models.labels import KEYS, block_label
from reprscope.models.positions import blocks
from reprscope.representations.degradations import starts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float64]

CHANGE: Final = ("change", "change_low", "change_high")
APART: Final = "change_apart_p"
"""p value of the lowest and of the highest change, see :func:`apart`."""

Mean = Callable[[Mapping[str, Any], "Float"], Estimate]
"""Mean over items of (items, columns) values; the row says of which items they are."""


def with_changes(
    table: pl.DataFrame,
    scores: pl.DataFrame,
    above: pl.DataFrame,
    *,
    values: str,
    alike: str,
    further: tuple[str, ...],
    mean: Mean,
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
        Columns, beside :data:`reprscope.models.labels.KEYS`, that tell rows apart.
    mean : callable
        From a row of ``scores`` and (items, columns) values of its items, their mean with the
        error that the items' dependence gives it.

    Returns ------- The table with ``change``, the score relative to that of the view from which a
    degradation starts (:func:`reprscope.representations.degradations.start_of`), minus 1, at least
    -1; ``change_low`` and ``change_high``, its 95 % interval; ``change_apart_p``, see
    :func:`apart`, among the positions that were measured under the same conditions. Null in rows
    without such a view, and in those of that view itself.
    """
    keys = [key for key in (*KEYS, *further) if key in table.columns and key != "view"]
    start = starts(table["view"].unique(maintain_order=True).to_list())
    both = scores.with_columns(start=pl.col("view").replace_strict(start, return_dtype=pl.String))
    both = (
        both.filter(pl.col("start") != pl.col("view"))
        .join(
            above.select(*keys, start="view", undegraded=values, shown=alike),
            on=[*keys, "start"],
            maintain_order="left",
        )
        .filter(pl.col("shown") == pl.col(alike))
    )
    columns = [*keys, "view"]
    added = [*CHANGE, APART]
    parts = [
        table.select(columns)
        .clear()
        .with_columns(pl.lit(None, pl.Float64()).alias(c) for c in added)
    ]
    together = [key for key in columns if key != "position"]
    for rows in both.partition_by(*together, maintain_order=True):
        after, before = (np.array(rows[name].to_list(), float).T for name in (values, "undegraded"))
        own = partial(mean, rows.row(0, named=True))
        found, shares = change(after, before, own)
        p = apart(found.value, shares, own)
        value, low, high = found.interval()
        # Nothing can lose more than it has.
        numbers = dict(zip(added, (value, np.maximum(low, -1), high, p), strict=True))
        new = {name: pl.Series(one, nan_to_null=True) for name, one in numbers.items()}
        parts.append(rows.select(columns).with_columns(**new))
    return table.join(pl.concat(parts), on=columns, how="left", maintain_order="left")


def change(
    after: Float, before: Float, mean: Callable[[Float], Estimate]
) -> tuple[Estimate, Float]:
    """Ratio of two means over the same items, minus 1, by the delta method.

    Parameters
    ----------
    after, before
        (items, columns); no mean of ``before`` is 0.
    mean
        Mean of such values over the items.

    Returns
    -------
    The change, (columns,), and each item's share in its error, (items, columns), whose mean is 0.
    """
    undegraded = mean(before).value
    ratio = mean(after).value / undegraded
    shares = (after - ratio * before) / undegraded
    spread = mean(shares)
    return Estimate(ratio - 1, spread.error, spread.freedom, spread.units), shares


def apart(value: Float, shares: Float, mean: Callable[[Float], Estimate]) -> Float:
    """Whether the lowest and the highest value differ from all others.

    Parameters
    ----------
    value
        (columns,) what is compared, on the same items.
    shares
        (items, columns) each item's share in the error of a value.
    mean
        Mean of such shares over the items.

    Returns
    -------
    (columns,) For the lowest and the highest value the largest of the two-sided p values of its
    differences to the other ones: small only if it differs from each of them. NaN for values in
    between, and where there is one value only or too few items for a test.
    """
    result = np.full(len(value), np.nan)
    for chosen in {int(np.argmin(value)), int(np.argmax(value))} if len(value) > 1 else ():
        others = np.arange(len(value)) != chosen
        spread = mean(shares[:, [chosen]] - shares[:, others])
        difference = value[chosen] - value[others]
        p = Estimate(difference, spread.error, spread.freedom, spread.units).p_value()
        result[chosen] = p.max()
    return result


class Losses(NamedTuple):
    """Rows that lose most and least in one degraded view, and of how many: ``11 blocks``."""

    most: dict[str, Any]
    least: dict[str, Any]
    tried: str
    two: bool

    def claims(self) -> list[float | None]:
        """P values of the claims that the first keeps least, and the second most."""
        return [self.most[APART], self.least[APART]]

    def told(self, noun: str, items: str, firm: Sequence[bool]) -> str:
        """In words.

        Parameters
        ----------
        noun : str
            What the score is called.
        items : str
            What it was measured on, such as ``pairs``.
        firm : sequence of bool
            Which of the two claims hold.
        """
        most, least = (block_label(row["position"]) for row in (self.most, self.least))
        much, little = _kept(self.most), _kept(self.least)
        of, tried = f"of its undegraded {noun}", f"of {self.tried} on these {items}"
        if self.two and any(firm):
            return f"{most} keeps less {of}, {much}, than {least}, {little}"
        if all(firm):
            return f"of {self.tried}, {most} keeps least {of}, {much}, and {least} most, {little}"
        if firm[0]:
            return f"{most} keeps least {of}, {much}; {least} {little}, the highest {tried}"
        if firm[1]:
            return f"{least} keeps most {of}, {little}; {most} {much}, the lowest {tried}"
        return f"{most} keeps {much} {of} and {least} {little}, the lowest and highest {tried}"


def losses(rows: pl.DataFrame) -> Losses | None:
    """Which position keeps least in a degraded view, and which most; None if no two are known.

    Parameters
    ----------
    rows
        Of one view under one condition, with ``position``, :data:`CHANGE` and :data:`APART`.
    """
    known = rows.filter(pl.col("change").is_not_null()).sort("change", maintain_order=True)
    if len(known) < 2:
        return None
    tried = counted(known["position"].to_list())
    return Losses(known.row(0, named=True), known.row(-1, named=True), tried, len(known) == 2)


def counted(positions: Sequence[str]) -> str:
    """How many there are of what, ``11 blocks``, or ``23 layers`` if some are inside blocks."""
    return f"{len(positions)} {'blocks' if blocks(positions) == list(positions) else 'layers'}"


def holding(claims: Sequence[float | None]) -> list[bool]:
    """Which of all claims that an experiment makes hold, by Holm's correction for their number.

    Parameters
    ----------
    claims
        Their p values; None for one that could not be tested, which does not hold.
    """
    adjusted = holm(np.array([np.nan if p is None else p for p in claims], float))
    return [bool(p < SIGNIFICANT) for p in adjusted]


def _kept(row: Mapping[str, Any]) -> str:
    """What is left of a score, with its interval: ``50 % [48, 52]``."""
    text = f"{100 * (1 + row['change']):.0f} %"
    if row["change_low"] is None or row["change_high"] is None:
        return text
    return f"{text} [{100 * (1 + row['change_low']):.0f}, {100 * (1 + row['change_high']):.0f}]"
