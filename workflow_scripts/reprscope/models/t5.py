"""The T5 text encoder: prompts to long embeddings. Loaded alone, and released."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reprscope.models import configs
from reprscope.models.parts import load_part, load_tokenizer
from reprscope.models.text import Reader

BATCH = 8
"""Texts that are encoded at a time."""

LONG = 2**20
"""Bytes of one text's embedding from which it is stored in float16."""


@torch.inference_mode()
def t5_text(
    folder: Path, texts: Sequence[str], *, number: int, tokens: int, device: torch.device
) -> NDArray[np.floating[Any]]:
    """Embeddings of texts by a T5 encoder of a model folder.

    See :func:`t5_precision` for the type in which it computes.

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
    array, (texts, tokens, features)
        See :func:`compact` for its type.

    Raises
    ------
    UserError
        If the encoder or its tokenizer cannot be loaded.
    """
    reader = t5_reader(folder, number=number, tokens=tokens)
    dtype = getattr(torch, t5_precision(folder, number=number, device=device))
    encoder = load_part("T5EncoderModel", folder, f"text_encoder_{number}", dtype=dtype)
    encoder = encoder.to(device).eval()
    found = []
    for start in range(0, len(texts), BATCH):
        batch = reader.read(texts[start : start + BATCH]).to(device)
        found.append(compact(encoder(batch)[0].float().cpu().numpy()))
    return np.concatenate(found)


def t5_reader(folder: Path, *, number: int, tokens: int) -> Reader:
    """What reads texts for a T5 encoder of a model folder, ``tokens`` long.

    Raises
    ------
    UserError
        If the tokenizer cannot be loaded; see :func:`reprscope.models.parts.load_tokenizer`.
    """
    part = folder / f"text_encoder_{number}"
    config = configs.complete(
        "T5EncoderModel", configs.read_file(part / "config.json"), where=str(part)
    )
    tokenizer = load_tokenizer(
        "T5EncoderModel", folder, f"tokenizer_{number}", words=config["vocab_size"]
    )
    return Reader(tokenizer, tokens)


def t5_precision(folder: Path, *, number: int, device: torch.device) -> str:
    """Type in which a T5 encoder of a model folder computes.

    On the CPU float32; on a GPU that which its configuration names for its weights (bfloat16 for
    FLUX, float16 for SD-3), since T5-XXL in float32 (19 GB) fits few of them.
    """
    if device.type == "cpu":
        return "float32"
    path = folder / f"text_encoder_{number}" / "config.json"
    config = configs.read_file(path)
    named = str(config.get("dtype") or config.get("torch_dtype"))
    return named if named in ("float16", "bfloat16") else "float32"


def compact(embedding: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """An embedding (texts, tokens, features) as it is stored: in float16 if it is long.

    4 MB instead of 8 for each text of FLUX. It stays in float32 where float16 would overflow.
    """
    short = embedding.shape[1] * embedding.shape[2] * 4 < LONG
    if short or np.abs(embedding).max() > np.finfo(np.float16).max:
        return embedding
    return embedding.astype(np.float16)
