"""The canonical form that every dataset source reaches, and reading it.

A dataset is a folder: ``images.parquet`` and, where the source provides them,
``pairs.parquet``, ``keypoints.parquet``, ``depth.h5`` and ``masks.h5``. ``images.parquet`` loads
with ``datasets.load_dataset("parquet", ...)`` and with polars. Columns:

images
    ``image_id`` (unique), ``image`` (encoded PNG or JPEG bytes), ``width``, ``height`` (pixels),
    ``label`` (class name or null), ``caption`` (or null), ``split`` (train, validation, test).
    Where several images are of one scene (or one cut-out), also ``scene``: images of one are not
    independent. Last comes ``crc32``, the checksum of the encoded bytes: few jobs read all pictures
    of a dataset, so that each is compared when it is decoded, and the other columns by a digest in
    the file's metadata.
pairs
    ``pair_id``, ``split``, ``category``, ``source_id``, ``target_id``, ``keypoints`` (names
    visible in both images), ``source_xy``, ``target_xy`` (one [x, y] per keypoint, original
    pixels, pixel i covers [i, i + 1)), ``source_box``, ``target_box`` ([x0, y0, x1, y1]),
    ``viewpoint_variation``, ``scale_variation`` (0 to 2), ``truncation``, ``occlusion`` (0 to 3),
    ``mirror`` (0 or 1), as in SPair-71k.
keypoints
    ``image_id``, ``keypoint``, ``x``, ``y`` (pixels), ``visible``, ``group`` (of the image: names
    of keypoints mean the same in all images of one group, so that these can be compared).
depth, masks
    One map per image, (height, width).  They are written one at a time, so that a source may
    offer a mapping that reads each map only when it is asked for.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reprscope.base import shards
from reprscope.runtime import checksums
from reprscope.runtime.disk import reserve
from reprscope.runtime.errors import UserError
from reprscope.runtime.files import atomic
from reprscope.runtime.frames import read_frame, write_frame

logger = logging.getLogger(__name__)

#: Key of the source's record in the metadata of ``images.parquet``.
RECORD = "reprscope.record"

SPLITS = ("train", "validation", "test")
FILES = {
    "pairs": "pairs.parquet",
    "keypoints": "keypoints.parquet",
    "depth": "depth.h5",
    "masks": "masks.h5",
}
IMAGES_SCHEMA = {
    "image_id": pl.String,
    "image": pl.Binary,
    "width": pl.Int32,
    "height": pl.Int32,
    "label": pl.String,
    "caption": pl.String,
    "split": pl.String,
}
OPTIONAL_SCHEMA = {"scene": pl.String}
"""Columns that ``images`` may have beside those of :data:`IMAGES_SCHEMA`."""

PAIRS_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "pair_id": pl.String,
    "split": pl.String,
    "category": pl.String,
    "source_id": pl.String,
    "target_id": pl.String,
    "keypoints": pl.List(pl.String),
    "source_xy": pl.List(pl.List(pl.Float64)),
    "target_xy": pl.List(pl.List(pl.Float64)),
    "source_box": pl.List(pl.Float64),
    "target_box": pl.List(pl.Float64),
    "viewpoint_variation": pl.Int32,
    "scale_variation": pl.Int32,
    "truncation": pl.Int32,
    "occlusion": pl.Int32,
    "mirror": pl.Int32,
}
KEYPOINTS_SCHEMA = {
    "image_id": pl.String,
    "keypoint": pl.String,
    "x": pl.Float64,
    "y": pl.Float64,
    "visible": pl.Boolean,
    "group": pl.Int32,
}


@dataclass(kw_only=True)
class Dataset:
    """A dataset in memory; see the module's text for columns and units."""

    images: pl.DataFrame
    pairs: pl.DataFrame | None = None
    keypoints: pl.DataFrame | None = None
    depth: Mapping[str, NDArray[np.float32]] | None = None
    masks: Mapping[str, NDArray[np.bool_]] | None = None
    record: tuple[str, ...] = ()
    """What the source converted, left out and divided, in words; see :func:`read_record`."""


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """PNG bytes of an (height, width, 3) image."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="png")
    return buffer.getvalue()


def decode(data: bytes, image_id: str) -> NDArray[np.uint8]:
    """Decode PNG or JPEG bytes to (height, width, 3) RGB.

    Raises
    ------
    UserError
        If the bytes are not a complete image.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as picture:
            return np.asarray(picture.convert("RGB"))
    except Exception as error:
        raise UserError(
            f"Image {image_id} cannot be decoded ({error}): replace or remove it in the dataset."
        ) from error


