import io
import shutil

import numpy as np
import pytest
from PIL import Image
from reprscope.base.parameters import build
from reprscope.data.canonical import check, decode
from reprscope.data.sources import folder as source
from reprscope.runtime.errors import UserError
from support.miniatures import jpeg
from support.pictures import smooth_image


def save(path, kind, mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(smooth_image(24, 16, len(path.name))).convert(mode).save(path, kind, **options)
    return path


@pytest.fixture
def classes(tmp_path):
    """Two classes, each with images of several kinds."""
    folder = tmp_path / "animals"
    (folder / "cat").mkdir(parents=True)
    (folder / "cat" / "one.jpg").write_bytes(jpeg(30, 20, 1))
    save(folder / "cat" / "two.PNG", "png")
    save(folder / "dog" / "grey.png", "png", "L")
    save(folder / "dog" / "web.webp", "webp", lossless=True)
    (folder / "dog" / "notes.txt").write_text("not an image")
    (folder / ".cache").mkdir()
    save(folder / ".cache" / "thumb.png", "png")
    return folder


def read(folder, **settings):
    parameters = build(source.Parameters, {"path": str(folder)} | settings, entry="datasets.mine")
    dataset = source.build(parameters, 1)
    check(dataset)
    return dataset.images, source.provides(parameters), source.files(parameters)


def test_folders_are_classes(classes):
    images, provides, files = read(classes)
    assert images["image_id"].to_list() == [
        "cat/one.jpg",
        "cat/two.PNG",
        "dog/grey.png",
        "dog/web.webp",
    ]
    assert images["label"].to_list() == ["cat", "cat", "dog", "dog"]
    assert provides == {"labels"}
    assert files == [str(classes / name) for name in images["image_id"]]
    assert images["width"].to_list() == [30, 24, 24, 24]
    assert images["height"].to_list() == [20, 16, 16, 16]


def test_all_become_rgb_and_jpegs_keep_their_bytes(classes):
    images, _, _ = read(classes)
    rows = {row["image_id"]: row["image"] for row in images.iter_rows(named=True)}
    assert rows["cat/one.jpg"] == (classes / "cat" / "one.jpg").read_bytes()
    assert rows["cat/two.PNG"] == (classes / "cat" / "two.PNG").read_bytes()
    for name, data in rows.items():
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.mode == "RGB"
            assert picture.format in ("PNG", "JPEG")
        expected = np.asarray(Image.open(classes / name).convert("RGB"))
        assert np.array_equal(decode(data, name), expected)


def test_a_photograph_is_turned_as_its_camera_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the sensor's top is at the right
    path = save(tmp_path / "flat" / "photo.png", "png", exif=exif)
    images, provides, _ = read(tmp_path / "flat")
    assert provides == frozenset()
    assert images.select("width", "height").row(0) == (16, 24)
    stored = np.asarray(Image.open(path))
    assert np.array_equal(decode(images["image"][0], ""), np.rot90(stored, -1))


def test_folders_may_be_splits(classes):
    for split in ("train", "test"):
        shutil.copytree(classes / "dog", classes.parent / "split" / split / "dog")
        shutil.copytree(classes / "cat", classes.parent / "split" / split / "cat")
    images, provides, _ = read(classes.parent / "split")
    assert provides == {"labels"}
    assert images.select("image_id", "label", "split").row(0) == (
        "test/cat/one.jpg",
        "cat",
        "test",
    )
    assert dict(images["split"].value_counts().iter_rows()) == {"test": 4, "train": 4}


def test_metadata_adds_labels_captions_and_splits(tmp_path):
    for name in "abc":
        save(tmp_path / "flat" / f"{name}.png", "png")
    (tmp_path / "flat" / "metadata.csv").write_text(
        'file_name,caption,split,label\nb.png,"a bee, flying",test,bee\nc.png,,validation,\n'
    )
    images, provides, files = read(tmp_path / "flat", validation=0, test=0)
    assert provides == {"labels", "captions"}
    assert files[-1].endswith("metadata.csv")
    assert images.select("image_id", "label", "caption", "split").rows() == [
        ("a.png", None, None, "train"),
        ("b.png", "bee", "a bee, flying", "test"),
        ("c.png", None, None, "validation"),
    ]


def test_the_drawn_split_of_an_image_stays_as_others_come_and_go(tmp_path):
    first = save(tmp_path / "many" / "000.png", "png")
    for number in range(1, 300):
        shutil.copy(first, first.with_name(f"{number:03d}.png"))
    images, _, _ = read(tmp_path / "many")
    counts = dict(images["split"].value_counts().iter_rows())
    assert counts == {"train": 150, "validation": 60, "test": 90}
    before = dict(images.select("image_id", "split").rows())
    first.unlink()
    after = dict(read(tmp_path / "many")[0].select("image_id", "split").rows())
    assert sum(before[name] != split for name, split in after.items()) <= 2
    other = read(tmp_path / "many", seed=1)[0]["split"].to_list()
    assert other != list(after.values())


MISTAKES = {
    "no folder": ({"path": "/nowhere/images"}, None, r"There is no folder /nowhere/images: set"),
    "shares": ({"validation": 0.6, "test": 0.6}, None, "validation and test are shares"),
    "negative": ({"test": -0.1}, None, "validation and test are shares"),
    "column": ({}, "name,label\na.png,x\n", r"has no column file_name, only name, label"),
    "unknown image": ({}, "file_name,label\nz.png,x\n", r"names z\.png, which is not in"),
    "split": ({}, "file_name,split\na.png,kept\n", r"split of a\.png is kept: use train"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence(mistake, tmp_path):
    settings, metadata, sentence = MISTAKES[mistake]
    save(tmp_path / "flat" / "a.png", "png")
    if metadata:
        (tmp_path / "flat" / "metadata.csv").write_text(metadata)
    with pytest.raises(UserError, match=sentence):
        read(tmp_path / "flat", **settings)


def test_a_broken_image_is_named(classes):
    path = classes / "cat" / "one.jpg"
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(UserError, match=r"Image cat/one\.jpg cannot be decoded"):
        read(classes)


def test_an_empty_folder_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="has no images"):
        read(tmp_path)
