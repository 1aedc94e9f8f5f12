"""NYU Depth v2: 1,449 indoor photographs with depth, 640 x 480 pixels.

Silberman, Hoiem, Kohli, Fergus: Indoor Segmentation and Support Inference from RGBD Images (2012).

The labelled file is HDF5 with MATLAB's order of axes: (image, channel, x, y) and (image, x, y).
Images and maps are turned upright here, and read one at a time. Depth is in metres. The images are
of 464 scenes, whose names the file holds: images of one room are not independent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reprscope.data import counts, download
from reprscope.data.canonical import IMAGES_SCHEMA, OPTIONAL_SCHEMA, Dataset, encode_png
from reprscope.runtime.errors import UserError
from reprscope.runtime.progress import progress

URLS = ("http://horatio.cs.nyu.edu/mit/silberman/nyu_depth_v2/nyu_depth_v2_labeled.mat",)
SPLITS_URLS = ("http://horatio.cs.nyu.edu/mit/silberman/indoor_seg_sup/splits.mat",)

#: Published numbers.
COUNTS = {"images": 1449}

#: Share of the images, in the file's order, that the thesis trains on: the first 1,159.
THESIS_TRAIN = 0.8

#: The file has 3 GB; the PNG images, under 1 GB, are in memory twice when they are written.
RESOURCES = {"mem_mb": 6000, "disk_mb": 8000, "runtime": 480}


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Settings of NYU Depth v2.

    Attributes
    ----------
    division : {"official", "thesis"}
        Division into train and test: the published one (795 and 654 images), or the thesis' (the
        first 80 % and the rest, in the file's order).
    depth : {"depths", "rawDepths"}
        Depth with holes filled in, or as measured, with 0 where nothing was measured.
    urls, splits_urls : tuple of str
        Where the labelled file and ``splits.mat`` are, in the order in which to try; paths of
        local files may stand among them.
    size : int or None
        Size of the labelled file in bytes; null does not check.
    checksum : str or None
        Checksum of the labelled file, ``md5:…`` or ``sha256:…``; null does not check.
    counts : mapping of str to int
        What the file must hold: images.  Only a file that differs from the published one has
        another number.
    """

    division: Literal["official", "thesis"] = "official"
    depth: Literal["depths", "rawDepths"] = "depths"
    urls: tuple[str, ...] = URLS
    splits_urls: tuple[str, ...] = SPLITS_URLS
    size: int | None = field(default=2_972_037_809, metadata={"limits": (1, 2**50)})
    checksum: str | None = "md5:520609c519fba3ba5ac58c8fefcc3530"
    counts: Mapping[str, int] = field(default_factory=lambda: dict(COUNTS))

    def __post_init__(self) -> None:
        download.check_settings(self.urls, self.checksum)
        download.check_settings(self.splits_urls, None)
        counts.check_keys(self.counts, COUNTS)

    @property
    def total(self) -> int | None:
        """Number of images."""
        return self.counts.get("images")


def files(parameters: Parameters) -> list[str]:
    """Files on this machine."""
    division = parameters.splits_urls if parameters.division == "official" else ()
    return download.files([*parameters.urls, *division])


def provides(parameters: Parameters) -> frozenset[str]:
    """Annotations beside the images."""
    return frozenset({"depth"})


def build(parameters: Parameters, threads: int) -> Dataset:
    """Fetch and read NYU Depth v2.

    Parameters
    ----------
    parameters : Parameters
    threads : int
        Not used: the file is one stream.

    Returns
    -------
    Dataset
        Images in the file's order, named by their number there, from 1 as in ``splits.mat``, with
        the name of their scene, such as ``kitchen_0004``.

    Raises
    ------
    UserError
        If a file cannot be had, is damaged, or holds another number of images than ``counts``.
    """
    division = None
    if parameters.division == "official":
        # First, so that a missing small file is noticed before the large one is fetched.
        division = download.fetch(parameters.splits_urls, what="splits.mat of NYU Depth v2")
    path = download.fetch(
        parameters.urls,
        what="NYU Depth v2",
        size=parameters.size,
        checksum=parameters.checksum,
    )
    labelled = Labelled(path, parameters.depth)
    total = len(labelled)
    counts.check({"images": total}, parameters.counts, what="NYU Depth v2")
    scenes = labelled.scenes()
    splits = _thesis(total) if division is None else _official(division, total)
    rows = []
    with progress(total, "images") as advance:
        for row, image_id in enumerate(labelled):
            image = labelled.image(row)
            rows.append(
                {
                    "image_id": image_id,
                    "image": encode_png(image),
                    "width": image.shape[1],
                    "height": image.shape[0],
                    "label": None,
                    "caption": None,
                    "split": splits[row],
                    "scene": scenes[row],
                }
            )
            advance(1)
    images = pl.DataFrame(rows, schema={**IMAGES_SCHEMA, **OPTIONAL_SCHEMA})
    return Dataset(images=images, depth=labelled)


