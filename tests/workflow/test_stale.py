"""Nothing stale: names, places, records and inputs, each in a dry run."""

import os
import shutil
from pathlib import Path

import h5py
import polars as pl
import pytest
from PIL import Image
from reprscope.runtime.frames import write_frame
from support import planner
from support.pictures import smooth_image
from support.project import environment, jobs

TARGET = "results/datasets/mine/images.parquet"
NAMES = (
    "img{1}.png", "a{b.png", "a}b.png", "{dataset}.png", "{{x}}.png",
    "with space.png", "q'uote.png",
    'dq".png', "$HOME.png", "new\nline.png", "semi;colon.png", "*.png", "[a].png", "Ü日.png",
    "-rf.png", "%s.png", "back\\slash.png", "{0}.png", "{!r}.png", "#.png",
)  # fmt: skip


def plan(folder, *arguments):
    return planner.snakemake(["--cores", "2", "--dry-run", *arguments], folder, environment())


def test_any_name_of_a_picture_and_of_its_folder_works(fresh):

    folder = fresh.folder / 'ph{o}t\'s "x"'
    for number, name in enumerate(NAMES):
        path = folder / "train" / "c{a}t" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(smooth_image(8, 8, number)).save(path)
    quoted = str(folder.name).replace("'", "''")
    fresh.edit(
        "config.yaml", "datasets:\n", f"datasets:\n  mine: {{source: folder, path: '{quoted}'}}\n"
    )
    done = plan(fresh.folder, TARGET)
    assert done.returncode == 0, done.stdout + done.stderr
    assert jobs(done.stdout + done.stderr) == {"fetch_mine": 1}


@pytest.mark.parametrize(
    "text", ["a photo of a {label}", "{{a}} {label}", "{label} {label}", "a }} b {{ {label}"]
)
def test_a_prompt_with_braces_may_share_a_job_between_timesteps(fresh, text):
    fresh.edit("config.yaml", "tasks:\n", f"prompts:\n  photo: '{text}'\n\ntasks:\n")
    fresh.edit("config.yaml", "timesteps: [50, 200]", "timesteps: [50, 200]\n    prompts: [photo]")
    fresh.edit("config.yaml", "device: cpu", "device: cpu\njobs: {timesteps_per_job: 4}")
    assert fresh.planned("results/tables/correspondence.parquet")["extract_together_0"] == 1


def test_the_way_out_of_a_crash_needs_no_number_of_cores(fresh):
    done = planner.snakemake(["--unlock"], fresh.folder, environment())
    assert done.returncode == 0, done.stderr


def test_the_project_s_own_files_are_found_from_any_folder(fresh, tmp_path):
    (tmp_path / "own").mkdir()
    there = [tmp_path / "own", "-s", str(fresh.folder / "Snakefile")]
    directory = [tmp_path, *there[1:], "--directory", str(tmp_path / "made")]
    expected = fresh.planned()
    for folder, *arguments in (there, directory):
        done = plan(folder, *arguments)
        assert done.returncode == 0, done.stderr
        assert jobs(done.stdout + done.stderr) == expected


