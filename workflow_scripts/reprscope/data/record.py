"""What a source did with its input: counted, named, and kept with the dataset."""

from __future__ import annotations

import logging
from collections.abc import Iterable

logger = logging.getLogger(__name__)

#: Names that a line gives of those it counts.
NAMED = 3


class Record:
    """Counts what a source converted, left out or read in a certain way.

    Lines come in the order in which their kinds were first met, so that the same input gives the
    same lines.
    """

    def __init__(self) -> None:
        self._said: list[str] = []
        self._names: dict[str, list[str]] = {}
        self._counts: dict[str, int] = {}

    def say(self, line: str) -> None:
        """Keep a line as it is."""
        self._said.append(line)

    def count(self, what: str, name: str) -> None:
        """Count one more image, file or row of a kind; the first few names are kept."""
        self._counts[what] = self._counts.get(what, 0) + 1
        names = self._names.setdefault(what, [])
        if len(names) < NAMED:
            names.append(name)

    def lines(self) -> tuple[str, ...]:
        """All lines, such as ``2 images were grey ... (a.png, b.png)``."""
        counted = (
            f"{what}: {count} ({listed(self._names[what], count)})"
            for what, count in self._counts.items()
        )
        return (*self._said, *counted)


def listed(names: Iterable[str], count: int, most: int = NAMED) -> str:
    """Names with commas, at most so many, and how many of ``count`` are not named."""
    shown = [printable(name) for name in names][:most]
    more = count - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def printable(name: str) -> str:
    """Return a name as it can stand in a line: control characters and broken bytes are escaped."""
    return "".join(
        part if part.isprintable() else part.encode("unicode_escape", "surrogatepass").decode()
        for part in name
    )
