"""Room on the disk, taken before it is written to."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from reprscope.runtime.errors import UserError

MARGIN = 1 << 18
"""Bytes that HDF5 may need beside the tables themselves, for indices and on closing."""


def reserve(file: Any, size: int) -> None:
    """Make the file system set aside what the next ``size`` bytes of an HDF5 file need.

    HDF5 cannot recover from a disk that is full when it writes or closes: the process dies
    without a word. So the disk is found full here, before HDF5 is asked to write. What is not
    used is given back when the file is complete (see :func:`reprscope.runtime.checksums.new_hdf5`).

    Raises
    ------
    OSError
        If the disk is full.
    """
    with Path(file.filename).open("rb+") as raw:
        os.posix_fallocate(raw.fileno(), 0, file.id.get_filesize() + size + MARGIN)


def check_temporary_files() -> None:
    """Check that the folder for temporary files has room for what Snakemake writes there.

    Raises
    ------
    UserError
        If it has not, or cannot be written to.
    """
    # Snakemake's solver takes the variable as it is; Python itself would look for another folder.
    folder = os.environ.get("TMPDIR") or tempfile.gettempdir()
    if not Path(folder).is_dir():
        return
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 18))
            file.flush()
    except OSError as error:
        raise UserError(
            f"Temporary files cannot be written to {folder} ({error.strerror}): free some space "
            "there, or set TMPDIR to another folder."
        ) from error
