"""Size and speed of ways to lay features out in HDF5."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from reprscope.representations.store import Representations, writer

from benchmarks.result import Ratio, Result, interleaved, median
from benchmarks.workshop import Workshop

Features = Mapping[str, NDArray[np.float32]]
"""Tokens (images, h, w, channels) by position."""

IMAGE, CONTIGUOUS = "image", "contiguous"
STORE = "reprscope's store"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A way to lay a table of tokens out.

    Attributes
    ----------
    chunk : str or int
        ``image``: one chunk holds an image; ``contiguous``: no chunks, which can neither grow nor
        be compressed nor checked; else a number of tokens.
    compression : str
        Empty, or ``lzf``, or ``gzip 1`` to ``gzip 9``.
    """

    chunk: str | int = IMAGE
    dtype: str = "float16"
    compression: str = ""
    shuffle: bool = False
    checksum: bool = True

    def create(self, file: Any, name: str, shape: tuple[int, int], rows: int) -> Any:
        """Make the table of a position with ``rows`` tokens per image."""
        if self.chunk == CONTIGUOUS:
            return file.create_dataset(name, shape=shape, dtype=self.dtype)
        kind, _, level = self.compression.partition(" ")
        return file.create_dataset(
            name,
            shape=shape,
            maxshape=(None, shape[1]),
            chunks=(rows if self.chunk == IMAGE else min(int(self.chunk), shape[0]), shape[1]),
            dtype=self.dtype,
            compression=kind or None,
            compression_opts=int(level) if level else None,
            shuffle=self.shuffle,
            fletcher32=self.checksum,
        )


