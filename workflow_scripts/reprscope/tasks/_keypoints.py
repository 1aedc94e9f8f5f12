"""Keypoints of pairs of images as columns, checked, in original and encoded pixels."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from reprscope.runtime.errors import UserError
from reprscope.tasks._matching import Frames, component_order

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from reprscope.data.canonical import Annotations
    from reprscope.representations.store import Representations

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

SPLITS: Final = ("validation", "test")
SIDES: Final = ("source", "target")
CORNERS: Final = ("x0", "y0", "x1", "y1")
COLUMNS: Final = ("pair_id", "split", "category", "keypoint", "source_id", "target_id")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Points:
    """One row for each keypoint of a pair that the encoded pictures show.

    Attributes
    ----------
    table
        :data:`COLUMNS`; in original pixels ``source_x``, ``source_y``, ``target_x``, ``target_y``,
        ``source_width`` and so on, and the boxes' corners ``source_box_x0`` and so on. Sorted by
        split, pair and the order within the pair.
    frames
        The pairs' images, those that pairs connect together.
    source_frames
        The same images as sources are seen: ``frames``, or those of another representation.
    component
        (images,) number of the connected set of images.
    source, target
        (points,) numbers of the images.
    source_xy, target_xy
        (points, 2) in encoded pixels.
    """

    table: pl.DataFrame
    frames: Frames
    source_frames: Frames
    component: Ints
    source: Ints
    target: Ints
    source_xy: Floats
    target_xy: Floats

    def filter(self, shown: NDArray[np.bool_], *, task: str) -> Points:
        """Keep the points (points,) that a view shows.

        Raises
        ------
        UserError
            If it shows none.
        """
        if not shown.all():
            logger.info("the view shows %d of %d keypoints", shown.sum(), len(shown))
        if not shown.any():
            raise UserError(
                f"{task}: the view moves every keypoint out of the picture; "
                "use a view that keeps the objects."
            )
        return replace(
            self,
            table=self.table.filter(shown),
            source=self.source[shown],
            target=self.target[shown],
            source_xy=self.source_xy[shown],
            target_xy=self.target_xy[shown],
        )

    def within(self, frames: Frames) -> Points:
        """Return the same points as other representations of the images show them."""
        source, target = (
            frames.forward(image, self.table.select(f"{side}_x", f"{side}_y").to_numpy())
            for side, image in (("source", self.source), ("target", self.target))
        )
        return replace(
            self, frames=frames, source_frames=frames, source_xy=source, target_xy=target
        )


def of_pairs(
    annotations: Annotations,
    representations: Representations,
    *,
    sources: Representations | None = None,
    task: str,
) -> Points:
    """Keypoints of the validation and test pairs.

    Parameters
    ----------
    annotations
        Pairs, and the sizes of the images.
    representations
        Their features.
    sources
        Features of sources, if they are others.
    task
        Name of the task, for the messages.

    Raises
    ------
    UserError
        If there are no validation or test pairs, an image of a pair has no features, a keypoint
        lies outside its image, a bounding box is empty, or the view shows no keypoint.
    """
    table = _table(annotations)
    known = {side: set(representations.image_ids) for side in SIDES}
    if sources is not None:
        known["source"] = set(sources.image_ids)
    _check(table, known, task)
    names = pl.concat([table[f"{side}_id"] for side in SIDES]).unique().sort()
    number = {
        side: names.search_sorted(table[f"{side}_id"]).to_numpy().astype(np.int64) for side in SIDES
    }
    order, component = component_order(number["source"], number["target"], len(names))
    ordered = names.gather(order).to_list()
    frames = Frames.of(representations, ordered)
    source_frames = frames if sources is None else Frames.of(sources, ordered)
    place = np.argsort(order)
    source, target = (place[number[side]] for side in SIDES)
    source_xy, target_xy = (
        seen.forward(image, table.select(f"{side}_x", f"{side}_y").to_numpy())
        for side, seen, image in (("source", source_frames, source), ("target", frames, target))
    )
    shown = source_frames.shows(source, source_xy) & frames.shows(target, target_xy)
    points = Points(table, frames, source_frames, component, source, target, source_xy, target_xy)
    return points.filter(shown, task=task)


def boxes(table: pl.DataFrame, prefix: str) -> Floats:
    """Corners (rows, 4) of a box whose columns begin with ``prefix``."""
    return table.select(f"{prefix}_{corner}" for corner in CORNERS).to_numpy()


def in_whole_encoded_pixels(points: Points) -> pl.DataFrame:
    """Table with points, target boxes and target sizes in whole pixels of the encoded images."""
    corners = boxes(points.table, "target_box").reshape(-1, 2)
    encoded = points.frames.forward(np.repeat(points.target, 2), corners).reshape(-1, 2, 2)
    # A view that mirrors swaps a box's sides.
    box = np.trunc(np.concatenate([encoded.min(axis=1), encoded.max(axis=1)], axis=1))
    sizes = points.frames.pixels[points.target].astype(np.float64)
    values = {
        f"{side}_{axis}": np.trunc(xy[:, i])
        for side, xy in (("source", points.source_xy), ("target", points.target_xy))
        for i, axis in enumerate("xy")
    }
    values |= {f"target_box_{corner}": box[:, i] for i, corner in enumerate(CORNERS)}
    values |= {f"target_{length}": sizes[:, i] for i, length in enumerate(("width", "height"))}
    return points.table.with_columns(pl.Series(name, column) for name, column in values.items())


def _table(annotations: Annotations) -> pl.DataFrame:
    """Return one row for each keypoint of a pair, in original pixels, sorted."""
    pairs = annotations.pairs().filter(pl.col("split").is_in(SPLITS))
    sizes = annotations.images().select("image_id", "width", "height")
    for side in SIDES:
        of_side = sizes.select(pl.all().name.prefix(f"{side}_"))
        of_side = of_side.rename({f"{side}_image_id": f"{side}_id"})
        pairs = pairs.join(of_side, on=f"{side}_id", how="left")
    return (
        pairs.with_columns(pl.int_ranges(pl.col("keypoints").list.len()).alias("order"))
        .explode("keypoints", "source_xy", "target_xy", "order")
        .drop_nulls("keypoints")
        .sort("split", "pair_id", "order")
        .rename({"keypoints": "keypoint"})
        .select(
            *COLUMNS,
            *(f"{side}_{length}" for side in SIDES for length in ("width", "height")),
            *(
                pl.col(f"{side}_xy").list.get(i).alias(f"{side}_{axis}")
                for side in SIDES
                for i, axis in enumerate("xy")
            ),
            *(
                pl.col(f"{side}_box").list.get(i).alias(f"{side}_box_{corner}")
                for side in SIDES
                for i, corner in enumerate(CORNERS)
            ),
        )
    )


def _check(points: pl.DataFrame, images: Mapping[str, set[str]], task: str) -> None:
    """Raise a UserError for points that cannot be scored."""
    if points.is_empty():
        raise UserError(
            f"{task}: the dataset has no keypoints in validation or test pairs; "
            "use a dataset with such pairs, or more of it."
        )
    for side in SIDES:
        lost = points.filter(~pl.col(f"{side}_id").is_in(list(images[side])))
        if len(lost):
            raise UserError(
                f"{task}: image '{lost[f'{side}_id'][0]}' of pair '{lost['pair_id'][0]}' "
                "has no features; extract the images of all pairs."
            )
        # A point on the far border belongs to the last pixel: annotations have such points.
        outside = points.filter(
            ~pl.col(f"{side}_x").is_between(0, pl.col(f"{side}_width"))
            | ~pl.col(f"{side}_y").is_between(0, pl.col(f"{side}_height"))
        )
        if len(outside):
            raise UserError(
                f"{task}: keypoint '{outside['keypoint'][0]}' of pair "
                f"'{outside['pair_id'][0]}' lies outside image '{outside[f'{side}_id'][0]}'; "
                "correct the dataset's pairs."
            )
        x0, y0, x1, y1 = (pl.col(f"{side}_box_{corner}") for corner in CORNERS)
        empty = points.filter((x0 >= x1) | (y0 >= y1))
        if len(empty):
            raise UserError(
                f"{task}: the {side} box of pair '{empty['pair_id'][0]}' has no area; "
                "correct the dataset's pairs."
            )
