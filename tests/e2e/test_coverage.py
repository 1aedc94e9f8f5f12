"""The simulations of docs/statistics.md, with fewer data sets: a rate may be off by 4 errors."""

import json

import pytest

from benchmarks.coverage.outcome import Covered, Finding, Rate, rates
from benchmarks.coverage.run import PAGE, RESULTS, ROOT, available, fill, run

REPLICATES = 24


@pytest.mark.parametrize("task", available())
def test_intervals_cover_and_nulls_find_nothing(task):
    found = run([task], REPLICATES)
    assert found
    assert not [rate for rate in found if not rate.holds(errors=4)]


def test_the_page_holds_what_was_simulated_and_keeps_its_bounds():
    kept = [Rate(**row) for row in json.loads((ROOT / RESULTS).read_text())]
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    assert page == fill(page, kept)
    assert {rate.task for rate in kept} == set(available())
    assert not [rate for rate in kept if not rate.holds()]
    # A case without bounds in a data set is not counted in it.
    assert min(rate.replicates for rate in kept) >= 390


def test_rates_are_counted_by_name():
    outcomes = [{"a": Covered(1, 0, 2), "b": Finding(False)}, {"a": Covered(3, 0, 2)}]
    first, second = rates("task", "case", outcomes)
    assert (first.case, first.kind, first.value) == ("case: a", "coverage", 0.5)
    assert (second.case, second.kind, second.value) == ("case: b", "false findings", 0.0)
    assert not Rate("t", "c", "coverage", 900, 1000).holds()
    assert Rate("t", "c", "coverage", 900, 1000).holds(errors=4)
