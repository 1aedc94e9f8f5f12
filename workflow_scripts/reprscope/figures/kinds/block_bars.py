"""One value per block: bars along the network, one colour per model (the shape of table 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import altair as alt
import polars as pl

from reprscope.figures import frames
from reprscope.figures.repeated import intervals
from reprscope.figures.theme import Theme
from reprscope.models.labels import block_label, in_network_order, named, words


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the bars show.

    Parameters
    ----------
    metric : str
        Column drawn as bars.
    low, high : str
        Columns with the ends of the interval; none is drawn if the table lacks them.
    reference : str
        Column drawn as a dashed rule, one value per panel; none if the table lacks it.
    filter : mapping of column to value or list of values
        Rows to draw. Columns it leaves open are filtered to the test split, alpha 0.1 and the
        mean over points, where the table has them.
    series : str
        Column that gives the colour.
    panel : str
        Column that gives the panels, one below the other.
    percent : bool
        Print fractions as percentages.
    title, y_title : str
        Title of the figure; title of the vertical axis, by default the metric's name.
    height : int
        Height of a panel in pixels.
    """

    metric: str = "accuracy"
    low: str = "low"
    high: str = "high"
    reference: str = "chance"
    filter: Mapping[str, Any] = field(default_factory=dict)
    series: str = "model"
    panel: str = "dataset"
    percent: bool = True
    title: str = ""
    y_title: str = ""
    height: int = 200


def needs(options: Options) -> list[str]:
    """Columns that the figure needs."""
    return [options.panel, options.series, "position", options.metric]


def _rows(table: pl.DataFrame, options: Options) -> pl.DataFrame:
    """The columns and rows the figure shows, blocks in network order."""
    wanted = needs(options)
    rows = frames.select(table, options.filter, wanted)
    frames.one_row_per(rows, [options.panel, options.series, "position"])
    extra = [options.low, options.high, options.reference, "images", "pairs", "points"]
    extra += frames.published_columns(rows, options.metric)
    order = in_network_order(rows["position"])
    rows = (
        rows.select(*dict.fromkeys([*wanted, *(c for c in extra if c in rows.columns)]))
        .with_columns(
            pl.col("position").replace_strict({p: block_label(p) for p in order}).alias("block"),
            pl.col("position").replace_strict({p: i for i, p in enumerate(order)}).alias("order"),
            best=pl.col(options.metric)
            == pl.col(options.metric).fill_nan(None).max().over(options.panel, options.series),
        )
        .with_columns(
            pl.col(options.metric)
            .map_elements(lambda value: _bare(value, options), return_dtype=pl.String)
            .alias("label")
        )
        .sort("order", maintain_order=True)
        .drop("position", "order")
    )
    rows = frames.without_unknown(rows, options.low, options.high)
    ends = [column for column in (options.high, options.metric) if column in rows.columns]
    return rows.with_columns(above=pl.coalesce(ends))


def draw(table: pl.DataFrame, options: Options, theme: Theme) -> alt.TopLevelMixin:
    """Draw the bars; the highest bar of every series, or several alike, carries its value.

    Open circles are published values, where the table has them
    (:func:`reprscope.published.beside`).

    Raises
    ------
    UserError
        If a column is missing, or several rows fall on one bar.
    """
    rows = _rows(table, options)
    names = frames.distinct(rows, options.series)
    panels = frames.distinct(rows, options.panel)
    pick = alt.selection_point(name="series", fields=[options.series], bind="legend")
    shown = [options.metric, options.high, *frames.published_columns(rows, options.metric)[:1]]
    top = max(rows[c].max() for c in shown if c in rows.columns)  # type: ignore[type-var]
    charts = [
        _panel(
            rows.filter(pl.col(options.panel) == panel),
            options=options,
            theme=theme,
            blocks=frames.distinct(rows, "block"),
            colours=theme.series_colours(names),
            top=float(top),  # type: ignore[arg-type]
            name=f"panel_{number}",
            heading=named(options.panel, panel) if len(panels) > 1 else "",
        )
        for number, panel in enumerate(panels)
    ]
    charts[0] = charts[0].add_params(pick)
    chart = alt.vconcat(*charts).resolve_scale(color="shared")
    return frames.finish(chart, theme, title=options.title)


