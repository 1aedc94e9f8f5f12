"""Searching the most similar tokens of images for many keypoints, as fast as the machine allows.

Used by the tasks on correspondence. Points are columns of integers and coordinates, never objects.
At a position, first the tokens at the sources' keypoints are gathered, each token once however many
keypoints and pairs ask for it. Then every target is searched for all that is asked of it in one
matrix product.

Memory does not grow with the number of images: token maps stay in :data:`KEPT` bytes between the
two steps, in the type in which they are stored; a map that does not fit is read a second time.
Sources are handled in turns of :data:`GATHERED` bytes of tokens, and :data:`READ` bytes are read at
a time, but at least one map.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from reprscope.measures.similarity import BLOCK, nearest, normalise
from reprscope.representations.coordinates import Offset, token_index
from reprscope.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import DTypeLike, NDArray

    from reprscope.representations.store import Representations

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Float32 = NDArray[np.float32]

    Find = Callable[[Float32, Float32, int], tuple[NDArray[Any], Float32]]
    """Of unit queries (n, channels), tokens (m, channels) of an image, and its number: what is
    found for each query, (n, ...), and its similarity (n,)."""

CENTRED: Final[Offset] = (0.0, 0.0)
"""Tokens that lie in the middle of their squares."""

KEPT: Final = 1 << 30
"""Bytes of token maps that are kept between the search for sources and for targets."""

GATHERED: Final = 1 << 28
"""Bytes of source tokens that are matched in one turn."""

READ: Final = 1 << 24
"""Bytes of token maps, as they are stored, that are read in one call."""


_CACHED: Final = 1 << 16
"""Numbers that are converted at a time, which stay in the processor's cache."""


@dataclass(frozen=True)
class Frames:
    """Pixel frames of images, one row each: sizes and maps of :class:`Representations`.

    Attributes
    ----------
    names
        Image names.
    pixels
        (images, 2) width and height as encoded.
    scale, offset
        (images, 2) of the maps from original to encoded pixels.
    """

    names: Sequence[str]
    pixels: Ints
    scale: Floats
    offset: Floats

    @classmethod
    def of(cls, representations: Representations, names: Sequence[str]) -> Frames:
        """Frames of the named images."""
        maps = [representations.transform(name) for name in names]
        return cls(
            names,
            np.array([representations.pixels(name) for name in names], dtype=np.int64),
            np.array([(one.scale_x, one.scale_y) for one in maps]),
            np.array([(one.offset_x, one.offset_y) for one in maps]),
        )

    def forward(self, image: Ints, xy: Floats) -> Floats:
        """Map points (n, 2) of images (n,) from original to encoded pixels."""
        return xy * self.scale[image] + self.offset[image]

    def shows(self, image: Ints, xy: Floats) -> NDArray[np.bool_]:
        """Whether points (n, 2) in encoded pixels lie in images (n,)."""
        # Room for the rounding of a point that lies on the border.
        room = 1e-9 * self.pixels[image]
        inside = (xy >= -room) & (xy <= self.pixels[image] + room)
        return np.asarray(inside.all(axis=1))

    def back(self, image: Ints, xy: Floats) -> Floats:
        """Map points (n, 2) of images (n,) from encoded to original pixels."""
        return (xy - self.offset[image]) / self.scale[image]


def component_order(source: Ints, target: Ints, images: int) -> tuple[Ints, Ints]:
    """Order images so that those that pairs connect stand together.

    Parameters
    ----------
    source, target
        (pairs,) numbers of images.
    images
        Number of images.

    Returns
    -------
    order : (images,)
        Numbers of the images; within a component they ascend.
    component : (images,)
        Component of each image in that order, ascending.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(source)), (source, target)), shape=(images, images))
    _, label = connected_components(graph, directed=False)
    # Numbered by their first image, whatever the order in which they are found.
    _, first, label = np.unique(label, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))[label]
    order = np.argsort(rank, kind="stable")
    return order, rank[order]


def columns(pairs: Ints) -> tuple[Ints, Ints]:
    """The two columns of (n, 2), as functions of coordinates take sizes."""
    return pairs[:, 0], pairs[:, 1]


class Reader(Protocol):
    """Token maps of images by name, all of one number of channels.

    ``offset`` is by how much the tokens count as lying beside their squares, x and y in tokens.
    """

    channels: int
    dtype: np.dtype[Any]
    offset: Offset

    def grid(self, image: str) -> tuple[int, int]:
        """Rows and columns of an image's tokens."""

    def read(self, images: Sequence[str], out: NDArray[Any]) -> None:
        """Read the tokens of images into ``out``, (tokens of all, channels)."""


