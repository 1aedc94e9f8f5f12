"""Local files are known by what they hold, whatever their times say."""

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image
from reprscope import published
from reprscope.plan import specs
from reprscope.plan.parse import parse
from reprscope.plan.read import read
from reprscope.runtime import fingerprints
from reprscope.runtime.errors import UserError
from support.embedded import NANO

ROOT = Path(__file__).parents[2]
WILDCARDS = {
    "dataset": "mine",
    "view": "textured",
    "vae": "own",
    "model": "own",
    "resolution": "64",
    "pixels": "11",
    "shard": "0of1",
    "task": "marked",
    "protocol": "standard",
}
SPECS = {
    "photos/cat {a}.png": lambda study: specs.fetch_dataset(study, "mine"),
    "model/unet/diffusion_pytorch_model.safetensors": lambda study: specs.fetch_model(study, "own"),
    "texture.png": lambda study: specs.encode_images(study, WILDCARDS),
    "labels.csv": lambda study: specs.evaluate(study, WILDCARDS),
}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study that reads a file of every kind, each of them years old."""
    shutil.copytree(NANO, tmp_path / "model")
    (tmp_path / "photos").mkdir()
    for name in ("photos/cat {a}.png", "photos/dog.png", "texture.png"):
        Image.new("L", (8, 8), len(name)).save(tmp_path / name)
    (tmp_path / "labels.csv").write_text("image_id,class\nx,plane\n")
    for name in SPECS:
        os.utime(tmp_path / name, (1.5e9, 1.5e9))
    monkeypatch.chdir(tmp_path)
    fingerprints.contents.cache_clear()
    config = read(ROOT / "tests/small.yaml")
    config["datasets"] = {"mine": {"source": "folder", "path": "photos"}}
    config["models"] = {"own": {"path": "model", "resolution": 64}}
    overlay = {"overlay": {"texture": "texture.png", "amount": 0.5}}
    config["views"] = {"textured": {"operations": [overlay]}}
    config["tasks"] = {"marked": {"kind": "anomalies", "labels": "labels.csv"}}
    config["experiments"] = [
        {
            "name": "marked",
            "tasks": ["marked"],
            "datasets": ["mine"],
            "views": ["textured"],
            "models": ["own"],
            "positions": ["mid"],
            "timesteps": [50],
        }
    ]
    yield lambda: parse(config)
    fingerprints.contents.cache_clear()


def replaced(path: Path, *, other: bool, seconds: float) -> None:
    """Put another file in a file's place, as cp -p or rsync do, with another time."""
    data = bytearray(path.read_bytes())
    data[-1] ^= other
    time = path.stat().st_mtime + seconds
    new = path.with_name("new")
    new.write_bytes(data)
    os.utime(new, (time, time))
    new.replace(path)


@pytest.mark.parametrize("seconds", [-1e8, 0, 1e8])
@pytest.mark.parametrize("name", SPECS)
def test_a_file_of_any_age_in_the_place_of_another_changes_the_spec_of_what_reads_it(
    study, name, seconds
):
    before = {file: spec(study()) for file, spec in SPECS.items()}
    fingerprints.contents().save()
    replaced(Path(name), other=False, seconds=seconds)
    assert {file: spec(study()) for file, spec in SPECS.items()} == before
    replaced(Path(name), other=True, seconds=seconds)
    changed = {file for file, spec in SPECS.items() if spec(study()) != before[file]}
    assert changed == {name}


def test_a_file_in_place_with_its_old_size_and_time_is_seen(study):
    path, spec = Path("texture.png"), SPECS["texture.png"]
    before = spec(study())
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, (1.5e9, 1.5e9))
    assert spec(study()) != before


def test_files_are_read_once_and_again_only_when_they_have_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprints, "SETTLED", -1.0)  # these files are new and stay as they are
    names = [tmp_path / f"{number}.png" for number in range(20)]
    for path in names:
        path.write_bytes(path.name.encode())
    read = []

    def find(path: Path) -> str:
        read.append(path)
        return path.read_text()

    def facts() -> list[str]:
        known = fingerprints.Known(tmp_path / "known.json")
        found = [known.fact(str(path), find) for path in names]
        known.save()
        return found

    assert facts() == [path.name for path in names] == facts()
    assert read == names
    names[7].write_text("other")
    assert facts()[7] == "other"
    assert read == [*names, names[7]]


def test_what_changed_a_moment_ago_is_not_trusted(tmp_path):
    """A file may change twice within the resolution of its times."""
    path = tmp_path / "a"
    path.write_text("a")
    known = fingerprints.Known(tmp_path / "known.json")
    assert known.fact(str(path), Path.read_text) == "a"
    known.save()
    assert not (tmp_path / "known.json").exists()


@pytest.mark.parametrize("kept", ["", "{", "[1]", '{"a": 3}', '{"a": [1]}'])
def test_a_damaged_memory_is_no_memory(tmp_path, kept):
    (tmp_path / "known.json").write_text(kept)
    (tmp_path / "a").write_text("b")
    assert (
        fingerprints.Known(tmp_path / "known.json").fact(str(tmp_path / "a"), Path.read_text) == "b"
    )


def test_a_job_stops_if_a_file_is_not_what_was_planned(study):
    planned = fingerprints.each(["texture.png"])
    fingerprints.check(planned)
    replaced(Path("texture.png"), other=True, seconds=-1e8)
    with pytest.raises(UserError, match=r"texture\.png has changed since this run was planned"):
        fingerprints.check(planned)
    Path("texture.png").unlink()
    with pytest.raises(UserError, match=r"texture\.png cannot be read"):
        fingerprints.check(planned)


def test_published_values_count_where_they_are_shown(study):
    spec = json.loads(specs.scorecard(study()))
    names = {Path(file).name for file in published.files(list(published.index()))}
    assert set(spec["values"]) == names
