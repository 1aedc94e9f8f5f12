"""Tabulate the sizes of all positions of a study's models."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
from reprscope.representations.shapes import shapes
from reprscope.runtime.frames import write_frame
from reprscope.runtime.job import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(out: Path, spec: str) -> None:
    """Write one row per model and position, at the native size of each model's images."""
    parts = []
    for entry in json.loads(spec)["models"]:
        keys = [pl.lit(entry[key]).alias(key) for key in ("model", "resolution")]
        table = shapes(entry["family"], entry["denoiser"], tuple(entry["grid"]))
        parts.append(table.select(*keys, pl.all()))
    write_frame(pl.concat(parts), out, spec=spec)


if __name__ == "__main__":
    with job(
        snakemake.log[0], snakemake.threads, spec=snakemake.params.spec, files=snakemake.input
    ):
        main(out=Path(snakemake.output[0]), spec=snakemake.params.spec)
