"""Errors by the offset of a match from its source, a map per block (figures 14, 29 and 30).

Colours of one block run from its lowest to its highest rate, since rates of blocks differ by far
more than those of offsets; the two ends are printed beside the maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import altair as alt
import numpy as np
import polars as pl
from numpy.typing import NDArray

from reprscope.figures import frames
from reprscope.figures.maps import Picture, Text, canvas, png_url
from reprscope.figures.theme import Theme
from reprscope.models.labels import block_label, in_network_order, words
from reprscope.runtime.errors import UserError

GAP = 10
LABEL_WIDTH = 66
RANGE_WIDTH = 88
LARGEST = 170


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the maps show.

    Parameters
    ----------
    metric : str
        Column drawn as colour, a share.
    of : {"prediction", "target"}
        Whether offsets are those of the match or of the true target.
    filter : mapping of column to value or list of values
        Rows to draw.
    across : str
        Column whose values stand side by side. If it has one value, the blocks do.
    positions : sequence of str
        Module paths to draw; without it all of the table.
    least : int
        Cells of fewer points are left white.
    columns : int
        Maps side by side where the blocks are.
    title : str
        Title of the figure.
    """

    metric: str = "error_rate"
    of: str = "prediction"
    filter: Mapping[str, Any] = field(default_factory=dict)
    across: str = "timestep"
    positions: Sequence[str] = ()
    least: int = 30
    columns: int = 6
    title: str = ""


def needs(options: Options) -> list[str]:
    """Columns that the figure needs."""
    return [
        "kind",
        "of",
        "model",
        "x",
        "y",
        "cell",
        "points",
        options.metric,
        options.across,
        "position",
    ]


def _rows(table: pl.DataFrame, options: Options) -> pl.DataFrame:
    filters = {"kind": "offset", "of": options.of} | dict(options.filter)
    if options.positions:
        filters["position"] = list(options.positions)
    rows = frames.select(table, filters, needs(options))
    frames.one_row_per(rows, [options.across, "position", "x", "y"])
    return rows


def _map(rows: pl.DataFrame, options: Options, reach: int) -> dict[str, NDArray[Any]]:
    """Values and points (2 reach + 1, 2 reach + 1) of one map; NaN where points are too few."""
    cell = rows["cell"][0]
    rows = rows.filter(pl.max_horizontal(pl.col("x", "y").abs()) < (reach + 0.5) * cell)
    values = np.full((2 * reach + 1, 2 * reach + 1), np.nan)
    points = np.zeros(values.shape, dtype=np.int64)
    col, row = (np.rint(rows[axis].to_numpy() / cell).astype(int) + reach for axis in "xy")
    values[row, col], points[row, col] = (
        rows[name].to_numpy() for name in (options.metric, "points")
    )
    return {options.metric: np.where(points < options.least, np.nan, values), "points": points}


def _reach(rows: pl.DataFrame, options: Options) -> int:
    """Cells from the centre to the furthest one that is drawn."""
    shown = rows.filter(pl.col("points") >= options.least)
    if shown.is_empty():
        raise UserError(
            f"No cell of the map has {options.least} points: set a smaller `least`, or measure "
            "more pairs."
        )
    furthest = shown.select(pl.max_horizontal(pl.col("x", "y").abs()) / pl.col("cell")).max()
    return round(float(furthest.item()))


