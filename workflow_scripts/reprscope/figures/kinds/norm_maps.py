"""Maps of norms in rows and columns (the shape of figures 21, 22 and 38).

Of single images, beside their picture, or the mean over all images. Rows and columns are whatever
the study sweeps: blocks, models, timesteps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import altair as alt
import numpy as np
import polars as pl
from numpy.typing import NDArray

from reprscope.figures import frames
from reprscope.figures.maps import Picture, Text, canvas, grid, photo_url, png_url, short
from reprscope.figures.theme import Theme
from reprscope.models.labels import block_label, in_network_order, named, words
from reprscope.runtime.errors import UserError

GAP: Final = 5
BAR: Final = 8
"""Width of the colour bar beside a row."""
BAR_LABELS: Final = 44
_CHARACTER: Final = 0.58
"""Mean width of a character, as a share of the font size."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the maps show.

    Parameters
    ----------
    show : {"images", "mean"}
        Maps of single images, or their mean over all images.
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
    rows : sequence of str
        Columns whose values make the rows, in this order, beside the image.
    column : str
        Column whose values stand side by side.
    shared : bool
        One colour scale for each row, with a bar beside it; otherwise each map has its own, with
        its range below.
    side : int
        Largest width of a map in pixels.
    title : str
        Title of the figure.
    """

    show: Literal["images", "mean"] = "images"
    metric: str = "norm"
    filter: Mapping[str, Any] = field(default_factory=dict)
    images: Sequence[str] = ()
    max_images: int = 1
    positions: Sequence[str] = ()
    rows: Sequence[str] = ("model", "position")
    column: str = "timestep"
    shared: bool = True
    side: int = 112
    title: str = ""

    def __post_init__(self) -> None:
        if self.column in self.rows:
            raise UserError(f"column {self.column} is one of the rows: choose another.")


def needs(options: Options) -> list[str]:
    """Columns that the figure needs."""
    return [
        "kind",
        "position",
        "row",
        "col",
        options.metric,
        options.column,
        *options.rows,
        "image_id",
    ]


def _maps(table: pl.DataFrame, options: Options) -> pl.DataFrame:
    """Rows with the tokens that the figure draws."""
    table = frames.select(table, options.filter, needs(options))
    maps = frames.select(table, {"kind": "map" if options.show == "images" else "mean"}, [])
    if options.positions:
        maps = frames.select(maps, {"position": list(options.positions)}, [])
    if options.show == "images":
        there = frames.distinct(maps, "image_id")
        chosen = list(options.images) or there[: options.max_images]
        maps = frames.select(maps, {"image_id": chosen}, [])
    return maps


def _rows(maps: pl.DataFrame, options: Options) -> list[dict[str, Any]]:
    """What tells the rows apart, in the study's order, blocks in network order."""
    keys = [*(["image_id"] if options.show == "images" else []), *options.rows]
    orders = {
        key: {value: rank for rank, value in enumerate(_order(maps, key))}
        for key in dict.fromkeys(keys)
    }
    found = maps.select(list(orders)).unique(maintain_order=True).to_dicts()
    return sorted(found, key=lambda row: [orders[key][row[key]] for key in orders])


def _order(maps: pl.DataFrame, column: str) -> list[Any]:
    values = frames.distinct(maps, column)
    return in_network_order(values) if column == "position" else values


def name(column: str, value: Any) -> str:
    """A value of a column as a label: ``t = 50``, ``up[1]``, ``seed 3``."""
    if column == "position":
        return block_label(str(value))
    if column == "timestep":
        return f"t = {value}"
    if column == "resolution":
        return f"{value} px"
    return named(column, value)


def draw(table: pl.DataFrame, options: Options, theme: Theme) -> alt.TopLevelMixin:
    """Draw the maps.

    Raises
    ------
    UserError
        If a column is missing, or a map holds the rows of more than one condition.
    """
    maps = _maps(table, options)
    rows, columns = _rows(maps, options), _order(maps, options.column)
    photos = _photos(table, options) if options.show == "images" else {}
    size = theme.font_size
    labels = [_labels(row, rows, options) for row in rows]
    longest = max((len(line) for lines in labels for line in lines), default=0)
    left = round(longest * _CHARACTER * size) + 10 if longest else 0
    right = BAR + GAP + BAR_LABELS if options.shared else 0
    cells = len(columns) + bool(photos)
    side = min(float(options.side), (theme.width - left - right) / cells - GAP)
    xs = [left + index * (side + GAP) for index in range(cells)]
    heads = [*(["image"] if photos else []), *(name(options.column, v) for v in columns)]
    fitting = max(int(side / _CHARACTER / size), 4)
    y = size + 6.0
    texts = [
        Text(x=x + side / 2, y=y - 4, text=short(head, fitting))
        for x, head in zip(xs, heads, strict=True)
    ]
    pictures: list[Picture] = []
    for row, lines in zip(rows, labels, strict=True):
        height = _row(maps, row, columns, photos, xs, y, side, options, theme, pictures, texts)
        for number, line in enumerate(lines):
            at = y + height / 2 + (number - (len(lines) - 1) / 2) * (size + 3)
            texts.append(Text(x=left - 8, y=at, text=line, align="right", baseline="middle"))
        y += height + (GAP if options.shared else size + 8)
    return canvas(
        pictures,
        texts,
        width=round(xs[-1] + side + (right or GAP)),
        height=round(y),
        theme=theme,
        formats={options.metric: ".3~f"},
        title=options.title,
    )


