"""Errors of depth over scenes of several images, and claims where a map is no better than none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.random import Generator
from reprscope.tasks.depth_probe import _SCHEMA, Parameters, findings, summarise

from benchmarks.coverage.outcome import Case, Covered, Finding, Outcome

_LAYERS: Final = tuple(f"up_blocks.{number}" for number in range(6))
_SCENE, _IMAGE, _LAYER = 0.5, 0.3, 0.2
"""Standard deviations of the logarithm of a squared error over scenes, images and layers."""


def errors(rng: Generator) -> Mapping[str, Outcome]:
    """Of scenes with one to five images, whose errors are skewed and alike within a scene."""
    found: dict[str, Outcome] = {}
    for scenes in (20, 60, 200):
        frame = _scenes(rng, scenes, _LAYERS[:1], ratio=0.5)
        table = summarise(frame, Parameters()).filter(split="test")
        row = table.row(0, named=True)
        mean = float(np.exp((_SCENE**2 + _IMAGE**2) / 2))
        other = float(np.exp(_LAYER**2 / 2))
        found[f"{scenes} scenes, RMSE"] = Covered(
            np.sqrt(0.5 * mean * other), row["low"], row["high"]
        )
        found[f"{scenes} scenes, relative RMSE"] = Covered(
            np.sqrt(0.5 * other), row["relative_low"], row["relative_high"]
        )
    return found


def nothing(rng: Generator) -> Mapping[str, Outcome]:
    """Layers with the error of the mean depth on average, of which validation chooses one."""
    found: dict[str, Outcome] = {}
    for scenes in (20, 60):
        # On average over images, the layer's own part is 1.
        frame = _scenes(rng, scenes, _LAYERS, ratio=float(np.exp(-(_LAYER**2) / 2)))
        keys: dict[str, Any] = {"model": "m", "dataset": "d", "timestep": 50}
        table = summarise(frame, Parameters()).with_columns(
            pl.lit(value).alias(key) for key, value in keys.items()
        )
        said = findings(table).sentences[0]
        found[f"{scenes} scenes, {len(_LAYERS)} layers"] = Finding("tell more than" in said)
    return found


def _scenes(rng: Generator, scenes: int, layers: tuple[str, ...], *, ratio: float) -> pl.DataFrame:
    """Measurements of 40 validation scenes and some test scenes, with this ratio to the mean's."""
    parts = []
    for split, number in (("validation", 40), ("test", scenes)):
        scene = np.repeat(np.arange(number), rng.integers(1, 6, number))
        level = np.exp(
            (_SCENE * rng.normal(size=number))[scene] + _IMAGE * rng.normal(size=len(scene))
        )
        pixels = rng.integers(200_000, 300_000, len(scene))
        of_scene = rng.normal(size=(number, len(layers)))[scene]
        for place, layer in enumerate(layers):
            # How well a layer does is mostly alike in a scene.
            own = 0.8 * of_scene[:, place] + 0.6 * rng.normal(size=len(scene))
            error = ratio * level * np.exp(_LAYER * own)
            parts.append(
                pl.DataFrame(
                    {
                        "image_id": [f"{split}{at:04}" for at in range(len(scene))],
                        "scene": [f"{split}{at}" for at in scene],
                        "pixels": pixels,
                        "squared_error": error * pixels,
                        "mean_squared_error": level * pixels,
                    }
                ).with_columns(
                    pl.lit(layer).alias("position"),
                    pl.lit(split).alias("split"),
                    pl.lit("all").alias("region"),
                    *(
                        pl.lit(0.0).alias(name)
                        for name in (
                            "grid_squared_error",
                            "aligned_squared_error",
                            "relative_error",
                            "close",
                            "strength",
                        )
                    ),
                )
            )
    return pl.concat(parts).select(pl.col(name).cast(kind) for name, kind in _SCHEMA.items())


CASES: Final[Mapping[str, Case]] = {
    "errors of depth": errors,
    "a map no better than the mean depth": nothing,
}
