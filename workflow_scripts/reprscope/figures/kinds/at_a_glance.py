"""One image at a glance: similarity to single tokens and norms, for a few blocks of any model.

The content of the paper's overview, figures 1 and 3: tokens resemble those at the same place or in
the other corners, and some stand out by their norm. One task gives one reference token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import altair as alt
import polars as pl

from reprscope.figures import frames
from reprscope.figures.kinds.similarity_maps import legend, ring, rings
from reprscope.figures.maps import Picture, Text, canvas, grid, photo_url, pixel, png_url
from reprscope.figures.theme import Theme
from reprscope.models.labels import block_label, in_network_order
from reprscope.runtime.errors import UserError

GAP: Final = 8
LABEL: Final = 92
"""Room for the names of the blocks."""
LARGEST: Final = 170
LETTERS: Final = "ABCDEFGH"
RING: Final = 150


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the figure shows.

    Parameters
    ----------
    filter : mapping of column to value or list of values
        Rows to draw.
    images : sequence of str
        Images to draw, by ``image_id``; without it the first ``max_images`` of the table.
    max_images : int
        How many images to draw if ``images`` is not given.
    positions : sequence of str
        Module paths to draw, such as a lower and an upper block; without it all of the table.
    domain : pair of float
        Similarities at the two ends of the colour scale; by default from the smallest, rounded down
        to a tenth, to 1.
    title : str
        Title of the figure.
    """

    filter: Mapping[str, Any] = field(default_factory=dict)
    images: Sequence[str] = ()
    max_images: int = 1
    positions: Sequence[str] = ()
    domain: Sequence[float] = ()
    title: str = ""


def needs(options: Options) -> list[str]:
    """Columns that the figure needs."""
    return [
        "task",
        "model",
        "image_id",
        "kind",
        "position",
        "png",
        "row",
        "col",
        "similarity",
        "norm",
        "reference_x",
        "reference_y",
    ]


def _rows(table: pl.DataFrame, options: Options) -> pl.DataFrame:
    rows = frames.select(table, options.filter, needs(options))
    there = frames.distinct(rows, "image_id")
    rows = frames.select(
        rows, {"image_id": list(options.images) or there[: options.max_images]}, []
    )
    if options.positions:
        rows = frames.select(rows, {"position": [*options.positions, "image"]}, [])
    frames.one_row_per(rows.filter(pl.col("kind") == "image"), ["task", "model", "image_id"])
    if rows.filter(pl.col("kind") == "map").is_empty():
        raise UserError(
            f"The table has no map at {', '.join(options.positions)}: correct `positions`."
        )
    if len(frames.distinct(rows, "task")) > len(LETTERS):
        raise UserError(f"The figure has room for {len(LETTERS)} tasks: choose some with `filter`.")
    return rows


def draw(table: pl.DataFrame, options: Options, theme: Theme) -> alt.TopLevelMixin:
    """Draw the picture with its reference tokens, and beside it a row of maps for every block.

    Raises
    ------
    UserError
        If a column is missing, or a map holds the rows of more than one condition.
    """
    rows = _rows(table, options)
    maps = rows.filter(pl.col("kind") == "map")
    tasks = frames.distinct(rows, "task")
    if options.domain:
        low, high = (float(end) for end in options.domain)
    else:
        lowest = float(maps["similarity"].min())  # type: ignore[arg-type]
        low, high = math.floor(lowest * 10 + 1e-9) / 10, 1.0
    columns = len(tasks) + 1
    side = min(LARGEST, (theme.width - LABEL - GAP * (columns + 1)) / (columns + 1))
    xs = [side + LABEL + number * (side + GAP) for number in range(columns)]
    several = rows.select("model", "image_id").n_unique() > 1
    pictures: list[Picture] = []
    texts: list[Text] = []
    marks: list[dict[str, Any]] = []
    y = 0.0
    for model in frames.distinct(rows, "model"):
        of_model = rows.filter(pl.col("model") == model)
        for image in frames.distinct(of_model, "image_id"):
            here = of_model.filter(pl.col("image_id") == image)
            if several:
                y += theme.font_size + 4
                texts.append(Text(x=0, y=y, text=f"{model}, {image}", align="left", bold=True))
            y += theme.font_size + 6
            heads = [f"similarity to {letter}" for letter in LETTERS[: len(tasks)]]
            texts.append(Text(x=side / 2, y=y - 4, text="image"))
            texts += [
                Text(x=x + side / 2, y=y - 4, text=head)
                for x, head in zip(xs, [*heads, "norm"], strict=True)
            ]
            top = y
            photo = here.filter(pl.col("kind") == "image")
            url, ratio = photo_url(photo["png"][0], side)
            height = side * ratio
            label = {"model": str(model), "image_id": str(image)}
            pictures.append(Picture(x=0, y=y, width=side, height=height, url=url, tooltip=label))
            for letter, row in zip(LETTERS, photo.iter_rows(named=True), strict=False):
                place = ring(row, (0, top, side, height), RING)
                marks.append({**place, "letter": letter})
            for position in in_network_order(here.filter(pl.col("kind") == "map")["position"]):
                _block(
                    here, position, tasks, (low, high), xs, y, side, height, theme, pictures, texts
                )
                y += height + theme.font_size + 8
            y = max(y, top + height) + 4
    return canvas(
        pictures,
        texts,
        width=round(xs[-1] + side + 2),
        height=round(y),
        theme=theme,
        formats={"similarity": ".3f", "norm": ".3~f"},
        extra=[
            *rings(marks, RING),
            *_letters(marks, theme),
            legend(low, high, theme, title="cosine similarity"),
        ],
        title=options.title,
    )


