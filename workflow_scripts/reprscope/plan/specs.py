"""What each job depends on, as one canonical string.

Snakemake re-runs a job when its ``spec`` changes. A spec holds exactly the settings that its
stage reads, a digest of the code it runs and digests of the user's own files that it reads;
everything else a job depends on is the output of another job or stands in its path. The same string
is stored in the output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from reprscope import published, tasks
from reprscope.base import paths
from reprscope.base.provenance import canonical_json
from reprscope.models.denoiser import family
from reprscope.plan import words
from reprscope.plan.comparison import matches
from reprscope.plan.study import Measurement, ModelEntry, Study
from reprscope.runtime import fingerprints
from reprscope.runtime.code_digests import code_digest

SCRIPTS = Path(__file__).parents[2]
Wildcards = Mapping[str, Any]


def _task(kind: str, *names: str) -> list[str]:
    """Definitions that a script asks of a task."""
    return [f"reprscope.tasks.{kind}:{name}" for name in names]


def _family(name: str, *names: str) -> list[str]:
    """Definitions that a script asks of a model family."""
    return [f"reprscope.models.families.{name}:{each}" for each in names]


@cache
def _code(script: str, *modules: str) -> dict[str, Any]:
    """What a job runs: the job compares it when it starts."""
    found = code_digest(SCRIPTS / script, modules)
    return {"digest": found, "script": script, "modules": sorted(set(modules))}


def fetch_dataset(study: Study, dataset: str) -> str:
    """Spec of a dataset's files."""
    entry = study.datasets[dataset]
    return canonical_json(
        {
            "code": _code("fetch_dataset.py", f"reprscope.data.sources.{entry.source}"),
            "source": entry.source,
            "parameters": asdict(entry.parameters),
            "files": fingerprints.together(entry.files),
        }
    )


def fetch_model(study: Study, model: str) -> str:
    """Spec of a model's folder."""
    entry = study.models[model]
    return canonical_json(
        {
            "code": _code("fetch_model.py", f"reprscope.models.families.{entry.family}"),
            "path": entry.path,
            "files": fingerprints.each(entry.files),
            "hub": _hub(entry),
            "family": entry.family,
            "untrained": entry.untrained,
        }
    )


def _hub(entry: ModelEntry) -> dict[str, Any] | None:
    """Where a model of the hub is, and by what its study is planned."""
    model = entry.hub
    if model is None:
        return None
    return {
        "sources": [asdict(source) for source in model.sources],
        "denoiser": None if model.denoiser is None else asdict(model.denoiser),
        "full": entry.full,
        **entry.plan,
    }


def encode_images(study: Study, wildcards: Wildcards) -> str:
    """Spec of the latents of one shard of a dataset under a view."""
    return canonical_json(
        {
            "code": _code("encode_images.py"),
            "view": asdict(study.views[wildcards["view"]]),
            "files": fingerprints.each(study.views[wildcards["view"]].files),
            "resolution": int(wildcards["resolution"]),
            "pixels": wildcards["pixels"],
            "patch": family(study.models[wildcards["vae"]].family).PATCH,
            "shard": wildcards["shard"],
        }
    )


def encode_prompts(study: Study, wildcards: Wildcards) -> str:
    """Spec of a prompt's embeddings."""
    prompt = wildcards["prompt"].split("@")[0]
    model_family = study.models[wildcards["text_encoder"]].family
    return canonical_json(
        {
            "code": _code(
                "encode_prompts.py",
                *_family(model_family, "encode_prompts", "readers", "text_precision"),
            ),
            "family": model_family,
            "template": study.prompts[prompt],
        }
    )


def extract(study: Study, wildcards: Wildcards) -> str:
    """Spec of the representations of one shard under one condition.

    The timestep is not in it, but in the path: one job may make several.
    """
    model = study.models[wildcards["model"]]
    hookset = study.hooksets[wildcards["hookset"]]
    protocol = asdict(study.protocols[wildcards["protocol"]])
    del protocol["coordinates"]  # a matter of tasks
    return canonical_json(
        {
            "code": _code(
                "extract.py", *_family(model.family, "COMPONENT", "load", "reduced_precision")
            ),
            "family": model.family,
            "positions": hookset.resolve(model),
            "store": hookset.store,
            "template": study.prompts[wildcards["prompt"]],
            "seed": int(wildcards["seed"]),
            "protocol": protocol,
            "precision": study.precision,
            "upcast_attention": model.upcast_attention,
            "compile": study.compile,
        }
    )


