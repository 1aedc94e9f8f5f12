"""What became of a job, beside its log: for its next try, and for the end of the run.

While a job runs, and after it failed, there is a file ``*.state`` beside its log; a job that ends
well removes it. So a file without a sentence is that of a job that was killed.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from reprscope.runtime import system_memory
from reprscope.runtime.files import write_text

MOST: Final = 8
"""Sentences that a run ends with at most."""


@dataclass(frozen=True, kw_only=True)
class State:
    """State of a job's try.

    Attributes
    ----------
    sentence : str
        What the user should read; empty while the job runs and after it was killed.
    mendable : bool
        Whether only the user can mend it: another try would end in the same way.
    halvings : int
        How often the batch was halved, since earlier tries were killed for lack of memory.
    host : str
    kills : int
        Processes that the host's kernel had killed for lack of memory when the try started.
    """

    sentence: str = ""
    mendable: bool = False
    halvings: int = 0
    host: str = ""
    kills: int = 0

    def batch(self, size: int) -> int:
        """Batch of this try.

        That of the study after any other end than one for lack of memory: batches of another size
        change the last digits of what is computed.
        """
        return max(size >> self.halvings, 1)


def path(log: str | Path) -> Path:
    """File with the state of the job that writes this log."""
    return Path(f"{log}.state")


def read(log: str | Path) -> State | None:
    """State that the last try left; None after a good end, or if it says nothing."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return State(**json.loads(path(log).read_text(encoding="utf-8")))
    return None


def write(log: str | Path, state: State) -> None:
    """Write a state; a disk that is full or read-only leaves none."""
    with contextlib.suppress(Exception):
        write_text(path(log), json.dumps(asdict(state)))


def begin(log: str | Path) -> State:
    """State of a new try, which follows from how the last one ended."""
    last, host, kills = read(log), socket.gethostname(), system_memory.kills()
    halvings = 0
    if last is not None:
        killed = not last.sentence and last.host == host and kills > last.kills
        halvings = last.halvings + killed
    state = State(halvings=halvings, host=host, kills=kills)
    write(log, state)
    return state


def forget(log: str | Path) -> None:
    """Remove the state after a good end."""
    with contextlib.suppress(OSError):
        path(log).unlink()


def retry_only_what_may_end_otherwise(scheduler: Any) -> None:
    """Let Snakemake's scheduler not repeat a job whose mistake only the user can mend.

    Snakemake repeats a job whatever it ended with, as often as its rule says.
    """
    handle = scheduler._handle_error

    def handled(job: Any, **options: Any) -> None:
        members = getattr(job, "jobs", [job])
        states = [read(log) for member in members for log in member.log]
        rules = {member.rule for member in members}
        kept = {rule: rule.restart_times for rule in rules}
        if any(state is not None and state.mendable for state in states):
            for rule in rules:
                rule.restart_times = 0
        try:
            handle(job, **options)
        finally:
            for rule, times in kept.items():
                rule.restart_times = times

    scheduler._handle_error = handled


def sentences(failed: Iterable[Any]) -> list[str]:
    """What a run that failed ends with: each sentence once, those for the user last.

    Parameters
    ----------
    failed : iterable of snakemake.jobs.Job
        Jobs that failed for good.
    """
    found = {
        said: mendable
        for job in failed
        for member in getattr(job, "jobs", [job])
        for said, mendable in _said(member)
    }
    ordered = sorted(found, key=lambda sentence: found[sentence])
    more = len(ordered) - MOST
    first = [f"{more} more jobs failed; their logs say why."] if more > 0 else []
    return [f"reprscope: {sentence}" for sentence in first + ordered[-MOST:]]


def unmade(failed: Iterable[Any], left: Iterable[Any]) -> dict[str, str]:
    """What a run that failed was to make and did not, and why.

    Parameters
    ----------
    failed : iterable of snakemake.jobs.Job
        Jobs that failed for good.
    left : iterable of snakemake.jobs.Job
        All jobs that were to run and did not end well.

    Returns
    -------
    dict of path to sentence
        Figures stand under their path without a suffix.
    """
    own = {
        output: said
        for job in failed
        for member in getattr(job, "jobs", [job])
        for said, _ in _said(member)
        for output in map(str, member.output)
    }
    found = {}
    for job in left:
        for output in map(str, job.output):
            reason = own.get(output, "What it is made from could not be made.")
            found[output] = reason
            if job.rule.name == "figure":
                found[output.rsplit(".", 1)[0]] = reason
    return found


def _said(job: Any) -> list[tuple[str, bool]]:
    """What a job that failed left to say, one entry for each of its logs, and if it is mendable."""
    found = []
    for log in job.log:
        state = read(log)
        if state is None:
            said = f"A job of rule {job.rule.name} did not start, or left no word; see {log}."
        else:
            said = state.sentence or (
                f"A job of rule {job.rule.name} was killed, perhaps for lack of memory or time: "
                f"run again, with more of it if {log} shows no other reason."
            )
        found.append((said, state is not None and state.mendable))
    return found
