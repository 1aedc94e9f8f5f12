"""Which timesteps are extracted together, by one job that loads the model once.

Snakemake runs a job for all of its outputs or for none. So what is there already and what is
missing never share a job: a new timestep does not touch the old ones.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reprscope.base import paths
from reprscope.plan.study import Study
from reprscope.runtime.files import write_text

PLAN = Path(".snakemake/reprscope/extractions.json")
"""Tells the processes that run single jobs, for instance on a cluster, what the first one saw."""

Wildcards = Mapping[str, Any]


def import_from(folder: Path) -> None:
    """Let the scripts of all jobs that this process starts import what is in a folder first.

    Snakemake puts a script's own folder behind what is installed: in a clone that shares its
    environment with another, jobs would run the other's library.
    """
    others = filter(None, [os.environ.get("PYTHONPATH")])
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *others])


def together(study: Study, exists: Callable[[str], bool]) -> list[list[dict[str, Any]]]:
    """Wildcards of the stores that are extracted together, for each job with more than one.

    Timesteps share a job if all else is equal, one experiment brings them in, and all are there or
    none is; at most ``jobs.timesteps_per_job``, in ascending order.

    Parameters
    ----------
    study : Study
    exists : callable
        Whether the file of a path is there.
    """
    most = study.jobs.timesteps_per_job
    seen: set[str] = set()
    groups: dict[tuple[object, ...], list[dict[str, Any]]] = {}
    for experiment in study.experiments.values() if most > 1 else ():
        for measurement in study.measurements(experiment):
            for keys in study.representations(measurement):
                path = paths.REPRESENTATIONS.format(**keys)
                if path not in seen:
                    seen.add(path)
                    without = paths.REPRESENTATIONS.format(**{**keys, "timestep": "*"})
                    group = (experiment.name, without, exists(path))
                    groups.setdefault(group, []).append(keys)
    return [
        chunk
        for group in groups.values()
        for chunk in _chunks(sorted(group, key=lambda keys: int(keys["timestep"])), most)
        if len(chunk) > 1
    ]


def _chunks(items: list[dict[str, Any]], size: int) -> list[list[dict[str, Any]]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def remember(plan: Sequence[Sequence[Wildcards]]) -> None:
    """Write what is extracted together, for the processes of single jobs."""
    write_text(PLAN, json.dumps(plan))


def remembered() -> list[list[dict[str, Any]]]:
    """Read what the process that planned all jobs has written."""
    if not PLAN.exists():
        return []
    found: list[list[dict[str, Any]]] = json.loads(PLAN.read_text(encoding="utf-8"))
    return found
