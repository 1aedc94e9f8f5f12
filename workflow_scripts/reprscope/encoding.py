"""Images to the posterior over latents, under a view."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reprscope.coordinates import Affine
from reprscope.data.canonical import decode
from reprscope.models.vae import VAE
from reprscope.protocol import Pixels
from reprscope.store import Writer
from reprscope.views import View


def encode(
    images: pl.DataFrame,
    view: View,
    vae: VAE,
    store: Writer,
    *,
    resolution: int,
    pixels: Pixels,
    patch: int = 1,
    batch_size: int,
    progress: Callable[[int], object] = lambda count: None,
) -> None:
    """Encode images and append the posterior's ``mean`` and ``logvar`` to a store.

    Images of one size are taken together, in the order of the table, so that the order in the
    store does not depend on ``batch_size``.

    Parameters
    ----------
    images : frame with ``image_id``, ``image``, ``width``, ``height``
    view : View
    vae : VAE
    store : Writer
    resolution : int
        Longer side of the encoded image in pixels.
    pixels : {"symmetric", "unit"}
        Range of pixel values that the VAE is given.
    patch : int
        Sides of the latents become multiples of this.
    progress : callable
        Called with the number of images just finished.
    """
    for _, group in images.group_by(["width", "height"], maintain_order=True):
        rows = group.select("image_id", "image").iter_rows()
        viewed = _view(rows, view, resolution=resolution, multiple=vae.factor * patch)
        while batch := list(islice(viewed, batch_size)):
            names = [name for name, _, _ in batch]
            stack = np.stack([image for _, image, _ in batch])
            mean, logvar = vae.encode(stack, pixels=pixels)
            size = (stack.shape[2], stack.shape[1])
            transforms = [transform for _, _, transform in batch]
            store.append(names, [size] * len(names), transforms, {"mean": mean, "logvar": logvar})
            progress(len(names))


def _view(
    rows: Any, view: View, *, resolution: int, multiple: int
) -> Iterator[tuple[str, NDArray[np.uint8], Affine]]:
    for name, data in rows:
        image, transform = view.apply(
            decode(data, name), resolution=resolution, multiple=multiple, image_id=name
        )
        yield name, image, transform
