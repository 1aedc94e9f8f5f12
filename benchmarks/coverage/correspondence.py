"""PCK, gains and losses of correspondence on pairs that share images.

Images of a category are of two kinds, easy and hard, and have a further effect of their own as
sources and as targets; pairs of easy images show more keypoints and more of these are found. What
is true is the expectation over images, with categories fixed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl
from numpy.random import Generator
from reprscope.measures.metrics import pck
from reprscope.measures.statistics import SIGNIFICANT
from reprscope.tasks.correspondence import BASELINES, Parameters, findings, relate, summarise

from benchmarks.coverage.outcome import Case, Covered, Finding, Outcome

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float64]
    Ints = NDArray[np.int64]

_PARAMETERS: Final = Parameters(alphas=(0.1,))
_POINTS: Final = np.array([[4.0, 5.0], [5.0, 8.0]])
"""Mean keypoints of a pair by the kinds of its source and target, hard and easy."""

_SHIFT: Final = np.array([-0.08, 0.08])
_OWN: Final = 0.04
_OF_GAIN: Final = 0.3
_POSITIONS: Final = ["conv_in", *(f"down_blocks.{i}" for i in range(4)), "mid_block",
                     *(f"up_blocks.{i}" for i in range(4)), "conv_out"]  # fmt: skip


@dataclass(frozen=True)
class _Pairs:
    """Pairs of images: ``source`` and ``target`` are numbers of images, (pairs,) each."""

    source: Ints
    target: Ints
    category: Ints
    points: Ints
    images: int

    @property
    def of_point(self) -> Ints:
        """(points,) the pair of each keypoint."""
        return np.repeat(np.arange(len(self.points)), self.points)


def _all_pairs(rng: Generator, sizes: Sequence[int], listed: int | None = None) -> _Pairs:
    """All ordered pairs of each category's images, or as many of them at random."""
    parts, first = [], 0
    for category, size in enumerate(sizes):
        both = first + np.stack(np.nonzero(~np.eye(size, dtype=bool)))
        if listed is not None:
            both = both[:, rng.choice(both.shape[1], listed, replace=False)]
        parts.append(np.concatenate([both, np.full((1, both.shape[1]), category)]))
        first += size
    source, target, category = np.concatenate(parts, axis=1)
    return _Pairs(source, target, category, np.ones_like(source), first)


@dataclass(frozen=True)
class _World:
    """Images with their kinds, and pairs whose number of keypoints follows from these."""

    pairs: _Pairs
    easy: Ints

    @classmethod
    def drawn(cls, rng: Generator, pairs: _Pairs) -> _World:
        easy = rng.integers(2, size=pairs.images)
        least = _POINTS[easy[pairs.source], easy[pairs.target]].astype(int) - 1
        points = least + rng.integers(3, size=len(least))
        return cls(_Pairs(pairs.source, pairs.target, pairs.category, points, pairs.images), easy)

    def effect(self, rng: Generator, size: float = 1.0) -> Float:
        """(pairs,) what the images of a pair add to the share that is found."""
        own = rng.uniform(-_OWN, _OWN, (2, self.pairs.images))
        source, target = self.pairs.source, self.pairs.target
        kinds = _SHIFT[self.easy[source]] + _SHIFT[self.easy[target]]
        return np.asarray(size * (kinds + own[0, source] + own[1, target]))


def _truth(pairs: _Pairs, share: Float, size: float) -> dict[str, float]:
    """Expected PCK in each average, with ``share`` (categories,) of an image without effect."""
    more = size * (_SHIFT[:, None] + _SHIFT)
    own = share + (_POINTS * more).mean() / _POINTS.mean()
    number = np.bincount(pairs.category)
    # Categories have as many keypoints a pair on average, so that their weights are pairs.
    return {
        "point": float(np.average(own, weights=number)),
        "pair": float(np.average(share + more.mean(), weights=number)),
        "category": float(own.mean()),
    }


def _measured(
    pairs: _Pairs, hits: Mapping[tuple[str, str], NDArray[np.bool_]], split: str
) -> pl.DataFrame:
    """Measurements of estimators at positions from which keypoints (points,) each finds."""
    of = pairs.of_point
    blind = np.zeros(len(of), dtype=bool)
    series = [*hits.items(), *(((name, ""), blind) for name in BASELINES)]
    names = pl.DataFrame(
        {
            "pair_id": [f"{split}{i:05}" for i in range(len(pairs.points))],
            "category": [f"{i:02}" for i in pairs.category],
            "source_id": [f"{split}{i:04}" for i in pairs.source],
            "target_id": [f"{split}{i:04}" for i in pairs.target],
        }
    )[of]
    return pl.concat(
        names.with_columns(
            estimator=pl.lit(name),
            position=pl.lit(position or None, pl.String),
            split=pl.lit(split),
            target_x=pl.lit(50.0),
            target_y=pl.lit(50.0),
            predicted_x=pl.Series(np.where(found, 50.0, 90.0)),
            predicted_y=pl.lit(50.0),
            target_width=pl.lit(100),
            target_height=pl.lit(100),
            box_x0=pl.lit(0.0),
            box_y0=pl.lit(0.0),
            box_x1=pl.lit(100.0),
            box_y1=pl.lit(100.0),
        )
        for (name, position), found in series
    )


