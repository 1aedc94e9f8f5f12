"""PCK over its threshold alpha: blocks beside the estimators without features (figure 9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import altair as alt
import polars as pl

from reprscope.figures import frames
from reprscope.figures.kinds.lines_by_timestep import apart
from reprscope.figures.repeated import intervals
from reprscope.figures.theme import Theme
from reprscope.models.labels import block_label, in_network_order, named, words

AXIS_WIDTH = 52
BASELINE_WIDTH = 116
LEGEND_WIDTH = 84
SPACING = 18


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the lines show.

    Parameters
    ----------
    metric : str
        Column drawn over alpha: a share.
    low, high : str
        Columns with the ends of the interval; no band is drawn if the table lacks them.
    estimator : str
        Value of the column ``estimator`` whose rows are the lines of the blocks.
    baselines : sequence of str
        Values of ``estimator`` drawn as dashed lines, one of each per panel.
    filter : mapping of column to value or list of values
        Rows to draw. Columns it leaves open, but for ``alpha``, are filtered to the test split and
        the mean over points, where the table has them.
    panel : str
        Column that gives the panels.
    columns : int
        Panels side by side.
    title, y_title : str
        Title of the figure; title of the vertical axis, by default the metric's name.
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
    filter: Mapping[str, Any] = field(default_factory=dict)
    panel: str = "model"
    columns: int = 2
    title: str = ""
    y_title: str = ""
    height: int = 300


def needs(options: Options) -> list[str]:
    """Columns that the figure needs."""
    return [options.panel, "position", "estimator", "alpha", options.metric]


def _rows(table: pl.DataFrame, options: Options) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows of the blocks, in network order with ``block``, and of the baselines."""
    wanted = needs(options)
    every = {"alpha": table["alpha"].unique().to_list()} if "alpha" in table.columns else {}
    chosen = frames.select(table, every | dict(options.filter), wanted)
    extra = [options.low, options.high, "pairs", "points"]
    extra += frames.published_columns(chosen, options.metric)
    kept = list(dict.fromkeys([*wanted, *(c for c in extra if c in chosen.columns)]))
    rows = frames.select(chosen, {"estimator": options.estimator, **every}, []).select(kept)
    frames.one_row_per(rows, [options.panel, "position", "alpha"])
    order = in_network_order(rows["position"])
    rows = (
        rows.with_columns(
            pl.col("position").replace_strict({p: block_label(p) for p in order}).alias("block"),
            pl.col("position").replace_strict({p: i for i, p in enumerate(order)}).alias("order"),
        )
        .sort("order", "alpha", maintain_order=True)
        .drop("order")
    )
    rules = chosen.filter(pl.col("estimator").is_in(list(options.baselines))).select(kept)
    # They see no features, so that they are the same in every block.
    rules = rules.drop("position").unique(maintain_order=True)
    frames.one_row_per(rules, [options.panel, "estimator", "alpha"])
    return rows, rules.sort("estimator", "alpha", maintain_order=True)


