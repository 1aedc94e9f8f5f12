"""Choosing the rows of a table that a figure shows, and saying what they cover."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import polars as pl

from reprscope import published
from reprscope.figures.theme import Theme
from reprscope.models.labels import KEYS
from reprscope.runtime.errors import UserError

MANY = 17
"""Lines of more blocks would hide each other: their legend stands below, and bands are left out."""

# What a figure shows of columns that its filter leaves open: test numbers, in the thesis' form,
# but of pairs of different subjects.
USUAL = {"split": "test", "alpha": 0.1, "average": "point", "same": "exclude"}

_UNSAID = {("view", "identity"), ("protocol", "standard"), ("same", "exclude")}


def usual(table: pl.DataFrame, filters: Mapping[str, Any]) -> dict[str, Any]:
    """``filters`` with :data:`USUAL` for columns that it leaves open and that have the value."""
    return {
        column: value
        for column, value in USUAL.items()
        if column not in filters
        and column in table.columns
        and table.filter(_equals(table, column, value)).height
    } | dict(filters)


def select(table: pl.DataFrame, filters: Mapping[str, Any], columns: Sequence[str]) -> pl.DataFrame:
    """Rows whose columns have the given values.

    Parameters
    ----------
    filters : mapping of column to value or list of values
        Numbers match within 1e-9. Columns that it leaves open are filtered as :data:`USUAL` says.
    columns : sequence of str
        Further columns the figure needs.

    Raises
    ------
    UserError
        If a column is missing or no row is left; names the column and its values.
    """
    for column in (*filters, *columns):
        if column not in table.columns:
            raise UserError(
                f"The figure needs a column {column!r}, but the table has only "
                f"{', '.join(table.columns)}: correct the figure's options."
            )
    for column, wanted in usual(table, filters).items():
        values = wanted if isinstance(wanted, list | tuple) else [wanted]
        kept = table.filter(pl.any_horizontal(_equals(table, column, value) for value in values))
        if kept.is_empty():
            there = table[column].unique(maintain_order=True).to_list()[:8]
            raise UserError(
                f"No row is left for {column} = {wanted!r}: choose from {_listing(there)}."
            )
        table = kept
    if table.is_empty():
        raise UserError("The table has no rows: the figure's experiment measured nothing.")
    return table


def _equals(table: pl.DataFrame, column: str, value: Any) -> pl.Expr:
    if table.schema[column].is_float() and isinstance(value, int | float):
        return (pl.col(column) - value).abs() < 1e-9
    return pl.col(column) == pl.lit(value)


def one_row_per(table: pl.DataFrame, columns: Sequence[str]) -> None:
    """Check that the rows differ in ``columns``.

    Raises
    ------
    UserError
        If several rows share them; names the key columns in which those rows differ.
    """
    twice = table.filter(table.select(columns).is_duplicated())
    if twice.is_empty():
        return
    group = twice.join(twice.head(1).select(columns), on=list(columns), nulls_equal=True)
    differ = [c for c in table.columns if c not in columns and _count(group, c) > 1]
    chosen = [c for c in differ if c in KEYS or table.schema[c] == pl.String] or differ
    which = ", ".join(chosen[:4]) or "nothing"
    raise UserError(
        f"Several rows fall on one mark of the figure; they differ in {which}: choose one value "
        "with the figure's `filter`."
    )


def without_unknown(table: pl.DataFrame, *columns: str) -> pl.DataFrame:
    """``table`` without those of ``columns`` that have no value in any row.

    Tables leave the ends of intervals out where there are too few images for them.
    """
    unknown = [
        column
        for column in columns
        if column in table.columns and table[column].fill_nan(None).null_count() == len(table)
    ]
    return table.drop(unknown)


def _count(table: pl.DataFrame, column: str) -> int:
    return 2 if table.schema[column].is_nested() else table[column].n_unique()


def distinct(table: pl.DataFrame, column: str) -> list[Any]:
    """Values of a column in order of appearance, which is the study's order."""
    return table[column].unique(maintain_order=True).to_list()


