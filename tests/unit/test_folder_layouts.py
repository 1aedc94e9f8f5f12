"""Folders as people keep them: splits, classes, tables, links and names."""

import os
import shutil

import numpy as np
import polars as pl
import pytest
from PIL import Image
from reprscope.data.canonical import check, decode, encode_png
from reprscope.data.sources import folder as source
from reprscope.runtime.errors import UserError
from support.pictures import smooth_image

PNG = encode_png(smooth_image(12, 8, 1))


def tree_of(folder, names):
    """Small pictures under names that end in .png, and other files under others."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PNG if path.suffix.lower() == ".png" else b"no picture")
    return folder


def read(folder, **settings):
    dataset = source.build(source.Parameters(path=str(folder), **settings), 1)
    check(dataset)
    return dataset


def table(dataset):
    rows = dataset.images.select("image_id", "split", "label").iter_rows()
    return {name: (split, label) for name, split, label in rows}


def crossed(splits, pattern="{split}/{label}/a.png", labels=("cat", "dog")):
    """Images of every split and label; ``splits`` is from the folders' names to the splits."""
    return {
        pattern.format(split=folder, label=label): (split, label)
        for folder, split in splits.items()
        for label in labels
    }


PLAIN = {"train": "train", "test": "test"}

#: Names of images to their split (None: drawn) and label.
LAYOUTS = {
    "val": crossed(PLAIN | {"val": "validation"}),
    "valid": crossed({"train": "train", "valid": "validation"}),
    "capitals": crossed({"Train": "train", "TEST": "test"}),
    "others": crossed({"training": "train", "dev": "validation", "evaluation": "test"}),
    "words in names": crossed({"train_images": "train", "my-test": "test", "val 2": "validation"}),
    "two names of one split": crossed({"val": "validation", "dev": "validation", "eval": "test"}),
    "classes first": crossed(PLAIN, "{label}/{split}/a.png"),
    "a folder around all": crossed(PLAIN, "pets/{split}/{label}/a.png"),
    "groups of classes": crossed(PLAIN, "{split}/animals/{label}/a.png"),
    "a class named train": crossed(PLAIN, labels=("train", "car")),
    "a class with a word": crossed(PLAIN, labels=("train station", "pier")),
    "splits without classes": {"train/a.png": ("train", None), "test/b.png": ("test", None)},
    "a test split without classes": {
        "train/cat/a.png": ("train", "cat"),
        "train/dog/a.png": ("train", "dog"),
        "test/a.png": ("test", None),
    },
    "classes": {"cat/a.png": (None, "cat"), "dog/a.png": (None, "dog")},
    "similar names": {"trainer/a.png": (None, "trainer"), "contest/a.png": (None, "contest")},
    "one folder": {"photos/a.png": (None, None), "photos/b.png": (None, None)},
    "one class in splits": {"train/cat/a.png": ("train", None), "test/cat/a.png": ("test", None)},
    "flat": {"a.png": (None, None), "b.png": (None, None)},
    "files named for splits": {"train_1.png": (None, None), "test_1.png": (None, None)},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_folders_are_splits_and_classes(layout, tmp_path):
    expected = LAYOUTS[layout]
    dataset = read(tree_of(tmp_path / "d", expected))
    found = table(dataset)
    assert {name: label for name, (_, label) in found.items()} == {
        name: label for name, (_, label) in expected.items()
    }
    for name, (split, _) in expected.items():
        assert split in (None, found[name][0]), name
    named = any("named for a split" in line for line in dataset.record)
    assert named == (layout == "files named for splits")


def test_the_hub_package_reads_the_same_classes_and_splits(tmp_path):
    """Where imagefolder gives every image a split and a class, these are the same."""
    from datasets import load_dataset

    for number, layout in enumerate(("val", "others", "words in names", "groups of classes")):
        folder = tree_of(tmp_path / f"d{number}", LAYOUTS[layout])
        theirs = load_dataset(
            "imagefolder", data_dir=str(folder), cache_dir=str(tmp_path / "cache")
        )
        found = [
            (split, rows.features["label"].names[label])
            for split, rows in theirs.items()
            for label in rows["label"]
        ]
        assert sorted(found) == sorted(table(read(folder)).values()), layout


AMBIGUOUS = {
    "a split beside classes": (["train/a.png", "cat/b.png"], r"folder train looks like a split"),
    "val beside classes": (["cat/a.png", "dog/a.png", "val/cat/a.png"], r"folder val looks like"),
    "images beside splits": (["train/a.png", "b.png"], r"b\.png is not in such a folder"),
    "a class with a word": (["test_tube/a.png", "flask/a.png"], r"folder test_tube looks like"),
    "splits on two levels": (
        ["train/cat/a.png", "more/test/cat/a.png"],
        r"not all such folders are on one level",
    ),
    "images beside classes": (["cat/a.png", "b.png"], r"are in folders of different depth"),
    "deeper": (["cat/a.png", "dog/more/b.png"], r"cat/a\.png and dog/more/b\.png are in folders"),
    "deeper in one split": (
        ["train/cat/a.png", "train/b.png", "test/cat/c.png"],
        r"are in folders of different depth",
    ),
}


@pytest.mark.parametrize("kind", AMBIGUOUS)
def test_a_folder_that_can_be_read_in_two_ways_is_one_sentence(kind, tmp_path):
    names, sentence = AMBIGUOUS[kind]
    folder = tree_of(tmp_path / "d", names)
    with pytest.raises(UserError, match=sentence) as caught:
        source.provides(source.Parameters(path=str(folder)))
    assert "`folders: classes`" in str(caught.value)
    parents = {name: name.split("/")[-2] if "/" in name else None for name in names}
    found = table(read(folder, folders="classes"))
    assert {name: label for name, (_, label) in found.items()} == parents
    assert {label for _, label in table(read(folder, folders="ignore")).values()} == {None}


def test_tables_settle_what_folders_leave_open(tmp_path):
    folder = tree_of(tmp_path / "d", ["train/a.png", "cat/b.png", "c.png"])
    (folder / "metadata.csv").write_text(
        "file_name,split,label\ntrain/a.png,test,x\ncat/b.png,Dev,y\nc.png,training,\n"
    )
    assert table(read(folder)) == {
        "train/a.png": ("test", "x"),
        "cat/b.png": ("validation", "y"),
        "c.png": ("train", None),
    }


def test_tables_in_the_folders_of_splits(tmp_path):
    folder = tree_of(tmp_path / "d", ["train/a.png", "train/b.png", "train/d.png", "val/c.png"])
    (folder / "train" / "metadata.jsonl").write_text(
        '{"file_name": "a.png", "text": "a bee", "label": 3, "box": [1, 2]}\n'
        '\n{"file_name": "./b.png", "text": null, "label": -1, "box": []}\n'
    )
    frame = pl.DataFrame({"file_name": ["c.png"], "label": [4.0], "text": ["a wasp"]})
    frame.write_parquet(folder / "val" / "metadata.parquet")
    dataset = read(folder)
    assert dataset.images.select("image_id", "label", "caption", "split").rows() == [
        ("train/a.png", "3", "a bee", "train"),
        ("train/b.png", None, None, "train"),
        ("train/d.png", None, None, "train"),
        ("val/c.png", "4", "a wasp", "validation"),
    ]
    parameters = source.Parameters(path=str(folder))
    assert source.provides(parameters) == {"labels", "captions"}
    tables = ["train/metadata.jsonl", "val/metadata.parquet"]
    assert {str(folder / name) for name in tables} < set(source.files(parameters))
    assert dataset.record == (
        "4 images in the folder",
        "splits (folders train, val): train 3, validation 1",
        "2 classes: 3 1, 4 1",
        "no image in train of 4",
        "no image in validation of 3",
        "tables: 2 (train/metadata.jsonl, val/metadata.parquet)",
        "columns of tables not read: 1 (box)",
        "images without a row in a table: 1 (train/d.png)",
        "images without a label: 2 (train/b.png, train/d.png)",
        "images without a caption: 2 (train/b.png, train/d.png)",
    )


TABLES = {
    "metadata.csv": {
        "up": ("file_name\n../a.png\n", r"row 2 names \.\./a\.png, which is outside the table's"),
        "up and down": ("file_name\nx/../../d/a.png\n", r"which is outside the table's folder"),
        "absolute": ("file_name\n/etc/passwd\n", r"/etc/passwd, which is outside"),
        "address": ("file_name\nfile:///etc/passwd\n", r"which is outside"),
        "web": ("file_name\nhttps://example.org/a.png\n", r"which is outside"),
        "backslashes": ("file_name\n..\\..\\a.png\n", r"which is outside"),
        "not there": ("file_name\nz.png\n", r"row 2 names z\.png, which is not in the folder"),
        "nothing": ("file_name,label\n,x\n", r"row 2 has no file_name"),
        "twice": ("file_name\na.png\n./a.png\n", r"row 3 names a\.png a second time"),
        "comma": ("file_name,text\na.png,one, two\n", r"row 2 has 3 fields for 2 columns"),
        "semicolons": ("file_name;label\na.png;x\n", r"has no column file_name, only file_name;la"),
        "doubled": ("file_name,label,label\na.png,x,y\n", r"has the column label twice"),
        "quotes": ('file_name,text\na.png,"open\n', r"metadata\.csv cannot be read"),
        "empty": ("", r"has no column file_name"),
    },
    "metadata.jsonl": {
        "up": ('{"file_name": "../a.png"}', r"row 1 names \.\./a\.png, which is outside"),
        "no JSON": ('{"file_name": "a.png"}\n{"file_na', r"row 2 is no JSON"),
        "a list": ('["a.png"]', r"row 1 is not of the form"),
        "number": ('{"file_name": 3}', r"row 1 has no file_name"),
        "labels": ('{"file_name": "a.png", "label": ["x"]}', r"row 1: label is list, not a text"),
        "deep": ('{"file_name": ' + "[" * 100_000, r"row 1 is no JSON"),
    },
    "metadata.parquet": {"no Parquet": ("PAR1 no", r"metadata\.parquet cannot be read")},
}


@pytest.mark.parametrize(("name", "kind"), [(n, k) for n, kinds in TABLES.items() for k in kinds])
def test_a_mistake_in_a_table_is_one_sentence(name, kind, tmp_path):
    content, sentence = TABLES[name][kind]
    folder = tree_of(tmp_path / "d", ["a.png", "b.png"])
    (folder / name).write_text(content)
    with pytest.raises(UserError, match=sentence):
        source.provides(source.Parameters(path=str(folder)))


def test_a_table_in_another_encoding_and_two_tables_in_one_folder(tmp_path):
    folder = tree_of(tmp_path / "d", ["a.png"])
    parameters = source.Parameters(path=str(folder))
    (folder / "metadata.csv").write_bytes("file_name,label\na.png,müsli\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"metadata\.csv cannot be read .*: save it in UTF-8"):
        source.provides(parameters)
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png"}\n')
    with pytest.raises(UserError, match=r"has metadata\.csv and metadata\.jsonl: keep one"):
        source.provides(parameters)


def test_links_are_followed_and_end(tmp_path):
    folder = tree_of(tmp_path / "d", ["cat/a.png"])
    away = tree_of(tmp_path / "away", ["b.png"])
    (folder / "dog").symlink_to(away)
    (folder / "again").symlink_to(folder / "cat")
    (folder / "cat" / "c.png").symlink_to(away / "b.png")
    (away / "up").symlink_to(folder)
    (folder / "cat" / "self").symlink_to(".")
    (folder / "cat" / "gone.png").symlink_to("nowhere.png")
    (folder / "cat" / "round.png").symlink_to("round.png")
    dataset = read(folder)
    assert {name: label for name, (_, label) in table(dataset).items()} == {
        "again/a.png": "again",
        "again/c.png": "again",
        "cat/a.png": "cat",
        "cat/c.png": "cat",
        "dog/b.png": "dog",
    }
    lines = "\n".join(dataset.record)
    assert "links to a folder that they are in left out: 3 (again/self, cat/self, dog/up)" in lines
    assert "links to nothing left out: 4 (again/gone.png, again/round.png, cat/gone.png" in lines
    assert "whose images are read twice: 1 (cat)" in lines


def test_what_is_left_out_is_counted_and_named(tmp_path):
    hidden = [".hidden.png", "._a.png", ".cache/x.png", "__MACOSX/._a.png", "Thumbs.db"]
    others = ["README", "drawing.svg", "notes.txt", "pages.pdf", "photo.heic", "scan.eps"]
    folder = tree_of(tmp_path / "d", ["a.png", "B.PNG", "desktop.ini", *hidden, *others])
    for name, kind in {"c.jfif": "jpeg", "d.tif": "tiff", "e.ppm": "ppm", "f.avif": "avif"}.items():
        Image.open(folder / "a.png").save(folder / name, kind)
    dataset = read(folder)
    assert sorted(table(dataset)) == ["B.PNG", "a.png", "c.jfif", "d.tif", "e.ppm", "f.avif"]
    assert dataset.record[0] == "6 images in the folder"
    assert (
        "hidden files and folders left out: 6 (._a.png, .cache, .hidden.png and 3 more)"
        in dataset.record
    )
    assert (
        "files that are no pictures by their names left out: 6 "
        "(README, drawing.svg, notes.txt and 3 more)" in dataset.record
    )


NAMES = (
    "{brace}.png",
    "{label}.png",
    "two words.png",
    " leading.png",
    "-r.png",
    "new\nline.png",
    "tab\there.png",
    "50%.png",
    "a*b?.png",
    "[1].png",
    "back\\slash.png",
    "quote'\".png",
    "\u00fc-composed.png",
    "u\u0308-decomposed.png",
    "\u732b\U0001f408.png",
    "x" * 240 + ".png",
    "a.png",
    "A.png",
    "a.PNG",
    "a.jpg.png",
    "#.png",
    "~.png",
    "$HOME.png",
)


def test_any_name_that_the_file_system_allows(tmp_path):
    expected = {f"{label}/{name}": label for label in ("{c}", "d\nd") for name in NAMES}
    folder = tree_of(tmp_path / "d", expected)
    assert {name: label for name, (_, label) in table(read(folder)).items()} == expected
    files = source.files(source.Parameters(path=str(folder)))
    assert files == sorted(str(folder / name) for name in expected)


def test_a_name_that_is_no_text_is_escaped(tmp_path):
    folder = tree_of(tmp_path / "d", ["a.png"])
    shutil.copy(folder / "a.png", folder / os.fsdecode(b"caf\xe9.png"))
    assert sorted(table(read(folder))) == ["a.png", "caf\\xe9.png"]


def test_a_table_may_write_letters_in_another_way_than_the_file_system(tmp_path):
    folder = tree_of(tmp_path / "d", ["u\u0308.png", "a.png"])
    (folder / "metadata.csv").write_text("file_name, label\n\u00fc.png,umlaut\n a.png , a\n")
    labels = {name: label for name, (_, label) in table(read(folder)).items()}
    assert labels == {"u\u0308.png": "umlaut", "a.png": "a"}


def test_one_class_written_in_two_ways_is_one(tmp_path):
    names = ["train/\u00fc/a.png", "train/o/a.png", "test/u\u0308/a.png", "test/o/a.png"]
    assert set(read(tree_of(tmp_path / "d", names)).images["label"]) == {"\u00fc", "o"}


def test_one_image_is_read_and_it_is_said_which_splits_are_empty(tmp_path):
    assert read(tree_of(tmp_path / "d", ["a.png"])).record == (
        "1 images in the folder",
        "splits (1 drawn, seed 0): train 1",
        "validation asks for 0.2 of 1 images, which is none",
        "test asks for 0.3 of 1 images, which is none",
    )


def test_sixty_images_of_three_classes(tmp_path):
    names = [f"{label}/{number}.png" for label in ("cat", "dog", "owl") for number in range(20)]
    record = read(tree_of(tmp_path / "d", names)).record
    assert record == (
        "60 images in the folder",
        "splits (60 drawn, seed 0): train 30, validation 12, test 18",
        "3 classes: cat 20, dog 20, owl 20",
    )


def test_transparency_is_laid_over_the_background_of_the_settings(tmp_path):
    (tmp_path / "d").mkdir()
    Image.fromarray(np.zeros((4, 4, 4), np.uint8)).save(tmp_path / "d" / "a.png")
    for background in ((255, 255, 255), (1, 2, 3)):
        images = read(tmp_path / "d", background=background).images
        assert tuple(decode(images["image"][0], "")[0, 0].tolist()) == background


def test_a_folder_without_pictures_names_what_is_there(tmp_path):
    folder = tree_of(tmp_path / "d", ["a.heic", "b.cr2"])
    with pytest.raises(UserError, match=r"has no images but only a\.heic, b\.cr2: set `path`"):
        read(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_cannot_be_read_is_named(tmp_path):
    folder = tree_of(tmp_path / "d", ["cat/a.png", "dog/b.png"])
    (folder / "cat" / "a.png").chmod(0)
    with pytest.raises(UserError, match=r"Image cat/a\.png cannot be read"):
        read(folder)
    (folder / "dog").chmod(0)
    with pytest.raises(UserError, match=r"The folder .*dog cannot be read"):
        read(folder)
