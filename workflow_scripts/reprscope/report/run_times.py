"""Snakemake's benchmark files."""

from __future__ import annotations

from pathlib import Path

import polars as pl


def read(folder: Path) -> pl.DataFrame:
    """All benchmarks under a folder, as far as they are there.

    Parameters
    ----------
    folder : Path
        Holds one folder per rule, with a tab-separated file per job below it.

    Returns
    -------
    frame
        ``rule``, ``s`` (seconds), ``max_rss`` (MB; null where Snakemake could not measure).
    """
    rows = []
    for path in sorted(folder.rglob("*.tsv")):
        table = pl.read_csv(path, separator="\t", null_values=["NA", "-"])
        seconds, memory = float(table["s"][0]), table["max_rss"][0]
        rule = path.relative_to(folder).parts[0]
        rows.append((rule, seconds, None if memory is None else float(memory)))
    schema = {"rule": pl.String, "s": pl.Float64, "max_rss": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")
