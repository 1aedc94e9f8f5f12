"""Dataset sources, found by listing the package: a new source is one new file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, cast

from reprscope.base.plugins import Plugins
from reprscope.data.canonical import Dataset

#: What a fetch needs, in MB and minutes, unless the source has ``RESOURCES`` of its own.
RESOURCES = {"mem_mb": 4000, "disk_mb": 2000, "runtime": 60}


class Source(Protocol):
    """What a module of this package offers.

    Two more are optional: ``RESOURCES``, what a fetch needs (see the constant of this module), and
    ``files(parameters)``, local files that the dataset is made from.
    """

    Parameters: type[Any]
    """Frozen dataclass of the settings that a study may write.

    A property ``total`` says how many images there will be, where that is known beforehand.
    """

    def provides(self, parameters: Any) -> frozenset[str]:
        """Annotations beside the images: labels, captions, pairs, keypoints, depth, masks."""

    def build(self, parameters: Any, threads: int) -> Dataset:
        """Make or fetch the dataset."""


KINDS: Final = Plugins[Source]("dataset source", "reprscope.data.sources")
available = KINDS.names
load = KINDS.get


def files(source: Source, parameters: Any) -> Sequence[str]:
    """Local files that a dataset is made from; when one changes, the dataset is made anew."""
    if not hasattr(source, "files"):
        return []
    return cast(Sequence[str], source.files(parameters))


def shards(parameters: Any, images: int | None) -> int:
    """Number of shards of at most ``images`` images; one if the number of images is not known."""
    total: int | None = getattr(parameters, "total", None)
    return 1 if total is None or images is None else max(-(-total // images), 1)


def resources(source: Source) -> Mapping[str, int]:
    """Memory (``mem_mb``), disk (``disk_mb``) and minutes (``runtime``) that a fetch needs."""
    return cast(Mapping[str, int], getattr(source, "RESOURCES", RESOURCES))
