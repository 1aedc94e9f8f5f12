"""Matches by where they lie relative to the source, counted for each two subjects.

A subject is what is independent of all others: the ``scene`` of an image, such as a cut-out
(:mod:`reprscope.data.canonical`), or the image itself if the dataset names no scenes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from reprscope.tasks._keypoints import SPLITS
from reprscope.tasks._pictures import frame

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reprscope.data.canonical import Annotations

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]

OF: Final = ("prediction", "target")
NEAR: Final = 1.0
"""A match at most so many tokens from the source's place stands at it."""
BEYOND: Final = (2.0, 4.0)
"""Tokens from the source's place of the matches that those at it are compared with."""
STEPS: Final = 2.0**30
KINDS: Final = ("near", "beyond", "drawn", "border", "inside")
"""Counts beside those by distance and offset."""

MEASURED: Final = {
    "position": pl.String,
    "split": pl.String,
    "kind": pl.String,
    "of": pl.String,
    "source": pl.String,
    "target": pl.String,
    "same": pl.Boolean,
    "near": pl.Float64,
    "far": pl.Float64,
    "x": pl.Float64,
    "y": pl.Float64,
    "cell": pl.Float64,
    "points": pl.Int64,
    "errors": pl.Int64,
    "expected": pl.Float64,
}


@dataclass(frozen=True)
class Subjects:
    """What images show.

    Attributes
    ----------
    names
        Of the subjects.
    of
        (images,) subject of each image.
    split
        (images,) number of each image's split in :data:`SPLITS`.
    kin
        (images,) number of what an image shares split, label and group of keypoints with.
    """

    names: list[str]
    of: Ints
    split: Ints
    kin: Ints

    @classmethod
    def read(cls, annotations: Annotations, names: list[str]) -> Subjects:
        """Subjects of the named images."""
        images = annotations.images()
        scene = [name for name in ("scene", "image_id") if name in images.columns]
        images = images.select("image_id", "label", "split", subject=pl.coalesce(scene))
        group = annotations.keypoints().group_by("image_id").agg(pl.col("group").first())
        rows = pl.DataFrame({"image_id": names})
        for told in (images, group):
            rows = rows.join(told, on="image_id", how="left", maintain_order="left")
        subject, of = np.unique(rows["subject"].to_numpy(), return_inverse=True)
        split = rows["split"].replace_strict(SPLITS, range(len(SPLITS)), return_dtype=pl.Int64)
        kin = rows.select(pl.struct("split", "label", "group").rank("dense")).to_series()
        return cls(
            subject.tolist(),
            of.astype(np.int64),
            split.to_numpy(),
            kin.to_numpy().astype(np.int64) - 1,
        )


@dataclass(frozen=True)
class Places:
    """Where keypoints stand, by what they may be compared with.

    Attributes
    ----------
    xy
        (places, 2) px of the encoded images, sorted by ``stratum``.
    start
        (strata + 1,) first place of each stratum: one keypoint in the images of one split, label
        and group.
    """

    xy: Floats
    start: Ints

    @classmethod
    def of(cls, stratum: Ints, image: Ints, xy: Floats) -> Places:
        """Places of points (n,), of which one image has several of a stratum only if twice named.

        Parameters
        ----------
        stratum, image
            (n,) numbers.
        xy
            (n, 2) px of the encoded images.
        """
        code = stratum * (int(image.max()) + 1) + image
        _, first = np.unique(code, return_index=True)
        start = np.searchsorted(stratum[first], np.arange(int(stratum.max()) + 2))
        return cls(xy[first], start.astype(np.int64))

    def sizes(self, stratum: Ints) -> Ints:
        """Places (n,) of each stratum."""
        return np.diff(self.start)[stratum]

    def near(self, stratum: Ints, where: Ints, xy: Floats, token: Floats) -> Ints:
        """How many places of a stratum lie within :data:`NEAR` tokens of each point.

        Parameters
        ----------
        stratum
            (n,) strata.
        where
            (n,) a number that is the same for points of one place and size of tokens alone.
        xy, token
            (n, 2) the points, and the size of a token there, in px.
        """
        code = stratum * (int(where.max()) + 1) + where
        _, first, inverse = np.unique(code, return_index=True, return_inverse=True)
        counts = np.empty(len(first), dtype=np.int64)
        # What is distinct is sorted by stratum.
        starts = np.flatnonzero(np.diff(stratum[first], prepend=-1))
        for start, end in zip(starts, [*starts[1:], len(first)], strict=True):
            rows = first[start:end]
            number = stratum[rows[0]]
            there = self.xy[self.start[number] : self.start[number + 1]]
            off = (there - xy[rows][:, None]) / token[rows][:, None]
            counts[start:end] = (np.hypot(off[..., 0], off[..., 1]) <= NEAR).sum(axis=1)
        return counts[inverse]


