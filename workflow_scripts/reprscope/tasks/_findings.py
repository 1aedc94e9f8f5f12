"""What a table says in a sentence, and the rows that it rests on.

The best block is chosen on the validation split and reported on the test split: chosen on the
test split it would be too good by luck. Where validation is missing or small, a sentence describes
(:func:`superlative`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from reprscope.measures.statistics import FEWEST_TO_CHOOSE
from reprscope.models.labels import block_label, in_network_order
from reprscope.models.positions import blocks

CONDITION = ("task", "dataset", "view", "resolution", "prompt", "seed", "protocol")


@dataclass(frozen=True)
class Findings:
    """Sentences for the report, and the rows behind them."""

    sentences: Sequence[str]
    table: pl.DataFrame | None


def best(
    table: pl.DataFrame, metric: str, *, units: str = "images", lowest: bool = False
) -> pl.DataFrame:
    """Best position and timestep of every model and condition, with what chose it.

    With at least :data:`~reprscope.measures.statistics.FEWEST_TO_CHOOSE` validation units, the
    position and timestep that are best on them are reported on the test split. With fewer, the best
    of the test split is taken; its value is too good by luck, so that a sentence may describe it
    and conclude nothing. Where there is no test split, validation rows are described in its place.
    Of equal values the first in the network counts, then the lowest timestep.

    Parameters
    ----------
    table : frame
        With ``split``, ``model``, ``position``, ``timestep``, the columns of a condition,
        ``metric`` and ``units``; at most one row for each combination. Values that are missing or
        not finite in either split are no candidates.
    metric : str
        What is compared.
    units : str
        Column with the number of independent units of a row: ``images``, ``pairs``.
    lowest : bool
        Smaller is better, as for errors.

    Returns
    -------
    frame
        One row per model and condition, models in the order of the table, with
        ``chosen_from`` (number of candidates), ``chosen_on`` (validation units, 0 without any),
        ``tied`` (other candidates with the same value) and ``firm``: whether the choice was made
        on validation, or there was nothing to choose.

    Raises
    ------
    ValueError
        If several rows of a split fall on one position and timestep.
    """
    keys = ["model", *(column for column in CONDITION if column in table.columns)]
    chosen = [
        _chosen(part, metric, units, lowest=lowest)
        for part in table.partition_by(keys, maintain_order=True)
    ]
    order = {name: i for i, name in enumerate(table["model"].unique(maintain_order=True))}
    return pl.concat([_chosen(table.clear(), metric, units, lowest=lowest), *chosen]).sort(
        pl.col("model").replace_strict(order, return_dtype=pl.Int64), maintain_order=True
    )


def _chosen(part: pl.DataFrame, metric: str, units: str, *, lowest: bool) -> pl.DataFrame:
    """The row of :func:`best` for one model and condition; none if no value is finite."""
    place = ["position", "timestep"]
    rank = {name: i for i, name in enumerate(in_network_order(part["position"]))}
    ranked = part.filter(pl.col(metric).is_not_null() & pl.col(metric).is_finite()).sort(
        pl.col(metric) if lowest else -pl.col(metric),
        pl.col("position").replace_strict(list(rank), list(rank.values()), return_dtype=pl.Int64),
        "timestep",
        maintain_order=True,
    )
    if ranked.select("split", *place).is_duplicated().any():
        raise ValueError(f"several values of {metric} for one position and timestep of a split")
    validation, test = (ranked.filter(pl.col("split") == name) for name in ("validation", "test"))
    if test.is_empty():
        validation, test = test, validation
    candidates = validation.join(test, on=place, how="semi", maintain_order="left")
    chosen_on = candidates[units][0] if len(candidates) else 0
    chooses = chosen_on >= FEWEST_TO_CHOOSE
    if not chooses:
        candidates = test
    tied = (candidates[metric] == candidates[metric][0]).sum() - 1 if len(candidates) else 0
    return test.join(candidates.head(1).select(place), on=place, how="semi").with_columns(
        chosen_from=pl.lit(len(candidates), pl.Int32),
        chosen_on=pl.lit(chosen_on, pl.Int32),
        tied=pl.lit(tied, pl.Int32),
        firm=pl.lit(chooses or len(candidates) == 1),
    )


def superlative(
    row: Mapping[str, Any],
    subject: str,
    metric: str,
    *,
    units: str = "images",
    of: str = "",
    lowest: bool = False,
    form: Callable[[float, float | None, float | None], str] | None = None,
) -> str:
    """Word a row of :func:`best` so that it concludes no more than the choice allows.

    Parameters
    ----------
    row : mapping
        A row of :func:`best`, with ``low`` and ``high``.
    subject : str
        What has the value, with its model, data and condition.
    metric, units, lowest
        As given to :func:`best`.
    of : str
        What a share is a share of, if not of the units: ``3,769 keypoints``.
    form
        Writes value, low and high, of which the last two may be missing; :func:`interval` by
        default.

    Returns
    -------
    str
        A clause without its full stop: ``PCK of a is best in up[1] at t = 50 (chosen on 200
        validation pairs from 66 candidates): 26.6 % [25.1, 28.2] of 3,769 keypoints on 600 test
        pairs``, or, if that was not chosen on validation, ``PCK of a is highest of 66 on these 600
        test pairs in up[1] at t = 50: 26.6 % of 3,769 keypoints``.
    """
    write = form or interval
    place = where(row["position"], row["timestep"])
    share = f" of {of}" if of else ""
    scored = _counted(row[units], row["split"], units)
    bounded = write(row[metric], row["low"], row["high"])
    if row["chosen_from"] == 1:
        return f"{subject} is {bounded}{share} in {place}, on {scored}"
    if row["firm"]:
        return (
            f"{subject} is best in {place} (chosen on {row['chosen_on']:,} validation {units} from "
            f"{row['chosen_from']} candidates): {bounded}{share} on {scored}"
        )
    alike = f", with {row['tied']} more at the same value" if row["tied"] else ""
    few = (
        f" ({_counted(row['chosen_on'], 'validation', units)}, too few to choose on)"
        if row["chosen_on"]
        else ""
    )
    these = "these" if row[units] > 1 else "this"
    return (
        f"{subject} is {'lowest' if lowest else 'highest'} of {row['chosen_from']} on {these} "
        f"{scored} in {place}{alike}: {write(row[metric], None, None)}{share}{few}"
    )


def _counted(number: int, split: str, units: str) -> str:
    """Units of a split with their number: ``1 test image``."""
    return f"{number:,} {split} {units.removesuffix('s') if number == 1 else units}"


def told_apart(table: pl.DataFrame) -> list[str]:
    """What a sentence on each row must add so that it says under which condition it holds.

    Parameters
    ----------
    table : frame
        Such as :func:`best` returns it.

    Returns
    -------
    One text for each row: those of its condition that differ between the rows, such as
    `` (protocol thesis, 512 px)``, or nothing. Datasets are left out, since sentences name them.
    """
    form = {"resolution": "{} px", "prompt": "prompt {}", "seed": "noise seed {}"}
    differ = [
        column
        for column in CONDITION
        if column != "dataset" and column in table.columns and table[column].n_unique() > 1
    ]
    texts = [
        ", ".join(form.get(c, c + " {}").format(row[c]) for c in differ)
        for row in table.iter_rows(named=True)
    ]
    return [f" ({text})" if text else "" for text in texts]


def of_blocks(table: pl.DataFrame) -> pl.DataFrame:
    """Rows of a table with a ``position`` that are blocks, not layers inside them."""
    return table.filter(pl.col("position").is_in(blocks(table["position"].to_list())))


def where(position: str, timestep: int) -> str:
    """A place in the network in words, such as ``up[2] at t = 50``."""
    return f"{block_label(position)} at t = {timestep}"


def interval(value: float, low: float | None = None, high: float | None = None) -> str:
    """A share with its interval as percentages: ``41.2 % [38.9, 43.6]``.

    Without bounds, which tables lack where units are too few, it is the share alone.
    """
    share = f"{100 * value:.1f} %"
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return share
    return f"{share} [{100 * low:.1f}, {100 * high:.1f}]"
