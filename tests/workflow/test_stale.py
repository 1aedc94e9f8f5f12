"""Nothing stale: names, places and plans, each in a dry run."""

import shutil

import pytest
from PIL import Image
from support import planner
from support.pictures import smooth_image
from support.project import environment, jobs

TARGET = "results/datasets/mine/images.parquet"
NAMES = (
    "img{1}.png", "a{b.png", "a}b.png", "{dataset}.png", "{{x}}.png",
    "with space.png", "q'uote.png",
    'dq".png', "$HOME.png", "new\nline.png", "semi;colon.png", "*.png", "[a].png", "Ü日.png",
    "-rf.png", "%s.png", "back\\slash.png", "{0}.png", "{!r}.png", "#.png", "{a}/{b}.png",
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
