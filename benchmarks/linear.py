"""Whether cost is linear: time per image and timestep does not depend on how many there are."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.peer import TIMESTEPS
from benchmarks.result import Ratio, Result, interleaved, median
from benchmarks.workshop import Workshop


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How much is measured: (images, timesteps, shards), the first is what others are held to."""

    runs: tuple[tuple[int, int, int], ...]
    batch: int
    rounds: int
    model: str = "nano-sd"


FULL = Settings(
    runs=((128, 1, 1), (512, 1, 1), (128, 3, 1), (128, 11, 1), (128, 1, 4), (128, 11, 4)),
    batch=32,
    rounds=2,
)
REDUCED = Settings(runs=((4, 1, 1), (4, 2, 1), (4, 1, 2)), batch=2, rounds=2)


def measure(settings: Settings, workshop: Workshop) -> Result:
    """Time the extraction of all blocks, from stored latents to complete files.

    The latents are random. After start-up: the denoiser is loaded and the prompt encoded, as at
    the point where a job begins with its first batch. Every timestep and shard has a file of its
    own.
    """
    denoiser = workshop.denoiser(settings.model)
    names = [f"image-{number}" for number in range(max(images for images, _, _ in settings.runs))]
    prompts = workshop.prompts(settings.model, names)
    positions = workshop.blocks(settings.model)

    def stores(images: int, shards: int) -> list[Path]:
        found = []
        for number in range(shards):
            start, stop = (images * n // shards for n in (number, number + 1))
            path = workshop.folder / f"linear-{images}-{number}of{shards}.h5"
            workshop.random_latents(settings.model, stop - start, path)
            found.append(path)
        return found

    def run(latents: list[Path], timesteps: int) -> None:
        for path in latents:
            for timestep in TIMESTEPS[:timesteps]:
                workshop.extract(
                    settings.model,
                    denoiser,
                    path,
                    prompts,
                    workshop.folder / "linear.h5",
                    positions=positions,
                    timestep=timestep,
                    batch=settings.batch,
                )

    runs = {
        one: partial(run, stores(one[0], one[2]), one[1]) for one in dict.fromkeys(settings.runs)
    }
    run(stores(settings.batch, 1), 1)
    taken = interleaved({str(one): call for one, call in runs.items()}, settings.rounds)
    records: list[dict[str, Any]] = []
    for one in runs:
        images, timesteps, shards = one
        values = taken[str(one)]
        records.append(
            {
                "model": settings.model,
                "images": images,
                "timesteps": timesteps,
                "shards": shards,
                "seconds": values,
                "milliseconds_per_image_and_timestep": 1000 * median(values) / images / timesteps,
            }
        )
    first = records[0]["milliseconds_per_image_and_timestep"]
    ratios = [
        Ratio(
            name=f"time per image and timestep, {_said(row)}",
            against=_said(records[0]),
            model=settings.model,
            value=row["milliseconds_per_image_and_timestep"] / first,
            least=0.9,
            most=1.1,
        )
        for row in records[1:]
    ]
    return Result(settings=asdict(settings), records=records, ratios=ratios)


def _said(row: dict[str, Any]) -> str:
    counts = {name: int(row[name]) for name in ("images", "timesteps", "shards")}
    return ", ".join(
        f"{count:,} {name if count > 1 else name[:-1]}" for name, count in counts.items()
    )
