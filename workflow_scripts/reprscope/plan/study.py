"""The typed study, and the expansion of its experiments into jobs."""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

from reprscope import tasks
from reprscope.base.protocol import Protocol
from reprscope.base.provenance import digest
from reprscope.data import sources
from reprscope.figures.theme import Theme
from reprscope.models import configs, registry, schedulers
from reprscope.models.denoiser import family
from reprscope.models.hub import cache as hub
from reprscope.models.hub.fetch import check_plan, local_files
from reprscope.models.positions import resolve
from reprscope.representations.shapes import latent_grid
from reprscope.representations.store import Form
from reprscope.representations.views import View
from reprscope.runtime.errors import UserError

NAME = r"[A-Za-z0-9][A-Za-z0-9.-]*"


@dataclass(frozen=True, kw_only=True)
class DatasetEntry:
    """A dataset: a source module with its settings.

    Attributes
    ----------
    source : str
        Module of ``reprscope.data``.
    parameters
        The source's own ``Parameters``.
    shards : int
        Jobs into which encoding and extraction are cut.
    """

    name: str
    source: str
    parameters: Any
    shards: int = 1

    @cached_property
    def provides(self) -> frozenset[str]:
        """Annotations beside the images."""
        return sources.load(self.source).provides(self.parameters)

    @cached_property
    def files(self) -> Sequence[str]:
        """Local files that the dataset is made from."""
        return sources.files(sources.load(self.source), self.parameters)

    @property
    def resources(self) -> Mapping[str, int]:
        """Memory (MB), disk (MB) and time (minutes) that its fetch needs."""
        return sources.resources(sources.load(self.source))

    @property
    def shard_names(self) -> list[str]:
        """Names of the shards, such as ``0of2``."""
        return [f"{number}of{self.shards}" for number in range(self.shards)]


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """A model: a folder in diffusers' layout, one of the hub, or the untrained twin of one.

    Attributes
    ----------
    path : str or None
        Folder with the weights; None for a model of the hub.
    hub : registry.Model or None
        Where a model of the hub is, and its architecture.
    full : bool
        Fetch the weights in full precision although there is a half precision variant.
    family : str
        Module of ``reprscope.models`` that runs it.
    resolution : int
        Native size of its images in pixels.
    untrained : int or None
        Seed with which the denoiser is made anew from its configuration, without training.
    shared_with : str
        Model whose VAE and text encoder this one uses: itself, or the twin's original.
    """

    name: str
    path: str | None = None
    hub: registry.Model | None = None
    full: bool = False
    family: str
    resolution: int
    untrained: int | None = None
    shared_with: str

    @property
    def known(self) -> str | None:
        """Name in the registry, if these are the very weights that it names."""
        if self.hub is None or self.untrained is not None:
            return None
        return next((name for name, m in registry.models().items() if m == self.hub), None)

    @cached_property
    def positions(self) -> list[str]:
        """Module paths of the denoiser in network order."""
        return family(self.family).positions(self.denoiser)

    @cached_property
    def timesteps(self) -> int:
        """Number of training timesteps."""
        config = self.hub.architecture.scheduler if self.hub else self._parts["scheduler"]
        return schedulers.timesteps(config, family(self.family).NOISE)

    @property
    def upcast_attention(self) -> bool:
        """Whether attention is computed in float32 in every precision."""
        if self.hub is not None:
            return self.hub.architecture.upcast_attention
        return bool(self.denoiser.get("upcast_attention"))

    @cached_property
    def denoiser(self) -> Mapping[str, Any]:
        """Configuration of the denoiser; values that are missing are diffusers' defaults."""
        if self.hub is not None:
            return self.hub.architecture.denoiser
        return self._parts[family(self.family).COMPONENT]

    @property
    def grid(self) -> tuple[int, int]:
        """Latents (h, w) of a square image of the native size."""
        if self.hub is not None:
            return latent_grid(self.resolution, self.hub.architecture.vae.factor)
        levels = len(self._parts["vae"].get("block_out_channels", [64]))
        return latent_grid(self.resolution, 2 ** (levels - 1))

    @property
    def files(self) -> list[str]:
        """Local files that a fetch reads: all of a folder, or what a twin is made from."""
        if self.path is None:
            return []
        folder = Path(self.path)
        if self.untrained is not None:
            component = family(self.family).COMPONENT
            names = [f"{component}/config.json", "scheduler/scheduler_config.json"]
            return [str(folder / name) for name in names]
        try:
            return sorted(str(path) for path in local_files(folder, family=self.family).values())
        except UserError as error:
            raise UserError(f"models.{self.name}: {error}") from error

    @cached_property
    def _parts(self) -> Mapping[str, Mapping[str, Any]]:
        """Configurations of a local folder's parts, which the family can run."""
        where = f"models.{self.name}: {self.path}"
        folder = Path(str(self.path))
        if not folder.is_dir():
            raise UserError(f"{where}: there is no such folder: correct `path`.")
        try:
            found = configs.read_folder(folder)
            configs.check(family(self.family), found)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        return found

    def check(self) -> None:
        """Check that the model can be run, as far as that is known before it is fetched.

        Raises
        ------
        UserError
            If it cannot, by the configurations of its parts: in its folder, or in the cache of
            the hub if it was fetched before; or its folder lacks files.
        """
        if self.hub is None:
            _ = self._parts, self.files
            return
        found = configs.read_files(hub.cached_configurations(self.hub.sources))
        kind = family(self.family)
        if all(part in found for part in (*kind.parts(()), configs.SCHEDULER)):
            where = f"models.{self.name}: {self.hub.sources[0].repository}"
            check_plan(found, self.plan, family=self.family, where=where)

    @property
    def plan(self) -> dict[str, Any]:
        """By what the study is planned, which is compared with a model of the hub."""
        assert self.hub is not None
        own = self.hub.denoiser
        return {
            # Weights of another training take the base's place, and so does their schedule.
            "scheduler": {} if own is None else dict(self.hub.architecture.scheduler),
            "positions": digest(self.positions),
            "timesteps": self.timesteps,
        }