class Labelled(Mapping[str, NDArray[np.float32]]):
    """The labelled file: upright depth maps by image name, each read when it is asked for.

    Parameters
    ----------
    path : Path
        The ``.mat`` file.
    depth : str
        Which maps.

    Raises
    ------
    UserError
        If the file is not the labelled file of NYU Depth v2.
    """

    def __init__(self, path: Path, depth: str) -> None:
        self._path = path
        self._depth = depth
        shapes = [self._table(name).shape for name in ("images", depth)]
        if len(shapes[0]) != 4 or shapes[0][1] != 3 or shapes[1] != shapes[0][:1] + shapes[0][2:]:
            raise UserError(
                f"{path} has images of shape {shapes[0]} and {depth} of shape {shapes[1]}, not "
                "(images, 3, x, y) and (images, x, y): use the labelled file of NYU Depth v2."
            )

    @cached_property
    def _file(self) -> Any:
        import h5py

        try:
            # A chunk may span several images: the cache keeps it until they all are read.
            return h5py.File(self._path, "r", rdcc_nbytes=1 << 26)
        except OSError as error:
            raise UserError(
                f"{self._path} cannot be read ({error}): delete it and run again."
            ) from error

    def _table(self, name: str) -> Any:
        if name not in self._file:
            raise UserError(f"{self._path} has no {name}: use the labelled file of NYU Depth v2.")
        return self._file[name]

    def _read(self, name: str, row: int) -> NDArray[Any]:
        try:
            values: NDArray[Any] = self._table(name)[row]
        except OSError as error:
            raise UserError(
                f"{self._path} is damaged ({error}): delete it and run again."
            ) from error
        return values

    def scenes(self) -> list[str]:
        """Scene of every row of the file.

        Raises
        ------
        UserError
            If the file does not name one for each image.
        """
        import h5py

        # A cell array of MATLAB: references to arrays of UTF-16 units, one for each name.
        table = self._table("scenes")
        cells = h5py.check_ref_dtype(table.dtype) is not None
        references: list[Any] = np.ravel(table[()]).tolist() if cells else []
        if len(references) != len(self):
            raise UserError(
                f"{self._path} names {len(references)} scenes for {len(self)} images: use the "
                "labelled file of NYU Depth v2."
            )
        try:
            return ["".join(map(chr, np.ravel(self._file[one][()]))) for one in references]
        except (OSError, TypeError, ValueError) as error:
            raise UserError(
                f"{self._path} is damaged ({error}): delete it and run again."
            ) from error

    def image(self, row: int) -> NDArray[np.uint8]:
        """Upright image of a row of the file, (height, width, 3)."""
        return np.ascontiguousarray(self._read("images", row).transpose(2, 1, 0))

    def __getitem__(self, image_id: str) -> NDArray[np.float32]:
        row = int(image_id.rpartition("-")[2]) - 1
        return np.ascontiguousarray(self._read(self._depth, row).T.astype(np.float32))

    def __iter__(self) -> Iterator[str]:
        return (f"nyu-{number:04d}" for number in range(1, len(self) + 1))

    def __len__(self) -> int:
        return int(self._table("images").shape[0])


def _thesis(total: int) -> list[str]:
    train = int(THESIS_TRAIN * total)
    return ["train"] * train + ["test"] * (total - train)


def _official(path: Path, total: int) -> list[str]:
    """Split of every image; ``splits.mat`` counts from 1."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        table = loadmat(path)
        named = {s: np.ravel(table[f"{s}Ndxs"]).astype(int) for s in ("train", "test")}
    except (MatReadError, OSError, ValueError, KeyError, NotImplementedError) as error:
        raise UserError(
            f"{path} is not splits.mat of NYU Depth v2 ({error}): delete it and run again."
        ) from error
    splits = {number: split for split, numbers in named.items() for number in numbers.tolist()}
    if sorted(splits) != list(range(1, total + 1)) or total != sum(map(len, named.values())):
        raise UserError(
            f"{path} does not divide the numbers 1 to {total} into train and test: delete it and "
            "run again."
        )
    return [splits[number] for number in range(1, total + 1)]
