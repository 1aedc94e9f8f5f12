"""One value per block over the steps of a degradation, absolute and relative (figure 16's shape).

A panel stands for one degradation: the views ``blur-1``, ``blur-2``, … after the view from which it
starts (see :mod:`reprscope.representations.degradations`). The number is the step; steps are drawn
from 0, the undegraded view, to 1, the last.

The relative change is left out where the undegraded value is not above chance, since there is
nothing to lose. It has a band where the table has its interval, which does not follow from those of
the two values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import altair as alt
import polars as pl

from reprscope.figures import frames
from reprscope.figures.repeated import intervals
from reprscope.figures.theme import Theme
from reprscope.models.labels import block_label, in_network_order, words
from reprscope.representations.degradations import BLIND, start_of, step_of
from reprscope.runtime.errors import UserError

CHANGE: Final = ("change_low", "change_high")
"""Columns with the interval of a change."""

RELATED: Final = frozenset({"accuracy", "pck"})
"""Metrics that the tasks relate to the undegraded view, as ``change`` with its interval."""

LEGEND_WIDTH: Final = 84
AXIS_WIDTH: Final = 46
SPACING: Final = 14


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the lines show.

    Parameters
    ----------
    metric : str
        Column drawn as lines.
    low, high : str
        Columns with the ends of the interval; no band is drawn if the table lacks them.
    degradations : sequence of str
        The beginnings of the views' names, such as ``blur`` for ``blur-1``, ``blur-2``, …; by
        default all that the table has.
    labels : mapping of str to str
        Titles of the panels by these beginnings; by default the beginnings themselves.
    filter : mapping of column to value or list of values
        Rows to draw. Columns it leaves open are filtered to the rows of kind ``score``, the
        estimator ``cosine``, the test split, alpha 0.1 and the mean over points, where the table
        has them.
    relative : bool
        Draw the change relative to the undegraded view as well, below.
    columns : int
        Panels side by side.
    title, y_title : str
        Title of the figure; title of the vertical axis, by default the metric's name.
    height : int
        Height of a panel in pixels.
    """

    metric: str = "accuracy"
    low: str = "low"
    high: str = "high"
    degradations: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    filter: Mapping[str, Any] = field(default_factory=dict)
    relative: bool = True
    columns: int = 4
    title: str = ""
    y_title: str = ""
    height: int = 170


def needs(options: Options) -> list[str]:
    """Columns that the figure needs."""
    return ["view", "position", options.metric]


def _degradations(table: pl.DataFrame, options: Options) -> dict[str, str]:
    """Undegraded view of each degradation that is drawn."""
    views = frames.distinct(table, "view")
    names = options.degradations or [step[0] for view in views if (step := step_of(view))]
    return {name: start_of(name, views) for name in names}


def _chosen(table: pl.DataFrame, options: Options, columns: list[str]) -> pl.DataFrame:
    usual = {"kind": "score", "estimator": "cosine"}
    there = {column: value for column, value in usual.items() if column in table.columns}
    return frames.select(table, there | dict(options.filter), columns)


def _with_chance(rows: pl.DataFrame, table: pl.DataFrame, options: Options) -> pl.DataFrame:
    """Rows with a column ``chance``: their own, or the score of :data:`BLIND`."""
    if "chance" in rows.columns:
        return rows
    if "estimator" not in table.columns:
        return rows.with_columns(chance=pl.lit(0.0))
    blind = frames.select(table, dict(options.filter) | {"estimator": BLIND}, [])
    chance = blind.select("view", "position", chance=options.metric)
    return rows.join(chance, on=["view", "position"], how="left", maintain_order="left")


def _rows(table: pl.DataFrame, options: Options) -> pl.DataFrame:
    """Rows with the columns ``degradation``, ``step``, ``block`` and ``change``."""
    wanted = needs(options)
    rows = _chosen(table, options, wanted)
    frames.one_row_per(rows, ["view", "position"])
    rows = _with_chance(rows, table, options)
    there = frames.distinct(rows, "view")
    parts = []
    for name, start in _degradations(rows, options).items():
        steps = {view: found[1] for view in there if (found := step_of(view)) and found[0] == name}
        if start not in there or not steps:
            missing = start if start not in there else f"{name}-1"
            raise UserError(
                f"The table has no view {missing}: correct the figure's `degradations`, or add the "
                f"view to the experiment (there are {', '.join(there)})."
            )
        last = max(steps.values())
        where = {start: 0.0} | {view: step / last for view, step in steps.items()}
        parts.append(
            rows.filter(pl.col("view").is_in(list(where))).select(
                *dict.fromkeys([*wanted, "chance", *_extra(rows, options)]),
                degradation=pl.lit(name),
                step=pl.col("view").replace_strict(where, return_dtype=pl.Float64),
            )
        )
    if not parts:
        raise UserError(
            f"The table has no view whose name ends in a step, such as blur-1; it has "
            f"{', '.join(there)}."
        )
    order = in_network_order(rows["position"])
    numbered = {position: number for number, position in enumerate(order)}
    drawn = pl.concat(parts)
    least = options.low if options.low in drawn.columns else options.metric
    undegraded = drawn.filter((pl.col("step") == 0) & (pl.col(least) > pl.col("chance"))).select(
        "degradation", "position", undegraded=options.metric
    )
    return (
        drawn.join(undegraded, on=["degradation", "position"], how="left", maintain_order="left")
        .with_columns(
            change=_change_of(drawn, options),
            block=pl.col("position").replace_strict({p: block_label(p) for p in order}),
            order=pl.col("position").replace_strict(numbered),
        )
        # Relative to itself; the table may compare an undegraded view with another.
        .with_columns(
            pl.when(pl.col("step") == 0).then("change").otherwise(end).alias(end)
            for end in CHANGE
            if end in drawn.columns
        )
        .sort("order", "step", maintain_order=True)
        .drop("order", "undegraded")
    )


