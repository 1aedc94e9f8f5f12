"""Parquet files with the spec that they were made from, and with their checksum."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from reprscope.runtime import checksums
from reprscope.runtime.files import atomic


def write_frame(
    frame: pl.DataFrame, path: Path, *, spec: str, more: Mapping[str, str] | None = None
) -> None:
    """Write a frame atomically, with ``spec`` and ``more`` in the file's metadata."""
    with atomic(path) as part:
        metadata = {"spec": spec, **(more or {}), "sha256": checksums.PLACE}
        frame.write_parquet(part, metadata=metadata)
        checksums.fill(part)


def read_frame(path: Path) -> pl.DataFrame:
    """Read what :func:`write_frame` wrote.

    Raises
    ------
    UserError
        If the file is damaged.
    """
    return pl.read_parquet(io.BytesIO(checksums.read(path)))
