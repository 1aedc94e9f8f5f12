"""One value per block over the timesteps, one panel per model (the shape of figure 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import altair as alt
import polars as pl

from reprscope.figures import frames
from reprscope.figures.repeated import intervals
from reprscope.figures.theme import Theme
from reprscope.models.labels import block_label, in_network_order, named, words
from reprscope.runtime.errors import UserError

BASELINE_WIDTH = 104
LEGEND_WIDTH = 84
AXIS_WIDTH = 52
SPACING = 18
ERRORS = frozenset({"error_rate", "rmse", "relative_rmse"})
"""Metrics of which the highest value is the worst."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the lines show.

    Parameters
    ----------
    metric : str
        Column drawn as lines.
    low, high : str
        Columns with the ends of the interval; no band is drawn if the table lacks them.
    estimator : str
        Value of the column ``estimator`` whose rows are the lines; tables without that column
        are drawn whole.
    baselines : sequence of str
        Values of ``estimator`` drawn as dashed rules, one value each per panel.
    reference : str
        Column drawn as a dashed rule as well; none if the table lacks it.
    filter : mapping of column to value or list of values
        Rows to draw. Columns it leaves open are filtered to the test split, alpha 0.1 and the
        mean over points, where the table has them.
    panel : str
        Column that gives the panels.
    x : str
        Column of the horizontal axis.
    columns : int
        Panels side by side.
    percent : bool
        Print fractions as percentages.
    title, x_title, y_title : str
        Title of the figure; titles of the axes, by default the columns' names.
    height : int
        Height of a panel in pixels.
    """

    metric: str = "pck"
    low: str = "low"
    high: str = "high"
    estimator: str = "cosine"
    baselines: Sequence[str] = (
        "same_place_in_box",
        "same_place_in_square",
        "same_position",
        "random",
    )
    reference: str = "chance"
    filter: Mapping[str, Any] = field(default_factory=dict)
    panel: str = "model"
    x: str = "timestep"
    columns: int = 3
    percent: bool = True
    title: str = ""
    x_title: str = ""
    y_title: str = ""
    height: int = 240


def needs(options: Options) -> list[str]:
    """Columns that the figure needs."""
    return [options.panel, options.x, "position", options.metric]


def _rows(table: pl.DataFrame, options: Options) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows of the lines, in network order, and of the rules: panel, baseline, value."""
    wanted = needs(options)
    chosen = frames.select(table, options.filter, wanted)
    rules = pl.DataFrame(
        schema={options.panel: chosen.schema[options.panel], "baseline": pl.String, "value": float}
    )
    rows = chosen
    if "estimator" in chosen.columns:
        rows = frames.select(chosen, {"estimator": options.estimator}, [])
        kept = chosen.filter(pl.col("estimator").is_in(list(options.baselines)))
        rules = kept.select(
            options.panel, baseline="estimator", value=pl.col(options.metric).cast(float)
        )
    if options.reference in rows.columns:
        reference = rows.select(
            options.panel,
            baseline=pl.lit(options.reference),
            value=pl.col(options.reference).cast(float),
        )
        rules = pl.concat([rules, reference])
    frames.one_row_per(rows, [options.panel, options.x, "position"])
    extra = [options.low, options.high, "images", "pairs", "points"]
    extra += frames.published_columns(rows, options.metric)
    order = in_network_order(rows["position"])
    rows = (
        rows.select(*dict.fromkeys([*wanted, *(c for c in extra if c in rows.columns)]))
        .with_columns(
            pl.col("position").replace_strict({p: block_label(p) for p in order}).alias("block"),
            pl.col("position").replace_strict({p: i for i, p in enumerate(order)}).alias("order"),
        )
        .sort("order", options.x, maintain_order=True)
        .drop("order")
    )
    rows = frames.without_unknown(rows, options.low, options.high)
    return rows, _one_value_each(rules, options)


def _one_value_each(rules: pl.DataFrame, options: Options) -> pl.DataFrame:
    grouped = rules.group_by(options.panel, "baseline", maintain_order=True).agg(
        pl.col("value").first(), spread=pl.col("value").max() - pl.col("value").min()
    )
    uneven = grouped.filter(pl.col("spread") > 1e-6)
    if not uneven.is_empty():
        raise UserError(
            f"The baseline {uneven['baseline'][0]} has several values for "
            f"{options.panel} {uneven[options.panel][0]}: choose the rows of one condition with "
            "the figure's `filter`."
        )
    return grouped.drop("spread")


