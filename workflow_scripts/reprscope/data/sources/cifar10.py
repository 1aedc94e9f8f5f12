"""CIFAR-10: 60,000 photographs of 32 x 32 pixels in 10 classes.

Krizhevsky: Learning Multiple Layers of Features from Tiny Images (2009).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from reprscope.data import classification
from reprscope.data.canonical import Dataset

RESOURCES = classification.RESOURCES


@dataclass(frozen=True, kw_only=True)
class Parameters(classification.Parameters):
    """Settings of CIFAR-10: see :class:`reprscope.data.classification.Parameters`."""

    dataset: str = "uoft-cs/cifar10"
    counts: Mapping[str, int] = field(
        default_factory=lambda: {"train_images": 50_000, "test_images": 10_000}
    )


def provides(parameters: Parameters) -> frozenset[str]:
    """Annotations beside the images."""
    return frozenset({"labels"})


def build(parameters: Parameters, threads: int) -> Dataset:
    """Fetch CIFAR-10; ``threads`` is not used."""
    return classification.read(
        parameters,
        name="cifar10",
        columns={"image": "img", "label": "label"},
        splits={"train": "train", "test": "test"},
    )
