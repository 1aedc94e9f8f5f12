"""Searching a target with the similarities of several representations of the same images.

Each representation sees an image in a frame of its own: mirrored, shifted, at another resolution.
Its similarities are carried to places of the target that all share, the centres of the tokens of
the first representation or of a finer grid, through the map from original pixels that it stores.
Between token centres they are interpolated linearly; beyond the outer ones the edge is repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from reprscope.measures.similarity import normalise
from reprscope.tasks._matching import Frames, Maps, Queries, to_float32
from reprscope.tasks._readout import Blend, expected_place, middles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]
    Float32 = NDArray[np.float32]

Combine = Literal["mean", "max", "nearest", "features"]


@dataclass(frozen=True)
class Sampling:
    """How a representation's similarities along one axis are carried to shared places.

    Attributes
    ----------
    weights
        (places, tokens) float32 weights of the interpolation; for ``nearest`` 1 at one token.
    inside
        (places,) whether the representation shows the place.
    distance
        (places,) from the nearest token's centre, in original pixels.
    """

    weights: Float32
    inside: Bools
    distance: Floats


def sampling(
    places: Floats, tokens: int, size: float, *, nearest: bool, offset: float = 0.0
) -> Sampling:
    """Weights for places (n,) on an axis of ``tokens`` tokens.

    Parameters
    ----------
    places
        In units of tokens: the square of token i covers [i, i + 1).
    tokens
        Number of tokens.
    size
        Length of a token in original pixels.
    nearest
        Take the nearest token in place of interpolating.
    offset
        By how much tokens lie beside their squares, in tokens.
    """
    shifted = places - offset
    blend = Blend.at(shifted, tokens)
    weights = np.zeros((len(places), tokens), dtype=np.float32)
    rows = np.arange(len(places))
    closest = np.clip(np.floor(shifted).astype(np.int64), 0, tokens - 1)
    if nearest or tokens == 1:
        weights[rows, closest] = 1
    else:
        weights[rows, blend.high] = blend.share
        weights[rows, blend.low] = 1 - blend.share
    inside = (places >= -1e-9) & (places <= tokens + 1e-9)
    return Sampling(weights, inside, np.abs(shifted - 0.5 - closest) * size)


def gaussian(places: int, sigma: float) -> Float32:
    """Weights (places, places) of a Gaussian of ``sigma`` places, each row's sum 1."""
    offsets = np.subtract.outer(np.arange(places), np.arange(places))
    weights = np.exp(-0.5 * np.square(offsets / sigma))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


@dataclass(frozen=True)
class Member:
    """One representation of the images at one position.

    Attributes
    ----------
    frames
        Its pixel frames; images are numbered as in all members.
    maps
        Its token maps.
    queries
        Its tokens at the sources' points.
    shows
        (queries,) whether it shows the source point.
    distance
        (queries,) of the point from the centre of its token, in original pixels.
    """

    frames: Frames
    maps: Maps
    queries: Queries
    shows: Bools
    distance: Floats

    @classmethod
    def of(
        cls, frames: Frames, maps: Maps, image: Ints, xy: Floats, encoded: Floats, of: Ints
    ) -> Member:
        """Member for source points (queries, 2) of images, sorted by image.

        Parameters
        ----------
        xy, encoded
            The points in original pixels, and in this member's encoded pixels.
        of
            (points,) query of each point.
        """
        grid = maps.grid[image]
        size = frames.pixels[image] / grid[:, ::-1]
        within = np.floor(encoded / size - maps.reader.offset)
        col, row = np.clip(within, 0, grid[:, ::-1] - 1).astype(np.int64).T
        middle = np.stack([col, row], axis=1) + 0.5 + maps.reader.offset
        centre = frames.back(image, middle * size)
        return cls(
            frames,
            maps,
            Queries(image, row * grid[:, 1] + col, of),
            frames.shows(image, encoded),
            np.hypot(*(centre - xy).T),
        )

    def keys(self, target: int) -> Float32:
        """Unit tokens (h * w, channels) of a target."""
        (raw,) = self.maps.raw(np.array([target]))
        tokens = np.empty(raw.shape, dtype=np.float32)
        to_float32(raw, tokens)
        return normalise(tokens)

    def axes(
        self, target: int, x: Floats, y: Floats, *, nearest: bool
    ) -> tuple[Sampling, Sampling]:
        """Sampling along the columns and rows at places x (n,), y (m,) in original pixels."""
        h, w = (int(side) for side in self.maps.grid[target])
        found = []
        for axis, (places, tokens) in enumerate(((x, w), (y, h))):
            scale, offset = self.frames.scale[target, axis], self.frames.offset[target, axis]
            size = self.frames.pixels[target, axis] / tokens
            at = (places * scale + offset) / size
            found.append(
                sampling(
                    at,
                    tokens,
                    size / abs(scale),
                    nearest=nearest,
                    offset=self.maps.reader.offset[axis],
                )
            )
        return found[0], found[1]


@dataclass(frozen=True)
class Rule:
    """How the similarities of members are combined.

    Attributes
    ----------
    combine : {"mean", "max", "nearest"}
        Of the maps at each place; ``nearest``: only the one whose tokens are centred nearest, to
        the source point and to the place.
    across
        Compare every member's source with every member's target, not each with its own only.
    subdivide
        Places along each axis for one token of the first member.
    smooth
        Standard deviation in tokens of a Gaussian over the combined map; 0 for none.
    window, temperature
        Read the place out by :func:`reprscope.tasks._readout.expected_place`, with a window in
        tokens; None for the most similar place.
    """

    combine: Combine = "mean"
    across: bool = False
    subdivide: int = 1
    smooth: float = 0.0
    window: int | None = None
    temperature: float = 1.0


