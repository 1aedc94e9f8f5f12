"""Datasets that come from outside, through Snakemake."""

import os

import polars as pl
import yaml
from PIL import Image
from support import hub, miniatures
from support.file_server import FileServer
from support.miniatures import SPAIR_COUNTS, jpeg, sha256, spair
from support.pictures import smooth_image

TARGET = "results/datasets/mine/images.parquet"


def add_dataset(project, text: str) -> None:
    project.edit("config.yaml", "datasets:\n", f"datasets:\n  mine: {text}\n")


def test_a_folder_is_read_again_when_one_of_its_images_changes(fresh):
    folder = fresh.folder / "photos" / "cat"
    folder.mkdir(parents=True)
    (folder / "a.jpg").write_bytes(jpeg(20, 10, 1))
    add_dataset(fresh, "{source: folder, path: photos}")
    fresh.run(TARGET)
    assert fresh.planned(TARGET) == {}
    (folder / "a.jpg").write_bytes(jpeg(20, 10, 2))
    assert fresh.planned(TARGET) == {"fetch_mine": 1}
    fresh.run(TARGET)
    Image.fromarray(smooth_image(8, 8, 3)).save(folder / "b.png")
    assert fresh.planned(TARGET) == {"fetch_mine": 1}


def test_a_wrong_count_ends_in_one_sentence_and_the_next_run_uses_what_was_fetched(
    fresh, monkeypatch
):
    archive = spair(fresh.folder / "SPair-71k.tar.gz")
    monkeypatch.setitem(os.environ, "REPRSCOPE_CACHE", str(fresh.folder / "cache"))
    with FileServer(fresh.folder) as server:
        counts = ", ".join(f"{name}: {n}" for name, n in (SPAIR_COUNTS | {"images": 7}).items())
        settings = f"urls: ['{server.url(archive.name)}'], size: null, counts: {{{counts}}}"
        add_dataset(fresh, f"{{source: spair, checksum: '{sha256(archive)}', {settings}}}")
        done = fresh.snakemake("--retries", "0", TARGET)
        assert done.returncode != 0
        assert "reprscope: SPair-71k has 9 images, not 7: it is incomplete" in done.stderr
        fresh.edit("config.yaml", "images: 7", "images: 9")
        fresh.run(TARGET)
        assert [name for name, _ in server.requests] == [archive.name]
    made = {path.name for path in (fresh.folder / TARGET).parent.iterdir()}
    assert made == {"images.parquet", "pairs.parquet", "keypoints.parquet"}


def test_the_miniature_of_every_source_is_fetched(fresh, monkeypatch):
    miniatures.hub(fresh.folder / "hub" / "datasets")
    entries = miniatures.entries(fresh.folder / "files")
    path = fresh.folder / "config.yaml"
    study = yaml.safe_load(path.read_text())
    study["datasets"] |= entries
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    targets = [f"results/datasets/{name}/images.parquet" for name in entries]
    with hub.serve(fresh.folder / "hub") as served:
        environment = served.environment(fresh.folder / "home")
        del environment["HF_HUB_OFFLINE"]
        for name, value in environment.items():
            monkeypatch.setitem(os.environ, name, value)
        fresh.run(*targets)
    counts = {
        name: pl.scan_parquet(fresh.folder / target).select(pl.len()).collect().item()
        for name, target in zip(entries, targets, strict=True)
    }
    assert counts == {
        "cifar10": 30,
        "cifar100": 20,
        "tiny-imagenet": 18,
        "imagenet-subset": 10,
        "captioned": 6,
        "photos": 6,
        "spair": 9,
        "nyu": 5,
    }
    assert (fresh.folder / "results" / "datasets" / "nyu" / "depth.h5").is_file()
    assert fresh.planned(*targets) == {}
