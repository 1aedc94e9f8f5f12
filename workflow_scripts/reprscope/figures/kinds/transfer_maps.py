"""What the tokens of an image found in another: copied tiles, colour wheel, error percentiles.

The shape of figures 12, 13, 15, 28, 32 and 33. Every token of the target shows what it found in the
source: that part of the source's picture (``image``), the colour of that place on a colour wheel
laid over the source (``wheel``), and the share of the answers that would have been closer to the
true place (``error``).
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import altair as alt
import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from reprscope.data.canonical import encode_png
from reprscope.figures import frames
from reprscope.figures.kinds.similarity_maps import legend
from reprscope.figures.maps import Picture, Text, canvas, grid, outlines, photo_url, png_url
from reprscope.figures.theme import Theme
from reprscope.models.labels import KEYS, block_label, in_network_order
from reprscope.runtime.errors import UserError

GAP: Final = 4
LABEL_WIDTH: Final = 62
LARGEST: Final = 140
WHEEL: Final = 64
UNKNOWN: Final = (226, 228, 231)
PANELS: Final = {"image": "image", "wheel": "colour wheel", "error": "error"}
SIDES: Final = ("width", "height")
_KEYS: Final = tuple(key for key in (*KEYS, "image_id", "source_id") if key != "position")
_MAP: Final = ("row", "col", "source_row", "source_col", "source_rows", "source_cols")
_ERROR: Final = "error: share of tokens that are closer to the true place"
_VALUES: Final = ("similarity", "expected_x", "expected_y", "percentile")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the maps show.

    Parameters
    ----------
    panels : sequence of {"image", "wheel", "error"}
        Lines of maps for each example. Errors are left out where no true place is known.
    filter : mapping of column to value or list of values
        Rows to draw.
    images : sequence of str
        Targets to draw, by ``image_id``; without it the first ``max_examples`` of the table.
    max_examples : int
        How many examples (target, source and conditions) to draw if ``images`` is not given.
    positions : sequence of str
        Module paths to draw; without it all of the table.
    labels : mapping of str to str
        How to name views, models or images in the headings; by default as the study does.
    columns : int
        Pictures side by side, with those of source and target; further blocks go below.
    title : str
        Title of the figure.
    """

    panels: Sequence[str] = ("image", "wheel", "error")
    filter: Mapping[str, Any] = field(default_factory=dict)
    images: Sequence[str] = ()
    max_examples: int = 2
    positions: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    columns: int = 8
    title: str = ""

    def __post_init__(self) -> None:
        unknown = [panel for panel in self.panels if panel not in PANELS]
        if unknown or not self.panels:
            raise UserError(
                f"panels is {list(self.panels)}: list some of {', '.join(PANELS)}, in any order."
            )
        if self.columns < 3:
            raise UserError(f"columns is {self.columns}: give at least 3, two for the pictures.")


@dataclass(frozen=True, kw_only=True)
class Example:
    """A target and its source under one condition: one row of kind "image", and its maps."""

    keys: Mapping[str, Any]
    picture: Mapping[str, Any]
    maps: pl.DataFrame

    @property
    def known(self) -> bool:
        """Whether true places are known."""
        return self.maps["percentile"].null_count() < len(self.maps)

    @property
    def longest(self) -> int:
        """Longest side of the target and its source, in encoded pixels."""
        return max(int(self.picture[f"{p}{side}"]) for p in ("", "source_") for side in SIDES)


def needs(options: Options) -> list[str]:
    """Columns that the figure needs."""
    return ["model", "image_id", "source_id", "kind", "position", "png", *_MAP, *_VALUES]


def _examples(table: pl.DataFrame, options: Options) -> list[Example]:
    rows = frames.select(table, options.filter, needs(options))
    if options.images:
        rows = frames.select(rows, {"image_id": list(options.images)}, [])
    pictures = rows.filter(pl.col("kind") == "image")
    if pictures.is_empty():
        raise UserError(
            "The table has no maps: set the task's `count`, `images` or `pairs`, or correct the "
            "figure's `filter`."
        )
    keys = [key for key in _KEYS if key in rows.columns]
    frames.one_row_per(pictures, keys)
    maps = rows.filter(pl.col("kind") == "map")
    if options.positions:
        maps = frames.select(maps, {"position": list(options.positions)}, [])
    wanted = pictures if options.images else pictures.head(options.max_examples)
    return [
        Example(
            keys={key: picture[key] for key in keys},
            picture=picture,
            maps=maps.filter(pl.col(key) == picture[key] for key in keys),
        )
        for picture in wanted.iter_rows(named=True)
    ]


