"""Any dataset of the Hugging Face hub, with a mapping of its columns."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import polars as pl

from reprscope.data.canonical import IMAGES_SCHEMA, SPLITS, Dataset
from reprscope.data.hub import COLUMNS, Example, HubDataset, check_name, sample
from reprscope.data.pictures import WHITE, check_background, upright_rgb
from reprscope.data.record import Record
from reprscope.runtime.errors import UserError
from reprscope.runtime.progress import progress

RESOURCES = {"mem_mb": 8000, "disk_mb": 20000, "runtime": 480}


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Settings of a dataset of the hub.

    Attributes
    ----------
    dataset : str
        Its name, ``owner/name``.
    splits : mapping of str to str
        From train, validation and test to the dataset's own splits; those left out are not read.
    columns : mapping of str to str
        From image, label and caption to the dataset's columns; image is needed.
    config, revision : str or None
        Configuration, and commit, tag or branch.
    images : int or None
        At most this many images of each split.
    sample : {"first", "random"}
        Which: the first reads no more than it needs; random downloads the whole dataset.
    seed : int
        Seed of the random sample; a larger sample contains the smaller ones.
    background : (int, int, int)
        Red, green and blue under transparency, 0 to 255.
    """

    dataset: str
    splits: Mapping[str, str]
    columns: Mapping[str, str] = field(default_factory=lambda: {"image": "image"})
    config: str | None = None
    revision: str | None = None
    images: int | None = None
    sample: Literal["first", "random"] = "first"
    seed: int = 0
    background: tuple[int, int, int] = WHITE

    def __post_init__(self) -> None:
        check_name(self.dataset)
        check_background(self.background)
        for name, known in (("splits", SPLITS), ("columns", COLUMNS)):
            for key in getattr(self, name):
                if key not in known:
                    raise UserError(f"{name} has an unknown key {key}: use {', '.join(known)}.")
        if not self.splits:
            raise UserError("splits is empty: name at least one, such as {test: validation}.")
        if "image" not in self.columns:
            raise UserError("columns has no image: name the column that holds the images.")
        if self.images is not None and self.images < 1:
            raise UserError("images must be at least 1, or left out.")


def provides(parameters: Parameters) -> frozenset[str]:
    """Annotations beside the images: those whose columns are named."""
    return frozenset(f"{key}s" for key in parameters.columns if key != "image")


def build(parameters: Parameters, threads: int) -> Dataset:
    """Read the dataset.

    Parameters
    ----------
    parameters : Parameters
    threads : int
        Not used.

    Returns
    -------
    Dataset
        Images in the dataset's order; ``image_id`` is ``{name}-{own split}-{row}``.

    Raises
    ------
    UserError
        If the dataset cannot be had, or has no such split or column.
    """
    source = HubDataset(parameters.dataset, parameters.config, parameters.revision)
    for own in parameters.splits.values():
        source.check_split(own)
    record = Record()
    record.say(source.version)
    rows: list[dict[str, Any]] = []
    for split, own in parameters.splits.items():
        prefix = f"{parameters.dataset.rpartition('/')[2]}-{own}"
        chosen = _chosen(source, own, parameters)
        rows += image_rows(chosen, prefix, split, record, parameters.columns, parameters.background)
    return Dataset(images=pl.DataFrame(rows, schema=IMAGES_SCHEMA), record=record.lines())


def _chosen(source: HubDataset, own: str, parameters: Parameters) -> Iterable[Example]:
    if parameters.images is None:
        return source.examples(own, parameters.columns)
    if parameters.sample == "first":
        found = source.examples(own, parameters.columns, streaming=True)
        return itertools.islice(found, parameters.images)
    rows = sample(source.count(own), parameters.images, parameters.seed)
    return source.examples(own, parameters.columns, rows=rows)


def image_rows(
    examples: Iterable[Example],
    prefix: str,
    split: str,
    record: Record,
    columns: Iterable[str],
    background: Sequence[int] = WHITE,
) -> list[dict[str, Any]]:
    """Rows of the canonical table of images, named ``{prefix}-{row}``.

    Parameters
    ----------
    examples : iterable of Example
    prefix, split : str
    record : Record
        Counts images that are converted, and those without a label or caption.
    columns : iterable of str
        Which of image, label and caption are read.
    background : (int, int, int)
        Colour under transparency.
    """
    read = [column for column in columns if column != "image"]
    rows = []
    with progress(0, "images") as advance:
        for example in examples:
            image_id = f"{prefix}-{example.row:07d}"
            data, width, height = upright_rgb(example.image(), image_id, record, background)
            for column in read:
                if getattr(example, column) is None:
                    record.count(f"images without a {column}", image_id)
            rows.append(
                {
                    "image_id": image_id,
                    "image": data,
                    "width": width,
                    "height": height,
                    "label": example.label,
                    "caption": example.caption,
                    "split": split,
                }
            )
            advance(1)
    return rows
