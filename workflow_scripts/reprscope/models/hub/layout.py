"""Which files of a model repository are needed, and their names in diffusers' layout.

Weights are taken as safetensors only, in full or in half precision (see :data:`HALF`) as asked for.
Pickles and programs are never chosen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from reprscope.runtime.errors import UserError

SMALL = (".json", ".model", ".txt")
"""Endings of configurations and vocabularies."""

PICKLES = (".bin", ".ckpt", ".msgpack", ".pt", ".pth")

HALF = ("fp16", "bf16")
"""Variants of the same weights in half precision, by their names in diffusers' layout.

Others, such as ``non_ema``, are other weights."""

HALF_FIRST = ("fp16", "", "bf16")
FULL_FIRST = ("", *HALF)
FULL = ("",)

_VARIANT = re.compile(rf"\.({'|'.join(HALF)})(?=[.-])")

_WEIGHTS = re.compile(
    r"(?P<stem>diffusion_pytorch_model|model)(\.(?P<variant>fp16|bf16))?"
    r"(?P<shard>-\d{5}-of-(?P<shards>\d{5}))?\.safetensors"
)
_INDEX = re.compile(
    r"(?P<stem>diffusion_pytorch_model|model)\.safetensors\.index(\.(?P<variant>fp16|bf16))?\.json"
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
    variants: Sequence[str],
    denoiser_weights: bool = True,
    where: str,
) -> dict[str, str]:
    """Files of a model that are needed.

    Parameters
    ----------
    names : iterable of str
        Paths of all its files.
    component : str
        Folder of the denoiser.
    variants : sequence of str
        Variants of weights that may be taken, the best first: :data:`HALF_FIRST`,
        :data:`FULL_FIRST` or :data:`FULL`.
    denoiser_weights : bool
        Whether the denoiser's weights are needed too.
    where : str
        How to name the repository or folder in an error.

    Returns
    -------
    mapping of str to str
        Name without variant, as diffusers loads it, to name in the repository or folder.

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
        encodes_text = folder.startswith("text_encoder")
        weighted = folder in (component, "vae") or encodes_text
        if not weighted and folder != "scheduler" and not folder.startswith("tokenizer"):
            continue
        for file in files:
            if file.endswith(SMALL) and ".index." not in file:
                chosen[f"{folder}/{file}"] = f"{folder}/{file}"
        if weighted and (denoiser_weights or folder != component):
            stem = "model" if encodes_text else "diffusion_pytorch_model"
            found = _weights(files, stem, variants)
            if not found:
                raise UserError(_without_weights(where, folder, files, stem, variants))
            chosen |= {f"{folder}/{key}": f"{folder}/{file}" for key, file in found.items()}
    return chosen


def canonical(name: str) -> str:
    """Name of a file of weights, or of their index, without its variant."""
    return _VARIANT.sub("", name)


def variant(name: str) -> str:
    """Variant of a file of weights, or of their index, by its name; empty if it has none."""
    found = _VARIANT.search(name)
    return found[1] if found else ""


def plain_index(index: Mapping[str, Any]) -> dict[str, Any]:
    """Index of sharded weights with the shards' names without variant."""
    places = {key: canonical(shard) for key, shard in index["weight_map"].items()}
    return {**index, "weight_map": places}


def _weights(files: Iterable[str], stem: str, variants: Iterable[str]) -> dict[str, str]:
    """Complete weights of one part: name without variant to name; empty if there are none."""
    for wanted in variants:
        parts, index = _shards(files, stem, wanted)
        whole = [match[0] for match in parts if match["shard"] is None]
        if whole:
            return {canonical(whole[0]): whole[0]}
        if index and parts and len(parts) == int(parts[0]["shards"]):
            return {canonical(name): name for name in [*index, *(m[0] for m in parts)]}
    return {}


def _shards(files: Iterable[str], stem: str, wanted: str) -> tuple[list[re.Match[str]], list[str]]:
    """Files of weights of a variant, and their index."""

    def of(form: re.Pattern[str]) -> list[re.Match[str]]:
        found = (form.fullmatch(name) for name in files)
        return [m for m in found if m and m["stem"] == stem and (m["variant"] or "") == wanted]

    return of(_WEIGHTS), [match[0] for match in of(_INDEX)]


def _without_weights(
    where: str, folder: str, files: Iterable[str], stem: str, variants: Sequence[str]
) -> str:
    """Sentence about a part without weights that can be taken."""
    pickles = [file for file in files if file.endswith(PICKLES)]
    others = [file for file in files if file.endswith(".safetensors")]
    if not others and pickles:
        return (
            f"{where} has the weights of {folder} as a pickle only ({pickles[0]}), which can hold "
            "a program and is never loaded: use a model with .safetensors files."
        )
    if not others:
        return f"{where} has no complete .safetensors weights in {folder}: use a complete model."
    if _weights(files, stem, [v for v in HALF_FIRST if v not in variants]):
        return (
            f"{where} has the weights of {folder} in half precision only ({others[0]}), and "
            "`variant: full` asks for all of it: remove that, or use another model."
        )
    for wanted in variants:
        parts, _ = _shards(files, stem, wanted)
        sharded = [match for match in parts if match["shard"]]
        if sharded:
            count = int(sharded[0]["shards"])
            there = {int(match["shard"][1:6]) for match in sharded}
            missing = [str(i) for i in range(1, count + 1) if i not in there]
            lack = f"shard {', '.join(missing)} of {count}" if missing else "their index"
            return (
                f"{where} has no complete .safetensors weights in {folder} ({lack} is missing): "
                "use a complete model."
            )
    return (
        f"{where} has no complete .safetensors weights in {folder}: {others[0]} is not named "
        f"{stem}.safetensors, as diffusers saves them."
    )
