"""Every mistake in a study is one sentence that names the entry and what would be right."""

import copy
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from reprscope.models.families.unet import positions
from reprscope.models.positions import resolve, spell
from reprscope.plan.parse import parse
from reprscope.plan.read import read
from reprscope.plan.schema import SCHEMA
from reprscope.plan.study import Experiment, Study
from reprscope.runtime.errors import UserError

ROOT = Path(__file__).parents[2]
STUDIES = [ROOT / "config.yaml", ROOT / "tests/small.yaml", *(ROOT / "studies").glob("*.yaml")]


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def config():
    return copy.deepcopy(read(ROOT / "tests/small.yaml"))


def put(config, path, value):
    *parents, last = path.split("/")
    for key in parents:
        config = config[int(key)] if key.isdigit() else config[key]
    config[last] = value


def nested(levels):
    value = "x"
    for _ in range(levels):
        value = {"a": value}
    return value


MISTAKES = {
    "unknown key": ("titel", "x", "The study has an unknown key titel: use title, device"),
    "unknown key of a model": (
        "models/nano-sd/revison",
        "x",
        "models.nano-sd has an unknown key revison: use path, family, resolution.",
    ),
    "unknown key of a dataset": (
        "datasets/creatures/imagez",
        5,
        "datasets.creatures has an unknown key imagez: use images, seed, size",
    ),
    "unknown key of a task": (
        "tasks/probe/epoch",
        5,
        "tasks.probe has an unknown key epoch: use form, training_images, seeds, against",
    ),
    "unknown key of an experiment": (
        "experiments/1/timestep",
        [5],
        "experiments.correspondence has an unknown key timestep: use name, title",
    ),
    "unknown option of a figure": (
        "experiments/0/figures/0/heigth",
        5,
        "experiments.classification.figures.accuracy has an unknown key heigth: use metric",
    ),
    "unknown theme": ("theme", {"acent": "#000000"}, "theme has an unknown key acent: use accent"),
    "wrong type": ("batch_size", "many", "batch_size is 'many': use a whole number"),
    "wrong type of a parameter": (
        "tasks/probe/iterations",
        "many",
        "tasks.probe.iterations is many: use a whole number",
    ),
    "wrong value": ("device", "tpu", "device is tpu: use auto or cpu or cuda"),
    "value out of range": ("tasks/probe/iterations", 0, "tasks.probe: "),
    "unusable name": (
        "prompts",
        {"a photo": "x"},
        "prompts: the name a photo is not usable: use letters, digits, dots and hyphens",
    ),
    "unknown source": (
        "datasets/creatures/source",
        "imagenet",
        "There is no dataset source 'imagenet': use one of ",
    ),
    "unknown task": ("tasks/probe/kind", "knn", "There is no task kind 'knn': use one of "),
    "unknown dataset": (
        "experiments/0/datasets",
        ["zoo"],
        "experiments.classification: zoo is not in datasets: use creatures, or add it there",
    ),
    "unknown model": (
        "experiments/0/models",
        ["sd"],
        "experiments.classification: sd is not in models: use nano-sd or nano-sd-untrained",
    ),
    "unknown position": (
        "experiments/1/positions",
        ["up[7]"],
        "experiments.correspondence: model nano-sd has no position up[7]: its blocks are conv_in, "
        "down_blocks.0",
    ),
    "unknown position of a hook set": (
        "hooksets/blocks/positions",
        ["mid", "down_blocks.9"],
        "hooksets.blocks: model nano-sd has no position down_blocks.9",
    ),
    "position in no hook set": (
        "experiments/1/positions",
        ["mid", "conv-in"],
        "experiments.correspondence: position conv_in of nano-sd is in no hook set with `store: "
        "tokens`: add a new set",
    ),
    "timestep out of range": (
        "experiments/1/timesteps",
        [1000],
        "experiments.correspondence: timestep 1000 is outside 0 to 999, the timesteps of nano-sd",
    ),
    "negative timestep": (
        "experiments/1/timesteps",
        [-1],
        "experiments.correspondence.timesteps.1 is -1: use 0",
    ),
    "timestep twice": (
        "experiments/1/timesteps",
        [5, 5],
        "experiments.correspondence.timesteps has 5 twice",
    ),
    "task without its annotations": (
        "datasets/creatures",
        {"source": "digits"},
        "experiments.correspondence: dataset creatures has no pairs, which correspondence needs",
    ),
    "two experiments of one name": (
        "experiments/1/name",
        "classification",
        "Two experiments have the name classification: rename one",
    ),
    "no experiment": ("experiments", [], "experiments is empty: add at least one"),
    "missing key": (
        "models",
        {"nano-sd": {"path": "x"}},
        "models.nano-sd is not complete: give known or hub and like or path and",
    ),
    "model that is not there": (
        "models/nano-sd/path",
        "resources/models/none",
        "models.nano-sd: resources/models/none: there is no such folder: correct `path`.",
    ),
    "twin of nothing": (
        "models/nano-sd-untrained/untrained",
        "none",
        "models.nano-sd-untrained: there is no trained model none of which it could be the",
    ),
    "unknown known model": (
        "models/sd",
        {"known": "sd-9"},
        "models.sd: there is no known model sd-9: use sd-1.1, sd-1.2",
    ),
    "unknown model that another is like": (
        "models/sd",
        {"hub": "someone/model", "like": "sd-9"},
        "models.sd: there is no known model sd-9: use sd-1.1, sd-1.2",
    ),
    "model of the hub of an unknown kind": (
        "models/sd",
        {"hub": "someone/model"},
        "models.sd is not complete: give known or hub and like or path and resolution or",
    ),
    "model with two origins": (
        "models/sd",
        {"known": "sd-1.5", "hub": "someone/model", "like": "sd-1.5"},
        "models.sd is not complete: give known or hub and like or path and resolution or",
    ),
    "unknown operation": (
        "views",
        {"odd": {"operations": [{"rotate": {}}]}},
        "views.odd: operation {'rotate': {}} is not known: write one of hflip, crop",
    ),
    "unknown argument": (
        "views",
        {"odd": {"operations": [{"crop": {"lft": 3}}]}},
        "views.odd: operation crop: got an unexpected keyword argument 'lft'",
    ),
    "unknown protocol choice": (
        "protocols",
        {"odd": {"noise": "fresh"}},
        "protocols.odd.noise is fresh: use per_image or shared or none",
    ),
    "brace that is not closed": (
        "prompts",
        {"p": "a {label"},
        "prompts.p has a brace that stands alone: write {label} or {caption}, or {{ and }} for br",
    ),
    "brace that was not opened": (
        "prompts",
        {"p": "a label}"},
        "prompts.p has a brace that stands alone: write {label} or {caption}, or {{ and }} for br",
    ),
    "empty braces": (
        "prompts",
        {"p": "a {}"},
        "prompts.p: {} is not known: use {label} or {caption}, or {{ and }} for braces themselves",
    ),
    "number in braces": (
        "prompts",
        {"p": "a {0}"},
        "prompts.p: {0} is not known: use {label} or {caption}, or {{ and }} for braces themselve",
    ),
    "conversion in braces": (
        "prompts",
        {"p": "{label!r}"},
        "prompts.p: {label} is not known: use {label} or {caption}, or {{ and }} for braces thems",
    ),
    "format in braces": (
        "prompts",
        {"p": "{label:>9}"},
        "prompts.p: {label} is not known: use {label} or {caption}, or {{ and }} for braces thems",
    ),
    "attribute in braces": (
        "prompts",
        {"p": "{label.x}"},
        "prompts.p: {label.x} is not known: use {label} or {caption}, or {{ and }} for braces the",
    ),
    "prompt that is a number": ("prompts", {"p": 5}, "prompts.p is 5: use a text."),
    "prompt without a text": ("prompts", {"p": None}, "prompts.p is None: use a text."),
    "control character": (
        "prompts",
        {"p": "a\x00b"},
        "prompts.p has a control character: remove it.",
    ),
    "name that ends in a newline": (
        "prompts",
        {"p\n": "x"},
        "prompts: the name 'p\\n' is not usable: use letters, digits, dots and hyphens.",
    ),
    "name of an experiment that ends in a newline": (
        "experiments/0/name",
        "x\n",
        "experiments.'x\\n'.name: the name 'x\\n' is not usable: use letters",
    ),
    "name of a figure that is too long": (
        "experiments/0/figures/0/name",
        "x" * 300,
        "experiments.classification.figures.xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    ),
    "name with a slash": (
        "models",
        {"x/y": {"known": "sd-1.5"}},
        "models: the name x/y is not usable: use letters, digits, dots and hyphens.",
    ),
    "name of two dots": (
        "experiments/0/name",
        "..",
        "experiments....name: the name .. is not usable: use letters, digits, dots and hyphens.",
    ),
    "name that is a number": (
        "models",
        {5: {"known": "sd-1.5"}},
        "models has the key 5: put it in quotes.",
    ),
    "name that is taken": (
        "views",
        {"identity": {"operations": [{"hflip": {}}]}},
        "views.identity is there without being written: choose another name.",
    ),
    "protocol that is taken": (
        "protocols",
        {"standard": {"noise": "shared"}},
        "protocols.standard is there without being written: choose another name.",
    ),
    "a million shards": (
        "datasets/creatures/shards",
        1000000,
        "datasets.creatures.shards is 1000000: use 10000 or less.",
    ),
    "shards as a fraction": (
        "datasets/creatures/shards",
        2.0,
        "datasets.creatures.shards is 2.0: use a whole number.",
    ),
    "shards as a truth value": (
        "datasets/creatures/shards",
        True,
        "datasets.creatures.shards is True: use a whole number.",
    ),
    "timestep as a fraction": (
        "experiments/0/timesteps",
        [50.0],
        "experiments.classification.timesteps.1 is 50.0: use a whole number.",
    ),
    "timestep as a truth value": (
        "experiments/0/timesteps",
        [True],
        "experiments.classification.timesteps.1 is True: use a whole number.",
    ),
    "timestep as a text": (
        "experiments/0/timesteps",
        ["50"],
        "experiments.classification.timesteps.1 is '50': use a whole number.",
    ),
    "timestep without a list": (
        "experiments/0/timesteps",
        50,
        "experiments.classification.timesteps is 50: use a list.",
    ),
    "size beyond all sense": (
        "experiments/0/resolutions",
        [100000],
        "experiments.classification.resolutions.1 is 100000: use 8192 or less.",
    ),
    "size of a model beyond all sense": (
        "models/nano-sd/resolution",
        100000,
        "models.nano-sd.resolution is 100000: use 8192 or less.",
    ),
    "size that is not whole": (
        "experiments/0/resolutions",
        [64.5],
        "experiments.classification.resolutions.1 is 64.5: use a whole number.",
    ),
    "seed beyond all sense": (
        "experiments/0/seeds",
        [18446744073709551616],
        "experiments.classification.seeds.1 is 18446744073709551616: use a number between -2^53 a",
    ),
    "seed of a twin beyond all sense": (
        "models/nano-sd-untrained/seed",
        4294967296,
        "models.nano-sd-untrained.seed is 4294967296: use 4294967295 or less.",
    ),
    "seed of a dataset beyond all sense": (
        "datasets/creatures/seed",
        1180591620717411303424,
        "datasets.creatures.seed is 1180591620717411303424: use a number between -2^53 and 2^53.",
    ),
    "batch beyond all sense": (
        "batch_size",
        1000000000000000000000000000000,
        "batch_size is 1000000000000000000000000000000: use a number between -2^53 and 2^53.",
    ),
    "batch of no number": (
        "batch_size",
        float("nan"),
        "batch_size is nan: use a number between -2^53 and 2^53.",
    ),
    "share that is no number": (
        "datasets/creatures/test",
        float("nan"),
        "datasets.creatures.test is nan: use a number between -2^53 and 2^53.",
    ),
    "infinite penalty": (
        "tasks/probe/penalties",
        [float("inf")],
        "tasks.probe.penalties.1 is inf: use a number between -2^53 and 2^53.",
    ),
    "infinite width": (
        "tasks/matching/smooth",
        float("inf"),
        "tasks.matching.smooth is inf: use a number between -2^53 and 2^53.",
    ),
    "argument that is no number": (
        "views",
        {"v": {"operations": [{"crop": {"left": float("nan")}}]}},
        "views.v.operations.1.crop.left is nan: use a number between -2^53 and 2^53.",
    ),
    "no title": ("title", "", "title is empty: write at least one character."),
    "title without quotes": ("title", 5, "title is 5: use a text."),
    "wrong case": ("device", "CPU", "device is CPU: use auto or cpu or cuda (perhaps cpu)."),
    "wrong case of a name": (
        "experiments/0/models",
        ["Nano-SD"],
        "experiments.classification: Nano-SD is not in models: use nano-sd or nano-sd-untrained, ",
    ),
    "wrong case of a kind": (
        "tasks/probe/kind",
        "Linear_Probe",
        "There is no task kind 'Linear_Probe': use one of anomalies, anomaly_similarity, corresp",
    ),
    "hyphen in a kind": (
        "tasks/probe/kind",
        "linear-probe",
        "There is no task kind 'linear-probe': use one of anomalies, anomaly_similarity, corresp",
    ),
    "kind that is a path": (
        "tasks/probe/kind",
        "../x",
        "There is no task kind '../x': use one of anomalies, anomaly_similarity, correspondence,",
    ),
    "wrong case of a figure": (
        "experiments/0/figures/0/kind",
        "Block_Bars",
        "There is no figure kind 'Block_Bars': use one of at_a_glance, block_bars, block_diffe",
    ),
    "truth value in words": (
        "compile",
        "yes please",
        "compile is 'yes please': use true or false.",
    ),
    "no mapping": ("jobs", 5, "jobs is 5: use a mapping."),
    "no list": ("experiments", {}, "experiments is {}: use a list."),
    "empty entry": ("experiments", [None], "experiments.1 is None: use a mapping."),
    "deep nesting": (
        "datasets",
        nested(500),
        "datasets.a.a.a.a.a.a.a.a.a.a.a.a … is nested more than 12 levels deep: check its indenta",
    ),
    "figure of another kind of task": (
        "experiments/0/figures/0/kind",
        "group_table",
        "experiments.classification.figures.accuracy: a figure of kind group_table with these opt",
    ),
    "metric that the task has not": (
        "experiments/0/figures/0/metric",
        "acuracy",
        "experiments.classification.figures.accuracy: a figure of kind block_bars with these opti",
    ),
    "filter by a column that is not there": (
        "experiments/0/figures/0/filter",
        {"modle": "nano-sd"},
        "experiments.classification.figures.accuracy: a figure of kind block_bars with these opti",
    ),
    "filter by a value that is not there": (
        "experiments/0/figures/0/filter",
        {"model": "sd"},
        "experiments.classification.figures.accuracy: no row of the table will have model sd: use",
    ),
    "filter by another timestep": (
        "experiments/0/figures/0/filter",
        {"timestep": 51},
        "experiments.classification.figures.accuracy: no row of the table will have timestep 51: ",
    ),
    "filter by no value": (
        "experiments/0/figures/0/filter",
        {"model": []},
        "experiments.classification.figures.accuracy: no row of the table will have model : use n",
    ),
    "filter by another alpha": (
        "experiments/1/figures/0/filter",
        {"alpha": 0.2},
        "experiments.correspondence.figures.pck: no row of the table will have alpha 0.2: use 0.0",
    ),
    "filter that is no mapping": (
        "experiments/0/figures/0/filter",
        "test",
        "experiments.classification.figures.accuracy.filter is test: use a mapping.",
    ),
    "position that the figure's experiment has not": (
        "experiments/2/figures/0/positions",
        ["up[9]"],
        "experiments.similarity.figures.similarity: no row of the table will have position up[9]:",
    ),
    "means over one seed": (
        "experiments/0/figures/0/over",
        "seed",
        "experiments.classification.figures.accuracy: `over: seed` needs at least two values of s",
    ),
    "series that is no column": (
        "experiments/0/figures/0/series",
        "models",
        "experiments.classification.figures.accuracy: a figure of kind block_bars with these opti",
    ),
    "height of nothing": (
        "experiments/0/figures/0/height",
        0,
        "experiments.classification.figures.accuracy.height is 0: use a whole number from 1 to 40",
    ),
    "images beyond all sense": (
        "datasets/creatures/images",
        10**12,
        "datasets.creatures.images is 1000000000000: use a whole number from -10000000 to 10000000",
    ),
    "images as a fraction": (
        "datasets/creatures/images",
        1e12,
        "datasets.creatures.images is 1000000000000.0: use a whole number.",
    ),
    "images as a power": (
        "datasets/creatures/images",
        "1e4",
        "datasets.creatures.images is 1e4: use a whole number.",
    ),
    "side of made images beyond all sense": (
        "datasets/creatures/size",
        100000,
        "datasets.creatures.size is 100000: use a whole number from 1 to 8192.",
    ),
    "negative seed of a dataset": (
        "datasets/creatures/seed",
        -1,
        "datasets.creatures: seed of the menagerie must not be negative.",
    ),
    "seed of a dataset over 32 bits": (
        "datasets/creatures/seed",
        2**32,
        "datasets.creatures.seed is 4294967296: use a whole number from 0 to 4294967295.",
    ),
    "negative seed among a probe's": (
        "tasks/probe/seeds",
        [0, -1],
        "tasks.probe.seeds is -1: use a whole number from 0 to 4294967295.",
    ),
    "steps beyond all sense": (
        "tasks/probe/iterations",
        10**9,
        "tasks.probe.iterations is 1000000000: use a whole number from -10000000 to 10000000.",
    ),
    "penalty beyond all sense": (
        "tasks/probe/penalties",
        [1e300],
        "tasks.probe.penalties.1 is 1e+300: use a number between -2^53 and 2^53.",
    ),
    "tokens divided beyond all sense": (
        "tasks/matching/subdivide",
        100000,
        "tasks.matching.subdivide is 100000: use a whole number from -1024 to 1024.",
    ),
    "path of nothing": (
        "datasets/creatures",
        {"source": "folder", "path": ""},
        "datasets.creatures.path is empty: write a text, or leave it out.",
    ),
    "path of a blank": (
        "datasets/creatures",
        {"source": "folder", "path": " "},
        "datasets.creatures.path is  : write at most 4096 letters in one line, without blanks aro",
    ),
    "path that ends in a newline": (
        "datasets/creatures",
        {"source": "folder", "path": "pictures\n"},
        "datasets.creatures.path is 'pictures\\n': write at most 4096 letters in one line",
    ),
    "text that turns the line around": (
        "datasets/creatures",
        {"source": "folder", "path": "a\u202eb"},
        "datasets.creatures.path is 'a\\u202eb': write at most 4096 letters in one line",
    ),
    "path beyond all sense": (
        "datasets/creatures",
        {"source": "folder", "path": "a" * 5000},
        "datasets.creatures.path is aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    ),
    "revision of nothing": (
        "datasets/creatures",
        {"source": "cifar10", "revision": ""},
        "datasets.creatures.revision is empty: write a text, or leave it out.",
    ),
    "numbers of lines in a type": (
        "tasks/probe/iterations",
        "many\nlines",
        "tasks.probe.iterations is 'many\\nlines': use a whole number.",
    ),
    "sizes of lists in a type": (
        "tasks/probe/iterations",
        list(range(1000)),
        "tasks.probe.iterations is [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, ",
    ),
    "part of the data that is not there": (
        "experiments/0/figures/0/filter",
        {"split": "tests"},
        "experiments.classification.figures.accuracy: no row of the table will have split tests: u",
    ),
    "position that stands twice": (
        "experiments/1/positions",
        ["mid", "mid"],
        "experiments.correspondence.positions has mid twice: remove one.",
    ),
    "position of nothing": (
        "hooksets/blocks/positions",
        ["mid", ""],
        "hooksets.blocks.positions.2 is empty: write at least one character.",
    ),
    "repository without an owner": (
        "models/sd",
        {"hub": "model", "like": "sd-1.5"},
        "models.sd.hub: the name model is not usable: use owner/name of a repository on the Hug",
    ),
    "repository that is a path": (
        "models/sd",
        {"hub": "../model", "like": "sd-1.5"},
        "models.sd.hub: the name ../model is not usable: use owner/name of a repository on the ",
    ),
    "repository that is an address": (
        "models/sd",
        {"hub": "https://huggingface.co/a/b", "like": "sd-1.5"},
        "models.sd.hub: the name https://huggingface.co/a/b is not usable: use owner/name of a r",
    ),
    "revision that is a path": (
        "models/sd",
        {"hub": "a/b", "like": "sd-1.5", "revision": "../x"},
        "models.sd.revision: the name ../x is not usable: use a commit, tag or branch.",
    ),
    "unknown variant": (
        "models/sd",
        {"known": "sd-1.5", "variant": "fp32"},
        "models.sd.variant is fp32: use fp16 or full.",
    ),
    "size of a known model as a text": (
        "models/sd",
        {"known": "sd-1.5", "resolution": "512"},
        "models.sd.resolution is '512': use a whole number.",
    ),
    "model at no place": (
        "models/nano-sd/path",
        "",
        "models.nano-sd.path is empty: write at least one character.",
    ),
    "model that is a file": (
        "models/nano-sd/path",
        "config.yaml",
        "models.nano-sd: config.yaml: there is no such folder: correct `path`.",
    ),
    "model that is another folder": (
        "models/nano-sd/path",
        "tests",
        "models.nano-sd: tests: there is no scheduler/scheduler_config.json: use a whole model in",
    ),
    "unknown family": (
        "models/nano-sd/family",
        "dit",
        "models.nano-sd: resources/models/nano-sd: There is no model family 'dit': use one of flux",
    ),
    "family of a transformer for a U-Net": (
        "models/nano-sd/family",
        "sd3",
        "models.nano-sd: resources/models/nano-sd: scheduler/scheduler_config.json is that of DDPM",
    ),
    "cut beyond all sense": (
        "views",
        {"v": {"operations": [{"crop": {"left": 10**6}}]}},
        "views.v: operation crop: left is 1000000; use a whole number from 0 to 8192.",
    ),
    "cut of a fraction": (
        "views",
        {"v": {"operations": [{"crop": {"left": 8.5}}]}},
        "views.v: operation crop: left is 8.5; use a whole number from 0 to 8192.",
    ),
    "negative cut": (
        "views",
        {"v": {"operations": [{"crop": {"left": -8}}]}},
        "views.v: operation crop: left is -8; use a whole number from 0 to 8192.",
    ),
    "move beyond all sense": (
        "views",
        {"v": {"operations": [{"shift": {"x": 10**6}}]}},
        "views.v: operation shift: x is 1000000; use a whole number from -8192 to 8192.",
    ),
    "image of no width": (
        "views",
        {"v": {"operations": [{"rescale": {"width": 0, "height": 8}}]}},
        "views.v: operation rescale: width is 0; use a whole number from 1 to 8192.",
    ),
    "image beyond all sense": (
        "views",
        {"v": {"after": [{"pad": {"top": 10**6}}]}},
        "views.v: operation pad: top is 1000000; use a whole number from 0 to 8192.",
    ),
    "blur as a truth value": (
        "views",
        {"v": {"operations": [{"blur": {"radius": True}}]}},
        "views.v: operation blur: radius is True; use a number from 0 to 8192.",
    ),
    "seed of pixels as a text": (
        "views",
        {"v": {"operations": [{"pixel_noise": {"amount": 0.5, "seed": "x"}}]}},
        "views.v: operation pixel_noise: seed is x; use a whole number from 0 to 4294967295.",
    ),
    "timesteps of a job beyond all sense": (
        "jobs",
        {"timesteps_per_job": 10**9},
        "jobs.timesteps_per_job is 1000000000: use 1000 or less.",
    ),
    "height beyond all sense": (
        "experiments/0/figures/0/height",
        1000000000,
        "experiments.classification.figures.accuracy.height is 1000000000: use a whole number fro",
    ),
    "no columns of maps": (
        "experiments/2/figures/0/columns",
        0,
        "experiments.similarity.figures.similarity.columns is 0: use a whole number from 1 to 400",
    ),
    "range of one number": (
        "experiments/2/figures/0/domain",
        [1],
        "experiments.similarity.figures.similarity.domain is [1.0]: use two different numbers.",
    ),
    "range of no width": (
        "experiments/2/figures/0/domain",
        [1, 1],
        "experiments.similarity.figures.similarity.domain is [1.0, 1.0]: use two different number",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence(config, mistake):
    path, value, sentence = MISTAKES[mistake]
    put(config, path, value)
    with pytest.raises(UserError) as caught:
        parse(config)
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_prompt_that_needs_a_label_on_a_dataset_without_labels(config):
    config["datasets"]["pictures"] = {"source": "photos"}
    config["prompts"] = {"photo": "a photo of a {label}"}
    config["experiments"][3] |= {"datasets": ["pictures"], "prompts": ["photo"]}
    with pytest.raises(
        UserError, match="prompt photo needs the label of each image, which dataset"
    ):
        parse(config)
    config["prompts"] = {"photo": "a photo of a {class}"}
    with pytest.raises(UserError, match=r"prompts\.photo: \{class\} is not known: use \{label\}"):
        parse(config)


def test_a_name_that_stands_twice_in_a_file(tmp_path):
    (tmp_path / "study.yaml").write_text("models:\n  a: {}\n  b: {}\n  a: {}\n")
    with pytest.raises(
        UserError, match=r"study\.yaml line 4: two entries have the name a: rename one"
    ):
        read(tmp_path / "study.yaml")


NOT_YAML = {
    "unclosed list": ("title: x\nmodels: [\n  a: b\n", "line "),
    "tab": ("title: x\nmodels:\n\ta: b\n", "line 3"),
    "indentation": ("title: x\n   models: 5\n", "line 2"),
    "quote that is not closed": ('title: "x\nmodels: {}\n', "line "),
    "tag of Python": ("title: !!python/object/apply:os.system [x]\n", "line 1"),
    "tag of its own": ("title: !mine x\n", "line 1"),
    "anchor that is not there": ("title: x\nmodels: *none\n", "line 2"),
    "two documents": ("title: x\n---\ntitle: y\n", "line 2"),
    "key that is a list": ("title: x\n? [a, b]\n: y\n", "line 2"),
    "deep nesting": ("title: " + "[" * 5000 + "]" * 5000 + "\n", "nested too deeply"),
    "no text": ("", "is not a study"),
    "list": ("- title: x\n", "is not a study"),
    "text": ("title\n", "is not a study"),
    "binary": ("title: \x01\n", "position 7"),
}


@pytest.mark.parametrize("mistake", NOT_YAML)
def test_what_is_not_yaml_is_one_sentence_with_its_file_and_line(tmp_path, mistake):
    text, said = NOT_YAML[mistake]
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        read(tmp_path / "study.yaml")
    assert str(caught.value).startswith(str(tmp_path / "study.yaml"))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_a_file_that_is_not_there_or_not_text_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"none\.yaml cannot be read: there is no such file"):
        read(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="cannot be read: it is a folder"):
        read(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"title: caf\xe9\n")
    with pytest.raises(UserError, match=r"latin\.yaml cannot be read: .* UTF-8"):
        read(tmp_path / "latin.yaml")


def test_a_file_that_is_not_yaml(tmp_path):
    (tmp_path / "study.yaml").write_text("models: [\n")
    with pytest.raises(UserError, match=r"study\.yaml line 2, column 1 is not YAML: "):
        read(tmp_path / "study.yaml")
    (tmp_path / "study.yaml").write_text("- a\n")
    with pytest.raises(UserError, match="is not a study"):
        read(tmp_path / "study.yaml")


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_every_study_of_the_project_is_valid(path):
    study = parse(read(path))
    for experiment in study.experiments.values():
        assert study.measurements(experiment)


def test_the_schema_names_exactly_the_fields_of_the_study():
    schema = json.loads(SCHEMA.read_text())
    assert set(schema["properties"]) == {field.name for field in dataclasses.fields(Study)}
    entry = schema["properties"]["experiments"]["items"]
    assert set(entry["properties"]) == {field.name for field in dataclasses.fields(Experiment)}


def test_expansion_is_the_product_in_a_fixed_order(config):
    config["experiments"][1] |= {"timesteps": [50, 0], "seeds": [0, 1], "resolutions": [64, 128]}
    study = parse(config)
    found = study.measurements(study.experiments["correspondence"])
    conditions = [(m.condition.resolution, m.condition.timestep, m.condition.seed) for m in found]
    assert conditions == [(r, t, s) for r in (64, 128) for t in (50, 0) for s in (0, 1)]
    assert {m.hookset for m in found} == {"blocks"}
    probe = study.measurements(study.experiments["classification"])
    assert [(m.model, m.hookset) for m in probe] == [
        ("nano-sd", "means"),
        ("nano-sd-untrained", "means"),
    ]


def test_a_new_hook_set_serves_only_the_positions_that_no_earlier_one_has(config):
    config["hooksets"]["more"] = {"positions": ["conv-in"]}
    config["experiments"][1]["positions"] = ["conv-in", "mid"]
    study = parse(config)
    assert study.hooksets_of(study.experiments["correspondence"], "nano-sd") == ["more", "blocks"]


def test_positions_that_one_hook_set_holds_together_are_read_from_it(config):
    config["hooksets"]["more"] = {"positions": ["conv-in", "mid"]}
    config["experiments"][1]["positions"] = ["conv-in", "mid"]
    study = parse(config)
    assert study.hooksets_of(study.experiments["correspondence"], "nano-sd") == ["more"]


def test_positions_of_the_nano_model_include_the_layers_of_the_thesis():
    config = json.loads((ROOT / "resources/models/nano-sd/unet/config.json").read_text())
    found = positions(config)
    blocks = ["conv_in", *(f"down_blocks.{i}" for i in range(4)), "mid_block"]
    blocks += [*(f"up_blocks.{i}" for i in range(4)), "conv_out"]
    assert (
        resolve(["conv_in", "down_blocks.*", "mid", "up[*]", "conv-out"], found, entry="x")
        == blocks
    )
    layers = [p for p in found if p not in blocks[1:-1] and "transformer_blocks" not in p]
    assert len(layers) == 46
    assert "up_blocks.0.resnets.2" in layers


def test_labels_of_the_thesis_are_spelled_as_module_paths():
    for label, path in {
        "up[1]": "up_blocks.1",
        "mid": "mid_block",
        "conv-in": "conv_in",
        "down[2] attn[1]": "down_blocks.2.attentions.1",
        "mid.res[0]": "mid_block.resnets.0",
        "up_blocks.1.upsamplers.0": "up_blocks.1.upsamplers.0",
        "up[*]": "up_blocks.*",
    }.items():
        assert spell(label) == path


def test_reading_a_study_imports_neither_torch_nor_diffusers_nor_datasets():
    code = (
        "import sys; from pathlib import Path; from reprscope.plan import parse, read, specs\n"
        "s = parse.parse(read.read(Path('config.yaml')))\n"
        "specs.report(s, ['config.yaml']); [specs.tabulate(s, n) for n in s.experiments]\n"
        "print(sorted({'torch', 'diffusers', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={"PYTHONPATH": "workflow_scripts"},
    )
    assert done.stdout.strip() == "[]"


def test_merge_keys_of_yaml_are_read(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("a: &a {x: 1}\nb: {<<: *a, y: 2}\n")
    assert read(path) == {"a": {"x": 1}, "b": {"x": 1, "y": 2}}


@pytest.mark.parametrize("path", ["config.yaml", "tests/small.yaml", "studies/thesis.yaml"])
def test_prompts_that_are_used_are_those_of_the_representations(path):
    study = parse(read(ROOT / path))
    read_by_measurements = {
        (
            study.models[wildcards["model"]].shared_with,
            study.prompt_key(wildcards["prompt"], wildcards["dataset"]),
        )
        for experiment in study.experiments.values()
        for measurement in study.measurements(experiment)
        for wildcards in study.representations(measurement)
    }
    assert set(study.prompts_used) == read_by_measurements
