"""Precision, recall and F1 of a search over its threshold (in place of figure 23's counts)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import altair as alt
import polars as pl

from reprscope.figures import frames
from reprscope.figures.theme import Theme
from reprscope.labels import block_label, named

SPACING: Final = 18
AXIS_WIDTH: Final = 52
LABEL_WIDTH: Final = 58
NOTHING: Final = "no anomalous token to find, and none found"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the lines show.

    Parameters
    ----------
    filter : mapping of column to value or list of values
        Rows to draw; without a split, those of the test split.
    panel : str
        Column that gives the panels.
    columns : int
        Panels side by side.
    title, x_title : str
        Title of the figure, and of the horizontal axis.
    height : int
        Height of a panel in pixels.
    """

    filter: Mapping[str, Any] = field(default_factory=dict)
    panel: str = "model"
    columns: int = 2
    title: str = ""
    x_title: str = "smallest cosine similarity to the prototype"
    height: int = 200


def _rows(table: pl.DataFrame, options: Options) -> pl.DataFrame:
    """Chosen rows, one for each panel, score and threshold."""
    wanted = [options.panel, "position", "threshold", "score", "value", "low", "high", "chosen"]
    rows = frames.select(table, options.filter, [*wanted, "tokens", "images", "patches"])
    frames.one_row_per(rows, [options.panel, "score", "threshold"])
    return rows.with_columns(pl.col("value", "low", "high").cast(float))


def draw(table: pl.DataFrame, options: Options, theme: Theme) -> alt.TopLevelMixin:
    """Draw the lines with their bands; a dashed rule stands at the chosen threshold.

    A panel without any score says so.

    Raises
    ------
    UserError
        If a column is missing, or several rows fall on one point.
    """
    rows = _rows(table, options)
    panels = frames.distinct(rows, options.panel)
    columns = max(1, min(options.columns, len(panels)))
    room = theme.width - AXIS_WIDTH - columns * LABEL_WIDTH - (columns - 1) * (SPACING + 26)
    width = min(440, room // columns)
    charts = [
        _panel(
            rows.filter(pl.col(options.panel) == panel),
            options=options,
            theme=theme,
            width=width,
            first=number % columns == 0,
            heading=named(options.panel, panel),
        )
        for number, panel in enumerate(panels)
    ]
    lines = [charts[i : i + columns] for i in range(0, len(charts), columns)]
    grid = [alt.hconcat(*line, spacing=SPACING) for line in lines]
    return frames.finish(alt.vconcat(*grid), theme, title=options.title)


def _panel(
    rows: pl.DataFrame, *, options: Options, theme: Theme, width: int, first: bool, heading: str
) -> alt.LayerChart:
    scores = frames.distinct(rows, "score")
    colours = theme.series_colours(scores)
    columns = ["threshold", "score", "value", "low", "high", "tokens"]
    base = alt.Chart(alt.InlineData(values=frames.records(rows.select(columns))))
    x = alt.X(
        "threshold:Q",
        title=options.x_title,
        scale=alt.Scale(zero=False, nice=False, padding=4),
        axis=alt.Axis(tickCount=6, format=".2~f"),
    )
    y = alt.Y(
        "value:Q",
        title="share of tokens" if first else None,
        scale=alt.Scale(domain=[0, 1], nice=False),
        axis=alt.Axis(format=".0%", tickCount=5, labels=first),
    )
    colour = alt.Color(
        "score:N", scale=alt.Scale(domain=scores, range=list(colours.values())), legend=None
    )
    layers: list[alt.Chart] = [
        base.mark_area(aria=False, opacity=0.14).encode(
            x=x, y=alt.Y("low:Q"), y2=alt.Y2("high:Q"), color=colour
        )
    ]
    chosen = rows.filter("chosen")["threshold"].unique().to_list()
    if chosen:
        mark = alt.Chart(alt.InlineData(values=[{"threshold": chosen[0]}]))
        layers.append(
            mark.mark_rule(strokeDash=[5, 4], color=theme.muted).encode(
                x="threshold:Q", tooltip=alt.Tooltip("threshold:Q", title="chosen")
            )
        )
    lines = base.encode(x=x, y=y, color=colour)
    layers.append(lines.mark_line(strokeWidth=1.8).encode(order=alt.Order("threshold:Q")))
    layers.append(
        lines.mark_point(filled=True, size=22, aria=False).encode(
            tooltip=[
                alt.Tooltip("score:N"),
                alt.Tooltip("threshold:Q"),
                alt.Tooltip("value:Q", format=".1%"),
                alt.Tooltip("low:Q", format=".1%", title="95 % from"),
                alt.Tooltip("high:Q", format=".1%", title="to"),
                alt.Tooltip("tokens:Q", format=",", title="tokens to be found"),
            ]
        )
    )
    ends = _ends(rows, gap=(theme.font_size + 2) / options.height)
    labels = alt.Chart(alt.InlineData(values=ends))
    layers.append(
        labels.mark_text(align="left", dx=6).encode(
            x=alt.value(width), y="at:Q", text="score:N", color=colour
        )
    )
    if not ends:
        nothing = alt.Chart(alt.InlineData(values=[{"text": NOTHING}]))
        layers.append(
            nothing.mark_text(color=theme.muted).encode(
                x=alt.value(width / 2), y=alt.value(options.height / 2), text="text:N"
            )
        )
    bold = {"fontSize": theme.font_size + 1, "fontWeight": 600}
    layers.append(frames.heading(heading, theme, width=width, **bold))
    return alt.LayerChart(layer=layers, width=width, height=options.height)


def _ends(rows: pl.DataFrame, *, gap: float) -> list[dict[str, Any]]:
    """Names of the lines, where they end, moved apart within the axis."""
    last = (
        rows.drop_nulls("value")
        .sort("threshold", maintain_order=True)
        .unique("score", keep="last", maintain_order=True)
        .sort("value", maintain_order=True)
    )
    ends: list[dict[str, Any]] = []
    for number, (score, value) in enumerate(last.select("score", "value").iter_rows()):
        lowest = ends[-1]["at"] + gap if ends else gap / 2
        highest = 1 - gap / 2 - (len(last) - 1 - number) * gap
        ends.append({"score": score, "at": min(max(value, lowest), highest)})
    return ends


def caption(table: pl.DataFrame, options: Options) -> str:
    """Say what the lines show, how much there is to be found, and the chosen thresholds."""
    rows = _rows(table, options)
    where = frames.conditions(frames.select(table, options.filter, []))
    text = "Precision, recall and F1 of the search for anomalous tokens by their cosine similarity "
    text += "to a prototype" + (f" ({where})" if where else "") + ". "
    text += "Bands are 95 % bootstrap intervals."
    parts = []
    for panel in frames.distinct(rows, options.panel):
        own = rows.filter(pl.col(options.panel) == panel)
        row = own.row(0, named=True)
        said = (
            f"{panel}, {block_label(row['position'])}: {row['tokens']:,} anomalous tokens in "
            f"{frames.count(own, 'images', 'images')}, prototype of {row['patches']:,} patches"
        )
        chosen = own.filter("chosen").drop_nulls("value")
        values = [f"{one} {100 * v:.1f} %" for one, v in chosen.select("score", "value").rows()]
        if values:
            said += f", dashed at the chosen threshold {chosen['threshold'][0]:g} "
            said += f"({', '.join(values)})"
        parts.append(said)
    return f"{text} {'; '.join(parts)}."
