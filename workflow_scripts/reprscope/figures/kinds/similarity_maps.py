"""Similarity to one token over all blocks, a row per image and model (figures 4, 5 and 19)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import altair as alt
import numpy as np
import polars as pl

from reprscope.figures import frames
from reprscope.figures.maps import (
    DRAWN,
    Picture,
    Text,
    canvas,
    choose,
    grid,
    photo_url,
    pixel,
    png_url,
    short,
)
from reprscope.figures.theme import Theme
from reprscope.measures.similarity import DISTANCES
from reprscope.models.labels import block_label, in_network_order
from reprscope.runtime.errors import UserError

GAP = 4
LABEL_WIDTH = 86

MEASURES: Final = {
    "cosine": "cosine similarity",
    "centred_cosine": "cosine similarity after subtracting the mean token",
    "dot": "dot product",
    "l1": "L1 distance",
    "l2": "L2 distance",
    "linf": "L\u221e distance",
    "relative_norm": "L2 norm relative to that token's, less 1,",
}
"""What the values of a table's ``measure`` are."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the maps show.

    Parameters
    ----------
    metric : str
        Column drawn as colour.
    filter : mapping of column to value or list of values
        Rows to draw.
    images : sequence of str
        Images to draw, by ``image_id``; without it the first ``max_images`` of the table.
    max_images : int
        How many images to draw if ``images`` is not given.
    positions : sequence of str
        Module paths to draw; without it all of the table.
    domain : pair of float
        Values at the two ends of the colour scale, in the order of its colours; by default from
        the smallest cosine, rounded down to a tenth, to 1. Other measures have their own range, and
        distances begin with the largest.
    columns : int
        Maps side by side; further positions go on the next line.
    title, legend_title : str
        Title of the figure and of its legend, by default the measure.
    """

    metric: str = "similarity"
    filter: Mapping[str, Any] = field(default_factory=dict)
    images: Sequence[str] = ()
    max_images: int = 4
    positions: Sequence[str] = ()
    domain: Sequence[float] = ()
    columns: int = 11
    title: str = ""
    legend_title: str = ""


def needs(options: Options) -> list[str]:
    """Columns that the figure needs."""
    return [*DRAWN, "model", options.metric, "row", "col", "reference_x", "reference_y"]


def _rows(table: pl.DataFrame, options: Options) -> pl.DataFrame:
    return choose(
        table,
        options.filter,
        images=options.images,
        positions=options.positions,
        max_images=options.max_images,
        columns=needs(options),
    )


def _measure(rows: pl.DataFrame) -> str:
    """How tokens were compared; a table of several measures needs a filter."""
    if "measure" not in rows.columns:
        return "cosine"
    measures = frames.distinct(rows, "measure")
    if len(measures) > 1:
        raise UserError(
            f"Maps of {' and '.join(measures)} have no common colour scale: choose one measure "
            "with the figure's `filter`."
        )
    return str(measures[0])


def _domain(rows: pl.DataFrame, options: Options) -> tuple[float, float]:
    if options.domain:
        low, high = options.domain
        return float(low), float(high)
    values = rows[options.metric].fill_nan(None).drop_nulls()
    lowest, highest = float(values.min()), float(values.max())  # type: ignore[arg-type]
    measure = _measure(rows)
    if "cosine" in measure:
        return math.floor(lowest * 10 + 1e-9) / 10, 1.0
    return (highest, lowest) if measure in DISTANCES else (lowest, highest)


def _title(rows: pl.DataFrame, options: Options) -> str:
    return options.legend_title or f"{MEASURES[_measure(rows)]} to the marked token"


def draw(table: pl.DataFrame, options: Options, theme: Theme) -> alt.TopLevelMixin:
    """Draw the maps, all on one colour scale; the image at the left marks the reference token.

    Raises
    ------
    UserError
        If a column is missing, or a map holds the rows of more than one condition.
    """
    rows = _rows(table, options)
    low, high = _domain(rows, options)
    maps = rows.filter(pl.col("kind") == "map")
    models = frames.distinct(rows, "model")
    order = in_network_order(maps["position"])
    columns = min(options.columns, len(order))
    side = (theme.width - LABEL_WIDTH - GAP * columns) / (columns + 1)
    pictures: list[Picture] = []
    texts: list[Text] = []
    marks: list[dict[str, float]] = []
    ring_size = max(40.0, side * side / 70)
    y = 0.0
    for model in models:
        if len(models) > 1:
            y += theme.font_size + 4
            texts.append(Text(x=0, y=y, text=str(model), align="left", bold=True))
        y += theme.font_size + 6
        of_model = rows.filter(pl.col("model") == model)
        here = in_network_order(of_model.filter(pl.col("kind") == "map")["position"])
        for number, image_id in enumerate(frames.distinct(of_model, "image_id")):
            of_image = of_model.filter(pl.col("image_id") == image_id)
            picture = of_image.filter(pl.col("kind") == "image").row(0, named=True)
            url, ratio = photo_url(picture["png"], side)
            height = side * ratio
            label = {"model": str(model), "image_id": str(image_id)}
            texts.append(
                Text(
                    x=LABEL_WIDTH - 8,
                    y=y + height / 2,
                    text=short(str(image_id), 15),
                    align="right",
                    baseline="middle",
                    muted=True,
                )
            )
            pictures.append(
                Picture(x=LABEL_WIDTH, y=y, width=side, height=height, url=url, tooltip=label)
            )
            # The reference token may be that of another image.
            if picture.get("reference_image") in (None, image_id):
                marks.append(ring(picture, (LABEL_WIDTH, y, side, height), ring_size))
            if number == 0:
                texts.append(Text(x=LABEL_WIDTH + side / 2, y=y - 4, text="image"))
            for start in range(0, len(here), columns):
                if start:
                    y += height + theme.font_size + 8
                for column, position in enumerate(here[start : start + columns]):
                    x = LABEL_WIDTH + (column + 1) * (side + GAP)
                    if number == 0 or len(here) > columns:
                        texts.append(Text(x=x + side / 2, y=y - 4, text=block_label(position)))
                    values = grid(
                        of_image.filter(
                            (pl.col("position") == position) & (pl.col("kind") == "map")
                        ),
                        options.metric,
                    )
                    pictures.append(
                        Picture(
                            x=x,
                            y=y,
                            width=side,
                            height=height,
                            url=png_url(theme.map_colours(values, low, high), side),
                            tooltip={**label, "block": block_label(position)},
                            values={options.metric: values},
                        )
                    )
            y += height + (GAP if len(here) <= columns else theme.font_size + 8)
        y += 6
    return canvas(
        pictures,
        texts,
        width=theme.width,
        height=round(y),
        theme=theme,
        formats={options.metric: ".3f"},
        extra=[
            *rings(marks, ring_size),
            legend(low, high, theme, title=_title(rows, options)),
        ],
        title=options.title,
    )


def ring(
    row: Mapping[str, Any], place: tuple[float, float, float, float], size: float
) -> dict[str, float]:
    """Centre of a ring around the reference token of a row.

    A ring is kept inside the picture at ``place`` (x, y, width, height), so that one in the corner
    is whole; ``size`` is its area.
    """
    x, y, width, height = place
    inset = math.sqrt(size / math.pi) + 2
    return {
        "x": x + min(max(row["reference_x"] * width, inset), width - inset),
        "y": y + min(max(row["reference_y"] * height, inset), height - inset),
    }


def rings(marks: Sequence[Mapping[str, Any]], size: float) -> list[alt.Chart]:
    """A white ring with a dark rim around each of ``marks``, ``x`` and ``y`` on the canvas."""
    base = alt.Chart(alt.InlineData(values=[dict(mark) for mark in marks])).encode(
        x=alt.X(**pixel("x")), y=alt.Y(**pixel("y"))
    )
    return [
        base.mark_point(filled=False, size=size, stroke=stroke, strokeWidth=width, opacity=1)
        for stroke, width in (("#111018", 3.5), ("#ffffff", 1.8))
    ]


def legend(low: float, high: float, theme: Theme, *, title: str, **further: Any) -> alt.Chart:
    """Two invisible points that carry the colour legend; ``low`` is at its first colour.

    ``further`` are properties of the legend.
    """
    colours = theme.sequence()[:: 1 if low <= high else -1]
    stops = np.linspace(min(low, high), max(low, high), len(colours)).round(6).tolist()
    chart: alt.Chart = (
        alt.Chart(alt.InlineData(values=[{"end": low}, {"end": high}]))
        .mark_point(size=0, opacity=0, aria=False)
        .encode(
            x=alt.value(0),
            y=alt.value(0),
            color=alt.Color(
                "end:Q",
                scale=alt.Scale(domain=stops, range=colours),
                legend=alt.Legend(
                    title=title,
                    orient="bottom",
                    direction="horizontal",
                    gradientLength=220,
                    gradientThickness=9,
                    gradientOpacity=1,
                    titleLimit=400,
                    tickCount=5,
                    offset=8,
                    **further,
                ),
            ),
        )
    )
    return chart


def caption(table: pl.DataFrame, options: Options) -> str:
    """Say what the maps show and of how many images and models."""
    rows = _rows(table, options)
    images, models = rows["image_id"].n_unique(), rows["model"].n_unique()
    blocks = rows.filter(pl.col("kind") == "map")["position"].n_unique()
    where = frames.conditions(rows)
    what = MEASURES[_measure(rows)].removesuffix(",")
    others = rows["image_id"] != rows["reference_image"] if "reference_image" in rows else None
    ringed = "in the image" if others is None or not others.any() else "in the first image"
    return (
        f"{what[0].upper()}{what[1:]} of every token to one reference token (ringed {ringed}) in "
        f"{blocks} block{'s' * (blocks != 1)}, in network order, for {images} "
        f"image{'s' * (images != 1)} and {models} model{'s' * (models != 1)}"
        f"{f' ({where})' if where else ''}. All maps share one colour scale."
    )