def _labels(row: dict[str, Any], rows: list[dict[str, Any]], options: Options) -> list[str]:
    """Lines that name a row: what differs between rows, and always the block."""
    named = [key for key in row if key in options.rows or key == "image_id"]
    differ = [key for key in named if len({other[key] for other in rows}) > 1]
    if "position" in named and "position" not in differ:
        differ.append("position")
    return [short(name(key, row[key]), 22) for key in differ]


def _row(
    maps: pl.DataFrame,
    row: dict[str, Any],
    columns: list[Any],
    photos: dict[str, bytes],
    xs: list[float],
    y: float,
    side: float,
    options: Options,
    theme: Theme,
    pictures: list[Picture],
    texts: list[Text],
) -> float:
    """Append the picture, the maps and the colour bar of a row; return its height."""
    here = maps.filter([pl.col(key).eq_missing(pl.lit(value)) for key, value in row.items()])
    said = {"block" if key == "position" else key: name(key, row[key]) for key in row}
    cells: dict[Any, NDArray[Any]] = {}
    for value in columns:
        tokens = here.filter(pl.col(options.column).eq_missing(pl.lit(value)))
        # Not every row has every column: some models have other blocks.
        if not tokens.is_empty():
            cells[value] = grid(tokens, options.metric)
    shape = next(iter(cells.values())).shape
    height = float(side * shape[0] / shape[1])
    if photos:
        url, ratio = photo_url(photos[row["image_id"]], side)
        height = side * ratio
        label = {"image_id": str(row["image_id"])}
        pictures.append(Picture(x=xs[0], y=y, width=side, height=height, url=url, tooltip=label))
    ends = {value: (float(cell.min()), float(cell.max())) for value, cell in cells.items()}
    low, high = min(end[0] for end in ends.values()), max(end[1] for end in ends.values())
    for x, value in zip(xs[-len(columns) :], columns, strict=True):
        if value not in cells:
            continue
        scale = (low, high) if options.shared else ends[value]
        pictures.append(
            Picture(
                x=x,
                y=y,
                width=side,
                height=height,
                url=png_url(theme.map_colours(cells[value], *scale), side),
                tooltip={**said, words(options.column): name(options.column, value)},
                values={options.metric: cells[value]},
            )
        )
        if not options.shared:
            text = f"{scale[0]:.3g} to {scale[1]:.3g}"
            texts.append(
                Text(x=x + side / 2, y=y + height + theme.font_size, text=text, muted=True)
            )
    if options.shared:
        x = xs[-1] + side + GAP
        ramp = theme.map_colours(np.linspace(1, 0, 64)[:, None], 0, 1)
        tooltip = {**said, words(options.metric): f"{low:.3g} to {high:.3g}"}
        pictures.append(
            Picture(x=x, y=y, width=BAR, height=height, url=png_url(ramp, BAR), tooltip=tooltip)
        )
        for value, at in ((high, y + theme.font_size / 2), (low, y + height - theme.font_size / 2)):
            texts.append(
                Text(
                    x=x + BAR + 4,
                    y=at,
                    text=f"{value:.3g}",
                    align="left",
                    baseline="middle",
                    muted=True,
                )
            )
    return height


def _photos(table: pl.DataFrame, options: Options) -> dict[str, bytes]:
    """Picture of every image; it is the same under all conditions."""
    rows = table.filter(pl.col("kind") == "image").drop_nulls("png")
    return dict(rows.select("image_id", "png").unique("image_id", maintain_order=True).iter_rows())


def caption(table: pl.DataFrame, options: Options) -> str:
    """Say what the maps show, of which blocks, and of how many images."""
    maps = _maps(table, options)
    where = frames.conditions(maps)
    blocks = ", ".join(block_label(position) for position in _order(maps, "position"))
    if options.show == "mean":
        what = f"L2 norm of every token, mean over {frames.count(maps, 'images', 'images')}"
    else:
        images = maps["image_id"].n_unique()
        what = f"L2 norm of every token of {images} image{'s' * (images != 1)}"
    scale = (
        "The maps of a row share one colour scale."
        if options.shared
        else "Each map has its own colour scale, its range below."
    )
    return f"{what}, in {blocks}{f' ({where})' if where else ''}. {scale}"
