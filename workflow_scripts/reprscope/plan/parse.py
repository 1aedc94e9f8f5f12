"""From what a study says to the typed study, with defaults.

It imports neither torch nor diffusers; every mistake in a study is one
:class:`~reprscope.runtime.errors.UserError` that names the entry and what would be right.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from reprscope import figures, tasks
from reprscope.base import paths
from reprscope.base.parameters import build
from reprscope.base.protocol import PROTOCOLS, Protocol
from reprscope.data import sources
from reprscope.figures.theme import Theme
from reprscope.models import registry
from reprscope.plan import drawable
from reprscope.plan.read import read
from reprscope.plan.schema import check_schema
from reprscope.plan.study import (
    DatasetEntry,
    Experiment,
    FigureEntry,
    HookSet,
    Jobs,
    ModelEntry,
    Study,
    TaskEntry,
    template_fields,
)
from reprscope.representations.views import View
from reprscope.runtime.errors import UserError, perhaps


def _check_templates(prompts: Mapping[str, str]) -> None:
    """Check the braces of all prompts: they become texts, and names of files, by `str.format`."""
    for name, text in prompts.items():
        try:
            parts = [part for part in string.Formatter().parse(text) if part[1] is not None]
        except ValueError as error:
            raise UserError(
                f"prompts.{name} has a brace that stands alone: write {{label}} or {{caption}}, or "
                "{{ and }} for braces themselves."
            ) from error
        for _, used, form, conversion in parts:
            if used not in ("label", "caption") or form or conversion:
                raise UserError(
                    f"prompts.{name}: {{{used}}} is not known: use {{label}} or {{caption}}, or "
                    "{{ and }} for braces themselves."
                )


def parse(config: Mapping[str, Any]) -> Study:
    """Parse a study.

    Parameters
    ----------
    config : mapping
        What the YAML file says.

    Raises
    ------
    UserError
        For any mistake, before anything is computed.
    """
    check_schema(config)
    _check_templates(config.get("prompts", {}))
    for key, given in (("views", ["identity"]), ("prompts", ["empty"]), ("protocols", PROTOCOLS)):
        for name in config.get(key, {}).keys() & set(given):
            raise UserError(f"{key}.{name} is there without being written: choose another name.")
    models = _models(config["models"])
    jobs = build(Jobs, config.get("jobs", {}), entry="jobs")
    study = Study(
        **{
            key: config[key]
            for key in ("title", "device", "precision", "batch_size", "compile")
            if key in config
        },
        jobs=jobs,
        datasets={name: _dataset(name, entry, jobs) for name, entry in config["datasets"].items()},
        views={"identity": View()}
        | {
            name: build(View, entry, entry=f"views.{name}")
            for name, entry in config.get("views", {}).items()
        },
        models=models,
        prompts={"empty": ""} | dict(config.get("prompts", {})),
        hooksets={
            name: build(HookSet, {"name": name, **entry}, entry=f"hooksets.{name}")
            for name, entry in config["hooksets"].items()
        },
        protocols=PROTOCOLS
        | {
            name: build(Protocol, entry, entry=f"protocols.{name}")
            for name, entry in config.get("protocols", {}).items()
        },
        tasks={name: _task(name, entry) for name, entry in config["tasks"].items()},
        experiments=_experiments(config["experiments"]),
        theme=build(Theme, config.get("theme", {}), entry="theme"),
    )
    if tasks.LATENTS in study.hooksets:
        raise UserError(f"No hook set can be named {tasks.LATENTS}: rename it.")
    for experiment in study.experiments.values():
        _check_experiment(study, experiment)
    for name in study.models_used:
        study.models[name].check()
    return study


def load(config: Mapping[str, Any], files: Sequence[Path]) -> Study:
    """Parse the study that Snakemake has read.

    Parameters
    ----------
    config : mapping
        The merged configuration.
    files : sequence of Path
        The files that it came from, read again to find names that stand there twice.
    """
    for path in files:
        read(path)
    study = parse(config)
    # Read before anything is planned: a folder may have no configuration of its VAE.
    _ = [study.models[name].grid for name in study.models_used]
    return study


def _split(entry: Mapping[str, Any], *own: str) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in own}


def _dataset(name: str, entry: Mapping[str, Any], jobs: Jobs) -> DatasetEntry:
    where = f"datasets.{name}"
    source = sources.load(entry["source"])
    settings = build(source.Parameters, _split(entry, "source", "shards"), entry=where)
    shards = entry.get("shards") or sources.shards(settings, jobs.shard_images)
    return DatasetEntry(name=name, source=entry["source"], parameters=settings, shards=shards)


def _models(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, ModelEntry]:
    found = {
        name: _model(name, entry) for name, entry in entries.items() if "untrained" not in entry
    }
    for name, entry in entries.items():
        if "untrained" in entry:
            original = found.get(entry["untrained"])
            if original is None or original.untrained is not None:
                trained = [other for other, model in found.items() if model.untrained is None]
                raise UserError(
                    f"models.{name}: there is no trained model {entry['untrained']} of which it "
                    f"could be the untrained twin: use {' or '.join(trained)}."
                )
            found[name] = replace(original, name=name, untrained=entry.get("seed", 0))
    return found


def _model(name: str, entry: Mapping[str, Any]) -> ModelEntry:
    if "path" in entry:
        return ModelEntry(
            name=name,
            path=entry["path"],
            family=entry.get("family", "unet"),
            resolution=entry["resolution"],
            shared_with=name,
        )
    try:
        model = registry.find(entry["known"] if "known" in entry else entry["like"])
    except UserError as error:
        raise UserError(f"models.{name}: {error}") from error
    if "hub" in entry:
        source = registry.Repository(
            repository=entry["hub"], revision=entry.get("revision", "main")
        )
        model = replace(model, sources=(source,), denoiser=None)
    return ModelEntry(
        name=name,
        hub=model,
        full=entry.get("variant") == "full",
        family=model.architecture.family,
        resolution=entry.get("resolution", model.resolution),
        shared_with=name,
    )


def _task(name: str, entry: Mapping[str, Any]) -> TaskEntry:
    where = f"tasks.{name}"
    task = tasks.load(entry["kind"])
    settings = build(task.Parameters, _split(entry, "kind"), entry=where)
    return TaskEntry(name=name, kind=entry["kind"], parameters=settings)


def _experiments(entries: Sequence[Mapping[str, Any]]) -> dict[str, Experiment]:
    found: dict[str, Experiment] = {}
    for entry in entries:
        name = entry["name"]
        if name == Path(paths.SCORECARD).stem:
            raise UserError(
                f"No experiment can have the name {name}, which the comparison with published "
                "values has: rename it."
            )
        if name in found:
            raise UserError(f"Two experiments have the name {name}: rename one.")
        drawn: dict[str, FigureEntry] = {}
        for figure in entry.get("figures", ()):
            if figure["name"] in drawn:
                raise UserError(
                    f"experiments.{name}: two figures have the name {figure['name']}: rename one."
                )
            where = f"experiments.{name}.figures.{figure['name']}"
            kind = figures.load(figure["kind"])
            options = build(kind.Options, _split(figure, "name", "kind", "over"), entry=where)
            drawn[figure["name"]] = FigureEntry(
                name=figure["name"],
                kind=figure["kind"],
                options=options,
                over=figure.get("over", ""),
            )
        values = {key: tuple(v) if isinstance(v, list) else v for key, v in entry.items()}
        defaults = {"title": name, "question": ""}
        found[name] = Experiment(**(defaults | values | {"figures": tuple(drawn.values())}))
    return found


def _check_experiment(study: Study, experiment: Experiment) -> None:
    where = f"experiments.{experiment.name}"
    for kind, names in (
        ("tasks", experiment.tasks),
        ("datasets", experiment.datasets),
        ("views", experiment.views),
        ("models", experiment.models),
        ("prompts", experiment.prompts),
        ("protocols", experiment.protocols),
    ):
        known = cast(Mapping[str, Any], getattr(study, kind))
        for name in names:
            if name not in known:
                raise UserError(
                    f"{where}: {name} is not in {kind}: use {' or '.join(known)}, or add it "
                    f"there{perhaps(name, known)}."
                )
    kind = study.kind(experiment)
    if bool(experiment.positions) == (tasks.LATENTS in tasks.load(kind).STORES):
        needed = "reads no positions: remove" if experiment.positions else "needs"
        raise UserError(f"{where}: the task {kind} {needed} `positions`.")
    for task in experiment.tasks:
        if study.tasks[task].kind != kind:
            raise UserError(
                f"{where}: tasks {experiment.tasks[0]} and {task} are of two kinds, {kind} and "
                f"{study.tasks[task].kind}: make an experiment of each."
            )
        for path in study.tasks[task].files:
            if not Path(path).is_file():
                raise UserError(f"tasks.{task}: there is no file {path}: correct its path.")
        for companion in study.companions(task).values():
            _check_companion(study, experiment, task, companion)
    annotations = frozenset[str]().union(
        *(tasks.needs(kind, study.tasks[task].parameters) for task in experiment.tasks)
    )
    for name in experiment.datasets:
        missing = annotations - study.datasets[name].provides
        if missing:
            raise UserError(
                f"{where}: dataset {name} has no {' and no '.join(sorted(missing))}, which "
                f"{kind} needs: use a dataset with them."
            )
        for prompt in experiment.prompts:
            _check_prompt(study, prompt, name, where)
    for name in experiment.models:
        model = study.models[name]
        for timestep in experiment.timesteps:
            if not 0 <= timestep < model.timesteps:
                raise UserError(
                    f"{where}: timestep {timestep} is outside 0 to {model.timesteps - 1}, the "
                    f"timesteps of {name}."
                )
        study.hooksets_of(experiment, name)
    drawable.check(study, experiment)


def _check_prompt(study: Study, prompt: str, dataset: str, where: str) -> None:
    """Check that a dataset has what a prompt's text says of each image."""
    for used in sorted(template_fields(study.prompts[prompt])):
        if f"{used}s" not in study.datasets[dataset].provides:
            raise UserError(
                f"{where}: prompt {prompt} needs the {used} of each image, which dataset "
                f"{dataset} does not have: use another prompt."
            )


def _check_companion(
    study: Study, experiment: Experiment, task: str, changes: Mapping[str, Any]
) -> None:
    """Check that all names in a task's further representations are in the study."""
    where = f"tasks.{task}"
    for key, value in changes.items():
        if key in ("dataset", "view", "prompt", "protocol"):
            known = cast(Mapping[str, Any], getattr(study, f"{key}s"))
            if value not in known:
                raise UserError(
                    f"{where}: {value} is not in {key}s: use {' or '.join(known)}, or add it there."
                )
    for dataset in [changes["dataset"]] if "dataset" in changes else experiment.datasets:
        for prompt in [changes["prompt"]] if "prompt" in changes else experiment.prompts:
            _check_prompt(study, prompt, dataset, where)
    for name in experiment.models:
        if not 0 <= changes.get("timestep", 0) < study.models[name].timesteps:
            raise UserError(
                f"{where}: timestep {changes['timestep']} is outside 0 to "
                f"{study.models[name].timesteps - 1}, the timesteps of {name}."
            )
