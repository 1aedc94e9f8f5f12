"""Canonical JSON and its digest, and what a file of latents or representations was made with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from reprscope.runtime import checksums

LIBRARIES = ("diffusers", "h5py", "numpy", "polars", "torch", "transformers")


def canonical_json(value: object) -> str:
    """JSON that is equal for equal values: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def digest(value: object) -> str:
    """First 16 hex digits of the SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def origin(
    *, model: Path, device: str, precision: str | Mapping[str, str], **more: object
) -> dict[str, object]:
    """What a file of latents or representations was made with, beside its spec.

    Parameters
    ----------
    model : Path
        Manifest of the model.
    device : str
    precision : str or mapping of str
        Where and in which type the model ran, or each of its parts.
    **more
        What else a reader wants to know, such as ``machine`` (see
        :func:`reprscope.runtime.device.machine`).
    """
    manifest = checksums.read_json(model)
    return {
        "model": digest(manifest),
        "revision": manifest["revision"],
        "stored": manifest["stored"],
        "device": device,
        "precision": precision,
        "versions": versions(),
        **more,
    }


def versions() -> dict[str, str]:
    """Versions of the libraries that numbers may depend on, without importing them."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
