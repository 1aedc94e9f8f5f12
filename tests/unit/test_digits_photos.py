import socket
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import skimage
from PIL import Image
from reprscope.data.canonical import check, decode
from reprscope.data.sources import digits, photos
from reprscope.runtime.errors import UserError
from sklearn.datasets import load_digits


@pytest.fixture
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("tried to use the network")

    monkeypatch.setattr(socket, "socket", refuse)


def test_digits_have_their_labels_and_fixed_splits(offline):
    dataset = digits.build(digits.Parameters(size=16), 1)
    check(dataset)
    images = dataset.images
    assert images["label"].to_list() == [str(label) for label in load_digits().target]
    counts = dict(images["split"].value_counts().iter_rows())
    assert counts == {"train": 1197, "validation": 300, "test": 300}
    again = digits.build(digits.Parameters(size=16), 1)
    assert again.images.equals(images)
    other = digits.build(digits.Parameters(size=16, seed=1), 1)
    assert (other.images["split"] != images["split"]).sum() > 300
    assert set(images.filter(pl.col("split") == "test")["label"]) == set("0123456789")


def test_digits_are_enlarged_pixels():
    small = digits.build(digits.Parameters(size=8, train=30, validation=5, test=5), 1)
    large = digits.build(digits.Parameters(size=64, train=30, validation=5, test=5), 1)
    assert small.images.height == 40
    assert small.images["image_id"].to_list() == large.images["image_id"].to_list()
    originals = load_digits().images
    for one, two in zip(
        small.images.iter_rows(named=True), large.images.iter_rows(named=True), strict=True
    ):
        grey = originals[int(one["image_id"].split("-")[1])] * 255 / 16
        exact = decode(one["image"], "")
        assert np.abs(exact - grey[:, :, None]).max() <= 0.5
        assert two["width"] == two["height"] == 64
        smooth = decode(two["image"], "").astype(float)
        assert (smooth == smooth[:, :, :1]).all()
        blocks = smooth[:, :, 0].reshape(8, 8, 8, 8).mean(axis=(1, 3))
        assert np.corrcoef(blocks.ravel(), grey.ravel())[0, 1] > 0.97
        # Bicubic, not nearest: the block is not constant.
        assert len(np.unique(smooth[:, :, 0])) > 40


@pytest.mark.parametrize(
    "wrong", [{"train": 1500}, {"test": -1}, {"train": 0, "validation": 0, "test": 0}]
)
def test_digits_refuse_impossible_splits(wrong):
    with pytest.raises(UserError, match="1797"):
        digits.Parameters(**wrong)


def test_photos_are_the_files_of_the_wheel(offline):
    dataset = photos.build(photos.Parameters(), 1)
    check(dataset)
    images = dataset.images
    assert images["label"].is_null().all()
    assert set(images["split"]) == {"test"}
    assert {"astronaut", "cat", "coffee", "rocket"} <= set(images["image_id"])
    folder = Path(skimage.__file__).parent / "data"
    for name, file in (("cat", "chelsea.png"), ("motorcycle", "motorcycle_left.png")):
        row = images.row(by_predicate=pl.col("image_id") == name, named=True)
        expected = np.asarray(Image.open(folder / file).convert("RGB"))
        assert (decode(row["image"], name) == expected).all()
        assert (row["height"], row["width"]) == expected.shape[:2]


def test_photos_are_in_colour():
    for row in photos.build(photos.Parameters(), 1).images.iter_rows(named=True):
        pixels = decode(row["image"], row["image_id"]).astype(int)
        assert np.ptp(pixels, axis=2).max() > 60
