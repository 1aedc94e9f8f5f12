"""Colours of the patches that tokens stand for: features that see content and no position.

Pictures are not alike everywhere, the sky being above and the ground below, so that colours alone
tell the place of a patch better than chance. What they tell is the null for "tokens hold their
place".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float32 = NDArray[np.float32]

CHANNELS: Final = 27
"""Mean and deviation of three colours, and the 21 products of two of these six."""


def colours(picture: NDArray[np.uint8], grid: tuple[int, int]) -> Float32:
    """Colours of each token's patch, and their products, so that a linear map sees curves.

    Parameters
    ----------
    picture
        (height, width, 3) as encoded.
    grid
        (h, w) of the token map; a patch has at least one pixel.

    Returns
    -------
    (h, w, 27) float32: mean and deviation of red, green and blue in the patch in [0, 1], then all
    products of two of them, squares included.
    """
    pixels = np.asarray(picture, dtype=np.float64) / 255
    rows, columns = (_bounds(size, n) for size, n in zip(pixels.shape[:2], grid, strict=True))
    moments = []
    for values in (pixels, np.square(pixels)):
        total = np.zeros((pixels.shape[0] + 1, pixels.shape[1] + 1, pixels.shape[2]))
        total[1:, 1:] = values.cumsum(axis=0).cumsum(axis=1)
        low, high = total[rows[0]], total[rows[1]]
        area = (rows[1] - rows[0])[:, None] * (columns[1] - columns[0])
        sums = (high - low)[:, columns[1]] - (high - low)[:, columns[0]]
        moments.append(sums / area[..., None])
    mean, square = moments
    deviation = np.sqrt(np.maximum(square - np.square(mean), 0))
    single = np.concatenate([mean, deviation], axis=-1)
    first, second = np.triu_indices(single.shape[-1])
    products = single[..., first] * single[..., second]
    return np.concatenate([single, products], axis=-1).astype(np.float32)


def _bounds(size: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First pixel of each of ``count`` patches and the one after its last; at least one pixel."""
    start = np.arange(count) * size // count
    end = np.maximum((np.arange(count) + 1) * size // count, start + 1)
    return start, end
