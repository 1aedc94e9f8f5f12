"""SPair-71k: photographs of 18 categories with keypoints and correspondence pairs.

Min, Lee, Ponce, Cho: SPair-71k: A Large-scale Benchmark for Semantic Correspondence (2019).

The archive is read from end to end without being unpacked: its annotation files have a colon in
their names, which not every file system can hold. An image name occurs in several categories, so
that an ``image_id`` is ``{category}/{name}``. Keypoints are named by their number in the category,
as text. JPEG bytes, points and boxes are kept as they are, but a point that was clicked just beyond
the border is moved onto it, since no pixel belongs to it otherwise.
"""

from __future__ import annotations

import io
import json
import logging
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl

from reprscope.data import counts, download
from reprscope.data.canonical import IMAGES_SCHEMA, KEYPOINTS_SCHEMA, PAIRS_SCHEMA, Dataset
from reprscope.runtime.errors import UserError

logger = logging.getLogger(__name__)

OFFICIAL = "https://cvlab.postech.ac.kr/research/SPair-71k/data/SPair-71k.tar.gz"

URLS = (
    OFFICIAL,
    "https://huggingface.co/datasets/kmjung/SPair-71k/resolve/main/SPair-71k.tar.gz",
    f"https://web.archive.org/web/20250701134122id_/{OFFICIAL}",
)

#: The archive's names of the splits; a later one takes an image that pairs of several share.
SPLITS = {"trn": "train", "val": "validation", "test": "test"}

#: Published numbers.
COUNTS = {
    "images": 1800,
    "train_pairs": 53340,
    "validation_pairs": 5384,
    "test_pairs": 12234,
    "test_keypoints": 88328,
}

#: Pixels beyond the border up to which a point is moved; one farther out is a mistake.
BEYOND = 10

ATTRIBUTES = ("viewpoint_variation", "scale_variation", "truncation", "occlusion", "mirror")

#: What a fetch needs: the archive, and the pairs in memory.
RESOURCES = {"mem_mb": 4000, "disk_mb": 1000, "runtime": 240}


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Settings of SPair-71k.

    Attributes
    ----------
    urls : tuple of str
        Where the archive is, in the order in which to try; paths of local files may stand among
        them.
    size : int or None
        The archive's size in bytes; null does not check.
    checksum : str or None
        The archive's checksum, ``sha256:…``; null does not check.
    counts : mapping of str to int
        What the archive must hold: images, train_pairs, validation_pairs, test_pairs and
        test_keypoints.  Only an archive that differs from the published one has other numbers;
        one that is left out is not checked.
    """

    urls: tuple[str, ...] = URLS
    size: int | None = field(default=226_961_117, metadata={"limits": (1, 2**50)})
    checksum: str | None = "sha256:d145eebe4d7d02ff0b9e2746dd3d72cfcb872df0dcfd6f3227576eb594408809"
    counts: Mapping[str, int] = field(default_factory=lambda: dict(COUNTS))

    def __post_init__(self) -> None:
        download.check_settings(self.urls, self.checksum)
        counts.check_keys(self.counts, COUNTS)

    @property
    def total(self) -> int | None:
        """Number of images."""
        return self.counts.get("images")


def files(parameters: Parameters) -> list[str]:
    """Archives on this machine."""
    return download.files(parameters.urls)


def provides(parameters: Parameters) -> frozenset[str]:
    """Annotations beside the images."""
    return frozenset({"labels", "pairs", "keypoints", "difficulties"})


def build(parameters: Parameters, threads: int) -> Dataset:
    """Fetch and read SPair-71k.

    Parameters
    ----------
    parameters : Parameters
    threads : int
        Not used: the archive is one stream.

    Returns
    -------
    Dataset
        Images by category and name, with the category as label; the pairs of all splits.  An
        image belongs to the split of the pairs it is in (to train if it is in none).

    Raises
    ------
    UserError
        If the archive cannot be had, is damaged, or holds other numbers than ``counts``.
    """
    archive = download.fetch(
        parameters.urls, what="SPair-71k", size=parameters.size, checksum=parameters.checksum
    )
    photos, keypoints, pairs = _read(archive)
    pairs.sort(key=lambda pair: (list(SPLITS.values()).index(pair["split"]), pair["pair_id"]))
    _check_counts(photos, pairs, parameters.counts)
    order = sorted(photos)
    categories = sorted({name.partition("/")[0] for name in order})
    split_of = _image_splits(pairs)
    images = pl.DataFrame(
        {
            "image_id": order,
            "image": [photos[name] for name in order],
            "width": [_size(photos[name], name)[0] for name in order],
            "height": [_size(photos[name], name)[1] for name in order],
            "label": [name.partition("/")[0] for name in order],
            "caption": [None] * len(order),
            "split": [split_of.get(name, "train") for name in order],
        },
        schema=IMAGES_SCHEMA,
    )
    return Dataset(
        images=images,
        pairs=pl.DataFrame(pairs, schema=PAIRS_SCHEMA),
        keypoints=pl.DataFrame(
            [(*row, categories.index(row[0].partition("/")[0])) for row in sorted(keypoints)],
            schema=KEYPOINTS_SCHEMA,
            orient="row",
        ),
    )


def _read(
    archive: Path,
) -> tuple[dict[str, bytes], list[tuple[str, str, float, float, bool]], list[dict[str, Any]]]:
    """Photographs, annotated keypoints and pairs of an archive, in the archive's order."""
    photos: dict[str, bytes] = {}
    keypoints: list[tuple[str, str, float, float, bool]] = []
    pairs: list[dict[str, Any]] = []
    for kind, group, stem, data in _members(archive):
        if kind == "JPEGImages":
            photos[f"{group}/{stem}"] = data
        elif kind == "ImageAnnotation":
            entry = json.loads(data)
            size = entry["image_width"], entry["image_height"]
            keypoints += [
                (f"{group}/{stem}", name, *_inside(xy, size), True)
                for name, xy in entry["kps"].items()
                if xy is not None
            ]
        elif kind == "PairAnnotation":
            pairs.append(_pair(SPLITS[group], stem, json.loads(data)))
    return photos, keypoints, pairs


