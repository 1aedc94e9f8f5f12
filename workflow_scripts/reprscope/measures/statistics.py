"""The rules by which a number gets an interval and a sentence may conclude.

A sentence that says "best", "more than" or "gains" rests on four things, and this module holds what
each needs:

1. **An interval over what is independent.** Tokens of one image, keypoints of one pair and pairs
   that share an image are not. :func:`mean` and :func:`ratio` take clusters, such as images or
   scenes; :func:`dyadic_ratio` takes pairs of images. All are closed forms by linearisation (the
   delta method), so that nothing is resampled and every column is treated alike.
2. **A stated null.** :meth:`Estimate.p_value` tests against a value, :func:`shuffled_p` against
   draws under the null.
3. **A choice made on other images.** Fewer than :data:`FEWEST_TO_CHOOSE` of them choose nothing.
4. **A correction for how many were tried**, :func:`holm`.

Where one is missing, a sentence describes ("highest of 11 on these images").

How often the intervals cover the truth, and how often a sentence is wrong under its null, is
simulated by ``python -m benchmarks.coverage`` (docs/statistics.md).

References
----------
Aronow, Samii, Assenova: Cluster-robust variance estimation for dyadic data. Political Analysis 23,
2015. Brown, Cai, DasGupta: Interval estimation for a binomial proportion. Statistical Science 16,
2001 (Wilson's interval). Dean, Pagano: Evaluating confidence interval methods for binomial
proportions in clustered surveys. JSSAM 3, 2015 (with the effective sample size). Holm: A simple
sequentially rejective multiple test procedure. Scand. J. Statistics 6, 1979. Phipson, Smyth:
Permutation p-values should never be zero. SAGMB 9, 2010.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float64]
    Ints = NDArray[np.int64]

LEVEL: Final = 0.95
"""Coverage of every interval."""

FEWEST_UNITS: Final = 6
"""Independent units (images, scenes, cut-outs) below which no interval and no p-value is given."""

FEWEST_TO_CHOOSE: Final = 20
"""Validation images or pairs that a choice needs; with fewer, a sentence only describes."""

SIGNIFICANT: Final = 0.05
"""p-value, after :func:`holm`, below which a sentence may conclude."""

Alternative = Literal["two-sided", "greater", "less"]

_DIFFERENT: Final = 0.25

# Smaller strata are taken together: what their residuals lose of the spread cannot be scaled back.
_FEWEST_IN_STRATUM: Final = 3
_FEWEST_PAIRED: Final = 5


class Interval(NamedTuple):
    """Values with the bounds of their intervals, each (columns,) float64.

    The bounds are NaN where there are fewer than :data:`FEWEST_UNITS` independent units.
    """

    value: Float
    low: Float
    high: Float


class Estimate(NamedTuple):
    """Estimates with what their intervals follow from.

    Attributes
    ----------
    value
        (columns,) estimates; NaN where a denominator is 0.
    error
        (columns,) standard errors.
    freedom
        Degrees of freedom of the standard errors.
    units
        Number of independent units: clusters, or images of pairs.
    """

    value: Float
    error: Float
    freedom: int
    units: int

    def interval(self) -> Interval:
        """Student's t interval of each column."""
        half = self._quantile() * self.error
        return Interval(self.value, self.value - half, self.value + half)

    def share(self) -> Interval:
        """Interval of shares in [0, 1].

        Wilson's, with the effective sample size that the standard error implies and Student's t in
        place of the normal quantile: it keeps its coverage near 0 and 1, where the t interval
        collapses. Where the standard error is 0 the sample size is the number of units.

        Few units hide how much they differ where most are alike and few are not, as shares near 0
        and 1: the standard error counts as one of as many units and a quarter of one (by
        simulation) whose shares are all 0 or 1.
        """
        value = np.clip(self.value, 0.0, 1.0)
        spread = value * (1 - value)
        with np.errstate(divide="ignore", invalid="ignore"):
            variance = np.square(self.error) * (self.units - 1) + _DIFFERENT * spread / self.units
            variance = variance / (self.units - 1 + _DIFFERENT)
            size = np.where((self.error > 0) & (spread > 0), spread / variance, self.units)
        quantile = self._quantile()
        part = quantile**2 / size
        centre = (value + part / 2) / (1 + part)
        half = quantile * np.sqrt(spread / size + part / (4 * size)) / (1 + part)
        # Rounding must not leave the range, nor put a bound beyond the value itself.
        low = np.minimum(np.maximum(centre - half, 0.0), value)
        high = np.maximum(np.minimum(centre + half, 1.0), value)
        return Interval(self.value, low, high)

    def p_value(self, null: float = 0.0, alternative: Alternative = "two-sided") -> Float:
        """P-values (columns,) of the t-test that the estimate is ``null``.

        NaN where there are fewer than :data:`FEWEST_UNITS` units, or no value.

        Parameters
        ----------
        null
            Value under the null hypothesis.
        alternative : {"two-sided", "greater", "less"}
            What the estimate is under the alternative.
        """
        from scipy.special import stdtr

        if self.units < FEWEST_UNITS:
            return np.full_like(self.value, np.nan)
        difference = self.value - null
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where(difference == 0, 0.0, difference / self.error)
        tail = {"greater": t, "less": -t, "two-sided": np.abs(t)}[alternative]
        p = stdtr(self.freedom, -tail) * (2 if alternative == "two-sided" else 1)
        return np.asarray(np.where(np.isnan(self.value), np.nan, p), dtype=np.float64)

    def _quantile(self) -> float:
        from scipy.special import stdtrit

        if self.units < FEWEST_UNITS:
            return float("nan")
        return float(stdtrit(self.freedom, (1 + LEVEL) / 2))


