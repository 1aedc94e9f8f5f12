"""Position probes, position bias, variance of place: intervals, and "position is encoded"."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

import numpy as np
import polars as pl
from numpy.random import Generator
from numpy.typing import NDArray
from reprscope.data.canonical import Annotations
from reprscope.representations.coordinates import Affine
from reprscope.representations.store import Representations
from reprscope.tasks import position_bias, position_probe, position_variance

from benchmarks.coverage.outcome import Case, Covered, Finding, Outcome

Floats = NDArray[np.float64]

GRID: Final = (4, 5)
CHANNELS: Final = 8
_POSITIONS: Final = ("mid_block", "up_blocks.0", "up_blocks.1")
_PROBE: Final = position_probe.Parameters(tokens_per_image=0, grids=(), examples=0)
_BIAS: Final = position_bias.Parameters(within=(0,))
_VARIANCE: Final = position_variance.Parameters(draws=1999)


_PARAMETERS: Final[Mapping[Any, Any]] = {
    position_probe: _PROBE,
    position_bias: _BIAS,
    position_variance: _VARIANCE,
}
_ENCODED: Final[Mapping[Any, tuple[str, ...]]] = {
    position_probe: ("position is encoded beyond",),
    position_bias: ("row in mid", "row in up", "column in mid", "column in up"),
}
"""What the sentences of a task say if place is known."""


def probe_accuracy(rng: Generator) -> Mapping[str, Outcome]:
    """Of probes that are right more often in easy images, and what that is above colours."""
    found: dict[str, Outcome] = {}
    tokens = 64
    for images in (20, 60):
        for accuracy, colours in ((0.15, 0.15), (0.6, 0.3), (0.95, 0.2)):
            ease = rng.beta(4, 4, size=images) - 0.5
            rows = []
            for features, mean in (("tokens", accuracy), ("colours", colours)):
                # Images differ by less where the share is near 0 or 1.
                share = mean + ease * min(mean, 1 - mean)
                right = rng.binomial(tokens, share)
                rows.append(_scores(features, right))
            fits = pl.DataFrame(
                [
                    {"position": "mid_block", "kind": "fit", "features": "tokens"}
                    | {"estimator": "classification", "axis": axis, "penalty": 0.1}
                    | {"iterations": 9, "train_accuracy": 1.0}
                    for axis in ("row", "column")
                ]
            )
            measured = pl.concat([*rows, fits], how="diagonal_relaxed")
            summary = position_probe.summarise(measured, _PROBE)
            row = summary.filter(coordinates="row").row(0, named=True)
            name = f"{images} test images, accuracy {accuracy}"
            found[name] = Covered(accuracy, row["low"], row["high"])
            found[f"{name} above colours"] = Covered(
                accuracy - colours, row["above_low"], row["above_high"]
            )
    return found


def _scores(features: str, right: NDArray[np.int64]) -> pl.DataFrame:
    """Measurements of one probe, of 64 tokens in each test image."""
    common: dict[str, Any] = {
        "position": "mid_block",
        "kind": "score",
        "split": "test",
        "image_id": [f"{number:04}" for number in range(len(right))],
        "features": features,
        "estimator": "classification",
        "height": 8,
        "width": 8,
        "grid": 0,
        "right_rows": right,
        "right_columns": right,
        "right_both": right,
        "row_error": 1.0,
        "column_error": 1.0,
        "both_error": 1.0,
    }
    return pl.DataFrame(common)


def variance_share(rng: Generator) -> Mapping[str, Outcome]:
    """Of tokens with effects of rows that some images have more than others, and smooth noise."""
    found: dict[str, Outcome] = {}
    for images in (20, 60):
        for size in (0.3, 1.0, 3.0):
            effect = size * np.linspace(-1, 1, GRID[0])[:, None, None]
            strength = rng.gamma(4, 1 / 4, size=(images, 1, 1, 1))
            tokens = strength * effect + _smooth(rng, images)
            # Strengths have mean 1 and variance 1/4; of the rest see _smooth.
            square = float((effect**2).mean())
            truth = square / (1.25 * square + _SMOOTH_VARIANCE)
            table = _variance(tokens, rng)
            row = table.filter(removed="nothing", axis="row").row(0, named=True)
            share = f"{images} images, share {truth:.2f}"
            found[share] = Covered(truth, row["low"], row["high"])
    return found


def without_position(rng: Generator) -> Mapping[str, Outcome]:
    """All three tasks on tokens that resemble their neighbours and know no place."""
    effects = tuple(f"{axis}s in {n} of" for axis in ("row", "column") for n in (1, 2, 3))

    def drawn(images: int) -> tuple[Floats, NDArray[np.int64]]:
        return _smooth(rng, images), rng.integers(256, size=(images, *GRID, 3))

    return _all_tasks(rng, {**_ENCODED, position_variance: effects}, drawn)


def only_colours(rng: Generator) -> Mapping[str, Outcome]:
    """Curved functions of colours, with sky above and ground below: place is known by them alone.

    That place explains some of their variance is true here.
    """

    def drawn(images: int) -> tuple[Floats, NDArray[np.int64]]:
        sky = np.linspace(210, 60, GRID[0])[:, None, None] * [0.8, 1.0, 1.1]
        light = rng.uniform(0.7, 1.1, size=(images, 1, 1, 1))
        picture = np.clip(light * sky + rng.normal(scale=25, size=(images, *GRID, 3)), 0, 255)
        colours = picture.astype(np.uint8)
        seen = (colours / 128.0 - 1) @ mixing + bias
        return np.tanh(seen) + 0.1 * rng.normal(size=seen.shape), colours.astype(np.int64)

    mixing, bias = rng.normal(size=(3, CHANNELS)), rng.normal(scale=0.5, size=CHANNELS)
    return _all_tasks(rng, _ENCODED, drawn)


_SMOOTH_VARIANCE: Final = 1.0 + 1.0 + 0.04


def _smooth(rng: Generator, images: int) -> Floats:
    """Tokens without an effect of place: of an image, of a quarter of it, and their own."""
    quarters = rng.normal(size=(images, 2, 2, CHANNELS))
    rows, columns = (np.arange(length) * 2 // length for length in GRID)
    own = 0.2 * rng.normal(size=(images, *GRID, CHANNELS))
    result: Floats = (
        rng.normal(size=(images, 1, 1, CHANNELS)) + quarters[:, rows][:, :, columns] + own
    )
    return result


def _all_tasks(
    rng: Generator,
    claims: Mapping[Any, tuple[str, ...]],
    draw: Callable[[int], tuple[Floats, NDArray[np.int64]]],
) -> Mapping[str, Outcome]:
    """Whether the sentences of each task say that place is known, of several layers alike."""
    images = 44
    names = [f"{number:04}" for number in range(images)]
    held: dict[str, Mapping[str, Floats]] = {}
    pictures = np.zeros((images, *GRID, 3), np.int64)
    for position in _POSITIONS:
        # Layers see the same pictures.
        state = rng.bit_generator.state
        tokens, pictures = draw(images)
        rng.bit_generator.state = state
        held[position] = dict(zip(names, tokens + 0.1 * rng.normal(size=tokens.shape), strict=True))
    splits = ["train"] * 16 + ["validation"] * 8 + ["test"] * 20
    features = cast("Representations", _Features(names, held))
    annotations = cast(
        "Annotations",
        _Images(
            pl.DataFrame({"image_id": names, "split": splits}),
            dict(zip(names, pictures.astype(np.uint8).repeat(2, 1).repeat(2, 2), strict=True)),
        ),
    )
    keys = {"task": "t", "dataset": "d", "model": "m", "timestep": 50}
    found: dict[str, Outcome] = {}
    for task, told in claims.items():
        measured = task.measure(features, annotations, _PARAMETERS[task])
        table = task.summarise(measured, _PARAMETERS[task]).select(
            *(pl.lit(value).alias(key) for key, value in keys.items()), pl.all()
        )
        said = " ".join(task.findings(table).sentences)
        found[task.__name__.rpartition(".")[2]] = Finding(any(one in said for one in told))
    return found


def _variance(tokens: Floats, rng: Generator) -> pl.DataFrame:
    """Summary of the variance of place of one position."""
    names = [f"{number:04}" for number in range(len(tokens))]
    pictures = rng.integers(256, size=(len(tokens), 8, 10, 3), dtype=np.uint8)
    features = _Features(names, {"mid_block": dict(zip(names, tokens, strict=True))})
    images = _Images(pl.DataFrame({"image_id": names}), dict(zip(names, pictures, strict=True)))
    parameters = position_variance.Parameters(draws=1)
    measured = position_variance.measure(
        cast("Representations", features), cast("Annotations", images), parameters
    )
    return position_variance.summarise(measured, parameters)


@dataclass(frozen=True)
class _Features:
    """Tokens in memory, by position and image."""

    image_ids: list[str]
    held: Mapping[str, Mapping[str, Floats]]
    viewed: Mapping[str, Any] = field(
        default_factory=lambda: {"view": {"fit": "keep"}, "resolution": 10, "multiple": 1}
    )

    @property
    def positions(self) -> list[str]:
        return list(self.held)

    def tokens(self, position: str, image_id: str) -> NDArray[np.float32]:
        return self.held[position][image_id].astype(np.float32)

    def grid(self, position: str, image_id: str) -> tuple[int, int]:
        height, width = self.held[position][image_id].shape[:2]
        return height, width

    def pixels(self, image_id: str) -> tuple[int, int]:
        return 2 * GRID[1], 2 * GRID[0]

    def transform(self, image_id: str) -> Affine:
        return Affine()


@dataclass(frozen=True)
class _Images:
    """Splits and pictures in memory."""

    table: pl.DataFrame
    pictures: Mapping[str, NDArray[np.uint8]]

    def images(self) -> pl.DataFrame:
        return self.table

    def image(self, image_id: str) -> NDArray[np.uint8]:
        return self.pictures[image_id]


CASES: Final[Mapping[str, Case]] = {
    "accuracy of position probes": probe_accuracy,
    "share of variance that rows explain": variance_share,
    "tokens that know no place": without_position,
    "tokens that see only colours": only_colours,
}
