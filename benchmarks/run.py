"""Measure, and write the results, the tables of the docs and their figure.

``make bench``, with nothing else running, takes about a
quarter of an hour. A part is written as soon as it is measured; ``--only`` repeats parts and keeps
the others; without a name after it nothing is measured, and pages and figure are written anew.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprscope.figures.render import specification, svg
from reprscope.figures.theme import Theme
from reprscope.runtime.errors import UserError
from reprscope.runtime.files import write_text

from benchmarks import figure, tables
from benchmarks.machine import machine

if TYPE_CHECKING:
    from benchmarks.workshop import Workshop

ROOT = Path(__file__).parents[1]
MEASUREMENTS = ("engine", "peer", "early_exit", "linear", "memory", "storage", "matching")
RESULTS = "benchmarks/results.json"
FIGURE = "docs/speed.svg"

log = logging.getLogger("benchmarks")


def main(only: Sequence[str], folder: Path, *, reduced: bool) -> None:
    """Measure and write.

    Parameters
    ----------
    only : sequence of str
        Measurements to make; the others in ``results.json`` are kept.
    folder : Path
        Folder with ``README.md`` and ``docs``, as far as they are there; results go to
        ``benchmarks/results.json`` in it.
    reduced : bool
        Measure next to nothing, to see that all works: nano-sd alone, a few images.

    Raises
    ------
    UserError
        If results that are kept come from another machine or other versions.
    """
    from benchmarks.workshop import Workshop

    results = start(folder / RESULTS, only)
    with tempfile.TemporaryDirectory(prefix="reprscope-bench-") as temporary:
        workshop = Workshop(Path(temporary))
        for name in only:
            log.info("measuring %s", name)
            found = dict(
                results["measurements"], **{name: measure(name, workshop, reduced=reduced)}
            )
            results["measurements"] = {key: found[key] for key in MEASUREMENTS if key in found}
            write_text(folder / RESULTS, json.dumps(results, indent=1) + "\n")
    publish(folder, results)


def measure(name: str, workshop: Workshop, *, reduced: bool) -> dict[str, Any]:
    """Make one measurement; plain data."""
    module = importlib.import_module(f"benchmarks.{name}")
    return asdict(module.measure(module.REDUCED if reduced else module.FULL, workshop))


def start(path: Path, only: Sequence[str]) -> dict[str, Any]:
    """Results to go on with: those of ``path`` that are not measured again, or none yet."""
    kept: dict[str, Any] = {"measurements": {}}
    if path.exists() and set(only) != set(MEASUREMENTS):
        kept = json.loads(path.read_text(encoding="utf-8"))
    if not only:
        return kept
    here = machine()
    if kept["measurements"] and kept["machine"] != here:
        raise UserError(
            f"{path} was measured on another machine or with other versions: run all "
            "measurements, or name another folder with --output."
        )
    return {"machine": here, "measurements": kept["measurements"]}


def publish(folder: Path, results: Mapping[str, Any]) -> None:
    """Write the sections of README.md and docs, and the figure when all it shows is there."""
    for page in (folder / "README.md", *sorted((folder / "docs").glob("*.md"))):
        if page.exists():
            before = page.read_text(encoding="utf-8")
            after = tables.fill(before, results)
            if after != before:
                write_text(page, after)
    if drawable(results):
        write_text(folder / FIGURE, drawn(results))


def drawable(results: Mapping[str, Any]) -> bool:
    """Whether all that the figure shows has been measured."""
    return {*figure.RATIOS, "early_exit"} <= set(results["measurements"])


def drawn(results: Mapping[str, Any]) -> str:
    """SVG of the figure."""
    provenance = f"make bench; {RESULTS}"
    chart = figure.draw(results, Theme())
    return svg(specification(chart, caption=figure.caption(results), provenance=provenance))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument(
        "--only", nargs="*", choices=MEASUREMENTS, default=MEASUREMENTS, metavar="NAME"
    )
    parser.add_argument("--reduced", action="store_true", help="measure next to nothing")
    parser.add_argument("--output", type=Path, default=ROOT, metavar="FOLDER")
    return parser.parse_args()


if __name__ == "__main__":
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr
    )
    chosen = _arguments()
    try:
        if chosen.reduced and chosen.output.resolve() == ROOT:
            raise UserError("A reduced run is no result: name another folder with --output.")
        main(chosen.only, chosen.output, reduced=chosen.reduced)
    except UserError as error:
        sys.exit(f"benchmarks: {error}")
