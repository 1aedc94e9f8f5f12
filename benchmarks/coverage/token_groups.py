"""Similarity of corners: the ratio, what the border adds, and claims where it adds nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import polars as pl
from numpy.random import Generator
from reprscope.tasks.token_groups import _SCHEMA, Parameters, findings, summarise

from benchmarks.coverage.outcome import Case, Covered, Finding, Outcome

_LAYERS: Final = tuple(f"up_blocks.{number}" for number in range(8))
_GROUPS: Final = ("corner", "border", "other")


def ratios(rng: Generator) -> Mapping[str, Outcome]:
    """Of images whose tokens are all more or less alike, with twice the similarity in corners."""
    found: dict[str, Outcome] = {}
    for images in (20, 50, 500):
        table = summarise(_images(rng, images, _LAYERS[:1], gain=0.3), Parameters())
        row = table.filter(groups="corner").row(0, named=True)
        # The cut raises all similarities by 0.05.
        found[f"{images} images, ratio"] = Covered(0.65 / 0.3, row["low"], row["high"])
        found[f"{images} images, gain"] = Covered(0.3, row["gain_low"], row["gain_high"])
    return found


def nothing(rng: Generator) -> Mapping[str, Outcome]:
    """The cut raises all similarities alike, in layers that see the same images."""
    found: dict[str, Outcome] = {}
    for images in (20, 120):
        frame = _images(rng, images, _LAYERS, gain=0.0)
        table = summarise(frame, Parameters()).with_columns(model=pl.lit("m"), timestep=pl.lit(50))
        said = findings(table).sentences[0]
        found[f"{images} images, {len(_LAYERS)} layers"] = Finding("in none of" not in said)
    return found


def _images(rng: Generator, images: int, layers: tuple[str, ...], *, gain: float) -> pl.DataFrame:
    """Measurements; an image's own level is common to its groups, its layers and both maps."""
    own = 0.1 * rng.standard_t(5, images)
    parts = []
    for layer in layers:
        level = own + 0.05 * rng.normal(size=images)
        for group in _GROUPS:
            inner = 0.3 + level + 0.08 * rng.standard_t(4, images)
            added = 0.05 + 0.06 * rng.standard_t(4, images) + (gain if group == "corner" else 0)
            parts.append(
                pl.DataFrame(
                    {
                        "image_id": [f"{number:03}" for number in range(images)],
                        "cropped_image": inner + added,
                        "cropped_representation": inner,
                    }
                ).with_columns(
                    position=pl.lit(layer),
                    groups=pl.lit(group),
                    token_size=pl.lit(8),
                    rows=pl.lit(14),
                    cols=pl.lit(14),
                )
            )
    return pl.concat(parts).select(pl.col(name).cast(kind) for name, kind in _SCHEMA.items())


CASES: Final[Mapping[str, Case]] = {
    "corners that resemble each other": ratios,
    "corners gain no more than other tokens": nothing,
}
