"""Reading a place out of similarities: between tokens, in the forms that published numbers use.

``bilinear``
    As DIFT (Tang et al. 2023, ``eval_spair.py``): token maps are enlarged bilinearly to the pixels
    of the image (``align_corners=False``: between the tokens' centres, the edge repeated), and the
    pixel of the highest cosine similarity is the prediction. The enlarged map is never made: a dot
    product with an interpolated token is the interpolated dot product, and the squared length of
    an interpolated token is a form of the products of neighbouring tokens, both exactly. (An
    interpolated *cosine* is something else, because an interpolated token is shorter than its
    neighbours.)
``window``
    As GeoAware-SC (Zhang et al. 2024): the expected place under a softmax of the similarities,
    which count as 0 outside a square window around the most similar token.

Products are summed in float64 and rounded to float32, so that results do not depend on how many
queries are handled together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from reprscope.measures.similarity import BLOCK, normalise
from reprscope.tasks._matching import CENTRED, Maps, Queries

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reprscope.representations.coordinates import Offset

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]
    Float32 = NDArray[np.float32]

Readout = Literal["token", "bilinear", "window"]

WINDOW: Final = 5
"""Half the width of GeoAware-SC's window, in tokens, without the one in the middle."""

TEMPERATURE: Final = 0.02
"""Temperature of its softmax."""

_CACHED: Final = 1 << 16
"""Pixels that are compared at a time, which stay in the processor's cache."""


@dataclass(frozen=True)
class Blend:
    """Linear interpolation between neighbours along one axis of tokens.

    Attributes
    ----------
    low
        (places,) the first of the two tokens.
    share
        (places,) weight of the second in [0, 1], where that of the first is 1 less.
    tokens
        Number of tokens on the axis.
    """

    low: Ints
    share: Floats
    tokens: int

    @classmethod
    def at(cls, places: Floats, tokens: int) -> Blend:
        """Weights at places (n,) in tokens: token i covers [i, i + 1), its centre is i + 0.5."""
        # Rounding must not turn a place at a centre into a mixture.
        at = np.asarray(np.round(np.clip(places - 0.5, 0, tokens - 1), 9), dtype=np.float64)
        low = np.minimum(np.floor(at).astype(np.int64), max(tokens - 2, 0))
        return cls(low, at - low, tokens)

    @property
    def high(self) -> Ints:
        """(places,) the second token; of a single token the first."""
        return np.minimum(self.low + 1, self.tokens - 1)

    def squares(self) -> Floats:
        """Weights (places, 2 tokens - 1) of the products of tokens in a squared mixture.

        Column 2 i is that of token i with itself, 2 i + 1 that of i with i + 1.
        """
        weights = np.zeros((len(self.low), 2 * self.tokens + 1))
        rows = np.arange(len(self.low))
        weights[rows, 2 * self.low] = np.square(1 - self.share)
        weights[rows, 2 * self.low + 1] = 2 * self.share * (1 - self.share)
        weights[rows, 2 * self.low + 2] = np.square(self.share)
        return weights[:, : 2 * self.tokens - 1]


def lengths_between(tokens: Floats, rows: Blend, columns: Blend) -> Floats:
    """Length of bilinearly interpolated tokens.

    Parameters
    ----------
    tokens
        (h, w, channels).
    rows, columns
        Interpolation along the two axes, at n and m places.

    Returns
    -------
    (n, m) Euclidean lengths.
    """
    h, w, _ = tokens.shape
    # Products of neighbours, laid out between the tokens: those of the two diagonals of a square
    # of four have one weight, so that their mean stands in its middle.
    products = np.zeros((2 * h - 1, 2 * w - 1))
    up, down = tokens[:-1], tokens[1:]
    products[::2, ::2] = _dots(tokens, tokens)
    products[::2, 1::2] = _dots(tokens[:, :-1], tokens[:, 1:])
    products[1::2, ::2] = _dots(up, down)
    falling, rising = _dots(up[:, :-1], down[:, 1:]), _dots(up[:, 1:], down[:, :-1])
    products[1::2, 1::2] = (falling + rising) / 2
    squared = rows.squares() @ products @ columns.squares().T
    return np.asarray(np.sqrt(np.maximum(squared, 0)))


