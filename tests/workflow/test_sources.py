"""Datasets that come from outside, through Snakemake."""

import os

from PIL import Image
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
