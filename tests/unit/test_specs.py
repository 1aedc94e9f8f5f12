"""Each stage's spec has the parts of a protocol that the stage reads, and no others."""

import json
import shutil
from pathlib import Path

import pytest
from reprscope.base import paths
from reprscope.base.protocol import PROTOCOLS
from reprscope.plan import specs
from reprscope.plan.parse import parse
from reprscope.plan.read import read

ROOT = Path(__file__).parents[2]
CONDITION = {
    "dataset": "creatures",
    "view": "identity",
    "model": "nano-sd",
    "vae": "nano-sd",
    "resolution": "64",
    "prompt": "empty",
    "timestep": "50",
    "seed": "0",
    "shard": "0of1",
    "hookset": "blocks",
}


@pytest.fixture
def study(monkeypatch):
    monkeypatch.chdir(ROOT)
    return parse(
        read(ROOT / "tests/small.yaml") | {"protocols": {"cut": {"coordinates": "integer"}}}
    )


def test_both_protocols_are_there_in_every_study(study):
    assert {name: study.protocols[name] for name in PROTOCOLS} == PROTOCOLS
    assert set(study.protocols) == {"standard", "thesis", "cut"}


def test_coordinates_touch_the_task_that_reads_them_and_nothing_else(study):
    def changed(stage, **wildcards):
        found = [stage(study, CONDITION | wildcards | {"protocol": p}) for p in ("standard", "cut")]
        return found[0] != found[1]

    assert changed(specs.evaluate, task="matching")
    assert not changed(specs.evaluate, task="probe")
    assert not changed(specs.evaluate, task="maps")
    assert not changed(specs.extract)
    spec = json.loads(specs.evaluate(study, CONDITION | {"protocol": "thesis", "task": "matching"}))
    assert spec["protocol"] == {"coordinates": "integer"}


def test_a_companion_brings_the_parts_of_its_own_protocol(study):
    task = {"kind": "correspondence", "variants": [{"protocol": "cut"}], "own": False}
    config = read(ROOT / "tests/small.yaml") | {"protocols": {"cut": {"coordinates": "integer"}}}
    config["tasks"] = config["tasks"] | {"compared": task}
    wildcards = CONDITION | {"protocol": "standard", "task": "compared"}
    spec = json.loads(specs.evaluate(parse(config), wildcards))
    assert spec["protocol"] == {"coordinates": "centred"}
    assert spec["companions"]["1"]["protocol"] == {"coordinates": "integer"}


def test_the_range_of_pixels_is_part_of_what_encodes_them(study):
    spec = json.loads(specs.encode_images(study, CONDITION | {"pixels": "unit"}))
    assert spec["pixels"] == "unit"


def test_upcast_attention_is_what_the_models_configuration_says(study, tmp_path):
    spec = json.loads(specs.extract(study, CONDITION | {"protocol": "standard"}))
    assert spec["upcast_attention"] is False
    config = read(ROOT / "tests/small.yaml")
    source = Path(config["models"]["nano-sd"]["path"])
    shutil.copytree(source, tmp_path / "model")
    path = tmp_path / "model" / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"upcast_attention": True}))
    config["models"]["nano-sd"]["path"] = str(tmp_path / "model")
    spec = json.loads(specs.extract(parse(config), CONDITION | {"protocol": "standard"}))
    assert spec["upcast_attention"] is True


def test_a_report_names_its_study_s_files_as_the_user_does(study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = ["studies/own.yaml", paths.PROJECT / "config.yaml", tmp_path / "studies/own.yaml"]
    introduction = json.loads(specs.report(study, files))["introduction"]
    assert introduction.startswith("This study (`studies/own.yaml` and `config.yaml`) measures ")
    assert paths.shown("/elsewhere/a.yaml") == "/elsewhere/a.yaml"