def _dots(first: Floats, second: Floats) -> Floats:
    return np.asarray(np.einsum("hwc,hwc->hw", first, second))


@dataclass(frozen=True)
class Raster:
    """Pixels of an image that are candidates, and where they lie among its tokens.

    Attributes
    ----------
    x, y
        (columns,), (rows,) numbers of the pixels.
    columns, rows
        Interpolation of tokens at their centres.
    """

    x: Ints
    y: Ints
    columns: Blend
    rows: Blend

    @classmethod
    def of(
        cls,
        size: tuple[int, int],
        grid: tuple[int, int],
        scale: tuple[float, float],
        offset: tuple[float, float],
        beside: Offset = CENTRED,
    ) -> Raster:
        """Pixels that tokens stand for.

        Parameters
        ----------
        size
            Width and height of the image.
        grid
            Rows and columns of its tokens.
        scale, offset
            Map of each axis, x and y, from the image's pixels to tokens.
        beside
            By how much the tokens lie beside their squares, in tokens.
        """
        axes = []
        for pixels, tokens, s, o, b in zip(size, grid[::-1], scale, offset, beside, strict=True):
            places: Floats = (np.arange(pixels, dtype=np.float64) + 0.5) * s + o
            shown = np.flatnonzero((places >= 0) & (places <= tokens))
            # A sliver may hold no pixel's centre.
            numbers = shown if len(shown) else np.arange(pixels)
            axes.append((numbers, Blend.at(places[numbers] - b, tokens)))
        (x, columns), (y, rows) = axes
        return cls(x, y, columns, rows)


