"""What variants of a task gain over the plain one, with paired intervals (thesis, section 4.3).

Of many gains that are nothing some have an interval that excludes 0. So those that hold after
Holm's correction for all that were tried are marked, where the table has its p values.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import altair as alt
import polars as pl

from reprscope.figures import frames
from reprscope.figures.repeated import intervals
from reprscope.figures.theme import Theme
from reprscope.measures.statistics import SIGNIFICANT
from reprscope.models.labels import block_label, in_network_order, words
from reprscope.runtime.errors import UserError

VALUE_WIDTH = 52
CHARACTER = 6.2
ROW = 22
DOT = 12


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the dots show.

    Parameters
    ----------
    metric : str
        Column drawn as dots: a difference of shares.
    low, high : str
        Columns with the ends of its interval.
    adjusted : str
        Column with p values that are corrected for all gains that were tried; without it all dots
        look alike.
    score : str
        Column of the score that is gained, by which the block is chosen.
    filter : mapping of column to value or list of values
        Rows to draw. Columns it leaves open are filtered to the test split, alpha 0.1 and the
        mean over points, where the table has them.
    positions : sequence of str
        Module paths to draw; without it the block with the highest plain score, on the validation
        split where there is one, for each panel.
    variant : str
        Column that tells the variants apart.
    panel : str
        Column that gives the panels, one below the other.
    title, x_title : str
        Title of the figure and of the axis.
    """

    metric: str = "gain"
    low: str = "gain_low"
    high: str = "gain_high"
    adjusted: str = "gain_p_holm"
    score: str = "pck"
    filter: Mapping[str, Any] = field(default_factory=dict)
    positions: Sequence[str] = ()
    variant: str = "task"
    panel: str = "model"
    title: str = ""
    x_title: str = "gain in PCK, percentage points"


def needs(options: Options) -> list[str]:
    """Columns that the figure needs."""
    return [
        options.variant,
        options.panel,
        options.metric,
        options.low,
        options.high,
        "position",
        options.score,
        "estimator",
    ]


def _rows(table: pl.DataFrame, options: Options) -> pl.DataFrame:
    """Rows to draw, in the order of the table, with ``block`` and numbers in percentage points."""
    chosen = frames.select(table, options.filter, needs(options))
    chosen = chosen.filter(pl.col(options.metric).is_not_null())
    if chosen.is_empty():
        raise UserError(
            "No row of the table has a gain: let the experiment measure variants of its task."
        )
    panels = []
    for panel in frames.distinct(chosen, options.panel):
        rows = chosen.filter(pl.col(options.panel) == panel)
        positions = list(options.positions) or [_best(table, options, panel).position]
        panels.append(frames.select(rows, {"position": positions}, []))
    rows = pl.concat(panels)
    frames.one_row_per(rows, [options.variant, options.panel, "position"])
    order = in_network_order(rows["position"])
    return rows.with_columns(
        *(
            (100 * pl.col(column)).alias(name)
            for name, column in (
                ("value", options.metric),
                ("from", options.low),
                ("to", options.high),
            )
        ),
        holds=(
            (pl.col(options.adjusted) < SIGNIFICANT).fill_null(False)
            if options.adjusted in rows.columns
            else pl.lit(None, pl.Boolean)
        ),
        block=pl.col("position").replace_strict({p: block_label(p) for p in order}),
        variant=pl.col(options.variant).str.replace_all("_", " ", literal=True),
    )


class _Best(NamedTuple):
    position: str
    split: str
    pairs: int


def _best(table: pl.DataFrame, options: Options, panel: Any) -> _Best:
    """Position of the highest plain score, and on what it is the highest."""
    plain = table.filter((pl.col("estimator") == "plain") & (pl.col(options.panel) == panel))
    filters = dict(options.filter)
    if "split" in plain.columns and "validation" in plain["split"]:
        filters["split"] = "validation"
    filters = {key: value for key, value in filters.items() if key != "estimator"}
    rows = frames.select(plain, filters, [])
    best = rows.sort(options.score, descending=True, maintain_order=True).row(0, named=True)
    return _Best(best["position"], best.get("split", ""), best.get("pairs", 0))


def draw(table: pl.DataFrame, options: Options, theme: Theme) -> alt.TopLevelMixin:
    """Draw a dot with its interval for each variant and block, filled where the gain holds.

    Raises
    ------
    UserError
        If a column is missing, there are no variants, or several rows fall on one dot.
    """
    rows = _rows(table, options)
    panels = frames.distinct(rows, options.panel)
    colours = theme.block_colours(rows["position"])
    names = {position: block_label(position) for position in colours}
    # With too few images a gain has no interval.
    ends = [rows[name].drop_nulls().to_list() for name in ("value", "from", "to")]
    low, high = min(itertools.chain(*ends)), max(itertools.chain(*ends))
    room = 0.06 * max(high - low, 1e-9)
    domain = [min(low, 0) - room, max(high, 0) + room]
    charts = []
    for number, panel in enumerate(panels):
        here = rows.filter(pl.col(options.panel) == panel)
        last = number == len(panels) - 1
        charts.append(_panel(here, names, colours, domain, options, theme, f"panel_{number}", last))
        heading = str(panel)
        if here["position"].n_unique() == 1:
            heading += f", {here['block'][0]}"
        charts[-1] = charts[-1].properties(
            title=alt.Title(heading, frame="group", fontSize=theme.font_size + 1)
        )
    return frames.finish(alt.vconcat(*charts, spacing=14), theme, title=options.title)


