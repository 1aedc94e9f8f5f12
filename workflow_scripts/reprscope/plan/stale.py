"""What is stale although Snakemake has no record of it.

Snakemake knows what a result was made from by ``.snakemake``, which may be deleted, left behind
when results are copied, or that of another clone that writes to the same results; and it knows by
their times which inputs are others than before. But every result carries its spec. So while a run
is planned, specs are compared, and inputs that took another's place are compared with the checksum
that Snakemake has of them. What a file says is remembered as long as it is the same file (see
:mod:`reprscope.runtime.fingerprints`): a plan in which nothing changed asks for the state of each
file, and reads none.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from reprscope.base.provenance import canonical_json, digest
from reprscope.runtime import checksums, code_digests, fingerprints

_HEAD = re.compile(r'<meta name="spec" content="([0-9a-f]+)">')
_UNKNOWN = "-"
"""Of files that carry no spec of their own, such as a figure's PNG beside its JSON."""


@cache
def _specs() -> fingerprints.Known:
    return fingerprints.Known(fingerprints.FOLDER / "specs.json")


def spec_of(path: Path) -> str:
    """Digest of the spec that a result carries; of another length if it cannot be read."""
    try:
        match path.suffix:
            case ".parquet":
                import polars as pl

                return digest(pl.read_parquet_metadata(path).get("spec"))
            case ".h5":
                import h5py

                with h5py.File(path, "r") as file:
                    return digest(checksums.about(file, "spec"))
            case ".json":
                content = json.loads(path.read_text(encoding="utf-8"))
                if "usermeta" in content:
                    return digest(content["usermeta"]["provenance"])
                return digest(canonical_json(content["spec"]))
            case ".html" if path.name == "index.html":
                with path.open(encoding="utf-8") as page:
                    found = _HEAD.search(page.read(4096))
                return found[1] if found else "none"
    except Exception as error:  # as many kinds as there are libraries and ways to be damaged
        return f"damaged ({type(error).__name__})"
    return _UNKNOWN


def stale(jobs: Iterable[Any], persistence: Any) -> Iterator[str]:
    """Outputs that are to be made again, one for each job that has some.

    Parameters
    ----------
    jobs : iterable of snakemake.jobs.Job
    persistence
        Snakemake's records.
    """
    for job in jobs:
        states = {path: _state(path) for path in map(str, job.output)}
        there = [path for path, state in states.items() if state is not None]
        spec = job.params.get("spec") if there else None
        if spec is not None and (
            _differs(there, digest(spec))
            or (job.rule.name.startswith("fetch_") and _lost(states))
            or (len(there) == len(states) and _other_input(job, states, persistence))
        ):
            yield there[0]


def _differs(paths: Iterable[str], expected: str) -> bool:
    """Whether a result was made from another spec."""
    files = (path for path in paths if not Path(path).is_dir())
    return any(_specs().fact(path, spec_of) not in (_UNKNOWN, expected) for path in files)


def _lost(states: dict[str, os.stat_result | None]) -> bool:
    """Whether a file of a dataset or a model is gone, which nobody asks for until it is read."""
    if None in states.values():
        return True
    for path in states:
        if path.endswith("manifest.json"):
            files = json.loads(Path(path).read_text(encoding="utf-8"))["files"]
            return not all((Path(path).parent / "snapshot" / name).exists() for name in files)
    return False


def _other_input(job: Any, states: dict[str, os.stat_result | None], persistence: Any) -> bool:
    """Whether an older file took the place of an input: Snakemake looks at newer ones only."""
    made = [state for state in states.values() if state is not None]
    changed, modified = (min(getattr(s, f"st_{k}time_ns") for s in made) for k in "cm")
    for path in map(str, job.input):
        state = _state(path)
        if state is None or state.st_ctime_ns <= changed or state.st_mtime_ns > modified:
            continue
        known = [each for each in persistence.input_checksums(job, path) if each is not None]
        if known and known[0].removeprefix("sha256:")[:16] != fingerprints.content(path):
            return True
    return False


def _state(path: str) -> os.stat_result | None:
    try:
        return Path(path).stat()
    except OSError:
        return None


def unplanned(dag: Any) -> str | None:
    """Result that is read but that no job of the plan makes.

    Where a job cannot be built, Snakemake takes what an earlier run has left as it is, and says
    that there is nothing to be done.
    """
    for job in dag.jobs:
        made = {str(path) for files in dag.dependencies[job].values() for path in files}
        for path in map(str, job.input):
            if path.startswith("results/") and path not in made:
                return path
    return None


def watch() -> None:
    """Let Snakemake look for what is stale when it has built the graph of all jobs."""
    from snakemake.dag import DAG  # type: ignore[import-untyped]
    from snakemake.exceptions import WorkflowError  # type: ignore[import-untyped]

    plan = DAG.update_needrun

    async def update_needrun(self: Any, create_inventory: bool = False) -> None:
        if create_inventory and not self.workflow.dag_settings.allowed_rules:
            lost = unplanned(self)
            if lost is not None:
                raise WorkflowError(
                    f"Snakemake cannot plan how {lost} is made, and what is there may be of "
                    "another study: delete it and run again to see why."
                )
            self.forcefiles.update(stale(self.jobs, self.workflow.persistence))
            _specs().save()
            fingerprints.contents().save()
            code_digests.remember()
        await plan(self, create_inventory)

    DAG.update_needrun = update_needrun
