"""k-means clusters, norms and principal components of an image's tokens (figure 6's shape)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import altair as alt
import numpy as np
import polars as pl
from numpy.typing import NDArray

from reprscope.figures import frames
from reprscope.figures.maps import DRAWN, Picture, Text, canvas, choose, grid, photo_url, png_url
from reprscope.figures.theme import Theme
from reprscope.models.labels import block_label, in_network_order

GAP = 6
LABEL_WIDTH = 62
LARGEST = 168
LARGEST_COLUMN = 116
MOST_ROWS = 3
COLUMNS = ("row", "col", "cluster", "norm", "red", "green", "blue")
PANELS = ("k-means", "norm", "PCA")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the maps show.

    Parameters
    ----------
    filter : mapping of column to value or list of values
        Rows to draw.
    images : sequence of str
        Images to draw, by ``image_id``; without it the first ``max_images`` of the table.
    max_images : int
        How many images to draw if ``images`` is not given.
    positions : sequence of str
        Module paths to draw; without it all of the table. Up to three are drawn as rows beside
        the image, more as columns.
    title : str
        Title of the figure.
    """

    filter: Mapping[str, Any] = field(default_factory=dict)
    images: Sequence[str] = ()
    max_images: int = 2
    positions: Sequence[str] = ()
    title: str = ""


def needs(options: Options) -> list[str]:
    """Columns that the figure needs."""
    return [*DRAWN, "model", *COLUMNS]


def _rows(table: pl.DataFrame, options: Options) -> pl.DataFrame:
    return choose(
        table,
        options.filter,
        images=options.images,
        positions=options.positions,
        max_images=options.max_images,
        columns=needs(options),
    )


def draw(table: pl.DataFrame, options: Options, theme: Theme) -> alt.TopLevelMixin:
    """Draw the maps; under every norm map stands its range, as each has its own colour scale.

    Raises
    ------
    UserError
        If a column is missing, or a map holds the rows of more than one condition.
    """
    rows = _rows(table, options)
    maps = rows.filter(pl.col("kind") == "map")
    order = in_network_order(maps["position"])
    groups = rows.select("model", "image_id").unique(maintain_order=True).rows()
    pictures: list[Picture] = []
    texts: list[Text] = []
    y = 0.0
    for model, image_id in sorted(groups, key=lambda g: frames.distinct(rows, "model").index(g[0])):
        group = rows.filter((pl.col("model") == model) & (pl.col("image_id") == image_id))
        if len(groups) > 1:
            y += theme.font_size + 4
            texts.append(Text(x=0, y=y, text=f"{model}, {image_id}", align="left", bold=True))
        y += theme.font_size + 6
        arrange = _as_rows if len(order) <= MOST_ROWS else _as_columns
        y = arrange(group, order, y, pictures, texts, theme) + 8
    return canvas(
        pictures,
        texts,
        width=max(round(max(p.x + p.width for p in pictures)), 1),
        height=round(y),
        theme=theme,
        formats={"norm": ".2f", "red": ".2f", "green": ".2f", "blue": ".2f"},
        title=options.title,
    )


def _as_rows(
    group: pl.DataFrame,
    order: list[str],
    y: float,
    pictures: list[Picture],
    texts: list[Text],
    theme: Theme,
) -> float:
    """Append a row per position: image, clusters, norms, components; return the bottom edge."""
    left = LABEL_WIDTH if len(order) > 1 else 0
    side = min(LARGEST, (theme.width - left - 3 * GAP) / 4)
    xs = [left + i * (side + GAP) for i in range(4)]
    heads = ("image", *PANELS) if len(order) > 1 else ("image", *_heads(order[0]))
    texts += [Text(x=x + side / 2, y=y - 4, text=head) for x, head in zip(xs, heads, strict=True)]
    for position in order:
        photo = _photo(group, xs[0], y, side)
        pictures.append(photo)
        if len(order) > 1:
            texts.append(_side_label(block_label(position), left - 8, y + photo.height / 2))
        for x, panel in zip(xs[1:], PANELS, strict=True):
            pictures.append(_panel(group, position, panel, x, y, side, photo.height, theme))
        y += photo.height + theme.font_size + 6
        texts.append(_range(group, position, xs[2] + side / 2, y - 5))
    return y


