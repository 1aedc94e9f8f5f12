"""The one look of all figures: fonts, widths and colours, all settable from the study."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import altair as alt
import numpy as np
from numpy.typing import ArrayLike, NDArray

from reprscope.models.labels import block_of, in_network_order
from reprscope.runtime.errors import UserError

UNET_BLOCKS = (
    "conv_in",
    *(f"down_blocks.{i}" for i in range(4)),
    "mid_block",
    *(f"up_blocks.{i}" for i in range(4)),
    "conv_out",
)

# "hourglass" reads as the network is built: lightness falls on the way down and rises on the way
# up, blue is the way down and red to amber the way up. All pairs stay apart under simulated
# protanopia, deuteranopia and tritanopia. The others are the usual perceptual maps, at 11 stops.
SCHEMES: dict[str, tuple[str, ...]] = {
    name: tuple(colours.split())
    for name, colours in {
        "hourglass": "#a3b8c2 #4fb6d8 #2690d2 #2d5fc4 #402a97 #111018 "
        "#7d1757 #cb2a3c #ee6a28 #f7ab2c #b8a878",
        "viridis": "#440154 #482575 #414487 #35608d #2a788e #21918d "
        "#22a884 #43bf71 #7ad151 #bcdf27 #fde725",
        "cividis": "#002051 #0a326a #2a446e #4c566d #67686f #7e7b75 "
        "#928d78 #a9a177 #c7b76c #e6ce59 #fce647",
        "magma": "#000004 #150e37 #3b0f70 #651a80 #8c2981 #b6377a "
        "#de4968 #f76f5c #fe9f6d #fece91 #fcfdbf",
        "inferno": "#000004 #170c3b #420a68 #6b176e #932667 #bb3755 "
        "#dd513a #f3771a #fca50a #f6d645 #fcffa4",
        "plasma": "#0d0887 #42039d #6a00a8 #900da4 #b12a90 #cb4779 "
        "#e16462 #f2834c #fca636 #fcce25 #f0f921",
        "greys": "#f4f4f4 #dddddd #c6c6c6 #afafaf #989898 #818181 "
        "#6a6a6a #535353 #3c3c3c #252525 #0e0e0e",
    }.items()
}
# Share of white in the lightest shade of a block's colour.
LIGHTEST = 0.6
_HEX = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True, kw_only=True)
class Theme:
    """The study's ``theme:``.

    Parameters
    ----------
    accent : str
        Colour of the first series of a figure, and of the report.
    series : sequence of str
        Colours of the other series (models, datasets), in order; repeated if they run out.
    blocks : str or sequence of str
        Colours of the blocks along the network: the name of a scheme, or at least two colours.
    sequential : str or sequence of str
        Colours of maps, from low to high: the name of a scheme, or at least two colours.
    clusters : sequence of str
        Colours of clusters, which have no order.
    font : str
        CSS font list. The default and its stand-ins have equal widths, so that a figure is laid
        out alike everywhere.
    font_size : int
        Size of labels in pixels, 6 to 24.
    width : int
        Width of a whole figure in pixels, 320 to 2400.

    Raises
    ------
    UserError
        If a value is out of range or no colour; names the key.
    """

    accent: str = "#1f5fa8"
    series: Sequence[str] = ("#9aa5b1", "#e07b39", "#3a9c8c", "#8e62b0", "#c9a227", "#b5485d")
    blocks: str | Sequence[str] = "hourglass"
    sequential: str | Sequence[str] = "viridis"
    clusters: Sequence[str] = (
        "#3b2f80",
        "#f2c14e",
        "#2f8f9d",
        "#d1495b",
        "#8cc084",
        "#5d6d9e",
        "#edae97",
        "#6a994e",
        "#b08ec2",
        "#7f5539",
    )
    font: str = "Liberation Sans, Arial, Helvetica, sans-serif"
    font_size: int = 11
    width: int = 860

    ink = "#1d2329"
    muted = "#5d6670"
    grid = "#e4e7eb"

    def __post_init__(self) -> None:
        for key in ("accent", "series", "clusters"):
            value = getattr(self, key)
            _colours(key, [value] if isinstance(value, str) else value, at_least=1)
        for key in ("blocks", "sequential"):
            _scheme(key, getattr(self, key))
        for key, low, high in (("width", 320, 2400), ("font_size", 6, 24)):
            value = getattr(self, key)
            if not isinstance(value, int) or not low <= value <= high:
                raise UserError(f"{key} is {value!r}: give a whole number {low} to {high}.")
        if not isinstance(self.font, str) or not self.font.strip() or set(self.font) & set("<>{};"):
            raise UserError(f"font is {self.font!r}: give a CSS font list such as Arial.")

    def block_colours(self, positions: Iterable[str]) -> dict[str, str]:
        """Colour of every position, in network order.

        The blocks of a U-Net have one colour each in every figure, whichever of them it shows.
        Several positions of one block are shades of its colour, the last one pure. The blocks of
        other networks are spread evenly over the scheme.
        """
        order = in_network_order(positions)
        scheme = _scheme("blocks", self.blocks)
        known = all(block_of(position) in UNET_BLOCKS for position in order)
        blocks = list(UNET_BLOCKS) if known else in_network_order(map(block_of, order))
        palette = dict(zip(blocks, spread(scheme, len(blocks)), strict=True))
        colours: dict[str, str] = {}
        for block in dict.fromkeys(map(block_of, order)):
            inside = [position for position in order if block_of(position) == block]
            for number, position in enumerate(inside, 1):
                white = LIGHTEST * (1 - number / len(inside))
                colours[position] = _hex(palette[block] * (1 - white) + 255 * white)
        return colours

    def series_colours(self, names: Sequence[str]) -> dict[str, str]:
        """Colour of every name: the accent first, then ``series``."""
        return dict(zip(names, cycle([self.accent, *self.series]), strict=False))

    def cluster_colours(self, clusters: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        """RGB of cluster numbers, (..., 3) in [0, 255]."""
        palette = np.array([_rgb(colour) for colour in self.clusters])
        rgb: NDArray[np.uint8] = palette[clusters % len(palette)].round().astype(np.uint8)
        return rgb

    def sequence(self) -> list[str]:
        """Stops of the sequential scheme, from low to high."""
        return list(_scheme("sequential", self.sequential))

    def map_colours(self, values: ArrayLike, low: float, high: float) -> NDArray[np.uint8]:
        """RGB of values on the sequential scheme, (..., 3) in [0, 255]; clipped to the ends.

        The scheme has 256 steps, so that a map fits an indexed PNG.
        """
        span = high - low or 1.0
        fractions = np.clip((np.asarray(values, float) - low) / span, 0, 1)
        steps = (fractions * 255).round() / 255
        return interpolate(self.sequence(), steps).round().astype(np.uint8)

    def config(self) -> dict[str, Any]:
        """Vega-Lite configuration."""
        small = self.font_size
        return {
            "font": self.font,
            "background": "white",
            "padding": 8,
            "view": {"stroke": None, "continuousWidth": 320, "continuousHeight": 220},
            "title": {
                "anchor": "start",
                "color": self.ink,
                "fontSize": small + 2,
                "fontWeight": 600,
                "offset": 10,
                "subtitleColor": self.muted,
                "subtitleFontSize": small,
            },
            "axis": {
                "labelColor": self.ink,
                "labelFontSize": small,
                "titleColor": self.muted,
                "titleFontSize": small,
                "titleFontWeight": 400,
                "titlePadding": 8,
                "domainColor": "#9aa2ab",
                "tickColor": "#9aa2ab",
                "tickSize": 4,
                "gridColor": self.grid,
            },
            "axisX": {"grid": False},
            "axisY": {"domain": False, "ticks": False, "labelPadding": 6},
            "legend": {
                "labelColor": self.ink,
                "labelFontSize": small,
                "titleColor": self.muted,
                "titleFontSize": small,
                "titleFontWeight": 400,
                "symbolStrokeWidth": 2.5,
            },
            "text": {"color": self.ink, "fontSize": small},
            "concat": {"spacing": 18},
        }


def register(theme: Theme) -> None:
    """Make ``theme`` Altair's theme, for charts drawn in a notebook."""
    alt.theme.register("reprscope", enable=True)(
        lambda: alt.theme.ThemeConfig({"config": theme.config()})  # type: ignore[typeddict-item]
    )


