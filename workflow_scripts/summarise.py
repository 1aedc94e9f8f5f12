"""Summarise an experiment's measurements in one tidy table."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
from reprscope import tasks
from reprscope.base.parameters import build
from reprscope.runtime.frames import read_frame, write_frame
from reprscope.runtime.job import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(measurements: list[Path], out: Path, spec: str) -> None:
    """Write the summaries of all measurements, with what they were measured under as columns."""
    settings = json.loads(spec)
    task = tasks.load(settings["kind"])
    parameters = {
        name: build(task.Parameters, values, entry=name)
        for name, values in settings["tasks"].items()
    }
    parts = []
    missing: dict[tuple[str | int, ...], set[str]] = {}
    for path, keys in zip(measurements, settings["measurements"], strict=True):
        summary = task.summarise(read_frame(path), parameters[keys["task"]])
        positions = {*settings["positions"][keys["model"]], tasks.PICTURE}
        # Two hook sets may hold one position; it is taken from the first.
        wanted = missing.setdefault(tuple(keys.values()), positions)
        rows = summary.filter(pl.col("position").is_in(sorted(wanted)))
        wanted -= set(rows["position"])
        parts.append(rows.select(*(pl.lit(v).alias(k) for k, v in keys.items()), pl.all()))
    relate = getattr(task, "relate", lambda table, _: table)
    write_frame(relate(pl.concat(parts), parameters), out, spec=spec)


if __name__ == "__main__":
    with job(
        snakemake.log[0], snakemake.threads, spec=snakemake.params.spec, files=snakemake.input
    ):
        main(
            measurements=[Path(path) for path in snakemake.input],
            out=Path(snakemake.output[0]),
            spec=snakemake.params.spec,
        )
