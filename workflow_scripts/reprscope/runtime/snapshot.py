"""Files of a model's folder, compared with what was fetched."""

from __future__ import annotations

from pathlib import Path

from reprscope.runtime import checksums
from reprscope.runtime.errors import UserError
from reprscope.runtime.files import sha256

SNAKEMAKE_S = ".snakemake_timestamp"
"""What Snakemake puts into a folder when the job that made it has ended."""

TEXT = tuple(f"{part}{n}" for part in ("text_encoder", "tokenizer") for n in ("", "_2", "_3"))
"""Folders of text encoders and their tokenizers."""


def verified(manifest: Path, *parts: str) -> Path:
    """Folder of a model whose files are those that were fetched.

    They are read for it whenever a job is about to load them, about a second for 1.4 GB of which
    the job then finds the bytes in memory: what has been verified once may have changed on the
    disk without a new time or size.

    Parameters
    ----------
    manifest : Path
        What :func:`reprscope.models.hub.fetch.write_manifest` wrote.
    *parts : str
        Folders in it that the job reads, such as ``unet``; with none, all.

    Raises
    ------
    UserError
        If a file is not there, is another one, or was added.
    """
    folder = manifest.parent / "snapshot"
    expected = checksums.read_json(manifest)["files"]
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    there -= {SNAKEMAKE_S}
    for name in sorted(expected.keys() | there):
        if parts and name.partition("/")[0] not in parts:
            continue
        path = folder / name
        if name not in there or sha256(path.resolve()) != expected.get(name):
            raise UserError(
                f"{path} is not what was fetched: delete the folder {manifest.parent} and run "
                "again, it is fetched anew."
            )
    return folder
