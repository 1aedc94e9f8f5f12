"""Fetch or make a dataset and bring it to the canonical form."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from reprscope.base.parameters import build
from reprscope.data import sources
from reprscope.data.canonical import write_dataset
from reprscope.runtime import fingerprints
from reprscope.runtime.errors import UserError
from reprscope.runtime.job import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(folder: Path, spec: str, threads: int) -> None:
    """Write the dataset that ``spec`` describes to ``folder``."""
    settings = json.loads(spec)
    source = sources.load(settings["source"])
    parameters = build(source.Parameters, settings["parameters"], entry=settings["source"])
    if fingerprints.together(sources.files(source, parameters)) != settings["files"]:
        raise UserError(
            f"Files of {folder.name} have changed since this run was planned: run again."
        )
    write_dataset(source.build(parameters, threads), folder, spec=spec)


if __name__ == "__main__":
    with job(
        snakemake.log[0],
        snakemake.threads,
        spec=snakemake.params.spec,
        files=snakemake.input,
        online=True,
    ):
        main(
            folder=Path(snakemake.output.images).parent,
            spec=snakemake.params.spec,
            threads=snakemake.threads,
        )
