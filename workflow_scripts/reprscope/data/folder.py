"""A folder of images on this machine.

Folders inside it are classes, or splits (``train``, ``validation``, ``test``) with classes inside;
a folder without folders has no labels. A ``metadata.csv`` beside them may say more: ``file_name``
(path in the folder) and any of ``label``, ``caption`` and ``split``.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import polars as pl

from reprscope.data.canonical import IMAGES_SCHEMA, SPLITS, Dataset
from reprscope.data.pictures import upright_rgb
from reprscope.data.record import Record
from reprscope.data.shares import check_shares, drawn_split
from reprscope.errors import UserError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
METADATA = "metadata.csv"
COLUMNS = ("file_name", "label", "caption", "split")


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Settings of a folder of images.

    Attributes
    ----------
    path : str
        The folder.
    validation, test : float
        Shares of the images in these splits, the rest is for training; not used where the
        folder itself says the split.
    seed : int
        Seed of that division; every image is drawn by its own name.
    """

    path: str
    validation: float = 0.2
    test: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        check_shares(validation=self.validation, test=self.test, seed=self.seed)


def files(parameters: Parameters) -> list[str]:
    """Images of the folder, and its ``metadata.csv`` if there is one, sorted.

    Raises
    ------
    UserError
        If there is no such folder.
    """
    folder = Path(parameters.path)
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}: set `path` to a folder with images.")
    return sorted(
        str(path)
        for path in folder.rglob("*")
        if (path.suffix.lower() in SUFFIXES or path == folder / METADATA)
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def provides(parameters: Parameters) -> frozenset[str]:
    """Annotations beside the images: those that the folder has."""
    names = _names(parameters)
    metadata = _metadata(parameters, names)
    found = {key for entry in metadata.values() for key in ("label", "caption") if entry.get(key)}
    if any(_place(name)[1] is not None for name in names):
        found.add("label")
    return frozenset(f"{key}s" for key in found)


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
        Images by name, which is the path in the folder.

    Raises
    ------
    UserError
        If the folder or an image cannot be used, or ``metadata.csv`` is wrong.
    """
    names = _names(parameters)
    metadata = _metadata(parameters, names)
    rows = []
    for name in names:
        data, width, height = upright_rgb(Path(parameters.path, name).read_bytes(), name, Record())
        split, label = _place(name)
        entry = metadata.get(name, {})
        drawn = drawn_split(parameters.seed, name, parameters.validation, parameters.test)
        rows.append(
            {
                "image_id": name,
                "image": data,
                "width": width,
                "height": height,
                "label": entry.get("label") or label,
                "caption": entry.get("caption") or None,
                "split": entry.get("split") or split or drawn,
            }
        )
    return Dataset(images=pl.DataFrame(rows, schema=IMAGES_SCHEMA))


def _names(parameters: Parameters) -> list[str]:
    folder = Path(parameters.path)
    paths = (Path(file).relative_to(folder) for file in files(parameters))
    return [path.as_posix() for path in paths if path.as_posix() != METADATA]


def _place(name: str) -> tuple[str | None, str | None]:
    """Split and label that an image's folders say."""
    parents = list(PurePosixPath(name).parts[:-1])
    split = parents.pop(0) if parents and parents[0] in SPLITS else None
    return split, parents[0] if parents else None


def _metadata(parameters: Parameters, names: list[str]) -> dict[str, Mapping[str, str]]:
    """Rows of ``metadata.csv`` by image name; empty without one."""
    path = Path(parameters.path, METADATA)
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            columns = table.fieldnames or []
            rows = list(table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}): save it as CSV in UTF-8.") from error
    if "file_name" not in columns:
        raise UserError(
            f"{path} has no column file_name, only {', '.join(columns)}: use {', '.join(COLUMNS)}."
        )
    known = set(names)
    for row in rows:
        if row["file_name"] not in known:
            raise UserError(
                f"{path} names {row['file_name']}, which is not in the folder: correct the row."
            )
        if (row.get("split") or SPLITS[0]) not in SPLITS:
            raise UserError(
                f"{path}: the split of {row['file_name']} is {row['split']}: use "
                f"{', '.join(SPLITS)}."
            )
    return {row["file_name"]: row for row in rows}
