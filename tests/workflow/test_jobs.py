"""How much one job does is a matter of speed: outputs stay the same."""

import re
import shutil

import numpy as np
import polars as pl
from reprscope.representations.store import Representations

STORES = "results/representations/creatures/identity/nano-sd/64px_empty_t{}_seed0_standard/blocks"


def together(project, most=4):
    project.edit("config.yaml", "device: cpu", f"device: cpu\njobs: {{timesteps_per_job: {most}}}")


def remove(project, *timesteps):
    """Remove features and all that follows from them; else nobody would ask for them again."""
    for task in ("matching", "similarity", "maps"):
        shutil.rmtree(project.folder / "results/measurements" / task, ignore_errors=True)
    for kind in ("tables", "figures", "report"):
        shutil.rmtree(project.folder / "results" / kind, ignore_errors=True)
    for timestep in timesteps:
        shutil.rmtree(project.folder / STORES.format(timestep))


def tokens(project, timestep):
    with Representations([project.folder / STORES.format(timestep) / "0of1.h5"]) as found:
        return {
            (p, name): found.tokens(p, name) for p in found.positions for name in found.image_ids
        }


def test_several_timesteps_in_one_job_give_the_same_features_and_tables(project):
    before = {timestep: tokens(project, timestep) for timestep in (50, 200)}
    table = pl.read_parquet(project.folder / "results/tables/correspondence.parquet")
    remove(project, 50, 200)
    together(project)
    assert project.planned() == {
        "extract_together_0": 1,
        "evaluate": 4,
        "tabulate": 4,
        "scorecard": 1,
        "figure": 4,
        "report": 1,
    }
    project.run()
    for timestep, expected in before.items():
        found = tokens(project, timestep)
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[key], expected[key]) for key in expected)
    after = pl.read_parquet(project.folder / "results/tables/correspondence.parquet")
    assert after.equals(table)
    project.edit("config.yaml", "timesteps_per_job: 4", "timesteps_per_job: 1")
    assert project.planned() == {}


def test_a_job_that_fails_keeps_the_timesteps_it_has_finished(project):
    """Another try takes them over; they are not what the settings ask for if those changed."""
    remove(project, 50, 200)
    together(project)
    script = "workflow_scripts/extract.py"
    broken = "timestep=timestep // (timestep != 200),"
    original = (project.folder / script).read_text()
    project.edit(script, "timestep=timestep,", broken)
    failed = project.snakemake("results/tables/correspondence.parquet")
    assert failed.returncode != 0
    folder = project.folder / STORES.format(50)
    assert [path.name for path in folder.iterdir()] == ["0of1.h5.finished"]

    # With the same code the first timestep is taken over, with other code it is made anew.
    shutil.copytree(folder, project.folder / "kept")
    made = (folder / "0of1.h5.finished").stat().st_mtime_ns
    project.snakemake("results/tables/correspondence.parquet")
    assert (folder / "0of1.h5.finished").stat().st_mtime_ns == made
    (project.folder / script).write_text(original)
    project.run("results/tables/correspondence.parquet")
    assert [path.name for path in folder.iterdir()] == ["0of1.h5"]
    assert (folder / "0of1.h5").stat().st_mtime_ns > made


def test_the_process_of_a_single_job_knows_what_was_planned(project):
    """On a cluster a job reads the study again, when some of the files may be there already."""
    remove(project, 50, 200)
    together(project)
    project.run("results/tables/correspondence.parquet")
    remove(project, 200)
    job = ("--mode", "remote", "--target-jobs", "extract_together_0:", "--nolock")
    project.run(*job, "--allowed-rules", "extract_together_0", "--force")
    assert (project.folder / STORES.format(200) / "0of1.h5").exists()


def test_shards_follow_from_their_size(project):
    project.edit("config.yaml", "device: cpu", "device: cpu\njobs: {shard_images: 30}")
    planned = project.planned("results/tables/correspondence.parquet")
    assert planned["encode_images"] == 3
    assert planned["extract"] == 6


def test_jobs_are_looked_for_when_one_ends_and_not_all_the_time(finished):
    """Snakemake's limit of jobs per second adds a look a second for every job that has ended."""
    jobs = len(re.findall(r"^Finished jobid", finished.log, re.M))
    looks = finished.log.count("Resources before job selection")
    assert jobs > 20
    # One before the first job, and at most one for each that ends.
    assert 0 < looks <= jobs + 1