def _change_of(drawn: pl.DataFrame, options: Options) -> pl.Expr:
    """The table's change where it has one; at step 0 none is left of an undegraded view itself."""
    computed = pl.col(options.metric) / pl.col("undegraded") - 1
    if "change" not in drawn.columns:
        return computed
    return pl.when(pl.col("step") == 0).then(computed).otherwise("change")


def _extra(rows: pl.DataFrame, options: Options) -> list[str]:
    extra = [options.low, options.high, "images", "pairs", "points"]
    extra += ("change", *CHANGE) if options.metric in RELATED else ()
    there = [column for column in extra if column in rows.columns]
    return there + frames.published_columns(rows, options.metric)


def draw(table: pl.DataFrame, options: Options, theme: Theme) -> alt.TopLevelMixin:
    """Draw the lines with their bands; a click in the legend singles out a block.

    Bands of more than 17 lines would hide each other, so those are left to the tooltips. Open
    circles are published values, where the table has them.

    Raises
    ------
    UserError
        If a column or a view is missing, or several rows fall on one point.
    """
    rows = _rows(table, options)
    names = frames.distinct(rows, "degradation")
    columns = max(1, min(options.columns, len(names)))
    room = (
        theme.width - AXIS_WIDTH - (LEGEND_WIDTH if rows["block"].n_unique() <= frames.MANY else 0)
    )
    width = max(90, (room - (columns - 1) * SPACING) // columns)
    pick = alt.selection_point(name="block", fields=["block"], bind="legend")
    interval = options.low in rows.columns and options.high in rows.columns
    published = frames.published_columns(rows, options.metric)[:1]
    tallest = [options.metric, *([options.high] * interval), *published]
    # Few images have no intervals: a column may hold no number at all.
    top = max(float(rows[c].fill_null(0.0).max()) for c in tallest)  # type: ignore[arg-type]
    # Bands are cut off: that of a block just above chance may be as high as all lines together.
    lowest = min(0.0, float(rows["change"].min() or 0))  # type: ignore[arg-type]
    highest = max(0.0, float(rows["change"].max() or 0))  # type: ignore[arg-type]
    views: list[tuple[str, tuple[float, float]]] = [(options.metric, (0.0, 1.04 * top))]
    if options.relative:
        margin = 0.03 * (highest - lowest)
        views.append(("change", (lowest - margin, highest + margin)))
    lines: list[alt.HConcatChart] = []
    for start in range(0, len(names), columns):
        for column, domain in views:
            charts = [
                _panel(
                    rows.filter(pl.col("degradation") == name),
                    column,
                    domain,
                    options=options,
                    theme=theme,
                    colours=theme.block_colours(rows["position"]),
                    width=width,
                    name=f"{column}_{start + number}",
                    heading=options.labels.get(name, words(name)),
                    first=number == 0,
                    top=column == options.metric,
                    bottom=column == views[-1][0],
                )
                for number, name in enumerate(names[start : start + columns])
            ]
            if not lines:
                charts[0] = charts[0].add_params(pick)
            lines.append(alt.hconcat(*charts, spacing=SPACING).resolve_scale(color="shared"))
    chart = alt.vconcat(*lines, spacing=10).resolve_scale(color="shared")
    return frames.finish(chart, theme, title=options.title)


def _panel(
    rows: pl.DataFrame,
    column: str,
    domain: tuple[float, float],
    *,
    options: Options,
    theme: Theme,
    colours: dict[str, str],
    width: int,
    name: str,
    heading: str,
    first: bool,
    top: bool,
    bottom: bool,
) -> alt.LayerChart:
    blocks = [block_label(position) for position in colours]
    metric = options.y_title or words(options.metric)
    x = alt.X(
        "step:Q",
        title="step" if bottom else None,
        scale=alt.Scale(domain=[0, 1], nice=False, padding=6),
        axis=alt.Axis(values=[0, 0.5, 1], format="~g", labels=bottom),
    )
    y = alt.Y(
        f"{column}:Q",
        title=(metric if column == options.metric else f"change of {metric}") if first else None,
        scale=alt.Scale(domain=list(domain), nice=False),
        axis=alt.Axis(format=".0%", tickCount=5, labels=first),
    )
    colour = alt.Color(
        "block:N",
        sort=blocks,
        scale=alt.Scale(domain=blocks, range=list(colours.values())),
        legend=frames.block_legend(blocks, theme),
    )
    base = alt.Chart(alt.InlineData(values=frames.records(rows.drop("position", "degradation"))))
    interval = options.low in rows.columns and options.high in rows.columns
    relative = CHANGE[0] in rows.columns
    layers: list[alt.Chart] = []
    low, high = (options.low, options.high) if column == options.metric else CHANGE
    if low in rows.columns and high in rows.columns and len(blocks) <= frames.MANY:
        layers.append(
            base.mark_area(aria=False, clip=True).encode(
                x=x,
                y=alt.Y(f"{low}:Q"),
                y2=alt.Y2(f"{high}:Q"),
                color=colour,
                opacity=alt.condition("block", alt.value(0.13), alt.value(0.02)),
            )
        )
    tooltip = [
        alt.Tooltip("block:N"),
        alt.Tooltip("view:N"),
        alt.Tooltip(f"{options.metric}:Q", title=metric, format=".1%"),
        *(
            alt.Tooltip(f"{end}:Q", title=title, format=".1%")
            for end, title in ((options.low, "95 % from"), (options.high, "to"))
            if interval
        ),
        alt.Tooltip("change:Q", title="change", format="+.1%"),
        *(
            alt.Tooltip(f"{end}:Q", title=title, format="+.1%")
            for end, title in zip(CHANGE, ("change, 95 % from", "to"), strict=True)
            if relative
        ),
        *(
            alt.Tooltip(f"{count}:Q", format=",")
            for count in ("images", "pairs", "points")
            if count in rows.columns
        ),
    ]
    lines = base.encode(x=x, y=y, color=colour)
    layers.append(
        lines.mark_line(strokeWidth=1.8).encode(
            opacity=alt.condition("block", alt.value(0.95), alt.value(0.12)),
            order=alt.Order("step:Q"),
        )
    )
    layers.append(
        lines.mark_point(filled=True, size=18, aria=False).encode(
            opacity=alt.condition("block", alt.value(1.0), alt.value(0.12)), tooltip=tooltip
        )
    )
    if column == options.metric:
        layers += frames.published_circles(
            base.encode(x=x, color=colour),
            rows,
            column,
            about=[alt.Tooltip("block:N"), alt.Tooltip("view:N")],
            number=".1%",
        )
    layers[0] = layers[0].properties(name=f"{name}_first")
    title = alt.Title(
        heading, anchor="middle", frame="group", fontSize=theme.font_size + 1, offset=6
    )
    return alt.LayerChart(
        layer=layers,
        name=name,
        width=width,
        height=options.height,
        title=title if top else alt.Undefined,
    )


def caption(table: pl.DataFrame, options: Options) -> str:
    """Say what the lines show, over how many images or pairs, and what each degradation costs."""
    rows = _rows(table, options)
    chosen = _chosen(table, options, [])
    what = options.y_title or words(options.metric)
    where = frames.conditions(chosen, without=["view"])
    over = ", ".join(
        filter(None, (frames.count(rows, noun, noun) for noun in ("images", "pairs", "points")))
    )
    text = f"{what[:1].upper()}{what[1:]} by block over the steps of each degradation"
    text += (f" ({where})" if where else "") + (f", over {over}" if over else "") + "."
    text += " Step 0 is the undegraded view."
    if options.relative:
        text += " Below, the change relative to it"
        lost = rows.filter((pl.col("step") == 0) & pl.col("change").is_null())
        blocks = ", ".join(frames.distinct(lost, "block"))
        chance = "chance" if "estimator" not in chosen.columns else words(BLIND)
        text += f", without {blocks}, not above {chance} at step 0." if blocks else "."
    if options.low in rows.columns and options.high in rows.columns:
        cut = " Below, they are cut off at the panels' edge." * (
            options.relative and CHANGE[0] in rows.columns
        )
        bands = intervals(table, "Bands") + cut
        text += bands * (rows["block"].n_unique() <= frames.MANY)
    text += frames.published_note(rows, options.metric, "Open circles")
    told = []
    for name in frames.distinct(rows, "degradation"):
        last = rows.filter(
            (pl.col("degradation") == name) & (pl.col("step") == 1) & pl.col("change").is_finite()
        ).sort("change", maintain_order=True)
        if len(last):
            most, least = last.row(0, named=True), last.row(-1, named=True)
            told.append(
                f"{options.labels.get(name, words(name))} {_change(most)} and {_change(least)}"
            )
    extremes = "Lowest and highest change of these blocks at the last step"
    return text + (f" {extremes}: {'; '.join(told)}." if told else "")


def _change(row: Mapping[str, Any]) -> str:
    return f"{100 * row['change']:+.0f} % in {row['block']}"
