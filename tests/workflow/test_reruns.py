"""A change leads to exactly the jobs that it touches."""

import os

import PIL.Image
import pytest
from support.project import jobs

AFTER = {"tabulate": 1, "figure": 1, "report": 1}

TOGETHER = "device: cpu\njobs: {timesteps_per_job: 4}"

CHANGES = {
    "nothing": ([], {}),
    "one more timestep": (
        [("config.yaml", "timesteps: [50, 200]", "timesteps: [50, 100, 200]")],
        {"extract": 1, "evaluate": 1, **AFTER},
    ),
    "one timestep less": (
        [("config.yaml", "timesteps: [50, 200]", "timesteps: [50]")],
        AFTER,
    ),
    "one more position in a new hook set": (
        [
            ("config.yaml", "tasks:\n", "  more: {positions: [conv_in]}\n\ntasks:\n"),
            (
                "config.yaml",
                'positions: [mid, "up[*]"]\n    timesteps: [50, 200]',
                'positions: [conv-in, mid, "up[*]"]\n    timesteps: [50, 200]',
            ),
        ],
        {"extract": 2, "evaluate": 2, **AFTER},
    ),
    "other penalties of a probe": (
        [("config.yaml", "iterations: 300", "iterations: 300, penalties: [0.1, 1.0]")],
        {"evaluate": 2, **AFTER},
    ),
    "another figure colour": (
        [("config.yaml", "device: cpu", 'device: cpu\ntheme: {accent: "#aa3300"}')],
        {"figure": 4, "report": 1},
    ),
    "another option of one figure": (
        [("config.yaml", "kind: block_bars,", "kind: block_bars, height: 240,")],
        {"figure": 1, "report": 1},
    ),
    "an edit of a task": (
        [("workflow_scripts/reprscope/tasks/_matching.py", "1e-9 * self", "2e-9 * self")],
        {"evaluate": 2, **AFTER},
    ),
    "a comment in a task": (
        [
            (
                "workflow_scripts/reprscope/tasks/correspondence.py",
                "def measure(",
                "# A comment changes nothing.\ndef measure(",
            )
        ],
        {},
    ),
    "a message of the store": (
        [
            (
                "workflow_scripts/reprscope/representations/store.py",
                "values that are not finite",
                "wrong values",
            )
        ],
        {},
    ),
    "a sentence of the report": (
        [("workflow_scripts/reprscope/report/findings.py", "With noise seed", "For noise seed")],
        {"report": 1},
    ),
    "a docstring of the store": (
        [
            (
                "workflow_scripts/reprscope/representations/store.py",
                '"""Token grid of',
                '"""The token grid of',
            )
        ],
        {},
    ),
    "one more dataset": (
        [
            (
                "config.yaml",
                "models:\n  nano",
                "  digits: {source: digits, size: 64}\n\nmodels:\n  nano",
            ),
            (
                "config.yaml",
                "tasks: [probe]\n    datasets: [creatures]",
                "tasks: [probe]\n    datasets: [creatures, digits]",
            ),
        ],
        {"fetch_digits": 1, "encode_images": 1, "extract": 2, "evaluate": 2, **AFTER},
    ),
    "a dataset that no experiment uses": (
        [("config.yaml", "models:\n  nano", "  digits: {source: digits}\n\nmodels:\n  nano")],
        {},
    ),
    "another seed of the untrained twin": (
        [("config.yaml", "seed: 0}", "seed: 1}")],
        {"fetch_model": 1, "extract": 1, "evaluate": 1, **AFTER},
    ),
    "another protocol beside the first": (
        [
            ("config.yaml", "tasks:\n", "protocols:\n  shared: {noise: shared}\n\ntasks:\n"),
            (
                "config.yaml",
                "timesteps: [50, 200]",
                "timesteps: [50, 200]\n    protocols: [standard, shared]",
            ),
        ],
        {"extract": 2, "evaluate": 2, **AFTER},
    ),
    "the thesis protocol, whose pixels have another range": (
        [
            (
                "config.yaml",
                "timesteps: [50, 200]",
                "timesteps: [50, 200]\n    protocols: [standard, thesis]",
            ),
        ],
        {"encode_images": 1, "extract": 2, "evaluate": 2, **AFTER},
    ),
    "a view": (
        [
            (
                "config.yaml",
                "tasks:\n",
                "views:\n  mirrored: {operations: [{hflip: {}}]}\n\ntasks:\n",
            ),
            ("config.yaml", "timesteps: [50, 200]", "timesteps: [50, 200]\n    views: [mirrored]"),
        ],
        {"encode_images": 1, "extract": 2, "evaluate": 2, **AFTER},
    ),
    "a prompt with the label": (
        [
            ("config.yaml", "tasks:\n", 'prompts:\n  photo: "a photo of a {label}"\n\ntasks:\n'),
            ("config.yaml", "timesteps: [50, 200]", "timesteps: [50, 200]\n    prompts: [photo]"),
        ],
        {"encode_prompts": 1, "extract": 2, "evaluate": 2, **AFTER},
    ),
    "an experiment left out": (
        [("config.yaml", "  - name: maps\n", "  - name: other-maps\n")],
        AFTER,
    ),
    "the table of sizes": (
        [("workflow_scripts/shapes.py", '("model", "resolution")', '("resolution", "model")')],
        {"shapes": 1, "report": 1},
    ),
    "several timesteps in one job": ([("config.yaml", "device: cpu", TOGETHER)], {}),
    "several timesteps in one job, and one more": (
        [
            ("config.yaml", "device: cpu", TOGETHER),
            ("config.yaml", "timesteps: [50, 200]", "timesteps: [50, 100, 200]"),
        ],
        {"extract": 1, "evaluate": 1, **AFTER},
    ),
    "several timesteps in one job, and two more": (
        [
            ("config.yaml", "device: cpu", TOGETHER),
            ("config.yaml", "timesteps: [50, 200]", "timesteps: [50, 100, 200, 400]"),
        ],
        # Number 0 would extract what is there.
        {"extract_together_1": 1, "evaluate": 2, **AFTER},
    ),
    "another batch size": ([("config.yaml", "batch_size: 16", "batch_size: 5")], {}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_leads_to_exactly_these_jobs(project, change):
    edits, expected = CHANGES[change]
    for name, old, new in edits:
        project.edit(name, old, new)
    assert project.planned() == expected


def test_a_plan_is_that_of_the_command(project):
    """Other tests plan in a fork of a process that holds Snakemake, which is faster."""
    project.edit("config.yaml", "timesteps: [50, 200]", "timesteps: [50, 100, 200]")
    expected = jobs(project.run("--dry-run"))
    assert project.planned() == expected == {"extract": 1, "evaluate": 1, **AFTER}


def test_a_changed_texture_is_laid_over_the_images_anew(project):
    texture = project.folder / "texture.png"
    PIL.Image.new("L", (8, 8), 80).save(texture)
    overlay = "{overlay: {texture: texture.png, amount: 0.5}}"
    views = f"views:\n  textured: {{operations: [{overlay}]}}\n\ntasks:\n"
    project.edit("config.yaml", "tasks:\n", views)
    project.edit("config.yaml", "timesteps: [50, 200]", "timesteps: [50]\n    views: [textured]")
    table = "results/tables/correspondence.parquet"
    project.run(table)
    assert project.planned(table) == {}
    PIL.Image.new("L", (8, 8), 160).save(texture)
    assert project.planned(table) == {
        "encode_images": 1,
        "extract": 1,
        "evaluate": 1,
        "tabulate": 1,
    }


def test_touched_files_and_another_order_of_keys_change_nothing(project):
    for path in (project.folder / "workflow_scripts").rglob("*.py"):
        os.utime(path)
    project.edit(
        "config.yaml", "device: cpu\nprecision: float32", "precision: float32\ndevice: cpu"
    )
    project.edit(
        "config.yaml", "kind: linear_probe, iterations: 300", "iterations: 300, kind: linear_probe"
    )
    assert project.planned() == {}


def test_going_back_to_earlier_settings_computes_nothing(project):
    original = (project.folder / "config.yaml").read_text()
    project.edit("config.yaml", "timesteps: [50, 200]", "timesteps: [50]")
    project.run("results/tables/correspondence.parquet")
    (project.folder / "config.yaml").write_text(original)
    assert project.planned() == AFTER
    project.run()
    assert project.planned() == {}
