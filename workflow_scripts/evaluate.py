"""Run one task on one hook set of a model under one condition."""

import json
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from reprscope import tasks
from reprscope.base.parameters import build
from reprscope.data.canonical import Annotations
from reprscope.representations.store import Representations
from reprscope.runtime import checksums, fingerprints
from reprscope.runtime.frames import write_frame
from reprscope.runtime.job import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(
    representations: list[Path],
    companions: list[Path],
    offsets: list[Path],
    dataset: Path,
    out: Path,
    spec: str,
) -> None:
    """Write the task's measurements at every position of the hook set."""
    settings = json.loads(spec)
    fingerprints.check(settings["files"])
    task = tasks.load(settings["kind"])
    parameters = build(task.Parameters, settings["parameters"], entry=settings["kind"])
    files = iter(companions)
    measured = checksums.read_json(offsets[0])["offsets"] if offsets else None
    with ExitStack() as stack:
        source = stack.enter_context(Representations(representations, measured))
        further = {
            name: stack.enter_context(
                Representations(list(islice(files, entry["shards"])), measured)
            )
            for name, entry in settings["companions"].items()
        }
        keywords = settings["protocol"] | ({"companions": further} if further else {})
        if further and task.PROTOCOL:
            keywords["companion_protocols"] = {
                name: entry["protocol"] for name, entry in settings["companions"].items()
            }
        frame = task.measure(source, Annotations(dataset), parameters, **keywords)
    write_frame(frame, out, spec=spec)


if __name__ == "__main__":
    with job(
        snakemake.log[0], snakemake.threads, spec=snakemake.params.spec, files=snakemake.input
    ):
        main(
            representations=[Path(path) for path in snakemake.input.representations],
            companions=[Path(path) for path in snakemake.input.companions],
            offsets=[Path(path) for path in snakemake.input.offsets],
            dataset=Path(snakemake.input.images).parent,
            out=Path(snakemake.output[0]),
            spec=snakemake.params.spec,
        )
