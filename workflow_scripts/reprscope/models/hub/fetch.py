"""Bringing a model's folder into ``results/models``."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reprscope.base.provenance import digest
from reprscope.models import configs, schedulers
from reprscope.models.denoiser import family as find_family
from reprscope.models.hub import layout
from reprscope.models.hub.cache import Found, obtain
from reprscope.models.parts import check_part
from reprscope.models.registry import Repository, WeightsFile
from reprscope.runtime.checksums import write_json
from reprscope.runtime.errors import UserError
from reprscope.runtime.files import sha256, write_text

logger = logging.getLogger(__name__)

SCHEDULER = "scheduler/scheduler_config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What a fetch found.

    Attributes
    ----------
    origin : sequence of mapping
        ``repository`` and ``commit`` of what came from the hub.
    stored : mapping
        By part with weights, ``precision`` of its files, and their ``variant`` if they are one.
    """

    origin: Sequence[Mapping[str, str]] = ()
    stored: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def fetch(settings: Mapping[str, Any], snapshot: Path) -> Fetched:
    """Fill a model's folder.

    Parameters
    ----------
    settings : mapping
        Spec of the fetch; see :func:`reprscope.plan.specs.fetch_model`.
    snapshot : Path
        Folder to fill.
    """
    family, seed = settings["family"], settings["untrained"]
    if settings["hub"] is not None:
        return fetch_hub(settings["hub"], snapshot, family=family, untrained=seed)
    if seed is None:
        return fetch_folder(Path(settings["path"]), snapshot, family=family)
    make_untrained(Path(settings["path"]), snapshot, family=family, seed=seed)
    return Fetched()


def local_files(source: Path, *, family: str) -> dict[str, Path]:
    """Files of a local folder in diffusers' layout that a model needs; never pickles.

    Where a part's weights are there in half precision only, those are taken.

    Returns
    -------
    mapping of str to Path
        By the names without variant, as diffusers loads them.

    Raises
    ------
    UserError
        If the folder is missing or not in diffusers' layout, or a part has no complete weights.
    """
    if not (source / "model_index.json").is_file():
        raise UserError(
            f"{source} is not a model folder (it has no model_index.json): set `path` to a folder "
            "in diffusers' layout."
        )
    names = [
        path.relative_to(source).as_posix()
        for pattern in ("*", "*/*")
        for path in source.glob(pattern)
        if path.is_file()
    ]
    component = find_family(family).COMPONENT
    chosen = layout.select(names, component, variants=layout.FULL_FIRST, where=str(source))
    return {name: source / file for name, file in chosen.items()}


def fetch_folder(source: Path, snapshot: Path, *, family: str) -> Fetched:
    """Copy what is needed of a local folder in diffusers' layout, after it is checked.

    Raises
    ------
    UserError
        If the folder cannot be used; see :func:`local_files` and :func:`check_parts`.
    """
    files = local_files(source, family=family)
    stored = check_parts(files, source, family=family, where=str(source))
    for name, path in files.items():
        if (index := _plain(name, path)) is not None:
            write_text(snapshot / name, index)
        else:
            (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, snapshot / name)
    return Fetched(stored=stored)


def check_parts(
    files: Mapping[str, Path], folder: Path, *, family: str, where: str
) -> dict[str, dict[str, str]]:
    """Check all parts of a model, by the headers of their weights and by their tokenizers.

    Parameters
    ----------
    files : mapping
        Path by the name without variant.
    folder : Path
        Where the tokenizers are.
    family : str
    where : str
        How a sentence names the model.

    Returns
    -------
    mapping
        By part, ``precision`` of its weights, and their ``variant`` if they are one.

    Raises
    ------
    UserError
        If a part is missing, damaged or of another architecture than it says; see
        :func:`reprscope.models.parts.check_part`.
    """
    kind = find_family(family)
    found: dict[str, dict[str, str]] = {}
    folders = {name.partition("/")[0] for name in files}
    for part, of in kind.parts(folders).items():
        own = {
            name.removeprefix(f"{part}/"): path
            for name, path in files.items()
            if name.startswith(f"{part}/")
        }
        stored = check_part(of, own, where=f"{where}/{part}")
        found[part] = {"precision": stored.precision}
        variants = {layout.variant(path.name) for path in own.values()} - {""}
        if variants:
            found[part]["variant"] = " and ".join(sorted(variants))
        logger.info(
            "%s: weights in %s%s",
            f"{where}/{part}",
            stored.precision,
            f", the variant {found[part]['variant']}" if variants else "",
        )
    kind.readers(folder)
    return found