def draw(table: pl.DataFrame, options: Options, theme: Theme) -> alt.TopLevelMixin:
    """Draw the examples one below the other, all on one scale of encoded pixels.

    Raises
    ------
    UserError
        If the table has no maps, or a map holds the rows of more than one condition.
    """
    examples = _examples(table, options)
    blocks = max(example.maps["position"].n_unique() for example in examples)
    columns = min(options.columns, blocks + 2)
    side = min(LARGEST, (theme.width - LABEL_WIDTH - GAP * (columns - 1)) / columns)
    canvas_of = _Canvas(
        options=options,
        theme=theme,
        side=side,
        scale=side / max(example.longest for example in examples),
        columns=columns,
    )
    y = 0.0
    for example, heading in zip(examples, _headings(examples, options.labels), strict=True):
        if heading:
            y += theme.font_size + 4
            canvas_of.texts.append(Text(x=0, y=y, text=heading, align="left", bold=True))
        y = canvas_of.add(example, y) + 8
    errors = "error" in options.panels and any(example.known for example in examples)
    return canvas(
        canvas_of.pictures,
        canvas_of.texts,
        width=round(LABEL_WIDTH + columns * (side + GAP) - GAP),
        height=round(y),
        theme=theme,
        formats={"similarity": ".3f", "closer": ".1%"},
        extra=[
            *outlines(canvas_of.outlined, theme),
            *([legend(0, 1, theme, title=_ERROR, format=".0%")] if errors else []),
        ],
        title=options.title,
    )


def _headings(examples: Sequence[Example], labels: Mapping[str, str]) -> list[str]:
    """What tells the examples apart; nothing if there is only one."""
    differ = [key for key in examples[0].keys if len({e.keys[key] for e in examples}) > 1]
    return [
        ", ".join(filter(None, (_word(key, example, labels) for key in differ)))
        for example in examples
    ]


def _word(key: str, example: Example, labels: Mapping[str, str]) -> str:
    value = example.keys[key]
    name = labels.get(str(value), str(value))
    if key == "source_id":
        return "" if value == example.keys["image_id"] else f"from {name}"
    if key == "resolution":
        return f"{value} px"
    return f"{key} {value}" if isinstance(value, int) else name


