"""What a user's files hold, known without reading them again.

Times say little: a file that ``cp -p``, ``rsync`` or ``tar`` put in another's place may be older
than it. So files are known by the SHA-256 of their bytes. It is remembered together with size,
times and inode, and a file is read again only if one of these has changed; the time of the last
change of status cannot be set back by a program.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path

from reprscope.runtime.errors import UserError
from reprscope.runtime.files import write_text

FOLDER = Path(".snakemake/reprscope")
SETTLED = 2.0
"""Seconds after its last change from which a file's times tell the next change."""


class Known:
    """Facts about files, each found once for every state of a file.

    Parameters
    ----------
    path : Path
        JSON file in which the facts are kept between runs.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._changed = False
        self._facts: dict[str, list[int | str]] = {}
        with contextlib.suppress(
            OSError, TypeError, ValueError
        ):  # without it every file is read once
            self._facts = dict(json.loads(path.read_text(encoding="utf-8")))

    def fact(self, path: str, find: Callable[[Path], str]) -> str:
        """What ``find`` says of a file, asked only if the file has changed since it said so.

        Raises
        ------
        OSError
            If there is no such file, or as ``find`` does.
        """
        found = os.stat(path)  # noqa: PTH116 - a fifth of the time, of 100,000 pictures
        state = [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
        known = self._facts.get(path)
        if known is not None and known[:-1] == state:
            return str(known[-1])
        fact = find(Path(path))
        if time.time() - max(found.st_mtime, found.st_ctime) > SETTLED:
            self._facts[path] = [*state, fact]
            self._changed = True
        return fact

    def save(self) -> None:
        """Keep the facts for the next run; where that is not possible it reads all files again."""
        if self._changed:
            with contextlib.suppress(OSError, UserError):
                write_text(self.path, json.dumps(self._facts, separators=(",", ":")))
            self._changed = False


@cache
def contents() -> Known:
    """Digests of the contents of local files."""
    return Known(FOLDER / "contents.json")


def content(path: str) -> str:
    """First 16 hex digits of the SHA-256 of a local file.

    Raises
    ------
    UserError
        If it cannot be read.
    """
    try:
        return contents().fact(path, _sha256)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): correct its path.") from error


def together(paths: Iterable[str]) -> str:
    """One digest of names and contents of many local files."""
    hasher = hashlib.sha256()
    for path in sorted(paths):
        hasher.update(f"{path}\0{content(path)}\n".encode(errors="surrogateescape"))
    return hasher.hexdigest()[:16]


def each(paths: Iterable[str]) -> dict[str, str]:
    """Digests of a few local files."""
    return {path: content(path) for path in paths}


def check(planned: Mapping[str, str]) -> None:
    """Check that files hold what they held when the run was planned.

    Raises
    ------
    UserError
        If one does not.
    """
    for path, expected in planned.items():
        if content(path) != expected:
            raise UserError(f"{path} has changed since this run was planned: run again.")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
