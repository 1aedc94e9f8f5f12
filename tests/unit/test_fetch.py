import hashlib
import json
import shutil

import pytest
import torch
from reprscope.models.hub.fetch import fetch_folder, make_untrained, write_manifest
from reprscope.runtime.errors import UserError
from support.embedded import load_unet


def test_a_fetched_folder_is_complete_and_its_manifest_has_the_checksums(nano, tmp_path):
    fetch_folder(nano, tmp_path / "snapshot", family="unet")
    write_manifest(tmp_path / "snapshot", tmp_path / "manifest.json", spec="{}")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    weights = "unet/diffusion_pytorch_model.safetensors"
    expected = hashlib.sha256((nano / weights).read_bytes()).hexdigest()
    assert manifest["files"][weights] == expected
    first = manifest["revision"]
    (tmp_path / "snapshot" / "model_index.json").write_text("{}")
    write_manifest(tmp_path / "snapshot", tmp_path / "manifest.json", spec="{}")
    assert json.loads((tmp_path / "manifest.json").read_text())["revision"] != first


def test_pickles_are_never_copied(nano, tmp_path):
    shutil.copytree(nano, tmp_path / "model")
    (tmp_path / "model" / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    fetch_folder(tmp_path / "model", tmp_path / "snapshot", family="unet")
    assert not list((tmp_path / "snapshot").rglob("*.bin"))


def test_a_folder_that_is_no_model_is_named(nano, tmp_path):
    def get(folder):
        fetch_folder(folder, tmp_path / "snapshot", family="unet")

    with pytest.raises(UserError, match="is not a model folder"):
        get(tmp_path)
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(UserError, match=r"has no unet: name a model in diffusers' layout"):
        get(tmp_path)
    shutil.copytree(nano, tmp_path / "model")
    (tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no complete \.safetensors weights in unet: use"):
        get(tmp_path / "model")


def test_the_untrained_twin_is_the_same_network_with_weights_of_its_seed(nano, tmp_path):
    kinds = {"a": 0, "b": 0, "c": 1}
    for name, seed in kinds.items():
        torch.manual_seed(len(name) + seed)
        make_untrained(nano, tmp_path / name, family="unet", seed=seed)
    states = {name: load_unet(tmp_path / name).module.state_dict() for name in kinds}
    trained = load_unet(nano).module.state_dict()
    assert {k: v.shape for k, v in states["a"].items()} == {k: v.shape for k, v in trained.items()}
    key = "mid_block.resnets.0.conv1.weight"
    assert torch.equal(states["a"][key], states["b"][key])
    assert not torch.equal(states["a"][key], states["c"][key])
    assert not torch.equal(states["a"][key], trained[key])
