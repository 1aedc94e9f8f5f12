import math

import numpy as np
import pytest
from reprscope.metrics import (
    accuracy,
    bootstrap_ratio,
    correct,
    pck,
    random_correct,
    same_place_in_box,
)


def test_radius_is_a_fraction_of_the_longer_side_and_includes_its_border():
    boxes = np.array([[10, 20, 110, 60], [10, 20, 50, 120]])  # 100 x 40 and 40 x 100
    target = np.array([50.0, 50.0])
    for distance, expected in ((9.999, True), (10.0, True), (10.001, False)):
        for angle in (0, math.pi / 2, math.pi):
            step = distance * np.array([round(math.cos(angle)), round(math.sin(angle))])
            assert (correct(target + step, target, boxes, alpha=0.1) == expected).all()


def test_correct_equals_a_loop_over_points():
    rng = np.random.default_rng(0)
    predicted, target = rng.uniform(0, 60, (2, 200, 2))
    corner = rng.uniform(0, 30, (200, 2))
    box = np.concatenate([corner, corner + rng.uniform(1, 90, (200, 2))], axis=1)
    expected = [
        math.dist(p, t) <= 0.3 * max(x1 - x0, y1 - y0)
        for p, t, (x0, y0, x1, y1) in zip(predicted, target, box, strict=True)
    ]
    assert 20 < sum(expected) < 180
    np.testing.assert_array_equal(correct(predicted, target, box, alpha=0.3), expected)


@pytest.mark.parametrize("target", [(40, 25), (0, 0), (3, 2), (80, 50), (78, 25), (40, 49.5)])
@pytest.mark.parametrize("alpha", [0.05, 0.3, 0.9, 3])
def test_random_estimator_is_the_share_of_the_image_that_is_near_enough(target, alpha):
    # Midpoints of a fine grid stand for all points of an 80 x 50 px image.
    x, y = np.meshgrid((np.arange(1600) + 0.5) / 20, (np.arange(1000) + 0.5) / 20)
    near = np.hypot(x - target[0], y - target[1]) <= alpha * 40
    box, size = np.array([0, 0, 40, 20]), np.array([80, 50])
    share = random_correct(np.array(target), box, size, alpha=alpha)
    assert share == pytest.approx(near.mean(), abs=2e-3)


def test_random_estimator_inside_the_image_is_the_area_of_the_disk():
    share = random_correct(
        np.array([50, 50]), np.array([0, 0, 100, 10]), np.array([100, 200]), alpha=0.1
    )
    assert share == pytest.approx(math.pi * 100 / 20000, rel=1e-12)


def test_same_place_in_box_keeps_the_fraction_of_each_axis():
    predicted = same_place_in_box(
        np.array([[30.0, 40.0]]), np.array([[10, 20, 50, 120]]), np.array([[100, 0, 300, 10]])
    )
    # Half of the width, a fifth of the height.
    np.testing.assert_allclose(predicted, [[200, 2]])


def test_averages_over_points_pairs_and_categories_differ():
    # Category a: a pair of 8 points, all correct, and a pair of 2, none. Category b: 1 of 10.
    intervals = pck(
        np.array([[8.0], [0.0], [1.0]]),
        np.array([8, 2, 10]),
        np.array(["a", "a", "b"]),
        replicates=10,
        seed=0,
    )
    assert {name: interval.value.tolist() for name, interval in intervals.items()} == {
        "point": [9 / 20],
        "pair": [pytest.approx((1 + 0 + 0.1) / 3)],
        "category": [pytest.approx((8 / 10 + 1 / 10) / 2)],
    }


def made_pairs(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    points = rng.integers(1, 12, number)
    return rng.binomial(points, 0.4)[:, None], points, np.array(["a", "b", "c", "d"])[points % 4]


def test_intervals_bracket_the_score_are_deterministic_and_follow_the_seed():
    hits, points, categories = made_pairs(80)
    first, again, other = (
        pck(hits, points, categories, replicates=400, seed=seed) for seed in (1, 1, 2)
    )
    for name, (value, low, high) in first.items():
        assert low < value < high
        np.testing.assert_array_equal(first[name], again[name])
        assert (low, high) != (other[name].low, other[name].high)


def test_intervals_of_proportions_have_the_analytic_width():
    # One point a pair: the standard error of a proportion is sqrt(p (1 - p) / n).
    hits = (np.arange(1000) % 10 < 3).astype(float)[:, None]
    intervals = pck(hits, np.ones(1000), np.repeat(["a", "b"], 500), replicates=4000, seed=0)
    width = 2 * 1.96 * math.sqrt(0.3 * 0.7 / 1000)
    for interval in intervals.values():
        assert interval.high - interval.low == pytest.approx(width, rel=0.08)


def test_points_of_a_pair_are_resampled_together():
    # 20 pairs, each with 50 points that are all right or all wrong: only 20 independent values.
    hits = np.repeat([0.0, 50.0], 10)[:, None]
    interval = pck(hits, np.full(20, 50), np.full(20, "a"), replicates=4000, seed=0)["point"]
    width = 2 * 1.96 * math.sqrt(0.25 / 20)
    assert interval.high - interval.low == pytest.approx(width, rel=0.15)


def test_average_over_categories_resamples_within_each():
    # Categories differ, pairs of a category do not: within a category nothing varies.
    intervals = pck(
        np.repeat([0.0, 1.0], 10)[:, None],
        np.ones(20),
        np.repeat(["a", "b"], 10),
        replicates=200,
        seed=0,
    )
    assert intervals["category"] == ([0.5], [0.5], [0.5])
    assert intervals["point"].low < 0.4


def test_a_column_does_not_depend_on_its_neighbours():
    hits, points, categories = made_pairs(30)
    alone = pck(hits, points, categories, replicates=50, seed=3)
    wide = pck(np.repeat(hits, 3, axis=1), points, categories, replicates=50, seed=3)
    for name in alone:
        np.testing.assert_allclose(wide[name].low[1], alone[name].low[0], rtol=1e-12)


def test_bootstrap_ratio_equals_resampling_one_item_at_a_time(monkeypatch):
    rng = np.random.default_rng(2)
    numerator, denominator = rng.random((6, 2)), rng.integers(1, 5, 6).astype(float)
    # Blocks smaller than the number of replicates, so that several are put together.
    monkeypatch.setattr("reprscope.metrics._WEIGHTS_PER_BLOCK", 24)
    result = bootstrap_ratio(numerator, denominator, replicates=10, rng=np.random.default_rng(7))
    draw = np.random.default_rng(7)
    for row in result:
        chosen = draw.integers(6, size=6)
        expected = sum(numerator[i] for i in chosen) / sum(denominator[i] for i in chosen)
        np.testing.assert_allclose(row, expected)


def test_accuracy_is_the_mean_over_images_with_the_analytic_interval():
    scores = (np.arange(2000) % 4 == 0).astype(float)[:, None]
    value, low, high = accuracy(scores, replicates=4000, seed=0)
    assert value == 0.25
    assert low < 0.25 < high
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(0.25 * 0.75 / 2000), rel=0.08)
