"""Files that appear under their final name only when they are complete."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from hashlib import blake2s
from pathlib import Path

from reprscope.runtime.errors import UserError

_FULL = re.compile(
    r"No space left|Disk quota exceeded|File too large|errno = (27|28|122)\b|os error (27|28|122)\b"
)


def is_full_disk(error: BaseException) -> bool:
    """Whether an error, or one that it came from, says that no more can be written.

    A disk or a quota is full, or a file has reached the limit of its size.
    """
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError) and found.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        if _FULL.search(str(found)):
            return True
        found = found.__cause__ or found.__context__
    return False


@cache
def _place() -> str:
    """What tells the processes that this one can see from all others: host, boot and namespace.

    A number of a process means something only there.
    """
    known = [socket.gethostname()]
    with contextlib.suppress(OSError):
        known.append(Path("/proc/sys/kernel/random/boot_id").read_text())
    with contextlib.suppress(OSError):
        known.append(str(Path("/proc/self/ns/pid").readlink()))
    return blake2s("\n".join(known).encode(), digest_size=4).hexdigest()


def _part(target: Path) -> Path:
    """A new name beside ``target``: of this place, this process and this call alone."""
    own = f"{_place()}-{os.getpid()}-{secrets.token_hex(4)}"
    return target.with_name(f".{own}.part-{target.name}")


def _remove_orphans(target: Path) -> None:
    """Remove what killed writers of this place left beside ``target``.

    A living writer keeps its own, and so does every writer of another host or namespace, of which
    nobody here can say whether it lives.
    """
    for part in target.parent.glob(f".{_place()}-*.part-*"):
        own, _, name = part.name.partition(".part-")
        if name == target.name and not Path("/proc", own.split("-")[1]).exists():
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file completely or not at all.

    Yields a temporary sibling with the same suffix. When the block ends well the sibling is
    flushed to disk and renamed to ``path``; otherwise it is removed and ``path`` is untouched.

    Raises
    ------
    UserError
        If the disk is full; what was there before is kept.
    """
    target = Path(path)
    part = _part(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_orphans(target)
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        if is_full_disk(error):
            raise UserError(full(target)) from error
        raise


def full(target: str | os.PathLike[str]) -> str:
    """Sentence about a full disk or quota."""
    return (
        f"The disk that should hold {target} is full: free some space (or raise the quota, or the "
        "limit of a file's size) and run again; "
        "everything finished before is kept."
    )


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` (UTF-8) atomically."""
    with atomic(path) as part:
        part.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def resumed(
    outs: Sequence[Path], inputs: Sequence[Path], usable: Callable[[Path], bool]
) -> Iterator[dict[Path, Path]]:
    """Outputs of a job that come one after the other, and survive if the job does not.

    Snakemake removes all outputs of a job that failed. So each is made as a sibling, and all get
    their names when the last one is there; siblings that an earlier try left are taken over.

    Parameters
    ----------
    outs, inputs : sequence of Path
    usable : callable
        Whether what an earlier try left is what this one would make; asked only for a file that
        is newer than all inputs.

    Yields
    ------
    dict
        For each output that is still to be made, the sibling to make.
    """
    siblings = {out: out.with_name(f"{out.name}.finished") for out in outs}
    newest = max(path.stat().st_mtime for path in inputs)
    yield {
        out: sibling
        for out, sibling in siblings.items()
        if not (sibling.exists() and sibling.stat().st_mtime > newest and usable(sibling))
    }
    for out, sibling in siblings.items():
        sibling.replace(out)


def sha256(path: Path) -> str:
    """SHA-256 of a file; one that has not changed is read once per process for it."""
    state = path.stat()
    return _sha256(path, state.st_size, state.st_mtime_ns)


@cache
def _sha256(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
