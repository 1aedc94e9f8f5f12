"""Scores of predictions, with bootstrap intervals, and the estimators that need no model.

The percentage of correct keypoints (PCK) counts a predicted point as correct if it lies within
``alpha * max(width, height)`` of the true point, where width and height are those of the *target*
image's bounding box in original pixels (SPair-71k, Min et al. 2019; the comparison is ``<=``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from reprscope.measures.statistics import Estimate, dyadic_ratio

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float64]

LEVEL: Final = 0.95
"""Coverage of every interval."""

_WEIGHTS_PER_BLOCK: Final = 1 << 22


class Interval(NamedTuple):
    """Scores with the bounds of their bootstrap intervals, each (columns,) float64."""

    value: Float
    low: Float
    high: Float


def radius(box: NDArray[Any], *, alpha: float) -> Float:
    """Largest distance at which a prediction counts as correct.

    Parameters
    ----------
    box
        (..., 4) x0, y0, x1, y1 of the target image's bounding box, in pixels.
    alpha
        Fraction of the longer side.

    Returns
    -------
    (...) pixels.
    """
    sides = np.asarray(box[..., 2:] - box[..., :2], dtype=np.float64)
    return np.asarray(alpha * sides.max(axis=-1))


def correct(
    predicted: NDArray[Any],
    target: NDArray[Any],
    box: NDArray[Any],
    *,
    alpha: float,
    strict: bool = False,
) -> NDArray[np.bool_]:
    """Whether a predicted point is within PCK's radius of the true one.

    Parameters
    ----------
    predicted, target
        (..., 2) x, y in pixels of the target image.
    box
        (..., 4) bounding box of the target image, in the same pixels.
    alpha
        Fraction of the box's longer side.
    strict
        Count a prediction at exactly the radius as wrong.

    Returns
    -------
    (...) bool.
    """
    offset = np.asarray(predicted, dtype=np.float64) - np.asarray(target, dtype=np.float64)
    compare = np.less if strict else np.less_equal
    within = compare(np.hypot(offset[..., 0], offset[..., 1]), radius(box, alpha=alpha))
    return np.asarray(within, dtype=np.bool_)


def random_correct(
    target: NDArray[Any], box: NDArray[Any], size: NDArray[Any], *, alpha: float
) -> Float:
    """Probability that a uniformly random point of the target image is correct.

    This is the exact expectation of the thesis' random estimator (figure 9, 1000 draws for each
    keypoint): the share of the image that PCK's disk covers.

    Parameters
    ----------
    target
        (..., 2) true point, in pixels.
    box
        (..., 4) bounding box of the target image, in pixels.
    size
        (..., 2) width and height of the target image, in pixels.
    alpha
        Fraction of the box's longer side.

    Returns
    -------
    (...) in [0, 1].
    """
    size = np.asarray(size, dtype=np.float64)
    area = _disk_in_rectangle(np.asarray(target, dtype=np.float64), radius(box, alpha=alpha), size)
    return np.asarray(area / size.prod(axis=-1))


def _disk_in_rectangle(centre: Float, disk_radius: Float, size: Float) -> Float:
    """Area (...) of a disk inside the rectangle from (0, 0) to ``size`` (..., 2)."""
    scale = np.where(disk_radius > 0, disk_radius, 1.0)
    low = np.clip(-centre / scale[..., None], -1, 1)
    high = np.clip((size - centre) / scale[..., None], -1, 1)
    unit = (
        _corner_area(high[..., 0], high[..., 1])
        - _corner_area(low[..., 0], high[..., 1])
        - _corner_area(high[..., 0], low[..., 1])
        + _corner_area(low[..., 0], low[..., 1])
    )
    return unit * np.square(disk_radius)


def _corner_area(x: Float, y: Float) -> Float:
    """Area of the unit disk's part left of ``x`` and above ``y``, both in [-1, 1]."""
    half_x = (np.arcsin(x) + x * np.sqrt(1 - x * x)) / 2
    half_y = (np.arcsin(y) + y * np.sqrt(1 - y * y)) / 2
    # A corner (x, y) inside the disk cuts all four quadrants; outside of it, the two lines do not
    # meet in the disk, and what remains is the disk less the segments beyond them.
    inside = x * y + half_x + half_y + np.pi / 4
    segment_x = 2 * half_x + np.pi / 2
    segment_y = 2 * half_y + np.pi / 2
    outside = np.where(
        (x > 0) & (y > 0),
        segment_x + segment_y - np.pi,
        np.where(x > 0, segment_y, np.where(y > 0, segment_x, 0.0)),
    )
    return np.where(x * x + y * y <= 1, inside, outside)


