"""The CLIP text encoders: prompts to embeddings. Loaded one by one, and released."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from reprscope.errors import UserError


@dataclass(frozen=True)
class ClipText:
    """What a CLIP text encoder says of texts; float32.

    Attributes
    ----------
    last : array, (texts, tokens, features)
        Last hidden state, after the final layer norm.
    penultimate : array, (texts, tokens, features)
        Output of the layer before the last, without the final layer norm.
    pooled : array, (texts, features)
        The end token's last hidden state, projected where the encoder has a projection.
    """

    last: NDArray[np.float32]
    penultimate: NDArray[np.float32]
    pooled: NDArray[np.float32]


@torch.inference_mode()
def clip_text(
    folder: Path, texts: Sequence[str], *, device: torch.device, number: int = 1
) -> ClipText:
    """Encode texts by a CLIP text encoder of a model folder, in float32.

    Parameters
    ----------
    folder : Path
        Model folder in diffusers' layout.
    texts : sequence of str
        Padded and cut to the tokenizer's full length, as in the diffusers pipelines.
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
    batch = tokenizer(
        list(texts),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    found = encoder(batch.input_ids.to(device), output_hidden_states=True)
    return ClipText(
        last=_array(found.last_hidden_state),
        penultimate=_array(found.hidden_states[-2]),
        pooled=_array(found.text_embeds if projects else found.pooler_output),
    )


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