LAYOUTS = (
    Layout(),
    Layout(checksum=False),
    Layout(dtype="float32"),
    Layout(chunk=CONTIGUOUS, checksum=False),
    Layout(chunk=64),
    Layout(chunk=1024),
    Layout(chunk=16384),
    *(
        Layout(compression=kind, shuffle=shuffle)
        for kind in ("lzf", "gzip 1", "gzip 4")
        for shuffle in (False, True)
    ),
    Layout(dtype="float32", compression="gzip 4", shuffle=True),
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How much is measured: (model, images), and the rounds of every timing."""

    cases: tuple[tuple[str, int], ...]
    rounds: int
    timestep: int = 50
    batch: int = 2


FULL = Settings(cases=(("sd-1.5", 4), ("nano-sd", 128)), rounds=3)
REDUCED = Settings(cases=(("nano-sd", 4),), rounds=1)


def measure(settings: Settings, workshop: Workshop) -> Result:
    """Write and read the features of all blocks in every layout.

    Speeds are in MB of float16 values a second, whatever the layout, so that they compare: they
    are of the format, through the system's file cache, not of the disk. Features are handed over
    as float32 and come back as float32, as in the pipeline. ``in order`` reads image by image all
    positions; ``single`` one position of one image, in random order; ``mean`` a position as a
    whole, averaged over space. The row ``reprscope's store`` is the library's own writer and
    reader, with its check for finite values and the flush to disk.
    """
    records: list[dict[str, Any]] = []
    ratios = []
    for model, images in settings.cases:
        features = _features(model, images, settings, workshop)
        size = sum(values.size for values in features.values()) * 2 / 1e6
        path = workshop.folder / "storage.h5"
        for layout in (None, *LAYOUTS):
            if layout is None:
                runs = _through_the_store(path, features)
            else:
                runs = _through_h5py(path, features, layout)
            taken = interleaved({"write": runs.pop("write")}, settings.rounds)
            taken |= interleaved(runs, settings.rounds)
            stored = path.stat().st_size / 1e6
            records.append(
                {
                    "model": model,
                    "images": images,
                    **({"chunk": STORE} if layout is None else asdict(layout)),
                    "mb_per_image": stored / images,
                    **{f"{name}_mb_per_s": size / median(values) for name, values in taken.items()},
                    **{f"{name}_seconds": values for name, values in taken.items()},
                }
            )
            path.unlink()
        chosen = records[-len(LAYOUTS)]
        smallest = min(records[-len(LAYOUTS) :], key=lambda row: float(row["mb_per_image"]))
        ratios.append(
            Ratio(
                name="size on disk, smallest layout",
                against="the layout in use",
                model=model,
                value=smallest["mb_per_image"] / chosen["mb_per_image"],
            )
        )
    return Result(settings=asdict(settings), records=records, ratios=ratios)


def _features(model: str, images: int, settings: Settings, workshop: Workshop) -> Features:
    pictures = workshop.pictures(model, images)
    out = workshop.folder / "storage-features.h5"
    workshop.extract(
        model,
        workshop.denoiser(model),
        workshop.latents(model, pictures, batch=settings.batch),
        workshop.prompts(model, pictures["image_id"].to_list()),
        out,
        positions=workshop.blocks(model),
        timestep=settings.timestep,
        batch=settings.batch,
    )
    with Representations([out]) as found:
        features = {
            position: np.stack([found.tokens(position, name) for name in found.image_ids])
            for position in found.positions
        }
    out.unlink()
    return features


def _order(features: Features) -> list[tuple[str, int]]:
    """Every position of every image once, in random order."""
    cells = [(name, i) for name, values in features.items() for i in range(len(values))]
    return [cells[i] for i in np.random.default_rng(0).permutation(len(cells))]


def _through_h5py(
    path: Path, features: Features, layout: Layout
) -> dict[str, Callable[[], object]]:
    images = len(next(iter(features.values())))
    order = _order(features)

    def write() -> None:
        with h5py.File(path, "w", libver="latest") as file:
            tables = {}
            for name, values in features.items():
                shape = (values[..., 0].size, values.shape[-1])
                tables[name] = layout.create(file, name, shape, values[0, ..., 0].size)
            for image in range(images):
                for name, values in features.items():
                    rows = values[image].reshape(-1, values.shape[-1])
                    start = image * len(rows)
                    # Converted here: HDF5's own conversion is slower and no part of the layout.
                    tables[name][start : start + len(rows)] = rows.astype(layout.dtype)

    def read(file: Any, name: str, image: int) -> NDArray[np.float32]:
        rows = features[name][image, ..., 0].size
        found = file[name][image * rows : (image + 1) * rows]
        return np.asarray(found, np.float32)

    def in_order() -> None:
        with h5py.File(path, "r") as file:
            for image in range(images):
                for name in features:
                    read(file, name, image)

    def single() -> None:
        with h5py.File(path, "r") as file:
            for name, image in order:
                read(file, name, image)

    def mean() -> None:
        with h5py.File(path, "r") as file:
            for name in features:
                np.stack([read(file, name, image).mean(axis=0) for image in range(images)])

    return {"write": write, "in_order": in_order, "single": single, "mean": mean}


def _through_the_store(path: Path, features: Features) -> dict[str, Callable[[], object]]:
    from reprscope.representations.coordinates import Affine

    names = [f"image-{i}" for i in range(len(next(iter(features.values()))))]

    def write() -> None:
        origin = {"positions": list(features)}
        with writer(path, spec="{}", provenance=origin) as store:
            for i, name in enumerate(names):
                tables = {position: values[i : i + 1] for position, values in features.items()}
                store.append([name], [(8, 8)], [Affine()], tables)

    def read(run: Callable[[Representations], object]) -> None:
        with Representations([path]) as store:
            run(store)

    def in_order(store: Representations) -> None:
        for name in names:
            for position in features:
                store.tokens(position, name)

    def single(store: Representations) -> None:
        for position, image in _order(features):
            store.tokens(position, names[image])

    def mean(store: Representations) -> None:
        for position in features:
            store.means(position)

    return {
        "write": write,
        "in_order": partial(read, in_order),
        "single": partial(read, single),
        "mean": partial(read, mean),
    }