def mean(
    scores: NDArray[Any],
    *,
    cluster: NDArray[Any] | None = None,
    stratum: NDArray[Any] | None = None,
) -> Estimate:
    """Mean of scores over items.

    Parameters
    ----------
    scores
        (items, columns).
    cluster
        (items,) what is independent, such as the image of a token; None if the items are.
    stratum
        (items,) fixed groups whose difference is no part of the error, such as categories; None
        for one.

    Returns
    -------
    Estimate of (columns,).
    """
    scores = np.asarray(scores, dtype=np.float64)
    return ratio(scores, np.ones(len(scores)), cluster=cluster, stratum=stratum)


def ratio(
    numerator: NDArray[Any],
    denominator: NDArray[Any],
    *,
    cluster: NDArray[Any] | None = None,
    stratum: NDArray[Any] | None = None,
) -> Estimate:
    """Ratio of two sums over items, with a cluster-robust standard error by the delta method.

    Parameters
    ----------
    numerator
        (items, columns).
    denominator
        (items,) or (items, columns), not negative.
    cluster, stratum
        As for :func:`mean`. The variance of a stratum's clusters is scaled by n / (n - 1).

    Returns
    -------
    Estimate of (columns,), NaN where the sum of a denominator is 0.
    """
    items = len(numerator)
    units = _numbers(np.arange(items) if cluster is None else cluster)
    group, size = _strata(stratum, [units], items, fewest=_FEWEST_IN_STRATUM)
    value, residual = _linearised(numerator, denominator, group, stratum, "items")
    scale = np.sqrt(size / np.maximum(size - 1, 1))[group]
    variance = np.square(_sums(residual * scale[:, None], units)).sum(axis=0)
    count = int(units.max(initial=-1)) + 1
    return Estimate(value, np.sqrt(variance), max(count - len(size), 1), count)


def dyadic_ratio(
    numerator: NDArray[Any],
    denominator: NDArray[Any],
    first: NDArray[Any],
    second: NDArray[Any],
    *,
    stratum: NDArray[Any] | None = None,
    average: Literal["items", "strata"] = "items",
) -> Estimate:
    """Ratio of two sums over pairs of images, of which any two that share an image may depend.

    With r_p = numerator_p - R denominator_p, R being the ratio of p's stratum, the variance is that
    of Aronow, Samii, Assenova (2015): the sum over images of the squared sum of r_p over all pairs
    with that image, less the sum over unordered pairs of images of the squared sum of r_p on it,
    which the first counts twice. In a stratum of n images it is scaled by
    n (n - 1) / ((n - 2) (n - 3)), which makes it unbiased where each image is paired with each and
    images differ. It is never taken to be smaller than if pairs were independent.

    Parameters
    ----------
    numerator
        (pairs, columns), such as the correct keypoints of each pair, or the difference of two.
    denominator
        (pairs,) or (pairs, columns), not negative, such as keypoints.
    first, second
        (pairs,) the images of each pair.
    stratum
        (pairs,) fixed groups, such as categories; None for one. Strata of fewer than five images
        are treated as one.
    average : {"items", "strata"}
        One ratio over all pairs, or the mean of the ratios of the strata.

    Returns
    -------
    Estimate of (columns,); its units are images.
    """
    pairs = len(numerator)
    both = _numbers(np.concatenate([np.asarray(first), np.asarray(second)]))
    one, other = both[:pairs], both[pairs:]
    count = int(both.max(initial=-1)) + 1
    group, size = _strata(stratum, [one, other], pairs, fewest=_FEWEST_PAIRED)
    value, residual = _linearised(numerator, denominator, group, stratum, average)
    lost = np.maximum(size - 2, 1) * np.maximum(size - 3, 1)
    residual = residual * np.sqrt(size * (size - 1) / lost)[group][:, None]
    apart = one != other
    by_image = _sums(residual, one, count) + _sums(residual[apart], other[apart], count)
    dyad = _numbers(np.minimum(one, other) * count + np.maximum(one, other))
    by_dyad = _sums(residual, dyad)
    twice = np.zeros(len(by_dyad), dtype=np.bool_)
    twice[dyad[apart]] = True
    independent = np.square(by_dyad)
    variance = np.square(by_image).sum(axis=0) - independent[twice].sum(axis=0)
    variance = np.maximum(variance, independent.sum(axis=0))
    return Estimate(value, np.sqrt(variance), max(count - len(size), 1), count)