@dataclass(frozen=True)
class Matches:
    """Points, where their sources are, what was found and where the truth is.

    Attributes
    ----------
    source, target
        (n,) numbers of images.
    start, found, truth
        (n, 2) px of the encoded images: the source's place, the match, the true target.
    token
        (n, 2) px of a token of the target.
    where
        (n,) a number that is the same for matches of one place and size of tokens alone.
    stratum, target_stratum
        (n,) strata of :class:`Places`.
    wrong
        (n,) whether the match is.
    border
        (n,) whether the source is near the border of its image.
    """

    source: Ints
    target: Ints
    start: Floats
    found: Floats
    truth: Floats
    token: Floats
    where: Ints
    stratum: Ints
    target_stratum: Ints
    wrong: Bools
    border: Bools

    def away(self, place: Floats) -> Floats:
        """Distance (n,) of the matches from places (n, 2), in tokens."""
        off = (self.found - place) / self.token
        return np.asarray(np.hypot(off[:, 0], off[:, 1]))

    def chance(self, places: Places) -> Floats:
        """Share (n,) of other places of the same keypoint that lie near the match.

        They are those in all images of the source's split, label and group but the source and the
        target; NaN where there are none.
        """
        near = places.near(self.stratum, self.where, self.found, self.token)
        near -= self.away(self.start) <= NEAR
        kin = self.stratum == self.target_stratum
        near -= kin & (self.away(self.truth) <= NEAR)
        others = places.sizes(self.stratum) - 1 - kin
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.where(others > 0, near / others, np.nan))


