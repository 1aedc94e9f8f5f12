"""Every mistake in a study is one sentence that names the entry and what would be right."""

import copy
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from reprscope.errors import UserError
from reprscope.models.positions import resolve, spell
from reprscope.models.unet import positions
from reprscope.schema import SCHEMA
from reprscope.study import Experiment, Study, parse, read

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


MISTAKES = {
    "unknown key": ("titel", "x", "The study has an unknown key titel: use title, device"),
    "unknown key of a model": (
        "models/nano-sd/revison",
        "x",
        "models.nano-sd is not complete: give known or hub and like or path and resolution or",
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
        "There is no dataset source imagenet: use ",
    ),
    "unknown task": ("tasks/probe/kind", "knn", "There is no task kind 'knn'; use one of: "),
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
        "models.nano-sd: resources/models/none/",
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


def test_a_file_that_is_not_yaml(tmp_path):
    (tmp_path / "study.yaml").write_text("models: [\n")
    with pytest.raises(UserError, match=r"study\.yaml cannot be read: "):
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
        "import sys; from pathlib import Path; from reprscope import specs, study\n"
        "s = study.parse(study.read(Path('config.yaml')))\n"
        "specs.report(s); [specs.tabulate(s, n) for n in s.experiments]\n"
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
