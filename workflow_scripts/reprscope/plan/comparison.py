"""Which published values a study measures again."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from reprscope import published, tasks
from reprscope.base.parameters import build
from reprscope.base.protocol import PROTOCOLS
from reprscope.data import sources
from reprscope.plan.study import Experiment, Study
from reprscope.representations.views import View


def matches(
    study: Study, experiment: Experiment, folder: Path = published.VALUES
) -> list[published.Match]:
    """Entries of the index that an experiment measures again, under the study's names.

    Datasets, tasks, views, prompts and protocols match by what they are, whatever the study calls
    them, models by the weights that the registry names, and precision by the name that the study
    writes (``auto`` is another one on another machine). An entry matches if the experiment measures
    at least one of its rows.
    """
    found = []
    for name, entry in published.index(folder).items():
        if entry.kind.kind != study.kind(experiment):
            continue
        match = _match(study, experiment, name, entry)
        if match is not None and _measured(study, experiment, match, entry, folder):
            found.append(match)
    return found


def _match(
    study: Study, experiment: Experiment, name: str, entry: published.Entry
) -> published.Match | None:
    """The entry under the study's names; None if something has none."""
    source, kind = entry.source, entry.kind
    if entry.precision is not None and study.precision != entry.precision:
        return None
    names = {
        "task": [
            task
            for task in experiment.tasks
            if _same(study.tasks[task].parameters, tasks.load(kind.kind).Parameters, kind)
        ],
        "dataset": [
            dataset
            for dataset in experiment.datasets
            if study.datasets[dataset].source == source.source
            and _same(
                study.datasets[dataset].parameters, sources.load(source.source).Parameters, source
            )
        ],
        "prompt": [one for one in experiment.prompts if study.prompts[one] == ""],
    }
    if entry.protocol is not None:
        wanted = PROTOCOLS[entry.protocol]
        names["protocol"] = [p for p in experiment.protocols if study.protocols[p] == wanted]
    if not all(names.values()):
        return None
    models: dict[str, list[str]] = {}
    for model in experiment.models:
        known = study.models[model].known
        if known is not None:
            models.setdefault(known, []).append(model)
    views = {
        known: [one for one in experiment.views if study.views[one] == view]
        for known, view in (
            (known, build(View, settings, entry=f"{name}.views.{known}"))
            for known, settings in entry.views.items()
        )
    }
    return published.Match(entry=name, names=names, models=models, views=views)


def _same(parameters: Any, kind: type[Any], subject: published.Subject) -> bool:
    """Whether settings are those of a subject, apart from its free ones."""
    wanted = asdict(build(kind, subject.settings, entry=subject.source or subject.kind))
    return all(
        value == wanted[key] for key, value in asdict(parameters).items() if key not in subject.free
    )


def _measured(
    study: Study,
    experiment: Experiment,
    match: published.Match,
    entry: published.Entry,
    folder: Path,
) -> bool:
    """Whether a measurement of the experiment has the keys of one of the entry's rows."""
    rows = published.renamed(published.values(entry, folder), match)
    if rows.is_empty():
        return False
    measured = pl.DataFrame([m.wildcards() for m in study.measurements(experiment)])
    keys = [column for column in rows.columns if column in measured.columns]
    return not measured.join(rows.select(keys), on=keys, how="semi").is_empty()
