"""Tiny ImageNet: 110,000 photographs of 64 x 64 pixels in 200 classes.

Le, Yang: Tiny ImageNet Visual Recognition Challenge (2015). The labels of its own test images are
not published: its validation images are the test split here. Some images are grey. Classes are
named by words (:mod:`reprscope.data.wordnet`) where the dataset has numbers of synsets.

"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from reprscope.data import classification
from reprscope.data.canonical import Dataset
from reprscope.data.wordnet import words

RESOURCES = classification.RESOURCES


@dataclass(frozen=True, kw_only=True)
class Parameters(classification.Parameters):
    """Settings of Tiny ImageNet: see :class:`reprscope.data.classification.Parameters`."""

    dataset: str = "zh-plus/tiny-imagenet"
    counts: Mapping[str, int] = field(
        default_factory=lambda: {"train_images": 100_000, "test_images": 10_000}
    )


def provides(parameters: Parameters) -> frozenset[str]:
    """Annotations beside the images."""
    return frozenset({"labels"})


def build(parameters: Parameters, threads: int) -> Dataset:
    """Fetch Tiny ImageNet; ``threads`` is not used."""
    return classification.read(
        parameters,
        name="tiny-imagenet",
        columns={"image": "image", "label": "label"},
        splits={"train": "train", "test": "valid"},
        words=words(),
    )
