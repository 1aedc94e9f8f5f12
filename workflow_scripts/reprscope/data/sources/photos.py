"""The colour photographs in scikit-image's wheel, for pictures: no labels, no download."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from reprscope.data.canonical import IMAGES_SCHEMA, Dataset, encode_png

#: Loader in `skimage.data` and caption of each photograph.
PHOTOS = {
    "astronaut": ("astronaut", "a photo of an astronaut in an orange suit"),
    "cat": ("cat", "a photo of a cat"),
    "coffee": ("coffee", "a photo of a cup of coffee on a table"),
    "hubble_deep_field": ("hubble_deep_field", "a photo of galaxies in deep space"),
    "motorcycle": ("stereo_motorcycle", "a photo of a motorcycle in a garage"),
    "rocket": ("rocket", "a photo of a rocket on a launch pad"),
}


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """The photographs have no settings."""


def provides(parameters: Parameters) -> frozenset[str]:
    """Annotations beside the images."""
    return frozenset({"captions"})


def build(parameters: Parameters, threads: int) -> Dataset:
    """Read the photographs at their own sizes.

    Parameters
    ----------
    parameters : Parameters
    threads : int
        Not used.

    Returns
    -------
    Dataset
        One image per name of `PHOTOS`, without label, in the split "test".
    """
    from skimage import data

    rows = []
    for name, (loader, caption) in PHOTOS.items():
        loaded = getattr(data, loader)()
        # The motorcycle is a stereo pair; its left image is the photograph.
        photo = loaded[0] if isinstance(loaded, tuple) else loaded
        height, width, _ = photo.shape
        rows.append(
            {
                "image_id": name,
                "image": encode_png(np.asarray(photo, dtype=np.uint8)),
                "width": width,
                "height": height,
                "label": None,
                "caption": caption,
                "split": "test",
            }
        )
    return Dataset(images=pl.DataFrame(rows, schema=IMAGES_SCHEMA))
