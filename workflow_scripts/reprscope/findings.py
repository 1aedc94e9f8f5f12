"""What a table says in a sentence, and the rows that it rests on.

The best block is chosen on the validation split and reported on the test split: chosen on the
test split it would be too good by luck.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl

from reprscope import tasks
from reprscope.labels import block_label
from reprscope.models.positions import blocks

CONDITION = ("task", "dataset", "view", "resolution", "prompt", "seed", "protocol")


@dataclass(frozen=True)
class Findings:
    """Sentences for the report, and the rows behind them."""

    sentences: Sequence[str]
    table: pl.DataFrame | None


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


def chosen_on_validation(table: pl.DataFrame, metric: str) -> pl.DataFrame:
    """Test rows of the position and timestep that is best on the validation split.

    Parameters
    ----------
    table : frame
        With ``split``, ``model``, ``position``, ``timestep``, the columns of a condition and
        ``metric``; one row per combination.
    metric : str
        Larger is better.

    Returns
    -------
    frame
        One row per model, dataset and condition; models in the order of the table.
    """
    keys = ["model", *(column for column in CONDITION if column in table.columns)]
    choice = ["position", "timestep"]
    best = (
        table.filter(pl.col("split") == "validation")
        .sort(metric, descending=True, maintain_order=True)
        .unique(keys, keep="first", maintain_order=True)
        .select(*keys, *choice)
    )
    order = {name: i for i, name in enumerate(table["model"].unique(maintain_order=True))}
    return (
        table.filter(pl.col("split") == "test")
        .join(best, on=[*keys, *choice], how="semi")
        .sort(pl.col("model").replace_strict(order, return_dtype=pl.Int64), maintain_order=True)
    )


def told_apart(table: pl.DataFrame) -> list[str]:
    """What a sentence on each row must add so that it says under which condition it holds.

    Parameters
    ----------
    table : frame
        Such as :func:`chosen_on_validation` returns it.

    Returns
    -------
    One text for each row: those of its condition that differ between the rows, such as
    `` (protocol thesis, 512 px)``, or nothing. Datasets are left out, since sentences name them.
    """
    form = {"resolution": "{} px", "prompt": "prompt {}", "seed": "noise seed {}"}
    differ = [
        column
        for column in CONDITION
        if column != "dataset" and column in table.columns and table[column].n_unique() > 1
    ]
    texts = [
        ", ".join(form.get(c, c + " {}").format(row[c]) for c in differ)
        for row in table.iter_rows(named=True)
    ]
    return [f" ({text})" if text else "" for text in texts]


def of_blocks(table: pl.DataFrame) -> pl.DataFrame:
    """Rows of a table with a ``position`` that are blocks, not layers inside them."""
    return table.filter(pl.col("position").is_in(blocks(table["position"].to_list())))


def where(position: str, timestep: int) -> str:
    """A place in the network in words, such as ``up[2] at t = 50``."""
    return f"{block_label(position)} at t = {timestep}"


def interval(value: float, low: float, high: float) -> str:
    """A share with its interval as percentages: ``41.2 % [38.9, 43.6]``."""
    return f"{100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
