import weakref
from collections.abc import Mapping

import numpy as np
import polars as pl
import pytest
from reprscope.base.shards import rows
from reprscope.data.canonical import (
    Annotations,
    Dataset,
    check,
    read_images,
    write_dataset,
    write_maps,
)
from reprscope.runtime.errors import UserError
from support.pictures import image_frame, smooth_image


def pairs(**columns) -> pl.DataFrame:
    values = {
        "pair_id": ["p"],
        "source_id": ["image-0"],
        "target_id": ["image-1"],
        "source_xy": [[[3.0, 4.0]]],
        "target_xy": [[[20.0, 0.0]]],
    }
    return pl.DataFrame(values | columns)


def test_round_trip(tmp_path):
    images = image_frame([(20, 30), (40, 10)])
    depth = {"image-0": np.arange(600, dtype=np.float32).reshape(30, 20)}
    write_dataset(Dataset(images=images, pairs=pairs(), depth=depth), tmp_path)
    found = Annotations(tmp_path)
    assert found.images().equals(images.drop("image"))
    assert np.array_equal(found.image("image-1"), smooth_image(40, 10, 1))
    assert np.array_equal(found.depth("image-0"), depth["image-0"])
    assert found.pairs().equals(pairs())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "depth.h5",
        "images.parquet",
        "pairs.parquet",
    ]


FAULTS = {
    "no images": ({"images": image_frame([])}, "has no images"),
    "doubled name": (
        {"images": image_frame([(9, 9)] * 2, image_id=["a", "a"])},
        "Image a is in the dataset twice",
    ),
    "unknown split": (
        {"images": image_frame([(9, 9)], split=["dev"])},
        "Split dev is not one of train, validation, test",
    ),
    "pair without its image": (
        {"pairs": pairs(target_id=["gone"])},
        "Pair p names image gone, which is not there",
    ),
    "keypoint outside": (
        {"pairs": pairs(source_xy=[[[3.0, 40.5]]])},
        "Pair p has a keypoint outside image image-0",
    ),
    "negative keypoint": (
        {"pairs": pairs(target_xy=[[[-0.1, 4.0]]])},
        "Pair p has a keypoint outside image image-1",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_sentence_and_nothing_is_written(fault, tmp_path):
    change, sentence = FAULTS[fault]
    dataset = Dataset(**({"images": image_frame([(20, 40), (40, 10)])} | change))
    with pytest.raises(UserError, match=sentence):
        write_dataset(dataset, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_keypoint_on_the_far_border_is_inside():
    check(
        Dataset(images=image_frame([(20, 40), (40, 10)]), pairs=pairs(target_xy=[[[40.0, 10.0]]]))
    )


class Maps(Mapping):
    """Depth maps that count how many of them exist at once."""

    def __init__(self, count):
        self.count = count
        self.made = []

    def __getitem__(self, name):
        assert sum(made() is not None for made in self.made) <= 1
        values = np.full((30, 20), float(name), np.float32)
        self.made.append(weakref.ref(values))
        return values

    def __iter__(self):
        return map(str, range(self.count))

    def __len__(self):
        return self.count


def test_maps_are_written_one_at_a_time(tmp_path):
    write_maps(tmp_path / "depth.h5", Maps(40))
    assert Annotations(tmp_path).depth("39").max() == 39


def test_a_truncated_image_is_named(tmp_path):
    images = image_frame([(20, 30)])
    cut = images.with_columns(image=pl.Series([images["image"][0][:60]], dtype=pl.Binary))
    write_dataset(Dataset(images=cut), tmp_path)
    with pytest.raises(UserError, match="Image image-0 cannot be decoded"):
        Annotations(tmp_path).image("image-0")


def test_shards_cover_every_row_once(tmp_path):
    for total in (1, 5, 12):
        for count in (1, 2, 3, 5):
            cut = [rows(f"{i}of{count}", total) for i in range(count)]
            assert [row for part in cut for row in part] == list(range(total))
            assert max(map(len, cut)) - min(map(len, cut)) <= 1
    write_dataset(Dataset(images=image_frame([(8, 8)] * 3)), tmp_path)
    path = tmp_path / "images.parquet"
    assert read_images(path, "1of2")["image_id"].to_list() == ["image-1", "image-2"]
    with pytest.raises(UserError, match=r"Shard 0of4 of .* has no images"):
        read_images(path, "0of4")
