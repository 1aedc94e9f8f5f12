"""Accuracies and losses of dense correspondence: shares of an image's tokens, images independent.

How many of its tokens are found differs from image to image, as it does by far more than chance
among the tokens of one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl
from numpy.random import Generator
from reprscope.tasks._pictures import frame
from reprscope.tasks.dense_correspondence import _SCHEMA, Parameters, findings, relate, summarise

from benchmarks.coverage.outcome import Case, Covered, Finding, Outcome

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float64]

_TOKENS: Final = 64
_POSITIONS: Final = ["conv_in", *(f"down_blocks.{i}" for i in range(4)), "mid_block",
                     *(f"up_blocks.{i}" for i in range(4)), "conv_out"]  # fmt: skip


def _shares(rng: Generator, images: int, mean: float) -> Float:
    """(images,) expected shares; their variance is a tenth of the largest with that mean."""
    return rng.beta(9 * mean, 9 * (1 - mean), images)


def _measured(hits: Mapping[str, NDArray[np.int64]]) -> pl.DataFrame:
    """Measurements from the tokens (images,) that are found at each position."""
    parts = [
        {
            "image_id": [f"{number:04}" for number in range(len(correct))],
            "position": position,
            "kind": "score",
            "tokens": _TOKENS,
            "candidates": _TOKENS,
            "correct": correct,
            "within_one": correct,
            "error": 1.0,
        }
        for position, correct in hits.items()
    ]
    return pl.concat(frame(_SCHEMA, **part) for part in parts)


def _related(views: Mapping[str, Mapping[str, NDArray[np.int64]]]) -> pl.DataFrame:
    """An experiment's table."""
    keys = {"dataset": "d", "model": "m", "timestep": 50, "task": "t"}
    parts = [
        summarise(_measured(hits), Parameters()).with_columns(
            view=pl.lit(view), **{key: pl.lit(value) for key, value in keys.items()}
        )
        for view, hits in views.items()
    ]
    return relate(pl.concat(parts), {})


def accuracy(rng: Generator) -> Mapping[str, Outcome]:
    """Accuracies between chance and 1, of few and many images."""
    found: dict[str, Outcome] = {}
    for images in (20, 40, 200):
        for mean in (0.05, 0.5, 0.95):
            hits = rng.binomial(_TOKENS, _shares(rng, images, mean))
            row = summarise(_measured({"mid_block": hits}), Parameters()).row(0, named=True)
            found[f"{images} images, {mean:g}"] = Covered(mean, row["low"], row["high"])
    return found


def change(rng: Generator) -> Mapping[str, Outcome]:
    """What a degradation costs, in images that lose more the more of their tokens are found."""
    found: dict[str, Outcome] = {}
    for images in (12, 40, 200):
        for kept in (0.2, 0.8):
            share = _shares(rng, images, 0.6)
            before = rng.binomial(_TOKENS, share)
            after = rng.binomial(before, kept + 0.3 * (0.5 - share))
            table = _related({"identity": {"conv_in": before}, "noise-1": {"conv_in": after}})
            row = table.filter(view="noise-1").row(0, named=True)
            # Moments of Beta(5.4, 3.6): E[share^2] / E[share] = 6.4 / 10.
            truth = kept + 0.15 - 0.3 * 0.64 - 1
            low, high = row["change_low"], row["change_high"]
            found[f"{images} images, {kept:g} kept"] = Covered(truth, low, high)
    return found


def alike(rng: Generator) -> Mapping[str, Outcome]:
    """Whether a sentence says what finds or loses most, or least, where that is not so."""
    found: dict[str, Outcome] = {}
    for images in (12, 100):
        for name, means in (("11 alike", [0.6] * 11), ("2 of 5 find most", [0.3] * 3 + [0.8] * 2)):
            before = {
                position: rng.binomial(_TOKENS, _shares(rng, images, mean))
                for position, mean in zip(_POSITIONS, means, strict=False)
            }
            after = {position: rng.binomial(hits, 0.5) for position, hits in before.items()}
            table = _related({"identity": before, "noise-1": after})
            claims = any(
                re.search(" (most tokens|(most|least|less) of) ", text)
                for text in findings(table).sentences
            )
            found[f"{images} images, {name}"] = Finding(claims)
    return found


CASES: Final[Mapping[str, Case]] = {
    "accuracy": accuracy,
    "losses under a degradation": change,
    "no position is best": alike,
}
