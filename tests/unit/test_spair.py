import tarfile

import polars as pl
import pytest
from reprscope.base.parameters import build
from reprscope.data import sources
from reprscope.data.canonical import Annotations, check, write_dataset
from reprscope.data.sources import spair as source
from reprscope.runtime.errors import UserError
from support.file_server import FileServer
from support.miniatures import SPAIR_COUNTS, SPAIR_IMAGES, sha256, spair


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return spair(tmp_path_factory.mktemp("spair") / "SPair-71k.tar.gz")


def settings(archive, **changes):
    values = {"urls": [str(archive)], "size": None, "counts": SPAIR_COUNTS}
    values |= {"checksum": sha256(archive)} | changes
    return build(source.Parameters, values, entry="datasets.spair")


@pytest.fixture(scope="module")
def dataset(archive):
    found = source.build(settings(archive), 1)
    check(found)
    return found


def test_an_archive_on_this_machine_is_part_of_what_the_dataset_is_made_from(archive):
    assert sources.files(source, settings(archive)) == [str(archive)]
    assert sources.files(source, source.Parameters()) == []


def test_the_published_numbers_are_the_defaults():
    defaults = source.Parameters()
    assert defaults.size == 226961117
    assert defaults.checksum.endswith("408809")
    assert defaults.counts == {
        "images": 1800,
        "train_pairs": 53340,
        "validation_pairs": 5384,
        "test_pairs": 12234,
        "test_keypoints": 88328,
    }
    assert source.provides(defaults) == {"labels", "pairs", "keypoints", "difficulties"}


def test_images_keep_their_bytes_under_names_that_are_unique(dataset, archive):
    images = dataset.images
    assert images["image_id"].is_unique().all()
    assert {"cat/2009_000446", "dog/2009_000446"} <= set(images["image_id"])
    with tarfile.open(archive) as tar:
        for row in images.iter_rows(named=True):
            member = f"SPair-71k/JPEGImages/{row['image_id']}.jpg"
            assert row["image"] == tar.extractfile(member).read()
            category, name = row["image_id"].split("/")
            split, size, *_ = SPAIR_IMAGES[category][name]
            assert (row["width"], row["height"]) == size
            assert row["label"] == category
            expected = {"trn": "train", "val": "validation", "test": "test", None: "train"}
            assert row["split"] == expected[split]


def test_pairs_have_points_boxes_and_all_attributes(dataset):
    pairs = dataset.pairs
    assert dict(pairs["split"].value_counts().iter_rows()) == {
        "train": 2,
        "validation": 2,
        "test": 4,
    }
    pair = pairs.row(
        by_predicate=(pl.col("source_id") == "cat/2009_001605"),
        named=True,
    )
    # The target's point 1 has no partner.
    assert pair == {
        "pair_id": "000006-2009_001605-2009_000446:cat",
        "split": "test",
        "category": "cat",
        "source_id": "cat/2009_001605",
        "target_id": "cat/2009_000446",
        "keypoints": ["0", "2"],
        "source_xy": [[40.0, 12.0], [9.0, 44.0]],
        "target_xy": [[12.0, 8.0], [25.0, 33.0]],
        "source_box": [5.0, 10.0, 35.0, 45.0],
        "target_box": [10.0, 5.0, 45.0, 35.0],
        "viewpoint_variation": 0,
        "scale_variation": 1,
        "truncation": 2,
        "occlusion": 0,
        "mirror": 0,
    }
    dogs = pairs.filter(pl.col("category") == "dog")
    assert dogs["keypoints"].to_list() == [["0", "5"]] * 2
    assert set(pairs["mirror"]) == {0, 1}


def test_keypoints_of_every_image(dataset):
    found = dataset.keypoints.filter(pl.col("image_id") == "cat/2008_000115")
    assert found.select("keypoint", "x", "y", "visible").rows() == [
        ("0", 10.0, 10.0, True),
        ("2", 30.0, 40.0, True),
    ]


def test_keypoints_are_comparable_within_a_category(dataset):
    of = dataset.keypoints.join(dataset.images.select("image_id", "label"), on="image_id")
    pairs = of.select("label", "group").unique()
    assert len(pairs) == of["label"].n_unique() == of["group"].n_unique() > 1


def test_a_point_just_beyond_the_border_is_moved_onto_it(dataset):
    pair = dataset.pairs.filter(pl.col("target_id") == "dog/2010_000001").row(0, named=True)
    assert pair["target_xy"] == [[6.0, 6.0], [38.0, 33.0]]
    point = dataset.keypoints.filter(
        (pl.col("image_id") == "dog/2010_000001") & (pl.col("keypoint") == "5")
    )
    assert point.select("x", "y").row(0) == (38.0, 33.0)
    assert source._inside([-10, 20], [30, 20]) == (0.0, 20.0)
    # Farther out it is a mistake, which the check of the canonical form names.
    assert source._inside([41, -11], [30, 20]) == (41.0, -11.0)


def test_it_goes_through_the_files_and_from_a_server(archive, tmp_path, monkeypatch):
    monkeypatch.setenv("REPRSCOPE_CACHE", str(tmp_path / "cache"))
    with FileServer(archive.parent) as server:
        urls = [server.url("elsewhere.tar.gz"), server.url(archive.name)]
        write_dataset(source.build(settings(archive, urls=urls), 1), tmp_path / "spair")
    read = Annotations(tmp_path / "spair")
    assert read.pairs().height == 8
    assert read.image("dog/2010_000001").shape == (33, 44, 3)
    assert (tmp_path / "spair" / "keypoints.parquet").is_file()


@pytest.mark.parametrize("name", SPAIR_COUNTS)
def test_a_wrong_count_is_an_error(archive, name):
    wrong = settings(archive, counts=SPAIR_COUNTS | {name: SPAIR_COUNTS[name] + 1})
    sentence = f"SPair-71k has {SPAIR_COUNTS[name]} {name.replace('_', ' ')}, not"
    with pytest.raises(UserError, match=sentence):
        source.build(wrong, 1)


def test_published_counts_hold_unless_others_are_stated(archive):
    with pytest.raises(UserError, match="not 1800"):
        source.build(source.Parameters(urls=(str(archive),), size=None, checksum=None), 1)


def test_a_wrong_checksum_and_a_cut_archive_are_one_sentence(archive, tmp_path):
    cut = tmp_path / archive.name
    cut.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    with pytest.raises(UserError, match="its sha256 is"):
        source.build(settings(archive, urls=[str(cut)]), 1)
    with pytest.raises(UserError, match=r"The archive .* cannot be read .*delete it and run again"):
        source.build(settings(archive, urls=[str(cut)], checksum=None), 1)


def test_mistakes_in_the_settings_are_found_before_any_work(archive):
    with pytest.raises(UserError, match=r"datasets\.spair: counts has an unknown key pairs"):
        settings(archive, counts={"pairs": 3})
    with pytest.raises(UserError, match=r"datasets\.spair: urls is empty"):
        settings(archive, urls=[])