def check(dataset: Dataset) -> None:
    """Check a dataset against the canonical form.

    Raises
    ------
    UserError
        For an empty dataset, doubled names, an unknown split, a pair that names an image which
        is not there, or a keypoint that lies outside its image.
    """
    images = dataset.images
    if images.is_empty():
        raise UserError("The dataset has no images: check the source's settings.")
    columns = dict(images.schema)
    optional = {name: kind for name, kind in OPTIONAL_SCHEMA.items() if name in columns}
    if columns != IMAGES_SCHEMA | optional:
        raise UserError(f"The dataset's columns are {columns}, not {IMAGES_SCHEMA | optional}.")
    doubled = images.filter(pl.col("image_id").is_duplicated())
    if not doubled.is_empty():
        raise UserError(f"Image {doubled['image_id'][0]} is in the dataset twice: rename one.")
    unknown = set(images["split"].unique()) - set(SPLITS)
    if unknown:
        raise UserError(f"Split {min(unknown)} is not one of {', '.join(SPLITS)}.")
    if dataset.pairs is not None:
        _check_pairs(dataset.pairs, images)


def _check_pairs(pairs: pl.DataFrame, images: pl.DataFrame) -> None:
    # By columns: a set of cut-outs has millions of pairs.
    for side in ("source", "target"):
        sized = pairs.select("pair_id", image_id=f"{side}_id", xy=f"{side}_xy").join(
            images.select("image_id", "width", "height"), on="image_id", how="left"
        )
        lost = sized.filter(pl.col("width").is_null())
        if not lost.is_empty():
            pair, name = lost.select("pair_id", "image_id").row(0)
            raise UserError(f"Pair {pair} names image {name}, which is not there.")
        x, y = (pl.col("xy").list.get(axis) for axis in (0, 1))
        inside = x.is_between(0, pl.col("width")) & y.is_between(0, pl.col("height"))
        outside = sized.explode("xy").drop_nulls("xy").filter(~inside.fill_null(False))
        if not outside.is_empty():
            pair, name = outside.select("pair_id", "image_id").row(0)
            raise UserError(
                f"Pair {pair} has a keypoint outside image {name}: correct or remove the pair."
            )


def write_dataset(dataset: Dataset, folder: Path, *, spec: str = "{}") -> None:
    """Check a dataset and write it to ``folder``; every file carries ``spec``."""
    check(dataset)
    _write_images(dataset, folder / "images.parquet", spec)
    for name, table in (("pairs", dataset.pairs), ("keypoints", dataset.keypoints)):
        if table is not None:
            write_frame(table, folder / FILES[name], spec=spec)
    for line in dataset.record:
        logger.info("%s", line)
    for name, maps in (("depth", dataset.depth), ("masks", dataset.masks)):
        if maps is not None:
            write_maps(folder / FILES[name], maps, spec=spec)


def _write_images(dataset: Dataset, path: Path, spec: str) -> None:
    sums = [zlib.crc32(data) for data in dataset.images["image"]]
    frame = dataset.images.with_columns(crc32=pl.Series(sums, dtype=pl.UInt32))
    metadata = {RECORD: json.dumps(dataset.record), "spec": spec}
    metadata["sha256"] = _digest(frame.drop("image"), metadata)
    with atomic(path) as part:
        frame.write_parquet(part, metadata=metadata)