@dataclass(kw_only=True)
class _Canvas:
    """Pictures and texts of all examples as they are laid out.

    ``side`` is the width of a column, ``scale`` the length of an encoded pixel; photographs are
    ``outlined``, since they may be white at the edge.
    """

    options: Options
    theme: Theme
    side: float
    scale: float
    columns: int
    pictures: list[Picture] = field(default_factory=list)
    outlined: list[Picture] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)

    def add(self, example: Example, y: float) -> float:
        """Add an example below ``y``; return its lower edge."""
        row = example.picture
        panels = [p for p in self.options.panels if p != "error" or example.known]
        panels = [p for p in panels if p != "image" or row["source_png"] is not None]
        if not panels:
            raise UserError(
                f"Of {', '.join(self.options.panels)}, nothing is known of image "
                f"{row['image_id']}: add `wheel` to the figure's panels."
            )
        order = in_network_order(example.maps["position"])
        room = self.columns - 2
        for start in range(0, len(order), room):
            y = self._line(example, panels, order[start : start + room], y, given=start == 0)
        return y

    def _line(
        self, example: Example, panels: list[str], positions: list[str], y: float, *, given: bool
    ) -> float:
        """Add the maps of some blocks, below those ``given``: source and target themselves."""
        row = example.picture
        size = (row["width"] * self.scale, row["height"] * self.scale)
        label = {"model": str(row["model"]), "target": str(row["image_id"])}
        label["source"] = str(row["source_id"])
        y += self.theme.font_size + 6
        heads = ["source", "target"] if given else ["", ""]
        for number, head in enumerate([*heads, *map(block_label, positions)]):
            width = row["source_width"] * self.scale if number == 0 else size[0]
            self.texts.append(Text(x=self._left(number) + width / 2, y=y - 4, text=head))
        for panel in panels:
            height = size[1]
            if given:
                shown = _given(example, panel, self.side, self.scale)
                height = max(height, *(picture.height for picture in shown.values()), 0)
                for number, picture in shown.items():
                    placed = replace(picture, x=self._left(number), y=y, tooltip=label)
                    self._place(placed, panel)
            self.texts.append(
                Text(
                    x=LABEL_WIDTH - 8,
                    y=y + size[1] / 2,
                    text=PANELS[panel],
                    align="right",
                    baseline="middle",
                    muted=True,
                )
            )
            for number, position in enumerate(positions, 2):
                tokens = example.maps.filter(pl.col("position") == position)
                shown_tokens = Picture(
                    x=self._left(number),
                    y=y,
                    width=size[0],
                    height=size[1],
                    tooltip=label | {"block": block_label(position)},
                    url=_url(tokens, panel, row, self.side, self.theme),
                    values=_values(tokens, panel),
                )
                self._place(shown_tokens, panel)
            y += height + GAP
        return y

    def _place(self, picture: Picture, panel: str) -> None:
        self.pictures.append(picture)
        if panel == "image":
            self.outlined.append(picture)

    def _left(self, column: int) -> float:
        return LABEL_WIDTH + column * (self.side + GAP)


def _given(example: Example, panel: str, side: float, scale: float) -> dict[int, Picture]:
    """What is shown of source (0) and target (1) themselves, not yet placed."""
    row = example.picture
    urls: dict[int, str] = {}
    sizes = {
        number: (row[f"{prefix}width"], row[f"{prefix}height"])
        for number, prefix in enumerate(("source_", ""))
    }
    if panel == "image":
        urls = {0: photo_url(row["source_png"], side)[0], 1: photo_url(row["png"], side)[0]}
    if panel == "wheel":
        width, height = sizes[0]
        fine = WHEEL / max(width, height)
        places = np.indices((max(1, round(height * fine)), max(1, round(width * fine)))) + 0.5
        y, x = (axis / (axis.max() + 0.5) for axis in places)
        urls[0] = png_url(wheel(x, y), side)
        if example.known:
            grids = example.maps.partition_by("position", maintain_order=True)
            finest = max(grids, key=len)
            urls[1] = png_url(wheel(*(grid(finest, f"expected_{axis}") for axis in "xy")), side)
    return {
        number: Picture(
            x=0,
            y=0,
            width=sizes[number][0] * scale,
            height=sizes[number][1] * scale,
            url=url,
            tooltip={},
        )
        for number, url in urls.items()
    }


def _url(
    tokens: pl.DataFrame, panel: str, row: Mapping[str, Any], side: float, theme: Theme
) -> str:
    """Picture of one map."""
    if panel == "image":
        with Image.open(io.BytesIO(row["source_png"])) as file:
            source = np.asarray(file.convert("RGB"))
        places = (grid(tokens, "source_row"), grid(tokens, "source_col"))
        shape = (int(tokens["source_rows"][0]), int(tokens["source_cols"][0]))
        size = (row["height"], row["width"])
        copied = copy_tiles(source, *places, shape=shape, size=size, mirrored=row["mirrored"])
        return photo_url(encode_png(copied), side)[0]
    if panel == "wheel":
        x = (grid(tokens, "source_col") + 0.5) / tokens["source_cols"][0]
        y = (grid(tokens, "source_row") + 0.5) / tokens["source_rows"][0]
        return png_url(wheel(x, y), side)
    closer = grid(tokens, "percentile").astype(float)
    unknown = np.isnan(closer)
    rgb = theme.map_colours(np.where(unknown, 0, closer), 0, 1)
    return png_url(np.where(unknown[..., None], np.array(UNKNOWN, np.uint8), rgb), side)


