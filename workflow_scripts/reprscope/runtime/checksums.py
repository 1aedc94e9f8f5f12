"""Checksums inside results, so that a bit that flips on a disk is found and never measured.

HDF5 has checksums of its own for chunks (Fletcher-32) and for its metadata, but none for what is
stored in one piece: small tables, names and the values of attributes. A digest of all that is
written with each file and compared when it is opened. Other results are read as a whole; they hold
the SHA-256 of their own bytes, in which its own digits count as zeros.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from reprscope.runtime.errors import UserError
from reprscope.runtime.files import atomic

_MARK: Final = "reprscope-sha256-"
PLACE: Final = _MARK + "0" * 64
"""What a file holds once where its digest is to stand."""

_ATTRIBUTE: Final = "sha256"


def damaged(path: object, why: object = "its checksum is another") -> UserError:
    """Error about a result that is not what was written."""
    text = " ".join(str(why).split())[:120]
    return UserError(f"{path} is damaged ({text}): delete it and run again, it is made anew.")


def fill(path: Path) -> None:
    """Put the digest of a file into its :data:`PLACE`."""
    data = path.read_bytes()
    with path.open("rb+") as file:
        file.seek(data.rindex(PLACE.encode()) + len(_MARK))
        file.write(hashlib.sha256(data).hexdigest().encode())


def read(path: Path) -> bytes:
    """Bytes of a file that :func:`fill` has finished.

    Raises
    ------
    UserError
        If they are not what was written.
    """
    data = path.read_bytes()
    # What a file holds for its user may look like a digest, too.
    for found in re.finditer(_MARK.encode() + b"([0-9a-f]{64})", data):
        at, end = found.span(1)
        empty = b"0" * (end - at)
        if hashlib.sha256(data[:at] + empty + data[end:]).hexdigest().encode() == found[1]:
            return data
    raise damaged(path)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping as JSON with its digest, under the key ``sha256``."""
    with atomic(path) as part:
        text = json.dumps({**content, "sha256": PLACE}, indent=1, sort_keys=True)
        part.write_text(text + "\n", encoding="utf-8")
        fill(part)


def read_json(path: Path) -> dict[str, Any]:
    """Read what :func:`write_json` wrote.

    Raises
    ------
    UserError
        If the file is damaged.
    """
    content = dict(json.loads(read(path)))
    del content["sha256"]
    return content


@contextlib.contextmanager
def new_hdf5(path: str | os.PathLike[str], **about: str) -> Iterator[Any]:
    """Open an HDF5 file for writing; it appears only when it is complete, with its digest.

    Parameters
    ----------
    path
    **about : str
        Attributes of the file, such as its ``spec``.

    Raises
    ------
    UserError
        If the disk is full.
    """
    import h5py
    import numpy as np

    with atomic(path) as part:
        with h5py.File(part, "w", libver="latest") as file:
            # Of a fixed length: they stand in headers, which have checksums. Texts of variable
            # length stand in a heap, of which a single flipped bit may let HDF5 hang.
            for name, value in about.items():
                file.attrs[name] = np.bytes_(value.encode(errors="surrogateescape"))
            yield file
            file.attrs[_ATTRIBUTE] = np.bytes_(_digest(file))
        _trim(part)


def _trim(path: Path) -> None:
    """Give back what was set aside for a file and not needed, so that a cut shows as one."""
    with path.open("rb+") as file:
        # Of superblocks 2 and 3, which is what the latest format has.
        file.seek(28)
        file.truncate(int.from_bytes(file.read(8), "little"))


@contextlib.contextmanager
def hdf5(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Open an HDF5 file of ours and check it; any failure of HDF5 in the block names the file.

    Raises
    ------
    UserError
        If the file is damaged.
    """
    file = open_hdf5(path)
    with file, reading(path):
        yield file


def open_hdf5(path: str | os.PathLike[str]) -> Any:
    """Open an HDF5 file for reading and compare its digest; see :func:`hdf5`."""
    import h5py

    # Python's own errors about rights and places name the file.
    Path(path).open("rb").close()
    with reading(path):
        file = h5py.File(path, "r")
        try:
            found = file.attrs[_ATTRIBUTE].decode()
            whole = found == _digest(file)
        except BaseException:
            file.close()
            raise
    if not whole:
        file.close()
        raise damaged(path)
    return file


@contextlib.contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Say which file is damaged if HDF5 cannot read it."""
    try:
        yield
    except (ArithmeticError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise damaged(path, error) from error


def _digest(file: Any) -> str:
    hasher = hashlib.sha256()
    _add(hasher, file)
    return hasher.hexdigest()


def about(file: Any, name: str) -> str:
    """Attribute of a file that :func:`new_hdf5` wrote."""
    return bytes(file.attrs[name]).decode(errors="surrogateescape")


def _add(hasher: Any, item: Any) -> None:
    """Add the attributes of a group or table, and the values if its chunks have no checksum."""
    for name, value in sorted(item.attrs.items()):
        if name != _ATTRIBUTE:
            hasher.update(f"{item.name}@{name}={value!r}\0".encode())
    if hasattr(item, "keys"):
        for name in item:
            _add(hasher, item[name])
    elif not item.fletcher32:
        hasher.update(f"{item.name} {item.shape}\0".encode())
        hasher.update(item[()].tobytes())
