"""Mean over images of the statistics of norm maps, which are skewed to the right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import polars as pl
from numpy.random import Generator
from reprscope.tasks.norms import _SCHEMA, STATISTICS, Parameters, summarise

from benchmarks.coverage.outcome import Case, Covered, Outcome

_SPREAD: Final = 0.4
"""Standard deviation of the logarithms: the largest norms are twice and half of the middle."""


def highest(rng: Generator) -> Mapping[str, Outcome]:
    """Highest norms of maps, lognormal over images."""
    found: dict[str, Outcome] = {}
    for images in (20, 120, 500):
        values = np.exp(_SPREAD * rng.normal(size=(images, len(STATISTICS))))
        frame = pl.DataFrame(
            {
                "image_id": np.repeat([f"{number:03}" for number in range(images)], 3),
                "statistic": list(STATISTICS) * images,
                "value": values.ravel(),
            }
        ).with_columns(
            pl.lit("mid_block").alias("position"),
            pl.lit("statistics").alias("kind"),
            *(
                pl.lit(None, dtype).alias(name)
                for name, dtype in _SCHEMA.items()
                if name not in ("image_id", "statistic", "value", "position", "kind")
            ),
        )
        table = summarise(
            frame.select(pl.col(name).cast(dtype) for name, dtype in _SCHEMA.items()), Parameters()
        )
        row = table.filter(statistic="highest").row(0, named=True)
        truth = float(np.exp(_SPREAD**2 / 2))
        found[f"{images} images"] = Covered(truth, row["low"], row["high"])
    return found


CASES: Final[Mapping[str, Case]] = {"highest norm of a map": highest}
