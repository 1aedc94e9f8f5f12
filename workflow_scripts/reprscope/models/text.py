"""The text encoder: prompts to embeddings. Loaded once per prompt set, then released."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from reprscope.errors import UserError


@torch.inference_mode()
def encode_clip(folder: Path, texts: Sequence[str], *, device: torch.device) -> NDArray[np.float32]:
    """Embeddings of texts by the CLIP text encoder of a model folder.

    Parameters
    ----------
    folder : Path
        Model folder in diffusers' layout, with ``tokenizer`` and ``text_encoder``.
    texts : sequence of str

    Returns
    -------
    array, (texts, tokens, features), float32
        Last hidden state, padded to the tokenizer's full length as in the diffusers pipeline.
    """
    from transformers import CLIPTextModel, CLIPTokenizer

    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    except (OSError, ValueError) as error:
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
    hidden = encoder(batch.input_ids.to(device)).last_hidden_state
    array: NDArray[np.float32] = hidden.float().cpu().numpy()
    return array
