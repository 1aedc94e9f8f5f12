"""What one simulated data set shows, and how many of them are counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from numpy.random import Generator

LEAST_COVERAGE: Final = 0.93
"""Share of nominal 95 % intervals that must cover the truth."""

MOST_FALSE: Final = 0.07
"""Share of data sets without an effect in which a sentence may claim one."""


@dataclass(frozen=True)
class Covered:
    """An interval and the truth that it should cover; without bounds, it is not counted."""

    truth: float
    low: float | None
    high: float | None

    @property
    def given(self) -> bool:
        """Whether there is an interval: too few units have none."""
        return all(one is not None and not math.isnan(one) for one in (self.low, self.high))

    @property
    def counts(self) -> bool:
        """Whether it covers."""
        return bool(
            self.low is not None and self.high is not None and self.low <= self.truth <= self.high
        )


@dataclass(frozen=True)
class Finding:
    """Whether a sentence claims an effect that is not there."""

    found: bool

    @property
    def counts(self) -> bool:
        """Whether it does."""
        return self.found


Outcome = Covered | Finding
Case = Callable[[Generator], Outcome | Mapping[str, Outcome]]


@dataclass(frozen=True)
class Rate:
    """How often something happened in simulated data sets.

    Attributes
    ----------
    task, case
        What was simulated.
    kind : {"coverage", "false findings"}
        What is counted.
    count, replicates
        How often, of how many.
    """

    task: str
    case: str
    kind: str
    count: int
    replicates: int

    @property
    def value(self) -> float:
        """Share of the replicates."""
        return self.count / self.replicates

    @property
    def error(self) -> float:
        """Standard error of :attr:`value` by the number of replicates."""
        return math.sqrt(self.value * (1 - self.value) / self.replicates)

    def holds(self, errors: float = 0.0) -> bool:
        """Whether the rate keeps its bound, up to a number of its standard errors."""
        if self.kind == "coverage":
            bound = LEAST_COVERAGE
            return self.value + errors * math.sqrt(bound * (1 - bound) / self.replicates) >= bound
        bound = MOST_FALSE
        return self.value - errors * math.sqrt(bound * (1 - bound) / self.replicates) <= bound


def rates(task: str, case: str, outcomes: Iterable[Outcome | Mapping[str, Outcome]]) -> list[Rate]:
    """Count the outcomes of a case, each name of a mapping apart."""
    counts: dict[tuple[str, str], list[int]] = {}
    for outcome in outcomes:
        parts = outcome if isinstance(outcome, Mapping) else {"": outcome}
        for name, part in parts.items():
            kind = "coverage" if isinstance(part, Covered) else "false findings"
            if isinstance(part, Covered) and not part.given:
                continue
            seen = counts.setdefault((name, kind), [0, 0])
            seen[0] += part.counts
            seen[1] += 1
    return [
        Rate(task, f"{case}: {name}" if name else case, kind, count, total)
        for (name, kind), (count, total) in counts.items()
    ]
