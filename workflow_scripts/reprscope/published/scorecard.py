"""Every published number beside a study's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import polars as pl

from reprscope import published
from reprscope.base.provenance import canonical_json

PLACES: Final = ("model", "position", "timestep", "resolution")
SCHEMA: Final = {
    "document": pl.String,
    "item": pl.String,
    "dataset": pl.String,
    "metric": pl.String,
    "protocol": pl.String,
    "model": pl.String,
    "position": pl.String,
    "timestep": pl.Int64,
    "resolution": pl.Int64,
    "keys": pl.String,
    "published": pl.Float64,
    "tolerance": pl.Float64,
    "telling": pl.Boolean,
    "ours": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "difference": pl.Float64,
    "within": pl.Boolean,
    "experiment": pl.String,
}

Compared = tuple[str, pl.DataFrame, Sequence[published.Match]]


def scorecard(experiments: Sequence[Compared], folder: Path = published.VALUES) -> pl.DataFrame:
    """Table with a row for each published number.

    Parameters
    ----------
    experiments : sequence of (name, table, matches)
        What a study has measured again.
    folder : Path
        Of the published values.

    Returns
    -------
    Columns of :data:`SCHEMA`. ``dataset`` is the source, ``model`` the name in the registry, null
    where a value is of none; ``keys`` is canonical JSON of what else tells a value apart, such as
    the split. ``telling`` is false where the published number lies within its tolerance of what no
    effect would give, so that agreement says nothing. ``ours`` with its interval (null where there
    is none), ``difference`` (ours less published) and ``within`` (whether it is at most the
    tolerance; null where the number is not telling) are null where the study has not measured the
    number; ``experiment`` is then the one that would, as ``studies/thesis.yaml: figure-7`` (null if
    none does), otherwise the study's own. Of several experiments that have a number, the first is
    taken.
    """
    parts = [
        _entry(name, entry, experiments, folder) for name, entry in published.index(folder).items()
    ]
    return pl.concat(parts)


def _entry(
    name: str, entry: published.Entry, experiments: Sequence[Compared], folder: Path
) -> pl.DataFrame:
    rows = published.values(entry, folder).with_row_index("row")
    further = [c for c in rows.columns if c not in (*PLACES, "row", "value", "tolerance")]
    frame = rows.select(
        "row",
        *(_or_null(rows, place) for place in PLACES),
        published="value",
        tolerance="tolerance",
        keys=pl.Series(
            [canonical_json(row) for row in rows.select(further).iter_rows(named=True)],
            dtype=pl.String,
        ),
    )
    ours = [
        _ours(rows, match, entry, table).with_columns(experiment=pl.lit(experiment))
        for experiment, table, found in experiments
        for match in found
        if match.entry == name
    ]
    empty = pl.DataFrame(
        schema={"row": rows.schema["row"], **{c: SCHEMA[c] for c in (*_OURS, "experiment")}}
    )
    measured = pl.concat([empty, *ours]).unique("row", keep="first", maintain_order=True)
    frame = frame.join(measured, on="row", how="left", maintain_order="left")
    difference = pl.col("ours") - pl.col("published")
    nothing = pl.lit(entry.nothing, pl.Float64)
    telling = ((pl.col("published") - nothing).abs() > pl.col("tolerance")).fill_null(value=True)
    elsewhere = f"studies/{entry.study}.yaml: {entry.experiment}" if entry.experiment else None
    frame = frame.with_columns(
        pl.lit(entry.document).alias("document"),
        pl.lit(entry.item).alias("item"),
        pl.lit(entry.source.source).alias("dataset"),
        pl.lit(entry.metric).alias("metric"),
        pl.lit(entry.protocol, pl.String).alias("protocol"),
        telling=telling,
        difference=difference,
        # A difference of exactly the tolerance is within, whatever the last bit says.
        within=pl.when(telling).then(difference.abs() <= pl.col("tolerance") * (1 + 1e-9)),
        experiment=pl.col("experiment").fill_null(pl.lit(elsewhere, pl.String)),
    )
    return frame.select(pl.col(column).cast(kind) for column, kind in SCHEMA.items())


_OURS: Final = ("ours", "low", "high")


def _ours(
    rows: pl.DataFrame, match: published.Match, entry: published.Entry, table: pl.DataFrame
) -> pl.DataFrame:
    """Row numbers of the values that a table has, with what it has for them."""
    named, keys = published.aligned(published.renamed(rows, match), table, match.entry)
    found = named.join(table, on=keys, how="inner", maintain_order="left")
    return found.select(
        "row",
        pl.col(entry.metric).cast(pl.Float64).alias("ours"),
        *(_or_null(found, bound, pl.Float64) for bound in ("low", "high")),
    ).drop_nulls("ours")


def _or_null(frame: pl.DataFrame, column: str, kind: Any = None) -> pl.Expr:
    if column in frame.columns:
        return pl.col(column) if kind is None else pl.col(column).cast(kind)
    return pl.lit(None, kind or SCHEMA[column]).alias(column)


def summary(card: pl.DataFrame) -> pl.DataFrame:
    """One row for each figure or table: how many values, how many measured again, and how well.

    Numbers that nothing measures do not count.

    Returns
    -------
    ``document``, ``item``, ``metric``, ``values``, ``compared``, ``telling`` (of these, those that
    can disagree), ``within``, ``worst_difference`` (of the largest size, null if nothing is
    compared), ``missing_from`` (the experiments that would give the missing ones).
    """
    card = _measurable(card)
    size = pl.col("difference").abs()
    worst = pl.col("difference").sort_by(size, descending=True, nulls_last=True).first()
    return card.group_by("document", "item", "metric", maintain_order=True).agg(
        values=pl.len(),
        compared=pl.col("ours").count(),
        telling=pl.col("within").count(),
        within=pl.col("within").sum(),
        worst_difference=worst,
        missing_from=pl.col("experiment")
        .filter(pl.col("ours").is_null())
        .unique(maintain_order=True)
        .str.join(", "),
    )


def sentences(card: pl.DataFrame) -> list[str]:
    """What the scorecard says as a whole."""
    total, compared = len(_measurable(card)), card["ours"].count()
    text = f"The thesis and the paper report {total:,} numbers that an experiment measures again."
    within, telling = int(card["within"].sum()), card["within"].count()
    said = f"This study measures {compared:,} of them; "
    if telling < compared:
        said += (
            f"{compared - telling:,} are too close to what no effect would give to tell anything; "
            f"of the other {telling:,}, "
        )
    return [text, f"{said}{within:,} agree within the tolerance."]


def _measurable(card: pl.DataFrame) -> pl.DataFrame:
    """Rows of numbers that some experiment measures."""
    return card.filter(pl.col("experiment").is_not_null())
