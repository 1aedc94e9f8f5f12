"""Datasets of the hub, through the real client against a stand-in."""

import io
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from PIL import Image
from reprscope.base.parameters import build
from reprscope.data.canonical import decode, encode_png, read_record
from reprscope.data.sources import cifar10, cifar100, huggingface, imagenet_subset, tiny_imagenet
from reprscope.data.wordnet import words
from reprscope.runtime.errors import UserError
from support import miniatures
from support.hub import serve
from support.pictures import smooth_image

ROOT = Path(__file__).parents[2]

#: Fetches datasets one after the other and says how each ended.
RUN = """
import json, sys
from pathlib import Path
from reprscope.data import sources
from reprscope.data.canonical import write_dataset
from reprscope.runtime.errors import UserError
from reprscope.base.parameters import build

ended = {}
for name, (source, settings) in json.loads(sys.argv[2]).items():
    module = sources.load(source)
    try:
        parameters = build(module.Parameters, settings, entry=f"datasets.{name}")
        write_dataset(module.build(parameters, 1), Path(sys.argv[1], name))
        ended[name] = None
    except UserError as error:
        ended[name] = str(error)
Path(sys.argv[1], "ended.json").write_text(json.dumps(ended))
"""

PHOTO = {"image": "photo", "label": "year", "caption": "text"}
CAPTIONED = {
    "dataset": "someone/captioned",
    "splits": {"test": "validation"},
    "columns": PHOTO,
}
FOLDER = {
    "dataset": "someone/folder",
    "splits": {"train": "train", "test": "test"},
    "columns": {"image": "image", "label": "label"},
}
WEB = {
    "dataset": "someone/web",
    "splits": {"train": "train"},
    "columns": {"image": "jpg", "label": "cls"},
}
PACKED = ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
CIFAR10 = {"counts": {"train_images": 20, "test_images": 10}, "validation": 0.4}


def private(name: str) -> dict:
    return {"dataset": f"someone/private-{name}", "splits": {"test": "train"}}


CASES = {
    "cifar10": ("cifar10", CIFAR10),
    "cifar10-few": ("cifar10", CIFAR10 | {"images": 6, "validation": 0}),
    "cifar10-more": ("cifar10", CIFAR10 | {"images": 9, "validation": 0}),
    "cifar10-count": ("cifar10", {}),
    "cifar100-fine": ("cifar100", {"counts": {"train_images": 12}}),
    "cifar100-coarse": ("cifar100", {"counts": {"train_images": 12}, "label": "coarse"}),
    "tiny": ("tiny_imagenet", {"counts": {"test_images": 6}, "validation": 0}),
    "imagenet": ("imagenet_subset", {"images_per_class": 2}),
    "imagenet-few": ("imagenet_subset", {"dataset": "someone/imagenet", "images_per_class": 1}),
    "imagenet-short": ("imagenet_subset", {"images_per_class": 3}),
    "open": (
        "imagenet_subset",
        {
            "dataset": "someone/folder",
            "classes": ["newt", "owl"],
            "images_per_class": 2,
            "least": 18,
            "size": 16,
        },
    ),
    "captioned": ("huggingface", CAPTIONED),
    "captioned-first": ("huggingface", CAPTIONED | {"images": 4}),
    "captioned-random": ("huggingface", CAPTIONED | {"images": 8, "sample": "random", "seed": 5}),
    "folder": ("huggingface", FOLDER),
    "folder-first": ("huggingface", FOLDER | {"images": 3}),
    "web": ("huggingface", WEB),
    "web-first": ("huggingface", WEB | {"images": 2}),
    "no-column": ("huggingface", CAPTIONED | {"columns": {"image": "picture"}}),
    "no-column-stream": ("huggingface", CAPTIONED | {"columns": {"image": "img"}, "images": 1}),
    "no-images": ("huggingface", CAPTIONED | {"columns": {"image": "text"}}),
    "many-labels": ("huggingface", CAPTIONED | {"columns": {"image": "photo", "label": "tags"}}),
    "no-split": ("huggingface", CAPTIONED | {"splits": {"train": "training"}}),
    "no-config": ("huggingface", CAPTIONED | {"config": "small"}),
    "no-revision": ("huggingface", CAPTIONED | {"revision": "v9"}),
    "script": ("huggingface", {"dataset": "someone/script", "splits": {"test": "test"}}),
    "tables": ("huggingface", {"dataset": "someone/tables", "splits": {"train": "train"}}),
    "empty": ("huggingface", {"dataset": "someone/empty", "splits": {"train": "train"}}),
    "pickle": ("huggingface", {"dataset": "someone/pickle", "splits": {"train": "train"}}),
    "private-struct": ("huggingface", private("struct")),
    "private-feature": ("huggingface", private("feature")),
    "private-stream": ("huggingface", private("feature") | {"images": 1}),
    "private-up": ("huggingface", private("up")),
    "private-url": ("huggingface", private("url")),
    "private-link": ("huggingface", private("scheme")),
    "folder-up": ("huggingface", private("folder-up")),
    "folder-absolute": ("huggingface", private("folder-absolute")),
    "folder-scheme": ("huggingface", private("folder-scheme") | {"images": 1}),
    "no-bytes": ("huggingface", private("nothing")),
    "odd-labels": (
        "huggingface",
        private("odd") | {"columns": {"image": "image", "label": "label", "caption": "text"}},
    ),
    "damaged": ("huggingface", CAPTIONED | {"dataset": "someone/damaged"}),
    "gated": ("imagenet_subset", {"dataset": "someone/gated"}),
    "missing": ("huggingface", {"dataset": "someone/nowhere", "splits": {"test": "test"}}),
}