def records(table: pl.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON-ready dictionaries; NaN and infinity become null."""
    return [
        {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        for row in table.iter_rows(named=True)
    ]


def conditions(table: pl.DataFrame, *, without: Sequence[str] = ()) -> str:
    """What all rows have in common: ``menagerie, test split, timestep 50, 128 px, seed 42``."""
    form = {
        "dataset": "{}",
        "split": "{} split",
        "timestep": "timestep {}",
        "resolution": "{} px",
        "seed": "seed {}",
        "view": "view {}",
        "protocol": "protocol {}",
        "alpha": "alpha {}",
        "average": "mean over {}",
        "same": "{}",
    }
    plural = {"point": "points", "pair": "pairs", "category": "categories"}
    plural |= {"only": "pairs of one subject", "all": "all pairs"}
    said = []
    for column, text in form.items():
        if column in without or column not in table.columns or table[column].n_unique() != 1:
            continue
        value = table[column][0]
        if value is None or (column, value) in _UNSAID:
            continue
        said.append(text.format(plural.get(value, value)))
    return ", ".join(said)


def count(table: pl.DataFrame, column: str, noun: str) -> str:
    """How many images, pairs, … a column of counts says: ``512 images``, ``96 to 512 images``."""
    if column not in table.columns:
        return ""
    numbers = table[column].drop_nulls()
    if numbers.is_empty():
        return ""
    low, high = int(numbers.min()), int(numbers.max())  # type: ignore[arg-type]
    many = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return f"{many} {noun}" if (low, high) != (1, 1) else f"1 {noun.removesuffix('s')}"


def published_columns(table: pl.DataFrame, metric: str) -> list[str]:
    """Columns with the published values of a metric and where they stand; none if all are null.

    See :func:`reprscope.published.beside`.
    """
    value = published.PREFIX + metric
    if value not in table.columns or table[value].is_null().all():
        return []
    return [value, value + published.FROM]


def published_circles(
    base: alt.Chart,
    rows: pl.DataFrame,
    metric: str,
    *,
    about: Sequence[alt.Tooltip],
    number: str,
    pick: str = "block",
    size: int = 54,
) -> list[alt.Chart]:
    """Open circles at the published values of lines.

    Parameters
    ----------
    base : Chart
        Of ``rows``, with the horizontal axis and the colour.
    about : sequence of Tooltip
        What tooltips say of a point beside its value and where it stands.
    number : str
        Format of the values.
    pick : str
        Name of the selection that singles out a line.
    size : int
        Area of a circle in square pixels.
    """
    columns = published_columns(rows, metric)
    if not columns:
        return []
    value, place = columns
    circles = base.transform_filter(f"isValid(datum['{value}'])").mark_point(
        filled=False, size=size, strokeWidth=1, aria=False
    )
    return [
        circles.encode(
            y=alt.Y(f"{value}:Q"),
            opacity=alt.condition(pick, alt.value(0.7), alt.value(0.08)),
            tooltip=[
                *about,
                alt.Tooltip(f"{value}:Q", title="published", format=number),
                alt.Tooltip(f"{place}:N", title="in"),
            ],
        )
    ]


def published_note(rows: pl.DataFrame, metric: str, marks: str) -> str:
    """Sentence of a caption on the marks of published values; empty if there are none."""
    columns = published_columns(rows, metric)
    if not columns:
        return ""
    places = rows.drop_nulls(columns)[columns[1]].unique().sort().to_list()
    return f" {marks}: published ({'; '.join(places)})."


def finish(chart: Any, theme: Theme, *, title: str) -> alt.TopLevelMixin:
    """Give a whole figure its title, if any, and the theme."""
    if title:
        chart = chart.properties(title=alt.Title(title))
    finished: alt.TopLevelMixin = chart.configure(**theme.config())
    return finished


def haloed(chart: alt.Chart, **text: Any) -> list[alt.Chart]:
    """Text with a white rim, legible across lines; ``text`` are properties of the mark."""
    rim: dict[str, Any] = {
        "stroke": "white",
        "strokeWidth": 3,
        "strokeJoin": "round",
        "opacity": 0.85,
    }
    return [chart.mark_text(aria=False, **rim, **text), chart.mark_text(**text)]


def heading(text: str, theme: Theme, *, width: float, **mark: Any) -> alt.Chart:
    """Text above the middle of a panel ``width`` pixels wide; ``mark`` are properties of the mark.

    A title would stand above the panel's axis, and so higher where a panel has labels at the top.
    """
    chart: alt.Chart = (
        alt.Chart(alt.InlineData(values=[{"heading": text}]))
        .mark_text(dy=-8, baseline="bottom", color=theme.ink, **mark)
        .encode(x=alt.value(width / 2), y=alt.value(0), text="heading:N")
    )
    return chart


def block_legend(blocks: Sequence[str], theme: Theme) -> alt.Legend:
    """Legend of blocks beside the panels; of many layers below them, line by line."""
    look: dict[str, Any] = {
        "title": "block",
        "symbolType": "stroke",
        "symbolOpacity": 1,
        "symbolLimit": 0,
    }
    if len(blocks) > MANY:
        look |= {"orient": "bottom", "direction": "horizontal", "columns": theme.width // 140}
    return alt.Legend(**look)


def _listing(values: Sequence[Any]) -> str:
    return ", ".join(str(value) for value in values)
