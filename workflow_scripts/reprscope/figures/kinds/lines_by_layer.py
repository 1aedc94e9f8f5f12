"""One value over all layers in network order (the shape of figure 11 and of the paper's figures).

Every position stands on the axis with a short label; blocks are told apart by shading, by a strip
in the block palette and by their names. Lines are series, such as models, token groups or grids.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final

import altair as alt
import numpy as np
import polars as pl

from reprscope.figures import frames
from reprscope.figures.repeated import intervals
from reprscope.figures.theme import Theme, spread
from reprscope.models.labels import block_label, block_of, in_network_order, named, words
from reprscope.runtime.errors import UserError

DIRECT: Final = 5
"""Up to this number of series each has its name at the end of its line; more have a legend."""

_SAID: Final = 6
"""Up to this number of lines the caption says from where to where each goes."""

NOTHING: Final = "no value to draw"

_AXIS_WIDTH: Final = 58
_STRIP: Final = 5
_CHARACTER: Final = 0.54
"""Mean width of a character, as a share of the font size."""

_COUNTS: Final = ("images", "pairs", "points", "tokens")
_PARTS: Final = {"downsample": "down", "upsample": "up"}
_STEPS: Final = (
    (1.0,),
    (1.0, 2.0, 5.0),
    (1.0, 1.5, 2.0, 3.0, 5.0, 7.0),
    (1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0),
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the lines show.

    Parameters
    ----------
    metric : str
        Column drawn as lines.
    low, high : str
        Columns with the ends of the interval; no band is drawn if the table lacks them.
    series : str
        Column that gives the lines. Numbers are shades from light to dark, names are colours.
    panel : str
        Column that gives the panels, one below the other; without it there is one.
    filter : mapping of column to value or list of values
        Rows to draw. Columns it leaves open are filtered to the test split, alpha 0.1 and the
        mean over points, where the table has them.
    log : bool
        Draw the values on a logarithmic axis; values that are not positive are left out.
    rule : float or str
        A value drawn as a dashed rule, such as 1 for relative numbers, or a column drawn as a
        dashed line, such as ``chance``; without it there is none.
    domain : pair of float
        Ends of the vertical axis; by default what the values need, from 0 if it is linear.
    percent : bool
        Print fractions as percentages.
    title, x_title, y_title : str
        Title of the figure; titles of the axes, by default none and the metric's name.
    height : int
        Height of a panel in pixels.
    """

    metric: str = "accuracy"
    low: str = "low"
    high: str = "high"
    series: str = "model"
    panel: str = ""
    filter: Mapping[str, Any] = field(default_factory=dict)
    log: bool = False
    rule: float | str = ""
    domain: Sequence[float] = ()
    percent: bool = True
    title: str = ""
    x_title: str = ""
    y_title: str = ""
    height: int = 170

    def __post_init__(self) -> None:
        if self.domain and (len(self.domain) != 2 or not self.domain[0] < self.domain[1]):
            raise UserError(f"domain is {list(self.domain)}: write two ascending numbers.")
        positive = [*self.domain[:1], *([] if isinstance(self.rule, str) else [self.rule])]
        if self.log and any(value <= 0 for value in positive):
            raise UserError("domain and rule must be above 0 on a logarithmic axis.")


def needs(options: Options) -> list[str]:
    """Columns that the figure needs."""
    return [
        *([options.panel] if options.panel else []),
        options.series,
        "position",
        options.metric,
        *([options.rule] if isinstance(options.rule, str) and options.rule else []),
    ]


def _rows(table: pl.DataFrame, options: Options) -> pl.DataFrame:
    """Chosen rows in network order, with ``layer`` (label) and ``order`` (place on the axis)."""
    named = [options.panel] if options.panel else []
    ruled = [options.rule] if isinstance(options.rule, str) and options.rule else []
    wanted = needs(options)
    rows = frames.select(table, options.filter, wanted)
    frames.one_row_per(rows, [*named, options.series, "position"])
    extra = [c for c in (options.low, options.high, *_COUNTS) if c in rows.columns]
    published = frames.published_columns(rows, options.metric)
    order = in_network_order(rows["position"])
    values = [c for c in (options.metric, options.low, options.high, *ruled) if c in rows.columns]
    rows = rows.select(*dict.fromkeys([*wanted, *extra, *published])).with_columns(
        pl.col(values).cast(float),
        pl.col("position").replace_strict({p: block_label(p) for p in order}).alias("layer"),
        pl.col("position").replace_strict({p: i for i, p in enumerate(order)}).alias("order"),
    )
    rows = rows.with_columns(
        pl.when(pl.col(c).is_finite() & (pl.col(c) > 0 if options.log else True)).then(c).alias(c)
        for c in (options.metric, *published[:1])
    )
    # A band stands around a line alone.
    ends = [c for c in (options.low, options.high) if c in rows.columns]
    rows = rows.with_columns(pl.when(pl.col(options.metric).is_not_null()).then(pl.col(ends)))
    return rows.sort("order", maintain_order=True)


