"""Errors of correspondence by where the match lies relative to the source.

Thesis, figures 14 and 29 (all pairs of the synthetic set) and 30 and 31 (SPair-71k).
Representations that encode position match a keypoint with what stands at the same place of the
other image. Then matches near the source's own place are wrong more often than those a little
further away. For every keypoint the nearest token of the target is found as in
:mod:`reprscope.tasks.correspondence`; it is not kept, but counted by its offset and its distance
from the source, in pixels of the encoded images, and so is the true target.

``prediction``
    Place of the match less that of the source (figures 14 and 29 to 31; the sign there is the
    opposite one, source less prediction). Errors that position draws to the source's own place
    stand at a small distance.
``target``
    Place of the true target less that of the source. Where position helps, errors are few at a
    small distance.

The *extra errors* are an estimate of how many errors position makes: the matches nearer than the
distance at which the rate of errors is lowest, as far as their rate exceeds it (thesis, section
"errors by position": 0.027 % for up[1] and 5.480 % for up[0] of SD-1.5). They cannot be negative,
so that noise alone makes them positive; the interval says by how much.

Intervals resample source images. A match counts as right if it lies less than the width of
``tolerance`` tokens from the truth, in the thesis one, or by PCK's rule if ``alpha`` is set.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from reprscope.coordinates import token_centre
from reprscope.errors import UserError
from reprscope.findings import Findings, interval, of_blocks, where
from reprscope.metrics import LEVEL, bootstrap_ratio, correct
from reprscope.parameters import check_whole
from reprscope.seeds import item_seed
from reprscope.tasks._keypoints import SPLITS, boxes, in_whole_encoded_pixels, of_pairs
from reprscope.tasks._matching import (
    Frames,
    Maps,
    Memory,
    Queries,
    Stored,
    columns,
    search_all,
    search_pairs,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reprscope.data.canonical import Annotations
    from reprscope.protocol import Coordinates
    from reprscope.store import Representations

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]

NEEDS: Final = frozenset({"keypoints"})
STORES: Final = frozenset({"tokens"})
PROTOCOL: Final = frozenset({"coordinates"})

OF: Final = ("prediction", "target")
KIND: Final = "position_errors"

_MEASURED: Final = {
    "position": pl.String,
    "split": pl.String,
    "of": pl.String,
    "kind": pl.String,
    "source_id": pl.String,
    "near": pl.Float64,
    "far": pl.Float64,
    "x": pl.Float64,
    "y": pl.Float64,
    "cell": pl.Float64,
    "points": pl.Int64,
    "errors": pl.Int64,
}
_SUMMARY: Final = {
    "position": pl.String,
    "split": pl.String,
    "of": pl.String,
    "kind": pl.String,
    "near": pl.Float64,
    "far": pl.Float64,
    "distance": pl.Float64,
    "x": pl.Float64,
    "y": pl.Float64,
    "cell": pl.Float64,
    "points": pl.Int64,
    "error_rate": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "extra_errors": pl.Float64,
    "extra_low": pl.Float64,
    "extra_high": pl.Float64,
}

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Settings of the measure.

    Attributes
    ----------
    pairs : {"listed", "all"}
        The dataset's validation and test pairs, or every ordered pair of two images of one group
        of its keypoints and one split.
    tolerance : float
        A match is right at less than this distance from the truth, in tokens.
    alpha : float or None
        In place of it, a match is right within this fraction of the longer side of the target's
        bounding box (PCK, which only listed pairs have).
    cells : int
        Cells of the map of offsets along the longest side of the encoded images; a cell is centred
        on offset 0. The thesis has 16, of 32 px, whose edge is at 0.
    bins : int
        Bins of distance up to the longest diagonal: bin i begins at (i / bins)^2 of it, so that the
        first are the narrowest. With 27 and images of 512 px that is i^2 px, as in the thesis.
    least : float
        The lowest rate of errors is sought among bins that hold this share of all points, since a
        bin of a few points has any rate.
    bootstrap, seed : int
        Number and seed of the resamples for the 95 % intervals.
    """

    pairs: str = "listed"
    tolerance: float = 1.0
    alpha: float | None = None
    cells: int = 16
    bins: int = 27
    least: float = 0.01
    bootstrap: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.pairs not in ("listed", "all"):
            raise UserError(f"pairs is {self.pairs!r}; write listed or all.")
        if self.alpha is not None and self.pairs == "all":
            raise UserError("alpha needs the boxes of listed pairs; leave it out, or list pairs.")
        for name in ("tolerance", "alpha"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{name} is {value!r}; write a positive number.")
        check_whole(self, "cells", "bins", "bootstrap")
        if not 0 <= self.least < 1:
            raise UserError(f"least is {self.least}; write a share from 0 to below 1.")


class Counts:
    """Points and errors by distance and source image, and by offset."""

    def __init__(self, images: int, side: float, parameters: Parameters) -> None:
        self.images, self.side = images, side
        self.cells, self.bins = parameters.cells, parameters.bins
        self.wide = 2 * self.cells + 1
        distance = (len(OF), 2, len(SPLITS) * images * self.bins)
        self.distance = np.zeros(distance, dtype=np.int64)
        self.offset = np.zeros((len(OF), 2, len(SPLITS) * self.wide**2), dtype=np.int64)

    @property
    def edges(self) -> Floats:
        """(bins + 1,) edges of the bins of distance, in px."""
        edges: Floats = math.sqrt(2) * self.side * np.square(np.arange(self.bins + 1) / self.bins)
        return edges

    def add(
        self, split: Ints, source: Ints, start: Floats, ends: tuple[Floats, Floats], wrong: Bools
    ) -> None:
        """Count points (n,) with source images, source points (n, 2) and, as ``OF``, ends."""
        for number, end in enumerate(ends):
            x, y = end[:, 0] - start[:, 0], end[:, 1] - start[:, 1]
            share = np.hypot(x, y) / (math.sqrt(2) * self.side)
            near = np.minimum((self.bins * np.sqrt(share)).astype(np.int64), self.bins - 1)
            at = (split * self.images + source) * self.bins + near
            self._count(self.distance[number], at, wrong)
            col, row = (
                np.clip(np.floor(one * (self.cells / self.side) + 0.5), -self.cells, self.cells)
                for one in (x, y)
            )
            cell = ((row + self.cells) * self.wide + col + self.cells).astype(np.int64)
            self._count(self.offset[number], split * self.wide**2 + cell, wrong)

    @staticmethod
    def _count(counts: Ints, at: Ints, wrong: Bools) -> None:
        counts[0] += np.bincount(at, minlength=counts.shape[1])
        counts[1] += np.bincount(at[wrong], minlength=counts.shape[1])

    def table(self, position: str, names: list[str]) -> pl.DataFrame:
        """What was counted, without empty bins and cells."""
        frames = []
        cell = self.side / self.cells
        for number, of in enumerate(OF):
            points, errors = self.distance[number]
            held = np.flatnonzero(points)
            code, near = np.divmod(held, self.bins)
            split, source = np.divmod(code, self.images)
            frames.append(
                _frame(
                    position=position,
                    split=pl.Series(SPLITS).gather(split),
                    of=of,
                    kind="distance",
                    source_id=pl.Series(names).gather(source),
                    near=self.edges[near],
                    far=self.edges[near + 1],
                    points=points[held],
                    errors=errors[held],
                )
            )
            points, errors = self.offset[number]
            held = np.flatnonzero(points)
            split, place = np.divmod(held, self.wide**2)
            row, col = np.divmod(place, self.wide)
            frames.append(
                _frame(
                    position=position,
                    split=pl.Series(SPLITS).gather(split),
                    of=of,
                    kind="offset",
                    x=(col - self.cells) * cell,
                    y=(row - self.cells) * cell,
                    cell=cell,
                    points=points[held],
                    errors=errors[held],
                )
            )
        return pl.concat(frames)


def measure(
    representations: Representations,
    annotations: Annotations,
    parameters: Parameters,
    *,
    coordinates: Coordinates = "centred",
) -> pl.DataFrame:
    """Count matches and errors at every position.

    Parameters
    ----------
    representations
        Features of the images.
    annotations
        Pairs, or keypoints with groups.
    parameters
        Settings of the measure.
    coordinates : {"centred", "integer"}
        With ``integer``, points are cut to whole pixels of the encoded images, as in the thesis.

    Returns
    -------
    ``position``, ``split``, ``of`` (``prediction``, ``target``), ``kind``; for ``distance`` one row
    per ``source_id`` and bin from ``near`` to ``far``; for ``offset`` one row per cell centred on
    ``x``, ``y`` (to the right and down), ``cell`` wide; ``points``, ``errors``. Lengths are pixels
    of the encoded images. Bins and cells without points are left out.

    Raises
    ------
    UserError
        If there is nothing to compare, an image has no features, or a feature is not finite.
    """
    count = _listed if parameters.pairs == "listed" else _all
    return count(representations, annotations, parameters, coordinates)


def summarise(measurements: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
    """Rates of errors with 95 % bootstrap intervals over source images.

    Parameters
    ----------
    measurements
        What :func:`measure` returns.
    parameters
        Settings of the measure.

    Returns
    -------
    For each ``position``, ``split`` and ``of``: one row of kind ``whole`` with ``extra_errors``,
    ``extra_low`` and ``extra_high``, one per bin of kind ``distance`` (``distance`` is its middle,
    to a tenth), and one per cell of kind ``offset``, whose rates have no interval. Each with
    ``points``, ``error_rate`` and, but for cells, ``low`` and ``high``.
    """
    frames = []
    keys = ["position", "split", "of"]
    for (position, split, of), rows in measurements.group_by(keys, maintain_order=True):
        named = {"position": position, "split": split, "of": of}
        by_distance = rows.filter(pl.col("kind") == "distance")
        near, bin_of = np.unique(by_distance["near"], return_inverse=True)
        far = np.unique(by_distance["far"])
        _, source = np.unique(by_distance["source_id"], return_inverse=True)
        shape = (int(source.max()) + 1, len(near))
        points, errors = np.zeros(shape), np.zeros(shape)
        points[source, bin_of] = by_distance["points"]
        errors[source, bin_of] = by_distance["errors"]
        rates, shares = _resampled(points, errors, split, parameters)
        low, high = _bounds(rates)
        counts = points.sum(axis=0)
        rate = errors.sum(axis=0) / counts
        share = counts / counts.sum()
        extra = extra_errors(rate[None], share[None], parameters.least)[0]
        resampled = extra_errors(rates, shares, parameters.least)
        whole = _bounds(np.nansum(rates * shares, axis=1)[:, None])
        extra_low, extra_high = _bounds(resampled[:, None])
        frames.append(
            _frame(
                _SUMMARY,
                **named,
                kind="whole",
                points=int(counts.sum()),
                error_rate=errors.sum() / counts.sum(),
                low=whole[0],
                high=whole[1],
                extra_errors=extra,
                extra_low=extra_low,
                extra_high=extra_high,
            )
        )
        frames.append(
            _frame(
                _SUMMARY,
                **named,
                kind="distance",
                near=near,
                far=far,
                distance=np.round((near + far) / 2, 1),
                points=counts,
                error_rate=rate,
                low=low,
                high=high,
            )
        )
        cells = rows.filter(pl.col("kind") == "offset")
        frames.append(
            _frame(
                _SUMMARY,
                **named,
                kind="offset",
                **{name: cells[name] for name in ("x", "y", "cell", "points")},
                error_rate=cells["errors"] / cells["points"],
            )
        )
    return pl.concat(frames)


def extra_errors(rate: Floats, share: Floats, least: float) -> Floats:
    """Estimate the share of points that are wrong because of position.

    Parameters
    ----------
    rate
        (n, bins) share of errors by distance, NaN for an empty bin.
    share
        (n, bins) share of all points in each bin.
    least
        Share that a bin needs to be the one with the lowest rate.

    Returns
    -------
    (n,) sum over the bins nearer than the one of the lowest rate of ``(rate - lowest) * share``.
    """
    usable = np.where((share >= least) & np.isfinite(rate), rate, np.inf)
    # Without a bin of enough points, that with the most is taken.
    usable[np.isinf(usable).all(axis=1)] = -share[np.isinf(usable).all(axis=1)]
    lowest = usable.argmin(axis=1)
    excess = np.nan_to_num(rate - np.take_along_axis(rate, lowest[:, None], axis=1)) * share
    return np.asarray(np.where(np.arange(rate.shape[1]) < lowest[:, None], excess, 0).sum(axis=1))


def findings(table: pl.DataFrame) -> Findings:
    """Where errors by position are most, for each model and dataset."""
    keys = ["task", "model", "dataset"]
    rows = of_blocks(table).filter(
        (pl.col("kind") == "whole") & (pl.col("of") == "prediction") & (pl.col("split") == "test")
    )
    most = rows.sort("extra_errors", descending=True, maintain_order=True)
    most = most.unique([k for k in keys if k in rows.columns], keep="first", maintain_order=True)
    sentences = [
        f"{row['model']} on {row['dataset']}: nearness to the source's place makes an estimated "
        f"{interval(row['extra_errors'], row['extra_low'], row['extra_high'])} of all points "
        f"wrong in {where(row['position'], row['timestep'])}, more than in any other block."
        for row in most.iter_rows(named=True)
    ]
    return Findings(sentences, most)


def _listed(
    representations: Representations,
    annotations: Annotations,
    parameters: Parameters,
    coordinates: Coordinates,
) -> pl.DataFrame:
    """Count the listed pairs."""
    points = of_pairs(annotations, representations, task=KIND)
    source_xy, target_xy, table = points.source_xy, points.target_xy, points.table
    whole = coordinates == "integer"
    if whole:
        source_xy, target_xy = np.trunc(source_xy), np.trunc(target_xy)
        table = in_whole_encoded_pixels(points)
    pixels, target = points.frames.pixels, points.target
    split = table["split"].replace_strict(SPLITS, range(len(SPLITS)), return_dtype=pl.Int64)
    memory = Memory()
    frames = []
    for position in representations.positions:
        reader = Stored(representations, position)
        maps = Maps(reader, points.frames.names, memory, task=KIND, position=position)
        queries = Queries.at(points.source, source_xy, pixels, maps.grid)
        index, _ = search_pairs(maps, queries, target, points.component)
        grid = maps.grid[target]
        row, col = np.divmod(index, grid[:, 1])
        found = token_centre(row, col, columns(pixels[target]), columns(grid))
        if parameters.alpha is None:
            tokens = (found - target_xy) / (pixels[target] / grid[:, ::-1])
            wrong = np.hypot(tokens[:, 0], tokens[:, 1]) >= parameters.tolerance
        else:
            place = found if whole else points.frames.back(target, found)
            truth = table.select("target_x", "target_y").to_numpy()
            wrong = ~correct(place, truth, boxes(table, "target_box"), alpha=parameters.alpha)
        counts = Counts(len(points.frames.names), float(pixels.max()), parameters)
        counts.add(split.to_numpy(), points.source, source_xy, (found, target_xy), wrong)
        frames.append(counts.table(position, list(points.frames.names)))
        log.info("counted %d keypoints at %s", len(table), position)
    return pl.concat(frames)


def _all(
    representations: Representations,
    annotations: Annotations,
    parameters: Parameters,
    coordinates: Coordinates,
) -> pl.DataFrame:
    """Count every ordered pair of images of one group and split."""
    keypoints = _visible(annotations, set(representations.image_ids))
    images = keypoints.select("split", "group", "image_id").unique(maintain_order=True)
    names = images["image_id"].to_list()
    frames = Frames.of(representations, names)
    image = keypoints["image"].to_numpy()
    xy = frames.forward(image, keypoints.select("x", "y").to_numpy())
    shown = frames.shows(image, xy)
    keypoints, image, xy = keypoints.filter(shown), image[shown], xy[shown]
    if coordinates == "integer":
        xy = np.trunc(xy)
    label = keypoints["keypoint"].rank("dense").to_numpy()
    split = images["split"].replace_strict(SPLITS, range(len(SPLITS)), return_dtype=pl.Int64)
    of_image = split.to_numpy()
    group = images.select(pl.struct("split", "group").rle_id()).to_series().cast(pl.Int64)
    bounds = np.flatnonzero(np.diff(group.to_numpy(), prepend=-1, append=-1))
    memory = Memory()
    tables = []
    for position in representations.positions:
        maps = Maps(Stored(representations, position), names, memory, task=KIND, position=position)
        queries = Queries.at(image, xy, frames.pixels, maps.grid)
        counts = Counts(len(names), float(frames.pixels.max()), parameters)
        for first, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            for turn, batch, index in search_all(maps, queries, first, end - 1):
                sources = np.flatnonzero((queries.of >= turn.start) & (queries.of < turn.stop))
                targets = np.flatnonzero((image >= batch[0]) & (image <= batch[-1]))
                height, width = maps.grid[batch[0]]
                for name in np.intersect1d(label[sources], label[targets]):
                    a, b = sources[label[sources] == name], targets[label[targets] == name]
                    found = index[(queries.of[a] - turn.start)[:, None], image[b] - batch[0]]
                    # Never an image with itself.
                    one, other = np.nonzero(image[a][:, None] != image[b])
                    row, col = np.divmod(found[one, other], width)
                    a, b = a[one], b[other]
                    size = columns(frames.pixels[image[b]])
                    place = token_centre(row, col, size, (int(height), int(width)))
                    off = (place - xy[b]) * ((width, height) / frames.pixels[image[b]])
                    wrong = np.hypot(off[:, 0], off[:, 1]) >= parameters.tolerance
                    counts.add(of_image[image[a]], image[a], xy[a], (place, xy[b]), wrong)
        total = int(counts.distance[0, 0].sum())
        if not total:
            raise UserError(
                f"{KIND}: no two images of one group share a keypoint; use a dataset with such "
                "keypoints, or `pairs: listed`."
            )
        tables.append(counts.table(position, names))
        log.info("counted %d correspondences at %s", total, position)
    return pl.concat(tables)


def _visible(annotations: Annotations, known: set[str]) -> pl.DataFrame:
    """Visible keypoints of validation and test images, sorted by split, group and image."""
    images = annotations.images().select("image_id", "split").filter(pl.col("split").is_in(SPLITS))
    found = annotations.keypoints().filter(pl.col("visible")).join(images, on="image_id")
    if found.is_empty():
        raise UserError(
            f"{KIND}: the dataset has no visible keypoints in validation or test images; use one "
            "with keypoints, or more of it."
        )
    lost = found.filter(~pl.col("image_id").is_in(list(known)))
    if len(lost):
        raise UserError(
            f"{KIND}: image '{lost['image_id'][0]}' has no features; extract all images."
        )
    found = found.sort("split", "group", "image_id", "keypoint")
    return found.with_columns(image=pl.struct("split", "group", "image_id").rle_id().cast(pl.Int64))


def _resampled(
    points: Floats, errors: Floats, split: object, parameters: Parameters
) -> tuple[Floats, Floats]:
    """Rates and shares (replicates, bins), for the same resamples of the sources (n, bins)."""
    seed = item_seed(KIND, parameters.seed, split)
    both = np.concatenate([errors, points], axis=1)
    below = np.concatenate([points, np.tile(points.sum(axis=1)[:, None], points.shape[1])], axis=1)
    ratios = bootstrap_ratio(
        both, below, replicates=parameters.bootstrap, rng=np.random.default_rng(seed)
    )
    return ratios[:, : points.shape[1]], ratios[:, points.shape[1] :]


def _bounds(resampled: Floats) -> Floats:
    """Percentile interval (2, columns)."""
    bounds: Floats = np.nanquantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return bounds


def _frame(schema: dict[str, Any] = _MEASURED, **values: Any) -> pl.DataFrame:
    return pl.DataFrame(values).select(
        (pl.col(name) if name in values else pl.lit(None)).cast(kind).alias(name)
        for name, kind in schema.items()
    )
