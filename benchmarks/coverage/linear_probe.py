"""Accuracy, what it is over another model's, and "above chance" where labels mean nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
import polars as pl
from numpy.random import Generator
from reprscope.data.canonical import Annotations
from reprscope.representations.store import Representations
from reprscope.tasks._findings import best
from reprscope.tasks.linear_probe import Parameters, findings, measure, relate, summarise

from benchmarks.coverage.outcome import Case, Covered, Finding, Outcome

_POSITIONS: Final = ("conv_in", "mid_block", "up_blocks.1")
_ACCURACY: Final[Mapping[str, tuple[float, ...]]] = {
    "m": (0.3, 0.6, 0.95),
    "twin": (0.12, 0.25, 0.2),
}
"""True share of right images of each model at each position."""


def accuracy(rng: Generator) -> Mapping[str, Outcome]:
    """Of probes that are right more often on easy images, all on the same images."""
    found: dict[str, Outcome] = {}
    for images in (30, 360):
        table = _table(rng, "m", images)
        for row in table.filter(split="test").iter_rows(named=True):
            truth = _ACCURACY["m"][_POSITIONS.index(row["position"])]
            found[f"{images} images, accuracy {truth}"] = Covered(truth, row["low"], row["high"])
    return found


def over_another_model(rng: Generator) -> Mapping[str, Outcome]:
    """The difference to the best place of another model, which validation images choose."""
    found: dict[str, Outcome] = {}
    for images in (30, 360):
        state = rng.bit_generator.state
        tables = []
        for model in _ACCURACY:
            # Both models see the same images.
            rng.bit_generator.state = state
            tables.append(_table(rng, model, images))
        table = relate(pl.concat(tables), {"probe": Parameters(against="twin")})
        place = best(table.filter(model="twin"), "accuracy")["position"][0]
        for row in table.filter(split="test", model="m").iter_rows(named=True):
            own, other = (
                _ACCURACY[model][_POSITIONS.index(position)]
                for model, position in (("m", row["position"]), ("twin", place))
            )
            found[f"{images} images, accuracy {own}"] = Covered(
                own - other, row["over_low"], row["over_high"]
            )
    return found


def labels_mean_nothing(rng: Generator) -> Mapping[str, Outcome]:
    """Real probes of two models on ill-conditioned features and labels drawn by lot."""
    names = np.array(list("abcde"))
    found: dict[str, Outcome] = {}
    for name, shares in (
        ("5 even classes", (0.2, 0.2, 0.2, 0.2, 0.2)),
        ("one of 5 classes has 70 %", (0.7, 0.1, 0.1, 0.05, 0.05)),
    ):
        splits = np.repeat(["train", "validation", "test"], (80, 30, 60))
        images = pl.DataFrame(
            {
                "image_id": [f"{number:03}" for number in range(len(splits))],
                "split": splits,
                # All classes are there for training, as the task asks.
                "label": np.concatenate(
                    [np.repeat(names, 2), rng.choice(names, size=len(splits) - 10, p=shares)]
                ),
            }
        )
        parameters = Parameters(penalties=(1e-3, 1e-1, 10.0))
        tables = []
        for model in ("m", "twin"):
            features = _Features(
                images["image_id"].to_list(),
                {
                    position: rng.normal(size=(len(images), 12)) @ _mixing(rng)
                    for position in _POSITIONS
                },
            )
            measured = measure(
                cast("Representations", features), cast("Annotations", _Images(images)), parameters
            )
            tables.append(_keyed(summarise(measured, parameters), model))
        table = relate(pl.concat(tables), {"probe": parameters})
        said = findings(table).sentences
        found[name] = Finding(any(", above chance" in sentence for sentence in said))
    return found


@dataclass(frozen=True)
class _Features:
    """Spatial means in memory, (images, channels) at each position."""

    image_ids: list[str]
    held: Mapping[str, np.ndarray]

    @property
    def positions(self) -> list[str]:
        return list(self.held)

    def means(self, position: str) -> np.ndarray:
        return self.held[position]


@dataclass(frozen=True)
class _Images:
    """Labels in memory."""

    table: pl.DataFrame

    def images(self) -> pl.DataFrame:
        return self.table


def _mixing(rng: Generator) -> np.ndarray:
    """(12, 12), so that the channels have an effective rank of about 4."""
    return np.asarray(rng.normal(size=(12, 12)) * np.geomspace(1, 0.01, 12)[:, None])


def _table(rng: Generator, model: str, images: int) -> pl.DataFrame:
    """Summary of one model, of as many validation images as test images."""
    easy = rng.normal(size=2 * images)
    own = np.random.default_rng(rng.integers(1 << 62, size=2)[list(_ACCURACY).index(model)])
    frames = []
    for position, share in zip(_POSITIONS, _ACCURACY[model], strict=True):
        # Right where a sum of the image's ease and the probe's own luck is above a bound.
        luck = 0.6 * easy + 0.8 * own.normal(size=2 * images)
        right = luck < _quantile(share)
        frames.append(
            pl.DataFrame(
                {
                    "image_id": [f"{number:05}" for number in range(2 * images)],
                    "split": np.repeat(["validation", "test"], images),
                    "prediction": np.where(right, "a", "b"),
                }
            ).with_columns(
                position=pl.lit(position),
                label=pl.lit("a"),
                commonest=pl.lit("c"),
                classes=pl.lit(10),
                training_images=pl.lit(100),
                probe_seed=pl.lit(0),
                penalty=pl.lit(0.1),
                train_accuracy=pl.lit(1.0),
                iterations=pl.lit(10),
                converged=pl.lit(True),
            )
        )
    return _keyed(summarise(pl.concat(frames), Parameters()), model)


def _quantile(share: float) -> float:
    from scipy.stats import norm

    return float(norm.ppf(share))


def _keyed(table: pl.DataFrame, model: str) -> pl.DataFrame:
    """With what an experiment's table says of each measurement."""
    keys: dict[str, Any] = {"task": "probe", "dataset": "d", "model": model, "timestep": 50}
    return table.select(*(pl.lit(value).alias(key) for key, value in keys.items()), pl.all())


CASES: Final[Mapping[str, Case]] = {
    "accuracy": accuracy,
    "accuracy over another model's": over_another_model,
    "above chance, labels by lot": labels_mean_nothing,
}
