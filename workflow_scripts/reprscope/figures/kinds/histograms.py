"""Two-dimensional histograms in rows and columns (the shape of figures 39 and 40)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import altair as alt
import numpy as np
import polars as pl
from numpy.typing import NDArray

from reprscope.figures import frames
from reprscope.figures.kinds.norm_maps import name
from reprscope.figures.maps import png_url
from reprscope.figures.theme import Theme
from reprscope.models.labels import in_network_order, words

Y_AXIS: Final = 62
"""Room for the vertical axis and its titles."""
SPACING: Final = 12


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the histograms show.

    Parameters
    ----------
    x, y : str
        Columns with the lower edges of the cells; the upper ones are in the same with ``_end``.
    weight : str
        Column drawn as colour, on a logarithmic scale; cells that are not in the table are white.
    filter : mapping of column to value or list of values
        Rows to draw.
    rows, column : str
        Columns whose values stand one below the other and side by side.
    x_title, y_title, legend_title : str
        Titles of the axes and of the legend, by default the names of the columns.
    x_domain : pair of float
        Ends of the horizontal axis; by default those of the cells.
    diagonal : bool
        Draw the line on which both are equal.
    height : int
        Height of a panel in pixels.
    width : int
        Largest width of a panel in pixels.
    title : str
        Title of the figure.
    """

    x: str = "similarity"
    y: str = "norm"
    weight: str = "share"
    filter: Mapping[str, Any] = field(default_factory=dict)
    rows: str = "position"
    column: str = "timestep"
    x_title: str = "cosine similarity"
    y_title: str = "mean norm"
    legend_title: str = "share of pairs"
    x_domain: Sequence[float] = ()
    diagonal: bool = False
    height: int = 88
    width: int = 240
    title: str = ""


def needs(options: Options) -> list[str]:
    """Columns that the figure needs."""
    return [
        *(f"{axis}{end}" for axis in (options.x, options.y) for end in ("", "_end")),
        options.weight,
        options.rows,
        options.column,
    ]


def _rows(table: pl.DataFrame, options: Options) -> pl.DataFrame:
    rows = frames.select(table, options.filter, needs(options))
    frames.one_row_per(rows, [options.rows, options.column, options.x, options.y])
    return rows


def _order(rows: pl.DataFrame, column: str) -> list[Any]:
    values = frames.distinct(rows, column)
    return in_network_order(values) if column == "position" else values


def _ends(rows: pl.DataFrame, column: str) -> tuple[float, float]:
    low, high = float(rows[column].min()), float(rows[f"{column}_end"].max())  # type: ignore[arg-type]
    return low, high if high > low else low + 1


def draw(table: pl.DataFrame, options: Options, theme: Theme) -> alt.TopLevelMixin:
    """Draw the histograms; panels of a row share the vertical axis, all share the horizontal one.

    Raises
    ------
    UserError
        If a column is missing, or two conditions fall on one panel.
    """
    rows = _rows(table, options)
    lines, columns = _order(rows, options.rows), _order(rows, options.column)
    low, high = (
        (float(option) for option in options.x_domain)
        if options.x_domain
        else _ends(rows, options.x)
    )
    room = (theme.width - Y_AXIS - 16) / len(columns) - SPACING
    width = round(min(options.width, room))
    weights = float(rows[options.weight].min()), float(rows[options.weight].max())  # type: ignore[arg-type]
    charts = []
    for number, line in enumerate(lines):
        of_line = rows.filter(pl.col(options.rows) == pl.lit(line))
        panels = [
            _panel(
                of_line.filter(pl.col(options.column) == pl.lit(value)),
                x_domain=(low, high),
                y_domain=_ends(of_line, options.y),
                weights=weights,
                width=width,
                titles=(
                    name(options.column, value) if number == 0 and len(columns) > 1 else "",
                    name(options.rows, line) if value == columns[0] else "",
                ),
                bottom=line == lines[-1],
                options=options,
                theme=theme,
                label=f"panel_{number}_{place}",
            )
            for place, value in enumerate(columns)
        ]
        charts.append(alt.hconcat(*panels, spacing=SPACING))
    # Below the last panel, so that it stands below the whole figure.
    charts[-1].hconcat[0].layer.append(_legend(weights, options, theme))
    chart = alt.vconcat(*charts, spacing=10)
    return frames.finish(chart, theme, title=options.title)


