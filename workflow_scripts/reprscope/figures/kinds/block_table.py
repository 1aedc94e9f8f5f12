"""A heat-map table with printed numbers: blocks by models and datasets (the shape of table 2)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import altair as alt
import numpy as np
import polars as pl
from numpy.typing import NDArray

from reprscope.figures import frames
from reprscope.figures.theme import Theme
from reprscope.models.labels import block_label, in_network_order, words

ROW = 22
ROW_WITH_PUBLISHED = 32


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the table shows.

    Parameters
    ----------
    metric : str
        Column printed and coloured.
    filter : mapping of column to value or list of values
        Rows to draw. Columns it leaves open are filtered to the test split, alpha 0.1 and the
        mean over points, where the table has them.
    columns : str
        Column that gives the columns of the table.
    panel : str
        Column that gives the panels, side by side.
    percent : bool
        Print fractions as percentages, with one decimal.
    title, legend_title : str
        Title of the figure; title of the colour legend, by default the metric's name.
    """

    metric: str = "accuracy"
    filter: Mapping[str, Any] = field(default_factory=dict)
    columns: str = "model"
    panel: str = "dataset"
    percent: bool = True
    title: str = ""
    legend_title: str = ""


def needs(options: Options) -> list[str]:
    """Columns that the figure needs."""
    return [options.panel, options.columns, "position", options.metric]


def _rows(table: pl.DataFrame, options: Options) -> pl.DataFrame:
    wanted = needs(options)
    rows = frames.select(table, options.filter, wanted)
    frames.one_row_per(rows, wanted[:3])
    order = in_network_order(rows["position"])
    extra: list[str] = [c for c in ("images", "pairs", "points") if c in rows.columns]
    extra += frames.published_columns(rows, options.metric)
    return (
        rows.select(*dict.fromkeys([*wanted, *extra]))
        .with_columns(
            pl.col("position").replace_strict({p: block_label(p) for p in order}).alias("block"),
            pl.col("position").replace_strict({p: i for i, p in enumerate(order)}).alias("order"),
            best=pl.col(options.metric)
            == pl.col(options.metric).fill_nan(None).max().over(options.panel, options.columns),
        )
        .sort("order", maintain_order=True)
        .drop("position", "order")
    )


def draw(table: pl.DataFrame, options: Options, theme: Theme) -> alt.TopLevelMixin:
    """Draw the table; the highest value of every column is framed and bold.

    Small numbers are published values, where the table has them
    (:func:`reprscope.published.beside`).

    Raises
    ------
    UserError
        If a column is missing, or several rows fall on one cell.
    """
    rows = _rows(table, options)
    blocks, panels = frames.distinct(rows, "block"), frames.distinct(rows, options.panel)
    names = frames.distinct(rows, options.columns)
    low, high = float(rows[options.metric].min()), float(rows[options.metric].max())  # type: ignore[arg-type]
    stops = np.linspace(low, high if high > low else low + 1, len(theme.sequence()))
    width = max(56, (theme.width - 90) // (len(panels) * len(names)) - 6)
    columns = max(min(width, 118), 7 * max(len(str(n)) for n in names) + 8) * len(names)
    published = frames.published_columns(rows, options.metric)
    place: dict[str, Any] = {"dy": -6} if published else {}
    charts = []
    for number, panel in enumerate(panels):
        here = rows.filter(pl.col(options.panel) == panel)
        values = here[options.metric]
        here = here.with_columns(
            dark=_is_dark(theme.map_colours(values.fill_null(low), low, high)),
            label=pl.Series([_print(value, options) for value in values], dtype=pl.String),
            published=pl.Series(
                [_print(value, options) for value in here[published[0]]]
                if published
                else [None] * len(here),
                dtype=pl.String,
            ),
        )
        base = alt.Chart(alt.InlineData(values=frames.records(here))).encode(
            x=alt.X(
                f"{options.columns}:N",
                sort=names,
                title=None,
                axis=alt.Axis(orient="top", labelAngle=0, domain=False, ticks=False),
            ),
            y=alt.Y(
                "block:N",
                sort=blocks,
                title=None,
                axis=alt.Axis(labels=number == 0, labelPadding=8, grid=False),
            ),
        )
        cells = base.mark_rect(stroke="white", strokeWidth=1.5).encode(
            color=alt.Color(
                f"{options.metric}:Q",
                scale=alt.Scale(domain=stops.tolist(), range=theme.sequence()),
                legend=alt.Legend(
                    title=options.legend_title or words(options.metric),
                    format=".0%" if options.percent else "~g",
                    orient="bottom",
                    direction="horizontal",
                    gradientLength=200,
                    gradientThickness=9,
                    tickCount=5,
                ),
            ),
            tooltip=[
                alt.Tooltip(f"{options.panel}:N"),
                alt.Tooltip(f"{options.columns}:N"),
                alt.Tooltip("block:N"),
                alt.Tooltip(f"{options.metric}:Q", format=".2%" if options.percent else ".4~g"),
                *(
                    [alt.Tooltip("published:N"), alt.Tooltip(f"{published[1]}:N", title="in")]
                    if published
                    else []
                ),
                *(
                    alt.Tooltip(f"{column}:Q", format=",")
                    for column in ("images", "pairs", "points")
                    if column in rows.columns
                ),
            ],
        )
        best = base.transform_filter("datum.best")
        charts.append(
            alt.LayerChart(
                layer=[
                    cells,
                    best.mark_rect(fill=None, stroke=theme.ink, strokeWidth=2, aria=False),
                    base.transform_filter("!datum.best")
                    .mark_text(**place)
                    .encode(text="label:N", color=_contrast(theme)),
                    best.mark_text(fontWeight=700, **place).encode(
                        text="label:N", color=_contrast(theme)
                    ),
                    *(
                        [
                            base.mark_text(
                                dy=7, fontSize=theme.font_size - 2, opacity=0.8, aria=False
                            ).encode(text="published:N", color=_contrast(theme))
                        ]
                        if published
                        else []
                    ),
                ],
                width=columns,
                height=(ROW_WITH_PUBLISHED if published else ROW) * len(blocks),
                title=alt.Title(str(panel), anchor="middle", fontSize=theme.font_size + 1),
            )
        )
    return frames.finish(alt.hconcat(*charts, spacing=14), theme, title=options.title)


def _contrast(theme: Theme) -> Any:
    return alt.condition("datum.dark", alt.value("white"), alt.value(theme.ink))


def _is_dark(rgb: NDArray[np.uint8]) -> pl.Series:
    """Whether white text is easier to read than dark text on each colour."""
    return pl.Series(rgb @ np.array([0.299, 0.587, 0.114]) < 125)


def caption(table: pl.DataFrame, options: Options) -> str:
    """Say what the numbers are, over how many images or pairs."""
    rows = _rows(table, options)
    where = frames.conditions(frames.select(table, options.filter, []))
    over = ", ".join(
        filter(None, (frames.count(rows, noun, noun) for noun in ("images", "pairs", "points")))
    )
    what = options.legend_title or words(options.metric)
    return (
        f"{what[:1].upper()}{what[1:]}{' in percent' if options.percent else ''} by block "
        f"(network order, top to bottom) and {words(options.columns)}"
        f"{f' ({where})' if where else ''}{f', over {over}' if over else ''}. The highest "
        "value of every column is framed."
        + frames.published_note(rows, options.metric, "Small numbers")
    )


def _print(value: float | None, options: Options) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return f"{100 * value:.1f}" if options.percent else f"{value:.3g}"