def spread(colours: Sequence[str], count: int) -> NDArray[np.float64]:
    """``count`` colours spread evenly over a scheme, both ends included; (count, 3) in [0, 255]."""
    return interpolate(colours, np.linspace(0, 1, count) if count > 1 else np.array([0.5]))


def interpolate(colours: Sequence[str], fractions: ArrayLike) -> NDArray[np.float64]:
    """Colours between the evenly spaced stops of a scheme, linear in sRGB; (..., 3) in [0, 255]."""
    stops = np.array([_rgb(colour) for colour in colours])
    where = np.linspace(0, 1, len(stops))
    fractions = np.asarray(fractions, float)
    return np.stack([np.interp(fractions, where, stops[:, i]) for i in range(3)], axis=-1)


def _rgb(colour: str) -> tuple[float, float, float]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _hex(rgb: NDArray[np.float64]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*(round(c) for c in rgb))


def _scheme(key: str, value: str | Sequence[str]) -> Sequence[str]:
    if not isinstance(value, str):
        return _colours(key, value, at_least=2)
    if value not in SCHEMES:
        raise UserError(
            f"{key} is {value!r}: give a list of colours or one of {', '.join(SCHEMES)}."
        )
    return SCHEMES[value]


def _colours(key: str, colours: Sequence[str], *, at_least: int) -> Sequence[str]:
    bad = [c for c in colours if not (isinstance(c, str) and _HEX.fullmatch(c))]
    if bad or len(colours) < at_least:
        wrong = f"has {bad[0]!r}" if bad else "has too few colours"
        raise UserError(f"{key} {wrong}: give colours such as '#1f5fa8'.")
    return colours
