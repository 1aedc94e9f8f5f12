"""The HDF5 layouts for latents and representations: writing, reading, integrity.

A store holds one *table* per position (for latents: ``mean`` and ``logvar``) for one list of
images of any sizes::

    /image_id      (images,)        unique names
    /pixels        (images, 2)      width and height of the encoded image
    /transform     (images, 4)      original -> encoded pixels: scale_x, offset_x, scale_y, offset_y
    /tables/{name}/tokens  (sum h*w, channels)   token vectors, row-major within an image
    /tables/{name}/shape   (images, 2)           h and w of each image's grid
    /tables/{name}/offset  (images + 1,)         first row of each image
    /tables/{name}/mean    (images, channels)    instead of ``tokens`` in the form ``mean``

Tokens are float16 by default and become float32 for a whole table as soon as one value would
overflow. Chunks hold one image each and carry a Fletcher-32 checksum; the rest has a digest that is
compared when a store is opened (see :mod:`reprscope.runtime.checksums`). The attributes ``spec``
and ``provenance`` (JSON) say what the file was made from.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import DTypeLike, NDArray

from reprscope.base.provenance import digest
from reprscope.representations.coordinates import Affine, Offset
from reprscope.runtime import checksums
from reprscope.runtime.disk import reserve
from reprscope.runtime.errors import UserError

Form = Literal["tokens", "mean"]
FLOAT16_MAX = 65504.0
_COMPUTE = ("diffusers", "torch", "transformers")
_STORAGE = ("code", "machine", "positions", "shard", "store", "viewed")


class Writer:
    """Appends images to a store; use :func:`writer` to get one.

    Attributes
    ----------
    dtype : numpy dtype
        In which tables begin; arrays of this type are written as they are.
    """

    def __init__(self, file: Any, form: Form, dtype: DTypeLike) -> None:
        self._file = file
        self._form = form
        self._dtype = np.dtype(dtype)
        self.dtype = self._dtype if form == "tokens" else np.dtype(np.float32)
        self._names: list[str] = []
        self._pixels: list[tuple[int, int]] = []
        self._transforms: list[Affine] = []
        self._shapes: dict[str, list[tuple[int, int]]] = {}

    def append(
        self,
        image_ids: Sequence[str],
        pixels: Sequence[tuple[int, int]],
        transforms: Sequence[Affine],
        tables: Mapping[str, NDArray[np.floating[Any]]],
    ) -> None:
        """Append a batch of images of one shape.

        Parameters
        ----------
        image_ids, pixels, transforms
            One entry per image: name, (width, height) of the encoded image, and the map from
            original to encoded pixels.
        tables : mapping of name to array, (batch, h, w, channels)
            Token grids; in the form ``mean`` the spatial mean is stored in float32 instead.

        Raises
        ------
        UserError
            If a value is NaN or infinite; names the table and the image.
        """
        reserve(self._file, sum(v.size for v in tables.values()) * self._dtype.itemsize)
        for name, values in tables.items():
            if not finite(values):
                image = next(i for i, one in zip(image_ids, values, strict=True) if not finite(one))
                raise UserError(
                    f"Position {name} of image {image} has values that are not finite: use "
                    "`precision: float32` for this model, or check its weights."
                )
            self._shapes.setdefault(name, []).extend([values.shape[1:3]] * len(values))
            if self._form == "mean":
                rows = values.astype(np.float32).mean(axis=(1, 2))
                self._grow(name, "mean", rows, chunk=256)
            else:
                h, w = values.shape[1:3]
                self._grow(name, "tokens", values.reshape(-1, values.shape[3]), chunk=h * w)
        self._names.extend(image_ids)
        self._pixels.extend(pixels)
        self._transforms.extend(transforms)

    def _grow(self, name: str, kind: str, rows: NDArray[Any], *, chunk: int) -> None:
        key = f"tables/{name}/{kind}"
        dtype = np.dtype(np.float32) if kind == "mean" else self._dtype
        if key not in self._file:
            self._create(key, dtype, rows.shape[1], chunk)
        table = self._file[key]
        wider = rows.dtype != np.float16
        if table.dtype == np.float16 and wider and np.abs(rows).max(initial=0.0) > FLOAT16_MAX:
            table = self._promote(key)
        start = len(table)
        table.resize(start + len(rows), axis=0)
        table[start:] = rows

    def _create(self, key: str, dtype: np.dtype[Any], channels: int, chunk: int) -> Any:
        return self._file.create_dataset(
            key,
            shape=(0, channels),
            maxshape=(None, channels),
            chunks=(chunk, channels),
            dtype=dtype,
            fletcher32=True,
        )

    def _promote(self, key: str) -> Any:
        """Turn a float16 table into float32, one chunk at a time."""
        old = self._file[key]
        reserve(self._file, old.size * 4)
        self._file.move(key, key + ".float16")
        new = self._create(key, np.dtype(np.float32), old.shape[1], old.chunks[0])
        new.resize(len(old), axis=0)
        for start in range(0, len(old), old.chunks[0]):
            new[start : start + old.chunks[0]] = old[start : start + old.chunks[0]]
        del self._file[key + ".float16"]
        return new

    def finish(self) -> None:
        """Write what describes the images; called once by :func:`writer`."""
        if not self._names:
            raise UserError(
                f"No image was written to {self._file.filename}: the dataset or split is empty."
            )
        write_texts(self._file, "image_id", self._names)
        self._file["pixels"] = np.array(self._pixels, dtype=np.int32)
        self._file["transform"] = np.array(
            [(t.scale_x, t.offset_x, t.scale_y, t.offset_y) for t in self._transforms]
        )
        for name, shapes in self._shapes.items():
            shape = np.array(shapes, dtype=np.int32)
            self._file[f"tables/{name}/shape"] = shape
            offset = np.concatenate([[0], np.cumsum(shape.prod(axis=1, dtype=np.int64))])
            self._file[f"tables/{name}/offset"] = offset


@contextlib.contextmanager
def writer(
    path: str | os.PathLike[str],
    *,
    spec: str,
    provenance: Mapping[str, object],
    form: Form = "tokens",
    dtype: DTypeLike = np.float16,
) -> Iterator[Writer]:
    """Open a store for writing; it appears under ``path`` only when complete.

    Parameters
    ----------
    spec : str
        Canonical JSON of all settings the file depends on.
    provenance : mapping
        What else a reader wants to know (model revision, library versions, precision, …).
    form : {"tokens", "mean"}
        Whole token grids, or their spatial mean in float32.
    dtype
        Type of stored tokens; float16 tables become float32 where a value would overflow.
    """
    made = json.dumps(dict(provenance), sort_keys=True)
    with checksums.new_hdf5(path, spec=spec, provenance=made, form=form) as file:
        store = Writer(file, form, dtype)
        yield store
        store.finish()


def write_texts(file: Any, name: str, values: Sequence[str]) -> None:
    """Write texts as UTF-8 of a fixed length.

    HDF5 2.0 cannot read again what it wrote of some 100,000 texts of variable length.
    """
    data = np.array([value.encode(errors="surrogateescape") for value in values])
    kind = h5py.string_dtype("utf-8", max(data.dtype.itemsize, 1))
    # Padding is stored as nothing.
    file.create_dataset(
        name, data=data.astype(kind), chunks=True, compression="lzf", fletcher32=True
    )


def read_texts(file: Any, name: str) -> list[str]:
    """Texts that :func:`write_texts` wrote."""
    return list(file[name].asstr("utf-8", "surrogateescape")[:])


def complete(path: str | os.PathLike[str], spec: str) -> bool:
    """Whether a file is a store that was made from this spec."""
    try:
        with checksums.hdf5(path) as file:
            return checksums.about(file, "spec") == spec
    except (OSError, UserError):
        return False


class Representations:
    """Read access to one or more stores (shards) as one list of images.

    Parameters
    ----------
    paths : sequence of path
    offsets : mapping or None
        How far each position's tokens lie beside their squares, where that was measured; see
        :mod:`reprscope.representations.offsets`.

    Attributes
    ----------
    image_ids : list of str
    positions : list of str
        Table names, in the order in which they were written to the ``positions`` attribute or,
        without it, by name.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]],
        offsets: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        self._measured = offsets or {}
        self._files = [checksums.open_hdf5(path) for path in paths]
        self._where: dict[str, tuple[int, int]] = {}
        self._offsets: dict[tuple[int, str], NDArray[np.int64]] = {}
        self._shapes: dict[tuple[int, str], NDArray[np.int32]] = {}
        self.positions: list[str] = []
        for shard, file in enumerate(self._files):
            with checksums.reading(file.filename):
                names = read_texts(file, "image_id")
                for position in file["tables"]:
                    self._offsets[shard, position] = file[f"tables/{position}/offset"][:]
                    self._shapes[shard, position] = file[f"tables/{position}/shape"][:]
            for row, name in enumerate(names):
                if name in self._where:
                    raise UserError(f"Image {name} is in two shards: remove {file.filename}.")
                self._where[name] = (shard, row)
        self.image_ids = list(self._where)
        first = self._files[0]
        order = json.loads(checksums.about(first, "provenance")).get("positions")
        self.positions = list(order) if order else sorted(first["tables"])
        self._pixels = np.concatenate([file["pixels"][:] for file in self._files])
        self._transforms = np.concatenate([file["transform"][:] for file in self._files])
        self._index = {name: number for number, name in enumerate(self.image_ids)}

    def __enter__(self) -> Representations:
        return self

    def __exit__(self, *failure: object) -> None:
        for file in self._files:
            file.close()

    @property
    def provenance(self) -> dict[str, Any]:
        """Provenance of the first shard."""
        return dict(json.loads(checksums.about(self._files[0], "provenance")))

    @property
    def viewed(self) -> dict[str, Any]:
        """How the images were brought into the form that was encoded.

        ``view`` (fields of :class:`reprscope.representations.views.View`), ``resolution`` and
        ``multiple``.
        """
        return dict(self.provenance["viewed"])

    @property
    def origin(self) -> str:
        """Digest of what the values depend on, equal for all shards and hook sets.

        The settings of the stage, the model, the device and the libraries that computed them, and
        for representations the same of the latents; not the code, nor what was stored of it.
        """
        made = json.loads(checksums.about(self._files[0], "spec")) | self.provenance
        versions = made.get("versions", {})
        made["versions"] = {name: versions.get(name) for name in _COMPUTE}
        made["device"] = str(made.get("device")).partition(":")[0]
        return digest({key: made[key] for key in made if key not in _STORAGE})

    def offset(self, position: str) -> Offset:
        """How far a position's tokens lie beside their squares, x and y in tokens.

        Known where a protocol asks for ``coordinates: measured``.
        """
        x, y = self._measured[position]
        return float(x), float(y)

    def tokens(self, position: str, image_id: str) -> NDArray[np.float32]:
        """Token grid of one image, (h, w, channels), float32."""
        shard, row = self._where[image_id]
        start, stop = self._offsets[shard, position][row : row + 2]
        height, width = self._shapes[shard, position][row]
        table = self._table(shard, position, "tokens")
        rows = _read(table, slice(int(start), int(stop)))
        return rows.astype(np.float32).reshape(int(height), int(width), -1)

    def layout(self, position: str) -> tuple[int, np.dtype[np.floating[Any]]]:
        """Channels of a position, and the type in which all its shards can be read losslessly."""
        tables = [self._table(shard, position, "tokens") for shard in range(len(self._files))]
        return int(tables[0].shape[1]), np.result_type(*(table.dtype for table in tables))

    def read_tokens(self, position: str, image_ids: Sequence[str], out: NDArray[Any]) -> None:
        """Read the tokens of several images into memory that is there.

        Far quicker than :meth:`tokens` for many images: those that stand side by side in a shard
        are read at once, and no fresh memory is needed, which costs more than reading.

        Parameters
        ----------
        out : array, (tokens of all images, channels)
            C-contiguous, of the type that :meth:`layout` names.
        """
        filled = 0
        runs: list[tuple[int, int, int]] = []
        for name in image_ids:
            shard, row = self._where[name]
            start, stop = (int(at) for at in self._offsets[shard, position][row : row + 2])
            if runs and runs[-1][0] == shard and runs[-1][2] == start:
                start = runs.pop()[1]
            runs.append((shard, start, stop))
        # HDF5's own calls: h5py's selections take longer than reading a small map.
        shards = {shard for shard, _, _ in runs}
        tables = {shard: self._table(shard, position, "tokens") for shard in shards}
        spaces = {shard: table.id.get_space() for shard, table in tables.items()}
        for shard, start, stop in runs:
            shape = (stop - start, out.shape[1])
            spaces[shard].select_hyperslab((start, 0), shape)
            part = out[filled : filled + shape[0]]
            with checksums.reading(tables[shard].file.filename):
                tables[shard].id.read(h5py.h5s.create_simple(shape), spaces[shard], part)
            filled += shape[0]

    def means(self, position: str) -> NDArray[np.float32]:
        """Spatial mean of every image's tokens, (images, channels), float32."""
        if "mean" in self._files[0][f"tables/{position}"]:
            shards = range(len(self._files))
            return np.concatenate(
                [_read(self._table(shard, position, "mean"), slice(None)) for shard in shards]
            )
        return np.stack([self.tokens(position, name).mean(axis=(0, 1)) for name in self.image_ids])

    def grid(self, position: str, image_id: str) -> tuple[int, int]:
        """Token grid (h, w) of one image at one position."""
        shard, row = self._where[image_id]
        height, width = self._shapes[shard, position][row]
        return int(height), int(width)

    def pixels(self, image_id: str) -> tuple[int, int]:
        """Width and height of the encoded image in pixels."""
        width, height = self._pixels[self._index[image_id]]
        return int(width), int(height)

    def transform(self, image_id: str) -> Affine:
        """Map from the original image's pixels to the encoded image's."""
        return Affine(*(float(value) for value in self._transforms[self._index[image_id]]))

    def _table(self, shard: int, position: str, kind: str) -> Any:
        group = self._files[shard][f"tables/{position}"]
        if kind not in group:
            raise UserError(
                f"{self._files[shard].filename} holds only spatial means of {position}: name a "
                "hook set with `store: tokens` that has this position."
            )
        return group[kind]


def finite(values: NDArray[np.floating[Any]]) -> bool:
    """Whether all values are; numpy's own test is slow for float16, whose exponent tells it."""
    if values.dtype == np.float16:
        return bool((values.view(np.uint16) & 0x7FFF).max(initial=0) < 0x7C00)
    return bool(np.isfinite(values).all())


def _read(table: Any, rows: slice) -> NDArray[Any]:
    with checksums.reading(table.file.filename):
        values: NDArray[Any] = table[rows]
    return values
