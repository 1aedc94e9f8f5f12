"""Maps of similarity to each of a grid of places, as tiles at those places (figure 10's shape)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import altair as alt
import polars as pl

from reprscope.figures import frames
from reprscope.figures.kinds.similarity_maps import legend
from reprscope.figures.maps import Picture, Text, canvas, grid, png_url
from reprscope.figures.theme import Theme
from reprscope.models.labels import block_label, in_network_order, named, words

GAP = 3
BETWEEN = 26
AXIS = 30
HOVERED = 60_000
"""Up to this number of values a tooltip gives the similarity of every token."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the tiles show.

    Parameters
    ----------
    metric : str
        Column drawn as colour.
    filter : mapping of column to value or list of values
        Rows to draw.
    positions : sequence of str
        Module paths to draw; without it all of the table.
    panel : str
        Column with one line of boards for each of its values, such as ``model`` or ``noise``.
    domain : pair of float
        Values at the two ends of the colour scale; by default from the smallest value, rounded
        down to a tenth, to 1.
    columns : int
        Boards of tiles side by side.
    title, legend_title : str
        Title of the figure and of its legend.
    """

    metric: str = "similarity"
    filter: Mapping[str, Any] = field(default_factory=dict)
    positions: Sequence[str] = ()
    panel: str = "model"
    domain: Sequence[float] = ()
    columns: int = 3
    title: str = ""
    legend_title: str = "cosine similarity to the token at the tile's place"


_PLACE = ("reference_row", "reference_col")


def needs(options: Options) -> list[str]:
    """Columns that the figure needs."""
    return [options.panel, options.metric, "position", "row", "col", *_PLACE]


def _rows(table: pl.DataFrame, options: Options) -> pl.DataFrame:
    rows = frames.select(table, options.filter, needs(options))
    if options.positions:
        rows = frames.select(rows, {"position": list(options.positions)}, [])
    frames.one_row_per(rows, [options.panel, "position", *_PLACE, "row", "col"])
    return rows


def draw(table: pl.DataFrame, options: Options, theme: Theme) -> alt.TopLevelMixin:
    """Draw one board of tiles for each position, all on one colour scale.

    The tile at a row and column is the map of the similarity to the token there, which is its
    brightest spot; of a large map the tiles stand for evenly spread tokens.

    Raises
    ------
    UserError
        If a column is missing, or a map holds the rows of more than one condition.
    """
    rows = _rows(table, options)
    panels = frames.distinct(rows, options.panel)
    order = in_network_order(rows["position"])
    low, high = _domain(rows, options)
    columns = min(options.columns, len(order))
    side = (theme.width - columns * AXIS - (columns - 1) * BETWEEN) / columns
    side = min(side, 0.6 * theme.width)
    hovered = len(rows) <= HOVERED
    pictures: list[Picture] = []
    texts: list[Text] = []
    y = 0.0
    for panel in panels:
        of_panel = rows.filter(pl.col(options.panel) == panel)
        if len(panels) > 1:
            name = named(options.panel, panel)
            y += theme.font_size + 4
            texts.append(Text(x=0, y=y, text=words(name), align="left", bold=True))
        here = in_network_order(of_panel["position"])
        for start in range(0, len(here), columns):
            y += theme.font_size + 10
            height = 0.0
            for column, position in enumerate(here[start : start + columns]):
                x = AXIS + column * (side + AXIS + BETWEEN)
                board = _board(
                    of_panel.filter(pl.col("position") == position),
                    options=options,
                    theme=theme,
                    x=x,
                    y=y,
                    side=side,
                    domain=(low, high),
                    label={options.panel: str(panel), "block": block_label(position)},
                    hovered=hovered,
                )
                texts.append(Text(x=x + side / 2, y=y - 5, text=block_label(position)))
                pictures += board[0]
                texts += board[1]
                height = max(height, board[2])
            y += height + theme.font_size + 8
    return canvas(
        pictures,
        texts,
        width=columns * (side + AXIS) + (columns - 1) * BETWEEN,
        height=round(y),
        theme=theme,
        formats={options.metric: ".3f"},
        extra=[legend(low, high, theme, title=options.legend_title)],
        title=options.title,
    )


def _domain(rows: pl.DataFrame, options: Options) -> tuple[float, float]:
    if options.domain:
        low, high = options.domain
        return float(low), float(high)
    lowest = float(rows[options.metric].min())  # type: ignore[arg-type]
    return math.floor(lowest * 10 + 1e-9) / 10, 1.0


def _board(
    rows: pl.DataFrame,
    *,
    options: Options,
    theme: Theme,
    x: float,
    y: float,
    side: float,
    domain: tuple[float, float],
    label: Mapping[str, str],
    hovered: bool,
) -> tuple[list[Picture], list[Text], float]:
    """Tiles of one position, the rows and columns they stand for, and the board's height."""
    axes = [sorted(rows[name].unique()) for name in _PLACE]
    shape = [int(rows[name].max()) + 1 for name in ("row", "col")]  # type: ignore[arg-type]
    width = (side - GAP * (len(axes[1]) - 1)) / len(axes[1])
    height = width * shape[0] / shape[1] * len(axes[1]) / len(axes[0])
    tiles = {
        (int(key[0]), int(key[1])): tile
        for key, tile in rows.partition_by(*_PLACE, as_dict=True, maintain_order=True).items()
    }
    pictures = []
    for i, row in enumerate(axes[0]):
        for j, column in enumerate(axes[1]):
            values = grid(tiles[row, column], options.metric)
            pictures.append(
                Picture(
                    x=x + j * (width + GAP),
                    y=y + i * (height + GAP),
                    width=width,
                    height=height,
                    url=png_url(theme.map_colours(values, *domain), width),
                    tooltip={**label, "reference": f"row {row}, column {column}"},
                    values={options.metric: values} if hovered else {},
                )
            )
    whole = len(axes[0]) * (height + GAP) - GAP
    texts = [
        Text(
            x=x - 5,
            y=y + i * (height + GAP) + height / 2,
            text=str(row),
            align="right",
            baseline="middle",
            muted=True,
        )
        for i, row in enumerate(axes[0])
    ]
    texts += [
        Text(
            x=x + j * (width + GAP) + width / 2,
            y=y + whole + theme.font_size + 3,
            text=str(column),
            muted=True,
        )
        for j, column in enumerate(axes[1])
    ]
    return pictures, texts, whole


def caption(table: pl.DataFrame, options: Options) -> str:
    """Say what the tiles show and over how many images."""
    rows = _rows(table, options)
    where = frames.conditions(rows)
    over = frames.count(rows, "images", "images")
    text = (
        "Similarity of every token to the token at the place where its tile stands, by row and "
        f"column{f' ({where})' if where else ''}"
    )
    text += f", mean over {over}." if over else "."
    noise = rows["noise"].unique().to_list() if "noise" in rows.columns else []
    if noise == ["shared"]:
        text += " All images have the same noise, so that the mean is that of one image."
    elif noise == ["per_image"]:
        text += " Each image has noise of its own."
    return text + " All maps share one colour scale."
