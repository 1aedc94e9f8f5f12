import io
import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from PIL import Image
from reprscope.data.canonical import check
from reprscope.data.sources import cutouts
from reprscope.runtime.errors import UserError

# Two of the user's cut-outs, 8 px of 16 px on a 2 x 2 grid: left edges at 0 + 1 - 4 = -3 and 5.
SMALL = {"size": 16, "cutout": 8, "grid": 2, "pairs": 112}
POINTS = {"a": {"near": [1, 1], "far": [6, 5]}, "b": {"far": [4, 4], "other": [7, 7]}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("cutouts")
    for name, colour in (("a", (200, 10, 10, 255)), ("b", (10, 10, 200, 255))):
        rgba = np.zeros((8, 8, 4), np.uint8)
        rgba[:, 1:7] = colour
        Image.fromarray(rgba).save(path / f"{name}.png")
        (path / f"{name}.json").write_text(json.dumps(POINTS[name]))
    return path


@pytest.fixture(scope="module")
def small(folder):
    return cutouts.build(cutouts.Parameters(folder=str(folder), **SMALL), 1)


def point(dataset, image, name):
    row = dataset.keypoints.filter(image_id=image, keypoint=name)
    return row.select("x", "y").rows()


def test_counts_by_hand(small):
    assert len(small.images) == 2 * 4 * 2
    # near (1, 1) is at -2 or 6: shown only in the last position. far of a is at 3 and 11 or 2 and
    # 10, far of b at 1 and 9, other at 4 and 12: shown everywhere. So per mirroring all 8 pictures
    # share far, 56 ordered pairs; pictures of b share other too, 12 of them.
    assert len(small.pairs) == 2 * 56
    counts = small.pairs["keypoints"].list.len()
    assert counts.sum() == 2 * (56 + 12)
    check(small)


def test_a_keypoint_that_is_cut_off_is_nowhere(small):
    assert point(small, "a-r00-c00", "near") == []
    assert point(small, "a-r00-c01", "near") == []
    assert point(small, "a-r01-c01", "near") == [(6, 6)]
    assert not small.pairs["keypoints"].list.contains("near").any()


def test_keypoints_follow_position_and_mirroring(small):
    assert point(small, "a-r00-c01", "far") == [(5 + 6, -3 + 5)]
    assert point(small, "a-r00-c01-mirrored", "far") == [(16 - 11, 2)]
    pair = small.pairs.filter(source_id="a-r00-c01-mirrored", target_id="b-r01-c00-mirrored")
    assert pair["source_xy"].to_list() == [[[5, 2]]]
    assert pair["target_xy"].to_list() == [[[16 - 1, 9]]]
    assert pair["source_box"].to_list() == [[16 - 12, 0, 16 - 6, 5]]


def test_pictures_show_the_cutout_where_the_box_says(small):
    for name, data in small.images.select("image_id", "image").rows():
        pixels = np.asarray(Image.open(io.BytesIO(data)))
        rows, columns = np.nonzero((pixels != 255).any(axis=2))
        box = small.pairs.filter(source_id=name)["source_box"][0].to_list()
        assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        mirror = small.images.filter(image_id=name.removesuffix("-mirrored"))["image"][0]
        if name.endswith("-mirrored"):
            assert (pixels == np.asarray(Image.open(io.BytesIO(mirror)))[:, ::-1]).all()


def test_pairs_are_of_equal_mirroring_and_never_of_one_picture(small):
    ends = small.pairs.select(
        same=pl.col("source_id") == pl.col("target_id"),
        source=pl.col("source_id").str.ends_with("-mirrored"),
        target=pl.col("target_id").str.ends_with("-mirrored"),
    )
    assert not ends["same"].any()
    assert (ends["source"] == ends["target"]).all()
    assert small.pairs["pair_id"].is_unique().all()


def test_keypoints_are_comparable_within_a_mirroring(small):
    mirrored = small.keypoints["image_id"].str.ends_with("-mirrored")
    assert small.images["scene"].to_list() == small.images["label"].to_list()
    assert small.keypoints["group"].to_list() == mirrored.cast(int).to_list()


def test_a_drawn_number_of_pairs_is_some_of_all(folder, small):
    settings = {"folder": str(folder), **SMALL, "pairs": 30}
    one = cutouts.build(cutouts.Parameters(**settings), 1).pairs
    two = cutouts.build(cutouts.Parameters(**settings, seed=2), 1).pairs
    assert len(one) == 30
    assert one.join(small.pairs, on=one.columns, how="semi").equals(one)
    assert set(one["pair_id"]) != set(two["pair_id"])
    assert one.equals(cutouts.build(cutouts.Parameters(**settings), 1).pairs)


def test_rendered_cutouts_fill_their_square():
    settings = cutouts.Parameters(size=96, cutout=32, grid=2, kinds=3, mirrored=False)
    dataset = cutouts.build(replace(settings, pairs=100), 1)
    check(dataset)
    assert dataset.images["label"].n_unique() == 3
    # The left edges are at 0 + 1 - 16 and 48 + 1 - 16, so the last position shows all of it.
    whole = dataset.pairs.filter(pl.col("source_id").str.ends_with("r01-c01"))
    boxes = np.array(whole.unique("source_id")["source_box"].to_list())
    assert len(boxes) == 3
    assert (boxes[:, :2] >= 33).all()
    assert (boxes[:, 2:] <= 65).all()
    longer = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    assert (longer >= 31).all()


FAULTS = {
    "no cut-outs": ({}, "has no cut-outs"),
    "no keypoints": ({"a.json": None}, "is not a file of keypoints"),
    "keypoints in a list": ({"a.json": "[1]"}, "is not a file of keypoints"),
    "keypoint outside": ({"a.json": '{"nose": [9, 1]}'}, "nose of .* lies outside"),
}


@pytest.mark.parametrize(("files", "sentence"), FAULTS.values(), ids=FAULTS)
def test_user_mistakes(files, sentence, tmp_path):
    for name, text in files.items():
        Image.fromarray(np.full((8, 8, 4), 9, np.uint8)).save(tmp_path / "a.png")
        if text is not None:
            (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=sentence):
        cutouts.read_cutouts(tmp_path, 8)


def test_settings_that_cannot_be():
    with pytest.raises(UserError, match="do not divide"):
        cutouts.Parameters(size=100, grid=16)
    with pytest.raises(UserError, match="pairs of cutouts must be from 1"):
        cutouts.Parameters(pairs=0)


def test_more_pairs_than_there_are(folder):
    with pytest.raises(UserError, match="make 112 pairs, not 113"):
        cutouts.build(cutouts.Parameters(folder=str(folder), **(SMALL | {"pairs": 113})), 1)


def test_a_users_cutouts_are_files_of_the_dataset(tmp_path):
    for name in ("a.png", "a.json", "notes.txt"):
        (tmp_path / name).touch()
    found = cutouts.files(cutouts.Parameters(folder=str(tmp_path)))
    assert found == [str(tmp_path / "a.json"), str(tmp_path / "a.png")]
    assert cutouts.files(cutouts.Parameters()) == []
    with pytest.raises(UserError, match="no folder"):
        cutouts.files(cutouts.Parameters(folder=str(tmp_path / "none")))