def test_a_study_in_the_folder_in_which_snakemake_runs_is_the_study(fresh, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    text = (fresh.folder / "config.yaml").read_text()
    (own / "config.yaml").write_text(text.replace("timesteps: [50, 200]", "timesteps: [50]"))
    shutil.rmtree(own / "results", ignore_errors=True)
    done = plan(own, "-s", str(fresh.folder / "Snakefile"))
    assert done.returncode == 0, done.stderr
    assert jobs(done.stdout + done.stderr)["extract"] == fresh.planned()["extract"] - 1


@pytest.mark.parametrize(
    "name", ["a b", "it's", 'say "x"', "日本", "$HOME", "-n", "#", "%s", "a\\b"]
)
def test_a_clone_may_have_any_name(fresh, name):
    moved = fresh.folder.rename(fresh.folder.with_name(name))
    done = plan(moved)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_clone_with_braces_in_its_path_is_one_sentence(fresh):
    done = plan(fresh.folder.rename(fresh.folder.with_name("a{b}")))
    assert done.returncode == 1
    assert "for a pattern: give the folder another name." in done.stderr


MADE = "nano-sd/64px_empty_t50_seed0_standard"
AFTER = {"tabulate": 1, "figure": 1, "report": 1}
ALL = {"extract": 4, "evaluate": 6, "tabulate": 4, "figure": 4, "report": 1}
INPUTS = {
    "results/datasets/creatures/images.parquet": {"encode_images": 1, **ALL},
    "results/datasets/creatures/pairs.parquet": {"evaluate": 2, **AFTER},
    "results/models/nano-sd/manifest.json": {"encode_images": 1, "encode_prompts": 1, **ALL},
    "results/latents/creatures/identity/nano-sd/64px_symmetric/0of1.h5": ALL,
    "results/prompts/nano-sd/empty.h5": ALL,
    f"results/representations/creatures/identity/{MADE}/means/0of1.h5": {"evaluate": 1, **AFTER},
    f"results/measurements/probe/creatures/identity/{MADE}/means.parquet": AFTER,
    "results/tables/classification.parquet": {"figure": 1, "report": 1},
    "results/figures/classification/accuracy.json": {"report": 1},
}
"""What the study's rules read, and all jobs that another file in its place leads to."""


def replace(path: Path, seconds: float, *, other: bool) -> None:
    """Put a file with the same spec and another time in a file's place, with other bytes or not."""
    time = path.stat().st_mtime + seconds
    new = path.with_name(f"new{path.suffix}")
    shutil.copyfile(path, new)
    if other and path.suffix == ".parquet":
        spec = pl.read_parquet_metadata(path).get("spec", "")
        pl.read_parquet(path).write_parquet(
            new, compression="uncompressed", metadata={"spec": spec}
        )
    elif other and path.suffix == ".h5":
        with h5py.File(new, "r+") as file:
            file.attrs["another"] = 1
    elif other:
        new.write_text(path.read_text() + "\n")
    os.utime(new, (time, time))
    new.replace(path)


@pytest.mark.parametrize("name", INPUTS)
def test_an_older_file_in_the_place_of_an_input_leads_to_the_jobs_of_a_newer_one(project, name):
    path = project.folder / name
    replace(path, -1e6, other=True)
    assert project.planned() == INPUTS[name]
    replace(path, 2e6, other=False)
    assert project.planned() == INPUTS[name]


@pytest.mark.parametrize("seconds", [-1e6, 1e6])
def test_equal_files_of_another_time_lead_to_no_job(project, seconds):
    for name in INPUTS:
        replace(project.folder / name, seconds, other=False)
    # Those that are newer than what was made from them are compared by Snakemake.
    assert project.planned() == {}


def test_without_records_the_specs_in_the_results_are_compared(project):
    shutil.rmtree(project.folder / ".snakemake")
    assert project.planned() == {}
    project.edit("config.yaml", "iterations: 300", "iterations: 301")
    assert project.planned() == {"evaluate": 2, **AFTER}


def test_what_another_clone_wrote_into_the_same_results_is_seen(project):
    """Whatever its time, and although this clone's own record is of its settings."""
    path = project.folder / f"results/measurements/probe/creatures/identity/{MADE}/means.parquet"
    time = path.stat().st_mtime_ns
    write_frame(pl.read_parquet(path), path, spec='{"another":"clone"}')
    os.utime(path, ns=(time, time))
    assert project.planned() == {"evaluate": 1, **AFTER}


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("datasets/creatures/pairs.parquet", "fetch_creatures"),
        ("datasets/creatures/keypoints.parquet", "fetch_creatures"),
        ("models/nano-sd/snapshot/vae/config.json", "fetch_model"),
        ("models/nano-sd/snapshot/unet/diffusion_pytorch_model.safetensors", "fetch_model"),
    ],
)
def test_a_lost_file_of_a_dataset_or_a_model_is_fetched_again(project, name, rule):
    (project.folder / "results" / name).unlink()
    assert project.planned()[rule] == 1


@pytest.mark.parametrize("name", ["datasets/creatures/pairs.parquet", "tables/maps.parquet"])
def test_a_damaged_result_is_made_again(project, name):
    path = project.folder / "results" / name
    path.write_bytes(path.read_bytes()[:-9])
    os.utime(path, (1.5e9, 1.5e9))
    assert sum(project.planned().values()) > 0


def test_a_plan_that_cannot_be_built_is_not_one_with_nothing_to_do(project):
    """Without the check, Snakemake leaves what is there as it is and exits with 0."""
    project.edit(
        "rules/evaluate.smk",
        "        tabulate_inputs,\n",
        '        "results/measurements/{unknown}.parquet",\n',
    )
    done = plan(project.folder)
    assert done.returncode != 0
    assert "cannot plan how results/" in done.stdout + done.stderr
