"""What the published classification sets of the hub have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from reprscope.data import counts
from reprscope.data.canonical import IMAGES_SCHEMA, Dataset
from reprscope.data.hub import HubDataset, check_name, sample
from reprscope.data.record import Record
from reprscope.data.shares import check_shares, divide, say_division
from reprscope.data.sources.huggingface import image_rows
from reprscope.runtime.errors import UserError

COUNTED = ("train_images", "test_images")

RESOURCES = {"mem_mb": 6000, "disk_mb": 4000, "runtime": 120}


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Settings of a classification set.

    Attributes
    ----------
    dataset : str
        Its name on the hub, ``owner/name``; another copy must have the same columns and splits.
    revision : str or None
        Commit, tag or branch.
    images : int or None
        At most this many images of train (before ``validation`` is taken) and of test, drawn at
        random; a larger number contains the smaller ones.
    validation : float
        Share of the training images that is for validation; each is drawn by its own name.
    seed : int
        Seed of both.
    counts : mapping of str to int
        Rows that the dataset must have: train_images, test_images.  Only a copy that differs
        from the published one has other numbers.
    """

    dataset: str
    revision: str | None = None
    images: int | None = None
    validation: float = 0.1
    seed: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name(self.dataset)
        check_shares(validation=self.validation, seed=self.seed)
        counts.check_keys(self.counts, COUNTED)
        if self.images is not None and self.images < 1:
            raise UserError("images must be at least 1, or left out.")

    @property
    def total(self) -> int | None:
        """Number of images."""
        if set(self.counts) != set(COUNTED):
            return None
        return sum(min(n, self.images or n) for n in self.counts.values())


def read(
    parameters: Parameters,
    *,
    name: str,
    columns: Mapping[str, str],
    splits: Mapping[str, str],
    words: Mapping[str, str] | None = None,
) -> Dataset:
    """Read a classification set.

    Parameters
    ----------
    parameters : Parameters
    name : str
        Beginning of every ``image_id``, ``{name}-{train or test}-{row}``.
    columns : mapping
        From image and label to the dataset's columns.
    splits : mapping
                From train and test to the dataset's own splits.
    words : mapping, optional
        Labels in the place of the dataset's own; those that are not in it stay.

    Raises
    ------
    UserError
        If the dataset cannot be had or has other numbers of rows than ``counts``.
    """
    source = HubDataset(parameters.dataset, revision=parameters.revision)
    totals = {split: source.count(own) for split, own in splits.items()}
    found = {f"{split}_images": total for split, total in totals.items()}
    counts.check(found, parameters.counts, what=f"Dataset {parameters.dataset}")
    record = Record()
    record.say(source.version)
    rows: list[dict[str, Any]] = []
    for split, own in splits.items():
        chosen = sample(totals[split], parameters.images, parameters.seed)
        examples = source.examples(own, columns, rows=chosen)
        rows += image_rows(examples, f"{name}-{split}", split, record, columns)
    for row in rows:
        row["label"] = (words or {}).get(row["label"], row["label"])
    trained = [row for row in rows if row["split"] == "train"]
    drawn = divide(
        parameters.seed,
        [row["image_id"] for row in trained],
        [row["label"] for row in trained],
        parameters.validation,
    )
    for row, split in zip(trained, drawn, strict=True):
        row["split"] = split
    say_division(
        record,
        [row["split"] for row in rows],
        [row["label"] for row in rows],
        f"its own, validation drawn with seed {parameters.seed}",
    )
    return Dataset(images=pl.DataFrame(rows, schema=IMAGES_SCHEMA), record=record.lines())
