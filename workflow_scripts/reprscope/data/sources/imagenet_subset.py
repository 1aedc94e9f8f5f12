"""The 500 photographs of the thesis: the first 100 of five ImageNet classes, cut to squares.

They are taken from the training images of ImageNet-1k in their order, as far as both sides have
at least 350 px; the middle square is enlarged or reduced to 512 px by PIL's bicubic resize. An odd
side loses one pixel more than it must, as in the thesis' own script. The order is that in which
the images come.

ImageNet is gated. For people without access, ``dataset`` and ``classes`` may name another set: five
classes of 100 images, cut in the same way.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reprscope.data.canonical import IMAGES_SCHEMA, Dataset, encode_png
from reprscope.data.hub import HubDataset, check_name
from reprscope.data.pictures import decode_picture
from reprscope.data.record import Record
from reprscope.runtime.errors import UserError
from reprscope.runtime.progress import progress

#: The thesis' classes by their number in ImageNet-1k.
CLASSES = (235, 242, 282, 717, 980)

#: Streaming keeps nothing, but passes a good part of ImageNet's training files.
RESOURCES = {"mem_mb": 6000, "disk_mb": 2000, "runtime": 720}


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Settings of the subset.

    Attributes
    ----------
    dataset, split : str
        Dataset of the hub, ``owner/name``, and its split.
    revision : str or None
        Commit, tag or branch.
    image_column, label_column : str
        Columns of the dataset.
    classes : tuple of int or str
        Classes by number or by name, as the dataset has them.
    images_per_class : int
        Number of images of each class.
    least : int
        Both sides of an image have at least this many pixels.
    size : int
        Side of the squares in px.
    """

    dataset: str = "ILSVRC/imagenet-1k"
    split: str = "train"
    revision: str | None = None
    image_column: str = "image"
    label_column: str = "label"
    classes: tuple[int | str, ...] = CLASSES
    images_per_class: int = 100
    least: int = 350
    size: int = 512

    def __post_init__(self) -> None:
        check_name(self.dataset)
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise UserError("classes must name at least one class, and each only once.")
        for name, least in (("images_per_class", 1), ("least", 2), ("size", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}.")

    @property
    def total(self) -> int:
        """Number of images."""
        return len(self.classes) * self.images_per_class


def provides(parameters: Parameters) -> frozenset[str]:
    """Annotations beside the images."""
    return frozenset({"labels"})


def build(parameters: Parameters, threads: int) -> Dataset:
    """Collect the images.

    Parameters
    ----------
    parameters : Parameters
    threads : int
        Not used: the dataset is one stream.

    Returns
    -------
    Dataset
        ``image_id`` is ``{name}-{row}`` with the row in the dataset's split; all are in the split
        "test".

    Raises
    ------
    UserError
        If the dataset cannot be had, or has too few such images of a class.
    """
    source = HubDataset(parameters.dataset, revision=parameters.revision)
    columns = {"image": parameters.image_column, "label": parameters.label_column}
    wanted = parameters.images_per_class
    found: Counter[int | str] = Counter(dict.fromkeys(parameters.classes, 0))
    record = Record()
    record.say(source.version)
    record.say(f"middle squares, brought to {parameters.size} x {parameters.size} pixels (bicubic)")
    rows = []
    with progress(wanted * len(found), "images") as advance:
        for example in source.examples(parameters.split, columns, streaming=True):
            key = next((k for k in (example.value, example.label) if k in found), None)
            if key is None or found[key] == wanted:
                continue
            image_id = f"{parameters.dataset.rpartition('/')[2]}-{example.row:07d}"
            picture = decode_picture(example.image(), image_id).over()
            square = _square(picture.pixels, parameters.least, parameters.size)
            if square is None:
                record.count("photographs of the classes left out as too small", image_id)
                continue
            for change in picture.changes:
                record.count(f"images with {change}", image_id)
            rows.append(
                {
                    "image_id": image_id,
                    "image": encode_png(square),
                    "width": parameters.size,
                    "height": parameters.size,
                    "label": example.label,
                    "caption": None,
                    "split": "test",
                }
            )
            found[key] += 1
            advance(1)
            if len(rows) == wanted * len(found):
                break
    for name, count in found.items():
        if count < wanted:
            raise UserError(
                f"Dataset {parameters.dataset} has {count} images of class {name} with sides of "
                f"at least {parameters.least} px, not {wanted}: correct `classes` or `least`, or "
                "ask for fewer `images_per_class`."
            )
    return Dataset(images=pl.DataFrame(rows, schema=IMAGES_SCHEMA), record=record.lines())


def _square(pixels: NDArray[np.uint8], least: int, size: int) -> NDArray[np.uint8] | None:
    """Middle square of an image, (size, size, 3), or None if a side is too short."""
    from PIL import Image

    image = Image.fromarray(pixels)
    width, height = image.size
    if min(width, height) < least:
        return None
    half = min(width, height) // 2
    x, y = width // 2, height // 2
    cut = image.crop((x - half, y - half, x + half, y + half))
    return np.asarray(cut.resize((size, size), Image.Resampling.BICUBIC))