def _members(archive: Path) -> Iterator[tuple[str, str, str, bytes]]:
    """Kind of file, its folder, its name without suffix, and its bytes."""
    suffixes = {"JPEGImages": ".jpg", "ImageAnnotation": ".json", "PairAnnotation": ".json"}
    try:
        with tarfile.open(archive, "r|*") as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                if len(path.parts) < 3 or path.name.startswith("."):
                    continue
                kind, group = path.parts[-3:-1]
                stream = tar.extractfile(member) if path.suffix == suffixes.get(kind) else None
                if stream is not None:
                    yield kind, group, path.stem, stream.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(
            f"The archive {archive} cannot be read ({error}): delete it and run again."
        ) from error


def _pair(split: str, stem: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    category = entry["category"]
    found: dict[str, Any] = {
        "pair_id": stem,
        "split": split,
        "category": category,
        "keypoints": [str(name) for name in entry["kps_ids"]],
    }
    for ours, theirs in (("source", "src"), ("target", "trg")):
        found[f"{ours}_id"] = f"{category}/{entry[f'{theirs}_imname'].removesuffix('.jpg')}"
        size = entry[f"{theirs}_imsize"]
        found[f"{ours}_xy"] = [list(_inside(xy, size)) for xy in entry[f"{theirs}_kps"]]
        found[f"{ours}_box"] = [float(value) for value in entry[f"{theirs}_bndbox"]]
    return found | {name: int(entry[name]) for name in ATTRIBUTES}


def _inside(xy: Sequence[float], size: Sequence[int]) -> tuple[float, float]:
    """Return a point, moved onto the border of its image if it lies a little beyond."""
    x, y = (
        float(min(max(value, 0), side)) if -BEYOND <= value <= side + BEYOND else float(value)
        for value, side in zip(xy, size, strict=False)
    )
    return x, y


def _image_splits(pairs: list[dict[str, Any]]) -> dict[str, str]:
    """Split of every image that is in a pair; ``pairs`` are sorted by split."""
    return {pair[side]: pair["split"] for pair in pairs for side in ("source_id", "target_id")}


def _check_counts(
    photos: Mapping[str, bytes], pairs: list[dict[str, Any]], expected: Mapping[str, int]
) -> None:
    by_split = Counter(pair["split"] for pair in pairs)
    found = {f"{split}_pairs": by_split[split] for split in SPLITS.values()} | {
        "images": len(photos),
        "test_keypoints": sum(len(p["keypoints"]) for p in pairs if p["split"] == "test"),
    }
    logger.info("SPair-71k: %s", found)
    counts.check(found, expected, what="SPair-71k")


def _size(data: bytes, name: str) -> tuple[int, int]:
    """Width and height in pixels, from the image's header."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as picture:
            return picture.size
    except OSError as error:
        raise UserError(
            f"Image {name} of SPair-71k cannot be decoded ({error}): fetch the archive anew."
        ) from error
