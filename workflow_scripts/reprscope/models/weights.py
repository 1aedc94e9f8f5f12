"""What files of weights hold, by their headers alone, against what a part's class wants.

Libraries make up weights that a file lacks, and say so in a warning at most. Here nothing of that
kind passes. What a class wants, which older names it accepts, which tensors are tied to others and
which it does without is asked of the libraries themselves, on tensors that have a shape and no
values.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from reprscope.models.hub import layout
from reprscope.runtime.errors import UserError

if TYPE_CHECKING:
    import torch

NAMED: Final = 3
"""Tensors that a sentence names of those that are wrong."""

PRECISIONS: Final = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
}
"""Types of weights that can be read, by their names in safetensors."""

STEMS: Final = {"transformers": "model", "diffusers": "diffusion_pytorch_model"}
"""How each library names a part's weights."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """What a header says of a tensor: its type, as safetensors names it, and its shape."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Weights of a part.

    Attributes
    ----------
    tensors : mapping
        By name, of all files together.
    sharded : bool
        Whether they are spread over several files with an index.
    """

    tensors: Mapping[str, Tensor]
    sharded: bool

    @property
    def precision(self) -> str:
        """Types of the weights, such as ``float16``; several are joined by `` and ``."""
        found = {tensor.dtype for tensor in self.tensors.values()}
        return " and ".join(name for key, name in PRECISIONS.items() if key in found)


def read(files: Mapping[str, Path], stem: str, *, where: str) -> Stored:
    """Headers of a part's weights; refuses what is damaged or incomplete.

    Parameters
    ----------
    files : mapping
        Path by the name without variant, of one part.
    stem : str
        Of :data:`STEMS`.
    where : str
        How a sentence names the part, such as ``resources/models/nano-sd/unet``.

    Raises
    ------
    UserError
        If a file is missing or damaged, its index does not fit it, or a type cannot be read.
    """
    whole, index = f"{stem}.safetensors", f"{stem}.safetensors.index.json"
    if whole in files:
        tensors, sharded = _header(files[whole], where), False
    elif index in files:
        tensors, sharded = _sharded(files, index, where), True
    else:
        raise UserError(f"{where} has no {whole}: use a complete model.")
    for name, tensor in tensors.items():
        # An integer buffer of older files, which counts the places of a text.
        if tensor.dtype not in PRECISIONS and not name.endswith("position_ids"):
            raise UserError(
                f"{where} has the tensor {name} in {tensor.dtype}, which is not supported: use "
                f"weights in {', '.join(PRECISIONS.values())}."
            )
    return Stored(tensors=tensors, sharded=sharded)


def _sharded(files: Mapping[str, Path], index: str, where: str) -> dict[str, Tensor]:
    """Headers of all shards, after they are compared with their index."""
    try:
        content = layout.plain_index(json.loads(files[index].read_text(encoding="utf-8")))
        places = {str(key): str(value) for key, value in content["weight_map"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{where}: {index} is no index of weights ({type(error).__name__}): fetch or copy it "
            "again."
        ) from error
    shards = sorted(set(places.values()))
    lost = [shard for shard in shards if shard not in files]
    if lost:
        raise UserError(f"{where} has no {listed(lost)}, which its {index} names: use all shards.")
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        found = _header(files[shard], where)
        wanted = {key for key, place in places.items() if place == shard}
        for wrong, says in ((wanted - found.keys(), "lacks"), (found.keys() - wanted, "has also")):
            if wrong:
                raise UserError(
                    f"{where}: {shard} {says} {listed(wrong)} by {index}: use an index and shards "
                    "that were saved together."
                )
        tensors |= found
    return tensors


def _header(path: Path, where: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: Tensor(dtype=s.get_dtype(), shape=tuple(s.get_shape()))
                for name, s in slices.items()
            }
    except (OSError, SafetensorError) as error:
        raise UserError(f"{where}: {path.name} {_damage(path, error)}.") from error


def _damage(path: Path, error: Exception) -> str:
    """What is wrong with a file that has no header of safetensors, and what to do."""
    try:
        with path.open("rb") as file:
            start = file.read(40)
    except OSError as unread:
        return f"cannot be read ({unread.strerror}): change its rights, or fetch or copy it again"
    if not start:
        return "is empty: fetch or copy it again"
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS and no weights: run `git lfs pull` in its repository"
    if start.startswith((b"PK\3\4", b"\x80")):
        return "is a pickle by another name, which is never loaded: convert it to safetensors"
    return f"is damaged ({str(error).rstrip('.')}): fetch or copy it again"


def check(kind: Any, config: Mapping[str, Any], stored: Stored, *, where: str) -> None:
    """Check that weights are exactly those that a class wants.

    Parameters
    ----------
    kind : type
        Class of diffusers or transformers.
    config : mapping
        The part's ``config.json``.
    stored : Stored
    where : str
        How a sentence names the part.

    Raises
    ------
    UserError
        If tensors are missing, are there and not wanted, or have another shape (names them); or
        the configuration makes no such part.
    """
    from huggingface_hub.errors import StrictDataclassError

    compare = _of_transformers if library(kind) == "transformers" else _of_diffusers
    try:
        found = compare(kind, config, stored)
    except (KeyError, TypeError, ValueError, StrictDataclassError) as error:
        why = " ".join(str(error).split())[:200].rstrip(".")
        raise UserError(
            f"{where}/config.json makes no {kind.__name__} ({why}): correct it, or use the "
            "config.json of the model."
        ) from error
    wrong = []
    if found.missing:
        wrong.append(f"lacks {listed(found.missing)}")
    if found.unexpected:
        wrong.append(f"has {listed(found.unexpected)}, which {kind.__name__} does not know")
    if found.mismatched:
        shapes = {
            f"{name} of {_times(found.mismatched[name][0])} in place of "
            f"{_times(found.mismatched[name][1])}"
            for name in found.mismatched
        }
        wrong.append(f"has {listed(shapes)}")
    if wrong:
        raise UserError(
            f"{where} does not hold the weights that its config.json says: it {'; it '.join(wrong)}"
            ". Use the weights and the config.json of one model, complete."
        )


def library(kind: Any) -> str:
    """Library that a class is of: ``diffusers`` or ``transformers``."""
    return str(kind.__module__).partition(".")[0]


@dataclass(frozen=True, kw_only=True)
class _Difference:
    missing: Iterable[str]
    unexpected: Iterable[str]
    mismatched: Mapping[str, tuple[Sequence[int], Sequence[int]]]


def _of_diffusers(kind: Any, config: Mapping[str, Any], stored: Stored) -> _Difference:
    import torch

    with torch.device("meta"):
        module = kind.from_config(dict(config))
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    given = {name: tensor.shape for name, tensor in stored.tensors.items()}
    if not stored.sharded:  # as diffusers, which spread weights over files only later
        module._fix_state_dict_keys_on_load(given)
    patterns = kind._keys_to_ignore_on_load_unexpected or ()
    return _Difference(
        missing=wanted.keys() - given.keys(),
        unexpected={
            name
            for name in given.keys() - wanted.keys()
            if not any(re.search(pattern, name) for pattern in patterns)
        },
        mismatched={
            name: (given[name], wanted[name])
            for name in given.keys() & wanted.keys()
            if given[name] != wanted[name]
        },
    )


def _of_transformers(kind: Any, config: Mapping[str, Any], stored: Stored) -> _Difference:
    import torch

    with _silence():
        _, found = kind.from_pretrained(
            None,
            config=kind.config_class.from_dict(dict(config)),
            state_dict={name: _empty(tensor) for name, tensor in stored.tensors.items()},
            device_map={"": torch.device("meta")},
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    return _Difference(
        missing=found["missing_keys"],
        unexpected=found["unexpected_keys"],
        mismatched={name: (given, wanted) for name, given, wanted in found["mismatched_keys"]},
    )


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep transformers from reporting what is said in one sentence afterwards."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def _empty(tensor: Tensor) -> torch.Tensor:
    import torch

    return torch.empty(tensor.shape, device="meta", dtype=torch.float32)


def listed(names: Iterable[str]) -> str:
    """The first few of some names, and how many there are."""
    ordered = sorted(names)
    shown = ", ".join(ordered[:NAMED])
    return shown if len(ordered) <= NAMED else f"{shown} and {len(ordered) - NAMED} more"


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "no dimension"