def draw(table: pl.DataFrame, options: Options, theme: Theme) -> alt.TopLevelMixin:
    """Draw the lines with their bands; a click in the legend singles out a block.

    Bands of more than 17 lines would hide each other, so those are left to the tooltips. The
    highest point of every panel carries its value, unless it is an error. Open circles are
    published values, where the table has them (:func:`reprscope.published.beside`).

    Raises
    ------
    UserError
        If a column is missing, several rows fall on one point, or a baseline is not constant.
    """
    rows, rules = _rows(table, options)
    panels = frames.distinct(rows, options.panel)
    columns = max(1, min(options.columns, len(panels)))
    room = theme.width - AXIS_WIDTH - (BASELINE_WIDTH if len(rules) else 0)
    room -= LEGEND_WIDTH if rows["block"].n_unique() <= frames.MANY else 0
    width = max(120, (room - (columns - 1) * (SPACING + AXIS_WIDTH // 2)) // columns)
    shown = [options.metric, options.high, *frames.published_columns(rows, options.metric)[:1]]
    tops = [rows[c].max() for c in shown if c in rows.columns]
    tops += [rules["value"].max()] if len(rules) else []
    top = 1.06 * max(float(value) for value in tops)  # type: ignore[arg-type]
    pick = alt.selection_point(name="block", fields=["block"], bind="legend")
    charts = []
    for number, panel in enumerate(panels):
        last = (number + 1) % columns == 0 or number == len(panels) - 1
        chart = _panel(
            rows.filter(pl.col(options.panel) == panel),
            rules.filter(pl.col(options.panel) == panel),
            options=options,
            theme=theme,
            colours=theme.block_colours(rows["position"]),
            top=top,
            width=width,
            name=f"panel_{number}",
            first=number % columns == 0,
            last=last,
        ).properties(
            title=alt.Title(
                named(options.panel, panel),
                anchor="middle",
                frame="group",
                fontSize=theme.font_size + 1,
                offset=6,
            ),
        )
        charts.append(chart if number else chart.add_params(pick))
    lines = [charts[i : i + columns] for i in range(0, len(charts), columns)]
    grid = [alt.hconcat(*line, spacing=SPACING).resolve_scale(color="shared") for line in lines]
    return frames.finish(
        alt.vconcat(*grid).resolve_scale(color="shared"), theme, title=options.title
    )


def _panel(
    rows: pl.DataFrame,
    rules: pl.DataFrame,
    *,
    options: Options,
    theme: Theme,
    colours: dict[str, str],
    top: float,
    width: int,
    name: str,
    first: bool,
    last: bool,
) -> alt.LayerChart:
    number = ".1%" if options.percent else ".3~g"
    blocks = [block_label(position) for position in colours]
    steps = sorted(frames.distinct(rows, options.x))
    x = alt.X(
        f"{options.x}:Q",
        title=options.x_title or words(options.x),
        scale=alt.Scale(nice=False, padding=6),
        axis=alt.Axis(values=legible(steps, width), labelOverlap=False, format="d"),
    )
    y = alt.Y(
        f"{options.metric}:Q",
        title=(options.y_title or words(options.metric)) if first else None,
        scale=alt.Scale(domain=[0, top], nice=False),
        axis=alt.Axis(format=".0%" if options.percent else "~g", tickCount=6, labels=first),
    )
    colour = alt.Color(
        "block:N",
        sort=blocks,
        scale=alt.Scale(domain=blocks, range=list(colours.values())),
        legend=frames.block_legend(blocks, theme),
    )
    interval = options.low in rows.columns and options.high in rows.columns
    base = alt.Chart(alt.InlineData(values=frames.records(rows.drop("position"))))
    layers: list[alt.Chart] = []
    if interval and len(blocks) <= frames.MANY:
        layers.append(
            base.mark_area(aria=False).encode(
                x=x,
                y=alt.Y(f"{options.low}:Q"),
                y2=alt.Y2(f"{options.high}:Q"),
                color=colour,
                opacity=alt.condition("block", alt.value(0.13), alt.value(0.02)),
            )
        )
    layers += _rules(rules, options, theme, width if last else None, top)
    tooltip = [
        alt.Tooltip("block:N"),
        alt.Tooltip(f"{options.x}:Q", title=words(options.x)),
        alt.Tooltip(f"{options.metric}:Q", title=words(options.metric), format=number),
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
    lines = base.encode(x=x, y=y, color=colour)
    layers.append(
        lines.mark_line(strokeWidth=1.8).encode(
            opacity=alt.condition("block", alt.value(0.95), alt.value(0.12)),
            order=alt.Order(f"{options.x}:Q"),
        )
    )
    layers.append(
        lines.mark_point(filled=True, size=26, aria=False).encode(
            opacity=alt.condition("block", alt.value(1.0), alt.value(0.12)), tooltip=tooltip
        )
    )
    layers += frames.published_circles(
        base.encode(x=x, color=colour),
        rows,
        options.metric,
        about=[alt.Tooltip("block:N"), alt.Tooltip(f"{options.x}:Q", title=words(options.x))],
        number=number,
    )
    best = _best(rows, options)
    if best is not None:
        right = best[options.x] > steps[0] + 0.6 * (steps[-1] - steps[0])
        peak = {
            options.x: best[options.x],
            "at": best[options.metric] if best.get(options.high) is None else best[options.high],
            "label": f"{best['block']} {_print(best[options.metric], options)}",
        }
        layers += frames.haloed(
            alt.Chart(alt.InlineData(values=[peak])).encode(
                x=f"{options.x}:Q", y="at:Q", text="label:N"
            ),
            align="right" if right else "left",
            baseline="bottom",
            dx=6 if right else -6,
            dy=-3,
            fontWeight=600,
            fontSize=theme.font_size - 1,
        )
    layers[0] = layers[0].properties(name=f"{name}_first")
    return alt.LayerChart(layer=layers, name=name, width=width, height=options.height)


def _rules(
    rules: pl.DataFrame, options: Options, theme: Theme, width: int | None, top: float
) -> list[alt.Chart]:
    """Dashed rules, with names and values at the right end if ``width`` is given."""
    if rules.is_empty():
        return []
    number = ".1%" if options.percent else ".3~g"
    entries = [
        {
            "value": row["value"],
            "baseline": words(row["baseline"]),
            "label": f"{words(row['baseline'])} {_print(row['value'], options)}",
        }
        for row in rules.sort("value", maintain_order=True).iter_rows(named=True)
    ]
    gap = (theme.font_size + 2) / options.height * top
    for entry, at in zip(entries, apart([e["value"] for e in entries], gap), strict=True):
        entry["at"] = at
    base = alt.Chart(alt.InlineData(values=entries))
    marks = [
        base.mark_rule(strokeDash=[5, 4], color=theme.muted, strokeWidth=1).encode(
            y="value:Q",
            tooltip=[
                alt.Tooltip("baseline:N"),
                alt.Tooltip("value:Q", title=words(options.metric), format=number),
            ],
        )
    ]
    if width is not None:
        marks.append(
            base.mark_text(
                align="left", dx=5, color=theme.muted, fontSize=theme.font_size - 1
            ).encode(x=alt.value(width), y="at:Q", text="label:N")
        )
    return marks


def apart(values: Sequence[float], gap: float) -> list[float]:
    """Move ascending values up, as little as needed, until neighbours are ``gap`` apart."""
    moved: list[float] = []
    for value in values:
        moved.append(max(value, moved[-1] + gap) if moved else value)
    return moved


def legible(values: Sequence[float], width: int, *, gap: int = 28) -> list[float]:
    """Choose the ticks whose labels have room on an axis of ``width`` pixels.

    The first and the last value stay; of the others each that is ``gap`` pixels from its
    neighbours. ``values`` ascend.
    """
    if len(values) < 2:
        return list(values)
    scale = width / (values[-1] - values[0])
    kept = [values[0]]
    for value in values[1:-1]:
        if min(value - kept[-1], values[-1] - value) * scale >= gap:
            kept.append(value)
    return [*kept, values[-1]]


def _best(rows: pl.DataFrame, options: Options) -> dict[str, Any] | None:
    if options.metric in ERRORS:
        return None
    best = rows.filter(pl.col(options.metric).is_finite())
    row = best.sort(options.metric, descending=True, maintain_order=True).head(1)
    return row.row(0, named=True) if len(row) else None


def caption(table: pl.DataFrame, options: Options) -> str:
    """Say what the lines show, over how many images or pairs, and where each panel is best."""
    rows, rules = _rows(table, options)
    chosen = frames.select(table, options.filter, [])
    what = options.y_title or words(options.metric)
    where = frames.conditions(chosen, without=[options.x])
    over = ", ".join(
        filter(None, (frames.count(rows, noun, noun) for noun in ("images", "pairs", "points")))
    )
    text = f"{what[:1].upper()}{what[1:]} by block and {words(options.x)}"
    text += (f" ({where})" if where else "") + (f", over {over}" if over else "") + "."
    interval = options.low in rows.columns and options.high in rows.columns
    if interval and rows["block"].n_unique() <= frames.MANY:
        text += intervals(table, "Bands")
    if len(rules):
        names = [words(name) for name in frames.distinct(rules, "baseline")]
        text += f" Dashed rules: {', '.join(names)}."
    text += frames.published_note(rows, options.metric, "Open circles")
    peaks = []
    for panel in frames.distinct(rows, options.panel):
        best = _best(rows.filter(pl.col(options.panel) == panel), options)
        if best is not None:
            peaks.append(
                f"{named(options.panel, panel)} {best['block']} at "
                f"{named(options.x, best[options.x])} ({_print(best[options.metric], options)})"
            )
    return text + (f" Highest: {'; '.join(peaks)}." if peaks else "")


def _print(value: float, options: Options) -> str:
    return f"{100 * value:.1f} %" if options.percent else f"{value:.3g}"
