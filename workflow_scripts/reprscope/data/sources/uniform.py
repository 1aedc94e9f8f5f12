"""Images of one colour: nothing is left in them but the noise and the place of each token.

Thesis, figure 10, takes 100 black ones ("empty images"). They differ in their names, and so in the
noise that is drawn for each; under a protocol with shared noise all of them are one and the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from reprscope.data.canonical import IMAGES_SCHEMA, Dataset, encode_png
from reprscope.data.shares import check_shares, drawn_split
from reprscope.runtime.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Settings of the images.

    Attributes
    ----------
    images : int
        Number of images.
    size : int or (int, int)
        Side in px, or width and height.
    colour : (int, int, int)
        Red, green and blue, 0 to 255; black by default.
    validation, test : float
        Shares of the images in these splits, the rest is for training.
    seed : int
        Seed of that division; every image is drawn by its own name.
    """

    images: int = 100
    size: int | tuple[int, int] = 128
    colour: tuple[int, int, int] = (0, 0, 0)
    validation: float = 0.0
    test: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        check_shares(validation=self.validation, test=self.test, seed=self.seed)
        if self.images < 1 or min(self.pixels) < 1:
            raise UserError("images and size must be at least 1.")
        if not all(0 <= value <= 255 for value in self.colour):
            raise UserError(
                f"colour is {list(self.colour)}; write red, green and blue from 0 to 255."
            )

    @property
    def pixels(self) -> tuple[int, int]:
        """Width and height."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


def provides(parameters: Parameters) -> frozenset[str]:
    """Annotations beside the images: none."""
    return frozenset()


def build(parameters: Parameters, threads: int) -> Dataset:
    """Make the images.

    Parameters
    ----------
    parameters : Parameters
    threads : int
        Not used: all images have the same bytes.
    """
    width, height = parameters.pixels
    png = encode_png(np.full((height, width, 3), parameters.colour, dtype=np.uint8))
    names = [f"uniform-{number:05d}" for number in range(parameters.images)]
    shares = (parameters.validation, parameters.test)
    rows = [
        {
            "image_id": name,
            "image": png,
            "width": width,
            "height": height,
            "split": drawn_split(parameters.seed, name, *shares),
        }
        for name in names
    ]
    return Dataset(images=pl.DataFrame(rows, schema=IMAGES_SCHEMA))
