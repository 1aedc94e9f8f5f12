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
    from collections.abc import Callable, Sequence

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


def compare(
    first: NDArray[Any], second: NDArray[Any], *, measure: str, centre: NDArray[Any] | None = None
) -> Float32:
    """Compare every token of one set with every token of another, of one image or of two.

    Parameters
    ----------
    first, second
        (n, channels) and (m, channels).
    measure
        One of :data:`MEASURES`.
    centre
        (channels,), for the centred cosine: what is subtracted from all tokens first, see
        :func:`centre_of`.

    Returns
    -------
    (n, m) float32. Of those in :data:`DISTANCES` the smallest is the most similar, of the others
    the largest.

    Raises
    ------
    ValueError
        If the measure is not known, or the centre is missing.
    """
    if measure == "centred_cosine":
        if centre is None:
            raise ValueError("the centred cosine needs a centre")
        return centred_cosine(first, second, centre)
    if measure not in _MEASURES:
        raise ValueError(f"there is no measure {measure}")
    return _MEASURES[measure](first, second)


def centre_of(maps: Sequence[NDArray[Any]]) -> Float32:
    """Mean over token sets of the mean token of each, (channels,); sets count alike."""
    means = [np.mean(tokens, axis=0, dtype=np.float64) for tokens in maps]
    centre: Float32 = np.mean(means, axis=0).astype(np.float32)
    return centre


def centred_cosine(first: NDArray[Any], second: NDArray[Any], centre: NDArray[Any]) -> Float32:
    """Cosine similarity of tokens as seen from ``centre``, (channels,).

    What all tokens have in common makes every cosine large; seen from their mean, tokens that
    differ from it in opposite ways have a negative one.

    Returns
    -------
    (n, m) float32 in [-1, 1].
    """
    return cosine(np.subtract(first, centre), np.subtract(second, centre))


def dot(first: NDArray[Any], second: NDArray[Any]) -> Float32:
    """Dot product, (n, m) float32: the cosine times both norms."""
    product: Float32 = np.asarray(first, np.float32) @ np.asarray(second, np.float32).T
    return product


def l1(first: NDArray[Any], second: NDArray[Any]) -> Float32:
    """Sum over channels of absolute differences (Manhattan distance), (n, m) float32."""
    return _by_row(lambda difference: np.abs(difference).sum(axis=1), first, second)


def l2(first: NDArray[Any], second: NDArray[Any]) -> Float32:
    """Norm of the difference (Euclidean distance), (n, m) float32.

    Taken from the differences themselves: from norms and dot products, the distance of two long
    tokens that are almost equal would be rounding.
    """
    return _by_row(lambda difference: np.linalg.norm(difference, axis=1), first, second)


def linf(first: NDArray[Any], second: NDArray[Any]) -> Float32:
    """Largest absolute difference over channels (Chebyshev distance), (n, m) float32."""
    return _by_row(lambda difference: np.abs(difference).max(axis=1), first, second)


def relative_norm(first: NDArray[Any], second: NDArray[Any]) -> Float32:
    """Relative L2 norm: by what share a token of the second set is longer than one of the first.

    Returns
    -------
    (n, m) float32, (|b| - |a|) / |a|: at least -1, 0 for equal norms, and 1 for twice the norm; NaN
    for the rows of tokens a that are zero, against which no norm can be measured.
    """
    norms = [np.linalg.norm(np.asarray(tokens, np.float32), axis=1) for tokens in (first, second)]
    own = np.where(norms[0] == 0, np.nan, norms[0])[:, None]
    result: Float32 = ((norms[1] - own) / own).astype(np.float32)
    return result


def _by_row(
    reduce: Callable[[Float32], Float32], first: NDArray[Any], second: NDArray[Any]
) -> Float32:
    """Reduce the differences (m, channels) from each token of the first set, one at a time."""
    other = np.asarray(second, dtype=np.float32)
    rows = [reduce(other - token) for token in np.asarray(first, dtype=np.float32)]
    return np.array(rows, dtype=np.float32).reshape(len(first), len(second))


def concatenate(maps: Sequence[NDArray[Any]]) -> Float32:
    """Join the token maps of several positions of one image into one with all their channels.

    Every map is enlarged to the finest grid, a token of which takes the vector of the token that
    covers its centre (nearest neighbour), and every token has unit length before it is joined, so
    that each position has an equal say in the cosine: that of joined tokens is the mean of the
    cosines at the positions.

    Parameters
    ----------
    maps
        (h, w, channels) each; grids and channels may differ.

    Returns
    -------
    (h, w, sum of channels) float32.

    Raises
    ------
    ValueError
        If there is no map.
    """
    if not maps:
        raise ValueError("there is no map to concatenate")
    height, width = (max(one.shape[axis] for one in maps) for axis in (0, 1))
    enlarged = []
    for one in maps:
        # The centre of row i of h lies in row floor((i + 1/2) k / h) of k, in whole numbers.
        rows = (2 * np.arange(height) + 1) * one.shape[0] // (2 * height)
        cols = (2 * np.arange(width) + 1) * one.shape[1] // (2 * width)
        enlarged.append(normalise(one)[rows][:, cols])
    return np.concatenate(enlarged, axis=-1)


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


_MEASURES: Final[dict[str, Callable[[NDArray[Any], NDArray[Any]], Float32]]] = {
    "cosine": cosine,
    "dot": dot,
    "l1": l1,
    "l2": l2,
    "linf": linf,
    "relative_norm": relative_norm,
}

MEASURES: Final = ("cosine", "centred_cosine", *tuple(_MEASURES)[1:])
"""How two tokens can be compared."""

DISTANCES: Final = frozenset({"l1", "l2", "linf"})
"""Measures that are smaller the more alike two tokens are."""


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
