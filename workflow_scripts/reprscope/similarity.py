"""Similarity between sets of tokens.

A token set is an array whose last axis holds the channels. Everything here works in float32: token
norms of diffusion models reach the thousands, so that squares and dot products leave the range of
float16, in which representations are stored.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float32 = NDArray[np.float32]

BLOCK: Final = 1 << 20
"""Similarities that :func:`nearest` holds at a time (4 MB, so that they stay in a cache)."""

ROWS: Final = 512
"""Queries that it multiplies at a time."""

CLOSE: Final = 1e-5
"""Difference of cosines in float32 up to which they may be equal: some hundred roundings."""


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


def lengths(tokens: Float32) -> Float32:
    """Euclidean length (...) of every token of (..., channels); not finite if a value is not."""
    squares: Float32 = np.einsum("...c,...c->...", tokens, tokens)
    return np.sqrt(squares)


def nearest(
    queries: Float32, keys: Float32, *, block: int = BLOCK
) -> tuple[NDArray[np.int64], Float32]:
    """For every query the key of the highest cosine similarity, in one image or in each of many.

    One matrix product serves all queries and as many images as ``block`` allows. Such products
    round differently for every shape and number of threads, which would decide between keys that
    are equally or almost equally similar. Therefore keys within :data:`CLOSE` of the best are
    compared in float64, one by one: the result depends on nothing but the tokens.

    Parameters
    ----------
    queries
        (n, channels), of unit length as :func:`normalise` returns them.
    keys
        (m, channels), or (images, m, channels) to search each image for itself; of any length.
    block
        Number of similarities that are held at a time; at least those of one query with one image.

    Returns
    -------
    index : (n,) or (n, images) int64
        Index of the best key; of equally similar keys the first.
    similarity : (n,) or (n, images) float32
        Its cosine similarity, in [-1, 1].

    Raises
    ------
    ValueError
        If there are no keys.
    """
    images = keys if keys.ndim == 3 else keys[None]
    count, tokens, channels = images.shape
    if not tokens:
        raise ValueError("there is no key to choose from")
    long = lengths(images)
    long[long == 0] = 1
    index = np.zeros((len(queries), count), dtype=np.int64)
    similarity = np.zeros((len(queries), count), dtype=np.float32)
    rows = max(min(len(queries), ROWS, block // tokens), 1)
    step = max(block // (rows * tokens), 1)
    step = min(step, count)
    # Memory is used again for every product: fresh memory costs more than a small product.
    held = np.empty(rows * step * tokens, dtype=np.float32)
    # Fewer divisions: of the keys where queries are many, of the similarities where they are few.
    many = len(queries) > channels
    units = np.empty((step if many else 0, tokens, channels), dtype=np.float32)
    for first in range(0, count, step):
        part = slice(first, first + step)
        some = images[part]
        if many:
            some = np.divide(some, long[part, :, None], out=units[: len(some)])
        for start in range(0, len(queries), rows):
            chosen = slice(start, start + rows)
            shape = (len(queries[chosen]), len(some), tokens)
            scores = held[: math.prod(shape)].reshape(shape)
            flat = scores.reshape(shape[0], -1)
            np.matmul(queries[chosen], some.reshape(-1, channels).T, out=flat)
            if not many:
                flat /= long[part].ravel()
            found = _best(scores, queries[chosen], images[part])
            index[chosen, part], similarity[chosen, part] = found
    # Rounding takes cosines up to 1e-7 past 1. Clipped only here: earlier it would make ties.
    similarity = similarity.clip(-1, 1)
    return (index, similarity) if keys.ndim == 3 else (index[:, 0], similarity[:, 0])


def _best(scores: Float32, queries: Float32, keys: Float32) -> tuple[NDArray[np.int64], Float32]:
    """Index and score (queries, images) of the best key; overwrites ``scores``."""
    flat = scores.reshape(-1, scores.shape[-1])
    every = np.arange(len(flat))
    index = flat.argmax(axis=1)
    highest = flat[every, index]
    flat[every, index] = -np.inf
    close = np.flatnonzero(flat.max(axis=1) >= highest - CLOSE)
    if len(close):
        flat[close, index[close]] = highest[close]
        case, key = np.nonzero(flat[close] >= highest[close, None] - CLOSE)
        query, image = np.divmod(close[case], scores.shape[1])
        exact = np.empty(len(key))
        step = max(BLOCK // keys.shape[-1], 1)
        for start in range(0, len(key), step):
            few = slice(start, start + step)
            one = keys[image[few], key[few]].astype(np.float64)
            length = np.sqrt(np.einsum("kc,kc->k", one, one))
            length[length == 0] = 1
            exact[few] = np.einsum("kc,kc->k", queries[query[few]].astype(np.float64), one) / length
        # Sorted by case already; within one by falling similarity, then by key.
        order = np.lexsort((key, -exact, case))
        firsts = order[np.flatnonzero(np.diff(case[order], prepend=-1))]
        index[close], highest[close] = key[firsts], exact[firsts]
    return index.reshape(scores.shape[:2]), highest.reshape(scores.shape[:2])
