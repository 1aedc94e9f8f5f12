"""What bfloat16 does to the results of every task, beside their own uncertainty.

``python -m benchmarks.precision`` runs ``precision.yaml`` in float32 and in bfloat16, on the same
latents and prompts, compares every number that has an interval, and writes ``docs/precision.md``.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from benchmarks import project

STUDY = Path(__file__).with_suffix(".yaml")
PAGE = project.ROOT / "docs" / "precision.md"
SMALL = 0.1
"""Largest effect that counts as none, in widths of an interval."""


def main() -> None:
    """Run both, or take tables that are there, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where to run; kept, and taken up again")
    parser.add_argument("--cores", type=int, default=2)
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    tables = {
        precision: run(folder, precision, arguments.cores) for precision in ("float32", "bfloat16")
    }
    PAGE.write_text(page(tables["float32"], tables["bfloat16"]), encoding="utf-8")


def run(folder: Path, precision: str, cores: int) -> dict[str, pl.DataFrame]:
    """Tables of the study by experiment, made in ``folder``."""
    text = STUDY.read_text(encoding="utf-8")
    names = [one["name"] for one in yaml.safe_load(text)["experiments"]]
    kept = folder / precision
    if not kept.exists():
        changed = text.replace("precision: float32", f"precision: {precision}")
        wanted = [f"results/tables/{name}.parquet" for name in names]
        project.run(folder / "project", changed, wanted, cores=cores)
        shutil.copytree(folder / "project" / "results" / "tables", kept)
    return {name: pl.read_parquet(kept / f"{name}.parquet") for name in names}


def intervals(table: pl.DataFrame) -> Iterator[tuple[str, str, str]]:
    """Names (value, low, high) of a table's intervals; the value of ``low`` is found by name."""
    for low in table.columns:
        if low == "low" or low.endswith("_low"):
            name = low.removesuffix("_low") if low != "low" else "value"
            yield name, low, f"{low.removesuffix('low')}high"


def effects(exact: pl.DataFrame, rounded: pl.DataFrame) -> pl.DataFrame:
    """Effect of rounding on every interval, in widths of the exact one's.

    Returns
    -------
    DataFrame
        ``name`` of the interval, ``row`` of the exact table, ``low`` and ``high`` of the exact
        interval, ``moved`` (by how much its middle moves), ``effect`` (``moved`` over its width).
    """
    keys = [name for name, kind in exact.schema.items() if kind == pl.String]
    keys += [name for name in ("timestep", "alpha", "threshold") if name in exact.columns]
    parts = []
    for name, low, high in intervals(exact):
        columns = [*keys, low, high]
        one, other = (
            table.select(columns)
            .with_columns(turn=pl.int_range(pl.len()).over(keys))
            .with_row_index("row")
            for table in (exact, rounded)
        )
        both = one.join(other, on=[*keys, "turn"], nulls_equal=True, suffix="_rounded")
        both = both.filter((pl.col(high) > pl.col(low)) & pl.col(f"{low}_rounded").is_finite())
        before = (pl.col(low) + pl.col(high)) / 2
        after = (pl.col(f"{low}_rounded") + pl.col(f"{high}_rounded")) / 2
        moved = both.select(
            "row",
            name=pl.lit(name),
            low=pl.col(low).cast(pl.Float64),
            high=pl.col(high).cast(pl.Float64),
            moved=(after - before).cast(pl.Float64),
        )
        parts.append(moved)
    found = pl.concat(parts)
    return found.with_columns(effect=pl.col("moved").abs() / (pl.col("high") - pl.col("low")))


def seeing(table: pl.DataFrame) -> pl.DataFrame:
    """Rows whose value depends on features: without baselines that see none."""
    return table.filter(pl.col("estimator") == "cosine") if "pck" in table.columns else table


def page(exact: Mapping[str, pl.DataFrame], rounded: Mapping[str, pl.DataFrame]) -> str:
    """Text of the page."""
    rows = []
    for name, table in exact.items():
        found = effects(*(seeing(one) for one in (table, rounded[name])))
        if found.is_empty():
            continue
        first = found.filter(pl.col("name") == found["name"][0])
        # The headline of a task: the highest of its first interval.
        top = first.row(int((first["low"] + first["high"]).arg_max() or 0), named=True)
        middle = (top["low"] + top["high"]) / 2
        values = found["effect"].to_numpy()
        headline = f"{middle:.4g} [{top['low']:.4g}, {top['high']:.4g}]"
        rows.append(
            f"| {name} | {headline} | {top['moved']:+.2g} | "
            f"{top['effect']:.3f} | {len(values):,} | {np.median(values):.3f} | "
            f"{np.quantile(values, 0.95):.3f} | {values.max():.3f} | "
            f"{np.mean(values >= SMALL):.1%} |"
        )
    return "\n".join([HEAD, *rows, "", END, ""])


HEAD = """# What precision does to results

bfloat16 has 8 bits of mantissa where float16 has 11 and float32 has 24. Features of nano-sd move by
up to 1e-2 (cosine distance, middle block) in bfloat16 and 1e-4 in float16. What that does to
results, on processors: the study `benchmarks/precision.yaml` in float32 and in bfloat16, on the
same latents, prompts and noise.

    python -m benchmarks.precision FOLDER

The effect is by how much the middle of a 95 % interval moves, over the width of that interval.
The headline is the highest value of a task's first interval. *95 %* is the percentile over all
intervals of a table, and *above 0.1* their share.

| task | headline, float32 | moves by | effect | intervals | median | 95 % | largest | above 0.1 |
|---|---|---|---|---|---|---|---|---|"""

END = """A precision may be the default where results move by less than a tenth of their interval.
In bfloat16 that holds for every headline, but not for every value: with `precision: auto`, CPUs
compute in float32, and `precision: bfloat16` is there for speed."""


if __name__ == "__main__":
    main()
