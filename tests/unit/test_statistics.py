"""Standard errors against brute force and analytic cases, and the corrections."""

import numpy as np
import pytest
from reprscope.measures.statistics import FEWEST_UNITS, dyadic_ratio, holm, mean, ratio, shuffled_p
from scipy import stats


def test_a_mean_of_independent_items_is_the_t_interval():
    values = np.random.default_rng(0).normal(size=(30, 3))
    found = mean(values)
    low, high = stats.t.interval(0.95, 29, values.mean(axis=0), stats.sem(values))
    np.testing.assert_allclose(found.value, values.mean(axis=0))
    np.testing.assert_allclose(found.error, stats.sem(values))
    np.testing.assert_allclose(found.interval().low, low)
    np.testing.assert_allclose(found.interval().high, high)
    expected = stats.ttest_1samp(values, 0.1)
    np.testing.assert_allclose(found.p_value(0.1), expected.pvalue)
    one_sided = stats.ttest_1samp(values, 0.1, alternative="greater")
    np.testing.assert_allclose(found.p_value(0.1, "greater"), one_sided.pvalue)


def test_clusters_of_equal_size_are_as_their_means():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(12, 1, 2)) + rng.normal(size=(12, 5, 2))
    found = mean(values.reshape(60, 2), cluster=np.repeat(np.arange(12), 5))
    expected = mean(values.mean(axis=1))
    np.testing.assert_allclose(found.error, expected.error)
    assert (found.units, found.freedom) == (12, 11)


def test_strata_take_their_difference_out_of_the_error():
    rng = np.random.default_rng(2)
    stratum = np.repeat([0, 1], 20)
    values = rng.normal(size=(40, 1)) + 100 * stratum[:, None]
    found = mean(values, stratum=stratum)
    variances = [values[stratum == s].var(ddof=1) for s in (0, 1)]
    np.testing.assert_allclose(found.error, np.sqrt(np.mean(variances) / 40))
    assert found.freedom == 38


def test_a_ratio_has_the_error_of_the_delta_method():
    rng = np.random.default_rng(3)
    below = rng.integers(1, 9, size=50)
    above = rng.binomial(below, 0.4)[:, None]
    found = ratio(above, below)
    residual = above[:, 0] - found.value[0] * below
    expected = np.sqrt(50 / 49 * np.square(residual).sum()) / below.sum()
    np.testing.assert_allclose(found.error, expected)


def brute_force(hits, points, first, second, category):
    """Aronow, Samii, Assenova, by a loop over all pairs of pairs."""
    residual = np.zeros(len(hits))
    scale = np.zeros(len(hits))
    for name in set(category):
        own = category == name
        images = len(set(first[own]) | set(second[own]))
        residual[own] = hits[own] - hits[own].sum() / points[own].sum() * points[own]
        scale[own] = np.sqrt(images * (images - 1) / ((images - 2) * (images - 3)))
    residual *= scale
    total = 0.0
    for p in range(len(hits)):
        for q in range(len(hits)):
            if {first[p], second[p]} & {first[q], second[q]}:
                total += residual[p] * residual[q]
    return np.sqrt(total) / points.sum()


def pairs_of(rng, categories=3, images=7):
    first, second, category = [], [], []
    for c in range(categories):
        for i in range(images):
            for j in range(images):
                if i != j and rng.random() < 0.7:
                    first.append(f"{c}-{i}")
                    second.append(f"{c}-{j}")
                    category.append(c)
    return np.array(first), np.array(second), np.array(category)


def test_dyads_against_a_loop_over_all_pairs_of_pairs():
    rng = np.random.default_rng(4)
    first, second, category = pairs_of(rng)
    points = rng.integers(1, 10, size=len(first))
    effect = dict.fromkeys(np.unique(np.concatenate([first, second])), 0.0)
    effect = {name: rng.normal() for name in effect}
    chance = 1 / (
        1 + np.exp(-np.array([effect[a] + effect[b] for a, b in zip(first, second, strict=True)]))
    )
    hits = rng.binomial(points, chance)
    found = dyadic_ratio(hits[:, None], points, first, second, stratum=category)
    np.testing.assert_allclose(found.value, hits.sum() / points.sum())
    np.testing.assert_allclose(found.error, brute_force(hits, points, first, second, category))
    assert found.units == 21
    # Pairs alone would make it far too small.
    assert found.error[0] > 1.3 * ratio(hits[:, None], points, stratum=category).error[0]


