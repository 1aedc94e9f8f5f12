"""What the tasks that draw single images share: which images, and their pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from reprscope.base.parameters import check_whole
from reprscope.data.canonical import encode_png
from reprscope.representations.views import View
from reprscope.runtime.errors import UserError
from reprscope.tasks import PICTURE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from reprscope.data.canonical import Annotations
    from reprscope.representations.store import Representations


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which images to show; the settings of a task that draws images begin with these.

    Attributes
    ----------
    images
        Images by name; empty for the first ``count`` test images.
    count
        Number of test images if none are named.
    """

    images: tuple[str, ...] = ()
    count: int = 3

    def __post_init__(self) -> None:
        # A study's list becomes a tuple here, so that it cannot be changed.
        object.__setattr__(self, "images", tuple(self.images))
        check_whole(self, "count")


def choose(
    representations: Representations, annotations: Annotations, choice: Choice, *, kind: str
) -> list[str]:
    """Return the images to show: those named, or else the first test images by name.

    Parameters
    ----------
    representations, annotations
        Features and dataset.
    choice
        Images are returned in the order in which it names them.
    kind
        Name of the task, for the messages.

    Raises
    ------
    UserError
        If a named image has no features, or there are no test images.
    """
    known = set(representations.image_ids)
    for image in choice.images:
        if image not in known:
            raise UserError(
                f"{kind}: image '{image}' has no features; name images of the dataset in `images`."
            )
    if choice.images:
        return list(choice.images)
    test = annotations.images().filter(pl.col("split") == "test")["image_id"]
    chosen = sorted(known & set(test))[: choice.count]
    if not chosen:
        raise UserError(f"{kind}: the dataset has no test images; name some in `images`.")
    return chosen


def pictures(
    schema: Mapping[str, Any],
    representations: Representations,
    annotations: Annotations,
    images: Sequence[str],
    *,
    further: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[pl.DataFrame]:
    """A frame of ``kind`` "image" for each image, at position "image", with its picture as ``png``.

    Parameters
    ----------
    schema
        Columns of the frames.
    representations, annotations
        Features and dataset.
    images
        Names of the images.
    further
        Further columns by image.
    """
    return [
        frame(
            schema,
            position=PICTURE,
            kind="image",
            png=encoded_png(representations, annotations, image),
            **{"image_id": [image], **(further or {}).get(image, {})},
        )
        for image in images
    ]


def finite_tokens(
    representations: Representations, position: str, image_id: str, *, kind: str
) -> NDArray[np.float32]:
    """Tokens (h, w, channels) of one image.

    Raises
    ------
    UserError
        If one of them is not finite.
    """
    tokens = representations.tokens(position, image_id)
    if not np.isfinite(tokens).all():
        raise UserError(
            f"{kind}: the features of image '{image_id}' at {position} are not finite; "
            "extract them again, with precision float32."
        )
    return tokens


def encoded_png(representations: Representations, annotations: Annotations, image_id: str) -> bytes:
    """PNG of an image exactly as it was encoded, so that tokens lie where they belong."""
    return encode_png(encoded_picture(representations, annotations, image_id))


def encoded_picture(
    representations: Representations, annotations: Annotations, image_id: str
) -> NDArray[np.uint8]:
    """Pixels (height, width, 3) of an image exactly as it was encoded."""
    viewed = representations.viewed
    picture, _ = View(**viewed["view"]).apply(
        annotations.image(image_id),
        resolution=viewed["resolution"],
        multiple=viewed["multiple"],
        image_id=image_id,
    )
    return picture


def frame(schema: Mapping[str, Any], **columns: Any) -> pl.DataFrame:
    """Return the columns as a frame of a schema, null where not given; scalars are repeated."""
    absent = {name: None for name in schema if name not in columns}
    return pl.DataFrame(columns | absent).select(
        pl.col(name).cast(kind) for name, kind in schema.items()
    )
