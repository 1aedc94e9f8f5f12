"""Norms of tokens and of their best matches: images differ in how high their norms are.

Every token is matched with one of another image; some images are matched more often than others.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

import numpy as np
import polars as pl
from reprscope.tasks.match_norms import RANDOM, Parameters, findings, summarise

from benchmarks.coverage.outcome import Case, Covered, Finding

IMAGES: Final = 40
TOKENS: Final = 25
LAYERS: Final = 11
EFFECT: Final = 0.6
"""Deviation of the images' mean norms, on the scale of that of tokens."""


def simulate(rng: np.random.Generator, shared: float, *, layers: int = 1) -> pl.DataFrame:
    """Table of matches whose norms have a covariance of ``shared`` beside the images' effects."""
    image = np.repeat(np.arange(IMAGES), TOKENS)
    frames = []
    for layer in range(layers):
        effect = rng.normal(0, EFFECT, size=IMAGES)
        popular = rng.dirichlet(np.full(IMAGES, 2.0))
        match = rng.choice(IMAGES, size=len(image), p=popular)
        match = np.where(match == image, (image + 1) % IMAGES, match)
        common = rng.normal(0, np.sqrt(shared), size=len(image))
        own, other = rng.normal(0, np.sqrt(1 - shared), size=(2, len(image)))
        frames.append(
            pl.DataFrame(
                {
                    "position": f"up_blocks.{layer}",
                    "sample": RANDOM,
                    "image_id": [f"{one:02}" for one in image],
                    "match_image_id": [f"{one:02}" for one in match],
                    # Relative norms, in [0, 1].
                    "norm": np.clip(0.5 + 0.08 * (effect[image] + common + own), 0, 1),
                    "match_norm": np.clip(0.5 + 0.08 * (effect[match] + common + other), 0, 1),
                }
            )
        )
    return summarise(pl.concat(frames), Parameters())


def covered(rng: np.random.Generator, shared: float) -> Covered:
    """Interval of the correlation."""
    row = simulate(rng, shared).row(0, named=True)
    return Covered(shared / (1 + EFFECT**2), row["low"], row["high"])


def nothing(rng: np.random.Generator) -> Finding:
    """Whether the sentence on all layers finds that norms go together."""
    table = simulate(rng, 0.0, layers=LAYERS).with_columns(
        model=pl.lit("model"), dataset=pl.lit("images"), timestep=pl.lit(50)
    )
    return Finding("shown in none" not in findings(table).sentences[0])


CASES: Final[Mapping[str, Case]] = {
    "norms that go together": partial(covered, shared=0.5),
    "norms of images alone differ": partial(covered, shared=0.0),
    "11 layers, norms of images alone differ": nothing,
}
