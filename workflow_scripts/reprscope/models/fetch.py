"""Bringing a model's folder into ``results/models``."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from reprscope.checksums import write_json
from reprscope.errors import UserError
from reprscope.files import sha256, write_text
from reprscope.models import configs, layout, schedulers
from reprscope.models.denoiser import family as find_family
from reprscope.models.hub import Found, obtain
from reprscope.models.registry import Repository, WeightsFile
from reprscope.provenance import digest

SUFFIXES = (".json", ".model", ".safetensors", ".txt")
SCHEDULER = "scheduler/scheduler_config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"


def fetch(settings: Mapping[str, Any], snapshot: Path) -> list[dict[str, str]]:
    """Fill a model's folder.

    Parameters
    ----------
    settings : mapping
        Spec of the fetch; see :func:`reprscope.specs.fetch_model`.
    snapshot : Path
        Folder to fill.

    Returns
    -------
    list of mapping
        ``repository`` and ``commit`` of what came from the hub.
    """
    family, seed = settings["family"], settings["untrained"]
    if settings["hub"] is not None:
        return fetch_hub(settings["hub"], snapshot, family=family, untrained=seed)
    if seed is None:
        fetch_folder(Path(settings["path"]), snapshot)
    else:
        make_untrained(Path(settings["path"]), snapshot, family=family, seed=seed)
    return []


def fetch_folder(source: Path, snapshot: Path) -> None:
    """Copy what is needed of a local folder in diffusers' layout; never pickles.

    Raises
    ------
    UserError
        If the folder is missing or has no safetensors weights.
    """
    if not (source / "model_index.json").is_file():
        raise UserError(
            f"{source} is not a model folder (it has no model_index.json): set `path` to a folder "
            "in diffusers' layout."
        )
    chosen = [p for p in sorted(source.rglob("*")) if p.is_file() and p.suffix in SUFFIXES]
    if not any(path.suffix == ".safetensors" for path in chosen):
        raise UserError(f"{source} has no .safetensors weights: convert the model to safetensors.")
    for path in chosen:
        target = snapshot / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def fetch_hub(
    wanted: Mapping[str, Any], snapshot: Path, *, family: str, untrained: int | None
) -> list[dict[str, str]]:
    """Link a model of the hub into ``snapshot``, from the cache that all studies share.

    Parameters
    ----------
    wanted : mapping
        ``sources`` and ``denoiser`` as in :class:`reprscope.models.registry.Model`, ``full``
        (weights in full precision), ``scheduler`` (what differs in its configuration), and by what
        the study was planned: ``positions`` (their digest) and ``timesteps``.
    snapshot : Path
    family : str
    untrained : int or None
        Seed of an untrained twin, for which no weights are fetched.

    Raises
    ------
    UserError
        If no source can be used, the download stops, a file is corrupt, or the model is not of the
        architecture that the study names.
    """
    component = find_family(family).COMPONENT
    sources = [Repository(**source) for source in wanted["sources"]]
    own = wanted["denoiser"]

    def choose(names: Iterable[str], where: str) -> dict[str, str]:
        if untrained is not None:
            return layout.configuration(names, component, where=where)
        return layout.select(
            names, component, full=wanted["full"], denoiser_weights=own is None, where=where
        )

    def check(files: Found) -> None:
        check_plan(configs.read_files(files.files), wanted, family=family, where=files.repository)

    found = [obtain(sources, choose, check)]
    if own is not None and untrained is None:
        found.append(
            _single(WeightsFile(**own), f"{component}/diffusion_pytorch_model.safetensors")
        )
    if untrained is None:
        _link(found, snapshot, scheduler=wanted["scheduler"])
    else:
        with tempfile.TemporaryDirectory() as folder:
            _link(found, Path(folder), scheduler=wanted["scheduler"])
            make_untrained(Path(folder), snapshot, family=family, seed=untrained)
    return [{"repository": each.repository, "commit": each.commit} for each in found]


def make_untrained(source: Path, snapshot: Path, *, family: str, seed: int) -> None:
    """Make the untrained twin of a model: its denoiser anew, and its scheduler."""
    find_family(family).make_untrained(source, snapshot, seed=seed)
    shutil.copytree(source / "scheduler", snapshot / "scheduler", dirs_exist_ok=True)


def write_manifest(
    snapshot: Path, manifest: Path, *, spec: str, origin: Iterable[Mapping[str, str]] = ()
) -> None:
    """Write what the folder holds: SHA-256 of every file, and one revision for all of it.

    ``origin`` names the repositories and commits of the hub that the files came from.
    """
    files = {
        str(path.relative_to(snapshot)): sha256(path.resolve())
        for path in sorted(snapshot.rglob("*"))
        if path.is_file()
    }
    content = {
        "spec": json.loads(spec),
        "origin": list(origin),
        "revision": digest(files),
        "files": files,
    }
    write_json(manifest, content)


def _single(source: WeightsFile, canonical: str) -> Found:
    def choose(names: Iterable[str], where: str) -> dict[str, str]:
        if source.file not in names:
            raise UserError(f"{where} has no {source.file}: name another revision.")
        return {canonical: source.file}

    return obtain([source], choose, lambda _: None)


def check_plan(
    parts: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, Any], *, family: str, where: str
) -> None:
    """Compare a model's configurations with what its family runs and its study was planned by.

    Parameters
    ----------
    parts : mapping
        Configurations by folder; of a twin those of its denoiser and scheduler alone.
    wanted : mapping
        As in :func:`fetch_hub`.
    family, where : str
        ``where`` names the model in a sentence.

    Raises
    ------
    UserError
        If the model cannot be run, or is another than the study says.
    """
    kind = find_family(family)
    try:
        # The scheduler that will be run: weights of another training bring their own.
        parts = {**parts, "scheduler": {**parts.get("scheduler", {}), **wanted["scheduler"]}}
        configs.check(kind, parts, whole="vae" in parts)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    same = (
        digest(kind.positions(parts[kind.COMPONENT])) == wanted["positions"]
        and schedulers.timesteps(parts["scheduler"], kind.NOISE) == wanted["timesteps"]
    )
    if not same:
        raise UserError(
            f"{where} does not have the positions or timesteps of its entry in the study: name a "
            "model that it is `like`."
        )


def _link(found: Iterable[Found], snapshot: Path, *, scheduler: Mapping[str, Any]) -> None:
    """Make a folder in diffusers' layout of links into the cache."""
    for name, path in (item for each in found for item in each.files.items()):
        target = snapshot / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.name.endswith(".json") and path.name != target.name:
            index = layout.plain_index(json.loads(path.read_text(encoding="utf-8")))
            write_text(target, json.dumps(index, indent=1))
        elif name == SCHEDULER and scheduler:
            schedule = json.loads(path.read_text(encoding="utf-8"))
            write_text(target, json.dumps({**schedule, **scheduler}, indent=1))
        else:
            target.symlink_to(path)
