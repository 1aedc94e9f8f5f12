"""Run one task on one hook set of a model under one condition."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from reprscope import tasks
from reprscope.data.canonical import Annotations
from reprscope.frames import write_frame
from reprscope.job import job
from reprscope.parameters import build
from reprscope.store import Representations

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(representations: list[Path], dataset: Path, out: Path, spec: str) -> None:
    """Write the task's measurements at every position of the hook set."""
    settings = json.loads(spec)
    task = tasks.load(settings["kind"])
    parameters = build(task.Parameters, settings["parameters"], entry=settings["kind"])
    with Representations(representations) as source:
        frame = task.measure(source, Annotations(dataset), parameters, **settings["protocol"])
    write_frame(frame, out, spec=spec)


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        main(
            representations=[Path(path) for path in snakemake.input.representations],
            dataset=Path(snakemake.input.images).parent,
            out=Path(snakemake.output[0]),
            spec=snakemake.params.spec,
        )
