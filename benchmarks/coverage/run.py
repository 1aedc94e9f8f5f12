"""Simulate, and write ``docs/statistics.md``'s table.

``python -m benchmarks.coverage`` takes some minutes on each core. ``--only`` repeats the cases of
some tasks and keeps the others.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import numpy as np
from reprscope.base.seeds import item_seed
from reprscope.runtime.files import write_text

import benchmarks.coverage as package
from benchmarks.coverage.outcome import Case, Outcome, Rate, rates

ROOT: Final = Path(__file__).parents[2]
RESULTS: Final = "benchmarks/coverage/results.json"
PAGE: Final = "docs/statistics.md"
_MARKS: Final = ("<!-- coverage -->\n", "<!-- end -->")


def available() -> tuple[str, ...]:
    """Names of the tasks that are simulated, sorted."""
    names = (module.name for module in pkgutil.iter_modules(package.__path__))
    return tuple(sorted(name for name in names if name not in ("__main__", "outcome", "run")))


def cases(task: str) -> Mapping[str, Case]:
    """Simulations of a task by what they simulate."""
    found: Mapping[str, Case] = importlib.import_module(f"{package.__name__}.{task}").CASES
    return found


def simulate(task: str, case: str, replicate: int) -> Outcome | Mapping[str, Outcome]:
    """One data set of a case: the same for each number, whatever runs beside it."""
    rng = np.random.default_rng(item_seed("coverage", task, case, str(replicate)))
    return cases(task)[case](rng)


def run(tasks: Sequence[str], replicates: int, *, processes: int = 1) -> list[Rate]:
    """Simulate all cases of some tasks.

    Parameters
    ----------
    tasks
        Some of :func:`available`.
    replicates
        Data sets of each case.
    processes
        How many run side by side.
    """
    found = []
    with get_context("spawn").Pool(processes) as pool:
        for task in tasks:
            for case in cases(task):
                one = partial(simulate, task, case)
                outcomes = (
                    pool.map(one, range(replicates), chunksize=8)
                    if processes > 1
                    else map(one, range(replicates))
                )
                found.extend(rates(task, case, outcomes))
    return found


def table(found: Sequence[Rate]) -> str:
    """The rates as a table in Markdown."""
    rows = [
        f"| {rate.task} | {rate.case} | {rate.kind} | {rate.value:.3f} ± {rate.error:.3f} "
        f"| {rate.replicates:,} |"
        for rate in found
    ]
    head = ["| task | simulated | what is counted | rate | data sets |", "|---|---|---|---:|---:|"]
    return "\n".join([*head, *rows])


def fill(text: str, found: Sequence[Rate]) -> str:
    """A page with the table between its marks."""
    start, end = text.index(_MARKS[0]) + len(_MARKS[0]), text.index(_MARKS[1])
    return f"{text[:start]}{table(found)}\n{text[end:]}"


def main() -> None:
    """Simulate and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    parser.add_argument("--only", nargs="*", choices=available(), default=list(available()))
    parser.add_argument("--replicates", type=int, default=1000, help="data sets of each case")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    path = ROOT / RESULTS
    kept = [Rate(**row) for row in json.loads(path.read_text())] if path.exists() else []
    kept = [rate for rate in kept if rate.task in set(available()) - set(arguments.only)]
    for task in arguments.only:  # each is kept as soon as it is there
        kept += run([task], arguments.replicates, processes=arguments.processes)
        kept.sort(key=lambda rate: rate.task)
        write_text(path, json.dumps([asdict(rate) for rate in kept], indent=1) + "\n")
        page = ROOT / PAGE
        write_text(page, fill(page.read_text(encoding="utf-8"), kept))
    print(table(kept))