class Counts:
    """Points and errors of two subjects by distance, of all by offset, and :data:`KINDS`."""

    def __init__(self, subjects: Subjects, side: float, *, cells: int, bins: int) -> None:
        self.subjects, self.side, self.cells, self.bins = subjects, side, cells, bins
        self.wide = 2 * cells + 1
        self.slots = len(OF) * bins + len(KINDS)
        self._parts: list[tuple[Ints, Ints, Ints, Floats]] = []
        self._offset = np.zeros((2, len(OF) * len(SPLITS) * 2 * self.wide**2), dtype=np.int64)

    @property
    def edges(self) -> Floats:
        """(bins + 1,) edges of the bins of distance, in px."""
        edges: Floats = math.sqrt(2) * self.side * np.square(np.arange(self.bins + 1) / self.bins)
        return edges

    def add(self, matches: Matches, places: Places) -> None:
        """Count matches."""
        subjects = self.subjects
        one, other = subjects.of[matches.source], subjects.of[matches.target]
        split = subjects.split[matches.source]
        pairs, pair = np.unique(
            (split * len(subjects.names) + one) * len(subjects.names) + other, return_inverse=True
        )
        shape = (len(pairs), self.slots)
        points, errors = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)

        def count(rows: Bools | slice, slot: Ints | int, wrong: Bools) -> None:
            at = pair[rows] * self.slots + slot
            for counts, held in ((points, at), (errors, at[wrong[rows]])):
                counts += np.bincount(held, minlength=counts.size).reshape(shape)

        for number, end in enumerate((matches.found, matches.truth)):
            x, y = (end - matches.start).T
            share = np.hypot(x, y) / (math.sqrt(2) * self.side)
            near = np.minimum((self.bins * np.sqrt(share)).astype(np.int64), self.bins - 1)
            count(slice(None), number * self.bins + near, matches.wrong)
            col, row = (
                np.clip(np.floor(axis * (self.cells / self.side) + 0.5), -self.cells, self.cells)
                for axis in (x, y)
            )
            cell = ((row + self.cells) * self.wide + col + self.cells).astype(np.int64)
            at = ((number * len(SPLITS) + split) * 2 + (one == other)) * self.wide**2 + cell
            size = self._offset.shape[1]
            self._offset[0] += np.bincount(at, minlength=size)
            self._offset[1] += np.bincount(at[matches.wrong], minlength=size)
        away = matches.away(matches.start)
        chance = matches.chance(places)
        known = np.isfinite(chance)
        first = len(OF) * self.bins
        here = matches.wrong & (away <= NEAR)
        count(away <= NEAR, first, matches.wrong)
        count((away >= BEYOND[0]) & (away <= BEYOND[1]), first + 1, matches.wrong)
        count(known, first + 2, here)
        count(matches.border, first + 3, matches.wrong)
        count(~matches.border, first + 4, matches.wrong)
        # In steps whose sums are exact, so that results do not depend on their order.
        weight = np.where(known & matches.wrong, np.rint(chance * STEPS) / STEPS, 0.0)
        expected = np.bincount(pair, weights=weight, minlength=len(pairs)).astype(np.float64)
        self._parts.append((pairs, points, errors, expected))

    @property
    def points(self) -> int:
        """Number of points that were counted."""
        return int(sum(points[:, : self.bins].sum() for _, points, _, _ in self._parts))

    def table(self, position: str) -> pl.DataFrame:
        """What was counted, without what is empty; columns :data:`MEASURED`."""
        code = np.concatenate([part[0] for part in self._parts])
        pairs, of = np.unique(code, return_inverse=True)
        shape = (len(pairs), self.slots)
        points, errors = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        expected = np.zeros(len(pairs))
        np.add.at(points, of, np.concatenate([part[1] for part in self._parts]))
        np.add.at(errors, of, np.concatenate([part[2] for part in self._parts]))
        np.add.at(expected, of, np.concatenate([part[3] for part in self._parts]))
        rest, target = np.divmod(pairs, len(self.subjects.names))
        split, source = np.divmod(rest, len(self.subjects.names))
        names = pl.Series(self.subjects.names)
        frames = []
        for slot in range(self.slots):
            rows = np.flatnonzero(points[:, slot])
            number, near = divmod(slot, self.bins) if slot < len(OF) * self.bins else (0, 0)
            values: dict[str, Any] = {
                "position": position,
                "split": pl.Series(SPLITS).gather(split[rows]),
                "of": OF[number],
                "source": names.gather(source[rows]),
                "target": names.gather(target[rows]),
                "same": source[rows] == target[rows],
                "points": points[rows, slot],
                "errors": errors[rows, slot],
            }
            if slot < len(OF) * self.bins:
                values |= {
                    "kind": "distance",
                    "near": self.edges[near],
                    "far": self.edges[near + 1],
                }
            else:
                kind = KINDS[slot - len(OF) * self.bins]
                values |= {"kind": kind}
                if kind == "drawn":
                    values["expected"] = expected[rows]
            frames.append(frame(MEASURED, **values))
        return pl.concat([*frames, self._offsets(position)])

    def _offsets(self, position: str) -> pl.DataFrame:
        held = np.flatnonzero(self._offset[0])
        rest, place = np.divmod(held, self.wide**2)
        rest, same = np.divmod(rest, 2)
        number, split = np.divmod(rest, len(SPLITS))
        row, col = np.divmod(place, self.wide)
        cell = self.side / self.cells
        return frame(
            MEASURED,
            position=position,
            split=pl.Series(SPLITS).gather(split),
            kind="offset",
            of=pl.Series(OF).gather(number),
            same=same == 1,
            x=(col - self.cells) * cell,
            y=(row - self.cells) * cell,
            cell=cell,
            points=self._offset[0][held],
            errors=self._offset[1][held],
        )