def _block(
    here: pl.DataFrame,
    position: str,
    tasks: list[str],
    domain: tuple[float, float],
    xs: list[float],
    y: float,
    side: float,
    height: float,
    theme: Theme,
    pictures: list[Picture],
    texts: list[Text],
) -> None:
    """Append the maps of one block: similarities, and the norm with its range below."""
    label = {
        "model": str(here["model"][0]),
        "image_id": str(here["image_id"][0]),
        "block": block_label(position),
    }
    texts.append(
        Text(
            x=xs[0] - 10,
            y=y + height / 2,
            text=block_label(position),
            align="right",
            baseline="middle",
        )
    )
    of_block = here.filter((pl.col("kind") == "map") & (pl.col("position") == position))
    for x, task in zip(xs, tasks, strict=False):
        values = grid(of_block.filter(pl.col("task") == task), "similarity")
        pictures.append(
            Picture(
                x=x,
                y=y,
                width=side,
                height=height,
                url=png_url(theme.map_colours(values, *domain), side),
                tooltip=label | {"task": task},
                values={"similarity": values},
            )
        )
    norm = grid(of_block.filter(pl.col("task") == tasks[0]), "norm")
    ends = float(norm.min()), float(norm.max())
    pictures.append(
        Picture(
            x=xs[-1],
            y=y,
            width=side,
            height=height,
            url=png_url(theme.map_colours(norm, *ends), side),
            tooltip=label,
            values={"norm": norm},
        )
    )
    texts.append(
        Text(
            x=xs[-1] + side / 2,
            y=y + height + theme.font_size,
            text=f"{ends[0]:.3g} to {ends[1]:.3g}",
            muted=True,
        )
    )


def _letters(marks: list[dict[str, Any]], theme: Theme) -> list[alt.Chart]:
    """The letter of every reference token beside its ring."""
    base = alt.Chart(alt.InlineData(values=marks)).encode(
        x=alt.X(**pixel("x")), y=alt.Y(**pixel("y")), text="letter:N"
    )
    return frames.haloed(
        base, align="left", baseline="middle", dx=11, fontWeight=600, fontSize=theme.font_size + 1
    )


def caption(table: pl.DataFrame, options: Options) -> str:
    """Say what the maps show, of which blocks, models and images."""
    rows = _rows(table, options)
    maps = rows.filter(pl.col("kind") == "map")
    blocks = " and ".join(block_label(p) for p in in_network_order(maps["position"]))
    tasks = frames.distinct(rows, "task")
    named = ", ".join(f"{letter}: {task}" for letter, task in zip(LETTERS, tasks, strict=False))
    models = ", ".join(map(str, frames.distinct(rows, "model")))
    where = frames.conditions(rows)
    return (
        f"Cosine similarity of every token to the ringed tokens ({named}), on one colour scale, "
        f"and L2 norms, each map on its own scale with its range below, in {blocks} of {models}"
        f"{f' ({where})' if where else ''}."
    )