OFFSETS_AT = 50
"""Timestep at which offsets are measured: low noise, which most published figures have."""


def offsets(study: Study, model: str) -> str:
    """Spec of how far the tokens of a model's layers lie beside their squares."""
    entry = study.models[model]
    hooksets = {
        name
        for experiment in study.experiments.values()
        if model in experiment.models
        for name in study.hooksets_of(experiment, model)
        if name != tasks.LATENTS
    }
    wanted = {name for hookset in hooksets for name in study.hooksets[hookset].resolve(entry)}
    return canonical_json(
        {
            "code": _code("measure_offsets.py", *_family(entry.family, "COMPONENT", "load")),
            "family": entry.family,
            "positions": [name for name in entry.positions if name in wanted],
            "resolution": entry.resolution,
            "timestep": OFFSETS_AT,
        }
    )


def measured(study: Study, wildcards: Wildcards) -> bool:
    """Whether a task reads measured offsets, under its own protocol or that of a companion."""
    task = study.tasks[wildcards["task"]]
    if "coordinates" not in tasks.load(task.kind).PROTOCOL:
        return False
    companions = study.companions(wildcards["task"]).values()
    names = [wildcards["protocol"], *(c["protocol"] for c in companions if "protocol" in c)]
    return any(study.protocols[name].coordinates == "measured" for name in names)


def evaluate(study: Study, wildcards: Wildcards) -> str:
    """Spec of one task on one hook set."""
    task = study.tasks[wildcards["task"]]
    parts = tasks.load(task.kind).PROTOCOL

    def protocol(name: str) -> dict[str, Any]:
        return {part: getattr(study.protocols[name], part) for part in parts}

    return canonical_json(
        {
            "code": _code("evaluate.py", *_task(task.kind, "PROTOCOL", "Parameters", "measure")),
            "kind": task.kind,
            "parameters": asdict(task.parameters),
            "files": fingerprints.each(task.files),
            "protocol": protocol(wildcards["protocol"]),
            "companions": {
                name: {
                    # How many of the files that follow the task's own are of this companion.
                    "shards": study.datasets[changes.get("dataset", wildcards["dataset"])].shards,
                    "protocol": protocol(changes.get("protocol", wildcards["protocol"])),
                }
                for name, changes in study.companions(wildcards["task"]).items()
            },
        }
    )


def decode_noise(study: Study, wildcards: Wildcards) -> str:
    """Spec of a task on noised latents."""
    task = study.tasks[wildcards["task"]]
    model = study.models[wildcards["model"]]
    return canonical_json(
        {
            "code": _code(
                "decode_noise.py",
                *_task(task.kind, "Parameters", "measure"),
                *_family(model.family, "noising"),
            ),
            "kind": task.kind,
            "parameters": asdict(task.parameters),
            "family": model.family,
            "timestep": int(wildcards["timestep"]),
            "seed": int(wildcards["seed"]),
            "protocol": asdict(study.protocols[wildcards["protocol"]]),
        }
    )


def tabulate(study: Study, name: str) -> str:
    """Spec of an experiment's table: its measurements in order, and how they are summarised."""
    experiment = study.experiments[name]
    kind = study.kind(experiment)
    return canonical_json(
        {
            "code": _code("summarise.py", *_task(kind, "Parameters", "relate", "summarise")),
            "kind": kind,
            "tasks": {name: asdict(study.tasks[name].parameters) for name in experiment.tasks},
            "positions": {model: study.positions(experiment, model) for model in experiment.models},
            "measurements": [keys(m) for m in study.measurements(experiment)],
        }
    )


def keys(measurement: Measurement) -> dict[str, str | int]:
    """Key columns of a measurement in a table."""
    values = measurement.wildcards()
    return {key: values[key] for key in values if key != "hookset"}


