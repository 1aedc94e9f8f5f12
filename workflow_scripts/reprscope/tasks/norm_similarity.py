"""How similar two tokens of different images are, and how long: a histogram over pairs.

Thesis, figure 39: cosine similarity of two tokens against the mean of their norms. The published
histogram pairs each similarity with the norms of the transposed pair, so that what tokens of a high
norm resemble is lost; here they belong together. ``norms: published`` pairs them so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from reprscope.base.parameters import check_whole
from reprscope.measures.similarity import normalise
from reprscope.runtime.errors import UserError
from reprscope.tasks._pictures import frame
from reprscope.tasks._samples import draw, histogram, several_images

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reprscope.data.canonical import Annotations
    from reprscope.representations.store import Representations

NEEDS: Final[frozenset[str]] = frozenset()
STORES: Final = frozenset({"tokens"})
PROTOCOL: Final[frozenset[str]] = frozenset()
TABLE_COLUMNS: Final = (
    "similarity",
    "similarity_end",
    "norm",
    "norm_end",
    "pairs",
    "share",
    "images",
    "tokens",
)

NORMS: Final = ("own", "published")
BLOCK: Final = 512
"""Rows of the similarity matrix that are held at a time."""

_SCHEMA: Final = {
    "position": pl.String,
    "similarity": pl.Float64,
    "similarity_end": pl.Float64,
    "norm": pl.Float64,
    "norm_end": pl.Float64,
    "pairs": pl.Int64,
    "share": pl.Float64,
    "images": pl.Int64,
    "tokens": pl.Int64,
}


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Settings of the task.

    Attributes
    ----------
    tokens
        Number of tokens that are drawn at each position, as many of every image; all pairs of them
        that are of two images are counted.
    bins
        Cells of the histogram along each side.
    seed
        Seed of the draw.
    norms
        ``own``: of the two tokens that are compared. ``published``: of token i and j of two images,
        those of token j of the first and i of the second, as in the thesis.
    """

    tokens: int = 2000
    bins: int = 100
    seed: int = 0
    norms: str = "own"

    def __post_init__(self) -> None:
        check_whole(self, "tokens", "bins", least=2)
        if self.norms not in NORMS:
            raise UserError(f"norms is {self.norms!r}; use one of: {', '.join(NORMS)}.")


def measure(
    representations: Representations, annotations: Annotations, parameters: Parameters
) -> pl.DataFrame:
    """Count pairs of tokens by their similarity and the mean of their norms.

    Parameters
    ----------
    representations
        Features of the images.
    annotations
        Not read.
    parameters
        How many tokens and cells.

    Returns
    -------
    One row for each position and cell that is not empty: ``similarity`` to ``similarity_end``
    (cosine, cells from -1 to 1), ``norm`` to ``norm_end`` (mean L2 norm of the two tokens, cells
    from the smallest to the largest norm of a token), ``pairs`` (unordered), ``share`` of all
    pairs, ``images`` and ``tokens`` that were drawn.

    Raises
    ------
    UserError
        If there are fewer than two images, a feature is not finite, or the published norms are
        asked for of images of different sizes.
    """
    images = several_images(representations, kind="norm_similarity")
    frames = []
    for position in representations.positions:
        samples = draw(
            representations,
            position,
            images,
            number=parameters.tokens,
            seed=parameters.seed,
            kind="norm_similarity",
        )
        norms = np.concatenate([sample.norms for sample in samples])
        similarity_edges = np.linspace(-1, 1, parameters.bins + 1)
        norm_edges = np.linspace(norms.min(), norms.max(), parameters.bins + 1)
        counts = pair_histogram(
            np.concatenate([sample.tokens for sample in samples]),
            norms,
            np.repeat(np.arange(len(samples)), [len(sample.norms) for sample in samples]),
            similarity_edges=similarity_edges,
            norm_edges=norm_edges,
            transposed=parameters.norms == "published",
        )
        rows, cols = counts.nonzero()
        frames.append(
            frame(
                _SCHEMA,
                position=position,
                similarity=similarity_edges[cols],
                similarity_end=similarity_edges[cols + 1],
                norm=norm_edges[rows],
                norm_end=norm_edges[rows + 1],
                pairs=counts[rows, cols],
                share=counts[rows, cols] / counts.sum(),
                images=len(images),
                tokens=len(norms),
            )
        )
    return pl.concat(frames)


def pair_histogram(
    tokens: NDArray[np.float32],
    norms: NDArray[np.float64],
    image: NDArray[np.int64],
    *,
    similarity_edges: NDArray[np.float64],
    norm_edges: NDArray[np.float64],
    transposed: bool = False,
) -> NDArray[np.int64]:
    """Histogram of all unordered pairs of tokens of different images.

    Parameters
    ----------
    tokens
        (n, channels).
    norms
        (n,) their norms.
    image
        (n,) numbers of their images, ascending.
    similarity_edges, norm_edges
        Evenly spaced.
    transposed
        Take for tokens i and j of two images the norms of j and i.

    Returns
    -------
    (norms, similarities) counts.

    Raises
    ------
    UserError
        If ``transposed`` and images have different numbers of tokens.
    """
    each = len(image) // (image[-1] + 1)
    if transposed and (np.bincount(image) != each).any():
        raise UserError(
            "norm_similarity: images have different numbers of tokens, so that there is no "
            "transposed pair; use images of one size, or `norms: own`."
        )
    # In float64, so that no pair changes its cell with the order in which products are summed.
    unit = normalise(tokens).astype(np.float64)
    counts = np.zeros((len(norm_edges) - 1, len(similarity_edges) - 1), dtype=np.int64)
    for start in range(0, len(unit), BLOCK):
        part = slice(start, start + BLOCK)
        first, second = np.nonzero(image[part, None] < image[None, :])
        if not len(first):
            continue
        similarity = unit[part] @ unit.T
        one, other = first + start, second
        if transposed:
            one, other = image[one] * each + other % each, image[other] * each + one % each
        counts += histogram(
            similarity[first, second],
            (norms[one] + norms[other]) / 2,
            x_edges=similarity_edges,
            y_edges=norm_edges,
        )
    return counts


def summarise(measurements: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
    """Return the measurements: they are counts over all images."""
    return measurements