def search_combined(
    members: Sequence[Member], target: Ints, component: Ints, rule: Rule
) -> tuple[Floats, Float32]:
    """Most similar place of each point's target.

    Parameters
    ----------
    members
        At least one; the first one's grid, subdivided, gives the places.
    target
        (points,) number of each point's target.
    component
        (images,) component of each image.
    rule
        How to combine.

    Returns
    -------
    place : (points, 2)
        x and y in places, whose middles are at 0.5, 1.5 and so on.
    similarity : (points,) float32
        The highest combined similarity.
    """
    queries = members[0].queries
    count = len(queries.image)
    code, of = np.unique(target * count + queries.of, return_inverse=True)
    wanted_by, query = np.divmod(code, count)
    place = np.empty((len(code), 2))
    similarity = np.empty(len(code), dtype=np.float32)
    is_target = np.zeros(len(component), dtype=bool)
    is_target[target] = True
    channels = sum(member.maps.reader.channels for member in members)
    bounds = np.flatnonzero(np.diff(component, prepend=-1, append=-1))
    for first, last in zip(bounds[:-1].tolist(), (bounds[1:] - 1).tolist(), strict=True):
        for turn in queries.turns(first, last, channels):
            tokens = [one.queries.gather(one.maps, turn, is_target) for one in members]
            start, end = np.searchsorted(wanted_by, [first, last + 1])
            asked = np.arange(start, end)
            asked = asked[(query[asked] >= turn.start) & (query[asked] < turn.stop)]
            images, starts = np.unique(wanted_by[asked], return_index=True)
            ends = [*starts[1:].tolist(), len(asked)]
            for image, a, b in zip(images.tolist(), starts.tolist(), ends, strict=True):
                rows = asked[a:b]
                sources = [one[query[rows] - turn.start] for one in tokens]
                combined = _combined(members, sources, query[rows], image, rule)
                flat = combined.reshape(len(rows), -1)
                best = flat.argmax(axis=1)
                similarity[rows] = flat[np.arange(len(rows)), best]
                if rule.window is None:
                    place[rows] = middles(best, combined.shape[2])
                else:
                    window = rule.window * rule.subdivide
                    place[rows] = expected_place(
                        combined, window=window, temperature=rule.temperature
                    )
        for one in members:
            one.maps.forget()
    return place[of], similarity[of]


def _combined(
    members: Sequence[Member],
    sources: Sequence[Float32],
    query: Ints,
    target: int,
    rule: Rule,
) -> Float32:
    """Similarity (queries, rows, columns) at the places of a target."""
    first = members[0]
    height, width = (int(side) * rule.subdivide for side in first.maps.grid[target])
    pixels = first.frames.pixels[target]
    x, y = (
        (
            (np.arange(places) + 0.5 + rule.subdivide * first.maps.reader.offset[axis])
            * (pixels[axis] / places)
            - first.frames.offset[target, axis]
        )
        / first.frames.scale[target, axis]
        for axis, places in enumerate((width, height))
    )
    nearest = rule.combine == "nearest"
    axes = [one.axes(target, x, y, nearest=nearest) for one in members]
    # Where a member has a say: at source points (queries,) and at places (rows, columns).
    here = [one.shows[query] for one in members]
    there = [np.outer(rows.inside, columns.inside) for columns, rows in axes]
    if nearest:
        here = _closest([one.distance[query] for one in members], here)
        far = [np.hypot.outer(rows.distance, columns.distance) for columns, rows in axes]
        there = _closest(far, there)
    start = -np.inf if rule.combine == "max" else 0
    total: Float32 = np.full((len(query), height, width), start, dtype=np.float32)
    weight = np.zeros(total.shape, dtype=np.float32)
    for j, member in enumerate(members):
        keys = member.keys(target)
        columns, rows = axes[j]
        for i, source in enumerate(sources):
            if i != j and not (rule.across or nearest):
                continue
            counts = here[i][:, None, None] & there[j]
            if not counts.any():
                continue
            grid = (len(query), *member.maps.grid[target].tolist())
            scores = (source @ keys.T).reshape(grid)
            carried = rows.weights @ (scores @ columns.weights.T)
            if rule.combine == "max":
                total = np.where(counts, np.maximum(total, carried), total)
            else:
                total += np.where(counts, carried, 0)
                weight += counts
    if rule.combine != "max":
        total /= np.maximum(weight, 1)
        # A place that no member speaks for is no candidate.
        total[weight == 0] = -1
    if rule.smooth:
        sigma = rule.smooth * rule.subdivide
        return np.asarray(gaussian(height, sigma) @ total @ gaussian(width, sigma).T)
    return total


def _closest(distances: Sequence[Floats], allowed: Sequence[Bools]) -> list[Bools]:
    """For each place the one member that is nearest, of equally near ones the first."""
    held = np.where(allowed, distances, np.inf)
    best = np.round(held, 9).argmin(axis=0)
    return [(best == number) & one for number, one in enumerate(allowed)]


def unique_points(image: Ints, xy: Floats) -> tuple[Ints, Floats, Ints]:
    """Different source points, sorted by image: their image, (n, 2) place, and which each is."""
    rows = np.column_stack([image.astype(np.float64), xy])
    distinct, of = np.unique(rows, axis=0, return_inverse=True)
    return distinct[:, 0].astype(np.int64), distinct[:, 1:], of.reshape(-1)
