"""Errors of correspondence by where the match lies relative to the source.

Thesis, figures 14 and 29 (all pairs of the synthetic set) and 30 and 31 (SPair-71k), and the number
of section 4.3 for keypoints near the border. For every keypoint the nearest token of the target is
found as in :mod:`reprscope.tasks.correspondence`; it is not kept, but counted by its offset and its
distance from the source, in pixels of the encoded images, and so is the true target.

``prediction``
    Place of the match less that of the source (figures 14 and 29 to 31; the sign there is the
    opposite one, source less prediction).
``target``
    Place of the true target less that of the source.

Rates of errors by distance describe. They do not estimate what position does: a match near the
source's place is right more often where targets are near it more often, as in centred photographs,
and where they are near by design because the same thing is shown. If representations encode
position, matches at the source's place are wrong more often and targets at the source's place are
found more often, so that one rate rises and the other falls, and the size of either depends on
where targets stand.

*Drawn errors* estimate it: the share of all points whose match is wrong and lies within one token
of the source's own place, less the share expected if the source stood where the same keypoint
stands in the other images of its split, label and group. That is the excess over a shuffled null:
the mean over all shuffles of sources' places among the images is taken in closed form, point by
point, so that every point is compared with itself. It is 0 if matches do not depend on where the
source stands, however errors depend on content and wherever targets are, as long as pairs are not
chosen by place. It does not tell position from content that goes with it (an animal's
nose at the left has an edge at its left); in the synthetic set all content stands at all places.

The *contrast* is the error rate of matches within one token of the source's place less that of
matches two to four tokens away. It is a fixed pair of distances, so that it has no bias from a
choice, but under no effect of position it is 0 only where targets are as frequent at both.

``published_extra_errors`` are the thesis': the matches nearer than the distance at which the rate
of errors is lowest, as far as their rate exceeds it (0.027 % for up[1] and 5.480 % for up[0] of
SD-1.5). As a minimum over bins is subtracted they are positive under no effect; nothing is
concluded from them.

Pairs of images share images, and pictures of one subject, such as a cut-out at several places, are
not independent: intervals are those of :func:`reprscope.measures.statistics.dyadic_ratio` over
subjects. A pair of two pictures of one subject is easy, and at offset 0 there is none, since no
picture is paired with itself. So ``same`` tells pairs apart: ``exclude`` (of different subjects),
``only`` (of the same one) and ``all``, the published form.

A match counts as right if it lies less than the width of ``tolerance`` tokens from the truth, in
the thesis one, or by PCK's rule if ``alpha`` is set.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from reprscope.base.parameters import check_whole
from reprscope.measures import statistics
from reprscope.measures.metrics import correct
from reprscope.models.labels import KEYS
from reprscope.representations.coordinates import Offset, token_centre
from reprscope.runtime.errors import UserError
from reprscope.tasks._findings import Findings, interval, of_blocks, told_apart, where
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
from reprscope.tasks._nearness import OF, Counts, Matches, Places, Subjects
from reprscope.tasks._pictures import frame

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reprscope.base.protocol import Coordinates
    from reprscope.data.canonical import Annotations
    from reprscope.representations.store import Representations

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]

NEEDS: Final = frozenset({"keypoints"})
STORES: Final = frozenset({"tokens"})
PROTOCOL: Final = frozenset({"coordinates"})
TABLE_COLUMNS: Final = (
    "split",
    "same",
    "of",
    "kind",
    "near",
    "far",
    "distance",
    "x",
    "y",
    "cell",
    "subjects",
    "points",
    "error_rate",
    "low",
    "high",
    "at_place",
    "expected",
    "drawn",
    "drawn_low",
    "drawn_high",
    "drawn_p",
    "near_rate",
    "beyond_rate",
    "contrast",
    "contrast_low",
    "contrast_high",
    "border_px",
    "border_points",
    "border",
    "border_low",
    "border_high",
    "border_p",
    "published_extra_errors",
)

KIND: Final = "position_errors"
TOLD: Final = 3
"""Blocks that a sentence names."""
SAME: Final = ("exclude", "only", "all")

_SUMMARY: Final = {
    "position": pl.String,
    "split": pl.String,
    "same": pl.String,
    "of": pl.String,
    "kind": pl.String,
    "near": pl.Float64,
    "far": pl.Float64,
    "distance": pl.Float64,
    "x": pl.Float64,
    "y": pl.Float64,
    "cell": pl.Float64,
    "subjects": pl.Int64,
    "points": pl.Int64,
    "error_rate": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "at_place": pl.Float64,
    "expected": pl.Float64,
    "drawn": pl.Float64,
    "drawn_low": pl.Float64,
    "drawn_high": pl.Float64,
    "drawn_p": pl.Float64,
    "near_rate": pl.Float64,
    "beyond_rate": pl.Float64,
    "contrast": pl.Float64,
    "contrast_low": pl.Float64,
    "contrast_high": pl.Float64,
    "border_px": pl.Float64,
    "border_points": pl.Int64,
    "border": pl.Float64,
    "border_low": pl.Float64,
    "border_high": pl.Float64,
    "border_p": pl.Float64,
    "published_extra_errors": pl.Float64,
}

logger = logging.getLogger(__name__)


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
    border : float
        A source is near the border of its image within so many pixels of the original; the thesis
        has 16, of photographs of 500 px.
    """

    pairs: str = "listed"
    tolerance: float = 1.0
    alpha: float | None = None
    cells: int = 16
    bins: int = 27
    border: float = 16.0

    def __post_init__(self) -> None:
        if self.pairs not in ("listed", "all"):
            raise UserError(f"pairs is {self.pairs!r}; write listed or all.")
        if self.alpha is not None and self.pairs == "all":
            raise UserError("alpha needs the boxes of listed pairs; leave it out, or list pairs.")
        for name in ("tolerance", "alpha", "border"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{name} is {value!r}; write a positive number.")
        check_whole(self, "cells", "bins")


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
        Pairs, and keypoints with groups and subjects.
    parameters
        Settings of the measure.
    coordinates : {"centred", "measured", "integer"}
        With ``measured``, tokens lie where they were measured to lie.
        With ``integer``, points are cut to whole pixels of the encoded images, as in the thesis.

    Returns
    -------
    ``position``, ``split``, ``kind`` and, but for cells, ``source`` and ``target`` (subjects)
    and ``same`` (whether these are one), with ``points`` and ``errors``:

    ``distance``
        ``of`` (``prediction``, ``target``) and bins from ``near`` to ``far``.
    ``near``, ``beyond``
        Matches at the source's place, and two to four tokens from it.
    ``drawn``
        Points whose keypoint stands elsewhere in another image, too; ``errors`` at the source's
        place, and how many are ``expected`` there.
    ``border``, ``inside``
        Sources near the border of their image, and all others.
    ``offset``
        ``of`` and cells centred on ``x``, ``y`` (to the right and down), ``cell`` wide.

    Lengths are pixels of the encoded images. What has no points is left out.

    Raises
    ------
    UserError
        If there is nothing to compare, an image has no features, or a feature is not finite.
    """
    count = _listed if parameters.pairs == "listed" else _all
    return count(representations, annotations, parameters, coordinates)


def summarise(measurements: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
    """Rates of errors, and what position does to them, with 95 % intervals over subjects.

    Parameters
    ----------
    measurements
        What :func:`measure` returns.
    parameters
        Settings of the measure.

    Returns
    -------
    For each ``position``, ``split`` and ``same`` (``exclude``, ``only``, ``all``; the first alone
    if no two images show one subject, and only what has pairs) rows of kind

    ``whole``
        ``drawn`` with ``at_place`` and ``expected``, whose difference it is, and ``drawn_p`` (that
        it is not above 0); ``contrast`` with ``near_rate`` and ``beyond_rate``; ``border``, the
        share of right matches of the ``border_points`` within ``border_px`` of the image's border
        less that of all others, and ``border_p`` (that it is 0); ``published_extra_errors``.
    ``distance``
        For each ``of``, the bins; ``distance`` is the middle of one, to a tenth.
    ``offset``
        For each ``of``, the cells, whose rates have no interval.

    Each has ``points``, ``error_rate`` and ``low``, ``high``. All bounds and p-values are null for
    fewer than :data:`reprscope.measures.statistics.FEWEST_UNITS` ``subjects``.
    """
    found = []
    for (position, split), part in measurements.group_by("position", "split", maintain_order=True):
        forms = {"exclude": ~pl.col("same"), "only": pl.col("same"), "all": pl.lit(value=True)}
        for same, chosen in forms.items():
            rows = part.filter(chosen)
            if rows.is_empty() or (same == "all" and not part["same"].any()):
                continue
            named = {"position": position, "split": split, "same": same}
            pairs = Pairs(rows)
            found.append(frame(_SUMMARY, **named, kind="whole", **_whole(pairs, parameters)))
            for of in OF:
                found.append(frame(_SUMMARY, **named, kind="distance", of=of, **_bins(pairs, of)))
                place = ["x", "y", "cell"]
                cells = (
                    rows.filter(kind="offset", of=of)
                    .group_by(place, maintain_order=True)
                    .agg(pl.col("points", "errors").sum())
                )
                found.append(
                    frame(
                        _SUMMARY,
                        **named,
                        kind="offset",
                        of=of,
                        **{name: cells[name] for name in (*place, "points")},
                        error_rate=cells["errors"] / cells["points"],
                    )
                )
    return pl.concat(found).with_columns(pl.col(pl.Float64).fill_nan(None))


class Pairs:
    """Counts of pairs of subjects, one row each, from what :func:`measure` returns."""

    def __init__(self, rows: pl.DataFrame) -> None:
        self._rows = rows.filter(pl.col("kind") != "offset")
        keys = ["source", "target"]
        self._pairs = self._rows.select(keys).unique(maintain_order=True).with_row_index("pair")
        self.source, self.target = (self._pairs[name].to_numpy() for name in keys)

    def of(self, kind: str, of: str = OF[0], column: str = "errors") -> tuple[Floats, Floats]:
        """Values and points (pairs, bins) of one kind; all but distances have one bin."""
        rows = self._rows.filter(kind=kind, of=of).join(self._pairs, on=["source", "target"])
        near = rows["near"].fill_null(0.0).to_numpy()
        edges, place = np.unique(near, return_inverse=True)
        values, points = np.zeros((2, len(self._pairs), max(len(edges), 1)))
        pair = rows["pair"].to_numpy()
        values[pair, place], points[pair, place] = rows[column], rows["points"]
        return values, points

    def edges(self, of: str) -> tuple[Floats, Floats]:
        """Edges (bins,) of the bins of distance that have points."""
        rows = self._rows.filter(kind="distance", of=of).unique("near").sort("near")
        return rows["near"].to_numpy(), rows["far"].to_numpy()

    def ratio(self, numerator: Floats, denominator: Floats) -> statistics.Estimate:
        """Ratio of sums over pairs, of which those that share a subject may depend."""
        return statistics.dyadic_ratio(numerator, denominator, self.source, self.target)

    def difference(
        self, first: tuple[Floats, Floats], second: tuple[Floats, Floats]
    ) -> statistics.Estimate:
        """Difference of two ratios of sums over the same pairs, each given as values and points.

        Linearised: what a pair adds to the error is what it adds to that of the first less what it
        adds to that of the second. The error is known as well as the rarer of the two lets it be:
        images without points of it add nothing.
        """
        value, added = np.zeros(1), np.zeros((len(self.source), 1))
        units = []
        for sign, (values, points) in ((1, first), (-1, second)):
            there = points[:, 0] > 0
            units.append(len(np.union1d(self.source[there], self.target[there])))
            with np.errstate(invalid="ignore", divide="ignore"):
                ratio = values.sum(axis=0) / points.sum(axis=0)
                added += sign * (values - ratio * points) / points.mean(axis=0)
            value += sign * ratio
        # Their mean is 0, and the error that of a mean over pairs.
        found = self.ratio(added, np.ones(len(added)))
        return found._replace(value=value, units=min(units), freedom=max(min(units) - 1, 1))


def _whole(pairs: Pairs, parameters: Parameters) -> dict[str, Any]:
    """Values of the row ``whole``."""
    errors, points = pairs.of("distance")
    rate = pairs.ratio(errors.sum(axis=1)[:, None], points.sum(axis=1))
    here, known = pairs.of("drawn")
    expected, _ = pairs.of("drawn", column="expected")
    drawn = pairs.ratio(here - expected, known)
    near, beyond = pairs.of("near"), pairs.of("beyond")
    contrast = pairs.difference(near, beyond)
    (wrong_border, at_border), (wrong_inside, inside) = pairs.of("border"), pairs.of("inside")
    border = pairs.difference(
        (at_border - wrong_border, at_border), (inside - wrong_inside, inside)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        rates = {
            "at_place": here.sum() / known.sum(),
            "expected": expected.sum() / known.sum(),
            "near_rate": near[0].sum() / near[1].sum(),
            "beyond_rate": beyond[0].sum() / beyond[1].sum(),
        }
    return {
        "subjects": rate.units,
        "points": int(points.sum()),
        **_named(("error_rate", "low", "high"), rate.share()),
        **_named(("drawn", "drawn_low", "drawn_high"), drawn.interval()),
        "drawn_p": drawn.p_value(alternative="greater")[0],
        **_named(("contrast", "contrast_low", "contrast_high"), contrast.interval()),
        "border_px": parameters.border,
        "border_points": int(at_border.sum()),
        **_named(("border", "border_low", "border_high"), border.interval()),
        "border_p": border.p_value()[0],
        "published_extra_errors": published_extra_errors(errors.sum(axis=0), points.sum(axis=0)),
        **rates,
    }


def _named(names: tuple[str, str, str], bounds: statistics.Interval) -> dict[str, float]:
    return {name: float(one[0]) for name, one in zip(names, bounds, strict=True)}


def _bins(pairs: Pairs, of: str) -> dict[str, Any]:
    """Values of the rows ``distance``."""
    errors, points = pairs.of("distance", of)
    near, far = pairs.edges(of)
    rate = pairs.ratio(errors, points)
    bounds = rate.share()
    return {
        "near": near,
        "far": far,
        "distance": np.round((near + far) / 2, 1),
        "subjects": rate.units,
        "points": points.sum(axis=0),
        "error_rate": bounds.value,
        "low": bounds.low,
        "high": bounds.high,
    }


def published_extra_errors(errors: Floats, points: Floats) -> float:
    """Extra errors in the thesis' form, which noise alone makes positive.

    Parameters
    ----------
    errors, points
        (bins,) by distance from the source; a bin has at least one point.

    Returns
    -------
    Sum over the bins nearer than the one of the lowest rate of errors of ``(rate - lowest)``,
    weighted by each bin's share of all points.
    """
    rate = errors / points
    lowest = int(rate.argmin())
    return float(((rate - rate[lowest]) * points)[:lowest].sum() / points.sum())


def findings(table: pl.DataFrame) -> Findings:
    """Where position draws errors to the source's place, and what the border of an image costs.

    Of pairs of different subjects. The tests of all blocks and timesteps of a model are corrected
    together (Holm), and what is left is named.
    """
    rows = of_blocks(table).filter(kind="whole", split="test", same="exclude")
    together = [key for key in KEYS if key in rows.columns and key not in ("timestep", "position")]
    rows = rows.with_columns(condition=pl.Series(told_apart(rows), dtype=pl.String))
    sentences, told = [], []
    for part in rows.partition_by(together, maintain_order=True):
        part = part.with_columns(
            pl.Series(name, statistics.holm(part[name].cast(pl.Float64).to_numpy()))
            for name in ("drawn_p", "border_p")
        )
        told.append(part)
        of = part.row(0, named=True)
        name = f"{of['model']} on {of['dataset']}{of['condition']}"
        sentences.append(f"{name}: {_drawn(part)}")
        if border := _border(part):
            sentences.append(f"{name}: {border}")
    return Findings(sentences, pl.concat(told).drop("condition") if told else None)


def _drawn(rows: pl.DataFrame) -> str:
    """What the tests of all blocks of a model say of errors at the source's own place."""
    above = rows.filter(pl.col("drawn_p") < statistics.SIGNIFICANT)
    highest = rows.sort("drawn", descending=True, maintain_order=True).row(0, named=True)
    if rows["drawn_p"].null_count() + rows["drawn_p"].is_nan().sum() == len(rows):
        return (
            f"{100 * highest['at_place']:.1f} % of all points are matched wrongly at the source's "
            f"own place in {where(highest['position'], highest['timestep'])}, and "
            f"{100 * highest['expected']:.1f} % would be if it were another place of the same "
            f"keypoint: the largest excess of {len(rows)} measured; {highest['subjects']} subjects "
            "are too few for an interval."
        )
    if above.is_empty():
        least = float(np.nanmin(rows["drawn_p"].cast(pl.Float64).to_numpy()))
        return (
            "wrong matches stand at the source's own place no more often than at the places of the "
            f"same keypoint in other images, as far as {len(rows)} tests tell (lowest p "
            f"{least:.2g} after Holm's correction)."
        )
    most = above.sort("drawn", descending=True, maintain_order=True).head(TOLD)
    each = ", ".join(
        f"{where(row['position'], row['timestep'])} by "
        + interval(*(row[name] for name in ("drawn", "drawn_low", "drawn_high")))
        for row in most.iter_rows(named=True)
    )
    return (
        "wrong matches stand at the source's own place more often than at the places of the same "
        f"keypoint in other images in {len(above)} of {len(rows)} tests (after Holm's correction); "
        f"{'the largest, ' if len(above) > TOLD else ''}as shares of all points: {each}."
    )


def _border(rows: pl.DataFrame) -> str:
    """What the tests of all blocks of a model say of keypoints near the border."""
    known = rows.filter(pl.col("border_p").is_not_nan() & pl.col("border_p").is_not_null())
    if known.is_empty():
        return ""
    sure = known.filter(pl.col("border_p") < statistics.SIGNIFICANT)
    of = known.row(0, named=True)
    points = (
        f"of {of['points']:,} keypoints of pairs, the {of['border_points']:,} whose source lies "
        f"within {of['border_px']:g} px of the border"
    )
    if sure.is_empty():
        return f"{points} are found as often as others, as far as {len(known)} tests tell."
    ends = {
        "less": sure.filter(pl.col("border") < 0).sort("border"),
        "more": sure.filter(pl.col("border") > 0).sort("border", descending=True),
    }
    said = []
    for word, part in ends.items():
        if part.is_empty():
            continue
        row = part.row(0, named=True)
        low, high = (100 * row[f"border_{end}"] for end in ("low", "high"))
        said.append(
            f"{word} often in {len(part)} of {len(known)} tests (after Holm's correction), in "
            f"{where(row['position'], row['timestep'])} by {100 * row['border']:+.1f} points "
            f"[{low:+.1f}, {high:+.1f}]".replace("-", "\N{MINUS SIGN}")
        )
    return f"{points} are found {' and '.join(said)}."


def _listed(
    representations: Representations,
    annotations: Annotations,
    parameters: Parameters,
    coordinates: Coordinates,
) -> pl.DataFrame:
    """Count the listed pairs."""
    points = of_pairs(annotations, representations, task=KIND)
    source_xy, target_xy, table = points.source_xy, points.target_xy, points.table
    border = _at_border(table.select("source_x", "source_y", "source_width", "source_height"))
    whole = coordinates == "integer"
    if whole:
        source_xy, target_xy = np.trunc(source_xy), np.trunc(target_xy)
        table = in_whole_encoded_pixels(points)
    pixels, target = points.frames.pixels, points.target
    subjects = Subjects.read(annotations, list(points.frames.names))
    name = table["keypoint"].rank("dense").to_numpy().astype(np.int64)
    stratum, target_stratum = (
        subjects.kin[image] * (name.max() + 1) + name for image in (points.source, target)
    )
    places = Places.of(
        np.concatenate([stratum, target_stratum]),
        np.concatenate([points.source, target]),
        np.concatenate([source_xy, target_xy]),
    )
    memory = Memory()
    frames = []
    for position in representations.positions:
        reader = Stored(representations, position, measured=coordinates == "measured")
        maps = Maps(reader, points.frames.names, memory, task=KIND, position=position)
        queries = Queries.at(points.source, source_xy, pixels, maps.grid, reader.offset)
        index, _ = search_pairs(maps, queries, target, points.component)
        found, token = _centres(index, pixels[target], maps.grid[target], reader.offset)
        if parameters.alpha is None:
            off = (found - target_xy) / token
            wrong = np.hypot(off[:, 0], off[:, 1]) >= parameters.tolerance
        else:
            place = found if whole else points.frames.back(target, found)
            truth = table.select("target_x", "target_y").to_numpy()
            wrong = ~correct(place, truth, boxes(table, "target_box"), alpha=parameters.alpha)
        counts = Counts(subjects, float(pixels.max()), cells=parameters.cells, bins=parameters.bins)
        matches = Matches(
            source=points.source,
            target=target,
            start=source_xy,
            found=found,
            truth=target_xy,
            token=token,
            where=_kinds(pixels, maps.grid)[target] * (int(index.max()) + 1) + index,
            stratum=stratum,
            target_stratum=target_stratum,
            wrong=wrong,
            border=border <= parameters.border,
        )
        counts.add(matches, places)
        frames.append(counts.table(position))
        logger.info("counted %d keypoints at %s", len(table), position)
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
    border = _at_border(keypoints.select("x", "y", "width", "height")) <= parameters.border
    if coordinates == "integer":
        xy = np.trunc(xy)
    label = keypoints["keypoint"].rank("dense").to_numpy().astype(np.int64)
    subjects = Subjects.read(annotations, names)
    stratum = subjects.kin[image] * (label.max() + 1) + label
    places = Places.of(stratum, image, xy)
    group = images.select(pl.struct("split", "group").rle_id()).to_series().cast(pl.Int64)
    bounds = np.flatnonzero(np.diff(group.to_numpy(), prepend=-1, append=-1))
    memory = Memory()
    tables = []
    for position in representations.positions:
        reader = Stored(representations, position, measured=coordinates == "measured")
        maps = Maps(reader, names, memory, task=KIND, position=position)
        queries = Queries.at(image, xy, frames.pixels, maps.grid, reader.offset)
        kinds = _kinds(frames.pixels, maps.grid)
        most = int(maps.grid.prod(axis=1).max())
        counts = Counts(
            subjects, float(frames.pixels.max()), cells=parameters.cells, bins=parameters.bins
        )
        for first, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            for turn, batch, index in search_all(maps, queries, first, end - 1):
                sources = np.flatnonzero((queries.of >= turn.start) & (queries.of < turn.stop))
                targets = np.flatnonzero((image >= batch[0]) & (image <= batch[-1]))
                a, b = _same_name(sources, targets, label, image)
                if not len(a):
                    continue
                found = index[queries.of[a] - turn.start, image[b] - batch[0]]
                place, token = _centres(
                    found, frames.pixels[image[b]], maps.grid[image[b]], reader.offset
                )
                off = (place - xy[b]) / token
                counts.add(
                    Matches(
                        source=image[a],
                        target=image[b],
                        start=xy[a],
                        found=place,
                        truth=xy[b],
                        token=token,
                        where=kinds[image[b]] * most + found,
                        stratum=stratum[a],
                        target_stratum=stratum[b],
                        wrong=np.hypot(off[:, 0], off[:, 1]) >= parameters.tolerance,
                        border=border[a],
                    ),
                    places,
                )
        if not counts.points:
            raise UserError(
                f"{KIND}: no two images of one group share a keypoint; use a dataset with such "
                "keypoints, or `pairs: listed`."
            )
        tables.append(counts.table(position))
        logger.info("counted %d correspondences at %s", counts.points, position)
    return pl.concat(tables)


def _same_name(sources: Ints, targets: Ints, label: Ints, image: Ints) -> tuple[Ints, Ints]:
    """Pairs (n,), (n,) of points of one name in different images."""
    found: list[tuple[Ints, Ints]] = []
    for name in np.intersect1d(label[sources], label[targets]):
        a, b = sources[label[sources] == name], targets[label[targets] == name]
        # Never an image with itself.
        one, other = np.nonzero(image[a][:, None] != image[b])
        found.append((a[one], b[other]))
    nothing = np.zeros(0, dtype=np.int64)
    first, second = zip(*found, strict=True) if found else ([nothing], [nothing])
    return np.concatenate(first), np.concatenate(second)


def _centres(index: Ints, pixels: Ints, grid: Ints, offset: Offset) -> tuple[Floats, Floats]:
    """Centres (n, 2) of tokens in px, and the sizes (n, 2) of a token."""
    row, col = np.divmod(index, grid[:, 1])
    return token_centre(row, col, columns(pixels), columns(grid), offset), pixels / grid[:, ::-1]


def _kinds(pixels: Ints, grid: Ints) -> Ints:
    """Number (images,) of each image's size and grid among the distinct ones."""
    _, kind = np.unique(np.concatenate([pixels, grid], axis=1), axis=0, return_inverse=True)
    return np.asarray(kind, dtype=np.int64).ravel()


def _at_border(table: pl.DataFrame) -> Floats:
    """Distance (points,) of x, y from the border of an image of width and height, in px."""
    x, y, width, height = table.to_numpy().T
    return np.asarray(np.minimum(np.minimum(x, width - x), np.minimum(y, height - y)))


def _visible(annotations: Annotations, known: set[str]) -> pl.DataFrame:
    """Visible keypoints of validation and test images, sorted by split, group and image."""
    images = annotations.images().select("image_id", "split", "width", "height")
    images = images.filter(pl.col("split").is_in(SPLITS))
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
