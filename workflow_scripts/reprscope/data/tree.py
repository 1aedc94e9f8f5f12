"""Files of a folder, links followed, and what of them is left out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from reprscope.data.pictures import SUFFIXES
from reprscope.runtime.errors import UserError

#: Tables beside images, as Hugging Face's imagefolder names them.
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")

#: Files that desktops leave in folders; names that begin with a dot are hidden as well.
_SYSTEM = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini"})


@dataclass
class Tree:
    """What is in a folder.

    Attributes
    ----------
    images, metadata : list of str
        Paths in the folder, with ``/``, sorted.
    hidden, others, broken, loops, again : list of str
        Left out: hidden files and folders and those of desktops; files without a picture's suffix;
        links to nothing; links to a folder that they are in.  ``again`` are folders that a link
        gives a second name; they are read.
    """

    images: list[str] = field(default_factory=list)
    metadata: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    loops: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)


def walk(folder: Path) -> Tree:
    """List a folder and all folders in it.

    Raises
    ------
    UserError
        If there is no such folder, or one in it cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}: set `path` to a folder with images.")
    tree = Tree()
    top = os.path.realpath(folder)
    _walk(str(folder), "", (top,), {top}, tree)
    for names in vars(tree).values():
        names.sort()
    return tree


def _walk(folder: str, inside: str, above: tuple[str, ...], seen: set[str], tree: Tree) -> None:
    for entry in _entries(folder):
        name = f"{inside}{entry.name}"
        kind = _kind(entry)
        if _is_hidden(entry.name):
            tree.hidden.append(name)
        elif kind == "folder":
            real = os.path.realpath(entry.path)
            if real in above:
                tree.loops.append(name)
                continue
            if real in seen:
                tree.again.append(name)
            seen.add(real)
            _walk(entry.path, f"{name}/", (*above, real), seen, tree)
        elif kind == "broken":
            tree.broken.append(name)
        elif kind == "other":
            tree.others.append(name)
        elif entry.name in METADATA:
            tree.metadata.append(name)
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:  # noqa: PTH122 - many names
            tree.images.append(name)
        else:
            tree.others.append(name)


def _kind(entry: os.DirEntry[str]) -> Literal["folder", "file", "broken", "other"]:
    """What an entry is, at the end of its links."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        return "broken" if entry.is_symlink() else "other"
    except OSError:  # links that lead to each other
        return "broken"


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(
            f"The folder {folder} cannot be read ({error.strerror}): change its permissions or "
            "move it away."
        ) from error


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__")) or name.lower() in _SYSTEM