def shapes(study: Study) -> str:
    """Spec of the sizes of the study's models; an untrained twin has those of its original."""
    models = [study.models[name] for name in study.models_used]
    families = sorted({model.family for model in models})
    return canonical_json(
        {
            "code": _code("shapes.py", *(f"reprscope.models.families.{name}" for name in families)),
            "models": [
                {
                    "model": model.name,
                    "resolution": model.resolution,
                    "family": model.family,
                    "denoiser": dict(model.denoiser),
                    "grid": model.grid,
                }
                for model in models
                if model.untrained is None
            ],
        }
    )


def figure(study: Study, experiment: str, name: str) -> str:
    """Spec of a figure."""
    entry = next(f for f in study.experiments[experiment].figures if f.name == name)
    return canonical_json(
        {
            "code": _code("figure.py", f"reprscope.figures.kinds.{entry.kind}"),
            "kind": entry.kind,
            "options": asdict(entry.options),
            "over": entry.over,
            "theme": asdict(study.theme),
            "published": _published(matches(study, study.experiments[experiment])),
        }
    )


def scorecard(study: Study) -> str:
    """Spec of the scorecard: the index, and what each experiment measures again of it."""
    return canonical_json(
        {
            "code": _code("scorecard.py"),
            "index": {name: asdict(entry) for name, entry in published.index().items()},
            "values": _values(list(published.index())),
            "experiments": [
                {"name": name, "matches": [asdict(match) for match in found]}
                for name, found in compared(study).items()
            ],
        }
    )


def compared(study: Study) -> dict[str, list[published.Match]]:
    """Experiments that measure published values again, and which."""
    found = {name: matches(study, experiment) for name, experiment in study.experiments.items()}
    return {name: some for name, some in found.items() if some}


def _published(found: list[published.Match]) -> dict[str, Any]:
    """Published values that a figure shows, and what the index says of them."""
    index = published.index()
    return {
        "matches": [asdict(match) for match in found],
        "index": {match.entry: asdict(index[match.entry]) for match in found},
        "values": _values([match.entry for match in found]),
    }


def _values(entries: list[str]) -> dict[str, str]:
    """Digests of the files of published values, by name: they come with the project."""
    return {Path(file).name: fingerprints.content(file) for file in published.files(entries)}


def report(study: Study, files: Sequence[str | Path]) -> str:
    """Spec of the report: the study in words, its configuration files, and its sections in order.

    Of the files each is completed by the next; jobs may be given some of them twice.
    """
    shown = list(dict.fromkeys(paths.shown(file) for file in files))
    return canonical_json(
        {
            "code": _code(
                "report.py",
                *(
                    name
                    for experiment in study.experiments.values()
                    for name in _task(study.kind(experiment), "findings")
                ),
            ),
            "title": study.title,
            "introduction": words.introduction(study, shown),
            "sections": [
                {
                    "name": experiment.name,
                    "title": experiment.title,
                    "question": experiment.question,
                    "part": experiment.part,
                    "kind": study.kind(experiment),
                    "description": words.experiment(study, experiment),
                    "table": paths.TABLE.format(experiment=experiment.name),
                    "figures": [
                        paths.FIGURE.format(experiment=experiment.name, figure=f.name)
                        for f in experiment.figures
                    ],
                }
                for experiment in study.experiments.values()
            ],
            "provenance": {
                "precision": study.precision,
                **{
                    f"dataset {name}": f"{study.datasets[name].source} "
                    + canonical_json(asdict(study.datasets[name].parameters))
                    for experiment in study.experiments.values()
                    for name in experiment.datasets
                },
                **{
                    f"task {name}": f"{study.tasks[name].kind} "
                    + canonical_json(asdict(study.tasks[name].parameters))
                    for experiment in study.experiments.values()
                    for name in experiment.tasks
                },
                **{
                    f"hook set {name}": f"{study.hooksets[name].store} of "
                    + ", ".join(study.hooksets[name].positions)
                    for experiment in study.experiments.values()
                    for model in experiment.models
                    for name in study.hooksets_of(experiment, model)
                    if name != tasks.LATENTS
                },
            },
        }
    )
