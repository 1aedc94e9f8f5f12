"""A table with printed numbers: categories or other parts of the pairs by blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import altair as alt
import numpy as np
import polars as pl

from reprscope.figures import frames
from reprscope.figures.theme import Theme
from reprscope.models.labels import block_label, in_network_order, named, words

ROW: Final = 20
EVERY: Final = "all"
CHARACTER: Final = 6.4


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the table shows.

    Parameters
    ----------
    metric : str
        Column printed and coloured: a share.
    low, high : str
        Columns with the ends of its interval, for the tooltips.
    by : sequence of str
        Values of the column ``by`` to draw, one table of rows below the other; all by default.
    estimator : str
        Value of ``estimator`` whose blocks are the columns.
    baselines : sequence of str
        Values of ``estimator`` that are columns as well.
    filter : mapping of column to value or list of values
        Rows to draw. Columns it leaves open are filtered to the test split, alpha 0.1 and the
        mean over points, where the table has them.
    panel : str
        Column that gives the panels, one below the other.
    title, legend_title : str
        Title of the figure; title of the colour legend, by default the metric's name.
    """

    metric: str = "pck"
    low: str = "low"
    high: str = "high"
    by: Sequence[str] = ()
    estimator: str = "cosine"
    baselines: Sequence[str] = ("same_place_in_box", "same_place_in_square")
    filter: Mapping[str, Any] = field(default_factory=dict)
    panel: str = "model"
    title: str = ""
    legend_title: str = ""


def needs(options: Options) -> list[str]:
    """Columns that the figure needs."""
    return [options.panel, "position", "estimator", "by", "value", "pairs", options.metric]


def _rows(table: pl.DataFrame, options: Options) -> pl.DataFrame:
    """Cells: ``row`` and ``column``, their texts; blocks in network order, then baselines."""
    wanted = needs(options)
    rows = frames.select(table, options.filter, wanted)
    if options.by:
        rows = frames.select(rows, {"by": list(options.by)}, [])
    blocks = frames.select(rows, {"estimator": options.estimator}, [])
    frames.one_row_per(blocks, [options.panel, "position", "by", "value"])
    order = in_network_order(blocks["position"])
    label = {position: block_label(position) for position in order}
    blocks = blocks.with_columns(column=pl.col("position").replace_strict(label))
    ranks = {name: number for number, name in enumerate(label.values())}
    others = [rows.filter(estimator=name) for name in options.baselines]
    parts = [blocks.with_columns(rank=pl.col("column").replace_strict(ranks))]
    for number, part in enumerate(others):
        if part.is_empty():
            continue
        # They see no features, so that they are the same in every block.
        one = part.unique([options.panel, "by", "value"], keep="first", maintain_order=True)
        title = words(one["estimator"][0])
        parts.append(
            one.with_columns(column=pl.lit(title), rank=pl.lit(len(ranks) + number, pl.Int64))
        )
    extra = [c for c in (options.low, options.high, "points", "images") if c in rows.columns]
    several = rows["by"].n_unique() > 1
    prefix = pl.format("{}: ", "by") if several else pl.lit("")
    return (
        pl.concat([part.select(*wanted, *extra, "column", "rank") for part in parts])
        .filter(~(pl.lit(several) & (pl.col("value") == EVERY) & (pl.col("by") != rows["by"][0])))
        .with_columns(
            row=pl.when(pl.col("value") == EVERY)
            .then(pl.lit("all pairs"))
            .otherwise(pl.concat_str(prefix, "value"))
        )
        .sort("rank", maintain_order=True)
    )