@dataclass(frozen=True, kw_only=True)
class HookSet:
    """Positions that one forward pass stores, and how."""

    name: str
    positions: tuple[str, ...]
    store: Form = "tokens"

    def resolve(self, model: ModelEntry) -> list[str]:
        """Module paths of this set in a model, in network order; none if it is for others."""
        entry = f"hooksets.{self.name}: model {model.name}"
        return resolve(self.positions, model.positions, entry=entry, optional=True)


@dataclass(frozen=True, kw_only=True)
class TaskEntry:
    """A task with its parameters."""

    name: str
    kind: str
    parameters: Any

    @property
    def files(self) -> Sequence[str]:
        """Local files that the parameters name; what they hold is part of what is measured."""
        return cast(Sequence[str], getattr(self.parameters, "files", ()))


@dataclass(frozen=True, kw_only=True)
class FigureEntry:
    """A figure of an experiment.

    ``over`` is a column, such as ``seed``, over whose values it gives means with intervals (see
    :mod:`reprscope.figures.repeated`), or empty.
    """

    name: str
    kind: str
    options: Any
    over: str = ""


@dataclass(frozen=True, order=True)
class Condition:
    """Under what a representation is extracted."""

    resolution: int
    prompt: str
    timestep: int
    seed: int
    protocol: str


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Tasks of one kind crossed with datasets, views, models, positions and conditions.

    And the figures made of their one table.
    """

    name: str
    title: str
    question: str
    tasks: tuple[str, ...]
    datasets: tuple[str, ...]
    models: tuple[str, ...]
    timesteps: tuple[int, ...]
    positions: tuple[str, ...] = ()
    views: tuple[str, ...] = ("identity",)
    resolutions: tuple[int, ...] = ()
    prompts: tuple[str, ...] = ("empty",)
    seeds: tuple[int, ...] = (0,)
    protocols: tuple[str, ...] = ("standard",)
    part: str = ""
    figures: tuple[FigureEntry, ...] = ()


@dataclass(frozen=True)
class Measurement:
    """One task on one hook set of one model under one condition."""

    task: str
    dataset: str
    view: str
    model: str
    condition: Condition
    hookset: str

    def wildcards(self) -> dict[str, str | int]:
        """Values of the wildcards in its path."""
        values = {key: value for key, value in vars(self).items() if key != "condition"}
        return values | vars(self.condition)


@dataclass(frozen=True, kw_only=True)
class Jobs:
    """How much one job does; another number of shards may change the last digits of features.

    Attributes
    ----------
    timesteps_per_job : int
        Timesteps that one job extracts at most: the model is loaded once for all of them.
    shard_images : int or None
        Images of a shard at most, for datasets that do not set ``shards`` and say beforehand how
        many images they have.
    """

    timesteps_per_job: int = 1
    shard_images: int | None = None


@dataclass(frozen=True, kw_only=True)
class Study:
    """Everything that a run computes."""

    title: str
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    batch_size: int = 32
    compile: bool = False
    jobs: Jobs = field(default_factory=Jobs)
    datasets: Mapping[str, DatasetEntry]
    views: Mapping[str, View]
    models: Mapping[str, ModelEntry]
    prompts: Mapping[str, str]
    hooksets: Mapping[str, HookSet]
    protocols: Mapping[str, Protocol]
    tasks: Mapping[str, TaskEntry]
    experiments: Mapping[str, Experiment]
    theme: Theme = field(default_factory=Theme)

    @property
    def models_used(self) -> list[str]:
        """Models that experiments name, and those whose VAE and text encoder they share."""
        used = [self.models[m] for e in self.experiments.values() for m in e.models]
        return list(dict.fromkeys(n for m in used for n in (m.name, m.shared_with)))

    @property
    def datasets_used(self) -> list[str]:
        """Datasets that experiments name."""
        return list(dict.fromkeys(name for e in self.experiments.values() for name in e.datasets))

    def positions(self, experiment: Experiment, model: str) -> list[str]:
        """Module paths that an experiment asks of a model, in network order."""
        if not experiment.positions:
            return []
        entry = f"experiments.{experiment.name}: model {model}"
        return resolve(experiment.positions, self.models[model].positions, entry=entry)

    def hooksets_of(self, experiment: Experiment, model: str) -> list[str]:
        """Hook sets that hold an experiment's positions.

        The first set that holds all of them, so that a task sees them side by side; if there is
        none, for each position the first that has it.

        Raises
        ------
        UserError
            If a position is in no set that stores what the task can use.
        """
        # Asked for every job that is planned.
        key = (self.kind(experiment), experiment.positions, model)
        if key not in self._hooksets_of:
            self._hooksets_of[key] = self._choose_hooksets(experiment, model)
        return self._hooksets_of[key]

    @cached_property
    def _hooksets_of(self) -> dict[tuple[str, tuple[str, ...], str], list[str]]:
        return {}

    def _choose_hooksets(self, experiment: Experiment, model: str) -> list[str]:
        accepted = tasks.load(self.kind(experiment)).STORES
        if tasks.LATENTS in accepted:
            return [tasks.LATENTS]
        usable = {
            name: set(hookset.resolve(self.models[model]))
            for name, hookset in self.hooksets.items()
            if hookset.store in accepted
        }
        positions = self.positions(experiment, model)
        whole = [name for name, held in usable.items() if held.issuperset(positions)]
        if whole:
            return whole[:1]
        chosen: dict[str, None] = {}
        for position in positions:
            holder = next((name for name, held in usable.items() if position in held), None)
            if holder is None:
                raise UserError(
                    f"experiments.{experiment.name}: position {position} of {model} is in no hook "
                    f"set with `store: {' or '.join(sorted(accepted))}`: add a new set with it to "
                    "hooksets."
                )
            chosen[holder] = None
        return list(chosen)

    def conditions(self, experiment: Experiment, model: str) -> Iterator[Condition]:
        """Conditions of an experiment; the resolution is the model's own unless it names some."""
        resolutions = experiment.resolutions or (self.models[model].resolution,)
        for values in itertools.product(
            resolutions,
            experiment.prompts,
            experiment.timesteps,
            experiment.seeds,
            experiment.protocols,
        ):
            yield Condition(*values)

    def measurements(self, experiment: Experiment) -> list[Measurement]:
        """All measurements of an experiment, in a fixed order."""
        return [
            Measurement(task, dataset, view, model, condition, hookset)
            for task in experiment.tasks
            for dataset in experiment.datasets
            for view in experiment.views
            for model in experiment.models
            for condition in self.conditions(experiment, model)
            for hookset in self.hooksets_of(experiment, model)
        ]

    def representations(self, measurement: Measurement) -> list[dict[str, Any]]:
        """Wildcards of all stores that a measurement reads: its own and its companions'."""
        if measurement.hookset == tasks.LATENTS:
            return []
        own = {key: value for key, value in measurement.wildcards().items() if key != "task"}
        return [
            {**own, **changes, "shard": shard}
            for changes in ({}, *self.companions(measurement.task).values())
            for shard in self.datasets[changes.get("dataset", own["dataset"])].shard_names
        ]

    @property
    def prompts_used(self) -> list[tuple[str, str]]:
        """Embeddings that experiments read: model of the text encoder, and :meth:`prompt_key`."""
        used: dict[tuple[str, str], None] = {}
        for experiment in self.experiments.values():
            changes = [{}, *(c for t in experiment.tasks for c in self.companions(t).values())]
            for model, prompt, dataset, other in itertools.product(
                experiment.models, experiment.prompts, experiment.datasets, changes
            ):
                if tasks.LATENTS not in self.hooksets_of(experiment, model):
                    key = self.prompt_key(
                        other.get("prompt", prompt), other.get("dataset", dataset)
                    )
                    used[(self.models[model].shared_with, key)] = None
        return list(used)

    def kind(self, experiment: Experiment) -> str:
        """Kind of an experiment's tasks."""
        return self.tasks[experiment.tasks[0]].kind

    def companions(self, task: str) -> Mapping[str, Mapping[str, Any]]:
        """Further representations that a task reads: what differs from its own, by name."""
        entry = self.tasks[task]
        return tasks.companions(entry.kind, entry.parameters)

    def prompt_key(self, prompt: str, dataset: str) -> str:
        """File name of a prompt's embeddings: one per dataset if its text depends on the image."""
        return f"{prompt}@{dataset}" if template_fields(self.prompts[prompt]) else prompt


def template_fields(text: str) -> set[str]:
    """Names in braces in a prompt: ``a photo of a {label}`` gives ``{"label"}``."""
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