def _panel(
    rows: pl.DataFrame,
    names: Mapping[str, str],
    colours: Mapping[str, str],
    domain: list[float],
    options: Options,
    theme: Theme,
    name: str,
    last: bool,
) -> alt.LayerChart:
    variants = frames.distinct(rows, "variant")
    blocks = [label for label in names.values() if label in set(rows["block"])]
    palette = {names[position]: colour for position, colour in colours.items()}
    label_width = int(max(map(len, variants)) * CHARACTER) + 12
    fields = ["variant", "block", "value", "from", "to", "holds"]
    shown = ("pairs", "points", options.adjusted)
    counts = [column for column in shown if column in rows.columns]
    records = frames.records(rows.select(*fields, *counts))
    for record in records:
        label = f"{record['value']:+.1f}".replace("-", "\N{MINUS SIGN}")
        record["label"] = "0.0" if label[1:] == "0.0" else label
    base = alt.Chart(alt.InlineData(values=records))
    y = alt.Y(
        "variant:N",
        sort=variants,
        title=None,
        scale=alt.Scale(paddingInner=0.15, paddingOuter=0.1),
        axis=alt.Axis(ticks=False, domain=False, labelPadding=8, labelLimit=400),
    )
    offset = alt.YOffset("block:N", sort=blocks, scale=alt.Scale(domain=blocks))
    x = alt.X(
        "value:Q",
        scale=alt.Scale(domain=domain, nice=False),
        axis=alt.Axis(
            title=options.x_title if last else None,
            grid=True,
            tickCount=7,
            labelExpr="(datum.value > 0 ? '+' : '') + format(datum.value, '~g')",
        ),
    )
    colour = alt.Color(
        "block:N",
        sort=blocks,
        scale=alt.Scale(domain=blocks, range=[palette[block] for block in blocks]),
        legend=alt.Legend(title="block", orient="top") if len(blocks) > 1 else None,
    )
    tooltip = [
        alt.Tooltip("variant:N"),
        alt.Tooltip("block:N"),
        alt.Tooltip("value:Q", format="+.2f", title=words(options.metric)),
        alt.Tooltip("from:Q", format="+.2f", title="95 % from"),
        alt.Tooltip("to:Q", format="+.2f"),
        *(
            alt.Tooltip(f"{column}:Q", format=".2g", title="p, after Holm")
            if column == options.adjusted
            else alt.Tooltip(f"{column}:Q", format=",")
            for column in counts
        ),
    ]
    zero = alt.Chart(alt.InlineData(values=[{"zero": 0}])).mark_rule(
        color=theme.ink, strokeWidth=1, aria=False
    )
    layers = [
        zero.encode(x=alt.X("zero:Q")),
        base.mark_rule(strokeWidth=2.2, aria=False).encode(
            x=alt.X("from:Q"), x2=alt.X2("to:Q"), y=y, yOffset=offset, color=colour
        ),
        base.mark_point(filled=False, size=54, opacity=1, strokeWidth=1.6).encode(
            x=x,
            y=y,
            yOffset=offset,
            color=colour,
            # Open dots are gains that may be none.
            fill=alt.condition("datum.holds === false", alt.value("white"), colour),
            tooltip=tooltip,
        ),
        base.mark_text(align="right", fontSize=theme.font_size - 1).encode(
            x=alt.value(theme.width - label_width - 20), y=y, yOffset=offset, text="label:N"
        ),
    ]
    layers[0] = layers[0].properties(name=f"{name}_zero")
    return alt.LayerChart(
        layer=layers,
        name=name,
        width=theme.width - label_width - VALUE_WIDTH,
        height=len(variants) * max(ROW, DOT * len(blocks) + 8),
    )


def caption(table: pl.DataFrame, options: Options) -> str:
    """Say what is gained over what, in which block, and which variants gain or lose for sure."""
    rows = _rows(table, options)
    where = frames.conditions(frames.select(table, options.filter, []))
    over = ", ".join(filter(None, (frames.count(rows, noun, noun) for noun in ("pairs", "points"))))
    text = f"What each variant gains over the plain task{f' ({where})' if where else ''}"
    text += f", over {over}" if over else ""
    text += f".{intervals(table, 'Lines')} Both were measured on the same pairs."
    if not options.positions:
        best = _best(table, options, rows[options.panel][0])
        on = f" on {best.pairs:,} {best.split} pairs" if best.pairs else ""
        text += f" Shown is the block with the highest plain score{on}."
    return text + _surviving(rows, options)


def _surviving(rows: pl.DataFrame, options: Options) -> str:
    """Which gains and losses hold after the correction; how many intervals exclude 0 without it."""
    if rows["holds"].is_null().all():
        sure = rows.filter((pl.col("from") > 0) | (pl.col("to") < 0))
        return (
            f" {len(sure)} of {len(rows)} intervals exclude 0; without any gain, "
            f"{0.05 * len(rows):.2g} would on average."
        )
    tried = frames.count(rows, "gains_tried", "gains tried") or "all gains tried"
    said = [
        f"{row['variant']} {row['value']:+.1f} ({row[options.panel]}, {row['block']})"
        for row in rows.filter("holds").iter_rows(named=True)
    ]
    if not said:
        return f" Dots are open: nothing holds after Holm's correction for {tried}."
    text = f" After Holm's correction for {tried}, these hold: {'; '.join(said)}."
    return text if rows["holds"].all() else f"{text} The other dots are open."
