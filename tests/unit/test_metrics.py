import math

import numpy as np
import pytest
from reprscope.measures.metrics import (
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
    found = pck(
        np.array([[8.0], [0.0], [1.0]]),
        np.array([8, 2, 10]),
        np.array([0, 0, 3]),
        np.array([1, 2, 4]),
        np.array(["a", "a", "b"]),
    )
    assert {name: estimate.value.tolist() for name, estimate in found.items()} == {
        "point": [9 / 20],
        "pair": [pytest.approx((1 + 0 + 0.1) / 3)],
        "category": [pytest.approx((8 / 10 + 1 / 10) / 2)],
    }


def all_pairs(images: int, categories: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Source, target and category of all ordered pairs of images within each category."""
    one, other = np.nonzero(~np.eye(images, dtype=bool))
    category = np.repeat(np.arange(categories), len(one))
    shift = images * category
    return np.tile(one, categories) + shift, np.tile(other, categories) + shift, category


def test_errors_equal_a_loop_over_all_pairs_of_pairs():
    images = 9
    source, target, category = all_pairs(images, 3)
    rng = np.random.default_rng(5)
    points = rng.integers(1, 9, len(source))
    ease = rng.uniform(-0.2, 0.2, 3 * images) + 0.1 * category[0]
    share = 0.4 + ease[source] + ease[target]
    hits = rng.binomial(points[:, None], share[:, None], (len(source), 2)).astype(float)
    found = pck(hits, points, source, target, category)

    def weighted(score, weight):
        """What a pair adds, less what its category has on average; by category."""
        own = np.array(
            [
                (weight[category == c, None] * score[category == c]).sum(axis=0)
                / weight[category == c].sum()
                for c in range(3)
            ]
        )
        return weight[:, None] * (score - own[category])

    totals = np.bincount(category, weights=points)
    residuals = {
        "point": weighted(hits / points[:, None], points / points.sum()),
        "pair": weighted(hits / points[:, None], np.full(len(points), 1 / len(points))),
        "category": weighted(hits / points[:, None], points / totals[category] / 3),
    }
    scales = []
    for name, residual in residuals.items():
        variance = np.zeros(2)
        for p in range(len(source)):
            for q in range(len(source)):
                if {source[p], target[p]} & {source[q], target[q]}:
                    variance += residual[p] * residual[q]
        scales.extend(found[name].error ** 2 / variance)
        assert found[name].units == 3 * images
    # What few images hide of the spread is scaled back, by the same for all strata of as many.
    np.testing.assert_allclose(scales, scales[0])
    assert 1 < scales[0] < 2


def test_an_effect_of_images_makes_shared_images_count_far_more_than_pairs():
    source, target, category = all_pairs(25, 1)
    ease = np.repeat([0.0, 0.5], [13, 12])
    hits = (ease[source] + ease[target])[:, None]
    found = pck(hits, np.ones(len(source)), source, target, category)["point"]
    # The mean of an image's two roles: an error of 2 * 0.25 / sqrt(25).
    assert found.error == pytest.approx(2 * 0.25 / 5, rel=0.1)
    assert hits.std() / len(hits) ** 0.5 < 0.2 * found.error


def test_pairs_without_a_common_image_have_the_error_of_a_proportion():
    # One point a pair: the standard error of a proportion is sqrt(p (1 - p) / n).
    hits = (np.arange(1000) % 10 < 3).astype(float)[:, None]
    first = np.arange(1000)
    found = pck(hits, np.ones(1000), first, first + 1000, np.repeat(["a", "b"], 500))
    for estimate in found.values():
        assert estimate.error == pytest.approx(math.sqrt(0.3 * 0.7 / 1000), rel=0.01)


def test_points_of_a_pair_are_not_independent():
    # 20 pairs, each with 50 points that are all right or all wrong: only 20 independent values.
    hits = np.repeat([0.0, 50.0], 10)[:, None]
    first = np.arange(20)
    found = pck(hits, np.full(20, 50), first, first + 20, np.full(20, "a"))["point"]
    assert found.error == pytest.approx(math.sqrt(0.25 / 20), rel=0.1)


def test_what_categories_differ_in_is_no_error():
    # Categories differ, pairs of a category do not.
    found = pck(
        np.repeat([0.0, 1.0], 10)[:, None],
        np.ones(20),
        np.arange(20),
        np.arange(20) + 20,
        np.repeat(["a", "b"], 10),
    )
    assert [float(estimate.value[0]) for estimate in found.values()] == pytest.approx([0.5] * 3)
    assert [float(estimate.error[0]) for estimate in found.values()] == [0] * 3


def test_a_column_does_not_depend_on_its_neighbours():
    source, target, category = all_pairs(7, 2)
    points = np.random.default_rng(1).integers(1, 9, len(source))
    hits = np.random.default_rng(2).binomial(points, 0.4)[:, None]
    alone = pck(hits, points, source, target, category)
    wide = pck(np.repeat(hits, 3, axis=1), points, source, target, category)
    for name in alone:
        np.testing.assert_allclose(wide[name].error, np.repeat(alone[name].error, 3), rtol=1e-12)


def test_bootstrap_ratio_equals_resampling_one_item_at_a_time(monkeypatch):
    rng = np.random.default_rng(2)
    numerator, denominator = rng.random((6, 2)), rng.integers(1, 5, 6).astype(float)
    # Blocks smaller than the number of replicates, so that several are put together.
    monkeypatch.setattr("reprscope.measures.metrics._WEIGHTS_PER_BLOCK", 24)
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
