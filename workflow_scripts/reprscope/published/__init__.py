"""What the thesis and the paper report, and the same values beside those of a study.

The values are in ``values``: CSVs, and an index that says for each part of them where it stands and
what measures the same. :mod:`reprscope.plan.comparison` finds the parts that a study
measures again; this module reads values and sets them beside the rows of a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from reprscope.base.parameters import build
from reprscope.runtime.errors import UserError

VALUES = Path(__file__).parent / "values"
"""Folder with the published values."""

PREFIX = "published_"
"""Column ``published_pck`` of a figure's table holds the published values of ``pck``."""

FROM = "_from"
"""Column ``published_pck_from`` says where a row's published value stands."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A dataset's source or a task's kind, and what its settings must be to measure the same.

    Attributes
    ----------
    source, kind : str
        One of the two.
    settings : mapping
        Settings with another value than the default.
    free : sequence of str
        Settings that may have any value, because the compared values do not depend on them (or
        by less than the tolerance).
    """

    source: str = ""
    kind: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    free: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Published values that have one place in a document.

    Attributes
    ----------
    document : str
        ``thesis`` or ``paper``.
    item : str
        Figure or table in it.
    file : str
        CSV with a column ``value``; ``model`` is a name of the registry; ``tolerance``, if it has
        one, is each row's own; the other columns are keys.
    rows : mapping of column to value or list of values
        Rows of the CSV that this entry is about.
    dataset, task : mapping
        See :class:`Subject`; no task if none gives such values.
    protocol : str or None
        Protocol of the values; None if they do not depend on it.
    views : mapping of str to mapping
        Settings of the views under which they were measured: of those that the CSV's column
        ``view`` names, or of the one for all.
    metric : str
        Column of a table that holds the same quantity.
    keys : mapping of column to value
        Rows of a table that it is about, beside the columns of the CSV.
    tolerance, relative : float
        A value agrees with the published ``v`` if it differs by at most
        ``tolerance + relative * abs(v)``.
    tolerance_at : mapping of int to float
        Another ``tolerance`` from a timestep on, up to the next that is named.
    nothing : float or None
        Value without any effect, such as 1 for a ratio. A published value that lies within its
        tolerance of it cannot tell agreement from no effect, and counts as neither.
    precision : str or None
        Precision of the features behind the values; None if there are no features.
    study, experiment : str
        Study file (without ``.yaml``) and experiment of it that measure all of the rows; empty if
        none does.
    """

    document: str
    item: str
    file: str
    rows: Mapping[str, Any] = field(default_factory=dict)
    dataset: Mapping[str, Any]
    task: Mapping[str, Any] = field(default_factory=dict)
    protocol: str | None = "thesis"
    views: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"identity": {}})
    metric: str
    keys: Mapping[str, Any] = field(default_factory=dict)
    tolerance: float = 0.0
    relative: float = 0.0
    tolerance_at: Mapping[int, float] = field(default_factory=dict)
    nothing: float | None = None
    precision: str | None = "float16"
    study: str = ""
    experiment: str = ""

    @property
    def source(self) -> Subject:
        """The dataset."""
        return build(Subject, self.dataset, entry="dataset")

    @property
    def kind(self) -> Subject:
        """The task."""
        return build(Subject, self.task, entry="task")


@dataclass(frozen=True, kw_only=True)
class Match:
    """An entry of the index that an experiment measures again.

    Attributes
    ----------
    entry : str
        Its name in the index.
    names : mapping of column to names
        What the study calls the entry's task, dataset, prompt and protocol.
    models, views : mapping of str to sequence of str
        What the study calls each known model and each view.
    """

    entry: str
    names: Mapping[str, Sequence[str]]
    models: Mapping[str, Sequence[str]]
    views: Mapping[str, Sequence[str]]


@cache
def index(folder: Path = VALUES) -> Mapping[str, Entry]:
    """All entries of the index by name.

    Raises
    ------
    UserError
        If an entry has an unknown key or lacks one.
    """
    content = yaml.safe_load((folder / "index.yaml").read_text(encoding="utf-8"))
    return {name: build(Entry, values, entry=name) for name, values in content.items()}


def files(names: Sequence[str], folder: Path = VALUES) -> list[str]:
    """Files that hold the values of the named entries."""
    return [str(folder / file) for file in dict.fromkeys(index(folder)[n].file for n in names)]


def values(entry: Entry, folder: Path = VALUES) -> pl.DataFrame:
    """Published values of an entry.

    Returns
    -------
    Key columns, ``value`` and ``tolerance`` (float64); one row for each published number.

    Raises
    ------
    UserError
        If the CSV has no such rows.
    """
    rows = pl.read_csv(folder / entry.file)
    for column, wanted in entry.rows.items():
        rows = rows.filter(pl.col(column).is_in(wanted if isinstance(wanted, list) else [wanted]))
    if rows.is_empty():
        raise UserError(f"{folder / entry.file} has no rows with {dict(entry.rows)}.")
    if "tolerance" not in rows.columns:
        absolute = pl.lit(entry.tolerance)
        for first, tolerance in sorted(entry.tolerance_at.items()):
            late = pl.col("timestep") >= first
            absolute = pl.when(late).then(pl.lit(tolerance)).otherwise(absolute)
        rows = rows.with_columns(tolerance=absolute + entry.relative * pl.col("value").abs())
    apart = ("dataset", "metric", "value", "deviation", "images", "tolerance")
    keys = [c for c in rows.columns if c not in apart]
    fixed = [pl.lit(value).alias(name) for name, value in entry.keys.items()]
    return rows.select(*keys, *fixed, "value", "tolerance")


def renamed(rows: pl.DataFrame, match: Match) -> pl.DataFrame:
    """Published values of a study's models, under the study's names.

    Parameters
    ----------
    rows : frame
        Some of :func:`values`.
    match : Match

    Returns
    -------
    The rows of models that the study has, with its names in ``model``, and with ``task``,
    ``dataset``, ``view``, ``prompt`` and ``protocol`` as far as the values depend on them.
    """
    if "view" not in rows.columns:
        (view,) = match.views
        rows = rows.with_columns(view=pl.lit(view))
    for column, found in (("model", match.models), ("view", match.views)):
        if column in rows.columns:
            names = pl.DataFrame(
                [(known, name) for known, named in found.items() for name in named],
                schema={column: pl.String, "name": pl.String},
                orient="row",
            )
            rows = rows.join(names, on=column, maintain_order="left")
            rows = rows.with_columns(pl.col("name").alias(column)).drop("name")
    for column, named in match.names.items():
        rows = rows.join(pl.DataFrame({column: list(named)}), how="cross")
    return rows


def aligned(rows: pl.DataFrame, table: pl.DataFrame, entry: str) -> tuple[pl.DataFrame, list[str]]:
    """``rows`` with the types of a table's key columns, and the names of these columns.

    Raises
    ------
    UserError
        If the table lacks one of them.
    """
    keys = [c for c in rows.columns if c not in ("row", "value", "tolerance")]
    for key in keys:
        if key not in table.columns:
            raise UserError(
                f"Published values {entry} are told apart by {key}, which the table does not have: "
                "correct index.yaml beside it."
            )
    return rows.with_columns(pl.col(key).cast(table.schema[key]) for key in keys), keys


def beside(table: pl.DataFrame, matches: Sequence[Match], folder: Path = VALUES) -> pl.DataFrame:
    """Set the published values beside the rows of an experiment's table.

    Returns
    -------
    The table with a column ``published_{metric}`` for each metric that has values (null where
    none is known), and ``published_{metric}_from``, such as ``thesis, figure 7``. Where two entries
    have a row, the one that has more of the table's rows is taken, so that a line has one source.
    """
    entries = index(folder)
    found: list[tuple[int, Entry, pl.Series]] = []
    for match in matches:
        entry = entries[match.entry]
        rows, keys = aligned(renamed(values(entry, folder), match), table, match.entry)
        joined = table.select(keys).join(
            rows.select(*keys, "value"), on=keys, how="left", maintain_order="left"
        )
        found.append((joined["value"].count(), entry, joined["value"]))
    found.sort(key=lambda one: -one[0])
    for count, entry, series in found:
        if not count:
            continue
        column, place = PREFIX + entry.metric, f"{entry.document}, {entry.item}"
        columns = {column: series, column + FROM: pl.Series([place] * len(table))}
        if column not in table.columns:
            table = table.with_columns(
                pl.lit(None, new.dtype).alias(name) for name, new in columns.items()
            )
        taken = table[column].is_null() & series.is_not_null()
        table = table.with_columns(
            pl.when(taken).then(new).otherwise(name).alias(name) for name, new in columns.items()
        )
    return table