def _panel(
    rows: pl.DataFrame,
    *,
    options: Options,
    theme: Theme,
    blocks: list[str],
    colours: dict[str, str],
    top: float,
    name: str,
    heading: str,
) -> alt.LayerChart:
    number = ".1%" if options.percent else ".3~g"
    names = list(colours)
    x = alt.X(
        "block:N",
        sort=blocks,
        title=None,
        scale=alt.Scale(paddingInner=0.22, paddingOuter=0.12),
        axis=alt.Axis(
            labelAngle=0 if len(blocks) <= 14 else -60,
            labelOverlap=False,
            ticks=False,
            labelPadding=6,
        ),
    )
    offset = alt.XOffset(
        f"{options.series}:N", sort=names, scale=alt.Scale(paddingInner=0.08, domain=names)
    )
    y = alt.Y(
        f"{options.metric}:Q",
        title=options.y_title or words(options.metric),
        scale=alt.Scale(domain=[min(0.0, float(rows[options.metric].min() or 0)), top * 1.1]),  # type: ignore[arg-type]
        axis=alt.Axis(format=".0%" if options.percent else "~g", tickCount=5),
    )
    base = alt.Chart(alt.InlineData(values=frames.records(rows)))
    interval = options.low in rows.columns and options.high in rows.columns
    tooltip = [
        alt.Tooltip("block:N"),
        alt.Tooltip(f"{options.series}:N"),
        alt.Tooltip(f"{options.metric}:Q", format=number, title=words(options.metric)),
    ]
    if interval:
        tooltip += [
            alt.Tooltip(f"{options.low}:Q", format=number, title="95 % from"),
            alt.Tooltip(f"{options.high}:Q", format=number, title="to"),
        ]
    tooltip += [
        alt.Tooltip(f"{column}:Q", format=",")
        for column in ("images", "pairs", "points")
        if column in rows.columns
    ]
    bars = base.mark_bar(cornerRadiusEnd=1.5).encode(
        x=x,
        xOffset=offset,
        y=y,
        color=alt.Color(
            f"{options.series}:N",
            sort=names,
            scale=alt.Scale(domain=names, range=list(colours.values())),
            legend=alt.Legend(title=None, orient="top", symbolType="square", symbolStrokeWidth=0)
            if len(names) > 1
            else None,
        ),
        opacity=alt.condition("series", alt.value(1.0), alt.value(0.18)),
        tooltip=tooltip,
    )
    layers: list[alt.Chart] = [bars]
    if interval:
        layers.append(
            base.mark_rule(color=theme.ink, strokeWidth=1, aria=False).encode(
                x=x,
                xOffset=offset,
                y=alt.Y(f"{options.low}:Q"),
                y2=alt.Y2(f"{options.high}:Q"),
                opacity=alt.condition("series", alt.value(0.85), alt.value(0.1)),
            )
        )
    layers += _published(base.encode(x=x, xOffset=offset), rows, options, theme, number)
    # Two values side by side have room; more are turned to stand over their own bars.
    clear = 4 if frames.published_columns(rows, options.metric) else 0
    place: dict[str, Any] = {"baseline": "bottom", "dy": -3 - clear}
    if len(names) > 2:
        place = {"angle": 270, "align": "left", "baseline": "middle", "dx": 4 + clear}
    layers += frames.haloed(
        base.transform_filter("datum.best").encode(
            x=x,
            xOffset=offset,
            y=alt.Y("above:Q"),
            text="label:N",
        ),
        fontWeight=600,
        fontSize=theme.font_size - 1,
        **place,
    )
    layers += _reference(rows, options, theme, number)
    layers[0] = layers[0].properties(name=f"{name}_bars")
    return alt.LayerChart(
        layer=layers,
        name=name,
        width=theme.width - 130,
        height=options.height,
        title=alt.Title(heading, frame="group") if heading else alt.Undefined,
    )


def _published(
    base: alt.Chart, rows: pl.DataFrame, options: Options, theme: Theme, number: str
) -> list[alt.Chart]:
    """Open circles at the published values."""
    columns = frames.published_columns(rows, options.metric)
    if not columns:
        return []
    value, place = columns
    circles = base.transform_filter(f"isValid(datum['{value}'])").mark_point(
        filled=True, fill="white", stroke=theme.ink, strokeWidth=1.2, size=34, aria=False
    )
    return [
        circles.encode(
            y=alt.Y(f"{value}:Q"),
            opacity=alt.condition("series", alt.value(0.9), alt.value(0.1)),
            tooltip=[
                alt.Tooltip("block:N"),
                alt.Tooltip(f"{options.series}:N"),
                alt.Tooltip(f"{value}:Q", title="published", format=number),
                alt.Tooltip(f"{place}:N", title="in"),
            ],
        )
    ]


def _reference(rows: pl.DataFrame, options: Options, theme: Theme, number: str) -> list[alt.Chart]:
    """The dashed rule with its value at the right end; nothing if there is no single value."""
    if options.reference not in rows.columns:
        return []
    values = rows[options.reference].drop_nulls().unique().to_list()
    if len(values) != 1:
        return []
    base = alt.Chart(alt.InlineData(values=[{"reference": values[0]}]))
    return [
        base.mark_rule(strokeDash=[5, 4], color=theme.ink, strokeWidth=1, opacity=0.75).encode(
            y="reference:Q",
            tooltip=[alt.Tooltip("reference:Q", title=words(options.reference), format=number)],
        ),
        base.transform_calculate(
            label=f"'{words(options.reference)} ' + format(datum.reference, '{number}')"
        )
        .mark_text(align="left", dx=5, color=theme.muted)
        .encode(x=alt.value(theme.width - 130), y="reference:Q", text="label:N"),
    ]


def caption(table: pl.DataFrame, options: Options) -> str:
    """Say what the bars show, over how many images, and which block is highest."""
    rows = _rows(table, options)
    chosen = frames.select(table, options.filter, [])
    what = options.y_title or words(options.metric)
    where = frames.conditions(chosen)
    over = ", ".join(
        filter(None, (frames.count(rows, noun, noun) for noun in ("images", "pairs", "points")))
    )
    text = f"{what[:1].upper()}{what[1:]} by block in network order"
    text += (f" ({where})" if where else "") + (f", over {over}" if over else "") + "."
    if options.low in rows.columns and options.high in rows.columns:
        text += intervals(table, "Error bars")
    if options.reference in rows.columns:
        text += f" The dashed rule is {words(options.reference)}."
    text += frames.published_note(rows, options.metric, "Open circles")
    best = rows.filter("best")
    panels = frames.distinct(rows, options.panel)
    text += " Highest: " + "; ".join(
        f"{highest[options.series][0]}"
        f"{f', {named(options.panel, panel)}:' if len(panels) > 1 else ''} "
        f"{' and '.join(highest['block'])} ({_print(highest[options.metric][0], options)})"
        for panel in panels
        for highest in best.filter(pl.col(options.panel) == panel).partition_by(
            options.series, maintain_order=True
        )
    )
    return text + "."


def _bare(value: float, options: Options) -> str:
    return f"{100 * value:.1f}" if options.percent else f"{value:.3g}"


def _print(value: float, options: Options) -> str:
    return _bare(value, options) + (" %" if options.percent else "")
