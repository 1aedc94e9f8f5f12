"""Set every published number beside the study's own."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from reprscope import published
from reprscope.published.scorecard import scorecard
from reprscope.runtime.frames import read_frame, write_frame
from reprscope.runtime.job import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(tables: list[Path], out: Path, spec: str) -> None:
    """Write the scorecard."""
    compared = [
        (
            entry["name"],
            read_frame(path),
            [published.Match(**match) for match in entry["matches"]],
        )
        for path, entry in zip(tables, json.loads(spec)["experiments"], strict=True)
    ]
    write_frame(scorecard(compared), out, spec=spec)


if __name__ == "__main__":
    with job(
        snakemake.log[0], snakemake.threads, spec=snakemake.params.spec, files=snakemake.input
    ):
        main(
            tables=[Path(path) for path in snakemake.input.tables],
            out=Path(snakemake.output[0]),
            spec=snakemake.params.spec,
        )
