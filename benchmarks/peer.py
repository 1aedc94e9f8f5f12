"""From images to stored features, against the package sdhelper 1.0.0."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import PIL.Image
import polars as pl
import torch

from benchmarks.result import Ratio, Result, median, seconds
from benchmarks.workshop import Workshop, precisions, said

TIMESTEPS = (0, 10, 25, 50, 75, 100, 150, 200, 300, 500, 800)
"""Those of the thesis, figure 7."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model and how much of it to run.

    Attributes
    ----------
    images, batch : int
        Images of a round that reprscope extracts at all timesteps, and its batch.
    calls : int
        Calls of sdhelper in a round, each for one image and timestep.
    """

    model: str
    images: int
    batch: int
    calls: int
    rounds: int


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How much is measured."""

    cases: tuple[Case, ...]
    timesteps: tuple[int, ...] = TIMESTEPS


FULL = Settings(
    cases=(
        Case(model="sd-1.5", images=2, batch=2, calls=2, rounds=3),
        Case(model="nano-sd", images=64, batch=32, calls=44, rounds=2),
    )
)
REDUCED = Settings(
    cases=(Case(model="nano-sd", images=2, batch=2, calls=2, rounds=1),), timesteps=(0, 50, 800)
)

LEAST = {
    ("all blocks", "float32"): 2.0,
    ("all blocks", "default"): 3.3,
    ("mid_block", "default"): 6.0,
}


def measure(settings: Settings, workshop: Workshop) -> Result:
    """Time sdhelper and reprscope on the same images, in turn.

    sdhelper encodes image and prompt and runs the whole denoiser at every call, so that a call
    costs the same whatever it extracts: a few are timed and multiplied. Its features stay in
    memory. It computes in float32 on a processor. All of reprscope's work is timed: decoding and
    encoding the images once, the prompt (with the loading of the text encoder), the extraction of
    all timesteps, and storing. Loading VAE and denoiser is not timed, nor sdhelper's pipeline.
    """
    records: list[dict[str, Any]] = []
    ratios = []
    for case in settings.cases:
        rows = list(_records(case, settings.timesteps, workshop))
        records += rows
        ratios += _ratios(case.model, rows)
    return Result(settings=asdict(settings), records=records, ratios=ratios)


def _records(case: Case, timesteps: Sequence[int], workshop: Workshop) -> Iterator[dict[str, Any]]:
    """Yield one row for each measured time."""
    peer = _Peer(case, timesteps, workshop)
    ours = [_Ours(case, timesteps, dtype, workshop) for dtype in precisions()]
    sets = {"all blocks": workshop.blocks(case.model), "mid_block": ["mid_block"]}
    peer.run(["mid_block"], 1)  # the first call sets up what later ones reuse
    for one in ours:
        one.warm()
    for number, (what, positions) in itertools.product(range(case.rounds), sets.items()):
        row = {"model": case.model, "round": number, "positions": what}
        taken = seconds(partial(peer.run, positions, case.calls))
        yield row | {
            "who": "sdhelper",
            "precision": "float32",
            "calls": case.calls,
            "seconds": taken,
            "seconds_per_image_and_timestep": taken / case.calls,
        }
        for one in ours:
            taken = seconds(partial(one.run, positions, number))
            yield row | {
                "who": "reprscope",
                "precision": said(one.dtype),
                "images": case.images,
                "timesteps": len(timesteps),
                "seconds": taken,
                "seconds_per_image_and_timestep": taken / (case.images * len(timesteps)),
            }


def _ratios(model: str, records: Sequence[dict[str, Any]]) -> list[Ratio]:
    groups: dict[tuple[str, str, str], list[float]] = {}
    for row in records:
        key = (row["who"], row["positions"], row["precision"])
        groups.setdefault(key, []).append(row["seconds_per_image_and_timestep"])
    found = []
    for (who, positions, precision), values in groups.items():
        if who != "reprscope":
            continue
        theirs = groups["sdhelper", positions, "float32"]
        # Where the default is float32, the aims of a lower precision do not apply.
        kind = "float32" if precision == "float32" else "default"
        found.append(
            Ratio(
                name=f"images to stored features, {positions}, {precision}",
                against="sdhelper",
                model=model,
                value=median(theirs) / median(values),
                least=LEAST.get((positions, kind)) if model == "sd-1.5" else None,
            )
        )
    return found


class _Peer:
    """sdhelper, called for one image and timestep at a time as its docs say."""

    def __init__(self, case: Case, timesteps: Sequence[int], workshop: Workshop) -> None:
        from sdhelper import SD

        folder = str(workshop.model(case.model))
        self._sd = SD(
            "benchmark",
            device="cpu",
            config={"name": folder},
            disable_progress_bar=True,
            local_files_only=True,
        )
        pictures = workshop.pictures(case.model, case.images)["image"]
        images = [PIL.Image.open(io.BytesIO(data)).convert("RGB") for data in pictures]
        self._inputs = itertools.cycle(itertools.product(images, timesteps))

    def run(self, positions: Sequence[str], calls: int) -> None:
        names = [_bracketed(position) for position in positions]
        for image, timestep in itertools.islice(self._inputs, calls):
            self._sd.img2repr(image, names, timestep, seed=0)


def _bracketed(position: str) -> str:
    """Spelling of sdhelper: ``up_blocks[1]``."""
    first, _, number = position.partition(".")
    return f"{first}[{number}]" if number else first


class _Ours:
    """All stages of reprscope, with the models loaded."""

    def __init__(
        self, case: Case, timesteps: Sequence[int], dtype: torch.dtype, workshop: Workshop
    ) -> None:
        self.dtype = dtype
        self._case, self._timesteps, self._workshop = case, timesteps, workshop
        self._vae = workshop.vae(case.model)
        self._denoiser = workshop.denoiser(case.model, dtype)
        self._pictures: pl.DataFrame = workshop.pictures(case.model, case.images * case.rounds)

    def warm(self) -> None:
        """Pass once through the models."""
        pictures = self._pictures.head(1)
        latents = self._workshop.folder / "peer-warm.h5"
        self._workshop.encode(self._case.model, self._vae, pictures, latents, batch=1)
        self._extract(["mid_block"], pictures, latents, self._timesteps[:1], batch=1)

    def run(self, positions: Sequence[str], number: int) -> None:
        """Extract the images of one round at all timesteps."""
        case, workshop = self._case, self._workshop
        pictures = self._pictures.slice(number * case.images, case.images)
        latents = workshop.folder / "peer-latents.h5"
        workshop.encode(case.model, self._vae, pictures, latents, batch=case.batch)
        self._extract(positions, pictures, latents, self._timesteps, batch=case.batch)

    def _extract(
        self,
        positions: Sequence[str],
        pictures: pl.DataFrame,
        latents: Path,
        timesteps: Sequence[int],
        *,
        batch: int,
    ) -> None:
        workshop = self._workshop
        prompts = workshop.prompts(self._case.model, pictures["image_id"].to_list())
        for timestep in timesteps:
            workshop.extract(
                self._case.model,
                self._denoiser,
                latents,
                prompts,
                workshop.folder / f"peer-{timestep}.h5",
                positions=positions,
                timestep=timestep,
                batch=batch,
            )
