"""The T5 text encoder: prompts to long embeddings. Loaded alone, and released."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from reprscope.errors import UserError
from reprscope.models.text import check_tokenizer

BATCH = 8
"""Texts that are encoded at a time."""

LONG = 2**20
"""Bytes of one text's embedding from which it is stored in float16."""


@torch.inference_mode()
def t5_text(
    folder: Path, texts: Sequence[str], *, number: int, tokens: int, device: torch.device
) -> NDArray[np.float32]:
    """Embeddings of texts by a T5 encoder of a model folder.

    On the CPU it computes in float32; on a GPU in the precision of its weights, since T5-XXL in
    float32 (19 GB) fits few of them.

    Parameters
    ----------
    folder : Path
        Model folder in diffusers' layout, with ``tokenizer_{number}`` and
        ``text_encoder_{number}``.
    texts : sequence of str
    tokens : int
        Length to which texts are padded and cut. As in the diffusers pipelines, padding is
        attended to like text.

    Returns
    -------
    array, (texts, tokens, features), float32

    Raises
    ------
    UserError
        If the encoder or its tokenizer cannot be loaded.
    """
    from transformers import T5EncoderModel, T5TokenizerFast

    vocabulary = folder / f"tokenizer_{number}"
    # Not spiece.model, which needs the package sentencepiece; released models have both.
    check_tokenizer(vocabulary, ("tokenizer.json",))
    dtype: Any = torch.float32 if device.type == "cpu" else "auto"
    try:
        tokenizer = T5TokenizerFast.from_pretrained(vocabulary)
        encoder = T5EncoderModel.from_pretrained(folder / f"text_encoder_{number}", dtype=dtype)
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(
            f"The T5 text encoder in {folder} cannot be loaded ({error}): delete the folder and "
            "fetch it again."
        ) from error
    encoder = encoder.to(device).eval()
    found = []
    for start in range(0, len(texts), BATCH):
        batch = tokenizer(
            list(texts[start : start + BATCH]),
            padding="max_length",
            max_length=tokens,
            truncation=True,
            return_tensors="pt",
        )
        found.append(encoder(batch.input_ids.to(device))[0].float().cpu().numpy())
    return np.concatenate(found)


def compact(embedding: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
    """An embedding (texts, tokens, features) as it is stored: in float16 if it is long.

    4 MB instead of 8 for each text of FLUX. It stays in float32 where float16 would overflow.
    """
    short = embedding[0].nbytes < LONG
    if short or np.abs(embedding).max() > np.finfo(np.float16).max:
        return embedding
    return embedding.astype(np.float16)
