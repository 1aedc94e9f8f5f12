"""What a user gets wrong, and what a machine does: one sentence, and nothing lost."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support.project import SNAKEMAKE

TABLES = ("classification", "correspondence", "similarity", "maps")


def tables(project) -> dict[str, bytes]:
    folder = project.folder / "results" / "tables"
    return {name: (folder / f"{name}.parquet").read_bytes() for name in TABLES}


def wait_for(condition, process, seconds=300):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := condition():
            return found
        assert process.poll() is None, "the run ended before it could be disturbed"
        time.sleep(0.02)
    raise AssertionError("nothing to disturb appeared")


def scripts(name: str, folder: Path) -> list[int]:
    """Process ids of a workflow script that runs in a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            program, *arguments = (path / "cmdline").read_text().split("\0")
            here = (path / "cwd").readlink() == folder
        except OSError:
            continue
        if here and "python" in program and any(a.endswith(f".{name}") for a in arguments):
            found.append(int(path.name))
    return found


STAGES = {
    "fetch_dataset.py": "datasets",
    "encode_images.py": "latents",
    "extract.py": "representations",
    "evaluate.py": "measurements",
    "summarise.py": "tables",
    "figure.py": "figures",
    "report.py": "report",
}


@pytest.mark.parametrize("script", STAGES)
def test_a_killed_job_leaves_no_half_file_and_a_second_run_ends_in_the_same_tables(
    finished, project, script
):
    results = project.folder / "results"
    stages = list(STAGES.values())
    removed = [results / name for name in stages[stages.index(STAGES[script]) :]]
    whole = {path for folder in removed for path in folder.rglob("*") if path.is_file()}
    for folder in removed:
        shutil.rmtree(folder)
    process = subprocess.Popen(
        [SNAKEMAKE, "--cores", "2"],
        cwd=project.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for pid in wait_for(lambda: scripts(script, project.folder), process):
        os.kill(pid, signal.SIGKILL)
    # Rules with `retries` go on by themselves; the others end the run.
    assert (process.wait() == 0) == (script in ("encode_images.py", "extract.py", "evaluate.py"))
    left = {path for folder in removed for path in folder.rglob("*") if path.is_file()}
    assert all(".part-" in path.name for path in left - whole)
    project.run()
    assert tables(project) == tables(finished)
    now = {path for folder in removed for path in folder.rglob("*") if path.is_file()}
    assert now == whole


def test_two_fresh_runs_give_the_same_bytes(finished, fresh):
    fresh.run()
    assert tables(fresh) == tables(finished)
    for path in sorted((finished.folder / "results" / "figures").rglob("*.*")):
        twin = fresh.folder / path.relative_to(finished.folder)
        assert twin.read_bytes() == path.read_bytes(), path.name


def test_a_damaged_image_is_named_before_anything_of_it_is_stored(project):
    import polars as pl

    path = project.folder / "results/datasets/creatures/images.parquet"
    frame = pl.read_parquet(path)
    data = frame["image"].to_list()
    data[3] = data[3][: len(data[3]) // 2]
    frame.with_columns(image=pl.Series(data, dtype=pl.Binary)).write_parquet(path)
    done = project.snakemake("results/tables/maps.parquet")
    assert done.returncode != 0
    assert "reprscope: Image menagerie-3-000003 cannot be decoded" in done.stderr
    assert not list((project.folder / "results/latents").rglob("*.h5"))


def test_a_study_with_a_mistake_ends_before_any_job(project):
    project.edit("config.yaml", "timesteps: [50, 200]", "timesteps: [50, 2000]")
    done = project.snakemake()
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1] == (
        "The study is not usable. experiments.correspondence: timestep 2000 is outside 0 to 999, "
        "the timesteps of nano-sd."
    )
