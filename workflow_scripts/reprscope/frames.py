"""Parquet files with the spec that they were made from."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from reprscope.files import atomic


def write_frame(frame: pl.DataFrame, path: Path, *, spec: str) -> None:
    """Write a frame atomically, with ``spec`` in the file's metadata."""
    with atomic(path) as part:
        frame.write_parquet(part, metadata={"spec": spec})
