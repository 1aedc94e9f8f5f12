"""How a job that failed is told of: once, last, and tried again only if that may help."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from reprscope.runtime import failures, system_memory
from reprscope.runtime.failures import State
from reprscope.runtime.job import damage

LIBRARY = Path(__file__).parents[2] / "workflow_scripts"


def run(folder, body, *, files=()):
    """A job with this body in a process of its own; its state and log afterwards."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    code = (
        "import os, sys, errno, signal\n"
        "from reprscope.runtime.errors import UserError\n"
        "from reprscope.runtime.job import job\n"
        f"with job('log', 1, files={[str(file) for file in files]!r}) as state:\n{lines}"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(LIBRARY)},
        capture_output=True,
        text=True,
    )
    assert not done.stdout
    assert not done.stderr
    return done.returncode, failures.read(folder / "log"), (folder / "log").read_text()


def test_a_good_end_leaves_nothing_but_the_log(tmp_path):
    assert run(tmp_path, "print('done')") == (0, None, "done\n")
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_a_mistake_of_the_user_is_kept_as_one_that_only_the_user_can_mend(tmp_path):
    code, state, log = run(tmp_path, "raise UserError('Images are missing: add some.')")
    assert code == 1
    assert (state.sentence, state.mendable) == ("Images are missing: add some.", True)
    assert "Traceback" not in log
    assert log.endswith("Images are missing: add some.\n")


def test_an_unexpected_error_may_end_otherwise_when_tried_again(tmp_path):
    code, state, log = run(tmp_path, "raise ValueError('odd\\nthing')")
    assert code == 1
    assert not state.mendable
    assert state.sentence == "Unexpected ValueError (odd thing); the traceback is in log."
    assert "Traceback" in log


@pytest.mark.parametrize(
    ("raised", "sentence"),
    [
        (
            "OSError(errno.ENOSPC, 'No space left on device', 'a', None, 'b/c')",
            "The disk that should hold b/c is full: ",
        ),
        ("OSError(errno.EDQUOT, 'Disk quota exceeded', 'b/c')", "The disk that should hold b/c is"),
        ("RuntimeError('I/O error: (os error 28)')", "The disk that should hold the results is "),
        ("PermissionError(errno.EACCES, 'Permission denied', 'b/c')", "b/c cannot be used (Permis"),
        ("OSError(errno.EROFS, 'Read-only file system', 'b/c')", "b/c cannot be used (Read-only f"),
    ],
)
def test_what_the_machine_refuses_is_one_sentence(tmp_path, raised, sentence):
    _, state, _ = run(tmp_path, f"raise {raised}")
    assert state.sentence.startswith(sentence)
    assert state.mendable


@pytest.mark.parametrize(
    "raised",
    [
        "MemoryError()",
        "ImportError('libtorch_cpu.so: failed to map segment from shared object')",
        "RuntimeError('DefaultCPUAllocator: not enough memory')",
        "OSError(errno.ENOMEM, 'Cannot allocate memory')",
    ],
)
def test_a_lack_of_memory_is_one_sentence_and_tried_again(tmp_path, raised):
    _, state, log = run(tmp_path, f"raise {raised}")
    assert state.sentence.startswith("Memory ran out in this job: run again with more of it")
    assert not state.mendable
    assert "Traceback" in log