def same_place_in_box(
    source: NDArray[Any], source_box: NDArray[Any], target_box: NDArray[Any]
) -> Float:
    """Predict the point at the same relative place of the target's bounding box.

    Parameters
    ----------
    source
        (..., 2) point in the source image, in pixels.
    source_box, target_box
        (..., 4) x0, y0, x1, y1 of either image's bounding box; the source's has an area.

    Returns
    -------
    (..., 2) point in the target image, in pixels.
    """
    source_box = np.asarray(source_box, dtype=np.float64)
    target_box = np.asarray(target_box, dtype=np.float64)
    place = (source - source_box[..., :2]) / (source_box[..., 2:] - source_box[..., :2])
    result: Float = target_box[..., :2] + place * (target_box[..., 2:] - target_box[..., :2])
    return result


def pck(
    correct_points: NDArray[Any],
    points: NDArray[Any],
    source: NDArray[Any],
    target: NDArray[Any],
    categories: NDArray[Any],
) -> dict[str, Estimate]:
    """PCK under the three averages in use.

    ``point``
        Share of all keypoints that are correct (the thesis).
    ``pair``
        Mean over pairs of the share of the pair's keypoints (DIFT's "per image").
    ``category``
        Mean over categories of the share of the category's keypoints.

    Errors are those of other images in the place of these: pairs that share an image are not
    independent (:func:`reprscope.measures.statistics.dyadic_ratio`). Categories are fixed.

    Parameters
    ----------
    correct_points
        (pairs, columns) number of correct keypoints of each pair, or the difference of two.
    points
        (pairs,) number of keypoints, at least 1.
    source, target
        (pairs,) the images of each pair.
    categories
        (pairs,) category of each pair.

    Returns
    -------
    Estimate of (columns,) for each average.
    """
    hits = np.asarray(correct_points, dtype=np.float64)
    counts = np.asarray(points, dtype=np.float64)
    of_pair = hits / counts[:, None]
    return {
        "point": dyadic_ratio(hits, counts, source, target, stratum=categories),
        "pair": dyadic_ratio(of_pair, np.ones_like(counts), source, target, stratum=categories),
        "category": dyadic_ratio(
            hits, counts, source, target, stratum=categories, average="strata"
        ),
    }


def accuracy(scores: NDArray[Any], *, replicates: int, seed: int) -> Interval:
    """Mean score over images, with a bootstrap interval over images.

    Parameters
    ----------
    scores
        (images, columns) in [0, 1]: 1 where the prediction is right, or its mean over probe seeds.
    replicates
        Number of bootstrap resamples.
    seed
        Seed of the resamples.

    Returns
    -------
    Interval of (columns,) in [0, 1].
    """
    values = np.asarray(scores, dtype=np.float64)
    resampled = bootstrap_ratio(
        values, np.ones(len(values)), replicates=replicates, rng=np.random.default_rng(seed)
    )
    return _percentiles(values.mean(axis=0), resampled)


def bootstrap_ratio(
    numerator: Float, denominator: Float, *, replicates: int, rng: np.random.Generator
) -> Float:
    """Ratio of two sums over items, for resamples of the items with replacement.

    Parameters
    ----------
    numerator
        (items, columns).
    denominator
        (items,) positive, or (items, columns) not negative.
    replicates
        Number of resamples.
    rng
        Source of the resamples.

    Returns
    -------
    (replicates, columns) float64; NaN where a resample's denominator is 0.
    """
    items = len(denominator)
    each = denominator.reshape(items, -1)
    result = np.empty((replicates, numerator.shape[1]))
    step = max(1, _WEIGHTS_PER_BLOCK // items)
    for start in range(0, replicates, step):
        rows = min(step, replicates - start)
        drawn = rng.integers(items, size=(rows, items)) + items * np.arange(rows)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=rows * items).reshape(rows, items)
        weights = weights.astype(np.float64)
        with np.errstate(invalid="ignore"):
            result[start : start + rows] = (weights @ numerator) / (weights @ each)
    return result


def _percentiles(value: Float, resampled: Float) -> Interval:
    """Percentile interval of (replicates, columns) resampled scores."""
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return Interval(value, low, high)
