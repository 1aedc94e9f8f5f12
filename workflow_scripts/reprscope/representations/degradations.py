"""Which views are steps of a degradation, by their names.

``blur-1``, ``blur-2``, … are steps of ``blur``. They start from the undegraded view: those of
``kept-blur`` from ``kept`` if there is such a view, and otherwise from ``identity``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

UNDEGRADED: Final = "identity"

BLIND: Final = "same_place_in_square"
"""Estimator of keypoints that a block must surpass, so that it can lose something.

What remains of a representation without content is its place: matching it finds the same place of
the encoded picture.
"""


def step_of(view: str) -> tuple[str, float] | None:
    """Name and number of a step: ``blur-3`` is ("blur", 3); None for a view that is none."""
    found = re.fullmatch(r"(.+)-(\d+(?:\.\d+)?)", view)
    return (found[1], float(found[2])) if found else None


def start_of(degradation: str, views: Sequence[str]) -> str:
    """Undegraded view of a degradation: the one of ``views`` that its name begins with."""
    begins = [view for view in views if degradation.startswith(f"{view}-") and not step_of(view)]
    return max(begins, key=len, default=UNDEGRADED)


def starts(views: Sequence[str]) -> dict[str, str]:
    """Undegraded view of each view, by :func:`start_of`."""
    names = {view: (step_of(view) or (view, 0.0))[0] for view in views}
    return {view: start_of(name, views) for view, name in names.items()}


def last_steps(views: Sequence[str]) -> list[str]:
    """Views that are the last step of a degradation, and those that are no step."""
    last: dict[str, tuple[float, str]] = {}
    for view in views:
        name, number = step_of(view) or (view, 0.0)
        last[name] = max(last.get(name, (-1.0, "")), (number, view))
    return [view for _, view in last.values()]
