"""What a measurement gives, and how time is taken."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """One number that a reader is told.

    Attributes
    ----------
    name, against : str
        What is compared with what.
    model : str
        The denoiser it was measured with.
    value : float
    least, most : float or None
        What the project aims at; None for no such bound.
    """

    name: str
    against: str
    model: str
    value: float
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """Plain data of one measurement.

    Attributes
    ----------
    settings : mapping
        How much was measured.
    records : list of mapping
        Every raw value, one row each; rows may have different columns.
    ratios : list of Ratio
        What follows from medians of the raw values.
    """

    settings: Mapping[str, Any]
    records: list[dict[str, Any]] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)


def interleaved(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of several runs, taken in turn so that a disturbance hits all of them.

    Every other round goes backwards: what follows a run does not always profit from the same one.

    Returns
    -------
    mapping of name to ``rounds`` values, in the order of the rounds
    """
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name in reversed([*runs]) if number % 2 else runs:
            taken[name].append(seconds(runs[name]))
    return taken


def seconds(run: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def median(values: list[float]) -> float:
    """Median of raw values."""
    return float(statistics.median(values))