def _with_gaps(rows: pl.DataFrame, options: Options) -> pl.DataFrame:
    """Rows with one of nulls for each layer that a line lacks, so that it breaks there."""
    names = [name for name in (options.panel, options.series) if name]
    lines = rows.select(names).unique(maintain_order=True)
    layers = rows.select("position", "layer", "order").unique(maintain_order=True)
    every = lines.join(layers, how="cross", maintain_order="left_right")
    keys = every.columns
    filled = every.join(rows, on=keys, how="left", nulls_equal=True, maintain_order="left")
    return filled.select(rows.columns).sort("order", maintain_order=True)


def draw(table: pl.DataFrame, options: Options, theme: Theme) -> alt.TopLevelMixin:
    """Draw the lines with their bands; a click on a line or in the legend singles out a series.

    Open circles are published values, where the table has them
    (:func:`reprscope.published.beside`). A panel without a value that can be drawn says so.

    Raises
    ------
    UserError
        If a column is missing, or several rows fall on one point.
    """
    rows = _with_gaps(_rows(table, options), options)
    names = _names(rows, options)
    colours = _colours([named(options.series, name) for name in names], names, theme)
    panels = frames.distinct(rows, options.panel) if options.panel else [None]
    order = in_network_order(rows["position"])
    texts = [named(options.series, name) for name in names] if _direct(names) else []
    texts += [words(options.rule)] if isinstance(options.rule, str) and options.rule else []
    margin = 14 + round(_CHARACTER * theme.font_size * max(map(len, texts), default=0))
    width = theme.width - _AXIS_WIDTH - margin
    domain = _domain(rows, options)
    pick = alt.selection_point(
        name="series",
        fields=[options.series],
        bind="legend" if len(names) > DIRECT else alt.Undefined,
    )
    charts = []
    for number, panel in enumerate(panels):
        charts.append(
            _panel(
                rows if panel is None else rows.filter(pl.col(options.panel) == panel),
                options=options,
                theme=theme,
                order=order,
                colours=colours,
                domain=domain,
                width=width,
                pick=pick,
                name=f"panel_{number}",
                heading="" if panel is None else named(options.panel, panel),
                legend=number == 0,
                last=number == len(panels) - 1,
            )
        )
    charts[0] = charts[0].add_params(pick)
    chart = alt.vconcat(*charts, spacing=10).resolve_scale(color="shared")
    return frames.finish(chart, theme, title=options.title)


def _direct(names: Sequence[Any]) -> bool:
    return 1 < len(names) <= DIRECT


def _names(rows: pl.DataFrame, options: Options) -> list[Any]:
    """Series in the order of the table, numbers in their own."""
    names = frames.distinct(rows, options.series)
    return sorted(names) if rows.schema[options.series].is_numeric() else names


def _colours(texts: Sequence[str], names: Sequence[Any], theme: Theme) -> dict[str, str]:
    """Colour of the text of each name: shades of the accent for numbers, which have an order."""
    if len(names) < 2 or isinstance(names[0], str):
        return theme.series_colours(texts)
    accent = [int(theme.accent[i : i + 2], 16) for i in (1, 3, 5)]
    ends = [_mixed(accent, 255, 0.52), theme.accent, _mixed(accent, 0, 0.55)]
    shades = spread(ends, len(names)).round().astype(int).tolist()
    return {
        text: "#{:02x}{:02x}{:02x}".format(*rgb) for text, rgb in zip(texts, shades, strict=True)
    }


def _mixed(rgb: Sequence[int], other: int, share: float) -> str:
    return "#" + "".join(f"{round(c * (1 - share) + other * share):02x}" for c in rgb)


