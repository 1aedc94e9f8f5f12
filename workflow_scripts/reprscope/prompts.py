"""The store of prompt embeddings, and the text that goes with each image."""

from __future__ import annotations

import contextlib
import json
import os
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from reprscope.data.record import listed
from reprscope.errors import UserError
from reprscope.files import atomic
from reprscope.store import reserve


class Prompts:
    """Embeddings of distinct texts, and which text goes with which image.

    Parameters
    ----------
    embeddings : mapping of array, (texts, ...)
        As :meth:`reprscope.models.denoiser.Family.encode_prompts` makes them.
    row : mapping
        Row of the embeddings by ``image_id``.
    """

    def __init__(
        self, embeddings: Mapping[str, NDArray[np.floating[Any]]], row: Mapping[str, int]
    ) -> None:
        self._embeddings = embeddings
        self._row = row

    def of(self, image_ids: Sequence[str]) -> dict[str, NDArray[np.floating[Any]]]:
        """Embeddings (images, ...) of images."""
        rows = [self._row[name] for name in image_ids]
        return {key: values[rows] for key, values in self._embeddings.items()}


def by_image(
    path: str | os.PathLike[str], template: str, rows: Sequence[Mapping[str, Any]]
) -> Prompts:
    """Prompts of a dataset's images.

    Parameters
    ----------
    path
        Store that :func:`write` made.
    template : str
        See :func:`texts`.
    rows : sequence of mapping
        Annotations of the images, ``image_id`` among them.
    """
    stored, embeddings = read(path)
    number = {text: row for row, text in enumerate(stored)}
    names = [str(row["image_id"]) for row in rows]
    return Prompts(
        embeddings,
        {name: number[text] for name, text in zip(names, texts(template, rows), strict=True)},
    )


def texts(template: str, rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Prompt of each image.

    Parameters
    ----------
    template : str
        Such as ``a photo of a {label}``; without braces it is the same for all.
    rows : iterable of mapping
        Annotations of the images, with the columns that the template names.

    Raises
    ------
    UserError
        If an image has none of what the template names.
    """
    named = sorted({field for _, field, _, _ in string.Formatter().parse(template) if field})
    found = []
    lost: dict[str, list[str]] = {}
    for row in rows:
        for field in named:
            if row.get(field) is None:
                lost.setdefault(field, []).append(str(row.get("image_id")))
        found.append(template.format_map(row))
    for field, images in lost.items():
        raise UserError(
            f"The prompt '{template}' names the {field} of each image, but {len(images)} of "
            f"{len(found)} have none ({listed(images, len(images))}): give them one in the "
            "dataset, or use another prompt."
        )
    return found


def write(
    path: str | os.PathLike[str],
    prompts: Sequence[str],
    embeddings: Mapping[str, NDArray[np.floating[Any]]],
    *,
    spec: str,
    provenance: Mapping[str, object],
) -> None:
    """Write embeddings (prompts, ...) of distinct prompts, and what they were made with."""
    with atomic(path) as part, h5py.File(part, "w", libver="latest") as file:
        reserve(file, sum(values.nbytes for values in embeddings.values()))
        file["text"] = np.array(list(prompts), dtype=h5py.string_dtype())
        for key, values in embeddings.items():
            file.create_dataset(f"embeddings/{key}", data=values, fletcher32=True)
        file.attrs["spec"] = spec
        file.attrs["provenance"] = json.dumps(dict(provenance), sort_keys=True)


def origin(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Model, device and precision with which a store of prompts was made."""
    with _opened(path) as file:
        made = json.loads(str(file.attrs["provenance"]))
    return {key: made[key] for key in ("model", "device", "precision")}


def read(path: str | os.PathLike[str]) -> tuple[list[str], dict[str, NDArray[np.floating[Any]]]]:
    """Texts, and their embeddings (texts, ...)."""
    with _opened(path) as file:
        found = {key: table[:] for key, table in file["embeddings"].items()}
        return list(file["text"].asstr()[:]), found


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError) as error:
        raise UserError(f"{path} cannot be read: delete it and run again.") from error
