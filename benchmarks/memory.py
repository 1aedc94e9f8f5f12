"""Peak memory of an extraction, by the number of images."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reprscope.representations.store import Representations

from benchmarks.result import Ratio, Result
from benchmarks.workshop import ROOT, Workshop

MODEL = "nano-sd"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How much is measured."""

    few: int
    many: int
    batch: int


FULL = Settings(few=200, many=2000, batch=32)
REDUCED = Settings(few=4, many=12, batch=2)


def measure(settings: Settings, workshop: Workshop) -> Result:
    """Extract all blocks of few and of many images, each in a process of its own.

    The latents are random numbers: memory depends on their shape alone.
    """
    records: list[dict[str, Any]] = []
    for images in (settings.few, settings.many):
        latents = workshop.folder / f"memory-{images}.h5"
        workshop.random_latents(MODEL, images, latents)
        command = [sys.executable, "-m", "benchmarks.memory", str(latents), str(settings.batch)]
        paths = [str(ROOT / "workflow_scripts"), str(ROOT)]
        done = subprocess.run(
            command,
            check=True,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )
        found = json.loads(done.stdout.splitlines()[-1])
        records.append({"model": MODEL, "images": images, **found})
    few, many = (row["peak_mb"] for row in records)
    ratio = Ratio(
        name=f"peak memory, {settings.many:,} images",
        against=f"{settings.few:,} images",
        model=MODEL,
        value=many / few,
        most=1.05,
    )
    return Result(settings=asdict(settings), records=records, ratios=[ratio])


def resident_mb(*, peak: bool) -> float:
    """Resident memory of this process in MB: now, or the most so far."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: on Linux its value starts at the peak of the process that started this.
        key = "VmHWM" if peak else "VmRSS"
        found = re.search(rf"^{key}:\s+(\d+) kB", status.read_text(), re.M)
        assert found
        return int(found[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _extract(latents: Path, batch: int) -> None:
    """Extract in this process and print the peak as JSON."""
    workshop = Workshop(latents.parent)
    denoiser = workshop.denoiser(MODEL)
    with Representations([latents]) as source:
        names = source.image_ids
    prompts = workshop.prompts(MODEL, names)
    started = resident_mb(peak=False)
    out = latents.with_name("memory.h5")
    workshop.extract(
        MODEL,
        denoiser,
        latents,
        prompts,
        out,
        positions=workshop.blocks(MODEL),
        timestep=50,
        batch=batch,
    )
    size = out.stat().st_size
    out.unlink()
    peak = resident_mb(peak=True)
    print(json.dumps({"started_mb": started, "peak_mb": peak, "stored_mb": size / 1e6}))


if __name__ == "__main__":
    _extract(Path(sys.argv[1]), int(sys.argv[2]))
