"""Noised latents, decoded: how much of an image is left at a timestep (thesis, figure 2).

The published figure mixes latents and noise linearly; here the model's own schedule does, as for
its features. The measurement reads latents, not representations, so a rule of its own makes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import polars as pl

from reprscope.data.canonical import encode_png
from reprscope.tasks import LATENTS, PICTURE
from reprscope.tasks._pictures import Choice, choose

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from reprscope.data.canonical import Annotations
    from reprscope.store import Representations

    Decode = Callable[[Sequence[str]], Iterable[tuple[str, NDArray[np.uint8]]]]

NEEDS: Final[frozenset[str]] = frozenset()
STORES: Final = frozenset({LATENTS})
PROTOCOL: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Parameters(Choice):
    """Which images to decode."""

    count: int = 1


def measure(
    latents: Representations, annotations: Annotations, parameters: Parameters, *, decode: Decode
) -> pl.DataFrame:
    """Decode the noised latents of each image.

    Parameters
    ----------
    latents
        Of the images.
    annotations
        Their dataset.
    decode
        Pictures of noised latents by name, such as
        :func:`reprscope.decoding.noised_pictures` gives them.

    Returns
    -------
    ``image_id``, ``position`` ("image") and ``png``, one row for each image.

    Raises
    ------
    UserError
        If a named image has no latents.
    """
    images = choose(latents, annotations, parameters, kind="noise_levels")
    found = dict(decode(images))
    return pl.DataFrame(
        {
            "image_id": images,
            "position": [PICTURE] * len(images),
            "png": [encode_png(found[image]) for image in images],
        }
    )


def summarise(measurements: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
    """Return the measurements: the pictures are drawn as they are."""
    return measurements
