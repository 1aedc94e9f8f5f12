"""Fetch a model's folder: only the files that are needed, with checksums."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from reprscope.job import job
from reprscope.models.fetch import fetch_folder, make_untrained, write_manifest

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(snapshot: Path, manifest: Path, spec: str) -> None:
    """Fill ``snapshot`` and write ``manifest``."""
    settings = json.loads(spec)
    source = Path(settings["path"])
    if settings["untrained"] is None:
        fetch_folder(source, snapshot)
    else:
        make_untrained(source, snapshot, family=settings["family"], seed=settings["untrained"])
    write_manifest(snapshot, manifest, spec=spec)


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        main(
            snapshot=Path(snakemake.output.snapshot),
            manifest=Path(snakemake.output.manifest),
            spec=snakemake.params.spec,
        )
