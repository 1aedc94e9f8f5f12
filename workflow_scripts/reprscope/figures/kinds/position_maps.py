"""Where a position probe puts the tokens of an image, as dots (figure 27's shape).

A dot is a token. Its colour is that of its true place on a colour wheel laid over the map, and it
stands where the probe puts it: true places make the wheel whole, and the more they are missed, the
more its colours mix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import altair as alt
import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from reprscope.figures import frames
from reprscope.figures.kinds.transfer_maps import wheel
from reprscope.figures.maps import DRAWN, Picture, Text, canvas, choose, grid, photo_url, png_url
from reprscope.figures.theme import Theme
from reprscope.models.labels import block_label, in_network_order
from reprscope.runtime.errors import UserError

GAP: Final = 6
LABEL_WIDTH: Final = 78
LARGEST: Final = 150
TRUE: Final = "true place"
PANELS: Final = (TRUE, "classification", "regression")

MARGIN: Final = 0.12
"""Room around the map on each side, as a share of its longest side: a regression may aim there."""

_DOT: Final = 0.7
"""Diameter of a dot in tokens."""

_SHARP: Final = 4
"""Pixels of a panel for each of the canvas while dots are drawn; half of them are kept."""

_PLACES: Final = ("row", "col", "predicted_row", "predicted_col")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the dots show.

    Parameters
    ----------
    panels : sequence of {"true place", "classification", "regression"}
        Lines of panels.
    filter : mapping of column to value or list of values
        Rows to draw.
    images : sequence of str
        Images to draw, by ``image_id``; without it the first ``max_images`` of the table.
    max_images : int
        How many images to draw if ``images`` is not given.
    positions : sequence of str
        Module paths to draw; without it all of the table.
    columns : int
        Positions side by side, with the image before the first; further ones go below.
    title : str
        Title of the figure.
    """

    panels: Sequence[str] = PANELS
    filter: Mapping[str, Any] = field(default_factory=dict)
    images: Sequence[str] = ()
    max_images: int = 1
    positions: Sequence[str] = ()
    columns: int = 6
    title: str = ""

    def __post_init__(self) -> None:
        unknown = [panel for panel in self.panels if panel not in PANELS]
        if unknown or not self.panels:
            raise UserError(
                f"panels is {list(self.panels)}: list some of {', '.join(PANELS)}, in any order."
            )
        if self.columns < 2:
            raise UserError(f"columns is {self.columns}: give at least 2.")


def needs(options: Options) -> list[str]:
    """Columns that the figure needs."""
    return [*DRAWN, "model", "estimator", *_PLACES]


def _rows(table: pl.DataFrame, options: Options) -> pl.DataFrame:
    # Scores are of no single image.
    return choose(
        table,
        {"kind": ["map", "image"], **options.filter},
        images=options.images,
        positions=options.positions,
        max_images=options.max_images,
        columns=needs(options),
    )


def draw(table: pl.DataFrame, options: Options, theme: Theme) -> alt.TopLevelMixin:
    """Draw a column of panels for each position; tooltips say where a token is put.

    Raises
    ------
    UserError
        If a column is missing, the table has no map, or a map holds the rows of more than one
        condition.
    """
    rows = _rows(table, options)
    groups = rows.select("model", "image_id").unique(maintain_order=True).rows()
    columns = min(options.columns, rows["position"].n_unique())
    side = min(LARGEST, (theme.width - LABEL_WIDTH - GAP * (columns - 1)) / columns)
    pictures: list[Picture] = []
    texts: list[Text] = []
    y = 0.0
    for model, image_id in groups:
        group = rows.filter(model=model, image_id=image_id)
        if len(groups) > 1:
            y += theme.font_size + 4
            texts.append(Text(x=0, y=y, text=f"{model}, {image_id}", align="left", bold=True))
        label = {"model": str(model), "image_id": str(image_id)}
        cells = ["image", *in_network_order(_maps(group)["position"])]
        for start in range(0, len(cells), columns):
            line = cells[start : start + columns]
            y = _line(group, line, y, side, label, options, theme, pictures, texts)
        y += 4
    return canvas(
        pictures,
        texts,
        width=round(LABEL_WIDTH + columns * (side + GAP) - GAP),
        height=round(y),
        theme=theme,
        formats={f"regression, {axis}": ".1f" for axis in ("row", "col")},
        title=options.title,
    )


