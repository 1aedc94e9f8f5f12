"""Token maps made from stored ones: less empty images, averaged, joined over positions, reduced."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from reprscope.measures.similarity import concatenate, normalise
from reprscope.runtime.errors import UserError
from reprscope.tasks._matching import Reader, Stored, to_float32

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from reprscope.representations.store import Representations

    Float32 = NDArray[np.float32]

DTYPE: Final[np.dtype[Any]] = np.dtype(np.float32)


class Derived:
    """Maps of one or more representations of the same images, less the mean of empty ones.

    Parameters
    ----------
    stores
        Representations whose tokens are averaged, for instance of several noise seeds; each with
        that of empty images, whose mean, token by token, is subtracted, or None.
    positions
        One or more. Several are joined along the channels, each normalised to unit length first,
        after each is enlarged to the largest of their grids by repeating the nearest token.
    task
        Name of the task, for the messages.
    measured
        As of :class:`reprscope.tasks._matching.Stored`; of several positions the tokens of the
        largest grid say where they are.
    """

    dtype = DTYPE

    def __init__(
        self,
        stores: Sequence[tuple[Representations, Representations | None]],
        positions: Sequence[str],
        *,
        task: str,
        measured: bool = False,
    ) -> None:
        self.task = task
        self.parts = [
            [
                (
                    Stored(store, position, measured=measured),
                    _means(Stored(empty, position)) if empty else None,
                )
                for store, empty in stores
            ]
            for position in positions
        ]
        self.channels = sum(part[0][0].channels for part in self.parts)
        image = stores[0][0].image_ids[0]
        finest = max(self.parts, key=lambda part: math.prod(part[0][0].grid(image)))
        self.offset = finest[0][0].offset

    def grid(self, image: str) -> tuple[int, int]:
        """Rows and columns of an image's tokens: the largest of all positions."""
        grids = [part[0][0].grid(image) for part in self.parts]
        return max(height for height, _ in grids), max(width for _, width in grids)

    def read(self, images: Sequence[str], out: NDArray[Any]) -> None:
        """Make the tokens of images in ``out``, (tokens of all, channels)."""
        start = 0
        for image in images:
            maps = [self._tokens(part, image) for part in self.parts]
            tokens = maps[0] if len(maps) == 1 else concatenate(maps)
            tokens = tokens.reshape(-1, self.channels)
            out[start : start + len(tokens)] = tokens
            start += len(tokens)

    def _tokens(
        self, part: Sequence[tuple[Stored, Mapping[tuple[int, int], Float32] | None]], image: str
    ) -> Float32:
        grid = part[0][0].grid(image)
        total = np.zeros((*grid, part[0][0].channels), dtype=np.float32)
        for one, empty in part:
            total += read(one, image)
            if empty is None:
                continue
            if grid not in empty:
                raise UserError(
                    f"{self.task}: image '{image}' has {grid[0]} x {grid[1]} tokens, and no empty "
                    "image has as many; use empty images of the same size and view."
                )
            total -= empty[grid]
        return total / np.float32(len(part))


def principal_components(
    reader: Reader, images: Sequence[str], components: int
) -> tuple[Float32, Float32]:
    """Principal components of all tokens of images, each of unit length.

    Parameters
    ----------
    reader
        Where the tokens come from.
    images
        Names of the images.
    components
        Number of components; tokens of fewer channels have as many as channels.

    Returns
    -------
    mean : (channels,)
        Mean token.
    basis : (channels, components)
        Directions of the largest variance, orthonormal, the largest first.
    """
    channels = reader.channels
    total, count = np.zeros(channels), 0
    products = np.zeros((channels, channels))
    for image in images:
        tokens = normalise(read(reader, image)).reshape(-1, channels)
        total += tokens.sum(axis=0, dtype=np.float64)
        products += tokens.T @ tokens
        count += len(tokens)
    mean = total / count
    _, vectors = np.linalg.eigh(products / count - np.outer(mean, mean))
    return mean.astype(np.float32), vectors[:, ::-1][:, :components].astype(np.float32)


class Projected:
    """Tokens of unit length, less their mean, on :func:`principal_components`.

    Parameters
    ----------
    reader
        Where the tokens come from.
    mean
        (channels,).
    basis
        (channels, components).
    """

    dtype = DTYPE

    def __init__(self, reader: Reader, mean: Float32, basis: Float32) -> None:
        self.reader, self.mean, self.basis = reader, mean, basis
        self.channels = basis.shape[1]
        self.offset = reader.offset

    def grid(self, image: str) -> tuple[int, int]:
        """Rows and columns of an image's tokens."""
        return self.reader.grid(image)

    def read(self, images: Sequence[str], out: NDArray[Any]) -> None:
        """Make the tokens of images in ``out``, (tokens of all, components)."""
        start = 0
        for image in images:
            tokens = normalise(read(self.reader, image)).reshape(-1, self.reader.channels)
            out[start : start + len(tokens)] = (tokens - self.mean) @ self.basis
            start += len(tokens)


def read(reader: Reader, image: str) -> Float32:
    """Tokens (h, w, channels) of one image, float32."""
    height, width = reader.grid(image)
    stored = np.empty((height * width, reader.channels), dtype=reader.dtype)
    reader.read([image], stored)
    tokens = np.empty(stored.shape, dtype=np.float32)
    to_float32(stored, tokens)
    return tokens.reshape(height, width, reader.channels)


def _means(reader: Stored) -> dict[tuple[int, int], Float32]:
    """Mean of all images, token by token, for each size of their grids."""
    total: dict[tuple[int, int], NDArray[np.float64]] = {}
    count: dict[tuple[int, int], int] = {}
    for image in reader.representations.image_ids:
        tokens = read(reader, image)
        grid = tokens.shape[0], tokens.shape[1]
        total[grid] = total.get(grid, np.zeros(tokens.shape)) + tokens
        count[grid] = count.get(grid, 0) + 1
    return {grid: (total[grid] / count[grid]).astype(np.float32) for grid in total}
