"""The studies of the published models: their whole plan, and all of their figures."""

import json
import os
import re
import shutil
from dataclasses import asdict, replace
from functools import cache

import numpy as np
import polars as pl
import pytest
import summarise
from reprscope import figures, published, tasks
from reprscope.base.parameters import build
from reprscope.figures.repeated import over
from reprscope.models.labels import KEYS
from reprscope.plan import drawable, specs
from reprscope.plan.comparison import matches
from reprscope.plan.parse import parse
from reprscope.plan.read import read
from reprscope.runtime.frames import write_frame
from support.fakes import FakeAnnotations, FakeRepresentations, pair
from support.pictures import smooth_image
from support.project import ROOT, make

BOTH_PROTOCOLS = 2
FOLDER = published.VALUES

# Counted by hand from the two files. Thesis: five models; SPair-71k and NYU have 6 shards, the
# classification sets 4, the cut-outs and ImageNet's subset 2; SPair-71k is seen at 11 timesteps at
# 512 px, and at 256, 768 and 1024 px at one of them. Under the published protocol alone, the
# classification sets are seen at 128 and 256 px, and at their own size at four timesteps.
SMALL_SIZES, SMALL_TIMESTEPS = 2, 4
# Token groups: three models with four cuts and two with three.
CUTS = 3 * 4 + 2 * 3
# Section 4.3, all of SPair-71k: four shifts, mirrored, framed; two sizes; nine seeds; a prompt.
VIEWS, SIZES, SEEDS = 6, 2, 9
# Photographs: two models at 0, 50, 200 and, of these only 0 again, at five timesteps.
PHOTOS = 2 * (3 + 4)
TRANSFORMERS = 2
# Of SD-1.5 alone: an empty image at five sizes; the ImageNet subset undegraded, mirrored, with four
# degradations in nine steps and as two crops, of which one has two degradations; its reference has
# another noise seed. SPair-71k with its aspect ratio, with three degradations in four steps.
BLACK, IMAGENET, KEPT = 5, 2 + 4 * 9 + 2 + 2 * 9, 1 + 3 * 4
THESIS = {
    "fetch_spair": 1,
    "fetch_cifar10": 1,
    "fetch_cifar100": 1,
    "fetch_tiny-imagenet": 1,
    "fetch_cutouts": 1,
    "fetch_imagenet-subset": 1,
    "fetch_black": 1,
    "fetch_nyu": 1,
    "fetch_photos": 1,
    "fetch_empty-20": 1,
    "fetch_empty-100": 1,
    "fetch_model": 5 + TRANSFORMERS,
    # The names of SPair-71k's categories are the prompts of one model.
    "encode_prompts": 5 + TRANSFORMERS + 1,
    "encode_images": 5 * BOTH_PROTOCOLS * (4 * 6 + 3 * 4 + 2)
    + 5 * 3 * 4 * (SMALL_SIZES + 1)
    + BOTH_PROTOCOLS * (2 * (4 + CUTS) + 2 + 6 + 1 + 1 + VIEWS * 6)
    + BOTH_PROTOCOLS * (BLACK + 2 * IMAGENET + KEPT * 6)
    # The pixels of transformers are the same under both protocols.
    + TRANSFORMERS * (1 + 6),
    "extract": 5 * BOTH_PROTOCOLS * ((11 + 3) * 6 + 3 * 4 + 2)
    + 5 * 3 * 4 * (SMALL_SIZES + SMALL_TIMESTEPS)
    # Section 4.3: those, the plain one, and empty images at two timesteps; three seeds of SD-2.1.
    + BOTH_PROTOCOLS * (6 * (1 + 1 + VIEWS + SIZES + SEEDS) + 2 + 3 * 6)
    # Blocks of ImageNet's subset at one timestep, and at two more for figure 39.
    + BOTH_PROTOCOLS * 2 * (4 + CUTS + 2)
    + BOTH_PROTOCOLS * (BLACK + 2 * (IMAGENET + 1) + KEPT * 6)
    # All layers of ImageNet's subset and of NYU; empty images.
    + BOTH_PROTOCOLS * (2 + 6 + 1)
    + BOTH_PROTOCOLS * PHOTOS
    + TRANSFORMERS * (BOTH_PROTOCOLS + 6),
    # Correspondence on both sets, similarity, and two probes on three sets; then the strict
    # measure once.
    "evaluate": 5 * BOTH_PROTOCOLS * (11 + 3 + 1 + 1 + 2 * 3)
    + 1
    + 5 * 3 * (SMALL_SIZES + SMALL_TIMESTEPS)
    # Section 4.3, errors by position and clusters.
    + BOTH_PROTOCOLS * (12 + 1 + 11 + 1)
    # Two counts of token groups; mean norms; norms and similarity of pairs and of matches.
    + BOTH_PROTOCOLS * (2 * 5 + 3 + 2 * 3 + 1)
    # The search, two kinds of anomalies and their similarity, two depth probes; photographs and
    # their corner.
    + BOTH_PROTOCOLS * (1 + 2 + 1 + 2 + PHOTOS + 1)
    # Dense correspondence of other sizes, the mirrored image, other images, degraded images and
    # crops; keypoints of degraded images.
    + BOTH_PROTOCOLS * (4 + 1 + 1 + (1 + 4 * 9) + (1 + 2 * 9) + KEPT)
    # Similarity to places, two position probes and the variance of place.
    + BOTH_PROTOCOLS * (1 + 2 + 1)
    # Similarity, norms and correspondence.
    + TRANSFORMERS * (BOTH_PROTOCOLS + 1 + 1),
    "shapes": 1,
    "decode_noise": 6,
    "tabulate": 8 + 3 + 19 + 7 + 2 + 1 + 1,
    "figure": sum((4 * 2, 1, 3, 2, 2, 4))
    # Figure 2; two more of the synthetic set.
    + 1
    + 2
    # Errors by position and section 4.3; figures 19 to 25 and 38; 26; 39 and 40.
    + sum((4, 4 + 2))
    + sum((2, 3, 3, 2, 2, 2, 3, 4, 2, 3))
    + sum((3, 2, 1, 1))
    + sum((3, 2))
    # Dense correspondence.
    + sum((2, 3, 3, 4 * 2))
    # Figures 10, 11 and 27; the variance of place.
    + sum((2, 5, 3)),
    "scorecard": 1,
    "report": 1,
}
# Added since: SPair-71k as DIFT reads it (eight noise seeds at 768 px, squashed, a prompt), the
# prompt "a photo of a ...", PCK over alpha and by category, figure 2 with published mixing, and
# forms of figures 12 to 14 and 28 by name.
ADDED = {
    "encode_prompts": 2,
    "encode_images": 6,
    "extract": 62,
    "evaluate": 17,
    "decode_noise": 6,
    "tabulate": 2,
    "figure": 7,
}
for _rule, _jobs in ADDED.items():
    THESIS[_rule] += _jobs
