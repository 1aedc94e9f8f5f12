"""Noised latents, decoded: how much of an image is left at a timestep (thesis, figure 2).

The model's own schedule mixes latents and noise, as for its features. ``mixing: published`` mixes
them linearly, as the thesis' figure does, which shows less noise than a denoiser is given: at
t = 200 a quarter as much as latents, where SD-1.5's schedule has 0.57 times as much. The
measurement reads latents, not representations, so a rule of its own makes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import polars as pl

from reprscope.data.canonical import encode_png
from reprscope.runtime.errors import UserError
from reprscope.tasks import LATENTS, PICTURE
from reprscope.tasks._pictures import Choice, choose

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from reprscope.data.canonical import Annotations
    from reprscope.representations.store import Representations

    Decode = Callable[[Sequence[str]], Iterable[tuple[str, NDArray[np.uint8]]]]

NEEDS: Final[frozenset[str]] = frozenset()
STORES: Final = frozenset({LATENTS})
PROTOCOL: Final[frozenset[str]] = frozenset()
TABLE_COLUMNS: Final = (
    "image_id",
    "mixing",
    "png",
)


@dataclass(frozen=True, kw_only=True)
class Parameters(Choice):
    """Which images to decode, and how noise is added.

    Attributes
    ----------
    mixing : {"schedule", "published"}
        By the model's own schedule, or (1 - t / 999) latents + t / 999 noise.
    """

    count: int = 1
    mixing: str = "schedule"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mixing not in ("schedule", "published"):
            raise UserError(f"mixing is {self.mixing!r}; write schedule or published.")


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
        :func:`reprscope.representations.decoding.noised_pictures` gives them.

    Returns
    -------
    ``image_id``, ``position`` ("image"), ``mixing`` and ``png``, one row for each image.

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
            "mixing": parameters.mixing,
            "png": [encode_png(found[image]) for image in images],
        }
    )


def summarise(measurements: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
    """Return the measurements: the pictures are drawn as they are."""
    return measurements