def _maps(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter(pl.col("kind") == "map")


def _line(
    group: pl.DataFrame,
    line: Sequence[str],
    y: float,
    side: float,
    label: Mapping[str, str],
    options: Options,
    theme: Theme,
    pictures: list[Picture],
    texts: list[Text],
) -> float:
    """Append the panels of some positions, or the image; return the bottom edge."""
    y += theme.font_size + 6
    heights = []
    for column, position in enumerate(line):
        x = LABEL_WIDTH + column * (side + GAP)
        name = block_label(position)
        texts.append(Text(x=x + side / 2, y=y - 4, text=name))
        if position == "image":
            pictures.append(_photo(group, x, y, side, label))
            continue
        tokens = _maps(group).filter(pl.col("position") == position)
        panels = [
            _panel(tokens, panel, x, y, side, {**label, "block": name}, theme)
            for panel in options.panels
        ]
        heights.append(panels[0].height)
        pictures += [
            Picture(**{**vars(one), "y": y + number * (one.height + GAP)})
            for number, one in enumerate(panels)
        ]
    height = max(heights)
    texts += [
        Text(
            x=LABEL_WIDTH - 8,
            y=y + number * (height + GAP) + height / 2,
            text=panel,
            align="right",
            baseline="middle",
        )
        for number, panel in enumerate(options.panels)
    ]
    return y + len(options.panels) * (height + GAP) - GAP + 8


def _photo(
    group: pl.DataFrame, x: float, y: float, side: float, label: Mapping[str, str]
) -> Picture:
    """The image, as large as the maps beside it."""
    encoded = group.filter(pl.col("kind") == "image").row(0, named=True)["png"]
    url, ratio = photo_url(encoded, side)
    margin = MARGIN * max(ratio, 1)
    width = side / (1 + 2 * margin)
    return Picture(
        x=x + (side - width) / 2,
        y=y + margin * width,
        width=width,
        height=width * ratio,
        url=url,
        tooltip=label,
    )


def _panel(
    tokens: pl.DataFrame,
    panel: str,
    x: float,
    y: float,
    side: float,
    label: Mapping[str, str],
    theme: Theme,
) -> Picture:
    """Dots of one position, where they are or where one estimator puts them."""
    shape = (int(tokens["row"].max()) + 1, int(tokens["col"].max()) + 1)  # type: ignore[arg-type]
    places = np.indices(shape).reshape(2, -1).astype(float)
    values: dict[str, NDArray[Any]] = {}
    at = places
    if panel == TRUE:
        # A tooltip stands where the token is, so only the true places have them.
        for estimator in frames.distinct(tokens, "estimator"):
            rows, cols = _predicted(tokens, estimator)
            values |= {f"{estimator}, row": rows, f"{estimator}, col": cols}
    else:
        at = np.stack([axis.ravel() for axis in _predicted(tokens, panel)])
    colours = wheel((places[1] + 0.5) / shape[1], (places[0] + 0.5) / shape[0])
    rgb = dots(at, colours, shape=shape, side=side, ground=theme.grid)
    return Picture(
        x=x,
        y=y,
        width=side,
        height=side * rgb.shape[0] / rgb.shape[1],
        url=png_url(rgb, side),
        tooltip=label,
        values=values,
    )


def _predicted(tokens: pl.DataFrame, estimator: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Rows and columns (h, w) where one estimator puts the tokens of one map."""
    of = frames.select(tokens, {"estimator": estimator}, [])
    return grid(of, "predicted_row"), grid(of, "predicted_col")


def dots(
    at: NDArray[Any],
    colours: NDArray[np.uint8],
    *,
    shape: tuple[int, int],
    side: float,
    ground: str,
) -> NDArray[np.uint8]:
    """Picture of a map with a dot for each token.

    Parameters
    ----------
    at
        (2, n) row and column of each dot, in tokens: whole numbers are the middles of tokens.
    colours
        (n, 3) colour of each. Dots at one and the same place have the mean of their colours.
    shape
        Rows and columns of the map.
    side
        Width of the picture on the canvas in pixels.
    ground
        Colour of the map, on white.

    Returns
    -------
    (h, w, 3), at least twice as wide as ``side``. The map has a margin of :data:`MARGIN` of its
    longest side; dots beyond are drawn at the edge.
    """
    rows, cols = shape
    longest = max(shape)
    unit = _SHARP * side / (cols + 2 * MARGIN * longest)
    margin = MARGIN * longest
    size = [2 * round((length + 2 * margin) * unit / 2) for length in (cols, rows)]
    image = Image.new("RGB", (size[0], size[1]), "white")
    pen = ImageDraw.Draw(image)
    pen.rectangle(
        [margin * unit, margin * unit, (margin + cols) * unit, (margin + rows) * unit], fill=ground
    )
    where, inverse = np.unique(at, axis=1, return_inverse=True)
    counts = np.bincount(inverse.ravel())
    mean = np.stack([np.bincount(inverse.ravel(), colours[:, i]) / counts for i in range(3)], 1)
    radius = _DOT / 2
    y, x = (
        np.clip(axis + 0.5, radius - margin, length + margin - radius)
        for axis, length in zip(where, shape, strict=True)
    )
    # In no order of places, so that no side of the image lies above the others.
    for number in np.random.default_rng(0).permutation(len(counts)):
        middle = (np.array([x[number], y[number]]) + margin) * unit
        ends = np.concatenate([middle - radius * unit, middle + radius * unit])
        pen.ellipse(ends.tolist(), fill=tuple(mean[number].round().astype(int).tolist()))
    return np.asarray(image.resize((size[0] // 2, size[1] // 2), Image.Resampling.BOX))


def caption(table: pl.DataFrame, options: Options) -> str:
    """Say what the dots show, of which blocks, and of how many images and models."""
    rows = _rows(table, options)
    images, models = rows["image_id"].n_unique(), rows["model"].n_unique()
    order = in_network_order(_maps(rows)["position"])
    where = frames.conditions(rows)
    named = [panel for panel in options.panels if panel != TRUE]
    text = "Every dot is a token, in the colour of its true place on a colour wheel over the image"
    if named:
        text += f", where {' and '.join(named)} by a linear map puts it"
    text += (
        f"; tokens put at one place have the mean of their colours. {len(order)} "
        f"position{'s' * (len(order) != 1)} of {images} image{'s' * (images != 1)} and "
        f"{models} model{'s' * (models != 1)}"
    )
    text += f" ({where})." if where else "."
    if "regression" in named:
        text += " Dots at the edge lie beyond it."
    return text