# Paper: three models, one set in 2 shards and four cuts of it, one timestep, eight tasks.
PAPER = {
    "fetch_imagenet-subset": 1,
    "fetch_model": 3,
    "encode_prompts": 3,
    "encode_images": 3 * BOTH_PROTOCOLS * 2 * (1 + 4),
    "extract": 3 * BOTH_PROTOCOLS * 2 * (1 + 4),
    "evaluate": 3 * BOTH_PROTOCOLS * 8,
    "shapes": 1,
    "tabulate": 5,
    "figure": 2 + 3 + 3 + 3 + 4,
    "scorecard": 1,
    "report": 1,
}


# Protocol: five seeds; photographs in 2 shards at two timesteps under two protocols; SPair-71k in 6
# at one timestep under six other protocols for two models, and at two timesteps for one of them.
SEEDS_DRAWN, PARTS = 5, 6
PROTOCOL = {
    "fetch_spair": 1,
    "fetch_imagenet-subset": 1,
    "fetch_model": 2,
    "encode_prompts": 2,
    # [0, 1] of two protocols; the rest share theirs.
    "encode_images": 2 + 2 * 2 * 6,
    "extract": 2 * 2 * 2 * SEEDS_DRAWN + 2 * PARTS * 6 + (6 + 2 * SEEDS_DRAWN * 6),
    "evaluate": 2 * 2 * SEEDS_DRAWN + 2 * PARTS + (2 + 1 + 1) * SEEDS_DRAWN,
    "shapes": 1,
    "tabulate": 5,
    "figure": 2 + 2 + 2 + 1 + 1,
    "scorecard": 1,
    "report": 1,
}


