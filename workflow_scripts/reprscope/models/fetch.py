"""Bringing a model's folder into ``results/models``."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from reprscope.errors import UserError
from reprscope.files import write_text
from reprscope.models.denoiser import family as find_family
from reprscope.provenance import digest

SUFFIXES = (".json", ".model", ".safetensors", ".txt")


def fetch_folder(source: Path, snapshot: Path) -> None:
    """Copy what is needed of a local folder in diffusers' layout; never pickles.

    Raises
    ------
    UserError
        If the folder is missing or has no safetensors weights.
    """
    if not (source / "model_index.json").is_file():
        raise UserError(
            f"{source} is not a model folder (it has no model_index.json): set `path` to a folder "
            "in diffusers' layout."
        )
    chosen = [p for p in sorted(source.rglob("*")) if p.is_file() and p.suffix in SUFFIXES]
    if not any(path.suffix == ".safetensors" for path in chosen):
        raise UserError(f"{source} has no .safetensors weights: convert the model to safetensors.")
    for path in chosen:
        target = snapshot / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def make_untrained(source: Path, snapshot: Path, *, family: str, seed: int) -> None:
    """Make the untrained twin of a model: its denoiser anew, and its scheduler."""
    find_family(family).make_untrained(source, snapshot, seed=seed)
    shutil.copytree(source / "scheduler", snapshot / "scheduler", dirs_exist_ok=True)


def write_manifest(snapshot: Path, manifest: Path, *, spec: str) -> None:
    """Write what the folder holds: SHA-256 of every file, and one revision for all of it."""
    files = {
        str(path.relative_to(snapshot)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(snapshot.rglob("*"))
        if path.is_file()
    }
    content = {"spec": json.loads(spec), "revision": digest(files), "files": files}
    write_text(manifest, json.dumps(content, indent=1, sort_keys=True) + "\n")
