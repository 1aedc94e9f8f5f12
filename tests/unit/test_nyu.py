import numpy as np
import pytest
from reprscope.base.parameters import build
from reprscope.data.canonical import Annotations, check, write_dataset
from reprscope.data.sources import nyu as source
from reprscope.runtime.errors import UserError
from support.file_server import FileServer
from support.miniatures import nyu, nyu_scene, nyu_scene_name, nyu_splits, sha256

TRAIN, TEST = [2, 5], [1, 3, 4]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("nyu")
    nyu(path / "labeled.mat")
    nyu_splits(path / "splits.mat", TRAIN, TEST)
    return path


def settings(folder, **changes):
    values = {
        "urls": [str(folder / "labeled.mat")],
        "splits_urls": [str(folder / "splits.mat")],
        "size": None,
        "checksum": None,
        "counts": {"images": 5},
    }
    return build(source.Parameters, values | changes, entry="datasets.nyu")


@pytest.fixture(scope="module")
def written(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("dataset")
    dataset = source.build(settings(folder), 1)
    check(dataset)
    write_dataset(dataset, path)
    return Annotations(path)


def test_images_are_upright(written):
    for number, image_id in enumerate(written.images()["image_id"]):
        image, _, _ = nyu_scene(number)
        found = written.image(image_id)
        assert found.shape == (120, 160, 3)
        # Any turn or mirroring moves the red corner.
        assert (found[:15, :20] == (255, 0, 0)).all()
        assert np.array_equal(found, image)
    assert set(written.images()["width"]) == {160}
    assert set(written.images()["height"]) == {120}


def test_depth_is_upright_in_metres_and_belongs_to_its_image(written):
    for number in range(5):
        depth = written.depth(f"nyu-{number + 1:04d}")
        assert depth.dtype == np.float32
        assert np.array_equal(depth, nyu_scene(number)[1])
        assert depth[0, 0] == 1 + number
        assert depth[119, 159] == 5 + number


def test_every_image_names_its_scene(written, folder, tmp_path):
    names = written.images()["scene"].to_list()
    assert names == [nyu_scene_name(number) for number in range(5)]
    assert names[:3] == ["kitchen_0000", "kitchen_0000", "kitchen_0001"]
    import h5py

    copy = tmp_path / "copy.mat"
    for change, words in (("lost", "has no scenes"), ("few", "names 4 scenes for 5 images")):
        copy.write_bytes((folder / "labeled.mat").read_bytes())
        with h5py.File(copy, "r+") as file:
            kept = file["scenes"][:, :4]
            del file["scenes"]
            if change == "few":
                file.create_dataset("scenes", data=kept, dtype=h5py.ref_dtype)
        with pytest.raises(UserError, match=words):
            source.build(settings(folder, urls=[str(copy)]), 1)


def test_measured_depth_has_its_holes(folder):
    depth = source.build(settings(folder, depth="rawDepths"), 1).depth
    assert (depth["nyu-0003"][25:30, 50:65] == 0).all()
    assert np.array_equal(depth["nyu-0003"], nyu_scene(2)[2])


def test_the_published_division_counts_from_one(written):
    splits = dict(written.images().select("image_id", "split").rows())
    assert {name for name, split in splits.items() if split == "train"} == {
        f"nyu-{number:04d}" for number in TRAIN
    }
    assert set(splits.values()) == {"train", "test"}


def test_the_division_of_the_thesis_needs_no_splits_file(folder):
    thesis = settings(folder, division="thesis", splits_urls=["/nowhere/splits.mat"])
    assert source.build(thesis, 1).images["split"].to_list() == ["train"] * 4 + ["test"]
    splits = source._thesis(1449)
    assert (splits.count("train"), splits.count("test")) == (1159, 290)


def test_only_one_image_and_map_are_in_memory(folder, monkeypatch):
    read = []
    original = source.Labelled._read

    def watched(self, name, row):
        read.append((name, row))
        return original(self, name, row)

    monkeypatch.setattr(source.Labelled, "_read", watched)
    dataset = source.build(settings(folder), 1)
    assert read == [("images", row) for row in range(5)]
    assert dataset.depth["nyu-0005"].shape == (120, 160)
    assert read[5:] == [("depths", 4)]


def test_it_comes_from_a_server_once(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("REPRSCOPE_CACHE", str(tmp_path / "cache"))
    with FileServer(folder) as server:
        server.drop["labeled.mat"] = [80_000]
        parameters = settings(
            folder,
            urls=[server.url("labeled.mat")],
            splits_urls=[server.url("splits.mat")],
            checksum=sha256(folder / "labeled.mat"),
        )
        for _ in range(2):
            assert source.build(parameters, 1).images.height == 5
        names = [name for name, _ in server.requests]
        assert names == ["splits.mat", "labeled.mat", "labeled.mat"]
        assert server.requests[-1][1] > 0


def test_a_wrong_count_is_an_error(folder):
    with pytest.raises(UserError, match=r"NYU Depth v2 has 5 images, not 1449: it is incomplete"):
        source.build(settings(folder, counts=source.COUNTS), 1)
    assert source.Parameters().counts == {"images": 1449}


def test_sideways_arrays_are_refused(folder, tmp_path):
    import h5py

    path = tmp_path / "turned.mat"
    with h5py.File(path, "w") as file:
        file["images"] = np.zeros((2, 480, 640, 3), np.uint8)
        file["depths"] = np.zeros((2, 480, 640), np.float32)
    with pytest.raises(UserError, match=r"has images of shape \(2, 480, 640, 3\)"):
        source.build(settings(folder, urls=[str(path)], counts={"images": 2}), 1)


def test_damaged_files_are_one_sentence(folder, tmp_path):
    page = tmp_path / "page.mat"
    page.write_text("<html>Moved</html>")
    with pytest.raises(UserError, match=r"page\.mat cannot be read .*: delete it and run again"):
        source.build(settings(folder, urls=[str(page)]), 1)
    with pytest.raises(UserError, match=r"page\.mat is not splits\.mat"):
        source.build(settings(folder, splits_urls=[str(page)]), 1)
    cut = tmp_path / "cut.mat"
    cut.write_bytes((folder / "labeled.mat").read_bytes()[:-60_000])
    with pytest.raises(UserError, match=r"cut\.mat"):
        source.build(settings(folder, urls=[str(cut)]), 1)
    for train in ([1, 2], [0, 1, 2, 3, 4], [1, 2, 3, 3, 4, 5]):
        partial = nyu_splits(tmp_path / "splits.mat", train, [5])
        with pytest.raises(UserError, match="does not divide the numbers 1 to 5"):
            source.build(settings(folder, splits_urls=[str(partial)]), 1)
