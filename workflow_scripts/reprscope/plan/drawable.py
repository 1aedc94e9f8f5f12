"""Whether figures can be drawn from their experiments' tables, as far as is known beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final

from reprscope import figures, tasks
from reprscope.data.canonical import SPLITS
from reprscope.models.labels import KEYS
from reprscope.runtime.errors import UserError

if TYPE_CHECKING:
    from reprscope.plan.study import Experiment, FigureEntry, Study

_LISTED: Final = {
    "alphas": "alpha",
    "thresholds": "threshold",
    "by": "by",
    "measure": "measure",
    "images": "image_id",
}
"""Parameters of tasks that say which values a column has, and the column."""


LARGEST: Final = 4000
"""Of the sizes of figures, in pixels, and of numbers of columns and images."""


def check(study: Study, experiment: Experiment) -> None:
    """Check the figures of an experiment.

    Raises
    ------
    UserError
        If a figure needs a column that the experiment's table will not have, chooses rows by a
        value that no row will have, repeats over fewer than two values, or names images or
        positions that are not there.
    """
    kind = study.kind(experiment)
    columns = (*KEYS, *tasks.load(kind).TABLE_COLUMNS)
    values = known(study, experiment)
    for figure in experiment.figures:
        where = f"experiments.{experiment.name}.figures.{figure.name}"
        _check_columns(figure, columns, kind, where)
        _check_numbers(figure.options, where)
        chosen: dict[str, Any] = {**getattr(figure.options, "filter", {})}
        for option, column in (("images", "image_id"), ("positions", "position")):
            if getattr(figure.options, option, ()) and option not in chosen:
                chosen[column] = list(getattr(figure.options, option))
        for column, wanted in chosen.items():
            if column in values and not _any_of(wanted, values[column]):
                raise UserError(
                    f"{where}: no row of the table will have {column} {_text(wanted)}: use "
                    f"{' or '.join(map(str, values[column][:12]))}."
                )
        if figure.over and len(values[figure.over]) < 2:
            raise UserError(
                f"{where}: `over: {figure.over}` needs at least two values of {figure.over}, and "
                f"the experiment has {_text(values[figure.over])}: give it more."
            )


def known(study: Study, experiment: Experiment) -> dict[str, list[Any]]:
    """Values that columns of an experiment's table will have, of those that are known."""
    found: dict[str, list[Any]] = {
        "task": list(experiment.tasks),
        "dataset": list(experiment.datasets),
        "view": list(experiment.views),
        "model": list(experiment.models),
        "resolution": sorted(
            {c.resolution for m in experiment.models for c in study.conditions(experiment, m)}
        ),
        "prompt": list(experiment.prompts),
        "timestep": list(experiment.timesteps),
        "seed": list(experiment.seeds),
        "protocol": list(experiment.protocols),
    }
    kind = study.kind(experiment)
    if experiment.positions:
        positions = (p for m in experiment.models for p in study.positions(experiment, m))
        found["position"] = [*dict.fromkeys(positions), tasks.PICTURE]
    columns = tasks.load(kind).TABLE_COLUMNS
    if "split" in columns:
        found["split"] = list(SPLITS)
    for part in tasks.load(kind).PROTOCOL:
        if part in columns:
            used = (getattr(study.protocols[name], part) for name in experiment.protocols)
            found[part] = list(dict.fromkeys(used))
    entries = [study.tasks[name].parameters for name in experiment.tasks]
    for parameter, column in _LISTED.items():
        listed = [getattr(entry, parameter, ()) for entry in entries]
        # An empty list leaves the choice to the task.
        if column in columns and all(listed):
            each = ([one] if isinstance(one, str) else one for one in listed)
            found[column] = list(dict.fromkeys(value for some in each for value in some))
    return found


def _check_columns(figure: FigureEntry, columns: Sequence[str], kind: str, where: str) -> None:
    options = figure.options
    needed = [*figures.load(figure.kind).needs(options), *getattr(options, "filter", {})]
    if figure.over:
        if not all(getattr(options, name, "") for name in ("metric", "low", "high")):
            raise UserError(
                f"{where}: a figure of kind {figure.kind} has no interval: leave out `over`."
            )
        needed += [options.low, options.high]
    for column in needed:
        if column not in columns:
            close = get_close_matches(column, columns, n=1)
            own = [name for name in columns if name not in KEYS]
            hint = f"did you mean {close[0]}? It has" if close else "it has"
            raise UserError(
                f"{where}: a figure of kind {figure.kind} with these options needs the column "
                f"{column}, which no table of {kind} has: choose another kind or correct its "
                f"options ({hint} {', '.join(own)})."
            )


def _check_numbers(options: Any, where: str) -> None:
    for field in fields(options):
        value = getattr(options, field.name)
        if isinstance(value, int) and not isinstance(value, bool) and not 1 <= value <= LARGEST:
            raise UserError(
                f"{where}.{field.name} is {value}: use a whole number from 1 to {LARGEST}."
            )
        if field.name == "domain" and value and (len(value) != 2 or value[0] == value[1]):
            raise UserError(f"{where}.domain is {list(value)}: use two different numbers.")


def _any_of(wanted: Any, there: Sequence[Any]) -> bool:
    some = wanted if isinstance(wanted, list | tuple) else [wanted]
    return any(_same(one, other) for one in some for other in there)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return abs(one - other) < 1e-9
    return bool(one == other)


def _text(wanted: Any) -> str:
    return " or ".join(map(str, wanted)) if isinstance(wanted, list | tuple) else str(wanted)
