"""Fetch or make a dataset and bring it to the canonical form."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from reprscope.data import sources
from reprscope.data.canonical import write_dataset
from reprscope.job import job
from reprscope.parameters import build

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(folder: Path, spec: str, threads: int) -> None:
    """Write the dataset that ``spec`` describes to ``folder``."""
    settings = json.loads(spec)
    source = sources.load(settings["source"])
    parameters = build(source.Parameters, settings["parameters"], entry=settings["source"])
    write_dataset(source.build(parameters, threads), folder)


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads, files=snakemake.input, online=True):
        main(
            folder=Path(snakemake.output.images).parent,
            spec=snakemake.params.spec,
            threads=snakemake.threads,
        )
