"""Correspondence against the straightforward loop over pairs."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from reprscope.data.canonical import Annotations, Dataset, write_dataset
from reprscope.data.sources import cutouts, menagerie
from reprscope.representations.coordinates import token_centre, token_index
from reprscope.representations.store import Representations
from reprscope.tasks import position_errors
from reprscope.tasks.correspondence import Parameters
from reprscope.tasks.correspondence import measure as correspond

from benchmarks.result import Ratio, Result, median
from benchmarks.workshop import Workshop

MODEL = "nano-sd"
TIE = 1e-6
"""Cosines closer than this are equal in float32, whatever the order of a sum."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A set of pairs.

    Attributes
    ----------
    name : str
    looped : int
        Pairs that the loop goes through, at every position; drawn at random.
    least : float or None
        What the project aims at: how many times as fast as the loop.
    """

    name: str
    positions: tuple[str, ...]
    looped: int
    rounds: int
    source: menagerie.Parameters | cutouts.Parameters
    least: float | None = None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How much is measured."""

    cases: tuple[Case, ...]
    timestep: int = 50
    batch: int = 32


BLOCKS = ("down_blocks.3", "mid_block", "up_blocks.0", "up_blocks.1", "up_blocks.2", "up_blocks.3")

# SPair-71k's 12,234 test pairs are all ordered pairs of some 27 images of each of 18 categories: 25
# an image. (The 53,340 and 5,384 others are those of some 55 and 18: 100 a category, as it has.)
FULL = Settings(
    cases=(
        Case(
            name="pairs as in SPair-71k",
            positions=BLOCKS,
            looped=1360,
            rounds=2,
            source=menagerie.Parameters(
                images=400, validation=0.0, test=1.0, pairs_validation=0, pairs_test=10_000
            ),
            least=20.0,
        ),
        Case(
            name="few pairs an image",
            positions=BLOCKS,
            looped=1360,
            rounds=2,
            source=menagerie.Parameters(
                images=400, validation=0.0, test=1.0, pairs_validation=0, pairs_test=2700
            ),
        ),
        Case(
            name="pairs of the synthetic set",
            positions=("up_blocks.1",),
            looped=2000,
            rounds=2,
            source=cutouts.Parameters(size=128, cutout=32, grid=16, kinds=4, pairs=10_000),
        ),
    )
)
REDUCED = Settings(
    cases=(
        Case(
            name="pairs as in SPair-71k",
            positions=("mid_block", "up_blocks.1"),
            looped=10,
            rounds=1,
            source=menagerie.Parameters(
                images=20, validation=0.0, test=1.0, pairs_validation=0, pairs_test=10
            ),
        ),
        Case(
            name="pairs of the synthetic set",
            positions=("up_blocks.1",),
            looped=50,
            rounds=1,
            source=cutouts.Parameters(size=128, cutout=32, grid=4, kinds=1, pairs=50),
        ),
    )
)


def measure(settings: Settings, workshop: Workshop) -> Result:
    """Time both on stored features of nano-sd, and compare every prediction that both make.

    The loop reads both maps of a pair, and for each of its keypoints takes the cosine of the
    source's token with every token of the target; the best one's centre is its prediction. It has
    a fixed cost per pair, so that a part of the pairs is enough. The task also scores the
    estimators that need no features, and returns a table.

    Raises
    ------
    RuntimeError
        If a prediction differs by more than a tie.
    """
    records: list[dict[str, Any]] = []
    ratios = []
    for case in settings.cases:
        dataset, features = _stored(case, settings, workshop)
        annotations = Annotations(dataset)
        pairs = annotations.pairs()
        chosen = pairs.sample(min(case.looped, len(pairs)), seed=0)
        ours: list[float] = []
        loop: list[float] = []
        with Representations([features]) as store:
            for _ in range(case.rounds):
                start = time.perf_counter()
                table = correspond(store, annotations, Parameters())
                between = time.perf_counter()
                looped = by_pair(store, chosen)
                ours.append(between - start)
                loop.append(time.perf_counter() - between)
        compared, ties = compare(table, looped)
        points = table.filter(pl.col("estimator") == "cosine").height
        row = {"pairs_of": case.name, "model": MODEL, "positions": list(case.positions)}
        records += [
            row | {"what": "reprscope", "pairs": len(pairs), "points": points, "seconds": ours},
            row
            | {
                "what": "loop",
                "pairs": len(chosen),
                "points": compared,
                "ties": ties,
                "seconds": loop,
            },
        ]
        loop_rate = compared / median(loop)
        ratios.append(_ratio(case.name, points / median(ours) / loop_rate, case.least))
        if isinstance(case.source, cutouts.Parameters):
            # A part of the pairs, as above, reads nearly every image for a pair or two; the task
            # that takes all of them, and counts, is what the set is for.
            every = row | _all_pairs(features, annotations)
            records.append(every)
            rate = every["points"] / every["seconds"][0]
            ratios.append(_ratio(f"all {case.name}, counted", rate / loop_rate, None))
    return Result(settings=asdict(settings), records=records, ratios=ratios)


