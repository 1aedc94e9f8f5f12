"""The figure of the docs: ratios with their aims, and what a block costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import polars as pl
from reprscope.figures import frames
from reprscope.figures.theme import Theme
from reprscope.models.labels import block_label

RATIOS = ("engine", "peer", "matching")
"""Measurements where more is faster."""

LABELS = 290
"""Room of the labels at the left, in pixels."""


def draw(results: Mapping[str, Any], theme: Theme) -> alt.TopLevelMixin:
    """Draw what ``results.json`` holds.

    Above, each ratio as a dot on a logarithmic axis, from 1 (as fast as what it is compared with),
    with its aim as a tick. Below, the share of a pass that runs up to each block.
    """
    return frames.finish(
        alt.vconcat(_ratios(results, theme), _shares(results, theme), spacing=26), theme, title=""
    )


def caption(results: Mapping[str, Any]) -> str:
    """What the figure shows, and on what it was measured."""
    one = results["machine"]
    return (
        "Speed relative to the bare denoiser, to sdhelper and to a loop over pairs, with the aim "
        "of each as a tick; and the time of a pass that stops at a block, relative to the whole "
        f"pass. {one['processor']}, {one['cores']} cores."
    )


def _ratios(results: Mapping[str, Any], theme: Theme) -> alt.LayerChart:
    found = [
        {
            "label": f"{ratio['model']}: {ratio['name']}",
            "against": f"against {ratio['against']}",
            "value": ratio["value"],
            "aim": ratio["least"],
            "right": max(ratio["value"], 1.0),
            "said": f"{ratio['value']:.{1 if ratio['value'] >= 9.95 else 2}f}",
        }
        for name in RATIOS
        for ratio in results["measurements"][name]["ratios"]
    ]
    rows = pl.DataFrame(found, schema_overrides={"aim": pl.Float64})
    base = alt.Chart(alt.InlineData(values=frames.records(rows)))
    order = frames.distinct(rows, "label")
    groups = frames.distinct(rows, "against")
    values = [*rows["value"], *rows["aim"].drop_nulls(), 1.0]
    x = alt.Scale(type="log", domain=[min(values) / 1.25, max(values) * 1.6], nice=False)
    axis = alt.Axis(values=[0.25, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000], format="~g")
    y = alt.Y("label:N", sort=order, title=None, axis=alt.Axis(labelLimit=LABELS, grid=True))
    colour = alt.Color(
        "against:N",
        sort=groups,
        scale=alt.Scale(domain=groups, range=list(theme.series_colours(groups).values())),
        legend=alt.Legend(title=None, orient="top", labelLimit=240, symbolType="circle"),
    )
    stems = base.mark_rule(strokeWidth=2.5).encode(
        x=alt.X("value:Q", scale=x, title="times as fast (ticks are aims)", axis=axis),
        x2=alt.X2(datum=1),
        y=y,
        color=colour,
    )
    one = alt.Chart(alt.InlineData(values=[{"one": 1}])).mark_rule(color=theme.muted)
    return alt.LayerChart(
        layer=[
            one.encode(x=alt.X("one:Q", scale=x)),
            stems,
            base.mark_circle(size=70, opacity=1).encode(x="value:Q", y=y, color=colour),
            base.transform_filter("datum.aim !== null")
            .mark_tick(color=theme.ink, thickness=2, size=16)
            .encode(x="aim:Q", y=y),
            *frames.haloed(
                base.encode(x="right:Q", y=y, text="said:N"),
                align="left",
                baseline="middle",
                dx=8,
                fontWeight=600,
            ),
        ],
        name="ratios",
        width=theme.width - LABELS - 40,
        height={"step": 22},
    )


def _shares(results: Mapping[str, Any], theme: Theme) -> alt.LayerChart:
    found = [
        {"block": block_label(row["position"]), "model": row["model"], "share": row["share"]}
        for row in results["measurements"]["early_exit"]["records"]
        if row["position"] != "whole"
    ]
    rows = pl.DataFrame(found).with_columns(said=(100 * pl.col("share")).round(0).cast(pl.Int64))
    blocks, models = frames.distinct(rows, "block"), frames.distinct(rows, "model")
    base = alt.Chart(alt.InlineData(values=frames.records(rows))).encode(
        x=alt.X(
            "block:N",
            sort=blocks,
            title="stopped at",
            scale=alt.Scale(paddingInner=0.22, paddingOuter=0.12),
            axis=alt.Axis(labelAngle=0, labelOverlap=False, ticks=False, labelPadding=6),
        ),
        xOffset=alt.XOffset("model:N", sort=models, scale=alt.Scale(paddingInner=0.08)),
        y=alt.Y(
            "share:Q",
            title="time of the whole pass",
            scale=alt.Scale(domain=[0, max(1.1, 1.1 * max(row["share"] for row in found))]),
            axis=alt.Axis(format=".0%", values=[0, 0.25, 0.5, 0.75, 1]),
        ),
    )
    bars = base.mark_bar(cornerRadiusEnd=1.5).encode(
        color=alt.Color(
            "model:N",
            sort=models,
            scale=alt.Scale(domain=models, range=[theme.ink, "#9aa5b1"][: len(models)]),
            legend=alt.Legend(title=None, orient="top", symbolType="square", symbolStrokeWidth=0),
        )
    )
    chart = alt.LayerChart(
        layer=[
            bars,
            *frames.haloed(
                base.encode(text="said:Q"), baseline="bottom", dy=-3, fontSize=theme.font_size - 1
            ),
        ],
        name="shares",
        width=theme.width - LABELS - 40,
        height=190,
    )
    finished: alt.LayerChart = chart.resolve_scale(color="independent")
    return finished