def holm(p_values: NDArray[Any]) -> Float:
    """P-values (n,) adjusted for their number: the family is wrong at most as often as one (Holm).

    NaN counts as not tested and stays.
    """
    values = np.asarray(p_values, dtype=np.float64)
    tested = np.flatnonzero(~np.isnan(values))
    order = tested[np.argsort(values[tested], kind="stable")]
    adjusted = values.copy()
    steps = values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def shuffled_p(
    observed: float, null: NDArray[Any], *, alternative: Literal["greater", "less"] = "greater"
) -> float:
    """P-value of a statistic against draws (n,) of it under the null.

    It is (1 + draws as extreme) / (1 + n), and so never 0.
    """
    draws = np.asarray(null, dtype=np.float64)
    extreme = draws >= observed if alternative == "greater" else draws <= observed
    return float((1 + extreme.sum()) / (1 + len(draws)))


def _numbers(names: NDArray[Any]) -> Ints:
    """Number (n,) of each name among the distinct ones."""
    return np.asarray(np.unique(np.asarray(names), return_inverse=True)[1], dtype=np.int64).ravel()


def _strata(
    stratum: NDArray[Any] | None, units: list[Ints], items: int, *, fewest: int
) -> tuple[Ints, Float]:
    """Stratum (items,) of each item, small ones taken together, and units (strata,) of each."""
    group = np.zeros(items, dtype=np.int64) if stratum is None else _numbers(stratum)
    size = _units_of(group, units)
    few = size < fewest
    if few.any() and len(size) > 1:
        # What is left alone by this has no spread of its own; it joins the largest.
        together = int(np.argmax(size)) if few.sum() == 1 else int(np.flatnonzero(few)[0])
        group = _numbers(np.where(few[group], together, group))
        size = _units_of(group, units)
    return group, size.astype(np.float64)


def _units_of(group: Ints, units: list[Ints]) -> Ints:
    """Number (strata,) of distinct units in each stratum."""
    rows = np.concatenate([np.stack([group, one], axis=1) for one in units])
    return np.bincount(np.unique(rows, axis=0)[:, 0], minlength=int(group.max(initial=-1)) + 1)


def _linearised(
    numerator: NDArray[Any],
    denominator: NDArray[Any],
    group: Ints,
    stratum: NDArray[Any] | None,
    average: Literal["items", "strata"],
) -> tuple[Float, Float]:
    """Value (columns,), and what each item adds to its error, (items, columns)."""
    numerator = np.asarray(numerator, dtype=np.float64)
    denominator = np.asarray(denominator, dtype=np.float64).reshape(len(numerator), -1)
    with np.errstate(divide="ignore", invalid="ignore"):
        if average == "strata" and stratum is not None:
            own = _numbers(stratum)
            totals = _sums(denominator, own)
            weight = 1 / ((totals > 0).sum(axis=0) * totals)[own]
        else:
            weight = np.ones(len(numerator))[:, None] / denominator.sum(axis=0)
        weight = np.where(denominator > 0, weight, 0.0)
        weighted, weights = weight * numerator, weight * denominator
        value = weighted.sum(axis=0) / weights.sum(axis=0)
        expected = np.nan_to_num(_sums(weighted, group) / _sums(weights, group))
    return value, weighted - expected[group] * weights


def _sums(values: Float, group: Ints, count: int | None = None) -> Float:
    """Sums (groups, columns) of (items, columns)."""
    size = int(group.max(initial=-1)) + 1 if count is None else count
    columns = [np.bincount(group, weights=column, minlength=size) for column in values.T]
    return np.stack(columns, axis=1) if columns else np.zeros((size, 0))
