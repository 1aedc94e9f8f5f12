"""What an experiment finds in its table, by its task."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from reprscope import tasks
from reprscope.tasks._findings import Findings


def of_experiment(kind: str, table: pl.DataFrame) -> Findings:
    """What the task of an experiment finds in its table.

    Of several noise seeds the first is told: what the others change is one number for each value,
    which figures over seeds tell (:mod:`reprscope.figures.repeated`).

    Parameters
    ----------
    kind : str
        Name of the task.
    table : frame
        Of the experiment.
    """
    told: Callable[[pl.DataFrame], Findings] = getattr(
        tasks.load(kind), "findings", lambda _: Findings((), None)
    )
    if "seed" not in table.columns or table["seed"].n_unique() < 2:
        return told(table)
    first = table["seed"][0]
    found = told(table.filter(pl.col("seed") == first))
    return Findings([f"With noise seed {first}: {text}" for text in found.sentences], found.table)
