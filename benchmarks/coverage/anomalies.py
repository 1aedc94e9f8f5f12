"""Tokens that stand out: their share, their norm, agreement with labels, and claims from noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
import polars as pl
from numpy.random import Generator
from reprscope.data.canonical import Annotations
from reprscope.measures.anomalies import agreement, outcomes
from reprscope.representations.store import Representations
from reprscope.tasks.anomalies import _SCHEMA, CURVES, Parameters, findings, measure, summarise

from benchmarks.coverage.outcome import Case, Covered, Finding, Outcome

_POSITION: Final = "up_blocks.1.resnets.2"
_SIDE: Final = 16


def noise(rng: Generator) -> Mapping[str, Outcome]:
    """Smooth maps with noise: norms that differ by place, more in some images than in others."""
    found: dict[str, Outcome] = {}
    for name, threshold, tail in (
        ("threshold 6", 6.0, 0.0),
        ("threshold 2.5", 2.5, 0.0),
        ("threshold 3, heavy tails", 3.0, 3.0),
    ):
        maps = {}
        for number in range(40):
            field = _smooth(rng, 0.3)
            spread = rng.uniform(0.1, 0.5)
            drawn = (
                rng.standard_t(tail, (_SIDE, _SIDE)) if tail else rng.normal(size=(_SIDE, _SIDE))
            )
            # Student's t reaches where an exponential is no float32 any more.
            maps[f"{number:03}"] = np.exp(np.minimum(field + spread * drawn, 20))
        parameters = Parameters(threshold=threshold, thresholds=(), ratio=1.2)
        found[name] = Finding(_claims(maps, parameters))
    return found


def shares(rng: Generator) -> Mapping[str, Outcome]:
    """Planted tokens of six times the norm, of which some images have many."""
    found: dict[str, Outcome] = {}
    for images, share in ((60, 0.01), (150, 0.003)):
        maps = {}
        for number in range(images):
            norms = np.exp(_smooth(rng, 0.05) + 0.1 * rng.normal(size=(_SIDE, _SIDE)))
            # A quarter of the images has them all.
            rate = 4 * share * rng.gamma(2, 0.5) if rng.random() < 0.25 else 0.0
            norms[rng.random((_SIDE, _SIDE)) < rate] *= 6
            maps[f"{number:03}"] = norms
        parameters = Parameters(thresholds=())
        measured = measure(_features(maps), cast("Annotations", None), parameters)
        table = summarise(measured, parameters)
        row = table.filter(kind="share", score=CURVES[0], chosen=True).row(0, named=True)
        found[f"{images} images, share {share}"] = Covered(share, row["low"], row["high"])
    return found


def norms(rng: Generator) -> Mapping[str, Outcome]:
    """Mean norm of patches, of which the images with one have one to four of a like norm."""
    found: dict[str, Outcome] = {}
    for images in (12, 40, 150):
        rows: list[dict[str, Any]] = []
        for number in range(images):
            own = 0.8 * rng.normal()
            rows += [
                {
                    "image_id": f"{number:03}",
                    "group": "anomalies",
                    "relative_norm": 3.8 + own + 0.4 * rng.normal(),
                }
                for _ in range(rng.integers(1, 5))
            ]
            rows.append({"image_id": f"{number:03}", "threshold": 6.0, "above": 0, "below": 0})
        frame = pl.DataFrame(rows, schema={**_SCHEMA, "image_id": pl.String}).with_columns(
            position=pl.lit(_POSITION), detected=pl.lit(_POSITION), height=16, width=16
        )
        table = summarise(frame, Parameters(thresholds=()))
        row = table.filter(kind="norm", group="anomalies").row(0, named=True)
        found[f"{images} images"] = Covered(3.8, row["low"], row["high"])
    return found


def labels(rng: Generator) -> Mapping[str, Outcome]:
    """Agreement with labels that the rule finds in part, in images that differ."""
    found: dict[str, Outcome] = {}
    hit, wrong, share = 0.75, 0.004, 0.01
    for images in (60, 300):
        counts = []
        for _ in range(images):
            actual = rng.random((_SIDE, _SIDE)) < share * rng.gamma(1, 1)
            drawn = rng.random((_SIDE, _SIDE))
            counts.append(outcomes(drawn < np.where(actual, hit, wrong), actual))
        value = agreement(np.array(counts))
        told = share * hit + (1 - share) * wrong
        agree = share * hit + (1 - share) * (1 - wrong)
        chance = told * share + (1 - told) * (1 - share)
        truth = {
            "precision": share * hit / told,
            "recall": hit,
            "IoU": share * hit / (told + share * (1 - hit)),
            "kappa": (agree - chance) / (1 - chance),
        }
        for (score, one), low, high in zip(truth.items(), value.low, value.high, strict=True):
            found[f"{images} images, {score}"] = Covered(one, float(low), float(high))
    return found


def _smooth(rng: Generator, spread: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A field that varies slowly over the map, with this standard deviation at each place."""
    row, col = np.indices((_SIDE, _SIDE)) / _SIDE
    waves = [
        np.cos(2 * np.pi * (a * row + b * col) + rng.uniform(0, 2 * np.pi))
        for a, b in rng.uniform(-1, 1, (4, 2))
    ]
    return np.asarray(spread * np.sum(waves, axis=0) / np.sqrt(2))


def _claims(maps: Mapping[str, np.ndarray[Any, Any]], parameters: Parameters) -> bool:
    """Whether the report says that there is more than noise."""
    measured = measure(_features(maps), cast("Annotations", None), parameters)
    keys = {"model": "m", "dataset": "d", "timestep": 50}
    table = summarise(measured, parameters).with_columns(
        pl.lit(value).alias(key) for key, value in keys.items()
    )
    return any("more than noise" in sentence for sentence in findings(table).sentences)


@dataclass(frozen=True)
class _Features:
    """Maps of one position in memory, of tokens with one channel."""

    held: Mapping[str, np.ndarray[Any, Any]]
    origin: str = "simulated"

    @property
    def positions(self) -> list[str]:
        return [_POSITION]

    @property
    def image_ids(self) -> list[str]:
        return list(self.held)

    def tokens(self, position: str, image_id: str) -> np.ndarray[Any, Any]:
        return self.held[image_id][:, :, None]


def _features(maps: Mapping[str, np.ndarray[Any, Any]]) -> Representations:
    return cast("Representations", _Features(maps))


CASES: Final[Mapping[str, Case]] = {
    "anomalies in smooth maps with noise": noise,
    "share of tokens that stand out": shares,
    "norm of patches": norms,
    "agreement with labels": labels,
}
