"""Similarity of tokens at all places to the token at each of a grid of places, in one image.

Thesis, figure 10: on images of one colour (source ``uniform``), where nothing but noise and place
tells tokens apart, the cosine similarity of every token to each reference token, as the mean over
100 images. What is left in the mean is what tokens share because of where they stand.

The mean is one over noise only if each image has its own. With ``noise: shared`` the images are all
alike, and so are their maps: nothing is averaged, the deviation is zero, and the pattern of the one
noise map stays in. That is how the published figure was made.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from reprscope.base.parameters import check_whole
from reprscope.measures.similarity import normalise
from reprscope.runtime.errors import UserError
from reprscope.tasks._pictures import finite_tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reprscope.data.canonical import Annotations
    from reprscope.representations.store import Representations

NEEDS: Final[frozenset[str]] = frozenset()
STORES: Final = frozenset({"tokens"})
PROTOCOL: Final = frozenset({"noise"})
TABLE_COLUMNS: Final = (
    "noise",
    "images",
    "reference_row",
    "reference_col",
    "row",
    "col",
    "similarity",
    "deviation",
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Settings of the task.

    Attributes
    ----------
    references
        Reference places along each axis, spread evenly; all tokens of a smaller map.
    """

    references: int = 8

    def __post_init__(self) -> None:
        check_whole(self, "references")


def measure(
    representations: Representations,
    annotations: Annotations,
    parameters: Parameters,
    *,
    noise: str = "per_image",
) -> pl.DataFrame:
    """Compare all tokens of each image with its reference tokens, at every position.

    Parameters
    ----------
    representations
        Features of images whose token grids are alike; all images are used.
    annotations
        Not used.
    parameters
        Number of reference places.
    noise : {"per_image", "shared", "none"}
        How the protocol draws the noise; it is written to the rows.

    Returns
    -------
    One row for each position, reference and token: ``position``, ``noise``, ``images``,
    ``reference_row``, ``reference_col``, ``row``, ``col``, ``similarity`` (cosine, mean over
    images) and ``deviation`` (standard deviation over images).

    Raises
    ------
    UserError
        If token grids differ, or a feature is not finite.
    """
    frames = []
    images = sorted(representations.image_ids)
    for position in representations.positions:
        mean = square = np.zeros(0)
        grid: tuple[int, int] = (0, 0)
        chosen: tuple[NDArray[np.int64], NDArray[np.int64]] = (np.zeros(0, int), np.zeros(0, int))
        for number, image in enumerate(images):
            tokens = finite_tokens(representations, position, image, kind="position_similarity")
            if number == 0:
                grid = tokens.shape[:2]
                chosen = _references(grid, parameters.references)
                mean = np.zeros((len(chosen[0]), grid[0] * grid[1]))
                square = np.zeros_like(mean)
            if tokens.shape[:2] != grid:
                raise UserError(
                    f"position_similarity: image '{image}' has another token grid than "
                    f"'{images[0]}'; use images of one size, or a view with `fit: pad`."
                )
            unit = normalise(tokens)
            similarity = (unit[chosen] @ unit.reshape(-1, unit.shape[-1]).T).clip(-1, 1)
            # Welford's sums: images that are all alike have a deviation of exactly 0.
            away = similarity.astype(np.float64) - mean
            mean += away / (number + 1)
            square += away * (similarity - mean)
        deviation = np.sqrt(square / len(images))
        frames.append(_frame(position, noise, grid, chosen, mean, deviation, len(images)))
        logger.info("compared %d images at %s", len(images), position)
    return pl.concat(frames)


def _references(grid: tuple[int, int], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the reference tokens: the middles of ``count`` equal parts of an axis."""
    axes = []
    for length in grid:
        parts = min(count, length)
        axes.append((2 * np.arange(parts) + 1) * length // (2 * parts))
    rows, columns = np.meshgrid(*axes, indexing="ij")
    return rows.ravel(), columns.ravel()


def _frame(
    position: str,
    noise: str,
    grid: tuple[int, int],
    chosen: tuple[NDArray[np.int64], NDArray[np.int64]],
    mean: NDArray[Any],
    deviation: NDArray[Any],
    images: int,
) -> pl.DataFrame:
    tokens = grid[0] * grid[1]
    rows, columns = np.indices(grid).reshape(2, -1)
    references = len(chosen[0])
    return pl.DataFrame(
        {
            "reference_row": np.repeat(chosen[0], tokens).astype(np.int32),
            "reference_col": np.repeat(chosen[1], tokens).astype(np.int32),
            "row": np.tile(rows, references).astype(np.int32),
            "col": np.tile(columns, references).astype(np.int32),
            "similarity": mean.ravel(),
            "deviation": deviation.ravel(),
        }
    ).select(
        pl.lit(position).alias("position"),
        pl.lit(noise).alias("noise"),
        pl.lit(images, pl.Int32).alias("images"),
        pl.all(),
    )


def summarise(measurements: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
    """Return the measurements: the maps are drawn as they are."""
    return measurements
