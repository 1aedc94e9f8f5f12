"""The embedded dataset: rendered animals of ten kinds with everything about them known exactly.

Each image comes with its kind as label, a caption, a depth map, a mask of the animal and eleven
named keypoints; correspondence pairs link images of one kind inside one split, with the
attributes of SPair-71k.  An image depends on (seed, index) alone.

The embedded model was trained on images of seed 0.  Evaluate it on another seed (the default
is 1), or it is tested on what it was trained on.

Depth is along the optical axis, in units of about the length of a horse's trunk, and infinite
for the sky and for plain white.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl

from reprscope.base.seeds import item_seed
from reprscope.data.canonical import (
    IMAGES_SCHEMA,
    KEYPOINTS_SCHEMA,
    PAIRS_SCHEMA,
    Dataset,
    encode_png,
)
from reprscope.data.synthetic.creatures import KEYPOINTS, KINDS
from reprscope.data.synthetic.scenes import Scene, render
from reprscope.runtime.errors import UserError

#: Pairs share at least this many visible keypoints.
SHARED = 3

#: Degrees between the headings at which viewpoint variation becomes 1 and 2.
VIEWPOINT = (25.0, 60.0)

#: Ratios of the box areas at which scale variation becomes 1 and 2.
SCALE = (1.5, 3.0)

#: An animal is truncated if more than this share of its box lies outside the image.
TRUNCATED = 0.01


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Settings of the menagerie.

    Attributes
    ----------
    images : int
        Number of images; kinds take turns, so a multiple of 10 is balanced.
    seed : int
        Seed of the images and pairs.  Seed 0 is the embedded model's training data.
    size : int
        Image side in px, at least 16.
    validation, test : float
        Shares of the images in these splits; the rest is for training.
    pairs_validation, pairs_test : int
        Number of correspondence pairs in each split, spread evenly over the kinds.
    """

    images: int = 1000
    seed: int = 1
    size: int = 128
    validation: float = 0.2
    test: float = 0.3
    pairs_validation: int = 200
    pairs_test: int = 400

    def __post_init__(self) -> None:
        for name, least in (("images", 1), ("size", 16)):
            if getattr(self, name) < least:
                raise UserError(f"{name} of the menagerie must be at least {least}.")
        for name in ("seed", "pairs_validation", "pairs_test"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} of the menagerie must not be negative.")
        if min(self.validation, self.test) < 0 or self.validation + self.test > 1:
            raise UserError(
                "validation and test of the menagerie are shares of the images: "
                "set them between 0 and 1, together at most 1."
            )

    @property
    def total(self) -> int:
        """Number of images."""
        return self.images


def provides(parameters: Parameters) -> frozenset[str]:
    """Annotations beside the images."""
    return frozenset({"labels", "captions", "pairs", "keypoints", "depth", "masks"})


def build(parameters: Parameters, threads: int) -> Dataset:
    """Render the dataset.

    Parameters
    ----------
    parameters : Parameters
    threads : int
        Number of worker processes.

    Returns
    -------
    Dataset
        The same for any number of workers.

    Raises
    ------
    UserError
        If a split holds too few images for its pairs.
    """
    scenes, encoded = _render_all(parameters, threads)
    ids = [f"menagerie-{parameters.seed}-{index:06d}" for index in range(parameters.images)]
    splits = _splits(parameters)
    images = pl.DataFrame(
        {
            "image_id": ids,
            "image": encoded,
            "width": [parameters.size] * len(ids),
            "height": [parameters.size] * len(ids),
            "label": [scene.kind for scene in scenes],
            "caption": [scene.caption for scene in scenes],
            "split": splits,
        },
        schema=IMAGES_SCHEMA,
    )
    keypoints = pl.DataFrame(
        [
            (image_id, name, point.x, point.y, point.visible, KINDS.index(scene.kind))
            for image_id, scene in zip(ids, scenes, strict=True)
            for name in KEYPOINTS
            for point in (scene.keypoints[name],)
        ],
        schema=KEYPOINTS_SCHEMA,
        orient="row",
    )
    counts = {"validation": parameters.pairs_validation, "test": parameters.pairs_test}
    pairs = [
        _pair(ids, scenes, split, source, target)
        for split, count in counts.items()
        for source, target in _choose_pairs(parameters.seed, scenes, splits, split, count)
    ]
    return Dataset(
        images=images,
        pairs=pl.DataFrame(pairs, schema=PAIRS_SCHEMA),
        keypoints=keypoints,
        depth={image_id: scene.depth for image_id, scene in zip(ids, scenes, strict=True)},
        masks={image_id: scene.mask for image_id, scene in zip(ids, scenes, strict=True)},
    )