def draw(table: pl.DataFrame, options: Options, theme: Theme) -> alt.TopLevelMixin:
    """Draw the maps; offsets grow to the right and down, and 0 is in the middle.

    Raises
    ------
    UserError
        If a column is missing, a cell is given twice, or all have too few points.
    """
    rows = _rows(table, options)
    reach = _reach(rows, options)
    order = in_network_order(rows["position"])
    across = frames.distinct(rows, options.across)
    beside = len(across) == 1
    count = min(options.columns, len(order)) if beside else len(across)
    room = theme.width - (0 if beside else LABEL_WIDTH + RANGE_WIDTH) - GAP * (count - 1)
    side = min(room / count, LARGEST if beside else LARGEST / 2)
    pictures: list[Picture] = []
    texts: list[Text] = []
    line = theme.font_size + 5
    y = float(line)
    for number, position in enumerate(order):
        here = rows.filter(pl.col("position") == position)
        maps = {
            value: _map(here.filter(pl.col(options.across) == value), options, reach)
            for value in across
            if here.filter(pl.col(options.across) == value).height
        }
        every = np.concatenate([one[options.metric].ravel() for one in maps.values()])
        ends = _ends(every)
        left = (number % count) * (side + GAP) if beside else LABEL_WIDTH
        for place, (value, one) in enumerate(maps.items()):
            x = left + place * (side + GAP)
            pictures.append(_picture(position, value, one, ends, (x, y, side), options, theme))
            if number == 0 and not beside:
                texts.append(Text(x=x + side / 2, y=y - 5, text=f"{words(options.across)} {value}"))
        label = block_label(position)
        if beside:
            texts.append(Text(x=left + side / 2, y=y - 5, text=label))
            below = y + side + line - 2
            texts.append(Text(x=left + side / 2, y=below, text=_range(ends), muted=True))
            if number % count == count - 1:
                y += side + 2 * line + 4
        else:
            at = y + side / 2
            texts.append(
                Text(x=LABEL_WIDTH - 8, y=at, text=label, align="right", baseline="middle")
            )
            texts.append(
                Text(
                    x=LABEL_WIDTH + count * (side + GAP),
                    y=at,
                    text=_range(ends),
                    align="left",
                    baseline="middle",
                    muted=True,
                )
            )
            y += side + GAP
    if beside and len(order) % count:
        y += side + 2 * line + 4
    return canvas(
        pictures,
        texts,
        width=theme.width if beside else LABEL_WIDTH + count * (side + GAP) + RANGE_WIDTH,
        height=round(y),
        theme=theme,
        formats={options.metric: ".1%", "points": ","},
        title=options.title,
    )


def _picture(
    position: str,
    value: Any,
    one: Mapping[str, NDArray[Any]],
    ends: tuple[float, float],
    place: tuple[float, float, float],
    options: Options,
    theme: Theme,
) -> Picture:
    x, y, side = place
    values = one[options.metric]
    empty = np.isnan(values)
    colours = theme.map_colours(np.where(empty, ends[0], values), *ends)
    colours[empty] = 255
    return Picture(
        x=x,
        y=y,
        width=side,
        height=side,
        url=png_url(colours, side),
        tooltip={"block": block_label(position), words(options.across): str(value)},
        values={options.metric: np.where(empty, 0, values), "points": one["points"]},
    )


def _ends(values: NDArray[Any]) -> tuple[float, float]:
    held = values[np.isfinite(values)]
    return (float(held.min()), float(held.max())) if len(held) else (0.0, 1.0)


def _range(ends: tuple[float, float]) -> str:
    return f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f} %"


def caption(table: pl.DataFrame, options: Options) -> str:
    """Say what the maps show, how wide they are, and over how many points."""
    rows = _rows(table, options)
    reach = _reach(rows, options)
    cell = float(rows["cell"][0])
    points = rows.group_by(options.across, "position").agg(pl.col("points").sum())
    where = frames.conditions(rows, without=[options.across])
    if options.across != "model":
        where = ", ".join([*frames.distinct(rows, "model"), *([where] if where else [])])
    # Where several pictures show one subject, all pairs are in the table, too.
    several = "same" in table.columns and "all" in table["same"]
    if several and rows["same"][0] == "exclude":
        where += ", pairs of different subjects"
    what = "match" if options.of == "prediction" else "true target"
    return (
        f"{words(options.metric).capitalize()} by the offset of the {what} from the source's place "
        f"({where}), over {frames.count(points, 'points', 'points')} in each map. A map reaches "
        f"{(reach + 0.5) * cell:.0f} px of the encoded image to each side of offset 0, in cells of "
        f"{cell:g} px; those of fewer than {options.least} points are white. Colours run from the "
        "lowest to the highest rate of a block, which are printed."
    )
