"""Fetch a model's folder: only the files that are needed, with checksums."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from reprscope.models.hub.fetch import fetch, write_manifest
from reprscope.runtime import fingerprints
from reprscope.runtime.job import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(snapshot: Path, manifest: Path, spec: str) -> None:
    """Fill ``snapshot`` and write ``manifest``."""
    settings = json.loads(spec)
    fingerprints.check(settings["files"])
    fetched = fetch(settings, snapshot)
    write_manifest(snapshot, manifest, spec=spec, fetched=fetched)


if __name__ == "__main__":
    with job(
        snakemake.log[0],
        snakemake.threads,
        spec=snakemake.params.spec,
        files=snakemake.input,
        online=True,
    ):
        main(
            snapshot=Path(snakemake.output.snapshot),
            manifest=Path(snakemake.output.manifest),
            spec=snakemake.params.spec,
        )
