"""Handwritten digits in scikit-learn's wheel: the 1,797 test images of UCI's optical digits.

The 8 x 8 images are enlarged by PIL's bicubic resize, as the thesis enlarges CIFAR.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from reprscope.data.canonical import IMAGES_SCHEMA, Dataset, encode_png
from reprscope.runtime.errors import UserError

COUNT = 1797


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Settings of the digits.

    Attributes
    ----------
    size : int
        Image side in px.
    train, validation, test : int
        Images per split, together at most 1,797.
    seed : int
        Seed of the permutation that splits the images.
    """

    size: int = 128
    train: int = 1197
    validation: int = 300
    test: int = 300
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError("size of the digits must be at least 1.")
        counts = (self.train, self.validation, self.test)
        if min(*counts, self.seed) < 0 or not 1 <= sum(counts) <= COUNT:
            raise UserError(
                f"The digits are {COUNT} images: set train, validation and test to counts "
                "with at most that sum, and seed to a number from 0."
            )

    @property
    def total(self) -> int:
        """Number of images."""
        return self.train + self.validation + self.test


def provides(parameters: Parameters) -> frozenset[str]:
    """Annotations beside the images."""
    return frozenset({"labels", "captions"})


def build(parameters: Parameters, threads: int) -> Dataset:
    """Enlarge and split the digits.

    Parameters
    ----------
    parameters : Parameters
    threads : int
        Not used: the images are few and small.

    Returns
    -------
    Dataset
        Images in scikit-learn's order; ``image_id`` holds the position there.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(parameters.seed).permutation(COUNT)
    counts = {
        "train": parameters.train,
        "validation": parameters.validation,
        "test": parameters.test,
    }
    splits = [split for split, count in counts.items() for _ in range(count)]
    rows = []
    for index, split in sorted(zip(order.tolist(), splits, strict=False)):
        # Grey levels are 0 to 16.
        small = np.rint(digits.images[index] * (255 / 16)).astype(np.uint8)
        large = Image.fromarray(small).resize(
            (parameters.size, parameters.size), Image.Resampling.BICUBIC
        )
        label = str(digits.target[index])
        rows.append(
            {
                "image_id": f"digits-{index:04d}",
                "image": encode_png(np.asarray(large.convert("RGB"))),
                "width": parameters.size,
                "height": parameters.size,
                "label": label,
                "caption": f"the digit {label}",
                "split": split,
            }
        )
    return Dataset(images=pl.DataFrame(rows, schema=IMAGES_SCHEMA))