def _scores(rng: Generator, pairs: _Pairs) -> Mapping[str, Outcome]:
    """PCK in three averages and a gain, where images have an effect and where they have none."""
    world = _World.drawn(rng, pairs)
    pairs, of = world.pairs, world.pairs.of_point
    share = np.linspace(0.35, 0.5, pairs.category.max() + 1)
    sizes = {"mid_block": 1.0, "up_blocks.1": 0.0}
    hits = {}
    for position, size in sizes.items():
        expected = share[pairs.category] + world.effect(rng, size)
        # What a variant changes depends on the images, too, and is nothing on average.
        gained = expected + size * _OF_GAIN * (world.effect(rng) - _mean_effect())
        draw = rng.random(len(of))
        hits["plain", position] = draw < expected[of]
        hits["cosine", position] = (
            np.where(rng.random(len(of)) < 0.5, draw, rng.random(len(of))) < gained[of]
        )
    table = summarise(_measured(pairs, hits, "test"), _PARAMETERS)
    found: dict[str, Outcome] = {}
    for position, size in sizes.items():
        effect = "images differ" if size else "images are alike"
        truth = _truth(pairs, share, size)
        here = table.filter(pl.col("position") == position)
        for row in here.filter(pl.col("estimator") == "plain").iter_rows(named=True):
            name = f"PCK over {row['average']}, {effect}"
            found[name] = Covered(truth[row["average"]], row["low"], row["high"])
        (row,) = here.filter(estimator="cosine", average="point").iter_rows(named=True)
        found[f"gain, {effect}"] = Covered(0.0, row["gain_low"], row["gain_high"])
    return found


def _mean_effect() -> float:
    """Mean over keypoints of what images add."""
    return float((_POINTS * (_SHIFT[:, None] + _SHIFT)).mean() / _POINTS.mean())


def spair(rng: Generator) -> Mapping[str, Outcome]:
    """All ordered pairs of 18 categories of 25 to 30 images, as SPair-71k's test set.

    From the numbers of keypoints that are found in each pair, not from the keypoints themselves.
    """
    world = _World.drawn(rng, _all_pairs(rng, [25 + i % 6 for i in range(18)]))
    pairs = world.pairs
    share = np.linspace(0.35, 0.5, 18)
    expected = [share[pairs.category] + world.effect(rng, size) for size in (1.0, 0.0)]
    hits = np.stack([rng.binomial(pairs.points, one) for one in expected], axis=1)
    scores = pck(hits, pairs.points, pairs.source, pairs.target, pairs.category)
    found: dict[str, Outcome] = {}
    for number, (name, size) in enumerate((("images differ", 1.0), ("images are alike", 0.0))):
        truth = _truth(pairs, share, size)
        for average, estimate in scores.items():
            _, low, high = (float(bound[number]) for bound in estimate.share())
            found[f"PCK over {average}, {name}"] = Covered(truth[average], low, high)
    return found


def every(rng: Generator) -> Mapping[str, Outcome]:
    """All ordered pairs of 4 categories of 25 images."""
    return _scores(rng, _all_pairs(rng, [25] * 4))


def listed(rng: Generator) -> Mapping[str, Outcome]:
    """The default study's 600 pairs of 210 images of 10 kinds."""
    return _scores(rng, _all_pairs(rng, [21] * 10, listed=60))


def few(rng: Generator) -> Mapping[str, Outcome]:
    """One category of 10 images, 30 pairs."""
    return _scores(rng, _all_pairs(rng, [10], listed=30))


