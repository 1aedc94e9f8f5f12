"""Similarity of one token to all tokens of the same image, or of several, and the norms of these.

Thesis, figures 4 and 5: a reference token, and the cosine similarity of every token to it, at every
position of the network. Figure 19: the token in the corner of one image, compared with all tokens
of three images (``across: true``). Figure 26: the same on the tokens of a diffusion transformer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from reprscope.measures.similarity import MEASURES, centre_of, compare
from reprscope.representations.coordinates import token_index
from reprscope.runtime.errors import UserError
from reprscope.tasks._pictures import Choice, choose, finite_tokens, frame, pictures

if TYPE_CHECKING:
    from reprscope.data.canonical import Annotations
    from reprscope.representations.store import Representations

NEEDS: Final[frozenset[str]] = frozenset()
STORES: Final = frozenset({"tokens"})
PROTOCOL: Final[frozenset[str]] = frozenset()
TABLE_COLUMNS: Final = (
    "image_id",
    "kind",
    "row",
    "col",
    "similarity",
    "norm",
    "measure",
    "reference_image",
    "reference_row",
    "reference_col",
    "reference_x",
    "reference_y",
    "png",
)

_SCHEMA: Final = {
    "image_id": pl.String,
    "position": pl.String,
    "kind": pl.String,
    "row": pl.Int32,
    "col": pl.Int32,
    "similarity": pl.Float64,
    "norm": pl.Float64,
    "measure": pl.String,
    "reference_image": pl.String,
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
    across
        Compare the reference token of the first of the images with the tokens of all of them,
        instead of that of each image with its own tokens.
    measure
        How tokens are compared: one of :data:`reprscope.measures.similarity.MEASURES`. The centre
        of the centred cosine is the mean of the mean tokens of the two images compared.
    """

    reference: tuple[float, float] = (0.5, 0.5)
    references: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    across: bool = False
    measure: str = "cosine"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.measure not in MEASURES:
            raise UserError(f"measure is {self.measure!r}; use one of: {', '.join(MEASURES)}.")
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
    """Compare reference tokens with all tokens of the chosen images, at every position.

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
    ``similarity`` (what the ``measure`` gives, for a distance the distance), ``norm`` (L2),
    ``reference_row``, ``reference_col``. Rows of ``kind`` "image", one for each image, at position
    "image": ``png`` (the picture in the frame of the encoded image). ``reference_image``,
    ``reference_x`` and ``reference_y`` in [0, 1] and ``measure`` are in both.

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
    sources = dict.fromkeys(images, images[0]) if parameters.across else {i: i for i in images}
    places = {i: parameters.references.get(i, parameters.reference) for i in images}
    shared = {
        image: {
            "image_id": [image],
            "measure": parameters.measure,
            "reference_image": source,
            "reference_x": places[source][0],
            "reference_y": places[source][1],
        }
        for image, source in sources.items()
    }
    frames = pictures(_SCHEMA, representations, annotations, images, further=shared)
    for position in representations.positions:
        maps = {
            image: finite_tokens(representations, position, image, kind="token_similarity")
            for image in images
        }
        for image, source in sources.items():
            pixels, tokens = representations.pixels(source), maps[source]
            row, col = token_index(np.array(places[source]) * pixels, pixels, tokens.shape[:2])
            own, other = (maps[i].reshape(-1, tokens.shape[-1]) for i in (source, image))
            values = compare(
                tokens[row, col][None],
                other,
                measure=parameters.measure,
                centre=centre_of([own, other]),
            )
            rows, cols = np.indices(maps[image].shape[:2]).reshape(2, -1)
            frames.append(
                frame(
                    _SCHEMA,
                    row=rows,
                    col=cols,
                    position=position,
                    kind="map",
                    similarity=values[0],
                    norm=np.linalg.norm(other, axis=1),
                    reference_row=int(row),
                    reference_col=int(col),
                    **shared[image] | {"image_id": image},
                )
            )
    return pl.concat(frames)


def summarise(measurements: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
    """Return the measurements: the maps are drawn as they are."""
    return measurements
