"""Text encoders: texts to tokens, and prompts to embeddings by CLIP. Loaded one by one."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from reprscope.models import configs
from reprscope.models.parts import load_part, load_tokenizer

logger = logging.getLogger(__name__)

BATCH = 32
"""Texts that are encoded at a time."""

Hidden = Literal["last", "penultimate", "none"]
"""Which hidden state is wanted: the last one, after the final layer norm; the output of the layer
before the last, without that norm; or none."""


@dataclass(frozen=True)
class Reader:
    """A tokenizer, and how many tokens of a text its encoder reads.

    Attributes
    ----------
    tokenizer
        Of transformers.
    length : int
        Texts are padded and cut to it.
    """

    tokenizer: Any
    length: int

    def read(self, texts: Sequence[str]) -> torch.Tensor:
        """Tokens (texts, length), integers."""
        batch = self.tokenizer(
            list(texts),
            padding="max_length",
            max_length=self.length,
            truncation=True,
            return_tensors="pt",
        )
        found: torch.Tensor = batch.input_ids
        return found

    def cut(self, texts: Sequence[str]) -> list[str]:
        """Those texts of which the encoder reads a part only."""
        whole = self.tokenizer(list(texts), verbose=False).input_ids
        return [text for text, ids in zip(texts, whole, strict=True) if len(ids) > self.length]


def clip_reader(folder: Path, number: int = 1) -> Reader:
    """What reads texts for a CLIP text encoder of a model folder.

    The length is the tokenizer's, as in the diffusers pipelines, where it has one and the encoder
    knows as many places.

    Raises
    ------
    UserError
        If the tokenizer cannot be loaded; see :func:`reprscope.models.parts.load_tokenizer`.
    """
    encoder, tokenizer = _names(number)
    kind, config = _clip(folder / encoder)
    loaded = load_tokenizer(kind, folder, tokenizer, words=config["vocab_size"])
    return Reader(loaded, min(loaded.model_max_length, config["max_position_embeddings"]))


def _names(number: int) -> tuple[str, str]:
    """Folders of a model's text encoder and of its tokenizer."""
    suffix = "" if number == 1 else f"_{number}"
    return f"text_encoder{suffix}", f"tokenizer{suffix}"


def _clip(part: Path) -> tuple[str, dict[str, Any]]:
    """Class of a CLIP text encoder, by what its configuration says, and that configuration."""
    config = configs.read_file(part / "config.json")
    projects = "CLIPTextModelWithProjection" in (config.get("architectures") or ())
    kind = "CLIPTextModelWithProjection" if projects else "CLIPTextModel"
    return kind, configs.complete(kind, config, where=str(part))


def count_cut(readers: Mapping[str, Reader], texts: Sequence[str]) -> dict[str, dict[str, int]]:
    """Count the texts of which encoders read a part only, and say so in the log.

    Parameters
    ----------
    readers : mapping
        By text encoder; see :meth:`reprscope.models.denoiser.Family.readers`.
    texts : sequence of str
        Distinct texts.

    Returns
    -------
    mapping
        By text encoder, its ``length`` in tokens, and how many ``texts`` are ``cut`` to it.
    """
    found = {}
    for name, reader in readers.items():
        long = reader.cut(texts)
        found[name] = {"length": reader.length, "texts": len(texts), "cut": len(long)}
        if long:
            logger.warning(
                "%d of %d texts are longer than the %d tokens that the text encoder %s reads, and "
                "are cut, such as the one that begins '%s'",
                len(long),
                len(texts),
                reader.length,
                name,
                long[0][:80],
            )
    return found


@dataclass(frozen=True)
class ClipText:
    """What a CLIP text encoder says of texts; float32.

    Attributes
    ----------
    hidden : array, (texts, tokens, features)
        The hidden state that was asked for; without tokens if it was none.
    pooled : array, (texts, features)
        The end token's last hidden state, projected where the encoder has a projection.
    """

    hidden: NDArray[np.float32]
    pooled: NDArray[np.float32]


@torch.inference_mode()
def clip_text(
    folder: Path, texts: Sequence[str], *, hidden: Hidden, device: torch.device, number: int = 1
) -> ClipText:
    """Encode texts by a CLIP text encoder of a model folder, in float32.

    In batches, of which only what is asked for is kept: every layer's output for 1,800 captions
    would take 23 GB for SDXL.

    Parameters
    ----------
    folder : Path
        Model folder in diffusers' layout.
    texts : sequence of str
        Padded and cut to the length of :func:`clip_reader`.
    hidden : {"last", "penultimate", "none"}
    number : int
        1 for ``text_encoder`` and ``tokenizer``, 2 for ``text_encoder_2`` and ``tokenizer_2``.

    Raises
    ------
    UserError
        If the encoder or its tokenizer cannot be loaded.
    """
    reader, (component, _) = clip_reader(folder, number), _names(number)
    kind, _ = _clip(folder / component)
    encoder = load_part(kind, folder, component, dtype=torch.float32).to(device).eval()
    projects = kind == "CLIPTextModelWithProjection"
    states, pooled = [], []
    for start in range(0, len(texts), BATCH):
        tokens = reader.read(texts[start : start + BATCH])
        found = encoder(tokens.to(device), output_hidden_states=hidden == "penultimate")
        state = found.hidden_states[-2] if hidden == "penultimate" else found.last_hidden_state
        states.append(_array(state[:, :0] if hidden == "none" else state))
        pooled.append(_array(found.text_embeds if projects else found.pooler_output))
    return ClipText(hidden=np.concatenate(states), pooled=np.concatenate(pooled))


def _array(values: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = values.float().cpu().numpy()
    return array