def _ratio(name: str, value: float, least: float | None) -> Ratio:
    return Ratio(
        name=f"correspondence, {name}",
        against="the loop over pairs",
        model=MODEL,
        value=value,
        least=least,
    )


def _all_pairs(features: Path, annotations: Annotations) -> dict[str, Any]:
    """Time every pair of the synthetic set, which the task that counts errors makes itself."""
    start = time.perf_counter()
    with Representations([features]) as store:
        table = position_errors.measure(store, annotations, position_errors.Parameters(pairs="all"))
    seconds = time.perf_counter() - start
    points = table.filter(pl.col("of") == "prediction", pl.col("kind") == "distance")["points"]
    return {
        "what": "reprscope, all pairs",
        "pairs": None,
        "points": int(points.sum()),
        "seconds": [seconds],
    }


def _stored(case: Case, settings: Settings, workshop: Workshop) -> tuple[Path, Path]:
    """Folder of the dataset, and the store of its features."""
    folder = workshop.folder / case.name.replace(" ", "-")
    built: Dataset
    if isinstance(case.source, menagerie.Parameters):
        built = menagerie.build(case.source, threads=1)
    else:
        built = cutouts.build(case.source, threads=1)
    write_dataset(built, folder)
    out = folder / "features.h5"
    latents = folder / "latents.h5"
    workshop.encode(MODEL, workshop.vae(MODEL), built.images, latents, batch=settings.batch)
    workshop.extract(
        MODEL,
        workshop.denoiser(MODEL),
        latents,
        workshop.prompts(MODEL, built.images["image_id"].to_list()),
        out,
        positions=case.positions,
        timestep=settings.timestep,
        batch=settings.batch,
    )
    return folder, out


def by_pair(store: Representations, pairs: pl.DataFrame) -> pl.DataFrame:
    """The loop: position, pair and keypoint, predicted point in original pixels, cosine.

    ``second`` is the highest cosine of any other token.
    """
    rows = []
    for position in store.positions:
        for pair in pairs.iter_rows(named=True):
            source = store.tokens(position, pair["source_id"])
            target = store.tokens(position, pair["target_id"])
            lengths = np.sqrt((target**2).sum(axis=-1))
            encoded = store.transform(pair["source_id"]).forward(np.array(pair["source_xy"]))
            for keypoint, point in zip(pair["keypoints"], encoded, strict=True):
                place = token_index(point, store.pixels(pair["source_id"]), source.shape[:2])
                token = source[place]
                cosine = (target @ token) / (lengths * np.sqrt((token**2).sum()))
                best = int(cosine.argmax())
                row, column = np.divmod(best, target.shape[1])
                size = store.pixels(pair["target_id"])
                centre = np.array(token_centre(row, column, size, target.shape[:2]))
                x, y = store.transform(pair["target_id"]).back(centre)
                second = float(np.partition(cosine.ravel(), -2)[-2])
                rows.append(
                    (position, pair["pair_id"], keypoint, x, y, float(cosine.flat[best]), second)
                )
    columns = ["position", "pair_id", "keypoint", "x", "y", "cosine", "second"]
    return pl.DataFrame(rows, schema=columns, orient="row")


def compare(task: pl.DataFrame, loop: pl.DataFrame) -> tuple[int, int]:
    """Compare predictions of the same keypoints.

    Returns
    -------
    compared, ties : int
        Keypoints at a position, and those of them where the two chose different tokens that are
        equally similar in float32.

    Raises
    ------
    RuntimeError
        If any other prediction differs, or a keypoint is missing.
    """
    keys = ["position", "pair_id", "keypoint"]
    both = loop.join(task.filter(pl.col("estimator") == "cosine"), on=keys, how="inner")
    if len(both) != len(loop):
        raise RuntimeError(f"{len(loop) - len(both)} keypoints of the loop have no prediction.")
    differs = both.filter(
        ((pl.col("x") - pl.col("predicted_x")).abs() > 1e-6)
        | ((pl.col("y") - pl.col("predicted_y")).abs() > 1e-6)
    )
    wrong = both.filter((pl.col("cosine") - pl.col("similarity")).abs() > TIE)
    if wrong.is_empty():
        wrong = differs.filter(pl.col("cosine") - pl.col("second") > TIE)
    if len(wrong):
        raise RuntimeError(f"{len(wrong)} of {len(both)} predictions differ: {wrong.row(0)}.")
    return len(both), len(differs)
