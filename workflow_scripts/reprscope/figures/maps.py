"""Rows of pictures and token maps on one canvas, with a tooltip for every token.

Maps are PNGs enlarged without smoothing, which keep their sharp edges in every viewer and weigh
little. The values themselves travel beside them as one list per map, from which the browser
makes invisible marks that only serve tooltips (layers named ``hover_…``, absent from SVG and PNG).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import altair as alt
import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from reprscope.figures import frames
from reprscope.figures.render import HOVER
from reprscope.figures.theme import Theme
from reprscope.runtime.errors import UserError

DIGITS = 4


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture at a place on the canvas, in pixels.

    ``tooltip`` names what it shows. ``values`` are token maps, (h, w) each, shown by tooltips.
    """

    x: float
    y: float
    width: float
    height: float
    url: str
    tooltip: Mapping[str, str]
    values: Mapping[str, NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Text:
    """A line of text on the canvas; ``align`` and ``baseline`` as in SVG."""

    x: float
    y: float
    text: str
    align: Literal["left", "center", "right"] = "center"
    baseline: Literal["middle", "bottom"] = "bottom"
    bold: bool = False
    muted: bool = False


def png_url(rgb: NDArray[np.uint8], width: float) -> str:
    """Data URI of an image, enlarged by a whole factor to at least twice ``width`` pixels.

    Parameters
    ----------
    rgb : array, (h, w, 3), uint8
    width : float
        Width on the canvas.
    """
    factor = max(1, -(-int(2 * width) // rgb.shape[1]))
    palette, index = np.unique(rgb.reshape(-1, 3), axis=0, return_inverse=True)
    pixels = rgb
    if len(palette) <= 256:
        pixels = index.reshape(rgb.shape[:2]).astype(np.uint8)
    image = Image.fromarray(np.repeat(np.repeat(pixels, factor, 0), factor, 1))
    if len(palette) <= 256:
        image.putpalette(palette.astype(np.uint8).tobytes())
    return _url(image, "PNG", optimize=True)


def photo_url(encoded: bytes, width: float) -> tuple[str, float]:
    """Data URI of an encoded image at no more than twice ``width``, and its height per width."""
    with Image.open(io.BytesIO(encoded)) as file:
        image = file.convert("RGB")
    ratio = image.height / image.width
    if image.width > 2 * width:
        size = (round(2 * width), max(1, round(2 * width * ratio)))
        return _url(image.resize(size, Image.Resampling.LANCZOS), "JPEG", quality=88), ratio
    return png_url(np.asarray(image), width), ratio


def _url(image: Image.Image, form: str, **settings: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, form, **settings)
    return f"data:image/{form.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def short(name: str, characters: int) -> str:
    """The end of a long name, which is what tells images apart."""
    return name if len(name) <= characters else "…" + name[1 - characters :]


def grid(tokens: pl.DataFrame, column: str) -> NDArray[Any]:
    """Values of one map, (h, w), from rows with ``row`` and ``col``.

    Raises
    ------
    UserError
        If a token is missing or given twice.
    """
    height, width = int(tokens["row"].max()) + 1, int(tokens["col"].max()) + 1  # type: ignore[arg-type]
    if len(tokens) != height * width or tokens.select("row", "col").is_duplicated().any():
        raise UserError(
            f"A map of {height} x {width} tokens has {len(tokens)} rows: choose one condition "
            "with the figure's `filter`."
        )
    return tokens.sort("row", "col")[column].to_numpy().reshape(height, width)


DRAWN: Final = ("image_id", "kind", "position", "png")
"""Columns that every table of maps has."""


def choose(
    table: pl.DataFrame,
    filters: Mapping[str, Any],
    *,
    images: Sequence[str],
    positions: Sequence[str],
    max_images: int,
    columns: Sequence[str],
) -> pl.DataFrame:
    """Rows of the chosen images and positions, with the row that holds each picture.

    Without ``images`` the first ``max_images`` are taken; without ``positions`` all.
    """
    rows = frames.select(table, filters, [*columns, *DRAWN])
    there = frames.distinct(rows, "image_id")
    rows = frames.select(rows, {"image_id": list(images) or there[:max_images]}, [])
    if positions:
        rows = frames.select(rows, {"position": [*positions, "image"]}, [])
    if rows.filter(pl.col("kind") == "map").is_empty():
        raise UserError(f"The table has no map at {', '.join(positions)}: correct `positions`.")
    pictures = rows.filter(pl.col("kind") == "image")
    frames.one_row_per(pictures, ["model", "image_id"])
    return rows


def canvas(
    pictures: Sequence[Picture],
    texts: Sequence[Text],
    *,
    width: float,
    height: float,
    theme: Theme,
    formats: Mapping[str, str],
    extra: Sequence[alt.Chart] = (),
    title: str = "",
) -> alt.TopLevelMixin:
    """One chart with all pictures and texts.

    Parameters
    ----------
    formats : mapping of value name to d3 format
        How tooltips print the values of tokens.
    extra : sequence of Chart
        Further layers (marks on images, legends).
    """
    layers: list[alt.Chart] = [_images(pictures), *_texts(texts, theme), *extra]
    for number, names in enumerate(dict.fromkeys(tuple(p.values) for p in pictures if p.values)):
        group = [p for p in pictures if tuple(p.values) == names]
        layers.append(_hover(group, formats, name=f"{HOVER}{number}"))
    chart = alt.LayerChart(
        layer=layers,
        width=width,
        height=height,
        # Thousands of invisible marks are quick on a canvas and slow as elements of a page.
        usermeta={"embedOptions": {"renderer": "canvas"}},
    ).resolve_scale(color="independent")
    return frames.finish(chart, theme, title=title)


def pixel(name: str) -> dict[str, Any]:
    """Encoding of a field that is in pixels already."""
    return {"field": name, "type": "quantitative", "scale": None, "axis": None}


def _images(pictures: Sequence[Picture]) -> alt.Chart:
    rows = [
        {"x": p.x, "y": p.y, "w": p.width, "h": p.height, "url": p.url, **p.tooltip}
        for p in pictures
    ]
    names = list(dict.fromkeys(name for p in pictures for name in p.tooltip))
    chart: alt.Chart = (
        alt.Chart(alt.InlineData(values=rows))
        .mark_image(
            align="left",
            baseline="top",
            aspect=False,
            width=alt.ExprRef("datum.w"),
            height=alt.ExprRef("datum.h"),
        )
        .encode(
            x=alt.X(**pixel("x")),
            y=alt.Y(**pixel("y")),
            url="url:N",
            tooltip=[alt.Tooltip(field=name, type="nominal") for name in names],
        )
    )
    return chart


def outlines(pictures: Sequence[Picture], theme: Theme) -> list[alt.Chart]:
    """Thin frames of pictures whose background may be that of the page."""
    if not pictures:
        return []
    rows = [{"x": p.x, "y": p.y, "x2": p.x + p.width, "y2": p.y + p.height} for p in pictures]
    frame = alt.Chart(alt.InlineData(values=rows)).mark_rect(
        filled=False, stroke=theme.muted, strokeWidth=0.5, strokeOpacity=0.5, aria=False
    )
    drawn: alt.Chart = frame.encode(
        x=alt.X(**pixel("x")), y=alt.Y(**pixel("y")), x2=alt.X2("x2"), y2=alt.Y2("y2")
    )
    return [drawn]


def _texts(texts: Sequence[Text], theme: Theme) -> list[alt.Chart]:
    layers = []
    styles = dict.fromkeys((t.align, t.baseline, t.bold, t.muted) for t in texts)
    for align, baseline, bold, muted in styles:
        rows = [
            {"x": t.x, "y": t.y, "text": t.text}
            for t in texts
            if (t.align, t.baseline, t.bold, t.muted) == (align, baseline, bold, muted)
        ]
        layers.append(
            alt.Chart(alt.InlineData(values=rows))
            .mark_text(
                align=align,
                baseline=baseline,
                fontWeight=600 if bold else 400,
                color=theme.muted if muted else theme.ink,
                fontSize=theme.font_size - 1 if muted else theme.font_size,
            )
            .encode(x=alt.X(**pixel("x")), y=alt.Y(**pixel("y")), text="text:N")
        )
    return layers


def _hover(pictures: Sequence[Picture], formats: Mapping[str, str], *, name: str) -> alt.Chart:
    """Invisible marks with tooltips, one per token, for maps with values of the same names."""
    rows = []
    for number, picture in enumerate(pictures):
        shape = next(iter(picture.values.values())).shape
        lists = {
            key: [
                int(v) if values.dtype.kind in "iu" else round(float(v), DIGITS)
                for v in values.ravel()
            ]
            for key, values in picture.values.items()
        }
        rows.append(
            {
                "map": number,
                "x": picture.x,
                "y": picture.y,
                "w": picture.width / shape[1],
                "h": picture.height / shape[0],
                "columns": shape[1],
                **picture.tooltip,
                **lists,
            }
        )
    names = list(pictures[0].values)
    labels = list(dict.fromkeys(name for p in pictures for name in p.tooltip))
    tokens = (
        alt.Chart(alt.InlineData(values=rows), name=name)
        .transform_flatten([*names])
        .transform_window(number="row_number()", groupby=["map"])
        .transform_calculate(
            row="floor((datum.number - 1) / datum.columns)",
            col="(datum.number - 1) % datum.columns",
        )
        .transform_calculate(
            left="datum.x + datum.col * datum.w",
            top="datum.y + datum.row * datum.h",
            right="datum.x + (datum.col + 1) * datum.w",
            bottom="datum.y + (datum.row + 1) * datum.h",
        )
    )
    chart: alt.Chart = tokens.mark_rect(fill="transparent", stroke=None, aria=False).encode(
        x=alt.X(**pixel("left")),
        x2=alt.X2(field="right"),
        y=alt.Y(**pixel("top")),
        y2=alt.Y2(field="bottom"),
        tooltip=[
            *(alt.Tooltip(field=key, type="nominal") for key in labels),
            alt.Tooltip(field="row", type="quantitative"),
            alt.Tooltip(field="col", type="quantitative"),
            *(
                alt.Tooltip(field=key, type="quantitative", format=formats.get(key, "d"))
                for key in names
            ),
        ],
    )
    return chart
