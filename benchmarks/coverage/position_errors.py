"""Errors by position: keypoints of images of which every two of a category make a pair.

An image stands somewhere and faces one of two ways; its keypoints follow. Matches are right more or
less often by keypoint, image and whether both images face alike; wrong ones are near misses, other
keypoints of the target or anything in the picture. Where position has an effect, some points are
matched with the source's own place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl
from reprscope.representations.coordinates import token_centre, token_index
from reprscope.tasks._nearness import Counts, Matches, Places, Subjects
from reprscope.tasks.position_errors import Parameters, findings, summarise

from benchmarks.coverage.outcome import Case, Covered, Finding, Outcome

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

SIDE: Final = 128.0
GRID: Final = 16
CATEGORIES: Final = 6
IMAGES: Final = 12
KEYPOINTS: Final = 6
LAYERS: Final = 11
DRAWS: Final = 100
"""Data sets whose mean is taken for the truth."""
PARAMETERS: Final = Parameters(bins=9, cells=4)


@dataclass(frozen=True, kw_only=True)
class World:
    """What matches depend on.

    Attributes
    ----------
    drawn
        Share of points that are matched with the source's own place.
    image
        Deviation of the images' effects on the log odds of a right match.
    facing
        Effect of facing alike on them.
    """

    drawn: float = 0.0
    image: float = 0.7
    facing: float = 0.0


def simulate(rng: np.random.Generator, world: World, *, layers: int = 1) -> pl.DataFrame:
    """Table of one study, of ``layers`` positions with the same images."""
    count = CATEGORIES * IMAGES
    category = np.repeat(np.arange(CATEGORIES), IMAGES)
    # Categories are fixed; what is drawn anew are their images.
    fixed = np.random.default_rng(0)
    layout = fixed.normal(0, 22, size=(CATEGORIES, KEYPOINTS, 2))
    ease = fixed.normal(0, 0.7, size=(CATEGORIES, KEYPOINTS))
    facing = rng.choice([-1.0, 1.0], size=count)
    middle = 64 + rng.normal(0, 12, size=(count, 1, 2))
    shape = layout[category] * np.stack([facing, np.ones(count)], axis=1)[:, None]
    xy = np.clip(middle + shape + rng.normal(0, 4, size=(count, KEYPOINTS, 2)), 0, SIDE - 1e-6)
    one, other = np.nonzero(category[:, None] == category)
    one, other = one[one != other], other[one != other]
    source, target = (np.repeat(image, KEYPOINTS) for image in (one, other))
    name = np.tile(np.arange(KEYPOINTS), len(one))
    start, truth = xy[source, name], xy[target, name]
    stratum = category[source] * KEYPOINTS + name
    places = Places.of(
        np.concatenate([stratum, stratum]),
        np.concatenate([source, target]),
        np.concatenate([start, truth]),
    )
    names = [f"{image:03d}" for image in range(count)]
    own = np.arange(count)
    subjects = Subjects(names, own, np.ones(count, dtype=np.int64), category)
    found = []
    for layer in range(layers):
        effect = rng.normal(0, world.image, size=(2, count))
        odds = effect[0, source] + effect[1, target] + ease[category[source], name]
        odds += world.facing * np.where(facing[source] == facing[target], 1, -1)
        right = rng.random(len(name)) < 1 / (1 + np.exp(-odds))
        kind = rng.integers(3, size=len(name))
        wrong = np.select(
            [kind[:, None] == 0, kind[:, None] == 1],
            [
                truth + rng.normal(0, 16, size=truth.shape),
                xy[target, rng.integers(KEYPOINTS, size=len(name))],
            ],
            rng.uniform(0, SIDE, size=truth.shape),
        )
        place = np.where(right[:, None], truth, wrong)
        place = np.where(rng.random(len(name))[:, None] < world.drawn, start, place)
        matches = _matches(place, (start, truth), (source, target), stratum)
        counts = Counts(subjects, SIDE, cells=PARAMETERS.cells, bins=PARAMETERS.bins)
        counts.add(matches, places)
        found.append(counts.table(f"up_blocks.{layer}"))
    return summarise(pl.concat(found), PARAMETERS)


def _matches(
    place: Floats, ends: tuple[Floats, Floats], images: tuple[Ints, Ints], stratum: Ints
) -> Matches:
    """Matches (n,) with the tokens that cover some places (n, 2)."""
    size = int(SIDE), int(SIDE)
    row, col = token_index(place, size, (GRID, GRID))
    centre = token_centre(row, col, size, (GRID, GRID))
    start, truth = ends
    token = np.full_like(centre, SIDE / GRID)
    off = (centre - truth) / token
    return Matches(
        source=images[0],
        target=images[1],
        start=start,
        found=centre,
        truth=truth,
        token=token,
        where=row * GRID + col,
        stratum=stratum,
        target_stratum=stratum,
        wrong=np.hypot(off[:, 0], off[:, 1]) >= 1,
        border=np.minimum(start, SIDE - start).min(axis=1) <= PARAMETERS.border,
    )


def covered(rng: np.random.Generator, world: World) -> Mapping[str, Outcome]:
    """Intervals of what position does."""
    row = _whole(rng, world)
    return {
        name: Covered(truth, row[f"{name}_low"], row[f"{name}_high"])
        for name, truth in _truth(world).items()
    }


def nothing(rng: np.random.Generator, world: World) -> Outcome:
    """Whether the sentence on all layers finds errors that position draws."""
    table = simulate(rng, world, layers=LAYERS).with_columns(
        model=pl.lit("model"), dataset=pl.lit("images"), timestep=pl.lit(50)
    )
    return Finding("no more often" not in findings(table).sentences[0])


def _whole(rng: np.random.Generator, world: World) -> dict[str, float]:
    return simulate(rng, world).filter(kind="whole").row(0, named=True)


@cache
def _truth(world: World) -> Mapping[str, float]:
    """Means over data sets of what the intervals should cover."""
    rows = [_whole(np.random.default_rng((1, number)), world) for number in range(DRAWS)]
    return {
        name: float(np.mean([row[name] for row in rows]))
        for name in ("drawn", "contrast", "border")
    }


CASES: Final[Mapping[str, Case]] = {
    "every tenth match is at the source's place": partial(covered, world=World(drawn=0.1)),
    "place has no effect": partial(covered, world=World()),
    "11 layers, place has no effect": partial(nothing, world=World()),
    "11 layers, errors depend on facing alike": partial(nothing, world=World(facing=0.8)),
}