def _domain(rows: pl.DataFrame, options: Options) -> tuple[float, float]:
    """Ends of the vertical axis, alike in all panels."""
    if options.domain:
        return float(options.domain[0]), float(options.domain[1])
    columns = [c for c in (options.metric, options.low, options.high) if c in rows.columns]
    columns += frames.published_columns(rows, options.metric)[:1]
    if isinstance(options.rule, str) and options.rule:
        columns.append(options.rule)
    values = np.concatenate([rows[c].drop_nulls().to_numpy() for c in dict.fromkeys(columns)])
    if not isinstance(options.rule, str):
        values = np.append(values, options.rule)
    values = values[np.isfinite(values)]
    if options.log:
        values = values[values > 0]
        low, high = (float(values.min()), float(values.max())) if len(values) else (1.0, 1.0)
        room = max(1.05, (high / low) ** 0.04) if high > low else 2.0
        return low / room, high * room
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    span = max(high, 0) - min(low, 0) or 1.0
    return min(0.0, low - 0.04 * span if low < 0 else 0.0), max(0.0, high + 0.04 * span)


def log_ticks(low: float, high: float) -> list[float]:
    """Readable ticks of a logarithmic axis from ``low`` to ``high``.

    Powers of two about 1 if three to six of them lie on the axis (0.5, 1, 2, 4), else the coarsest
    round numbers of which there are at least three, and evenly spaced ones on a very short axis.
    """
    powers = [2.0**n for n in range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)]
    if 3 <= len(powers) <= 6 and low >= 0.01 and high <= 100:
        return powers
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in _STEPS:
        ticks = [float(f"{s}e{n}") for n in decades for s in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 3:
            return ticks
    step = 10.0 ** math.floor(math.log10((high - low) / 3))
    first, end = math.ceil(low / step), math.floor(high / step)
    stride = max(1, (end - first) // 4)
    return [float(f"{n * step:.12g}") for n in range(first, end + 1, stride)]


def _panel(
    rows: pl.DataFrame,
    *,
    options: Options,
    theme: Theme,
    order: list[str],
    colours: dict[str, str],
    domain: tuple[float, float],
    width: int,
    pick: alt.Parameter,
    name: str,
    heading: str,
    legend: bool,
    last: bool,
) -> alt.LayerChart:
    names = list(colours)
    rows = rows.with_columns(
        pl.Series(options.series, [named(options.series, v) for v in rows[options.series]])
    )
    number = ".1%" if options.percent else ".3~g"
    labels = [layer_label(position, order) for position in order]
    x = alt.X(
        "order:Q",
        title=None,
        scale=alt.Scale(domain=[-0.5, len(order) - 0.5], nice=False, zero=False),
        axis=_x_axis(labels, width, theme) if last else None,
    )
    kind: dict[str, Any] = {"type": "log"} if options.log else {"zero": False}
    ticks: dict[str, Any] = {"values": log_ticks(*domain)} if options.log else {"tickCount": 5}
    y = alt.Y(
        f"{options.metric}:Q",
        title=options.y_title or words(options.metric),
        scale=alt.Scale(domain=domain, nice=False, clamp=True, **kind),
        axis=alt.Axis(format="~%" if options.percent else "~g", **ticks),
    )
    colour = alt.Color(
        f"{options.series}:N",
        sort=names,
        scale=alt.Scale(domain=names, range=list(colours.values())),
        legend=alt.Legend(title=None, orient="top", symbolType="stroke", symbolOpacity=1)
        if len(names) > DIRECT and legend
        else None,
    )
    interval = options.low in rows.columns and options.high in rows.columns
    tooltip = [
        alt.Tooltip("layer:N"),
        alt.Tooltip(f"{options.series}:N", title=words(options.series)),
        alt.Tooltip(f"{options.metric}:Q", title=words(options.metric), format=number),
    ]
    if interval:
        tooltip += [
            alt.Tooltip(f"{options.low}:Q", format=number, title="95 % from"),
            alt.Tooltip(f"{options.high}:Q", format=number, title="to"),
        ]
    if isinstance(options.rule, str) and options.rule:
        tooltip.append(alt.Tooltip(f"{options.rule}:Q", format=number, title=words(options.rule)))
    tooltip += [alt.Tooltip(f"{c}:Q", format=",") for c in _COUNTS if c in rows.columns]
    base = alt.Chart(alt.InlineData(values=frames.records(rows.drop("position"))))
    layers: list[alt.Chart] = [*_blocks(order, width, options, theme)]
    layers += _rules(base, rows, x, colour, options, theme)
    if interval:
        layers.append(
            base.mark_area(aria=False).encode(
                x=x,
                y=alt.Y(f"{options.low}:Q"),
                y2=alt.Y2(f"{options.high}:Q"),
                color=colour,
                opacity=alt.condition(pick, alt.value(0.16), alt.value(0.03)),
            )
        )
    lines = base.encode(x=x, y=y, color=colour)
    layers.append(
        lines.mark_line(strokeWidth=1.8).encode(
            opacity=alt.condition(pick, alt.value(0.95), alt.value(0.12)),
            order=alt.Order("order:Q"),
        )
    )
    layers.append(
        lines.mark_point(filled=True, size=20, aria=False).encode(
            opacity=alt.condition(pick, alt.value(1.0), alt.value(0.12)), tooltip=tooltip
        )
    )
    layers += frames.published_circles(
        base.encode(x=x, color=colour),
        rows,
        options.metric,
        about=[
            alt.Tooltip("layer:N"),
            alt.Tooltip(f"{options.series}:N", title=words(options.series)),
        ],
        number=number,
        pick="series",
        size=34,
    )
    layers += _ends(rows, names, colour, domain, width, options, theme)
    layers += _nothing(rows, width, options, theme)
    if last:
        layers += _block_names(order, labels, width, options, theme)
    layers[0] = layers[0].properties(name=f"{name}_first")
    return alt.LayerChart(
        layer=layers,
        name=name,
        width=width,
        height=options.height,
        title=alt.Title(heading, frame="group", fontSize=theme.font_size + 1, offset=6)
        if heading
        else alt.Undefined,
    )


def _nothing(rows: pl.DataFrame, width: int, options: Options, theme: Theme) -> list[alt.Chart]:
    """Words in a panel without a line, above its middle, where a rule may be."""
    if rows[options.metric].count():
        return []
    return [
        alt.Chart(alt.InlineData(values=[{"text": NOTHING}]))
        .mark_text(color=theme.muted)
        .encode(x=alt.value(width / 2), y=alt.value(options.height / 4), text="text:N")
    ]


def _drawable(options: Options) -> str:
    """What a value must be to be drawn."""
    return "positive" if options.log else "finite"


def layer_label(position: str, order: Sequence[str]) -> str:
    """Short label of a position: ``res`` and ``attn`` in its block, the block's if it is alone."""
    block = block_of(position)
    if sum(block_of(other) == block for other in order) == 1:
        return block_label(position)
    inside = block_label(position).removeprefix(block_label(block)).strip()
    short = re.sub(r"\[\d+\]", "", inside)
    return _PARTS.get(short, short) or "out"


def _upright(labels: Sequence[str], width: int, theme: Theme) -> bool:
    """Whether labels fit side by side without being turned."""
    room = width / len(labels) - 6
    return max(len(label) for label in labels) * _CHARACTER * theme.font_size <= room


def _x_axis(labels: list[str], width: int, theme: Theme) -> alt.Axis:
    turned: dict[str, Any] = {"labelAngle": 0}
    if not _upright(labels, width, theme):
        turned = {"labelAngle": -90, "labelAlign": "right", "labelBaseline": "middle"}
    return alt.Axis(
        values=list(range(len(labels))),
        labelExpr=f"{json.dumps(labels)}[datum.value]",
        labelOverlap=False,
        labelLimit=0,
        labelFontSize=theme.font_size - 1,
        labelPadding=_STRIP + 4,
        domain=False,
        ticks=False,
        grid=False,
        **turned,
    )


def _spans(order: Sequence[str]) -> list[tuple[str, float, float]]:
    """Blocks with the ends of the part of the axis that their layers cover."""
    spans, start = [], 0
    for block, inside in groupby(order, key=block_of):
        end = start + len(list(inside))
        spans.append((block, start - 0.5, end - 0.5))
        start = end
    return spans


def _blocks(order: list[str], width: int, options: Options, theme: Theme) -> list[alt.Chart]:
    """Every second block shaded, and a strip in the block palette below the panel."""
    spans = _spans(order)
    palette = theme.block_colours(dict.fromkeys(block for block, _, _ in spans))
    rows = [
        {
            "left": (start + 0.5) * width / len(order),
            "right": (end + 0.5) * width / len(order),
            "block": block_label(block),
            "colour": palette[block],
            "shade": theme.grid if number % 2 else "white",
        }
        for number, (block, start, end) in enumerate(spans)
    ]
    base = alt.Chart(alt.InlineData(values=rows)).encode(
        x=alt.X("left:Q", scale=None, axis=None), x2=alt.X2("right")
    )
    shade = base.mark_rect(opacity=0.45, aria=False).encode(
        y=alt.value(0), y2=alt.value(options.height), color=alt.Color("shade:N", scale=None)
    )
    strip = base.mark_rect(aria=False).encode(
        y=alt.value(options.height + 2),
        y2=alt.value(options.height + 2 + _STRIP),
        color=alt.Color("colour:N", scale=None),
        tooltip=[alt.Tooltip("block:N")],
    )
    return [shade, strip]


def _block_names(
    order: list[str], labels: list[str], width: int, options: Options, theme: Theme
) -> list[alt.Chart]:
    """Names of the blocks below the labels of their layers, and the title of the axis."""
    size = theme.font_size
    length = size if _upright(labels, width, theme) else max(map(len, labels)) * 0.5 * size
    y = options.height + _STRIP + 4 + length + size
    wide = [span for span in _spans(order) if span[2] - span[1] > 1]
    step = width / len(order)
    fits = all(
        len(block_label(block)) * _CHARACTER * size <= (end - start) * step - 2
        for block, start, end in wide
    )
    rows = [
        {
            "at": ((start + end) / 2 + 0.5) * step,
            "y": y,
            "text": block_label(block) if fits else _initial(block_label(block)),
        }
        for block, start, end in wide
    ]
    if options.x_title:
        below = y + (size + 8 if wide else 4)
        rows.append({"at": width / 2, "y": below, "text": options.x_title})
    if not rows:
        return []
    text: alt.Chart = (
        alt.Chart(alt.InlineData(values=rows))
        .mark_text(baseline="middle", color=theme.muted, fontSize=size)
        .encode(
            x=alt.X("at:Q", scale=None, axis=None),
            y=alt.Y("y:Q", scale=None, axis=None),
            text="text:N",
        )
    )
    return [text]


def _initial(label: str) -> str:
    """``d0`` for ``down[0]``; names without a number stay."""
    return re.sub(r"^([a-z])[a-z]*\[(\d+)\]$", r"\1\2", label)


def _rules(
    base: alt.Chart,
    rows: pl.DataFrame,
    x: alt.X,
    colour: alt.Color,
    options: Options,
    theme: Theme,
) -> list[alt.Chart]:
    """The dashed rule or line; lines that are alike for all series are one and grey."""
    if not isinstance(options.rule, str):
        one = alt.Chart(alt.InlineData(values=[{"rule": options.rule}]))
        return [
            one.mark_rule(strokeDash=[5, 4], color=theme.muted, strokeWidth=1).encode(y="rule:Q")
        ]
    if not options.rule:
        return []
    dashed = base.mark_line(strokeDash=[4, 3], strokeWidth=1, aria=False)
    y = alt.Y(f"{options.rule}:Q")
    if _alike(rows, options):
        ruled = rows.sort("order", options.rule, nulls_last=True)
        unique = ruled.unique("order", keep="first", maintain_order=True)
        line = alt.Chart(
            alt.InlineData(values=frames.records(unique.select("order", options.rule)))
        ).mark_line(strokeDash=[4, 3], strokeWidth=1, color=theme.muted, aria=False)
        return [line.encode(x=x, y=y, order=alt.Order("order:Q"))]
    return [
        dashed.encode(x=x, y=y, color=colour, order=alt.Order("order:Q"), opacity=alt.value(0.7))
    ]


def _alike(rows: pl.DataFrame, options: Options) -> bool:
    """Whether the rule's column has one value at each position."""
    spans = rows.group_by("order").agg(
        pl.col(options.rule).max() - pl.col(options.rule).min()  # type: ignore[arg-type]
    )
    return bool((spans[str(options.rule)].fill_null(0) < 1e-9).all())


def _ends(
    rows: pl.DataFrame,
    names: list[str],
    colour: alt.Color,
    domain: tuple[float, float],
    width: int,
    options: Options,
    theme: Theme,
) -> list[alt.Chart]:
    """Names of few series at the right ends of their lines, and that of the dashed line."""
    entries: list[dict[str, Any]] = []
    named = names if _direct(names) else []
    for name in named:
        line = rows.filter((pl.col(options.series) == name) & pl.col(options.metric).is_not_null())
        if len(line):
            entries.append({"text": name, "value": line[options.metric][-1]})
    ruled = isinstance(options.rule, str) and bool(options.rule)
    if ruled:
        value = rows[str(options.rule)].drop_nulls().tail(1).to_list()
        entries += [{"text": words(str(options.rule)), "value": one, "rule": True} for one in value]
    if not entries:
        return []
    scale = math.log if options.log else float
    low, high = scale(domain[0]), scale(domain[1])
    heights = [
        options.height * (1 - (scale(max(e["value"], domain[0])) - low) / (high - low))
        for e in entries
    ]
    for entry, at in zip(
        entries, placed(heights, theme.font_size + 1, options.height), strict=True
    ):
        entry["at"] = at
    y = alt.Y("at:Q", scale=None, axis=None)
    layers = []
    for is_rule in (False, True):
        chosen = [e for e in entries if bool(e.get("rule")) is is_rule]
        if not chosen:
            continue
        text = alt.Chart(
            alt.InlineData(values=[{options.series: e["text"], "at": e["at"]} for e in chosen])
        ).mark_text(align="left", dx=6, fontSize=theme.font_size, color=theme.muted)
        encoded = text.encode(x=alt.value(width), y=y, text=f"{options.series}:N")
        layers.append(encoded if is_rule else encoded.encode(color=colour))
    return layers


def placed(heights: Sequence[float], gap: float, size: float) -> list[float]:
    """Places of labels near their heights, ``gap`` apart, and in [0, ``size``] if they fit.

    Labels that would overlap stand together, centred on their mean height.
    """
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    runs: list[tuple[float, int]] = []  # sum of heights, number of labels

    def centre(run: tuple[float, int]) -> float:
        half = gap * (run[1] - 1) / 2
        return max(half, min(size - half, run[0] / run[1]))

    for i in order:
        runs.append((heights[i], 1))
        while len(runs) > 1:
            above, below = runs[-2:]
            if centre(below) - centre(above) >= gap * (above[1] + below[1]) / 2:
                break
            runs[-2:] = [(above[0] + below[0], above[1] + below[1])]
    ends = [centre(run) + gap * (k - (run[1] - 1) / 2) for run in runs for k in range(run[1])]
    return [ends[order.index(i)] for i in range(len(heights))]


def caption(table: pl.DataFrame, options: Options) -> str:
    """Say what the lines show, over how many images, and from where to where each goes."""
    rows = _rows(table, options)
    chosen = frames.select(table, options.filter, [])
    what = options.y_title or words(options.metric)
    where = frames.conditions(chosen)
    counts = (frames.count(rows, noun, noun) for noun in _COUNTS)
    over = ", ".join(filter(None, counts))
    text = f"{what[:1].upper()}{what[1:]} by layer in network order"
    text += (f" ({where})" if where else "") + (f", over {over}" if over else "") + "."
    if options.low in rows.columns and options.high in rows.columns:
        text += intervals(table, "Bands")
    if not isinstance(options.rule, str):
        text += f" The dashed rule is {_print(options.rule, options)}."
    elif options.rule:
        text += f" Dashed: {words(options.rule)}."
    keys = [options.panel] if options.panel else []
    keys += [options.series] if rows[options.series].n_unique() > 1 else []
    text += frames.published_note(rows, options.metric, "Open circles")
    shown = rows.drop_nulls(options.metric)
    groups = shown.partition_by(keys, maintain_order=True) if keys else [shown]
    parts = []
    for group in groups if len(shown) else []:
        low, high = (
            group.sort(options.metric, descending=descending, maintain_order=True).row(
                0, named=True
            )
            for descending in (False, True)
        )
        ends = " to ".join(
            f"{_print(row[options.metric], options)} ({row['layer']})" for row in (low, high)
        )
        name = ", ".join(named(key, group[key][0]) for key in keys)
        parts.append(f"{name}: {ends}" if name else ends)
    if 0 < len(parts) <= _SAID:
        text += f" Lowest to highest: {'; '.join(parts)}."
    missing = rows[options.metric].null_count()
    if missing:
        text += f" {missing} value{'s' * (missing != 1)} not {_drawable(options)} and left out."
    return text


def _print(value: float, options: Options) -> str:
    return f"{100 * value:.1f} %" if options.percent else f"{value:.3g}"
