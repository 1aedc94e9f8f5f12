"""The estimators by themselves, where they are strained: few units, shares near 0, dense pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.random import Generator
from reprscope.measures.statistics import dyadic_ratio, holm, mean

from benchmarks.coverage.outcome import Case, Covered, Finding, Outcome

_RARE: Final = 0.02


def images(rng: Generator) -> Mapping[str, Outcome]:
    """Shares of right answers over independent images."""
    found = {}
    for count, share in ((20, 0.5), (40, 0.1), (360, _RARE)):
        estimate = mean(rng.random((count, 1)) < share).share()
        found[f"{count} images, share {share}"] = _covered(share, estimate.low, estimate.high)
    return found


def tokens(rng: Generator) -> Mapping[str, Outcome]:
    """Means over 100 tokens of each of 20 images, whose difficulty differs."""
    values = rng.normal(size=(20, 1)) + rng.normal(size=(20, 100))
    estimate = mean(values.reshape(-1, 1), cluster=np.repeat(np.arange(20), 100)).interval()
    return {"20 images of 100 tokens": _covered(0.0, estimate.low, estimate.high)}


def pairs(rng: Generator) -> Mapping[str, Outcome]:
    """All ordered pairs of images of a category, as in SPair-71k; and few of many."""
    found: dict[str, Outcome] = {}
    for name, categories, count, kept in (
        ("3 categories of 8 images, all pairs", 3, 8, 1.0),
        ("18 categories of 27 images, all pairs", 18, 27, 1.0),
        ("10 categories of 21 images, a seventh of the pairs", 10, 21, 0.15),
    ):
        for effect in (0.0, 0.1):
            low, high = _pairs(rng, categories, count, kept, effect)
            found[f"{name}, effect of an image {effect}"] = _covered(0.4, low, high)
    return found


def nothing(rng: Generator) -> Outcome:
    """Any of 11 layers different from 0, after Holm, where none is."""
    p = mean(rng.normal(size=(30, 1)) + rng.normal(size=(30, 11))).p_value()
    return Finding(bool((holm(p) < 0.05).any()))


def _pairs(
    rng: Generator, categories: int, count: int, kept: float, effect: float
) -> tuple[np.ndarray, np.ndarray]:
    """Interval of the share of right keypoints, where each image shifts that of its pairs."""
    first, second = np.nonzero(~np.eye(count, dtype=bool))
    category = np.repeat(np.arange(categories), len(first))
    first = np.tile(first, categories) + count * category
    second = np.tile(second, categories) + count * category
    chosen = rng.random(len(first)) < kept
    first, second, category = first[chosen], second[chosen], category[chosen]
    shift = rng.choice([-effect, effect], size=categories * count)
    points = rng.integers(3, 12, size=len(first))
    hits = rng.binomial(points, 0.4 + shift[first] + shift[second])
    estimate = dyadic_ratio(hits[:, None], points, first, second, stratum=category)
    return estimate.share()[1:]


def _covered(truth: float, low: np.ndarray, high: np.ndarray) -> Covered:
    return Covered(truth, float(low[0]), float(high[0]))


CASES: Final[Mapping[str, Case]] = {
    "right answers": images,
    "tokens of images": tokens,
    "pairs that share images": pairs,
    "11 layers without an effect": nothing,
}
