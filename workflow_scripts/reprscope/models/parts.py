"""Parts of a model in diffusers' layout: checking, loading and making anew, all in one way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprscope.models import configs, weights
from reprscope.runtime.errors import UserError

if TYPE_CHECKING:
    import torch

TOKENIZERS = {
    "CLIPTextModel": "CLIPTokenizer",
    "CLIPTextModelWithProjection": "CLIPTokenizer",
    "T5EncoderModel": "T5TokenizerFast",
}
"""Class of the tokenizer by class of the text encoder, both of transformers."""

VOCABULARIES = {
    "CLIPTokenizer": (("tokenizer.json",), ("vocab.json", "merges.txt")),
    # Not spiece.model, which needs the package sentencepiece; released models have both.
    "T5TokenizerFast": (("tokenizer.json",),),
}
"""Files that hold a tokenizer's words, in one of the given forms."""


def load_part(kind: str, folder: Path, component: str, *, dtype: torch.dtype) -> Any:
    """Load one part of a model folder, and nothing else of it.

    Parameters
    ----------
    kind : str
        Class of diffusers or transformers, such as ``AutoencoderKL``.
    folder : Path
        Model folder in diffusers' layout.
    component : str
        The part's folder in it.
    dtype : torch.dtype
        Type of the loaded weights.

    Raises
    ------
    UserError
        If it is missing or damaged, or its weights are not exactly those that its class wants.
    """
    part = folder / component
    files = {path.name: path for path in part.glob("*")}
    check_part(kind, files, where=str(part))
    choices: dict[str, Any] = {"use_safetensors": True, "local_files_only": True}
    if kind in TOKENIZERS:
        choices |= {"dtype": dtype}
    else:
        choices |= {"torch_dtype": dtype, "low_cpu_mem_usage": False}
    try:
        return class_of(kind).from_pretrained(part, **choices)
    except (OSError, ValueError) as error:
        raise UserError(f"{part} cannot be loaded ({error}): fetch or copy it again.") from error


def check_part(kind: str, files: Mapping[str, Path], *, where: str) -> weights.Stored:
    """Check a part's weights by their headers, which takes a moment for models of any size.

    Parameters
    ----------
    kind : str
        Class of diffusers or transformers.
    files : mapping
        Path by the name without variant.
    where : str
        How a sentence names the part.

    Returns
    -------
    Stored
        What the headers say.

    Raises
    ------
    UserError
        If the part is missing or damaged, or its weights are not exactly those that its class
        wants.
    """
    if "config.json" not in files:
        raise UserError(f"There is no {where}/config.json: use a complete model.")
    config = configs.read_file(files["config.json"])
    configs.complete(kind, config, where=where)
    of = class_of(kind)
    stored = weights.read(files, weights.STEMS[weights.library(of)], where=where)
    weights.check(of, config, stored, where=where)
    return stored


def load_tokenizer(kind: str, folder: Path, component: str, *, words: int) -> Any:
    """Load the tokenizer of a text encoder.

    Parameters
    ----------
    kind : str
        Class of the text encoder.
    folder : Path
        Model folder in diffusers' layout.
    component : str
        The tokenizer's folder in it.
    words : int
        Number of words that the encoder knows.

    Raises
    ------
    UserError
        If files are missing or damaged, it is of another class, or knows words that the encoder
        does not.
    """
    part, of = folder / component, TOKENIZERS[kind]
    forms = VOCABULARIES[of]
    # Without them transformers makes a tokenizer that knows no words, and says nothing.
    if not any(all((part / name).is_file() for name in form) for form in forms):
        wanted = ", or ".join(" and ".join(form) for form in forms)
        raise UserError(
            f"{part} has no {wanted}: use a complete model, or save the tokenizer there with "
            "transformers' save_pretrained."
        )
    for path in sorted(part.glob("*.json")):
        configs.read_file(path)
    _check_settings(part / "tokenizer_config.json", of)
    merges = part / "merges.txt"
    if merges.is_file() and not (part / "tokenizer.json").is_file() and not merges.stat().st_size:
        raise UserError(f"{merges} is empty: fetch or copy it again.")
    try:
        tokenizer = class_of(of).from_pretrained(part, local_files_only=True)
    except Exception as error:  # the library's own parser raises nothing more exact
        raise UserError(f"{part} cannot be loaded ({error}): fetch or copy it again.") from error
    known = max(tokenizer.get_vocab().values(), default=-1) + 1
    if known > words:
        raise UserError(
            f"{part} knows {known} words and its text encoder {words}: use both of one model."
        )
    return tokenizer


def _check_settings(path: Path, of: str) -> None:
    """Check a ``tokenizer_config.json``, which may be missing."""
    settings = configs.read_file(path) if path.is_file() else {}
    named = str(settings.get("tokenizer_class") or of)
    if named.removesuffix("Fast") != of.removesuffix("Fast"):
        raise UserError(
            f"{path} names a tokenizer of the class {named}, which is not supported: use a model "
            f"with a {of} there."
        )
    length = settings.get("model_max_length")
    # Without a limit transformers writes 1e30.
    whole = isinstance(length, int | float) and not isinstance(length, bool) and length >= 1
    if length is not None and not whole:
        raise UserError(
            f"{path} has model_max_length: {length}, which is no number of tokens: correct it."
        )


def class_of(name: str) -> Any:
    """Class of diffusers or transformers by its name."""
    import diffusers
    import transformers

    text = name in TOKENIZERS or name in VOCABULARIES
    return getattr(transformers if text else diffusers, name)


def write_untrained(kind: str, folder: Path, component: str, out: Path, *, seed: int) -> None:
    """Write a part of the same configuration to ``out``, with diffusers' own initial weights."""
    import torch

    of = class_of(kind)
    config = of.load_config(folder / component)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = of.from_config(config)
    module.save_pretrained(out / component, safe_serialization=True)
