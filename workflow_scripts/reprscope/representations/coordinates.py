"""Pixels, tokens and the maps between them.

The one convention, used everywhere: x points right, y points down, pixel ``i`` covers
``[i, i + 1)``. An image of ``width`` pixels seen by a grid of ``w`` tokens gives tokens of
``s = width / w`` pixels; token ``i`` covers ``[i s, (i + 1) s)`` and its centre lies at
``(i + 0.5) s``. Published code differs by half a token or truncates to integers, which moves
PCK by several points; nothing here rounds before the very end.

What a token tells of may lie beside its square: strided convolutions shift it. Such an offset
``o``, in tokens to the right and down, puts the centre at ``(i + 0.5 + o) s``; see
:mod:`reprscope.representations.offsets`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Affine:
    """An axis-aligned map between two pixel frames: ``x' = scale_x x + offset_x``, same for y.

    A negative scale mirrors the axis. Scales are never zero.
    """

    scale_x: float = 1.0
    offset_x: float = 0.0
    scale_y: float = 1.0
    offset_y: float = 0.0

    def forward(self, xy: Floats) -> Floats:
        """Map points of shape (..., 2) from the first frame to the second."""
        return np.asarray(xy, float) * (self.scale_x, self.scale_y) + (self.offset_x, self.offset_y)

    def back(self, xy: Floats) -> Floats:
        """Map points of shape (..., 2) from the second frame to the first."""
        return (np.asarray(xy, float) - (self.offset_x, self.offset_y)) / (
            self.scale_x,
            self.scale_y,
        )

    def then(self, after: Affine) -> Affine:
        """Return the map that applies this one first and ``after`` second."""
        return Affine(
            self.scale_x * after.scale_x,
            self.offset_x * after.scale_x + after.offset_x,
            self.scale_y * after.scale_y,
            self.offset_y * after.scale_y + after.offset_y,
        )


Size = tuple[int, int] | tuple[Ints, Ints]
"""Of one image, or (...) of the image of every point."""


Offset = tuple[float, float]
"""Of a layer's tokens, x and y, in tokens: to the right and down."""


def token_index(
    xy: Floats, pixels: Size, grid: Size, offset: Offset = (0.0, 0.0)
) -> tuple[Ints, Ints]:
    """Token that covers each point.

    Parameters
    ----------
    xy : array, (..., 2)
        Points in the encoded image's pixels.
    pixels : (width, height)
        Size of the encoded image in pixels.
    grid : (h, w)
        Token grid of the representation.
    offset : (x, y)
        By how much the tokens lie beside their squares, in tokens.

    Returns
    -------
    row, col : integer arrays, (...)
        ``floor(x / s - offset)``, clamped to the grid, so that a point on the far border (or
        beyond it) belongs to the last token.
    """
    xy = np.asarray(xy, float)
    height, width = grid
    col = np.floor(xy[..., 0] * (width / pixels[0]) - offset[0]).astype(np.int64)
    row = np.floor(xy[..., 1] * (height / pixels[1]) - offset[1]).astype(np.int64)
    return np.clip(row, 0, height - 1), np.clip(col, 0, width - 1)


def token_centre(
    row: Ints, col: Ints, pixels: Size, grid: Size, offset: Offset = (0.0, 0.0)
) -> Floats:
    """Centre of tokens in the encoded image's pixels: ``(i + 0.5 + offset) s``; shape (..., 2)."""
    height, width = grid
    x = (np.asarray(col, float) + 0.5 + offset[0]) * (pixels[0] / width)
    y = (np.asarray(row, float) + 0.5 + offset[1]) * (pixels[1] / height)
    return np.stack([x, y], axis=-1)