def _render_all(parameters: Parameters, threads: int) -> tuple[list[Scene], list[bytes]]:
    """All scenes and their encoded images, in the order of their indices."""
    draw = partial(_render_one, parameters.seed, parameters.size)
    indices = range(parameters.images)
    if threads == 1 or parameters.images == 1:
        drawn = [draw(index) for index in indices]
    else:
        # A fork could copy a lock that a thread of the parent holds.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(threads, mp_context=context) as pool:
            drawn = list(pool.map(draw, indices, chunksize=16))
    return [scene for scene, _ in drawn], [data for _, data in drawn]


def _render_one(seed: int, size: int, index: int) -> tuple[Scene, bytes]:
    scene = render(seed, index, size=size)
    return scene, encode_png(scene.image)


def _splits(parameters: Parameters) -> list[str]:
    """Split of each image: consecutive blocks, so that each is as balanced as the whole."""
    validation = round(parameters.images * parameters.validation)
    test = round(parameters.images * parameters.test)
    train = max(parameters.images - validation - test, 0)
    blocks = ["train"] * train + ["validation"] * validation + ["test"] * test
    return blocks[: parameters.images]


def _shared(source: Scene, target: Scene) -> list[str]:
    """Names of the keypoints visible in both images."""
    return [
        name
        for name in KEYPOINTS
        if source.keypoints[name].visible and target.keypoints[name].visible
    ]


def _choose_pairs(
    seed: int, scenes: Sequence[Scene], splits: Sequence[str], split: str, count: int
) -> list[tuple[int, int]]:
    """Ordered pairs of image indices, the kinds taking turns."""
    chosen: list[tuple[int, int]] = []
    for position, kind in enumerate(KINDS):
        wanted = len(range(position, count, len(KINDS)))
        members = [
            index
            for index, scene in enumerate(scenes)
            if scene.kind == kind and splits[index] == split
        ]
        candidates = [(a, b) for a in members for b in members if a != b]
        rng = np.random.default_rng(item_seed("menagerie pairs", seed, split, kind))
        order = rng.permutation(len(candidates))
        suitable = (
            candidates[i]
            for i in order
            if len(_shared(scenes[candidates[i][0]], scenes[candidates[i][1]])) >= SHARED
        )
        found = [pair for _, pair in zip(range(wanted), suitable, strict=False)]
        if len(found) < wanted:
            raise UserError(
                f"The menagerie's {split} split has too few images for {count} pairs: "
                f"set more images or fewer pairs_{split}."
            )
        chosen += found
    return chosen


def _pair(
    ids: Sequence[str], scenes: Sequence[Scene], split: str, source: int, target: int
) -> dict[str, object]:
    """One row of the pairs table."""
    one, two = scenes[source], scenes[target]
    names = _shared(one, two)
    return {
        "pair_id": f"{ids[source]}-{target:06d}",
        "split": split,
        "category": one.kind,
        "source_id": ids[source],
        "target_id": ids[target],
        "keypoints": names,
        "source_xy": [[one.keypoints[name].x, one.keypoints[name].y] for name in names],
        "target_xy": [[two.keypoints[name].x, two.keypoints[name].y] for name in names],
        "source_box": list(one.box),
        "target_box": list(two.box),
        "viewpoint_variation": _viewpoint_variation(one, two),
        "scale_variation": _scale_variation(one, two),
        "truncation": (one.truncation > TRUNCATED) + 2 * (two.truncation > TRUNCATED),
        "occlusion": 0,
        "mirror": int(one.mirrored != two.mirrored),
    }


def _profile(scene: Scene) -> float:
    """Degrees the animal is turned away from a side view, negative towards the camera."""
    return (180 - scene.yaw + 180) % 360 - 180 if scene.mirrored else scene.yaw


def _viewpoint_variation(source: Scene, target: Scene) -> int:
    """0 to 2 by `VIEWPOINT`; facing opposite ways is not counted, since that is `mirror`."""
    difference = abs(_profile(source) - _profile(target))
    return sum(difference >= limit for limit in VIEWPOINT)


def _scale_variation(source: Scene, target: Scene) -> int:
    """0 to 2 by `SCALE`."""
    small, large = sorted((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (source.box, target.box))
    return sum(large / small >= limit for limit in SCALE)