def _as_columns(
    group: pl.DataFrame,
    order: list[str],
    y: float,
    pictures: list[Picture],
    texts: list[Text],
    theme: Theme,
) -> float:
    """Append a column per position beside the image; return the bottom edge."""
    columns = len(order)
    side = min(LARGEST_COLUMN, (theme.width - LABEL_WIDTH - GAP * columns) / (columns + 1))
    photo = _photo(group, 0, y, side)
    pictures.append(photo)
    texts.append(Text(x=side / 2, y=y - 4, text="image"))
    xs = [side + LABEL_WIDTH + i * (side + GAP) for i in range(columns)]
    texts += [
        Text(x=x + side / 2, y=y - 4, text=block_label(position))
        for x, position in zip(xs, order, strict=True)
    ]
    for panel in PANELS:
        texts.append(_side_label(panel, side + LABEL_WIDTH - 8, y + photo.height / 2))
        for x, position in zip(xs, order, strict=True):
            pictures.append(_panel(group, position, panel, x, y, side, photo.height, theme))
        y += photo.height + GAP
        if panel == "norm":
            y += theme.font_size
            texts += [
                _range(group, position, x + side / 2, y - 5)
                for x, position in zip(xs, order, strict=True)
            ]
    return y


def _heads(position: str) -> tuple[str, ...]:
    return tuple(f"{panel} of {block_label(position)}" for panel in PANELS)


def _side_label(text: str, x: float, y: float) -> Text:
    return Text(x=x, y=y, text=text, align="right", baseline="middle")


def _photo(group: pl.DataFrame, x: float, y: float, side: float) -> Picture:
    row = group.filter(pl.col("kind") == "image").row(0, named=True)
    url, ratio = photo_url(row["png"], side)
    label = {"model": str(row["model"]), "image_id": str(row["image_id"])}
    return Picture(x=x, y=y, width=side, height=side * ratio, url=url, tooltip=label)


def _tokens(group: pl.DataFrame, position: str) -> dict[str, NDArray[Any]]:
    tokens = group.filter((pl.col("position") == position) & (pl.col("kind") == "map"))
    return {column: grid(tokens, column) for column in COLUMNS[2:]}


def _panel(
    group: pl.DataFrame,
    position: str,
    panel: str,
    x: float,
    y: float,
    side: float,
    height: float,
    theme: Theme,
) -> Picture:
    tokens = _tokens(group, position)
    norm = tokens["norm"]
    if panel == "k-means":
        rgb = theme.cluster_colours(tokens["cluster"].astype(np.int64))
    elif panel == "norm":
        rgb = theme.map_colours(norm, float(norm.min()), float(norm.max()))
    else:
        colours = np.stack([tokens[name] for name in ("red", "green", "blue")], axis=-1)
        rgb = (np.clip(colours, 0, 1) * 255).round().astype(np.uint8)
    first = group.row(0, named=True)
    return Picture(
        x=x,
        y=y,
        width=side,
        height=height,
        url=png_url(rgb, side),
        tooltip={
            "model": str(first["model"]),
            "image_id": str(first["image_id"]),
            "block": block_label(position),
        },
        values={
            "k-means": {"cluster": tokens["cluster"].astype(np.int64)},
            "norm": {"norm": norm},
            "PCA": {name: tokens[name] for name in ("red", "green", "blue")},
        }[panel],
    )


def _range(group: pl.DataFrame, position: str, x: float, y: float) -> Text:
    norm = _tokens(group, position)["norm"]
    return Text(x=x, y=y + 2, text=f"{norm.min():.3g} to {norm.max():.3g}", muted=True)


def caption(table: pl.DataFrame, options: Options) -> str:
    """Say what the maps show, of which blocks, and of how many images and models."""
    rows = _rows(table, options)
    images, models = rows["image_id"].n_unique(), rows["model"].n_unique()
    maps = rows.filter(pl.col("kind") == "map")
    order = in_network_order(maps["position"])
    clusters = maps["cluster"].n_unique()
    where = frames.conditions(rows)
    return (
        f"Tokens of {', '.join(block_label(position) for position in order)}: {clusters} k-means "
        "clusters, L2 norms (each map on its own scale, its range below) and the first three "
        f"principal components as red, green and blue, for {images} image{'s' * (images != 1)} "
        f"and {models} model{'s' * (models != 1)}{f' ({where})' if where else ''}."
    )
