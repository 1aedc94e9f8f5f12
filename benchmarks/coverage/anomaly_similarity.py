"""Similarity of anomalous tokens over images, and claims where they have no direction in common."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.random import Generator
from reprscope.tasks.anomaly_similarity import _SCHEMA, PAIRS, Parameters, findings, summarise, sums

from benchmarks.coverage.outcome import Case, Covered, Finding, Outcome

_CHANNELS: Final = 24
_LAYERS: Final = tuple(f"up_blocks.{number}" for number in range(4))

Tokens = np.ndarray[Any, np.dtype[np.float64]]


def alike(rng: Generator) -> Mapping[str, Outcome]:
    """Of images with one to four such tokens, which have the image's own direction, too."""
    found: dict[str, Outcome] = {}
    for images in (12, 60, 150):
        anomalies = [_tokens(rng, int(rng.integers(1, 5)), shared=1.0) for _ in range(images)]
        table = summarise(_measured("mid_block", anomalies, _others(rng, images)), Parameters())
        row = table.filter(compared=PAIRS[0]).row(0, named=True)
        found[f"{images} images"] = Covered(_truth(), row["low"], row["high"])
    return found


def nothing(rng: Generator) -> Mapping[str, Outcome]:
    """Tokens like all others, in layers that see the same images."""
    found: dict[str, Outcome] = {}
    for images in (12, 60):
        parts = []
        for layer in _LAYERS:
            anomalies = [_tokens(rng, int(rng.integers(1, 5)), shared=0.3) for _ in range(images)]
            parts.append(_measured(layer, anomalies, _others(rng, images)))
        keys: dict[str, Any] = {"model": "m", "dataset": "d", "timestep": 50}
        table = summarise(pl.concat(parts), Parameters()).with_columns(
            pl.lit(value).alias(key) for key, value in keys.items()
        )
        said = findings(table).sentences[0]
        found[f"{images} images, {len(_LAYERS)} layers"] = Finding("in none of" not in said)
    return found


def _tokens(rng: Generator, number: int, *, shared: float) -> Tokens:
    """Unit vectors (number, channels) of one image."""
    common = np.full(_CHANNELS, shared)
    made = common + 0.5 * rng.normal(size=_CHANNELS) + rng.normal(size=(number, _CHANNELS))
    return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True))


def _others(rng: Generator, images: int) -> list[Tokens]:
    """All tokens of the images, which have a little in common."""
    return [_tokens(rng, 64, shared=0.3) for _ in range(images)]


@cache
def _truth() -> float:
    """Mean similarity of tokens of different images: that of their means, of very many images."""
    rng = np.random.default_rng(0)
    own = rng.normal(size=(400_000, _CHANNELS)) * np.sqrt(1.25) + 1.0
    mean = (own / np.linalg.norm(own, axis=1, keepdims=True)).mean(axis=0)
    return float(mean @ mean)


def _measured(position: str, anomalies: list[Tokens], others: list[Tokens]) -> pl.DataFrame:
    """What the task measures of such images."""
    parts = []
    for name, tokens in zip(PAIRS, (anomalies, anomalies, others), strict=True):
        similarity, count = sums([{0: one} for one in tokens])
        parts.append(
            pl.DataFrame(
                {
                    "image_id": [f"{number:03}" for number in range(len(tokens))],
                    "patches": [len(one) for one in anomalies],
                    "similarity": similarity,
                    "count": count,
                }
            ).with_columns(position=pl.lit(position), compared=pl.lit(name))
        )
    return pl.concat(parts).select(pl.col(name).cast(kind) for name, kind in _SCHEMA.items())


CASES: Final[Mapping[str, Case]] = {
    "similarity of anomalous tokens": alike,
    "anomalous tokens without a direction": nothing,
}
