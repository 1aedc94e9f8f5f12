"""Seeded samples of tokens, the same whatever the order of the images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reprscope.base.seeds import item_seed
from reprscope.runtime.errors import UserError
from reprscope.tasks._pictures import finite_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from reprscope.representations.store import Representations


@dataclass(frozen=True)
class Sample:
    """Tokens of one image.

    Attributes
    ----------
    image
        Name of the image.
    tokens
        (n, channels) float32.
    rows, cols
        (n,) where they are.
    norms
        (n,) float64, their L2 norms.
    largest
        Largest norm of a token of the image.
    """

    image: str
    tokens: NDArray[np.float32]
    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    norms: NDArray[np.float64]
    largest: float


def several_images(representations: Representations, *, kind: str) -> list[str]:
    """Names of all images, sorted.

    Raises
    ------
    UserError
        If there are fewer than two, so that there are no pairs of them.
    """
    images = sorted(representations.image_ids)
    if len(images) < 2:
        raise UserError(f"{kind}: one image has no pairs; use a dataset with two or more.")
    return images


def draw(
    representations: Representations,
    position: str,
    images: Sequence[str],
    *,
    number: int,
    seed: int,
    kind: str,
    with_highest: bool = False,
) -> list[Sample]:
    """Draw tokens at one position, as many of every image.

    Parameters
    ----------
    representations
        Features of the images.
    position
        Where.
    images
        Which images.
    number
        Least number of tokens in all; of an image that has fewer tokens than its share, all.
    seed
        Seed of the draw; the tokens of an image depend on its name alone beside it.
    kind
        Name of the task, for the messages.
    with_highest
        Put the token of the largest norm first, drawn or not.

    Returns
    -------
    A sample for each image.
    """
    share = math.ceil(number / len(images))
    samples = []
    for image in images:
        tokens = finite_tokens(representations, position, image, kind=kind)
        flat = tokens.reshape(-1, tokens.shape[-1])
        norms = np.linalg.norm(flat, axis=1).astype(np.float64)
        rng = np.random.default_rng(item_seed(seed, position, image))
        chosen = np.sort(rng.choice(len(flat), size=min(share, len(flat)), replace=False))
        if with_highest:
            chosen = np.concatenate([[norms.argmax()], chosen])
        rows, cols = np.divmod(chosen, tokens.shape[1])
        samples.append(Sample(image, flat[chosen], rows, cols, norms[chosen], float(norms.max())))
    return samples


def histogram(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    *,
    x_edges: NDArray[np.float64],
    y_edges: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Count points in the cells of a grid of evenly spaced edges.

    Parameters
    ----------
    x, y
        (n,) coordinates; points beyond the edges are counted in the outermost cells.
    x_edges, y_edges
        (columns + 1,) and (rows + 1,), ascending.

    Returns
    -------
    (rows, columns) counts.
    """
    cells = []
    for values, edges in ((x, x_edges), (y, y_edges)):
        step = (edges[-1] - edges[0]) / (len(edges) - 1) or 1.0
        cell = np.floor((values - edges[0]) / step).astype(np.int64)
        cells.append(np.clip(cell, 0, len(edges) - 2))
    shape = (len(y_edges) - 1, len(x_edges) - 1)
    counts = np.bincount(cells[1] * shape[1] + cells[0], minlength=shape[0] * shape[1])
    return counts.reshape(shape)