def test_only_an_end_for_lack_of_memory_halves_the_batch(tmp_path, monkeypatch):
    """A job that was killed is tried again with the same batch, for the same bytes."""
    log = tmp_path / "log"
    monkeypatch.setattr(system_memory, "kills", lambda: 3)
    code, state, _ = run(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    assert code == -signal.SIGKILL
    assert (state.sentence, state.batch(32)) == ("", 32)
    failures.write(log, State(host=state.host, kills=3))
    assert failures.begin(log).batch(32) == 32

    monkeypatch.setattr(system_memory, "kills", lambda: 4)
    assert failures.begin(log).batch(32) == 16
    # Killed again, but by somebody; then by the kernel.
    assert failures.begin(log).batch(32) == 16
    monkeypatch.setattr(system_memory, "kills", lambda: 5)
    assert failures.begin(log).batch(32) == 8
    # The kernel of another machine counts its own.
    failures.write(log, State(host="elsewhere", kills=0))
    assert failures.begin(log).batch(32) == 32
    assert State(halvings=9).batch(32) == 1


class Scheduler:
    """What Snakemake's scheduler does after an error, as far as it concerns retries."""

    def __init__(self):
        self.again = []

    def _handle_error(self, job, postprocess_job=True):
        if job.rule.restart_times > job.attempt - 1:
            self.again.append(job)


class Rule:
    def __init__(self, name):
        self.name = name
        self.restart_times = 1


def failed(log):
    return SimpleNamespace(rule=Rule("extract"), log=[str(log)], attempt=1)


def test_a_mistake_of_the_user_is_not_tried_again(tmp_path):
    from snakemake.scheduling.job_scheduler import JobScheduler

    assert callable(JobScheduler._handle_error)  # else nothing would be replaced
    users, others, killed = (failed(tmp_path / name) for name in ("a", "b", "c"))
    failures.write(users.log[0], State(sentence="Mend it.", mendable=True))
    failures.write(others.log[0], State(sentence="Unexpected."))
    failures.write(killed.log[0], State())
    scheduler = Scheduler()
    failures.retry_only_what_may_end_otherwise(scheduler)
    for job in (users, others, killed):
        scheduler._handle_error(job, postprocess_job=False)
    assert scheduler.again == [others, killed]
    assert users.rule.restart_times == 1


def test_a_run_ends_with_each_sentence_once_and_those_for_the_user_last(tmp_path):
    jobs = [failed(tmp_path / str(number)) for number in range(5)]
    for job, sentence, mendable in (
        (jobs[0], "Mend it.", True),
        (jobs[1], "Unexpected.", False),
        (jobs[2], "Mend it.", True),
    ):
        failures.write(job.log[0], State(sentence=sentence, mendable=mendable))
    failures.write(jobs[3].log[0], State())
    found = failures.sentences(jobs)
    assert len(found) == 4
    assert "reprscope: Unexpected." in found
    assert any("was killed" in line for line in found)
    assert any("did not start" in line for line in found)
    assert found[-1] == "reprscope: Mend it."
    for job in (many := [failed(tmp_path / f"many-{number}") for number in range(50)]):
        failures.write(job.log[0], State(sentence=f"{job.log}.", mendable=True))
    assert len(failures.sentences(many)) == failures.MOST + 1
    assert failures.sentences(many)[0] == "reprscope: 42 more jobs failed; their logs say why."


def truncated(path, content):
    path.write_bytes(content[: len(content) // 2])
    return path


def test_a_damaged_input_is_named(tmp_path):
    import numpy as np
    import polars as pl
    from reprscope.data.canonical import write_maps
    from reprscope.runtime.checksums import write_json
    from reprscope.runtime.files import sha256
    from reprscope.runtime.frames import write_frame

    write_frame(pl.DataFrame({"a": range(1000)}), tmp_path / "a.parquet", spec="{}")
    write_maps(tmp_path / "a.h5", {"a": np.ones((9, 9))})
    (tmp_path / "snapshot").mkdir()
    weights = tmp_path / "snapshot" / "weights.safetensors"
    weights.write_bytes(b"weights")
    write_json(tmp_path / "a.json", {"a": [1] * 50})
    for name in ("a.parquet", "a.h5", "a.json"):
        path = tmp_path / name
        assert damage(path) is None
        truncated(path, path.read_bytes())
        body = f"raise ValueError('cannot read')\n# {name}"
        _, state, _ = run(tmp_path, body, files=[tmp_path / "none.txt", path])
        assert state.sentence.startswith(f"{path} is damaged (")
        assert state.sentence.endswith("): delete it and run again, it is made anew.")
    manifest = tmp_path / "manifest.json"
    write_json(manifest, {"files": {"weights.safetensors": 64 * "0"}})
    assert f"{weights} is not what was fetched: delete the folder {tmp_path}" in damage(manifest)
    write_json(manifest, {"files": {"weights.safetensors": sha256(weights)}})
    assert damage(manifest) is None
    for name in ("a.parquet", "a.h5", "a.json", "manifest.json"):
        (tmp_path / name).write_bytes(b"")
        assert "is damaged (" in damage(tmp_path / name)
