"""CIFAR-100: 60,000 photographs of 32 x 32 pixels in 100 classes of 20 groups.

Krizhevsky: Learning Multiple Layers of Features from Tiny Images (2009).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from reprscope.data import classification
from reprscope.data.canonical import Dataset

RESOURCES = classification.RESOURCES


@dataclass(frozen=True, kw_only=True)
class Parameters(classification.Parameters):
    """Settings of CIFAR-100: see :class:`reprscope.data.classification.Parameters`.

    Attributes
    ----------
    label : {"fine", "coarse"}
        The 100 classes or the 20 groups.
    """

    dataset: str = "uoft-cs/cifar100"
    counts: Mapping[str, int] = field(
        default_factory=lambda: {"train_images": 50_000, "test_images": 10_000}
    )
    label: Literal["fine", "coarse"] = "fine"


def provides(parameters: Parameters) -> frozenset[str]:
    """Annotations beside the images."""
    return frozenset({"labels"})


def build(parameters: Parameters, threads: int) -> Dataset:
    """Fetch CIFAR-100; ``threads`` is not used."""
    return classification.read(
        parameters,
        name="cifar100",
        columns={"image": "img", "label": f"{parameters.label}_label"},
        splits={"train": "train", "test": "test"},
    )
