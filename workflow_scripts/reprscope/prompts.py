"""The store of prompt embeddings, and the text that goes with each image."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from reprscope.errors import UserError
from reprscope.files import atomic
from reprscope.store import reserve


def by_image(
    path: str | os.PathLike[str], template: str, rows: Sequence[Mapping[str, Any]]
) -> dict[str, NDArray[np.float32]]:
    """Prompt embedding (tokens, features) of every image.

    Parameters
    ----------
    path
        Store that :func:`write` made.
    template : str
        See :func:`texts`.
    rows : sequence of mapping
        Annotations of the images, ``image_id`` among them.
    """
    embeddings = read(path)
    names = [str(row["image_id"]) for row in rows]
    return {name: embeddings[text] for name, text in zip(names, texts(template, rows), strict=True)}


def texts(template: str, rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Prompt of each image.

    Parameters
    ----------
    template : str
        Such as ``a photo of a {label}``; without braces it is the same for all.
    rows : iterable of mapping
        Annotations of the images, with the columns that the template names.
    """
    return [template.format_map(row) for row in rows]


def write(
    path: str | os.PathLike[str],
    prompts: Sequence[str],
    embeddings: NDArray[np.float32],
    *,
    spec: str,
) -> None:
    """Write embeddings (prompts, tokens, features) of distinct prompts."""
    with atomic(path) as part, h5py.File(part, "w", libver="latest") as file:
        reserve(file, embeddings.nbytes)
        file["text"] = np.array(list(prompts), dtype=h5py.string_dtype())
        file.create_dataset("embedding", data=embeddings, fletcher32=True)
        file.attrs["spec"] = spec


def read(path: str | os.PathLike[str]) -> dict[str, NDArray[np.float32]]:
    """Embedding (tokens, features) of each prompt."""
    try:
        with h5py.File(path, "r") as file:
            return dict(zip(file["text"].asstr()[:], file["embedding"][:], strict=True))
    except OSError as error:
        raise UserError(f"{path} cannot be read: delete it and run again.") from error