def _panel(
    cells: pl.DataFrame,
    *,
    x_domain: tuple[float, float],
    y_domain: tuple[float, float],
    weights: tuple[float, float],
    width: int,
    titles: tuple[str, str],
    bottom: bool,
    options: Options,
    theme: Theme,
    label: str,
) -> alt.LayerChart:
    """One histogram; the first of a row has the vertical axis, those of the last the horizontal."""
    x_axis = alt.Axis(
        title=options.x_title or words(options.x), tickCount=5, labels=bottom, ticks=bottom
    )
    if not bottom:
        x_axis.title = None
    y_axis: Any = None
    if titles[1]:
        y_axis = alt.Axis(
            title=[titles[1], options.y_title or words(options.y)],
            tickCount=4,
            minExtent=Y_AXIS - 28,
            maxExtent=Y_AXIS - 28,
            grid=False,
            domain=True,
            ticks=True,
        )
    x = alt.X("x:Q", scale=alt.Scale(domain=x_domain, nice=False), axis=x_axis)
    y = alt.Y("y:Q", scale=alt.Scale(domain=y_domain, nice=False), axis=y_axis)
    cells = cells.filter(
        (pl.col(options.x) >= x_domain[0] - 1e-9)
        & (pl.col(f"{options.x}_end") <= x_domain[1] + 1e-9)
    )
    layers = [
        alt.Chart(alt.InlineData(values=[{"x": x_domain[0], "y": y_domain[1]}]))
        .mark_rect(fill=None, stroke=theme.grid, aria=False)
        .encode(x=alt.value(0), x2=alt.value(width), y=alt.value(0), y2=alt.value(options.height))
    ]
    if not cells.is_empty():
        layers.append(_image(cells, x, y, x_domain, y_domain, weights, width, options, theme))
    else:
        layers.append(
            alt.Chart(alt.InlineData(values=[{"x": x_domain[0], "y": y_domain[0]}]))
            .mark_point(size=0, opacity=0, aria=False)
            .encode(x=x, y=y)
        )
    if options.diagonal:
        ends = max(x_domain[0], y_domain[0]), min(x_domain[1], y_domain[1])
        layers.append(
            alt.Chart(alt.InlineData(values=[{"x": end, "y": end} for end in ends]))
            .mark_line(strokeDash=[4, 3], strokeWidth=1, color=theme.muted, aria=False)
            .encode(x=x, y=y)
        )
    if titles[0]:
        layers.append(frames.heading(titles[0], theme, width=width, fontSize=theme.font_size))
    panel: alt.LayerChart = alt.LayerChart(
        layer=layers, name=label, width=width, height=options.height
    ).resolve_scale(color="independent")
    return panel


def _image(
    cells: pl.DataFrame,
    x: alt.X,
    y: alt.Y,
    x_domain: tuple[float, float],
    y_domain: tuple[float, float],
    weights: tuple[float, float],
    width: int,
    options: Options,
    theme: Theme,
) -> alt.Chart:
    """The histogram as one picture in the place of its cells."""
    left, right = _ends(cells, options.x)
    bottom, top = _ends(cells, options.y)
    rgb = _raster(cells, weights, options, theme)
    shown = (right - left) / (x_domain[1] - x_domain[0]) * width
    tall = (top - bottom) / (y_domain[1] - y_domain[0]) * options.height
    counted: dict[str, Any] = {
        column: int(cells[column][0]) for column in ("images", "tokens") if column in cells.columns
    }
    row: dict[str, Any] = {
        "x": left,
        "y": top,
        "url": png_url(rgb, shown),
        options.column: name(options.column, cells[options.column][0]),
        "block" if options.rows == "position" else options.rows: name(
            options.rows, cells[options.rows][0]
        ),
        **counted,
    }
    said = [key for key in row if key not in ("x", "y", "url")]
    chart: alt.Chart = (
        alt.Chart(alt.InlineData(values=[row]))
        .mark_image(align="left", baseline="top", aspect=False, width=shown, height=tall)
        .encode(
            x=x,
            y=y,
            url="url:N",
            tooltip=[alt.Tooltip(field=key, type="nominal") for key in said],
        )
    )
    return chart


def _raster(
    cells: pl.DataFrame, weights: tuple[float, float], options: Options, theme: Theme
) -> NDArray[np.uint8]:
    """RGB of the cells, (rows, columns, 3), the highest row first; white where there is none."""
    places = []
    for column in (options.x, options.y):
        low = cells[column].to_numpy()
        step = float((cells[f"{column}_end"] - cells[column]).min() or 1)  # type: ignore[arg-type]
        places.append(np.rint((low - low.min()) / step).astype(np.int64))
    rgb = np.full((places[1].max() + 1, places[0].max() + 1, 3), 255, dtype=np.uint8)
    value = np.log(cells[options.weight].to_numpy())
    # Few pairs are light, as they border on white.
    rgb[places[1], places[0]] = theme.map_colours(-value, -np.log(weights[1]), -np.log(weights[0]))
    return rgb[::-1]


def _legend(weights: tuple[float, float], options: Options, theme: Theme) -> alt.Chart:
    """Two invisible points that carry the colour legend."""
    colours = theme.sequence()[::-1]
    low, high = weights if weights[1] > weights[0] else (weights[0] / 2, weights[0])
    stops = np.geomspace(low, high, len(colours)).tolist()
    chart: alt.Chart = (
        alt.Chart(alt.InlineData(values=[{"end": low}, {"end": high}]))
        .mark_point(size=0, opacity=0, aria=False)
        .encode(
            x=alt.value(0),
            y=alt.value(0),
            color=alt.Color(
                "end:Q",
                scale=alt.Scale(type="log", domain=stops, range=colours),
                legend=alt.Legend(
                    title=options.legend_title or words(options.weight),
                    orient="bottom",
                    direction="horizontal",
                    gradientLength=220,
                    gradientThickness=9,
                    gradientOpacity=1,
                    titleLimit=400,
                    tickCount=4,
                    format=".0e",
                    offset=8,
                ),
            ),
        )
    )
    return chart


def caption(table: pl.DataFrame, options: Options) -> str:
    """Say what is counted, and over how many tokens and images."""
    rows = _rows(table, options)
    counted = [
        frames.count(rows, column, noun)
        for column, noun in (("tokens", "tokens"), ("images", "images"))
        if column in rows.columns
    ]
    said = ", ".join(part for part in (" of ".join(counted), frames.conditions(rows)) if part)
    diagonal = " On the dashed line both are equal." if options.diagonal else ""
    return (
        f"{words(options.legend_title or options.weight).capitalize()} by "
        f"{options.x_title or words(options.x)} and {options.y_title or words(options.y)}"
        f"{f' ({said})' if said else ''}. The colour scale is logarithmic.{diagonal}"
    )