def draw(table: pl.DataFrame, options: Options, theme: Theme) -> alt.TopLevelMixin:
    """Draw the table; the highest value of the blocks in every row is framed.

    Raises
    ------
    UserError
        If a column is missing, or several rows fall on one cell.
    """
    rows = _rows(table, options)
    columns = frames.distinct(rows, "column")
    # All pairs stand below their parts.
    names = [name for name in frames.distinct(rows, "row") if name != "all pairs"] + ["all pairs"]
    finite = rows[options.metric].drop_nulls()
    low, high = float(finite.min()), float(finite.max())  # type: ignore[arg-type]
    stops = np.linspace(low, high if high > low else low + 1, len(theme.sequence()))
    panels = frames.distinct(rows, options.panel)
    label_width = int(CHARACTER * max(len(name) for name in names)) + 12
    # The last column's slanted name reaches beyond it.
    beyond = int(CHARACTER * len(columns[-1]) * 0.7)
    width = min(64, (theme.width - label_width - beyond) // len(columns)) * len(columns)
    charts = []
    for panel in panels:
        here = rows.filter(pl.col(options.panel) == panel)
        of_blocks = pl.col("estimator") == options.estimator
        best = pl.col(options.metric).filter(of_blocks).max().over("row")
        here = here.with_columns(
            dark=_dark(theme, here[options.metric].fill_null(low), low, high),
            label=pl.Series(
                ["–" if v is None else f"{100 * v:.1f}" for v in here[options.metric]],
                dtype=pl.String,
            ),
            best=(of_blocks & (pl.col(options.metric) == best)).fill_null(False),
        )
        kept = ["row", "column", "label", "dark", "best", "pairs", options.metric]
        kept += [c for c in (options.low, options.high, "images", "points") if c in here.columns]
        charts.append(
            _panel(here.select(kept), names, columns, stops.tolist(), options, theme).properties(
                width=width,
                height=ROW * len(names),
                title=alt.Title(
                    named(options.panel, panel), anchor="middle", fontSize=theme.font_size + 1
                ),
            )
        )
    return frames.finish(alt.vconcat(*charts, spacing=16), theme, title=options.title)


def _panel(
    rows: pl.DataFrame,
    names: Sequence[str],
    columns: Sequence[str],
    stops: Sequence[float],
    options: Options,
    theme: Theme,
) -> alt.LayerChart:
    base = alt.Chart(alt.InlineData(values=frames.records(rows))).encode(
        x=alt.X(
            "column:N",
            sort=list(columns),
            title=None,
            axis=alt.Axis(
                orient="top", labelAngle=-35, domain=False, ticks=False, labelLimit=0, grid=False
            ),
        ),
        y=alt.Y("row:N", sort=list(names), title=None, axis=alt.Axis(labelPadding=8, grid=False)),
    )
    tooltip = [
        alt.Tooltip("row:N"),
        alt.Tooltip("column:N"),
        alt.Tooltip(f"{options.metric}:Q", format=".1%", title=words(options.metric)),
    ]
    if options.low in rows.columns and options.high in rows.columns:
        tooltip += [
            alt.Tooltip(f"{options.low}:Q", format=".1%", title="95 % from"),
            alt.Tooltip(f"{options.high}:Q", format=".1%", title="to"),
        ]
    tooltip += [
        alt.Tooltip(f"{one}:Q", format=",")
        for one in ("pairs", "points", "images")
        if one in rows.columns
    ]
    cells = base.mark_rect(stroke="white", strokeWidth=1.5).encode(
        color=alt.Color(
            f"{options.metric}:Q",
            scale=alt.Scale(domain=list(stops), range=theme.sequence()),
            legend=alt.Legend(
                title=options.legend_title or words(options.metric),
                format=".0%",
                orient="bottom",
                direction="horizontal",
                gradientLength=200,
                gradientThickness=9,
                tickCount=5,
            ),
        ),
        tooltip=tooltip,
    )
    contrast = alt.condition("datum.dark", alt.value("white"), alt.value(theme.ink))
    framed = base.transform_filter("datum.best")
    return alt.LayerChart(
        layer=[
            cells,
            framed.mark_rect(fill=None, stroke=theme.ink, strokeWidth=2, aria=False),
            base.transform_filter("!datum.best")
            .mark_text(fontSize=theme.font_size - 1)
            .encode(text="label:N", color=contrast),
            framed.mark_text(fontSize=theme.font_size - 1, fontWeight=700).encode(
                text="label:N", color=contrast
            ),
        ]
    )


def _dark(theme: Theme, values: pl.Series, low: float, high: float) -> pl.Series:
    """Whether white text is easier to read than dark text on each colour."""
    return pl.Series(theme.map_colours(values, low, high) @ np.array([0.299, 0.587, 0.114]) < 125)


def caption(table: pl.DataFrame, options: Options) -> str:
    """Say what the numbers are, and how many pairs each part has."""
    rows = _rows(table, options)
    where = frames.conditions(frames.select(table, options.filter, []))
    what = options.legend_title or words(options.metric)
    by = [words(name) for name in frames.distinct(rows, "by")]
    parts = rows.filter(pl.col("value") != EVERY)
    return (
        f"{what[:1].upper()}{what[1:]} in percent by {', '.join(by)} and block"
        f"{f' ({where})' if where else ''}; each part has "
        f"{frames.count(parts, 'pairs', 'pairs')}. The highest block of every row is framed, "
        "which describes these pairs. Columns at the right see no features."
    )