def test_the_average_over_categories():
    rng = np.random.default_rng(5)
    first, second, category = pairs_of(rng)
    points = rng.integers(1, 10, size=len(first))
    easy = {name: rng.choice([-0.1, 0.1]) for name in sorted({*first, *second})}
    effect = np.array([easy[a] + easy[b] for a, b in zip(first, second, strict=True)])
    chance = 0.3 + 0.1 * category + effect
    hits = rng.binomial(points, chance)
    found = dyadic_ratio(hits[:, None], points, first, second, stratum=category, average="strata")
    shares, errors = [], []
    for name in range(3):
        own = category == name
        alone = dyadic_ratio(hits[own, None], points[own], first[own], second[own])
        shares.append(alone.value)
        errors.append(alone.error)
    np.testing.assert_allclose(found.value, np.mean(shares, axis=0))
    np.testing.assert_allclose(found.error, np.sqrt(np.square(errors).sum(axis=0)) / 3)


def test_pairs_without_a_common_image_are_nearly_independent_items():
    rng = np.random.default_rng(6)
    values = rng.normal(size=(200, 1))
    found = dyadic_ratio(values, np.ones(200), np.arange(200), np.arange(200, 400))
    assert found.error[0] == pytest.approx(stats.sem(values)[0], rel=0.01)


def test_an_image_paired_with_itself_counts_once():
    rng = np.random.default_rng(7)
    values = rng.normal(size=(100, 1))
    images = np.arange(100)
    found = dyadic_ratio(values, np.ones(100), images, images)
    assert found.error[0] == pytest.approx(stats.sem(values)[0], rel=0.02)


def test_categories_of_one_pair_still_have_an_error():
    rng = np.random.default_rng(8)
    values = rng.random((40, 1))
    first, second = np.arange(40), np.arange(40, 80)
    for average in ("items", "strata"):
        found = dyadic_ratio(
            values, np.ones(40), first, second, stratum=np.arange(40), average=average
        )
        assert found.error[0] == pytest.approx(stats.sem(values)[0], rel=0.05)


def test_shares_stay_in_range_and_are_wilsons_for_single_items():
    from scipy.stats import binomtest

    hits = np.zeros((500, 1))
    hits[:3] = 1
    found = mean(hits).share()
    expected = binomtest(3, 500).proportion_ci(method="wilson")
    np.testing.assert_allclose([found.low[0], found.high[0]], expected, rtol=0.02)
    nothing = mean(np.zeros((50, 1))).share()
    assert nothing.low[0] == 0
    assert nothing.high[0] == pytest.approx(
        binomtest(0, 50).proportion_ci(method="wilson").high, rel=0.06
    )


def test_few_units_have_no_interval():
    few = mean(np.random.default_rng(0).random((FEWEST_UNITS - 1, 2)))
    assert np.isnan(few.interval().low).all()
    assert np.isnan(few.share().high).all()
    assert np.isnan(few.p_value()).all()
    assert np.isfinite(few.value).all()


def test_nothing_below_is_nan_and_leaves_other_columns_alone():
    below = np.array([[1.0, 0.0]] * 10)
    above = np.array([[1.0, 0.0], [0.0, 0.0]] * 5)
    found = ratio(above, below)
    assert found.value[0] == pytest.approx(0.5)
    assert np.isnan(found.value[1])
    assert np.isnan(found.p_value()[1])


def test_holm_against_the_steps_of_the_paper():
    found = holm(np.array([0.01, 0.04, np.nan, 0.03, 0.005]))
    np.testing.assert_allclose(found, [0.03, 0.06, np.nan, 0.06, 0.02])
    assert holm(np.array([0.6, 0.9])).tolist() == [1.0, 1.0]


def test_a_shuffled_p_value_is_never_zero():
    assert shuffled_p(5.0, np.arange(5)) == pytest.approx(1 / 6)
    assert shuffled_p(0.0, np.arange(5)) == 1.0
    assert shuffled_p(0.0, np.arange(5), alternative="less") == pytest.approx(2 / 6)