class Stored:
    """Token maps of a store at one position, as they are.

    With ``measured``, tokens lie where they were measured to lie, not in the middle of their
    squares (:mod:`reprscope.representations.offsets`).
    """

    def __init__(
        self, representations: Representations, position: str, *, measured: bool = False
    ) -> None:
        self.representations, self.position = representations, position
        self.channels, self.dtype = representations.layout(position)
        self.offset = representations.offset(position) if measured else CENTRED

    def grid(self, image: str) -> tuple[int, int]:
        """Rows and columns of an image's tokens."""
        return self.representations.grid(self.position, image)

    def read(self, images: Sequence[str], out: NDArray[Any]) -> None:
        """Read the tokens of images into ``out``, (tokens of all, channels)."""
        self.representations.read_tokens(self.position, images, out)


class Memory:
    """Memory that is used again for every position; one of several may have a share of it."""

    def __init__(self, shares: int = 1) -> None:
        self.kept = np.empty(KEPT // shares // 8 * 8, dtype=np.uint8)
        self._pieces: dict[str, NDArray[np.uint8]] = {}

    def piece(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array with whatever was in it, until the next call with this name."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if len(self._pieces.get(name, ())) < size:
            self._pieces[name] = np.empty(size, dtype=np.uint8)
        return self._pieces[name][:size].view(dtype).reshape(shape)


class Maps:
    """Token maps of numbered images at one position.

    Attributes
    ----------
    grid
        (images, 2) rows and columns of tokens.
    """

    def __init__(
        self, reader: Reader, names: Sequence[str], memory: Memory, *, task: str, position: str
    ) -> None:
        self.reader, self.names, self.memory = reader, names, memory
        self.grid = np.array([reader.grid(name) for name in names], dtype=np.int64)
        self._bytes = self.grid.prod(axis=1) * reader.channels * reader.dtype.itemsize
        self._message = f"{task}: the features of image '{{}}' at {position} are not finite; "
        self._kept: dict[int, NDArray[Any]] = {}
        self._used = 0

    def batches(self, images: Ints, *, most: int | None = None) -> Iterator[Ints]:
        """Cut images into batches of one grid, at most ``most``, that are read at once."""
        limit = len(images) if most is None else most
        start = 0
        while start < len(images):
            rest = images[start:]
            count = max(min(READ // int(self._bytes[rest[0]]), limit), 1)
            other = np.flatnonzero((self.grid[rest[:count]] != self.grid[rest[0]]).any(axis=1))
            count = int(other[0]) if len(other) else count
            yield rest[:count]
            start += count

    def raw(self, images: Ints, *, keep: NDArray[np.bool_] | None = None) -> list[NDArray[Any]]:
        """Tokens (h * w, channels) of a batch as they are stored, until the next call.

        Parameters
        ----------
        images
            Batch of :meth:`batches`.
        keep
            (images,) maps that stay in memory as far as there is room; None for none.

        Raises
        ------
        UserError
            If one of them is not finite.
        """
        numbers = images.tolist()
        wanted = [image for image in numbers if image not in self._kept]
        if not wanted:
            return [self._kept[image] for image in numbers]
        kept = [image for image in wanted if keep is not None and keep[image]]
        size = int(self._bytes[wanted].sum())
        shape = (len(wanted), int(self.grid[wanted[0]].prod()), self.reader.channels)
        if len(kept) == len(wanted) and self._used + size <= len(self.memory.kept):
            place = self.memory.kept[self._used : self._used + size]
            read = place.view(self.reader.dtype).reshape(shape)
            self._used += size
            self._kept |= zip(wanted, read, strict=True)
        else:
            read = self.memory.piece("read", shape, self.reader.dtype)
        self.reader.read([self.names[image] for image in wanted], read.reshape(-1, shape[2]))
        self._check(wanted, read)
        maps = self._kept | dict(zip(wanted, read, strict=True))
        return [maps[image] for image in numbers]

    def load(self, images: Ints) -> Float32:
        """Tokens (images, h * w, channels) of a batch, until the next call."""
        raw = self.raw(images)
        values = self.memory.piece("loaded", (len(raw), *raw[0].shape), np.float32)
        for one, stored in zip(values, raw, strict=True):
            to_float32(stored, one)
        return values

    def forget(self) -> None:
        """Give the memory of kept maps back."""
        self._kept.clear()
        self._used = 0

    def _check(self, images: list[int], read: NDArray[Any]) -> None:
        if not _finite(read):
            bad = next(image for image, one in zip(images, read, strict=True) if not _finite(one))
            raise UserError(
                self._message.format(self.names[bad])
                + "extract them again, with precision float32."
            )


def to_float32(stored: NDArray[Any], out: Float32) -> None:
    """Convert finite float16 to float32, six times as fast as numpy; copy float32.

    The bits of a float16, moved to the place that a float32 has for them, are the number times
    2 ** -112, and so they are for subnormal numbers.
    """
    if stored.dtype != np.float16:
        np.copyto(out, stored)
        return
    halves, floats = stored.reshape(-1).view(np.int16), out.reshape(-1)
    for start in range(0, len(halves), _CACHED):
        part = slice(start, start + _CACHED)
        bits = floats[part].view(np.int32)
        np.copyto(bits, halves[part])  # repeats the sign to the left
        np.left_shift(bits, 13, out=bits)
        np.bitwise_and(bits, np.int32(-0x70002000), out=bits)
        np.multiply(floats[part], np.float32(2.0**112), out=floats[part])


def _finite(values: NDArray[Any]) -> bool:
    if values.dtype == np.float16:
        # The exponent of infinity and NaN is the highest; two searches are quicker than a mask.
        high = values.view(np.int16).max() < 0x7C00
        return bool(high and values.view(np.uint16).max() < 0xFC00)
    return bool(np.isfinite(values).all())


@dataclass(frozen=True)
class Queries:
    """Tokens of sources that are asked for, each once, sorted by image.

    Attributes
    ----------
    image, token
        (queries,) number of the image and index of the token in it.
    of
        (points,) query of each point.
    """

    image: Ints
    token: Ints
    of: Ints

    @classmethod
    def at(
        cls, image: Ints, xy: Floats, pixels: Ints, grid: Ints, offset: Offset = CENTRED
    ) -> Queries:
        """Queries for points (n, 2) in encoded pixels of images (n,)."""
        of_point = grid[image]
        row, col = token_index(xy, columns(pixels[image]), columns(of_point), offset)
        most = int(grid.prod(axis=1).max())
        code, of = np.unique(image * most + row * of_point[:, 1] + col, return_inverse=True)
        return cls(code // most, code % most, of)

    def turns(self, first: int, last: int, channels: int) -> Iterator[slice]:
        """Cut the queries of images ``first`` to ``last`` into turns of whole images."""
        most = max(GATHERED // (4 * channels), 1)
        start, end = np.searchsorted(self.image, [first, last + 1])
        while start < end:
            stop = min(start + most, end)
            if stop < end:
                # Back to the start of an image, unless one image alone is more than a turn.
                whole = np.searchsorted(self.image, self.image[stop])
                stop = int(whole) if whole > start else stop
            yield slice(int(start), int(stop))
            start = stop

    def gather(self, maps: Maps, turn: slice, keep: NDArray[np.bool_]) -> Float32:
        """Unit tokens (queries, channels) of a turn; ``keep`` (images,) says what is read again."""
        image, token = self.image[turn], self.token[turn]
        tokens = np.empty((len(image), maps.reader.channels), dtype=maps.reader.dtype)
        for batch in maps.batches(np.unique(image)):
            bounds = np.searchsorted(image, [*batch, batch[-1] + 1])
            for number, raw in enumerate(maps.raw(batch, keep=keep)):
                rows = slice(bounds[number], bounds[number + 1])
                tokens[rows] = raw[token[rows]]
        return normalise(tokens)


def search_pairs(
    maps: Maps,
    queries: Queries,
    target: Ints,
    component: Ints,
    *,
    sources: Maps | None = None,
    find: Find | None = None,
) -> tuple[NDArray[Any], Float32]:
    """Most similar token of each point's target.

    Parameters
    ----------
    maps
        Images in the order of :func:`component_order`.
    queries
        What is searched for.
    target
        (points,) number of each point's target.
    component
        (images,) component of each image.
    sources
        Maps that the queries are tokens of, if others, of the same images in the same order.
    find
        What to look for in a target in place of the most similar token.

    Returns
    -------
    found : (points, ...)
        Index of the token in its map, row by row; or what ``find`` returns.
    similarity : (points,) float32
        Its cosine similarity.
    """
    search = find or _nearest_token
    count = len(queries.image)
    code, of = np.unique(target * count + queries.of, return_inverse=True)
    wanted_by, query = np.divmod(code, count)
    found: NDArray[Any] = np.empty(0)
    similarity = np.empty(len(code), dtype=np.float32)
    asked = sources or maps
    read_again = np.zeros(len(maps.names), dtype=bool)
    read_again[target] = asked is maps
    bounds = np.flatnonzero(np.diff(component, prepend=-1, append=-1))
    for first, last in zip(bounds[:-1].tolist(), (bounds[1:] - 1).tolist(), strict=True):
        for turn in queries.turns(first, last, maps.reader.channels):
            tokens = queries.gather(asked, turn, read_again)
            start, end = np.searchsorted(wanted_by, [first, last + 1])
            wanted = np.arange(start, end)
            wanted = wanted[(query[wanted] >= turn.start) & (query[wanted] < turn.stop)]
            for batch in maps.batches(np.unique(wanted_by[wanted])):
                bounds = np.searchsorted(wanted_by[wanted], [*batch, batch[-1] + 1])
                parts = zip(batch.tolist(), maps.raw(batch), bounds[:-1], bounds[1:], strict=True)
                for image, raw, a, b in parts:
                    rows = wanted[a:b]
                    keys = maps.memory.piece("keys", raw.shape, np.float32)
                    to_float32(raw, keys)
                    some, similarity[rows] = search(tokens[query[rows] - turn.start], keys, image)
                    if not len(found):
                        found = np.empty((len(code), *some.shape[1:]), dtype=some.dtype)
                    found[rows] = some
        maps.forget()
    return found[of], similarity[of]


def _nearest_token(queries: Float32, keys: Float32, _: int) -> tuple[Ints, Float32]:
    return nearest(queries, keys)


def search_all(
    maps: Maps, queries: Queries, first: int, last: int
) -> Iterator[tuple[slice, Ints, Ints]]:
    """Most similar token of every image ``first`` to ``last`` for every query of these images.

    Yields
    ------
    turn
        Which queries.
    targets
        (targets,) numbers of images.
    index : (queries, targets)
        Index of the token in its map, row by row.
    """
    keep = np.ones(len(maps.names), dtype=bool)
    channels = maps.reader.channels
    for turn in queries.turns(first, last, channels):
        tokens = queries.gather(maps, turn, keep)
        most = max(BLOCK // len(tokens), 1)
        for batch in maps.batches(np.arange(first, last + 1), most=most):
            index, _ = nearest(tokens, maps.load(batch))
            yield turn, batch, index
    maps.forget()