def _digest(frame: pl.DataFrame, metadata: Mapping[str, str]) -> str:
    """Digest of all of an ``images.parquet`` but the pictures."""
    content = [sorted(metadata.items()), frame.columns, frame.rows()]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _read_metadata(path: Path) -> tuple[pl.DataFrame, dict[str, str]]:
    """All of an ``images.parquet`` but the pictures: its table, and what it was made from."""
    with _reading(path):
        # The entry of Arrow says nothing that is used.
        metadata = {
            key: value
            for key, value in pl.read_parquet_metadata(path).items()
            if key in (RECORD, "spec", "sha256")
        }
        frame = pl.scan_parquet(path, glob=False).drop("image").collect()
        if metadata.pop("sha256") != _digest(frame, metadata):
            raise checksums.damaged(path)
    return frame, metadata


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Say which file is damaged if polars cannot read it, or breaks."""
    try:
        yield
    except (LookupError, ValueError, pl.exceptions.PolarsError) as error:
        raise checksums.damaged(path, error) from error
    except pl.exceptions.PanicException as error:
        raise checksums.damaged(path, error) from error


def read_record(path: Path) -> list[str]:
    """What the source of an ``images.parquet`` converted, left out and divided, in words."""
    return [str(line) for line in json.loads(_read_metadata(path)[1][RECORD])]


def write_maps(path: Path, maps: Mapping[str, NDArray[Any]], *, spec: str = "{}") -> None:
    """Write one (height, width) map per image; holds one map at a time."""
    with checksums.new_hdf5(path, spec=spec) as file:
        for name, values in maps.items():
            reserve(file, values.nbytes)
            file.create_dataset(name, data=values, compression="lzf", fletcher32=True)


def read_images(path: Path, shard: str) -> pl.DataFrame:
    """Rows of ``images.parquet`` that belong to a shard such as ``0of2``, with their bytes.

    Raises
    ------
    UserError
        If the shard has no images, or the file is damaged.
    """
    frame, _ = _read_metadata(path)
    chosen = shards.rows(shard, len(frame))
    if not chosen:
        raise UserError(
            f"Shard {shard} of {path} has no images: set a smaller number of `shards` for the "
            "dataset."
        )
    with _reading(path):
        pictures = pl.scan_parquet(path, glob=False).select("image")
        found = pictures.slice(chosen.start, len(chosen)).collect()
    part = frame.slice(chosen.start, len(chosen))
    for data, expected in zip(found["image"], part["crc32"], strict=True):
        _compare(path, data, expected)
    return part.drop("crc32").insert_column(1, found["image"])


def _compare(path: Path, data: bytes, crc32: int) -> None:
    if zlib.crc32(data) != crc32:
        raise checksums.damaged(path)


class Annotations:
    """Reads a dataset folder lazily.

    Every reader raises UserError if the file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def _path(self) -> Path:
        return self.folder / "images.parquet"

    @cached_property
    def _table(self) -> pl.DataFrame:
        return _read_metadata(self._path)[0]

    @cached_property
    def _pictures(self) -> pl.Series:
        with _reading(self._path):
            return pl.read_parquet(self._path, columns=["image"], glob=False)["image"]

    @cached_property
    def _row(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self._table["image_id"])}

    @cached_property
    def _depth(self) -> Any:
        return checksums.open_hdf5(self.folder / FILES["depth"])

    def images(self) -> pl.DataFrame:
        """All images without their pixels."""
        return self._table.drop("crc32")

    def image(self, image_id: str) -> NDArray[np.uint8]:
        """Decoded original, (height, width, 3) RGB."""
        row = self._row[image_id]
        data = self._pictures[row]
        _compare(self._path, data, self._table["crc32"][row])
        return decode(data, image_id)

    def pairs(self) -> pl.DataFrame:
        """Correspondence pairs."""
        return read_frame(self.folder / FILES["pairs"])

    def keypoints(self) -> pl.DataFrame:
        """Named keypoints of every image."""
        return read_frame(self.folder / FILES["keypoints"])

    def depth(self, image_id: str) -> NDArray[np.float32]:
        """Depth map of one image, (height, width)."""
        with checksums.reading(self.folder / FILES["depth"]):
            values: NDArray[np.float32] = self._depth[image_id][:]
        return values