def _values(tokens: pl.DataFrame, panel: str) -> dict[str, NDArray[Any]]:
    """What tooltips say of each token."""
    if panel == "wheel":
        names = {"source row": "source_row", "source col": "source_col", "similarity": "similarity"}
        return {name: grid(tokens, column) for name, column in names.items()}
    # A map without the true places of some tokens has no numbers, which JSON could not hold.
    if panel == "error" and not tokens["percentile"].null_count():
        return {"closer": grid(tokens, "percentile")}
    return {}


def wheel(x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.uint8]:
    """Colours of places on the thesis' colour wheel (figure 12).

    Parameters
    ----------
    x, y
        (h, w) fractions of the picture's width and height; NaN where there is no place.

    Returns
    -------
    (h, w, 3): red and green are (1 + sin a) / 2 and (1 + cos a) / 2 of the angle a about the
    centre, from the right clockwise; blue falls from 1 in the centre to 0 in the corners. Grey for
    NaN.
    """
    across, down = np.asarray(x, float) - 0.5, np.asarray(y, float) - 0.5
    angle = np.arctan2(down, across)
    blue = 1 - np.hypot(across, down) / np.hypot(0.5, 0.5)
    rgb = 255 * np.stack([0.5 + 0.5 * np.sin(angle), 0.5 + 0.5 * np.cos(angle), blue], axis=-1)
    known = np.isfinite(rgb).all(axis=-1, keepdims=True)
    return np.where(known, np.where(known, rgb, 0).round(), UNKNOWN).astype(np.uint8)


def copy_tiles(
    source: NDArray[np.uint8],
    rows: NDArray[Any],
    cols: NDArray[Any],
    *,
    shape: tuple[int, int],
    size: tuple[int, int],
    mirrored: bool = False,
) -> NDArray[np.uint8]:
    """Picture whose tokens show what they found in another.

    Parameters
    ----------
    source
        (height, width, 3) picture of the source.
    rows, cols
        (h, w) token of the source that each token of the target found.
    shape
        Rows and columns of the source's grid of tokens.
    size
        Height and width of the result.
    mirrored
        Mirror every tile left and right, as a target that is mirrored against its source shows it.

    Returns
    -------
    (*size, 3), pixels taken from the source without smoothing.
    """
    height, width = size
    down, row = np.modf((np.arange(height) + 0.5) * rows.shape[0] / height)
    across, col = np.modf((np.arange(width) + 0.5) * rows.shape[1] / width)
    if mirrored:
        across = 1 - across
    at = np.ix_(row.astype(int), col.astype(int))
    y = (rows[at] + down[:, None]) * source.shape[0] / shape[0]
    x = (cols[at] + across[None]) * source.shape[1] / shape[1]
    taken: NDArray[np.uint8] = source[
        y.astype(int).clip(0, source.shape[0] - 1), x.astype(int).clip(0, source.shape[1] - 1)
    ]
    return taken


def caption(table: pl.DataFrame, options: Options) -> str:
    """Say what the maps show, and of how many examples and blocks."""
    examples = _examples(table, options)
    conditions = pl.DataFrame([example.keys for example in examples])
    where = frames.conditions(conditions)
    blocks = pl.concat([example.maps for example in examples])["position"].n_unique()
    said = {
        "image": "the part of the source's picture that it found",
        "wheel": "the colour of the place that it found, on a colour wheel over the source",
        "error": "the share of the source's tokens that are closer to the true place",
    }
    shown = [said[p] for p in options.panels if p != "error" or any(e.known for e in examples)]
    text = f"Every token of the target shows {'; '.join(shown)}. "
    many = f"{len(examples)} example{'s' * (len(examples) != 1)}"
    text += f"{many}, {blocks} block{'s' * (blocks != 1)} in network order"
    text += f" ({where})." if where else "."
    if any(example.picture["mirrored"] for example in examples) and "image" in options.panels:
        text += " The copied parts are mirrored as the target is."
    if any(0 < e.maps["percentile"].null_count() < len(e.maps) for e in examples):
        text += " Grey: what the source does not show."
    return text