@pytest.mark.parametrize(
    ("study", "jobs"), [("thesis", THESIS), ("paper", PAPER), ("protocol", PROTOCOL)]
)
def test_the_whole_study_is_planned_without_weights_or_network(tmp_path, monkeypatch, study, jobs):
    project = make(tmp_path / "project", ROOT / "config.yaml")
    shutil.copytree(ROOT / "studies", project.folder / "studies")
    monkeypatch.setitem(os.environ, "HF_HOME", str(tmp_path / "empty"))
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    project.edit("config.yaml", "timesteps_per_job: 6", "timesteps_per_job: 1")
    assert project.planned("--configfile", f"studies/{study}.yaml") == jobs


EXPERIMENTS = [
    (name, entry["name"])
    for name in ("thesis", "paper", "protocol", "embedded")
    for entry in read(ROOT / f"studies/{name}.yaml")["experiments"]
]


@cache
def named(name):
    """A study, read once for all of its experiments."""
    return parse(read(ROOT / f"studies/{name}.yaml"))


@pytest.mark.parametrize(("name", "experiment"), EXPERIMENTS)
def test_its_figures_can_be_drawn_from_the_table_that_the_experiment_makes(
    tmp_path, name, experiment
):
    study = named(name)
    entry = study.experiments[experiment]
    settings = json.loads(specs.tabulate(study, experiment))
    # As stored: a task may read positions beside those that it is measured at.
    positions = list(
        dict.fromkeys(
            position
            for model in entry.models
            for held in study.hooksets_of(entry, model)
            if held != tasks.LATENTS
            for position in study.hooksets[held].resolve(study.models[model])
        )
    )
    kind = settings["kind"]
    task = tasks.load(kind)
    annotations = _nine_images()
    # Measurements of one task, view and protocol, as far as the task reads it, have the same
    # numbers: only what tells them apart matters.
    measured, files = {}, []
    for one in settings["measurements"]:
        parts = {part: getattr(study.protocols[one["protocol"]], part) for part in task.PROTOCOL}
        files.append(tmp_path / "_".join([one["task"], one["view"], *parts.values()]))
        measured.setdefault(files[-1], (one, parts))
    for path, (one, parts) in measured.items():
        # What a small run needs less of; the table's form does not depend on it.
        parameters = settings["tasks"][one["task"]]
        few = ("epochs", "iterations", "steps", "bootstrap")
        if kind == "linear_probe" and parameters["form"] == "published":
            few = ("epochs",)
        elif kind == "linear_probe":
            # Three training images leave nothing to choose a penalty on.
            few = ("iterations",)
            parameters["penalties"] = parameters["penalties"][:1]
            parameters["training_images"] = [2, "all"][-len(parameters["training_images"]) :]
        parameters |= {key: min(2, parameters[key]) for key in few if key in parameters}
        # Images and categories that are there, where a study names others.
        there = {"images": NAMES, "listed": ["cat", "dog", "horse"]}
        parameters |= {
            key: v[: len(parameters[key])] for key, v in there.items() if key in parameters
        }
        parameters = build(task.Parameters, parameters, entry=one["task"])
        companions = {
            number: _representations(study, one | changes, positions)
            for number, changes in tasks.companions(kind, parameters).items()
        }
        keywords = parts | ({"companions": companions} if companions else {})
        if tasks.LATENTS in task.STORES:
            keywords = {"decode": lambda names: annotations.pictures.items()}
        own = _representations(study, one, positions or ["mean"])
        write_frame(task.measure(own, annotations, parameters, **keywords), path, spec="{}")
    summarise.main(
        measurements=files,
        out=tmp_path / "table.parquet",
        spec=json.dumps(settings),
    )
    table = pl.read_parquet(tmp_path / "table.parquet")
    # What figures are checked against when the study is read.
    assert [c for c in table.columns if c not in KEYS] == list(task.TABLE_COLUMNS)
    for column, values in drawable.known(study, entry).items():
        if column != "image_id":  # of the nine images, see above
            assert set(table[column].drop_nulls()) <= set(values), column
    _published_values_have_a_row(study, name, entry, table)
    assert entry.figures
    for figure in entry.figures:
        module = figures.load(figure.kind)
        options = figure.options
        if hasattr(options, "least"):
            options = replace(options, least=1)
        frame = over(table, figure.over, options) if figure.over else table
        module.draw(frame, options, study.theme)
        caption = module.caption(frame, options)
        # The caption names the protocol unless it is the right one.
        drawn = figure.options.filter.get("protocol", "") if hasattr(options, "filter") else ""
        under = name in ("thesis", "paper") and "thesis" in entry.protocols
        published = under and "standard" not in figure.name
        said = bool(re.search(r"protocol thesis\b(?!-)", caption))
        assert said == (published or drawn == "thesis")


