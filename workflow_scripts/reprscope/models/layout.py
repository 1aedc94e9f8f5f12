"""Which files of a model repository are needed, and their names in diffusers' layout.

Weights are taken as safetensors only; the half precision variant (``fp16``) where there is one.
Pickles and programs are never chosen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from reprscope.errors import UserError

SMALL = (".json", ".model", ".txt")
"""Endings of configurations and vocabularies."""

PICKLES = (".bin", ".ckpt", ".msgpack", ".pt", ".pth")

_WEIGHTS = re.compile(
    r"(?P<stem>diffusion_pytorch_model|model)(?P<variant>\.fp16)?"
    r"(?P<shard>-\d{5}-of-(?P<shards>\d{5}))?\.safetensors"
)
_INDEX = re.compile(
    r"(?P<stem>diffusion_pytorch_model|model)\.safetensors\.index(?P<variant>\.fp16)?\.json"
)


def configuration(names: Iterable[str], component: str, *, where: str) -> dict[str, str]:
    """Files from which an untrained twin is made; see :func:`select`."""
    known = set(names)
    wanted = [f"{component}/config.json", "scheduler/scheduler_config.json"]
    for name in wanted:
        if name not in known:
            raise UserError(f"{where} has no {name}: name a repository in diffusers' layout.")
    return {name: name for name in wanted}


def select(
    names: Iterable[str],
    component: str,
    *,
    full: bool,
    denoiser_weights: bool = True,
    where: str,
) -> dict[str, str]:
    """Files of a repository that a model needs.

    Parameters
    ----------
    names : iterable of str
        Paths of all its files.
    component : str
        Folder of the denoiser.
    full : bool
        Take the weights in full precision although there is an ``fp16`` variant.
    denoiser_weights : bool
        Whether the denoiser's weights are needed too.
    where : str
        How to name the repository in an error.

    Returns
    -------
    mapping of str to str
        Name without variant, as diffusers loads it, to name in the repository.

    Raises
    ------
    UserError
        If it is not in diffusers' layout, or a part has no complete safetensors weights.
    """
    folders: dict[str, list[str]] = {}
    for name in sorted(names):
        path = PurePosixPath(name)
        if len(path.parts) == 2:
            folders.setdefault(path.parts[0], []).append(path.name)
        elif name == "model_index.json":
            folders[""] = [name]
    for part in ("", component, "vae", "scheduler"):
        if part not in folders:
            missing = part or "model_index.json"
            raise UserError(f"{where} has no {missing}: name a model in diffusers' layout.")
    chosen = {"model_index.json": "model_index.json"}
    for folder, files in folders.items():
        weighted = folder in (component, "vae") or folder.startswith("text_encoder")
        if not weighted and folder != "scheduler" and not folder.startswith("tokenizer"):
            continue
        for file in files:
            if file.endswith(SMALL) and ".index." not in file:
                chosen[f"{folder}/{file}"] = f"{folder}/{file}"
        if weighted and (denoiser_weights or folder != component):
            found = _weights(files, full=full)
            if not found:
                raise UserError(_without_weights(where, folder, files))
            chosen |= {f"{folder}/{key}": f"{folder}/{file}" for key, file in found.items()}
    return chosen


def canonical(name: str) -> str:
    """Name of a file of weights, or of their index, without its variant."""
    return re.sub(r"\.fp16(?=[.-])", "", name)


def plain_index(index: Mapping[str, Any]) -> dict[str, Any]:
    """Index of sharded weights with the shards' names without variant."""
    places = {key: canonical(shard) for key, shard in index["weight_map"].items()}
    return {**index, "weight_map": places}


def _weights(files: Iterable[str], *, full: bool) -> dict[str, str]:
    """Complete weights of one part: name without variant to name; empty if there are none."""
    files = list(files)
    for variant in (None, ".fp16") if full else (".fp16", None):
        parts = [
            match
            for match in map(_WEIGHTS.fullmatch, files)
            if match is not None and match["variant"] == variant
        ]
        whole = [match[0] for match in parts if match["shard"] is None]
        if whole:
            return {canonical(whole[0]): whole[0]}
        index = [
            match[0]
            for match in map(_INDEX.fullmatch, files)
            if match is not None and match["variant"] == variant
        ]
        if index and parts and len(parts) == int(parts[0]["shards"]):
            return {canonical(name): name for name in [index[0], *(m[0] for m in parts)]}
    return {}


def _without_weights(where: str, folder: str, files: Iterable[str]) -> str:
    pickles = [file for file in files if file.endswith(PICKLES)]
    if pickles:
        return (
            f"{where} has the weights of {folder} as a pickle only ({pickles[0]}), which can hold "
            "a program and is never loaded: name a repository with .safetensors files."
        )
    return f"{where} has no complete .safetensors weights in {folder}: name another repository."
