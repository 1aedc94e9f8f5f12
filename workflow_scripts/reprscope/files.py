"""Files that appear under their final name only when they are complete."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from reprscope.errors import UserError

_FULL = re.compile(r"No space left|errno = 28\b|errno = 122\b|Disk quota exceeded|os error 28")


def _is_full_disk(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return bool(_FULL.search(str(error)))


def _remove_orphans(path: Path) -> None:
    """Remove what writers that were killed left beside ``path``; a living writer keeps its own."""
    for part in path.parent.glob(f".*.part-{path.name}"):
        pid = part.name.split(".", 2)[1]
        if not (pid.isdigit() and Path("/proc", pid).exists()):
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
    part = target.with_name(f".{os.getpid()}.part-{target.name}")
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
        if _is_full_disk(error):
            raise UserError(
                f"The disk that should hold {target} is full: free some space and run again; "
                "everything finished before is kept."
            ) from error
        raise


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
