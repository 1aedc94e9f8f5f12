"""A folder of images on this machine, read as Hugging Face's imagefolder reads it.

Which folders are splits and which are classes: :mod:`reprscope.data.layout`. Tables beside the
images may say labels, captions and splits: :mod:`reprscope.data.metadata`; where one has a column
for labels, folders do not say them. Images without a split are divided by ``validation`` and
``test``. Links are followed. What is left out, converted or divided is counted in the dataset's
record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from reprscope.data import layout, metadata, tree
from reprscope.data.canonical import IMAGES_SCHEMA, Dataset
from reprscope.data.pictures import WHITE, check_background, upright_rgb
from reprscope.data.record import Record, listed
from reprscope.data.shares import check_shares, divide, say_division
from reprscope.runtime.errors import UserError
from reprscope.runtime.progress import progress


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Settings of a folder of images.

    Attributes
    ----------
    path : str
        The folder.
    folders : {"auto", "classes", "ignore"}
        What folders in it say: splits and classes by their names and levels; classes alone;
        nothing.
    validation, test : float
        Shares of the images in these splits, the rest is for training; not used for images whose
        split a folder or a table says.  Every class has its share.
    seed : int
        Seed of that division; every image is drawn by its own name.
    background : (int, int, int)
        Red, green and blue under transparency, 0 to 255.
    """

    path: str
    folders: layout.Reading = "auto"
    validation: float = 0.2
    test: float = 0.3
    seed: int = 0
    background: tuple[int, int, int] = WHITE

    def __post_init__(self) -> None:
        check_shares(validation=self.validation, test=self.test, seed=self.seed)
        check_background(self.background)


@dataclass(frozen=True)
class _Read:
    """A folder as it is read, without the pixels of its images."""

    found: tree.Tree
    tables: metadata.Metadata
    places: Sequence[layout.Place]

    @property
    def labels(self) -> list[str | None]:
        """Label of each image."""
        if "label" in self.tables.says:
            return [self.said(name).get("label") for name in self.found.images]
        return [place.label for place in self.places]

    @property
    def captions(self) -> list[str | None]:
        """Caption of each image."""
        return [self.said(name).get("caption") for name in self.found.images]

    @property
    def splits(self) -> list[str | None]:
        """Split of each image, where a table or a folder says it."""
        return [
            self.said(name).get("split") or place.split
            for name, place in zip(self.found.images, self.places, strict=True)
        ]

    def said(self, name: str) -> Mapping[str, str | None]:
        """Row of an image in a table; empty without one."""
        return self.tables.rows.get(name, {})


def _read(parameters: Parameters) -> _Read:
    folder = Path(parameters.path)
    found = tree.walk(folder)
    tables = metadata.read(folder, found.metadata, found.images)
    said = [tables.rows.get(name, {}).get("split") for name in found.images]
    places = layout.places(
        found.images,
        parameters.folders,
        splits=not all(said),
        labels="label" not in tables.says,
    )
    return _Read(found, tables, places)


def files(parameters: Parameters) -> list[str]:
    """Images of the folder, and the tables beside them, sorted.

    Raises
    ------
    UserError
        If there is no such folder.
    """
    found = tree.walk(Path(parameters.path))
    folder = str(Path(parameters.path))
    # Path by path, pathlib would take a third of a plan of 100,000 pictures.
    return sorted(f"{folder}/{name}" for name in found.images + found.metadata)


def provides(parameters: Parameters) -> frozenset[str]:
    """Annotations beside the images: those that at least one image has.

    Raises
    ------
    UserError
        If the folder can be read in two ways, or a table is wrong.
    """
    read = _read(parameters)
    said = {"labels": read.labels, "captions": read.captions}
    return frozenset(name for name, values in said.items() if any(v is not None for v in values))


def build(parameters: Parameters, threads: int) -> Dataset:
    """Read the folder.

    Parameters
    ----------
    parameters : Parameters
    threads : int
        Not used.

    Returns
    -------
    Dataset
        Images by name, which is the path in the folder.  Bytes of a name that are no text are
        written in hexadecimal.

    Raises
    ------
    UserError
        If the folder or an image cannot be used, or a table is wrong.
    """
    read = _read(parameters)
    names = [_text(name) for name in read.found.images]
    if not names:
        others = read.found.others + read.found.hidden
        raise UserError(
            f"The folder {parameters.path} has no images"
            + (f" but only {listed(others, len(others))}" if others else "")
            + ": set `path` to a folder with images."
        )
    record = Record()
    _say_layout(record, read)
    labels, captions = read.labels, read.captions
    splits = _splits(record, parameters, names, labels, read)
    rows = []
    with progress(len(names), "images") as advance:
        for row, name in enumerate(names):
            path = Path(parameters.path, read.found.images[row])
            try:
                data = path.read_bytes()
            except OSError as error:
                raise UserError(
                    f"Image {name} cannot be read ({error.strerror}): change its permissions, or "
                    "remove it."
                ) from error
            data, width, height = upright_rgb(data, name, record, parameters.background)
            rows.append(
                {
                    "image_id": name,
                    "image": data,
                    "width": width,
                    "height": height,
                    "label": labels[row],
                    "caption": captions[row],
                    "split": splits[row],
                }
            )
            advance(1)
    return Dataset(images=pl.DataFrame(rows, schema=IMAGES_SCHEMA), record=record.lines())


def _text(name: str) -> str:
    """Return a file's name as text; the file system's may hold any bytes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _say_layout(record: Record, read: _Read) -> None:
    found, tables = read.found, read.tables
    record.say(f"{len(found.images)} images in the folder")
    for what, names in {
        "hidden files and folders left out": found.hidden,
        "files that are no pictures by their names left out": found.others,
        "links to nothing left out": found.broken,
        "links to a folder that they are in left out": found.loops,
        "folders that a link gives a second name, whose images are read twice": found.again,
        "tables": found.metadata,
        "columns of tables not read": tables.unread,
    }.items():
        for name in names:
            record.count(what, name)
    by_folders = any(place.split for place in read.places)
    for name in found.images:
        # imagefolder would read them so, unless folders are splits.
        if not by_folders and layout.loose_word(Path(name).stem):
            record.count("files named for a split (train, test), which is not read so", name)
        if found.metadata and name not in tables.rows:
            record.count("images without a row in a table", name)
    for name, label, caption in zip(found.images, read.labels, read.captions, strict=True):
        if label is None and any(read.labels):
            record.count("images without a label", name)
        if caption is None and "caption" in tables.says:
            record.count("images without a caption", name)


def _splits(
    record: Record,
    parameters: Parameters,
    names: Sequence[str],
    labels: Sequence[str | None],
    read: _Read,
) -> list[str]:
    """Split of each image: as it is said, or drawn."""
    said = read.splits
    free = [row for row, split in enumerate(said) if split is None]
    drawn = divide(
        parameters.seed,
        [names[row] for row in free],
        [labels[row] for row in free],
        parameters.validation,
        parameters.test,
    )
    of_free = dict(zip(free, drawn, strict=True))
    splits = [split or of_free[row] for row, split in enumerate(said)]
    folders = list(dict.fromkeys(place.folder for place in read.places if place.folder))
    how = [f"folders {listed(folders, len(folders), 10)}"] if folders else []
    if "split" in read.tables.says:
        how.append("tables")
    if free:
        how.append(f"{len(free)} drawn, seed {parameters.seed}")
    say_division(record, splits, labels, "; ".join(how))
    for split, share in (("validation", parameters.validation), ("test", parameters.test)):
        if free and share and split not in drawn:
            record.say(f"{split} asks for {share:g} of {len(free)} images, which is none")
    return splits