def _published_values_have_a_row(study, name, experiment, table):
    """Each of those that the experiment is said to measure; and some of those that it also does."""
    index, said = published.index(FOLDER), []
    for match in matches(study, experiment, FOLDER):
        rows = published.renamed(published.values(index[match.entry], FOLDER), match)
        named, keys = published.aligned(rows, table, match.entry)
        if "position" in keys:  # baselines see no features and are alike at all positions
            assert not named.join(table, on=keys).select(keys).is_duplicated().any()
        missing = named.join(table, on=keys, how="anti")
        assert len(missing) < len(named)
        if (index[match.entry].study, index[match.entry].experiment) == (name, experiment.name):
            assert missing.is_empty()
            said.append(match.entry)
    assert said == [
        key for key, one in index.items() if (one.study, one.experiment) == (name, experiment.name)
    ]


SIDE = 100
TOKEN = 32  # which a cut of each experiment with cuts is for
NAMES = [f"image-{number}" for number in range(9)]


def _nine_images():
    images = pl.DataFrame(
        {
            "image_id": NAMES,
            "width": SIDE,
            "height": SIDE,
            "label": ["cat"] * 3 + ["dog"] * 6,
            "split": ["train", "validation", "test"] * 3,
            # Two show one cut-out.
            "scene": [*NAMES[:8], NAMES[5]],
        }
    )
    pairs = pl.DataFrame(
        [
            pair("a", NAMES[2], NAMES[5]),
            pair("b", NAMES[5], NAMES[8], category="dog"),
            pair("d", NAMES[8], NAMES[2], category="horse"),
            pair("c", NAMES[1], NAMES[4], split="validation"),
        ]
    )
    keypoints = pl.DataFrame(
        [
            {"image_id": name, "keypoint": what, "x": x, "y": 50.0, "visible": True, "group": 0}
            for name in NAMES
            for what, x in (("nose", 20.0), ("tail", 80.0))
        ]
    )
    depths = np.random.default_rng(1).uniform(1, 9, (len(NAMES), SIDE, SIDE)).astype(np.float32)
    return FakeAnnotations(
        images,
        pairs,
        {name: smooth_image(SIDE, SIDE, 0) for name in NAMES},
        keypoints,
        depths=dict(zip(NAMES, depths, strict=True)),
    )


def _representations(study, keys, positions):
    """Random tokens of 32 px, on the frame that the view makes at the resolution.

    One in the middle of each map has a high norm, so that there are anomalies.
    """
    rng = np.random.default_rng(0)
    encoded, transform = study.views[keys["view"]].apply(
        smooth_image(SIDE, SIDE, 0),
        resolution=keys["resolution"],
        multiple=8,
        image_id=NAMES[0],
    )
    height, width = encoded.shape[:2]
    grid = (-(-height // TOKEN), -(-width // TOKEN))
    tokens = {p: {name: rng.normal(size=(*grid, 5)) for name in NAMES} for p in positions}
    for of_position in tokens.values():
        for one in of_position.values():
            one[grid[0] // 2, grid[1] // 2] = 30.0
    return FakeRepresentations(
        tokens,
        dict.fromkeys(NAMES, (width, height)),
        dict.fromkeys(NAMES, transform),
        view=asdict(study.views[keys["view"]]),
        resolution=keys["resolution"],
    )
