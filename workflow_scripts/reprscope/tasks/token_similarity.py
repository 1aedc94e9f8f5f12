"""Similarity of one token of an image to all tokens of the same image.

Thesis, figures 4 and 5: a reference token, and the cosine similarity of every token to it, at every
position of the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from reprscope.coordinates import token_index
from reprscope.errors import UserError
from reprscope.similarity import cosine
from reprscope.tasks import PICTURE
from reprscope.tasks._pictures import Choice, choose, encoded_png, finite_tokens, frame

if TYPE_CHECKING:
    from reprscope.data.canonical import Annotations
    from reprscope.store import Representations

NEEDS: Final[frozenset[str]] = frozenset()
STORES: Final = frozenset({"tokens"})
PROTOCOL: Final[frozenset[str]] = frozenset()

_SCHEMA: Final = {
    "image_id": pl.String,
    "position": pl.String,
    "kind": pl.String,
    "row": pl.Int32,
    "col": pl.Int32,
    "similarity": pl.Float64,
    "reference_row": pl.Int32,
    "reference_col": pl.Int32,
    "reference_x": pl.Float64,
    "reference_y": pl.Float64,
    "png": pl.Binary,
}


@dataclass(frozen=True, kw_only=True)
class Parameters(Choice):
    """Settings of the task, beside the choice of images.

    Attributes
    ----------
    reference
        Place of the reference token in the encoded image: x and y in [0, 1], from the left and from
        the top.
    references
        The same for single images, by name; it takes precedence over ``reference``.
    """

    reference: tuple[float, float] = (0.5, 0.5)
    references: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for place in (self.reference, *self.references.values()):
            numbers = all(isinstance(value, int | float) for value in place)
            if len(place) != 2 or not numbers or not all(0 <= value <= 1 for value in place):
                raise UserError(
                    f"the reference {list(place)} is not in the image; write x "
                    "and y from 0 to 1, such as [0.5, 0.5]."
                )


def measure(
    representations: Representations, annotations: Annotations, parameters: Parameters
) -> pl.DataFrame:
    """Compare the reference token of each image with all of its tokens, at every position.

    Parameters
    ----------
    representations
        Features of the images.
    annotations
        The images themselves.
    parameters
        Which images and reference tokens.

    Returns
    -------
    Rows of ``kind`` "map", one for each token: ``image_id``, ``position``, ``row``, ``col``,
    ``similarity`` (cosine), ``reference_row``, ``reference_col``. Rows of ``kind`` "image", one for
    each image, at position "image": ``png`` (the picture in the frame of the encoded image).
    ``reference_x`` and ``reference_y`` in [0, 1] are in both.

    Raises
    ------
    UserError
        If an image has no features, or a feature is not finite.
    """
    images = choose(representations, annotations, parameters, kind="token_similarity")
    for name in parameters.references:
        if name not in images:
            raise UserError(
                f"token_similarity: references names '{name}', which is not among the images; "
                "add it to `images`."
            )
    frames = []
    for image in images:
        x, y = parameters.references.get(image, parameters.reference)
        png = encoded_png(representations, annotations, image)
        frames.append(
            frame(
                _SCHEMA,
                image_id=[image],
                position=PICTURE,
                kind="image",
                reference_x=x,
                reference_y=y,
                png=png,
            )
        )
        pixels = representations.pixels(image)
        for position in representations.positions:
            tokens = finite_tokens(representations, position, image, kind="token_similarity")
            grid = tokens.shape[:2]
            row, col = token_index(np.array([x, y]) * pixels, pixels, grid)
            rows, cols = np.indices(grid).reshape(2, -1)
            flat = tokens.reshape(-1, tokens.shape[-1])
            frames.append(
                frame(
                    _SCHEMA,
                    row=rows,
                    col=cols,
                    image_id=image,
                    position=position,
                    kind="map",
                    similarity=cosine(tokens[row, col][None], flat)[0],
                    reference_row=int(row),
                    reference_col=int(col),
                    reference_x=x,
                    reference_y=y,
                )
            )
    return pl.concat(frames)


def summarise(measurements: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
    """Return the measurements: the maps are drawn as they are."""
    return measurements