def most_similar_pixel(queries: Floats, tokens: Floats, raster: Raster) -> tuple[Ints, Float32]:
    """Pixel whose interpolated token has the highest cosine similarity to each query.

    Parameters
    ----------
    queries
        (n, channels) of unit length.
    tokens
        (h, w, channels) of the target.
    raster
        Its pixels.

    Returns
    -------
    pixel : (n, 2) int64
        Numbers x, y of the pixel; of equally similar ones the first, row by row.
    similarity : (n,) float32
        Its cosine similarity.
    """
    h, w, channels = tokens.shape
    long = lengths_between(tokens, raster.rows, raster.columns)
    inverse = np.where(long > 0, 1 / np.where(long > 0, long, 1), 0).astype(np.float32)
    dots = (queries @ tokens.reshape(-1, channels).T).astype(np.float32).reshape(-1, h, w)
    share = raster.columns.share.astype(np.float32)
    along = dots[:, :, raster.columns.low] * (1 - share) + dots[:, :, raster.columns.high] * share
    low, high = raster.rows.low, raster.rows.high
    share = raster.rows.share.astype(np.float32)[:, None]
    width = len(raster.x)
    band = max(_CACHED // width, 1)
    best = np.full(len(queries), -np.inf, dtype=np.float32)
    place = np.zeros(len(queries), dtype=np.int64)
    for first in range(0, len(raster.y), band):
        part = slice(first, first + band)
        few = max(_CACHED // (width * len(low[part])), 1)
        for start in range(0, len(queries), few):
            some = slice(start, start + few)
            scores = along[some][:, low[part]]
            scores *= 1 - share[part]
            scores += along[some][:, high[part]] * share[part]
            scores *= inverse[part]
            flat = scores.reshape(len(scores), -1)
            found = flat.argmax(axis=1)
            highest = flat[np.arange(len(flat)), found]
            better = highest > best[some]
            best[some] = np.where(better, highest, best[some])
            place[some] = np.where(better, found + first * width, place[some])
    row, column = np.divmod(place, width)
    return np.stack([raster.x[column], raster.y[row]], axis=1), best.clip(-1, 1)


@dataclass(frozen=True)
class Mixtures(Queries):
    """Queries that lie between tokens.

    Attributes
    ----------
    corners : (queries, 4)
        Tokens around each.
    weights : (queries, 4)
        Their weights.
    """

    corners: Ints
    weights: Floats

    @classmethod
    def between(cls, image: Ints, of: Ints, places: Floats, grid: Ints) -> Mixtures:
        """Queries at places (queries, 2), x and y in tokens, of images sorted by number.

        Parameters
        ----------
        of
            (points,) query of each point.
        grid
            (images, 2) rows and columns.
        """
        corners = np.empty((len(image), 4), dtype=np.int64)
        weights = np.empty((len(image), 4))
        for h, w in np.unique(grid[image], axis=0).tolist():
            alike = np.flatnonzero((grid[image] == (h, w)).all(axis=1))
            column, row = (Blend.at(places[alike, i], side) for i, side in enumerate((w, h)))
            each = [(row.low, 1 - row.share), (row.high, row.share)]
            for i, (y, of_row) in enumerate(each):
                corners[alike, 2 * i] = y * w + column.low
                corners[alike, 2 * i + 1] = y * w + column.high
                weights[alike, 2 * i] = of_row * (1 - column.share)
                weights[alike, 2 * i + 1] = of_row * column.share
        return cls(image, corners[:, 0], of, corners, weights)

    def gather(self, maps: Maps, turn: slice, keep: Bools) -> Float32:
        """Unit mixtures (queries, channels) of a turn; see :meth:`Queries.gather`."""
        image = self.image[turn]
        mixed = np.empty((len(image), maps.reader.channels))
        for batch in maps.batches(np.unique(image)):
            bounds = np.searchsorted(image, [*batch, batch[-1] + 1])
            for number, raw in enumerate(maps.raw(batch, keep=keep)):
                rows = np.arange(bounds[number], bounds[number + 1]) + turn.start
                own = slice(bounds[number], bounds[number + 1])
                around = raw[self.corners[rows]].astype(np.float64)
                mixed[own] = np.einsum("qk,qkc->qc", self.weights[rows], around)
        return normalise(mixed)


def cosines(queries: Floats, keys: Floats) -> Float32:
    """Cosine similarity (n, m) of unit queries (n, channels) and keys (m, channels)."""
    long = np.sqrt(np.einsum("kc,kc->k", keys, keys))
    long[long == 0] = 1
    return np.asarray((queries @ keys.T / long).astype(np.float32))


def middles(index: Ints, columns: Ints | int) -> Floats:
    """Middle (n, 2), x and y in cells, of cells that are numbered row by row."""
    row, column = np.divmod(index, columns)
    return np.stack([column, row], axis=1) + 0.5


def expected_place(scores: Float32, *, window: int, temperature: float) -> Floats:
    """Expected place under a softmax of the similarities around the highest one.

    Parameters
    ----------
    scores
        (n, h, w) cosine similarities.
    window
        Cells on each side of the highest one, of equal ones the first; those beyond count as
        similarity 0.
    temperature
        Of the softmax, above 0.

    Returns
    -------
    (n, 2) x and y in cells, whose middles are at 0.5, 1.5 and so on.
    """
    count, h, w = scores.shape
    places = np.empty((count, 2))
    step = max(BLOCK // (h * w), 1)
    for start in range(0, count, step):
        some = scores[start : start + step].astype(np.float64)
        row, column = np.divmod(some.reshape(len(some), -1).argmax(axis=1), w)
        near_row = np.abs(np.arange(h) - row[:, None]) <= window
        near_column = np.abs(np.arange(w) - column[:, None]) <= window
        some *= near_row[:, :, None] & near_column[:, None, :]
        some -= some.max(axis=(1, 2), keepdims=True)
        weights = np.exp(some / temperature)
        total = weights.sum(axis=(1, 2))
        # Not a matrix product, whose rounding depends on how many there are.
        x, y = weights * (np.arange(w) + 0.5), weights * (np.arange(h) + 0.5)[:, None]
        places[start : start + step, 0] = x.sum(axis=(1, 2)) / total
        places[start : start + step, 1] = y.sum(axis=(1, 2)) / total
    return places