def draw(table: pl.DataFrame, options: Options, theme: Theme) -> alt.TopLevelMixin:
    """Draw a line for each block with its band, and a dashed one for each estimator.

    A click in the legend singles out a block. Open circles are published values, where the table
    has them (:func:`reprscope.published.beside`).

    Raises
    ------
    UserError
        If a column is missing, or several rows fall on one point.
    """
    rows, rules = _rows(table, options)
    panels = frames.distinct(rows, options.panel)
    columns = max(1, min(options.columns, len(panels)))
    room = theme.width - AXIS_WIDTH - LEGEND_WIDTH - columns * BASELINE_WIDTH
    width = min(460, (room - (columns - 1) * (SPACING + 20)) // columns)
    shown = [options.metric, options.high, *frames.published_columns(rows, options.metric)[:1]]
    tops = [part[c].max() for c in shown for part in (rows, rules) if c in part.columns]
    top = 1.04 * max(float(value) for value in tops if value is not None)  # type: ignore[arg-type]
    pick = alt.selection_point(name="block", fields=["block"], bind="legend")
    charts = []
    for number, panel in enumerate(panels):
        chart = _panel(
            rows.filter(pl.col(options.panel) == panel),
            rules.filter(pl.col(options.panel) == panel),
            options=options,
            theme=theme,
            colours=theme.block_colours(rows["position"]),
            top=top,
            width=width,
            first=number % columns == 0,
        ).properties(
            name=f"panel_{number}",
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
    first: bool,
) -> alt.LayerChart:
    blocks = [block_label(position) for position in colours]
    x = alt.X(
        "alpha:Q",
        title="alpha, of the longer side of the target's box",
        scale=alt.Scale(nice=False, padding=4),
        axis=alt.Axis(tickCount=6, format="~g"),
    )
    y = alt.Y(
        f"{options.metric}:Q",
        title=(options.y_title or words(options.metric)) if first else None,
        scale=alt.Scale(domain=[0, top], nice=False),
        axis=alt.Axis(format=".0%", tickCount=6, labels=first),
    )
    colour = alt.Color(
        "block:N",
        sort=blocks,
        scale=alt.Scale(domain=blocks, range=list(colours.values())),
        legend=frames.block_legend(blocks, theme),
    )
    base = alt.Chart(alt.InlineData(values=frames.records(rows.drop("position"))))
    interval = options.low in rows.columns and options.high in rows.columns
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
    layers += _baselines(rules, options, theme, x, y, width, top)
    tooltip = [alt.Tooltip("block:N"), *_numbers(options, interval)]
    lines = base.encode(x=x, y=y, color=colour)
    layers.append(
        lines.mark_line(strokeWidth=1.8).encode(
            opacity=alt.condition("block", alt.value(0.95), alt.value(0.12)),
            order=alt.Order("alpha:Q"),
        )
    )
    layers.append(
        lines.mark_point(filled=True, size=20, aria=False).encode(
            opacity=alt.condition("block", alt.value(1.0), alt.value(0.12)), tooltip=tooltip
        )
    )
    layers += frames.published_circles(
        base.encode(x=x, color=colour),
        rows,
        options.metric,
        about=[alt.Tooltip("block:N"), alt.Tooltip("alpha:Q")],
        number=".1%",
    )
    return alt.LayerChart(layer=layers, width=width, height=options.height)


def _numbers(options: Options, interval: bool) -> list[alt.Tooltip]:
    found = [
        alt.Tooltip("alpha:Q", format="~g"),
        alt.Tooltip(f"{options.metric}:Q", title=words(options.metric), format=".1%"),
    ]
    if interval:
        found += [
            alt.Tooltip(f"{options.low}:Q", format=".1%", title="95 % from"),
            alt.Tooltip(f"{options.high}:Q", format=".1%", title="to"),
        ]
    return found


def _baselines(
    rules: pl.DataFrame,
    options: Options,
    theme: Theme,
    x: alt.X,
    y: alt.Y,
    width: int,
    top: float,
) -> list[alt.Chart]:
    """Dashed lines, with names where they end, and circles at published values."""
    if rules.is_empty():
        return []
    rules = rules.with_columns(
        baseline=pl.Series([words(name) for name in rules["estimator"]], dtype=pl.String)
    )
    base = alt.Chart(alt.InlineData(values=frames.records(rules))).encode(
        x=x, detail="baseline:N", color=alt.value(theme.muted)
    )
    interval = options.low in rules.columns and options.high in rules.columns
    tooltip = [alt.Tooltip("baseline:N"), *_numbers(options, interval)]
    layers = [
        base.mark_line(strokeDash=[5, 4], strokeWidth=1.2).encode(y=y, order=alt.Order("alpha:Q")),
        base.mark_point(filled=True, size=12, aria=False).encode(y=y, tooltip=tooltip),
    ]
    published = frames.published_columns(rules, options.metric)
    if published:
        value, place = published
        layers.append(
            base.transform_filter(f"isValid(datum['{value}'])")
            .mark_point(filled=False, size=54, strokeWidth=1, aria=False)
            .encode(
                y=alt.Y(f"{value}:Q"),
                tooltip=[
                    alt.Tooltip("baseline:N"),
                    alt.Tooltip("alpha:Q", format="~g"),
                    alt.Tooltip(f"{value}:Q", title="published", format=".1%"),
                    alt.Tooltip(f"{place}:N", title="in"),
                ],
            )
        )
    ends = (
        rules.drop_nulls(options.metric)
        .sort("alpha", maintain_order=True)
        .unique("baseline", keep="last", maintain_order=True)
        .sort(options.metric, maintain_order=True)
    )
    gap = (theme.font_size + 2) / options.height * top
    entries = [
        {"at": at, "baseline": name}
        for at, name in zip(
            apart(ends[options.metric].to_list(), gap), ends["baseline"], strict=True
        )
    ]
    layers.append(
        alt.Chart(alt.InlineData(values=entries))
        .mark_text(align="left", dx=6, color=theme.muted, fontSize=theme.font_size - 1)
        .encode(x=alt.value(width), y="at:Q", text="baseline:N")
    )
    return layers


def caption(table: pl.DataFrame, options: Options) -> str:
    """Say what the lines show, over how many pairs, and what is published."""
    rows, rules = _rows(table, options)
    every = {"alpha": table["alpha"].unique().to_list()}
    where = frames.conditions(frames.select(table, every | dict(options.filter), []))
    over = ", ".join(filter(None, (frames.count(rows, one, one) for one in ("pairs", "points"))))
    what = options.y_title or words(options.metric)
    text = f"{what[:1].upper()}{what[1:]} over alpha, by block" + (f" ({where})" if where else "")
    text += (f", over {over}" if over else "") + "."
    interval = options.low in rows.columns and options.high in rows.columns
    if interval and rows["block"].n_unique() <= frames.MANY:
        text += intervals(table, "Bands")
    if len(rules):
        names = [words(name) for name in options.baselines if name in rules["estimator"]]
        text += f" Dashed, without features: {', '.join(names)}."
    both = pl.concat([rows.drop("position", "block"), rules], how="diagonal")
    return text + frames.published_note(both, options.metric, "Open circles")
