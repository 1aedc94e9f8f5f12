"""Splits and classes that the folders of images say, as Hugging Face's imagefolder reads them.

A folder named for a split (``train``, ``val``, ``dev``, ``test``, …, in any case) is one if all
images are in such folders on the same level; so is a name that holds such a word apart from others
(``train_images``, ``my-test``). The folder next to an image is its class, if there are at least
two. Where imagefolder would drop images or labels without a word, this is an error.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from reprscope.data.record import printable
from reprscope.runtime.errors import UserError

#: Words that name a split.
WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SPLITS = {word: split for split, words in WORDS.items() for word in words}

#: What stands between words in a name.
_BETWEEN = re.compile(r"[-._ 0-9]+")

Reading = Literal["auto", "classes", "ignore"]


@dataclass(frozen=True)
class Place:
    """What the folders of an image say of it.

    Attributes
    ----------
    split, label : str or None
    folder : str or None
        Name of the folder that says the split.
    """

    split: str | None = None
    label: str | None = None
    folder: str | None = None


def split_word(name: str) -> str | None:
    """Split that a name is a word for, in any case: ``validation`` of ``Val``; None of others."""
    return _SPLITS.get(name.strip().lower())


def places(
    names: Sequence[str], reading: Reading = "auto", *, splits: bool = True, labels: bool = True
) -> list[Place]:
    """Split and class of each image.

    Parameters
    ----------
    names : sequence of str
        Paths of images in the folder, with ``/``.
    reading : {"auto", "classes", "ignore"}
        As the module says; every folder is a class, one alone as well; folders say nothing.
    splits, labels : bool
        Whether folders must say them: where a table says them for all images, folders that can be
        read in two ways are no error.

    Raises
    ------
    UserError
        If folders can be read in two ways.
    """
    parents = [tuple(name.split("/")[:-1]) for name in names]
    if reading == "ignore" or not names:
        return [Place() for _ in names]
    if reading == "classes":
        return [Place(label=_class(folders)) for folders in parents]
    level, word = _split_level(names, parents, strict=splits)
    found: list[tuple[str | None, str | None]] = [(None, None)] * len(names)
    if level is not None:
        found = [(word(folders[level]), folders[level]) for folders in parents]
        parents = [folders[:level] + folders[level + 1 :] for folders in parents]
    if labels:
        _check_depths(names, parents, [split for split, _ in found])
    said = [_class(folders) for folders in parents]
    several = len({label for label in said if label is not None}) > 1
    return [
        Place(split=split, folder=folder, label=label if several else None)
        for (split, folder), label in zip(found, said, strict=True)
    ]


def _class(folders: tuple[str, ...]) -> str | None:
    # Two ways to write the same letters are one class.
    return unicodedata.normalize("NFC", folders[-1]) if folders else None


def loose_word(name: str) -> str | None:
    """Split that one of the words in a name is for."""
    words = (split_word(part) for part in _BETWEEN.split(name))
    return next((split for split in words if split), None)


def _split_level(
    names: Sequence[str], parents: Sequence[tuple[str, ...]], *, strict: bool
) -> tuple[int | None, Callable[[str], str | None]]:
    """Level of the folders that are splits, and how to read them; the outermost one."""
    shared = min(map(len, parents))
    for word in (split_word, loose_word):
        for level in range(shared):
            if all(word(folders[level]) for folders in parents):
                return level, word
        looks = [any(map(word, folders)) for folders in parents]
        if any(looks) and strict:
            inside = parents[looks.index(True)]
            folder = next(name for name in inside if word(name))
            if not all(looks):
                other = printable(names[looks.index(False)])
                beside = f"{other} is not in such a folder"
            else:
                beside = "not all such folders are on one level"
            raise UserError(
                f"The folder {printable(folder)} looks like a split, but {beside}: put all images "
                "into folders such as train and test, rename it, or set `folders: classes` if all "
                "folders are classes."
            )
    return None, split_word


def _check_depths(
    names: Sequence[str], parents: Sequence[tuple[str, ...]], splits: Sequence[str | None]
) -> None:
    """Check that images of one split are all in as many folders."""
    first: dict[str | None, int] = {}
    for number, split in enumerate(splits):
        example = first.setdefault(split, number)
        if len(parents[example]) != len(parents[number]):
            raise UserError(
                f"{printable(names[example])} and {printable(names[number])} are in folders of "
                "different depth, so that folders cannot be told to be classes: put each image "
                "into the folder of its class, or set `folders: classes` (the folder next to an "
                "image is its class) or `folders: ignore` (they say nothing)."
            )
