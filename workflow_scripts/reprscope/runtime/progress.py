"""One progress bar per job, written to the job's log."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from tqdm import tqdm


@contextlib.contextmanager
def progress(total: int, unit: str) -> Iterator[Callable[[int], object]]:
    """Show progress; yields a function to call with the number of units just finished."""
    with tqdm(total=total, unit=f" {unit}", file=sys.stderr, mininterval=5.0, ascii=True) as bar:
        yield bar.update
