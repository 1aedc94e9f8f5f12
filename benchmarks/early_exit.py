"""How much of a pass is run for each block: it stops after the last one that is wanted."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from reprscope.representations.extraction import Capture
from reprscope.representations.store import Representations

from benchmarks.result import Ratio, Result, interleaved, median
from benchmarks.workshop import Workshop, said


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model and how much of it to run."""

    model: str
    batch: int
    rounds: int


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How much is measured."""

    cases: tuple[Case, ...]
    timestep: int = 50


FULL = Settings(
    cases=(
        Case(model="sd-1.5", batch=1, rounds=3),
        Case(model="nano-sd", batch=32, rounds=7),
    )
)
REDUCED = Settings(cases=(Case(model="nano-sd", batch=2, rounds=2),))


def measure(settings: Settings, workshop: Workshop) -> Result:
    """Time a pass that captures one block, for every block in turn, in float32.

    ``share`` is its time relative to a pass of the whole denoiser without any hook.
    """
    records: list[dict[str, Any]] = []
    ratios = []
    for case in settings.cases:
        taken = _times(case, settings.timestep, workshop)
        full = median(taken["whole"])
        records += [
            {
                "model": case.model,
                "precision": said(torch.float32),
                "position": name,
                "images": case.batch,
                "seconds": values,
                "share": median(values) / full,
            }
            for name, values in taken.items()
        ]
        ratios.append(
            Ratio(
                name="time of a pass up to mid_block",
                against="the whole pass",
                model=case.model,
                value=median(taken["mid_block"]) / full,
                most=1.0,
            )
        )
    return Result(settings=asdict(settings), records=records, ratios=ratios)


def _times(case: Case, timestep: int, workshop: Workshop) -> dict[str, list[float]]:
    denoiser = workshop.denoiser(case.model)
    pictures = workshop.pictures(case.model, case.batch)
    latents = workshop.latents(case.model, pictures, batch=case.batch)
    prompts = workshop.prompts(case.model, pictures["image_id"].to_list())
    with Representations([latents]) as source:
        batch = next(iter(workshop.batches(case.model, source, prompts, size=case.batch)))
    noised = denoiser.add_noise(batch.latents, batch.noise, timestep)
    noised = noised.contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def whole() -> None:
        denoiser(noised, timestep, batch.prompt)

    def until(position: str) -> None:
        with Capture(denoiser, [position]) as capture:
            capture(noised, timestep, batch.prompt)

    whole()
    runs = {name: partial(until, name) for name in workshop.blocks(case.model)}
    return interleaved({"whole": whole, **runs}, case.rounds)
