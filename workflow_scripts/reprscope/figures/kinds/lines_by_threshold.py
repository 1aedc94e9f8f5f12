"""Scores over the threshold from which something counts, as lines, or counts as stacked bars.

The lines of a search are its precision, recall and F1; its bars are figure 23 of the thesis. With
another ``x`` and ``metric`` the lines are those of any table, such as PCK over alpha.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import altair as alt
import polars as pl

from reprscope.figures import frames
from reprscope.figures.kinds.lines_by_layer import log_ticks, placed
from reprscope.figures.repeated import intervals
from reprscope.figures.theme import Theme
from reprscope.models.labels import block_label, named, words
from reprscope.runtime.errors import UserError

SPACING: Final = 18
AXIS_WIDTH: Final = 58
CHARACTER: Final = 0.56
"""Mean width of a character, as a share of the font size."""

NOTHING: Final = "no value to draw"
COUNTS: Final = ("true_positives", "false_positives", "false_negatives")
"""Columns that bars are made of; the last hangs below the axis."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the lines show.

    Parameters
    ----------
    form : {"lines", "counts"}
        Lines of ``metric``, or stacked bars of the numbers of tokens that are found, found wrongly
        and missed at each threshold, as in figure 23 of the thesis.
    x, metric, series : str
        Columns of the horizontal and the vertical axis and of the lines.
    filter : mapping of column to value or list of values
        Rows to draw; without a split, those of the test split.
    panel : str
        Column that gives the panels; without it there is one.
    columns : int
        Panels side by side.
    log : bool
        Draw the values on a logarithmic axis; values that are not positive are left out.
    percent : bool
        Print fractions as percentages.
    rule : float or None
        Value drawn as a dashed horizontal rule.
    title, x_title, y_title : str
        Title of the figure and of the axes; by default those of the columns in words.
    height : int
        Height of a panel in pixels.
    """

    form: Literal["lines", "counts"] = "lines"
    x: str = "threshold"
    metric: str = "value"
    series: str = "score"
    filter: Mapping[str, Any] = field(default_factory=dict)
    panel: str = "model"
    columns: int = 2
    log: bool = False
    percent: bool = True
    rule: float | None = None
    title: str = ""
    x_title: str = ""
    y_title: str = ""
    height: int = 200

    def __post_init__(self) -> None:
        if self.form not in ("lines", "counts"):
            raise UserError(f"form is {self.form!r}; use one of: lines, counts.")


def needs(options: Options) -> list[str]:
    """Columns that the figure needs."""
    return [
        *(c for c in (options.panel, options.series, options.x) if c),
        *(COUNTS if options.form == "counts" else [options.metric]),
    ]


def _rows(table: pl.DataFrame, options: Options) -> pl.DataFrame:
    """Chosen rows, one for each panel, series and place on the axis, sorted along it."""
    keys = [c for c in (options.panel, options.series, options.x) if c]
    values = list(COUNTS) if options.form == "counts" else [options.metric]
    rows = frames.select(table, options.filter, needs(options))
    if options.form == "counts":
        # The same counts stand beside each score.
        keys.remove(options.series)
        rows = rows.filter(pl.col(options.series) == rows[options.series][0])
    frames.one_row_per(rows, keys)
    bounds = [c for c in ("low", "high") if c in rows.columns]
    drawn = [*values, *bounds]
    rows = rows.with_columns(pl.col(drawn).cast(float))
    if options.log and options.form == "lines":
        # A band reaches no further down than the line's own values: 0 has no place on the axis.
        lowest = rows.filter(pl.col(options.metric) > 0)[options.metric].min()
        floor = pl.lit(lowest, pl.Float64)
        shown = pl.col(options.metric) > 0
        rows = rows.with_columns(
            *(
                pl.when(shown).then(pl.max_horizontal(pl.col(c), floor) if c == "low" else c)
                for c in drawn
            )
        )
    return rows.sort(options.x, maintain_order=True)


def draw(table: pl.DataFrame, options: Options, theme: Theme) -> alt.TopLevelMixin:
    """Draw the lines with their bands; a dashed rule stands at the chosen threshold.

    A panel without any value says so. Values whose ``chosen`` is true, where the table has that
    column, give the rule.

    Raises
    ------
    UserError
        If a column is missing, or several rows fall on one point.
    """
    rows = _rows(table, options)
    panels = frames.distinct(rows, options.panel) if options.panel else [None]
    columns = max(1, min(options.columns, len(panels)))
    names = _names(rows, options)
    margin = 14 + round(CHARACTER * theme.font_size * max(map(len, names)))
    room = theme.width - AXIS_WIDTH - columns * margin - (columns - 1) * (SPACING + 26)
    width = min(440, room // columns)
    domain = _domain(rows, options)
    charts = [
        _panel(
            rows if panel is None else rows.filter(pl.col(options.panel) == panel),
            names=names,
            domain=domain,
            options=options,
            theme=theme,
            width=width,
            first=number % columns == 0,
            heading="" if panel is None else named(options.panel, panel),
        )
        for number, panel in enumerate(panels)
    ]
    lines = [charts[i : i + columns] for i in range(0, len(charts), columns)]
    grid = [alt.hconcat(*line, spacing=SPACING) for line in lines]
    return frames.finish(alt.vconcat(*grid), theme, title=options.title)


def _names(rows: pl.DataFrame, options: Options) -> list[str]:
    """What the lines or the parts of the bars are called, in order."""
    if options.form == "counts":
        return [words(name) for name in COUNTS]
    return [named(options.series, one) for one in frames.distinct(rows, options.series)]


def _domain(rows: pl.DataFrame, options: Options) -> tuple[float, float]:
    """Ends of the vertical axis, alike in all panels."""
    if options.form == "counts":
        top = rows[COUNTS[0]].fill_null(0) + rows[COUNTS[1]].fill_null(0)
        ends = (-_largest(rows[COUNTS[2]]), _largest(top))
        room = 0.04 * (ends[1] - ends[0]) or 1.0
        return ends[0] - room, ends[1] + room
    columns = [c for c in (options.metric, "low", "high") if c in rows.columns]
    values = pl.concat([rows[c].drop_nulls().rename("v") for c in columns])
    if options.rule is not None:
        values = values.append(pl.Series("v", [options.rule], pl.Float64))
    if options.log:
        values = values.filter(values > 0)
        low, high = (values.min(), values.max()) if len(values) else (0.1, 1.0)
        return float(low) / 1.2, float(high) * 1.2  # type: ignore[arg-type]
    least = float(values.min()) if len(values) else 0.0  # type: ignore[arg-type]
    high = _largest(values) or 1.0
    low = 1.04 * min(0.0, least)
    # A share's axis ends with everything.
    return low, min(1.0, 1.04 * high) if options.percent and high <= 1 else 1.04 * high


def _largest(values: pl.Series) -> float:
    largest = values.drop_nulls().max()
    return float(largest) if isinstance(largest, int | float) else 0.0


def _panel(
    rows: pl.DataFrame,
    *,
    names: Sequence[str],
    domain: tuple[float, float],
    options: Options,
    theme: Theme,
    width: int,
    first: bool,
    heading: str,
) -> alt.LayerChart:
    colours = theme.series_colours(names)
    colour = alt.Color(
        "series:N", scale=alt.Scale(domain=list(names), range=list(colours.values())), legend=None
    )
    x = alt.X(
        "x:Q",
        title=options.x_title or words(options.x),
        scale=alt.Scale(zero=False, nice=False, padding=8),
        axis=alt.Axis(tickCount=6, format=".2~f"),
    )
    y = alt.Y(
        "value:Q",
        title=(options.y_title or words(options.metric)) if first else None,
        scale=alt.Scale(
            domain=list(domain), nice=False, clamp=True, type="log" if options.log else "linear"
        ),
        axis=_y_axis(domain, options, labels=first),
    )
    layers: list[alt.Chart] = []
    if options.form == "counts":
        layers += _bars(rows, x, y, colour, options)
        ends = _beside_bars(rows, names, domain, options, theme)
    else:
        layers += _lines(rows, x, y, colour, options)
        ends = _ends(rows, domain, options, theme)
    chosen = rows.filter("chosen")[options.x].unique().to_list() if "chosen" in rows.columns else []
    if chosen:
        mark = alt.Chart(alt.InlineData(values=[{"x": chosen[0]}]))
        layers.append(
            mark.mark_rule(strokeDash=[5, 4], color=theme.muted).encode(
                x=x, tooltip=alt.Tooltip("x:Q", title="chosen")
            )
        )
    if options.rule is not None:
        one = alt.Chart(alt.InlineData(values=[{"value": options.rule}]))
        layers.append(one.mark_rule(strokeDash=[5, 4], color=theme.muted).encode(y="value:Q"))
    text = alt.Chart(alt.InlineData(values=ends)).mark_text(align="left", dx=8)
    layers.append(
        text.encode(
            x=alt.value(width),
            y=alt.Y("at:Q", scale=None, axis=None),
            text="series:N",
            color=colour,
        )
    )
    if not ends:
        nothing = alt.Chart(alt.InlineData(values=[{"text": NOTHING}]))
        layers.append(
            nothing.mark_text(color=theme.muted).encode(
                x=alt.value(width / 2), y=alt.value(options.height / 2), text="text:N"
            )
        )
    if heading:
        bold = {"fontSize": theme.font_size + 1, "fontWeight": 600}
        layers.append(frames.heading(heading, theme, width=width, **bold))
    return alt.LayerChart(layer=layers, width=width, height=options.height)


def _y_axis(domain: tuple[float, float], options: Options, *, labels: bool) -> alt.Axis:
    ticks: dict[str, Any] = {"tickCount": 5}
    if options.form == "counts":
        return alt.Axis(format=",d", labels=labels, **ticks)
    if options.log:
        ticks = {"values": log_ticks(*domain)}
    return alt.Axis(format="~%" if options.percent else "~g", labels=labels, **ticks)


def _lines(
    rows: pl.DataFrame, x: alt.X, y: alt.Y, colour: alt.Color, options: Options
) -> list[alt.Chart]:
    """Lines with their bands and points."""
    bounds = [c for c in ("low", "high") if c in rows.columns]
    further = [c for c in ("tokens", "images", "pairs", "points") if c in rows.columns]
    values = rows.select(
        pl.col(options.x).alias("x"),
        pl.Series("series", [named(options.series, one) for one in rows[options.series]]),
        pl.col(options.metric).alias("value"),
        *bounds,
        *further,
    )
    base = alt.Chart(alt.InlineData(values=frames.records(values)))
    number = ".2~%" if options.percent else ".3~g"
    tooltip = [
        alt.Tooltip("series:N", title=words(options.series)),
        alt.Tooltip("x:Q", title=words(options.x)),
        alt.Tooltip("value:Q", format=number, title=options.y_title or words(options.metric)),
    ]
    lines = base.encode(x=x, y=y, color=colour)
    layers = []
    if len(bounds) == 2:
        tooltip += [
            alt.Tooltip("low:Q", format=number, title="95 % from"),
            alt.Tooltip("high:Q", format=number, title="to"),
        ]
        layers.append(
            base.mark_area(aria=False, opacity=0.14).encode(
                x=x, y=alt.Y("low:Q"), y2=alt.Y2("high:Q"), color=colour
            )
        )
    tooltip += [alt.Tooltip(f"{name}:Q", format=",") for name in further]
    layers.append(lines.mark_line(strokeWidth=1.8).encode(order=alt.Order("x:Q")))
    layers.append(lines.mark_point(filled=True, size=22, aria=False).encode(tooltip=tooltip))
    return layers


def _bars(
    rows: pl.DataFrame, x: alt.X, y: alt.Y, colour: alt.Color, options: Options
) -> list[alt.Chart]:
    """What is found stacked upwards, what is missed downwards."""
    values = [
        {"x": at, "from": low, "value": high, "series": words(name), "count": abs(high - low)}
        for at, true, false, missed in rows.select(options.x, *COUNTS).iter_rows()
        for name, low, high in zip(COUNTS, (0, true, 0), (true, true + false, -missed), strict=True)
    ]
    base = alt.Chart(alt.InlineData(values=values))
    tooltip = [
        alt.Tooltip("series:N", title=" "),
        alt.Tooltip("x:Q", title="threshold"),
        alt.Tooltip("count:Q", format=",", title="tokens"),
    ]
    return [
        base.mark_bar(size=12, aria=False).encode(
            x=x, y=y, y2=alt.Y2("from:Q"), color=colour, tooltip=tooltip
        )
    ]


def _height(value: float, domain: tuple[float, float], options: Options) -> float:
    """Place of a value on the vertical axis, in pixels from the top."""
    scale = math.log if options.log else float
    low, high = scale(domain[0]), scale(domain[1])
    return options.height * (1 - (scale(max(value, domain[0])) - low) / (high - low))


def _ends(
    rows: pl.DataFrame, domain: tuple[float, float], options: Options, theme: Theme
) -> list[dict[str, Any]]:
    """Names of the lines, where they end, moved apart within the axis."""
    last = rows.drop_nulls(options.metric).unique(options.series, keep="last", maintain_order=True)
    heights = [_height(value, domain, options) for value in last[options.metric]]
    places = placed(heights, theme.font_size + 2, options.height)
    return [
        {"series": named(options.series, one), "at": at}
        for one, at in zip(last[options.series], places, strict=True)
    ]


def _beside_bars(
    rows: pl.DataFrame,
    names: Sequence[str],
    domain: tuple[float, float],
    options: Options,
    theme: Theme,
) -> list[dict[str, Any]]:
    """Names of the parts of the bars, about the height where each is largest."""
    if not (rows.select(pl.sum_horizontal(COUNTS)).to_series() > 0).any():
        return []
    true, false, missed = (_largest(rows[name]) for name in COUNTS)
    heights = [
        _height(value, domain, options) for value in (true / 2, true + false / 2, -missed / 2)
    ]
    places = placed(heights, theme.font_size + 2, options.height)
    return [{"series": name, "at": at} for name, at in zip(names, places, strict=True)]


def caption(table: pl.DataFrame, options: Options) -> str:
    """Say what the lines show, how much there is to be found, and the chosen thresholds."""
    rows = _rows(table, options)
    where = frames.conditions(frames.select(table, options.filter, []))
    about = f" ({where})" if where else ""
    along = options.x_title or words(options.x)
    if options.form == "counts":
        text = (
            f"Tokens that are found, found wrongly and missed, over the {along}{about}, in the "
            "form of figure 23 of the thesis."
        )
    else:
        lines = ", ".join(_names(rows, options))
        what = options.y_title or words(options.metric)
        text = f"{what[:1].upper()}{what[1:]} over the {along}{about}: {lines}."
        if {"low", "high"} <= set(rows.columns):
            text += intervals(table, "Bands")
    parts = []
    for panel in frames.distinct(rows, options.panel) if options.panel else [None]:
        own = rows if panel is None else rows.filter(pl.col(options.panel) == panel)
        said = _panel_note(own, options)
        if said:
            parts.append(said if panel is None else f"{named(options.panel, panel)}, {said}")
    return text + (f" {'; '.join(parts)}." if parts else "")


def _panel_note(rows: pl.DataFrame, options: Options) -> str:
    """What there is to be found in a panel, and at which threshold; empty if nothing is known."""
    said = []
    if "position" in rows.columns and rows["position"].n_unique() == 1 and rows["position"][0]:
        said.append(block_label(rows["position"][0]))
    if "tokens" in rows.columns and rows["tokens"][0] is not None:
        said.append(f"{rows['tokens'][0]:,} anomalous tokens in {_counted(rows)}")
    if "patches" in rows.columns and rows["patches"][0] is not None:
        said.append(f"prototype of {rows['patches'][0]:,} patches")
    if "chosen" in rows.columns and rows["chosen"].any():
        chosen = rows.filter("chosen")
        text = f"dashed at the threshold {chosen[options.x][0]:g}"
        if options.form == "lines":
            values = chosen.drop_nulls(options.metric).select(options.series, options.metric)
            shown = [
                f"{name} {100 * value:.3g} %" if options.percent else f"{name} {value:.3g}"
                for name, value in values.rows()
            ]
            text += f" ({', '.join(shown)})" if shown else ""
        said.append(text)
    return ": ".join([said[0], ", ".join(said[1:])]) if len(said) > 1 else "".join(said)


def _counted(rows: pl.DataFrame) -> str:
    return frames.count(rows, "images", "images") or "these images"
