"""The CLIP text encoders: prompts to embeddings. Loaded one by one, and released."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from reprscope.errors import UserError

BATCH = 32
"""Texts that are encoded at a time."""

Hidden = Literal["last", "penultimate", "none"]
"""Which hidden state is wanted: the last one, after the final layer norm; the output of the layer
before the last, without that norm; or none."""


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
        Padded and cut to the tokenizer's full length, as in the diffusers pipelines.
    hidden : {"last", "penultimate", "none"}
    number : int
        1 for ``text_encoder`` and ``tokenizer``, 2 for ``text_encoder_2`` and ``tokenizer_2``.

    Raises
    ------
    UserError
        If the encoder or its tokenizer cannot be loaded.
    """
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    suffix = "" if number == 1 else f"_{number}"
    weights = folder / f"text_encoder{suffix}"
    vocabulary = folder / f"tokenizer{suffix}"
    check_tokenizer(vocabulary, ("tokenizer.json",), ("vocab.json", "merges.txt"))
    try:
        config = json.loads((weights / "config.json").read_text(encoding="utf-8"))
        projects = "CLIPTextModelWithProjection" in config.get("architectures", ())
        kind = CLIPTextModelWithProjection if projects else CLIPTextModel
        tokenizer = CLIPTokenizer.from_pretrained(vocabulary)
        encoder = kind.from_pretrained(weights, dtype=torch.float32)
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(
            f"The text encoder in {folder} cannot be loaded ({error}): delete the folder and fetch "
            "it again."
        ) from error
    encoder = encoder.to(device).eval()
    states, pooled = [], []
    for start in range(0, len(texts), BATCH):
        batch = tokenizer(
            list(texts[start : start + BATCH]),
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        found = encoder(batch.input_ids.to(device), output_hidden_states=hidden == "penultimate")
        state = found.hidden_states[-2] if hidden == "penultimate" else found.last_hidden_state
        states.append(_array(state[:, :0] if hidden == "none" else state))
        pooled.append(_array(found.text_embeds if projects else found.pooler_output))
    return ClipText(hidden=np.concatenate(states), pooled=np.concatenate(pooled))


def check_tokenizer(folder: Path, *forms: Sequence[str]) -> None:
    """Check that a tokenizer's files are there, in one of the given forms.

    Without them transformers makes a tokenizer that knows no words, and says nothing.

    Raises
    ------
    UserError
        If they are not.
    """
    if not any(all((folder / name).is_file() for name in form) for form in forms):
        wanted = ", or ".join(" and ".join(form) for form in forms)
        raise UserError(
            f"{folder} has no {wanted}: delete the model's folder and fetch it again, or save the "
            "tokenizer there with transformers' save_pretrained."
        )


def _array(values: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = values.float().cpu().numpy()
    return array