def no_gain(rng: Generator) -> Mapping[str, Outcome]:
    """Whether one of 12 variants is said, or marked in the figure, to gain or lose in 3 layers."""
    parts = []
    tried = [(f"v{number}", position) for number in range(12) for position in _POSITIONS[5:8]]
    for split, images, number in (("validation", 5, 10), ("test", 11, 30)):
        world = _World.drawn(rng, _all_pairs(rng, [images] * 10, listed=number))
        of = world.pairs.of_point
        hits = {}
        for task, position in tried:
            expected = 0.35 + world.effect(rng)
            gained = expected + _OF_GAIN * (world.effect(rng) - _mean_effect())
            draw = rng.random(len(of))
            again = np.where(rng.random(len(of)) < 0.5, draw, rng.random(len(of)))
            hits["plain", f"{task} {position}"] = draw < expected[of]
            hits["cosine", f"{task} {position}"] = again < gained[of]
        parts.append(summarise(_measured(world.pairs, hits, split), _PARAMETERS))
    table = pl.concat(parts).with_columns(
        pl.col("position").str.split(" ").list.to_struct(fields=["task", "position"])
    )
    table = _related(table.unnest("position"))
    marked = table.filter(split="test", average="point")["gain_p_holm"].drop_nulls() < SIGNIFICANT
    return {
        "a sentence claims one": Finding(_claims(table, r" (gains|loses) \d")),
        "a dot is filled": Finding(bool(marked.any())),
    }


def _related(table: pl.DataFrame) -> pl.DataFrame:
    """An experiment's table."""
    keys = {"dataset": "d", "view": "identity", "model": "m", "timestep": 50, "task": "t"}
    new = {key: pl.lit(value) for key, value in keys.items() if key not in table.columns}
    return relate(table.with_columns(**new), {})


def _claims(table: pl.DataFrame, pattern: str) -> bool:
    return any(re.search(pattern, text) for text in findings(table).sentences)


def _degraded(
    rng: Generator, losses: Sequence[float], pairs: _Pairs
) -> tuple[pl.DataFrame, list[float]]:
    """Table of an undegraded view and one in which positions lose, and their true changes."""
    world = _World.drawn(rng, pairs)
    of = world.pairs.of_point
    before, after = {}, {}
    for position, lost in zip(_POSITIONS, losses, strict=False):
        expected = 0.4 + world.effect(rng)
        kept = 1 - lost + 0.5 * (world.effect(rng) - _mean_effect())
        draw, stays = rng.random((2, len(of)))
        before["cosine", position] = draw < expected[of]
        after["cosine", position] = before["cosine", position] & (stays < kept[of])
    # Effects of a pair on both: what is kept is weighed by what was found.
    more = _SHIFT[:, None] + _SHIFT
    weight = _POINTS * (0.4 + more)
    changes = [
        float((weight * (1 - lost + 0.5 * (more - _mean_effect()))).sum() / weight.sum() - 1)
        for lost in losses
    ]
    views = {"identity": before, "noise-1": after}
    table = pl.concat(
        summarise(_measured(world.pairs, hits, "test"), _PARAMETERS).with_columns(view=pl.lit(view))
        for view, hits in views.items()
    )
    return _related(table), changes


def change(rng: Generator) -> Mapping[str, Outcome]:
    """What positions lose, 600 listed pairs, and all pairs of 4 categories."""
    found: dict[str, Outcome] = {}
    for name, pairs in (
        ("600 listed pairs of 210 images", _all_pairs(rng, [21] * 10, listed=60)),
        ("all pairs of 3 categories of 20 images", _all_pairs(rng, [20] * 3)),
    ):
        table, changes = _degraded(rng, (0.2, 0.7), pairs)
        rows = table.filter(pl.col("change").is_not_null()).iter_rows(named=True)
        for row, truth, lost in zip(rows, changes, ("20 %", "70 %"), strict=True):
            found[f"{name}, {lost}"] = Covered(truth, row["change_low"], row["change_high"])
    return found


def alike(rng: Generator) -> Mapping[str, Outcome]:
    """Whether a sentence says what loses most, or least, where that is not so.

    All of 11 positions lose the same; or of 5 two lose the same and most, where only "keeps least"
    is wrong.
    """
    pairs = _all_pairs(rng, [11] * 10, listed=30)
    table, _ = _degraded(rng, [0.4] * 11, pairs)
    two, _ = _degraded(rng, [0.2, 0.4, 0.4, 0.8, 0.8], pairs)
    return {
        "11 alike": Finding(_claims(table, r" (most|least|less) of ")),
        "2 of 5 lose most": Finding(_claims(two, " least of ")),
    }


CASES: Final[Mapping[str, Case]] = {
    "all pairs of 18 categories of 25 to 30 images": spair,
    "all pairs of 4 categories of 25 images": every,
    "600 pairs of 210 images of 10 kinds": listed,
    "30 pairs of 10 images": few,
    "12 variants that gain nothing in 3 layers": no_gain,
    "losses under a degradation": change,
    "no position loses most": alike,
}