def fetch(cases: dict, folder: Path, environment: dict[str, str]) -> dict[str, str | None]:
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(folder), json.dumps(cases)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "workflow_scripts")} | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads((folder / "ended.json").read_text())


class Fetched:
    """All cases, fetched once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.mark = folder / "foreign-code-ran"
        served = folder / "hub" / "datasets"
        miniatures.hub(served)
        miniatures.imagenet(served / "someone" / "gated")
        miniatures.imagenet(served / "someone" / "imagenet")
        miniatures.captioned(served / "someone" / "damaged", folder="bent")
        miniatures.image_folder(served / "someone" / "folder")
        miniatures.web_dataset(served / "someone" / "web")
        miniatures.script(served / "someone" / "script", self.mark)
        (served / "someone" / "tables").mkdir()
        (served / "someone" / "tables" / "train.csv").write_text("image\na.png\n")
        (served / "someone" / "empty").mkdir()
        (served / "someone" / "empty" / "README.md").write_text("# nothing\n")
        (served / "someone" / "pickle").mkdir()
        bomb = b"cbuiltins\nopen\n(S'%s'\nS'w'\ntR." % bytes(self.mark)
        (served / "someone" / "pickle" / "train.pkl").write_bytes(bomb)
        self._private(served / "someone")
        with serve(folder / "hub") as hub:
            hub.gated.add("someone/gated")
            # The first download of CIFAR-10 is cut off half way.
            hub.dropped["plain_text/train-00000-of-00001.parquet"] = [9000]
            hub.corrupt.add("bent/validation-00000-of-00001.parquet")
            # Importing torch takes seconds, and the environment of this stage has none.
            self.environment = hub.environment(self.home) | {"USE_TORCH": "0"}
            self.ended = fetch(CASES, folder / "out", self.environment)
            self.requests = list(hub.requests)
            hub.corrupt.clear()
            cases = {name: CASES[name] for name in ("damaged", "captioned")}
            self.later = fetch(cases, folder / "later", self.environment)
            self.later_downloads = hub.downloads()[len(self._downloads()) :]

    def _private(self, someone: Path) -> None:
        """Datasets whose rows name files outside of them, and odd labels."""
        secret = self.folder / "secret.png"
        secret.write_bytes(encode_png(smooth_image(8, 8, 1)))
        up = "../" * 20 + str(secret).lstrip("/")
        for name, path in {
            "struct": str(secret),
            "feature": str(secret),
            "up": up,
            "url": "https://127.0.0.1:1/secret.png",
            "scheme": f"file://{secret}",
            "nothing": None,
        }.items():
            table = pa.table({"image": [{"bytes": None, "path": path}]}, pa.schema([PACKED]))
            miniatures.parquet_of(someone / f"private-{name}", table, feature=name != "struct")
        data = encode_png(smooth_image(8, 8, 1))
        table = pa.table(
            {
                "image": [{"bytes": data, "path": str(secret)}] * 6,
                "label": [1.0, None, -1.0, float("nan"), 2.0, 0.5],
                "text": ["a bee", None, "", "  ", "None", "-1"],
            },
            pa.schema([PACKED, ("label", pa.float64()), ("text", pa.string())]),
        )
        miniatures.parquet_of(someone / "private-odd", table, feature=True)
        for name, path in {"up": up, "absolute": str(secret), "scheme": f"file://{secret}"}.items():
            folder = someone / f"private-folder-{name}" / "train"
            folder.mkdir(parents=True)
            (folder / "a.png").write_bytes(data)
            row = json.dumps({"file_name": path})
            (folder / "metadata.jsonl").write_text(row + "\n")

    def _downloads(self) -> list[str]:
        return [p for method, p in self.requests if method == "GET" and "/resolve/" in p]

    def images(self, case: str) -> pl.DataFrame:
        assert self.ended[case] is None, self.ended[case]
        return pl.read_parquet(self.folder / "out" / case / "images.parquet")


@pytest.fixture(scope="module")
def fetched(tmp_path_factory):
    return Fetched(tmp_path_factory.mktemp("hub"))


def test_cifar10_has_its_pixels_names_and_splits(fetched):
    images = fetched.images("cifar10")
    assert images.height == 30
    for row in images.iter_rows(named=True):
        _, split, number = row["image_id"].split("-")
        seed = int(number) + (1000 if split == "test" else 0)
        assert np.array_equal(decode(row["image"], ""), smooth_image(32, 32, seed))
        assert row["label"] == miniatures.CIFAR10[3 * int(number) % 10]
        assert row["caption"] is None
        assert (row["split"] == "test") == (split == "test")
    counts = dict(images["split"].value_counts().iter_rows())
    assert counts["train"] + counts["validation"] == 20
    assert 2 <= counts["validation"] <= 14


def test_a_larger_sample_contains_the_smaller_one(fetched):
    few, more = fetched.images("cifar10-few"), fetched.images("cifar10-more")
    for split, size in (("train", 20), ("test", 10)):
        small = set(few.filter(pl.col("split") == split)["image_id"])
        large = set(more.filter(pl.col("split") == split)["image_id"])
        assert (len(small), len(large)) == (6, 9)
        assert small < large
        assert small != {f"cifar10-{split}-{i:07d}" for i in range(6)}
        assert size > 9


def test_a_row_that_names_a_file_of_this_machine_is_refused(fetched):
    for case in ("struct", "feature", "stream", "up", "url", "link"):
        ended = fetched.ended[f"private-{case}"]
        assert re.fullmatch(
            r"Row 0 of dataset someone/private-\w+ holds no image but names .*, which is no file "
            r"of the dataset and is not read: use another `revision` or dataset\.",
            ended or "",
        ), (case, ended)
    for case in ("up", "absolute", "scheme"):
        assert re.fullmatch(
            rf"Dataset someone/private-folder-{case} names .*secret.png in its metadata, which is "
            r"no file of the dataset and is not read: use another `revision` or dataset\.",
            fetched.ended[f"folder-{case}"] or "",
        ), (case, fetched.ended[f"folder-{case}"])
    assert "Row 0 of dataset someone/private-nothing has no image" in fetched.ended["no-bytes"]


def test_blank_labels_and_captions_of_rows_are_none_and_counted(fetched):
    images = fetched.images("odd-labels")
    assert images["label"].to_list() == ["1", None, None, None, "2", "0.5"]
    assert images["caption"].to_list() == ["a bee", None, None, None, "None", "-1"]
    record = read_record(fetched.folder / "out" / "odd-labels" / "images.parquet")
    assert record[0].startswith("dataset someone/private-odd of the hub, version ")
    rows = [f"private-odd-train-{row:07d}" for row in (1, 2, 3)]
    assert record[1:] == [
        f"images without a label: 3 ({', '.join(rows)})",
        f"images without a caption: 3 ({', '.join(rows)})",
    ]


def test_a_wrong_count_is_an_error(fetched):
    assert fetched.ended["cifar10-count"].startswith(
        "Dataset uoft-cs/cifar10 has 20 train images, not 50000: it is incomplete"
    )


def test_published_counts_are_the_defaults():
    for source, train in ((cifar10, 50_000), (cifar100, 50_000), (tiny_imagenet, 100_000)):
        assert source.Parameters().counts == {"train_images": train, "test_images": 10_000}
        assert source.provides(source.Parameters()) == {"labels"}


def test_cifar100_has_fine_and_coarse_labels(fetched):
    fine, coarse = fetched.images("cifar100-fine"), fetched.images("cifar100-coarse")
    assert fine["label"].to_list()[:4] == ["fine 0", "fine 7", "fine 14", "fine 21"]
    assert coarse["label"].to_list()[:4] == ["coarse 0", "coarse 7", "coarse 14", "coarse 1"]
    assert fine["image"].to_list() == coarse["image"].to_list()


def test_tiny_imagenet_is_tested_on_valid_and_grey_becomes_rgb(fetched):
    images = fetched.images("tiny")
    counts = dict(images["split"].value_counts().iter_rows())
    assert counts == {"train": 12, "test": 6}
    assert images["label"].to_list()[:12] == ["goldfish"] * 6 + ["European fire salamander"] * 6
    for number, data in enumerate(images["image"].to_list()[:12]):
        original = miniatures.picture(64, 64, number, "jpeg", "L" if number % 3 == 2 else "RGB")
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.mode == "RGB"
            assert picture.format == ("PNG" if number % 3 == 2 else "JPEG")
        expected = Image.open(io.BytesIO(original["bytes"])).convert("RGB")
        assert np.array_equal(decode(data, ""), np.asarray(expected))


def test_classes_of_imagenet_have_a_thousand_different_words():
    assert len(words()) == len(set(words().values())) == 1000
    assert words()["n02124075"] == "Egyptian cat"
    cranes = {words()[name] for name in ("n02012849", "n03126707")}
    assert cranes == {"crane bird", "construction crane"}


def imagenet_rows(count: int) -> list[int]:
    """The thesis' choice, written down plainly."""
    taken: dict[int, int] = {235: 0, 242: 0, 282: 0, 717: 0, 980: 0}
    rows = []
    for row, (label, size) in enumerate(miniatures.IMAGENET_ROWS):
        if label in taken and taken[label] < count and min(size) >= 350:
            taken[label] += 1
            rows.append(row)
    return rows


