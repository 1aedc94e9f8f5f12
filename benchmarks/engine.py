"""Extraction with all blocks stored, against the bare denoiser in a loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from reprscope.representations.store import Representations

from benchmarks.result import Ratio, Result, interleaved, median
from benchmarks.workshop import Workshop, precisions, said


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model and how much of it to run."""

    model: str
    images: int
    batch: int
    rounds: int


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How much is measured."""

    cases: tuple[Case, ...]
    timestep: int = 50


FULL = Settings(
    cases=(
        Case(model="sd-1.5", images=8, batch=2, rounds=3),
        Case(model="nano-sd", images=256, batch=32, rounds=3),
    )
)
REDUCED = Settings(cases=(Case(model="nano-sd", images=4, batch=2, rounds=2),))


def measure(settings: Settings, workshop: Workshop) -> Result:
    """Time both on the same latents, in the same batches and precision, in turn.

    The bare loop holds its noised inputs in memory and throws its output away. Extraction reads
    latents from their store, adds noise, and writes every block's tokens; its time ends when the
    file is complete and flushed to disk. Loading the model is not timed.
    """
    records: list[dict[str, Any]] = []
    ratios = []
    for case in settings.cases:
        for dtype in precisions():
            runs = _runs(case, settings.timestep, dtype, workshop)
            for run in runs.values():  # the first pass sets up what later ones reuse
                run()
            taken = interleaved(runs, case.rounds)
            records += [
                {
                    "model": case.model,
                    "precision": said(dtype),
                    "what": what,
                    "images": case.images,
                    "seconds": values,
                }
                for what, values in taken.items()
            ]
            ratios.append(
                Ratio(
                    name=f"extraction, all blocks stored, {said(dtype)}",
                    against="the bare denoiser in a loop",
                    model=case.model,
                    value=median(taken["bare"]) / median(taken["extraction"]),
                    least=0.95,
                )
            )
    return Result(settings=asdict(settings), records=records, ratios=ratios)


def _runs(
    case: Case, timestep: int, dtype: torch.dtype, workshop: Workshop
) -> dict[str, Callable[[], object]]:
    from diffusers import UNet2DConditionModel

    pictures = workshop.pictures(case.model, case.images)
    latents = workshop.latents(case.model, pictures, batch=case.batch)
    prompts = workshop.prompts(case.model, pictures["image_id"].to_list())
    denoiser = workshop.denoiser(case.model, dtype)
    # Loaded by diffusers alone, so that nothing that reprscope does to a model is in it.
    module = UNet2DConditionModel.from_pretrained(
        workshop.model(case.model), subfolder="unet", torch_dtype=dtype
    )
    module = module.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    with Representations([latents]) as source:
        inputs = [
            (
                denoiser.add_noise(batch.latents, batch.noise, timestep)
                .to(dtype)
                .contiguous(memory_format=torch.channels_last),
                batch.prompt["embedding"].to(dtype),
            )
            for batch in workshop.batches(case.model, source, prompts, size=case.batch)
        ]

    @torch.inference_mode()
    def bare() -> None:
        for noised, embedding in inputs:
            time = torch.full((len(noised),), timestep)
            module(noised, time, encoder_hidden_states=embedding, return_dict=False)

    def extraction() -> None:
        workshop.extract(
            case.model,
            denoiser,
            latents,
            prompts,
            workshop.folder / "engine.h5",
            positions=workshop.blocks(case.model),
            timestep=timestep,
            batch=case.batch,
        )

    return {"bare": bare, "extraction": extraction}
