"""The store of prompt embeddings, and the text that goes with each image."""

from __future__ import annotations

import json
import os
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reprscope.data.record import listed
from reprscope.representations.store import read_texts, write_texts
from reprscope.runtime import checksums
from reprscope.runtime.disk import reserve
from reprscope.runtime.errors import UserError


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
    about = {"spec": spec, "provenance": json.dumps(dict(provenance), sort_keys=True)}
    with checksums.new_hdf5(path, **about) as file:
        reserve(file, sum(values.nbytes for values in embeddings.values()))
        write_texts(file, "text", prompts)
        for key, values in embeddings.items():
            file.create_dataset(f"embeddings/{key}", data=values, fletcher32=True)


def origin(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Model, device and precision with which prompts were made, and how many were cut."""
    with checksums.hdf5(path) as file:
        made = json.loads(checksums.about(file, "provenance"))
    return {key: made[key] for key in ("model", "device", "precision", "cut")}


def read(path: str | os.PathLike[str]) -> tuple[list[str], dict[str, NDArray[np.floating[Any]]]]:
    """Texts, and their embeddings (texts, ...)."""
    with checksums.hdf5(path) as file:
        found = {key: table[:] for key, table in file["embeddings"].items()}
        return read_texts(file, "text"), found
