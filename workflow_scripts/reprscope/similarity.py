"""Similarity between sets of tokens.

A token set is an array whose last axis holds the channels. Everything here works in float32: token
norms of diffusion models reach the thousands, so that squares and dot products leave the range of
float16, in which representations are stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float32 = NDArray[np.float32]

BLOCK: Final = 4096
"""Largest side of a similarity matrix that :func:`nearest` holds, in tokens (64 MB)."""


def normalise(tokens: NDArray[Any]) -> Float32:
    """Scale every token to unit length.

    Parameters
    ----------
    tokens
        (..., channels), any floating type.

    Returns
    -------
    (..., channels) float32. A token of zeros has no direction and stays zero, so that its cosine
    with every token is 0.
    """
    values = np.asarray(tokens, dtype=np.float32)
    norms: Float32 = np.sqrt(np.einsum("...c,...c->...", values, values))[..., None]
    norms[norms == 0] = 1
    return values / norms


def cosine(first: NDArray[Any], second: NDArray[Any]) -> Float32:
    """Cosine similarity of every token of one set with every token of another.

    The result is a full matrix; for the best match alone use :func:`nearest`.

    Parameters
    ----------
    first, second
        (n, channels) and (m, channels).

    Returns
    -------
    (n, m) float32 in [-1, 1].
    """
    similarity: Float32 = normalise(first) @ normalise(second).T
    return similarity.clip(-1, 1)


def nearest(
    queries: Float32, keys: Float32, *, block: int = BLOCK
) -> tuple[NDArray[np.int64], Float32]:
    """For every query the key of the highest cosine similarity.

    The similarity matrix is computed in blocks of at most ``block`` x ``block``, so that memory
    does not grow with the product of the two sets.

    Parameters
    ----------
    queries, keys
        (n, channels) and (m, channels), tokens of unit length as :func:`normalise` returns them.
    block
        Largest side of the part of the similarity matrix that is held at a time.

    Returns
    -------
    index : (n,) int64
        Index of the best key; of equally similar keys the first.
    similarity : (n,) float32
        Its cosine similarity, in [-1, 1].

    Raises
    ------
    ValueError
        If there are no keys.
    """
    if not len(keys):
        raise ValueError("there is no key to choose from")
    index = np.zeros(len(queries), dtype=np.int64)
    similarity = np.full(len(queries), -np.inf, dtype=np.float32)
    for start in range(0, len(queries), block):
        part = slice(start, start + block)
        for first_key in range(0, len(keys), block):
            scores = queries[part] @ keys[first_key : first_key + block].T
            best = scores.argmax(axis=1)
            highest = np.take_along_axis(scores, best[:, None], axis=1)[:, 0]
            # Strictly greater, so that a tie between two blocks goes to the first key.
            better = highest > similarity[part]
            index[part][better] = best[better] + first_key
            similarity[part][better] = highest[better]
    # Rounding takes cosines up to 1e-7 past 1. Clipped only here: earlier it would make ties.
    return index, similarity.clip(-1, 1)
