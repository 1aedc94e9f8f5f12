"""What a user gets wrong, and what a machine does: one sentence, and nothing lost."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

from support.project import SNAKEMAKE, environment

STAGES = {
    "fetch_dataset.py": "datasets",
    "encode_images.py": "latents",
    "extract.py": "representations",
    "evaluate.py": "measurements",
    "summarise.py": "tables",
    "figure.py": "figures",
    "report.py": "report",
}
RETRIED = ("encode_images.py", "extract.py", "evaluate.py")
"""Their rules have `retries`: after a kill the run goes on by itself."""

RUNS = (["fetch_dataset.py"], [*RETRIED, "summarise.py"], ["figure.py"], ["report.py"])
"""Scripts that are killed in each run, in this order; the last of each ends it."""


def files(project) -> dict[str, set[Path]]:
    """Paths of a study's results by stage."""
    results = project.folder / "results"
    return {
        stage: {p.relative_to(results) for p in (results / stage).rglob("*") if p.is_file()}
        for stage in STAGES.values()
    }


def kill(script: str, project, run: subprocess.Popen, seconds: int = 300) -> None:
    """Kill the processes of a script as soon as there is one, or as soon as it writes to a store.

    Stores of latents and representations grow for seconds; all other files are written at once.
    """
    folder = project.folder / "results" / STAGES[script]
    growing = script in ("encode_images.py", "extract.py")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = [
            pid for pid in descendants(run.pid) if any(a.endswith(f".{script}") for a in words(pid))
        ]
        if found and (not growing or any(folder.rglob(".*.part-*"))):
            for pid in found:
                os.kill(pid, signal.SIGKILL)
            return
        assert run.poll() is None, f"the run ended before {script} could be disturbed"
        time.sleep(0.02)
    raise AssertionError(f"{script} did not run")


def descendants(pid: int) -> list[int]:
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, path.read_text().split()):
                found += [child, *descendants(child)]
    return found


def words(pid: int) -> list[str]:
    """The command line of a Python process; of any other, none."""
    with contextlib.suppress(OSError):
        program, *arguments = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        return arguments if "python" in program else []
    return []


def test_a_kill_at_every_stage_leaves_no_half_file_and_ends_in_the_same_bytes(finished, fresh):
    """Also that two runs from nothing give the same bytes, of which one was not even quiet."""
    whole = files(finished)
    for scripts in RUNS:
        run = subprocess.Popen(
            [SNAKEMAKE, "--cores", "2"],
            cwd=fresh.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(),
        )
        for script in scripts:
            kill(script, fresh, run)
        assert run.wait() != 0
        left = files(fresh)
        for stage, paths in left.items():
            assert all(".part-" in path.name for path in paths - whole[stage])
        # No stage that goes on by itself has lost a file, and the one that was ended has.
        for script in set(RETRIED) & set(scripts):
            assert left[STAGES[script]] >= whole[STAGES[script]]
        assert not left[STAGES[scripts[-1]]] >= whole[STAGES[scripts[-1]]]
    fresh.run()
    assert files(fresh) == whole
    results = finished.folder / "results"
    for path in sorted(whole["tables"] | whole["figures"]):
        assert (fresh.folder / "results" / path).read_bytes() == (results / path).read_bytes(), path


def test_after_snakemake_was_killed_in_mid_extraction_unlocking_and_running_give_the_same_tables(
    finished, fresh
):
    run = subprocess.Popen(
        [SNAKEMAKE, "--cores", "2"],
        cwd=fresh.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )
    folder = fresh.folder / "results/representations"
    until = time.monotonic() + 900
    while not any(folder.rglob(".*.part-*")):
        assert run.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    run.kill()  # Its jobs live on for a while, and what they make has no record.
    run.wait()
    locked = fresh.snakemake("results/report/index.html")
    assert locked.returncode != 0
    assert "--unlock" in locked.stdout + locked.stderr
    unlocked = subprocess.run(
        [SNAKEMAKE, "--unlock"], cwd=fresh.folder, env=environment(), capture_output=True
    )
    assert unlocked.returncode == 0
    fresh.run()
    results = finished.folder / "results"
    for path in sorted(files(finished)["tables"]):
        assert (fresh.folder / "results" / path).read_bytes() == (results / path).read_bytes(), path
    assert fresh.planned() == {}


def test_a_dataset_that_was_written_by_another_program_is_made_again(project):
    """It does not say what it was made with, so that nothing is measured on its damaged picture."""
    import polars as pl

    path = project.folder / "results/datasets/creatures/images.parquet"
    frame = pl.read_parquet(path)
    data = frame["image"].to_list()
    data[3] = data[3][: len(data[3]) // 2]
    frame.with_columns(image=pl.Series(data, dtype=pl.Binary)).write_parquet(path)
    done = project.snakemake("results/tables/maps.parquet")
    assert done.returncode == 0, done.stderr
    assert pl.read_parquet(path).equals(frame)


def test_a_study_with_a_mistake_ends_before_any_job(project):
    project.edit("config.yaml", "timesteps: [50, 200]", "timesteps: [50, 2000]")
    done = project.snakemake()
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1] == (
        "The study is not usable. experiments.correspondence: timestep 2000 is outside 0 to 999, "
        "the timesteps of nano-sd."
    )


def test_a_study_that_is_not_yaml_ends_with_its_file_and_line(project):
    (project.folder / "config.yaml").write_text("title: x\nmodels: [\n  a: b\n")
    done = project.snakemake("--dry-run")
    assert done.returncode != 0
    last = done.stderr.splitlines()[-1]
    assert last.startswith("The study is not usable. config.yaml line 4, column 1 is not YAML: ")
    assert last.endswith(".")