def fetch_hub(
    wanted: Mapping[str, Any], snapshot: Path, *, family: str, untrained: int | None
) -> Fetched:
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
        architecture that the study names or cannot be used (see :func:`check_parts`).
    """
    component = find_family(family).COMPONENT
    sources = [Repository(**source) for source in wanted["sources"]]
    own = wanted["denoiser"]

    def choose(names: Iterable[str], where: str) -> dict[str, str]:
        if untrained is not None:
            return layout.configuration(names, component, where=where)
        variants = layout.FULL if wanted["full"] else layout.HALF_FIRST
        return layout.select(
            names, component, variants=variants, denoiser_weights=own is None, where=where
        )

    def check(files: Found) -> None:
        check_plan(configs.read_files(files.files), wanted, family=family, where=files.repository)

    found = [obtain(sources, choose, check)]
    if own is not None and untrained is None:
        found.append(_single(WeightsFile(**own), f"{component}/{WEIGHTS}"))
    origin = [{"repository": each.repository, "commit": each.commit} for each in found]
    if untrained is None:
        files = {name: path for each in found for name, path in each.files.items()}
        folder, where = files["model_index.json"].parent, found[0].repository
        stored = check_parts(files, folder, family=family, where=where)
        _link(found, snapshot, scheduler=wanted["scheduler"])
        return Fetched(origin=origin, stored=stored)
    with tempfile.TemporaryDirectory() as made:
        _link(found, Path(made), scheduler=wanted["scheduler"])
        make_untrained(Path(made), snapshot, family=family, seed=untrained)
    return Fetched(origin=origin)


def make_untrained(source: Path, snapshot: Path, *, family: str, seed: int) -> None:
    """Make the untrained twin of a model: its denoiser anew, and its scheduler."""
    find_family(family).make_untrained(source, snapshot, seed=seed)
    shutil.copytree(source / "scheduler", snapshot / "scheduler", dirs_exist_ok=True)


def write_manifest(
    snapshot: Path, manifest: Path, *, spec: str, fetched: Fetched | None = None
) -> None:
    """Write what the folder holds: SHA-256 of every file, and one revision for all of it.

    And what :class:`Fetched` says of where it came from and how its weights are stored.
    """
    fetched = fetched or Fetched()
    files = {
        str(path.relative_to(snapshot)): sha256(path.resolve())
        for path in sorted(snapshot.rglob("*"))
        if path.is_file()
    }
    content = {
        "spec": json.loads(spec),
        "origin": [dict(each) for each in fetched.origin],
        "stored": {part: dict(said) for part, said in fetched.stored.items()},
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
        if (index := _plain(name, path)) is not None:
            write_text(target, index)
        elif name == SCHEDULER and scheduler:
            schedule = json.loads(path.read_text(encoding="utf-8"))
            write_text(target, json.dumps({**schedule, **scheduler}, indent=1))
        else:
            target.symlink_to(path)


def _plain(name: str, path: Path) -> str | None:
    """Index of sharded weights by the shards' names without variant; None of any other file."""
    if not name.endswith(".index.json"):
        return None
    index = layout.plain_index(json.loads(path.read_text(encoding="utf-8")))
    return json.dumps(index, indent=1)