def test_the_subset_has_the_first_large_images_in_the_order_they_come(fetched):
    images = fetched.images("imagenet")
    rows = imagenet_rows(2)
    assert images["image_id"].to_list() == [f"imagenet-1k-{row:07d}" for row in rows]
    assert images["label"].to_list() == [
        f"synset {miniatures.IMAGENET_ROWS[row][0]}" for row in rows
    ]
    assert set(images["split"]) == {"test"}
    # The third image of class 235 and the one whose short side has 349 px are left out.
    assert 7 not in rows
    assert 2 not in rows


def test_the_squares_are_those_of_the_thesis(fetched):
    for row in fetched.images("imagenet").iter_rows(named=True):
        number = int(row["image_id"].rpartition("-")[2])
        shard, index = (0, number) if number < 8 else (1, number - 8)
        size = miniatures.IMAGENET_ROWS[number][1]
        kind = "CMYK" if size == (640, 400) else "RGB"
        stored = miniatures.picture(*size, 100 * shard + index, "jpeg", kind)["bytes"]
        image = Image.open(io.BytesIO(stored)).convert("RGB")
        w, h = image.size
        s = min(w, h)
        box = (w // 2 - s // 2, h // 2 - s // 2, w // 2 + s // 2, h // 2 + s // 2)
        expected = np.asarray(image.crop(box).resize((512, 512)))
        assert np.array_equal(decode(row["image"], ""), expected)


def test_too_few_images_of_a_class_are_one_sentence(fetched):
    assert fetched.ended["imagenet-short"] == (
        "Dataset ILSVRC/imagenet-1k has 2 images of class 242 with sides of at least 350 px, not "
        "3: correct `classes` or `least`, or ask for fewer `images_per_class`."
    )


def test_an_open_set_stands_in_with_classes_by_name(fetched):
    images = fetched.images("open")
    assert images["label"].to_list() == ["newt", "newt", "owl", "owl"]
    assert set(images["width"]) == set(images["height"]) == {16}
    defaults = imagenet_subset.Parameters()
    assert defaults.classes == (235, 242, 282, 717, 980)
    assert (defaults.images_per_class, defaults.least, defaults.size) == (100, 350, 512)


def test_columns_are_mapped(fetched):
    images = fetched.images("captioned")
    assert images.height == 30
    assert images["image_id"][29] == "captioned-validation-0000029"
    assert images["label"].to_list() == [str(1990 + i) for i in range(30)]
    assert images["caption"].to_list()[:2] == [None, "photograph 1"]
    assert images["height"].to_list()[:4] == [10, 11, 12, 10]
    assert set(images["split"]) == {"test"}
    parameters = build(huggingface.Parameters, CAPTIONED, entry="")
    assert huggingface.provides(parameters) == {"labels", "captions"}


def test_the_first_images_are_those_of_the_whole(fetched):
    whole = fetched.images("captioned")
    assert fetched.images("captioned-first").equals(whole[:4])
    random = fetched.images("captioned-random")
    assert random.height == 8
    assert not random.equals(whole[:8])
    assert random.equals(whole.filter(pl.col("image_id").is_in(random["image_id"].implode())))


@pytest.mark.parametrize("case", ["folder", "web"])
def test_image_folders_and_web_datasets(fetched, case):
    whole, first = fetched.images(case), fetched.images(f"{case}-first")
    if case == "folder":
        assert whole["label"].to_list() == ["newt", "newt", "owl", "owl"] * 2
        assert whole["image"][2] == miniatures.jpeg(24, 18, 1)
        assert first.equals(pl.concat([whole[:3], whole[4:7]]))
    else:
        assert whole["label"].to_list() == ["0", "1", "0", "1"]
        assert whole["width"].to_list() == [16, 17, 18, 19]
        assert first.equals(whole[:2])


def test_a_stream_ends_when_it_has_enough(fetched):
    assert fetched.images("imagenet-few").height == 5
    names = {
        path.rpartition("/")[2]
        for method, path in fetched.requests
        if method == "GET" and path.startswith("/datasets/someone/imagenet/resolve/")
    }
    # Of three files the second holds the last image that is needed.
    assert names == {"train-00000-of-00003.parquet", "train-00001-of-00003.parquet"}


SENTENCES = {
    "no-column": "has no column picture: use photo or year or text or tags in `columns`",
    "no-column-stream": "has no column img: use photo or year or text or tags in `columns`",
    "no-images": "Column text of dataset someone/captioned holds no images",
    "many-labels": "has a label of type list, which is no text or number: set `columns.label`",
    "no-split": "Dataset someone/captioned has no split training: use validation.",
    "no-config": "cannot be opened: set `config`",
    "no-revision": "has no such revision: correct `revision`",
    "script": "is a program that loads data, which is never run",
    "tables": "Dataset someone/tables holds csv files: use one in Parquet",
    "empty": "has no data files that can be read",
    "pickle": "has no data files that can be read",
    "damaged": "of dataset someone/damaged arrived damaged and was deleted: run again",
    "gated": "is gated: open https://huggingface.co/datasets/someone/gated, accept its terms",
    "missing": "is not on the hub, or is private: correct `dataset`",
}


@pytest.mark.parametrize("case", SENTENCES)
def test_a_fault_is_one_sentence_and_nothing_is_written(fetched, case):
    sentence = fetched.ended[case]
    assert SENTENCES[case] in sentence
    assert "\n" not in sentence
    assert not (fetched.folder / "out" / case).exists()


def test_neither_a_script_nor_a_pickle_runs(fetched):
    assert not fetched.mark.exists()


def test_a_dropped_connection_is_taken_up_and_nothing_is_fetched_twice(fetched):
    name = "plain_text/train-00000-of-00001.parquet"
    gets = [path for method, path in fetched.requests if method == "GET" and name in path]
    # Cut off once, then the rest; four cases share what has come.
    assert len(gets) == 2


def test_the_next_run_fetches_what_was_damaged_and_nothing_else(fetched):
    assert fetched.later == {"damaged": None, "captioned": None}
    (path,) = [path for path in fetched.later_downloads if path.endswith(".parquet")]
    assert path.startswith("/datasets/someone/damaged/")
    again = pl.read_parquet(fetched.folder / "later" / "damaged" / "images.parquet")
    whole = fetched.images("captioned")
    assert again["image"].equals(whole["image"])


def test_what_was_fetched_is_used_without_a_network(fetched):
    offline = fetched.environment | {"HF_HUB_OFFLINE": "1"}
    cases = {name: CASES[name] for name in ("cifar10", "folder")}
    ended = fetch(cases | {"missing": CASES["missing"]}, fetched.folder / "again", offline)
    for case in cases:
        assert ended[case] is None, ended[case]
        again = pl.read_parquet(fetched.folder / "again" / case / "images.parquet")
        assert again.equals(fetched.images(case))
    assert ended["missing"] is not None


MISTAKES = {
    "name": (huggingface, CAPTIONED | {"dataset": "captioned"}, "write owner/name"),
    "split": (huggingface, CAPTIONED | {"splits": {"dev": "dev"}}, "splits has an unknown key dev"),
    "splits": (huggingface, CAPTIONED | {"splits": {}}, "splits is empty"),
    "column": (huggingface, CAPTIONED | {"columns": {"img": "a"}}, "columns has an unknown key"),
    "image": (huggingface, CAPTIONED | {"columns": {"label": "a"}}, "columns has no image"),
    "images": (huggingface, CAPTIONED | {"images": 0}, "images must be at least 1"),
    "share": (cifar10, {"validation": 1.5}, "validation and test are shares"),
    "counts": (cifar10, {"counts": {"train": 3}}, "counts has an unknown key train"),
    "classes": (imagenet_subset, {"classes": [1, 1]}, "each only once"),
    "least": (imagenet_subset, {"least": 0}, "least must be at least 2"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_settings_is_found_before_any_work(mistake):
    source, settings, sentence = MISTAKES[mistake]
    with pytest.raises(UserError, match=rf"datasets\.mine: .*{sentence}"):
        build(source.Parameters, settings, entry="datasets.mine")


def test_other_annotations_than_the_named_columns_are_not_promised():
    for labels, captions in itertools.product((True, False), repeat=2):
        columns = {"image": "a"} | ({"label": "b"} if labels else {})
        columns |= {"caption": "c"} if captions else {}
        parameters = build(huggingface.Parameters, CAPTIONED | {"columns": columns}, entry="")
        expected = {"labels"} if labels else set()
        assert huggingface.provides(parameters) == expected | ({"captions"} if captions else set())
