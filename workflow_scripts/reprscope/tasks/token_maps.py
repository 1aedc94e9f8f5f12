"""Maps of single images: clusters of tokens, their norms, and their principal components.

Thesis, figure 6: k-means with six clusters on the tokens of one image, the L2 norm of each token,
and the first three principal components shown as red, green and blue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from reprscope.base.parameters import check_whole
from reprscope.runtime.errors import UserError
from reprscope.tasks._pictures import Choice, choose, finite_tokens, frame, pictures

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reprscope.data.canonical import Annotations
    from reprscope.representations.store import Representations

    Float32 = NDArray[np.float32]

NEEDS: Final[frozenset[str]] = frozenset()
STORES: Final = frozenset({"tokens"})
PROTOCOL: Final[frozenset[str]] = frozenset()
TABLE_COLUMNS: Final = (
    "image_id",
    "kind",
    "row",
    "col",
    "cluster",
    "norm",
    "red",
    "green",
    "blue",
    "png",
)

RESTARTS: Final = 4
"""Starts of k-means, of which the one with the smallest inertia is kept."""

_SCHEMA: Final = {
    "image_id": pl.String,
    "position": pl.String,
    "kind": pl.String,
    "row": pl.Int32,
    "col": pl.Int32,
    "cluster": pl.Int32,
    "norm": pl.Float64,
    "red": pl.Float64,
    "green": pl.Float64,
    "blue": pl.Float64,
    "png": pl.Binary,
}


@dataclass(frozen=True, kw_only=True)
class Parameters(Choice):
    """Settings of the task, beside the choice of images.

    Attributes
    ----------
    clusters
        Number of k-means clusters; a map with fewer tokens gets one for each token.
    seed
        Seed of the starts of k-means.
    """

    clusters: int = 6
    seed: int = 42

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "clusters")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**32:
            raise UserError(f"seed is {self.seed!r}; write a whole number from 0 to 2**32 - 1.")


def measure(
    representations: Representations, annotations: Annotations, parameters: Parameters
) -> pl.DataFrame:
    """Map clusters, norms and principal components of each image, at every position.

    Parameters
    ----------
    representations
        Features of the images.
    annotations
        The images themselves.
    parameters
        Which images, and how many clusters.

    Returns
    -------
    Rows of ``kind`` "map", one for each token: ``image_id``, ``position``, ``row``, ``col``,
    ``cluster`` (numbered in the order in which the clusters appear, row by row), ``norm`` (L2),
    ``red``, ``green``, ``blue`` (principal components, in [0, 1]). Rows of ``kind`` "image", one
    for each image, at position "image": ``png`` (the picture in the frame of the encoded image).

    Raises
    ------
    UserError
        If an image has no features, or a feature is not finite.
    """
    images = choose(representations, annotations, parameters, kind="token_maps")
    frames = pictures(_SCHEMA, representations, annotations, images)
    for image in images:
        for position in representations.positions:
            tokens = finite_tokens(representations, position, image, kind="token_maps")
            rows, cols = np.indices(tokens.shape[:2]).reshape(2, -1)
            flat = tokens.reshape(-1, tokens.shape[-1])
            colours = component_colours(flat)
            frames.append(
                frame(
                    _SCHEMA,
                    row=rows,
                    col=cols,
                    image_id=image,
                    position=position,
                    kind="map",
                    cluster=clusters(flat, number=parameters.clusters, seed=parameters.seed),
                    norm=np.linalg.norm(flat, axis=1),
                    red=colours[:, 0],
                    green=colours[:, 1],
                    blue=colours[:, 2],
                )
            )
    return pl.concat(frames)


def summarise(measurements: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
    """Return the measurements: the maps are drawn as they are."""
    return measurements


def clusters(tokens: Float32, *, number: int, seed: int) -> NDArray[np.int32]:
    """Cluster tokens by k-means.

    Parameters
    ----------
    tokens
        (n, channels).
    number
        Number of clusters; at most one for each token.
    seed
        Seed of the starts, of which there are :data:`RESTARTS`.

    Returns
    -------
    (n,) cluster of each token, numbered from 0 in the order of their first tokens.
    """
    from sklearn.cluster import KMeans

    means = KMeans(min(number, len(tokens)), n_init=RESTARTS, random_state=seed)
    _, first, labels = np.unique(means.fit_predict(tokens), return_index=True, return_inverse=True)
    order = np.empty(len(first), dtype=np.int32)
    order[np.argsort(first)] = np.arange(len(first))
    result: NDArray[np.int32] = order[labels]
    return result


def component_colours(tokens: Float32) -> NDArray[np.float64]:
    """First three principal components of tokens, as colours.

    Parameters
    ----------
    tokens
        (n, channels).

    Returns
    -------
    (n, 3) in [0, 1]: the smallest value of all three components becomes 0 and the largest 1, as in
    the thesis, so that a weak component stays weak. The loading of the largest magnitude of each
    component is positive. Components that do not exist, and all of a uniform map, are 0.
    """
    centred = tokens - tokens.mean(axis=0, dtype=np.float64)
    wide = len(tokens) < tokens.shape[1]
    # The smaller of the two matrices with the same spectrum; a full SVD takes many times longer.
    variances, vectors = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    variances, vectors = variances[::-1][:3], vectors[:, ::-1][:, :3]
    # What is left of a uniform map is rounding, which must not be stretched to full colours.
    exists = variances > np.square(np.finfo(np.float32).eps * np.linalg.norm(tokens))
    loadings = (centred.T @ vectors if wide else vectors)[:, exists]
    loadings /= np.linalg.norm(loadings, axis=0)
    largest = np.take_along_axis(loadings, np.abs(loadings).argmax(axis=0)[None], axis=0)
    scores = np.zeros((len(tokens), 3))
    scores[:, exists.nonzero()[0]] = centred @ (loadings * np.sign(largest))
    low, high = scores.min(), scores.max()
    return (scores - low) / (high - low) if high > low else np.zeros_like(scores)
