"""Two conditions by block: a pair of dots joined by a line, and the difference in figures."""

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

LABEL_WIDTH = 64
DIFFERENCE_WIDTH = 46
STEP = 17


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the dots show.

    Parameters
    ----------
    metric : str
        Column drawn as dots.
    low, high : str
        Columns with the ends of its interval.
    difference : str
        Column with the second condition's value less the first's on the same items, in the rows of
        the second; the ends of its interval are in the same with ``_low`` and ``_high``. Intervals
        of the two values do not tell it, since both rise and fall with the items.
    compare : str
        Column that tells the two conditions apart.
    first, second : str
        Its values for the two.
    first_label, second_label : str
        What the legend calls them, by default the values.
    reference : str
        Column drawn as a tick in each line; none if the table lacks it.
    filter : mapping of column to value or list of values
        Rows to draw. Columns it leaves open are filtered to the test split, alpha 0.1 and the
        mean over points, where the table has them.
    panel : str
        Column that gives the panels.
    columns : int
        Panels side by side.
    percent : bool
        Print fractions as percentages, and differences in percentage points.
    title, x_title : str
        Title of the figure; title of the horizontal axis, by default the metric's name.
    """

    metric: str = "share"
    low: str = "low"
    high: str = "high"
    difference: str = "difference"
    compare: str = "noise"
    first: str = "per_image"
    second: str = "shared"
    first_label: str = ""
    second_label: str = ""
    reference: str = "chance"
    filter: Mapping[str, Any] = field(default_factory=dict)
    panel: str = "timestep"
    columns: int = 3
    percent: bool = True
    title: str = ""
    x_title: str = ""


def needs(options: Options) -> list[str]:
    """Columns that the figure needs."""
    return [
        options.panel,
        options.compare,
        "position",
        options.metric,
        options.low,
        options.high,
        *(f"{options.difference}{end}" for end in ("", "_low", "_high")),
    ]


def _rows(table: pl.DataFrame, options: Options) -> pl.DataFrame:
    """One row for each panel and block with both values and their difference."""
    names = [options.metric, options.low, options.high]
    given = {f"difference{end}": f"{options.difference}{end}" for end in ("", "_low", "_high")}
    chosen = frames.select(
        table,
        {**options.filter, options.compare: [options.first, options.second]},
        needs(options),
    )
    keys = [options.panel, "position"]
    frames.one_row_per(chosen, [*keys, options.compare])
    extra = [c for c in (options.reference, "images", "pairs", "points") if c in chosen.columns]
    sides = [
        chosen.filter(pl.col(options.compare) == value).select(
            *keys,
            *(pl.col(name).cast(float).alias(f"{side}_{part}") for name, part in _named(names)),
            *(
                extra
                if side == "first"
                else (pl.col(b).cast(float).alias(a) for a, b in given.items())
            ),
        )
        for side, value in (("first", options.first), ("second", options.second))
    ]
    both = sides[0].join(sides[1], on=keys, how="inner", maintain_order="left")
    if both.is_empty():
        raise UserError(
            f"No block has both {options.compare} {options.first} and {options.second}: measure "
            "both in the experiment, or correct the figure's `first` and `second`."
        )
    order = in_network_order(both["position"])
    return (
        both.with_columns(
            pl.col("position").replace_strict({p: block_label(p) for p in order}).alias("block"),
            pl.col("position").replace_strict({p: i for i, p in enumerate(order)}).alias("order"),
        )
        .with_columns(
            label=pl.col("difference").map_elements(
                lambda value: _signed(value, options), return_dtype=pl.String
            ),
            clear=((pl.col("difference_low") > 0) | (pl.col("difference_high") < 0)).fill_null(
                value=False
            ),
        )
        .sort("order", maintain_order=True)
        .drop("position", "order")
    )


def _named(names: Sequence[str]) -> list[tuple[str, str]]:
    return list(zip(names, ("value", "low", "high"), strict=True))


def draw(table: pl.DataFrame, options: Options, theme: Theme) -> alt.TopLevelMixin:
    """Draw one panel of blocks for each value of ``panel``, blocks from the top in network order.

    Differences whose interval leaves out 0 are printed in bold.

    Raises
    ------
    UserError
        If a column is missing, several rows fall on one dot, or no block has both conditions.
    """
    rows = _rows(table, options)
    panels = frames.distinct(rows, options.panel)
    panels = sorted(panels) if rows.schema[options.panel].is_numeric() else panels
    columns = max(1, min(options.columns, len(panels)))
    blocks = frames.distinct(rows, "block")
    spacing = 14
    room = theme.width - LABEL_WIDTH - columns * DIFFERENCE_WIDTH - (columns - 1) * spacing - 16
    width = max(90, room // columns)
    ends = [f"{side}_{part}" for side in ("first", "second") for part in ("value", "low", "high")]
    drawn = [value for end in ends for value in rows[end].drop_nulls().to_list()]
    low, high = min(0.0, *drawn), max(drawn)
    if options.reference in rows.columns:
        high = max(high, float(rows[options.reference].max()))  # type: ignore[arg-type]
    charts = [
        _panel(
            rows.filter(pl.col(options.panel) == panel),
            options=options,
            theme=theme,
            blocks=blocks,
            domain=(low, 1.03 * high),
            width=width,
            name=f"panel_{number}",
            first=number % columns == 0,
            heading=named(options.panel, panel),
        )
        for number, panel in enumerate(panels)
    ]
    lines = [charts[i : i + columns] for i in range(0, len(charts), columns)]
    grid = [alt.hconcat(*line, spacing=spacing).resolve_scale(color="shared") for line in lines]
    return frames.finish(
        alt.vconcat(*grid, spacing=14).resolve_scale(color="shared"), theme, title=options.title
    )


def _panel(
    rows: pl.DataFrame,
    *,
    options: Options,
    theme: Theme,
    blocks: list[str],
    domain: tuple[float, float],
    width: int,
    name: str,
    first: bool,
    heading: str,
) -> alt.LayerChart:
    number = ".1%" if options.percent else ".3~g"
    labels = {
        "first": options.first_label or words(options.first),
        "second": options.second_label or words(options.second),
    }
    colours = theme.series_colours(["first", "neither", "second"])
    scale = alt.Scale(domain=list(labels.values()), range=[colours["first"], colours["second"]])
    y = alt.Y(
        "block:N",
        sort=blocks,
        title=None,
        scale=alt.Scale(domain=blocks),
        axis=alt.Axis(labels=first, ticks=False, domain=False, grid=True, labelOverlap=False),
    )
    x_axis = alt.Axis(
        format="~%" if options.percent else "~g", tickCount=4, grid=True, labelFlush=False
    )
    x_scale = alt.Scale(domain=domain, nice=False)
    title = options.x_title or words(options.metric)
    base = alt.Chart(alt.InlineData(values=frames.records(rows)))
    tooltip = [
        alt.Tooltip("block:N"),
        *(
            alt.Tooltip(f"{side}_{part}:Q", title=said, format=number)
            for side, label in labels.items()
            for part, said in (("value", label), ("low", "95 % from"), ("high", "to"))
        ),
        alt.Tooltip("difference:Q", format="+" + number),
        alt.Tooltip("difference_low:Q", title="95 % from", format="+" + number),
        alt.Tooltip("difference_high:Q", title="to", format="+" + number),
        *(
            alt.Tooltip(f"{column}:Q", format="," if column != options.reference else number)
            for column in (options.reference, "images", "pairs", "points")
            if column in rows.columns
        ),
    ]
    layers: list[alt.Chart] = [
        base.mark_rule(strokeWidth=3, opacity=0.35, color=theme.muted, aria=False).encode(
            x=alt.X("first_value:Q", title=title, scale=x_scale, axis=x_axis),
            x2=alt.X2("second_value"),
            y=y,
        )
    ]
    if options.reference in rows.columns:
        layers.append(
            base.mark_tick(color=theme.ink, thickness=1, size=9, aria=False).encode(
                x=alt.X(f"{options.reference}:Q"), y=y
            )
        )
    for side, label in labels.items():
        of_side = base.transform_calculate(condition=f"'{label}'").encode(
            y=y,
            color=alt.Color(
                "condition:N",
                scale=scale,
                legend=alt.Legend(title=None, orient="top", symbolType="circle", symbolOpacity=1),
            ),
        )
        layers += [
            of_side.mark_rule(strokeWidth=1.2, aria=False).encode(
                x=alt.X(f"{side}_low:Q"), x2=alt.X2(f"{side}_high")
            ),
            of_side.mark_point(filled=True, size=46, opacity=1).encode(
                x=alt.X(f"{side}_value:Q"), tooltip=tooltip
            ),
        ]
    for clear in (True, False):
        layers.append(
            base.transform_filter(f"datum.clear === {str(clear).lower()}")
            .mark_text(
                align="right",
                fontWeight=600 if clear else 400,
                fontSize=theme.font_size - 1,
                color=theme.ink if clear else theme.muted,
            )
            .encode(x=alt.value(width + DIFFERENCE_WIDTH - 6), y=y, text="label:N")
        )
    layers[0] = layers[0].properties(name=f"{name}_first")
    return alt.LayerChart(
        layer=layers,
        name=name,
        width=width,
        height=STEP * len(blocks),
        title=alt.Title(heading, frame="group", fontSize=theme.font_size + 1, offset=6),
    )


def caption(table: pl.DataFrame, options: Options) -> str:
    """Say what is compared, over how many images or pairs, and where the difference is largest."""
    rows = _rows(table, options)
    chosen = frames.select(table, options.filter, [])
    where = frames.conditions(chosen, without=[options.panel, "protocol"])
    counts = (frames.count(rows, noun, noun) for noun in ("images", "pairs", "points"))
    over = ", ".join(filter(None, counts))
    names = (
        (options.first_label or words(options.first)),
        (options.second_label or words(options.second)),
    )
    what = options.x_title or words(options.metric)
    text = f"{what[:1].upper()}{what[1:]} by block in network order: {names[0]} against {names[1]}"
    text += (f" ({where})" if where else "") + (f", over {over}" if over else "") + "."
    text += intervals(table, "Lines through the dots")
    if options.reference in rows.columns:
        text += f" The tick in each line is {words(options.reference)}."
    unit = ", in percentage points" if options.percent else ""
    text += (
        f" Figures at the right: {names[1]} minus {names[0]} on the same items{unit}, bold where "
        "the 95 % interval of the difference, each by itself, leaves out 0."
    )
    most = rows.sort(pl.col("difference").abs(), descending=True, maintain_order=True)
    row = most.row(0, named=True)
    bounds = [row[f"difference_{end}"] for end in ("low", "high")]
    ends = "" if None in bounds else f" [{', '.join(_signed(b, options) for b in bounds)}]"
    panel = row[options.panel]
    place = named(options.panel, panel)
    return f"{text} Largest of {len(rows)}: {row['label']}{ends} in {row['block']} at {place}."


def _signed(value: float, options: Options) -> str:
    text = f"{100 * value:+.1f}" if options.percent else f"{value:+.3g}"
    return text.replace("-", "\N{MINUS SIGN}")
