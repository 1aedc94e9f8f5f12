"""Images to the posterior over latents, under a view."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reprscope.base.protocol import Pixels
from reprscope.data.canonical import decode
from reprscope.models.vae import VAE, Posterior
from reprscope.representations.coordinates import Affine
from reprscope.representations.store import Writer
from reprscope.representations.views import View
from reprscope.runtime.memory import BatchSize

AMPLE = 1 << 12
"""Encoding needs less than this many times the bytes of an image."""


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

    Raises
    ------
    UserError
        If a single image does not fit in memory.
    """
    size = BatchSize(vae.device)
    for _, group in images.group_by(["width", "height"], maintain_order=True):
        rows = group.select("image_id", "image").iter_rows()
        viewed = _view(rows, view, resolution=resolution, multiple=vae.factor * patch)
        while batch := list(islice(viewed, batch_size)):
            stack = np.stack([image for _, image, _ in batch])
            pair = (stack.shape[2], stack.shape[1])
            image = "An image of {} x {} pixels".format(*pair)

            def run(items: slice, stack: NDArray[np.uint8] = stack) -> Posterior:
                return vae.encode(stack[items], pixels=pixels)

            passes = size.parts(len(batch), run, item=image, ample=AMPLE * stack[0].nbytes)
            for items, (mean, logvar) in passes:
                names = [name for name, _, _ in batch[items]]
                transforms = [transform for _, _, transform in batch[items]]
                tables = {"mean": mean, "logvar": logvar}
                store.append(names, [pair] * len(names), transforms, tables)
                progress(len(names))


def _view(
    rows: Any, view: View, *, resolution: int, multiple: int
) -> Iterator[tuple[str, NDArray[np.uint8], Affine]]:
    for name, data in rows:
        image, transform = view.apply(
            decode(data, name), resolution=resolution, multiple=multiple, image_id=name
        )
        yield name, image, transform
