"""Dataset sources, found by listing the package: a new source is one new file."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any, Protocol, cast

import reprscope.data
from reprscope.data.canonical import Dataset
from reprscope.errors import UserError


class Source(Protocol):
    """What a module of this package offers if it is a source."""

    Parameters: type[Any]
    """Frozen dataclass of the settings that a study may write."""

    def provides(self, parameters: Any) -> frozenset[str]:
        """Annotations beside the images: labels, captions, pairs, keypoints, depth, masks."""

    def build(self, parameters: Any, threads: int) -> Dataset:
        """Make or fetch the dataset."""


def load(name: str) -> Source:
    """Source by name.

    Raises
    ------
    UserError
        If there is none of that name; says which there are.
    """
    names = [info.name for info in pkgutil.iter_modules(reprscope.data.__path__)]
    if name in names:
        module = importlib.import_module(f"reprscope.data.{name}")
        if hasattr(module, "provides"):
            return cast(Source, module)
    known = [
        n for n in names if hasattr(importlib.import_module(f"reprscope.data.{n}"), "provides")
    ]
    raise UserError(f"There is no dataset source {name}: use {' or '.join(known)}.")
