"""Scores of a search in few images that have something to be found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import polars as pl
from numpy.random import Generator
from reprscope.tasks.prototype_search import _SCHEMA, Parameters, summarise

from benchmarks.coverage.outcome import Case, Covered, Outcome

_RECALL, _WRONG = 0.7, 0.2
"""Share of tokens that are found, and of those found wrongly for each that there is."""


def search(rng: Generator) -> Mapping[str, Outcome]:
    """Of images of which a quarter has up to six tokens to be found, easy or hard together."""
    found: dict[str, Outcome] = {}
    for images in (80, 400):
        rows: list[tuple[Any, ...]] = []
        for number in range(images):
            wanted = int(rng.integers(1, 7)) if rng.random() < 0.25 else 0
            ease = rng.beta(7, 3)
            hits = int(rng.binomial(wanted, ease))
            false = int(rng.binomial(wanted, _WRONG))
            rows.append(("mid_block", f"{number:03}", "test", 9, 0.8, hits, false, wanted - hits))
        frame = pl.DataFrame(rows, _SCHEMA, orient="row")
        table = summarise(frame, Parameters(thresholds=(0.8,)))
        truth = {
            "recall": _RECALL,
            "precision": _RECALL / (_RECALL + _WRONG),
            "F1": 2 * _RECALL / (1 + _RECALL + _WRONG),
        }
        for row in table.iter_rows(named=True):
            if row["low"] is None:
                # Too few images have something to be found, which happens: no interval is given.
                continue
            name = f"{images} images, {row['score']}"
            found[name] = Covered(truth[row["score"]], row["low"], row["high"])
    return found


CASES: Final[Mapping[str, Case]] = {"search by a prototype": search}
