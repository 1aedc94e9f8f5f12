"""Datasets of the Hugging Face hub as rows of image bytes, labels and captions.

Only data is read, never a program: a repository with a loading script is refused. The hub's
address is the package's own setting, ``HF_ENDPOINT``.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import itertools
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reprscope.base.seeds import item_seed
from reprscope.data.record import printable
from reprscope.data.texts import label_text, text_or_none
from reprscope.runtime.errors import UserError

logger = logging.getLogger(__name__)

#: Kinds of files that are read; ``cache`` is what the package keeps of them on this machine.
KINDS = ("arrow", "cache", "imagefolder", "parquet", "webdataset")

#: Canonical columns that a mapping may name.
COLUMNS = ("image", "label", "caption")


def check_name(dataset: str) -> None:
    """Check that a text can name a dataset of the hub.

    Raises
    ------
    UserError
        If it is not ``owner/name``.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", dataset):
        raise UserError(f"dataset is {dataset}: write owner/name, as in the hub's address.")


@dataclass(frozen=True)
class Example:
    """One row.

    Attributes
    ----------
    row : int
        Its number in the split, from 0.
    value
        The label as it is stored.
    label, caption : str or None
        A class label has its name, another label its text.
    """

    row: int
    value: Any
    label: str | None
    caption: str | None
    _stored: Any
    _source: HubDataset

    def image(self) -> bytes:
        """Encoded bytes of the image."""
        packed = self._stored if isinstance(self._stored, Mapping) else {"bytes": self._stored}
        stored, path = packed.get("bytes"), packed.get("path")
        if not stored and path and self._source.owns(path):
            from datasets.utils.file_utils import xopen

            with xopen(path, "rb") as file:
                stored = bytes(file.read())
        if not stored and path:
            raise UserError(
                f"Row {self.row} of dataset {self._source.name} holds no image but names "
                f"{printable(path)}, which is no file of the dataset and is not read: use another "
                "`revision` or dataset."
            )
        if not stored or not isinstance(stored, bytes):
            raise UserError(
                f"Row {self.row} of dataset {self._source.name} has no image: use another "
                "`revision` or dataset."
            )
        return stored


class HubDataset:
    """A dataset of the hub.

    Parameters
    ----------
    dataset : str
        Its name, ``owner/name``.
    config, revision : str or None
        Configuration, and commit, tag or branch; the dataset's own defaults if None.

    Raises
    ------
    UserError
        If it is not there, is gated, needs a program to be loaded, or holds another kind of data.
    """

    def __init__(self, dataset: str, config: str | None = None, revision: str | None = None):
        from datasets import load_dataset_builder

        self.name = dataset
        with _plain(dataset):
            self._builder = load_dataset_builder(dataset, config, revision=revision)
        kind = next(
            base.__module__.split(".")[2]
            for base in type(self._builder).__mro__
            if base.__module__.startswith("datasets.packaged_modules.")
        )
        if kind not in KINDS:
            raise UserError(
                f"Dataset {dataset} holds {kind} files: use one in Parquet, Arrow, image or "
                "WebDataset files."
            )
        self._kind = kind
        logger.info("%s", self.version)

    @property
    def version(self) -> str:
        """Name of the dataset and its version, the commit on the hub, in words."""
        return f"dataset {self.name} of the hub, version {self._builder.hash}"

    def count(self, split: str) -> int:
        """Number of rows of a split; downloads the dataset."""
        return len(self._prepared(split))

    def examples(
        self,
        split: str,
        columns: Mapping[str, str],
        *,
        rows: Sequence[int] | None = None,
        streaming: bool = False,
    ) -> Iterator[Example]:
        """Rows of a split in its own order.

        Parameters
        ----------
        split : str
            The dataset's own name of it.
        columns : mapping
            From ``image``, ``label`` and ``caption`` to the dataset's columns.
        rows : sequence of int, optional
            Which rows; all by default.  Not with ``streaming``.
        streaming : bool
            Read while downloading, and no more than is asked for; nothing is kept for the next
            time.  Otherwise the whole dataset is downloaded into the package's cache.

        Raises
        ------
        UserError
            If the split or a column is not there, or the hub cannot be reached.
        """
        from datasets import ClassLabel, Image, Value

        with _plain(self.name):
            self.check_split(split)
            if streaming:
                if hasattr(self._builder.config, "decode_num_threads"):
                    # Or the package would decode images of a folder before they are asked for.
                    self._builder.config.decode_num_threads = 0
                table = self._builder.as_streaming_dataset(split=split)._resolve_features()
            else:
                table = self._prepared(split)
            features = table.features
            for column in columns.values():
                if column not in features:
                    raise UserError(
                        f"Dataset {self.name} has no column {column}: use "
                        f"{' or '.join(features)} in `columns`."
                    )
            picture = features[columns["image"]]
            packed = isinstance(picture, Mapping) and "bytes" in picture
            if not (
                isinstance(picture, Image)
                or packed
                or picture in (Value("binary"), Value("large_binary"))
            ):
                raise UserError(
                    f"Column {columns['image']} of dataset {self.name} holds no images, but "
                    f"{picture}: set `columns.image` to one that does."
                )
            table = table.select_columns(list(dict.fromkeys(columns.values())))
            if isinstance(picture, Image):
                table = table.cast_column(columns["image"], Image(decode=False))
            if rows is not None:
                table = table.select(rows)
            kind = features[columns["label"]] if "label" in columns else None
            names = kind.names if isinstance(kind, ClassLabel) else None
            for row, entry in zip(rows or itertools.count(), table, strict=False):
                value = entry[columns["label"]] if "label" in columns else None
                caption = entry[columns["caption"]] if "caption" in columns else None
                yield Example(
                    row=row,
                    value=value,
                    label=_text(value, names, column="label", row=f"Row {row} of {self.name}"),
                    caption=_text(caption, None, column="caption", row=f"Row {row} of {self.name}"),
                    _stored=entry[columns["image"]],
                    _source=self,
                )

    def owns(self, path: str) -> bool:
        """Whether a row's path is that of a file of this dataset, where rows are files at all.

        Of a folder of images the package itself makes the paths.  Rows of tables hold their images:
        a path in them may name any file of this machine.
        """
        from huggingface_hub import constants

        if self._kind not in ("cache", "imagefolder"):
            return False
        # A file of an archive has the address zip://name::archive.
        place = path.rpartition("::")[2]
        if place.startswith(f"hf://datasets/{self.name}@"):
            return ".." not in place.split("/")
        folder = Path(constants.HF_HUB_CACHE, f"datasets--{self.name.replace('/', '--')}")
        return "://" not in place and Path(place).resolve().is_relative_to(folder.resolve())

    def check_split(self, split: str) -> None:
        """Check that there is a split of this name, without downloading it.

        Raises
        ------
        UserError
            If there is none; says which there are.
        """
        files, info = self._builder.config.data_files, self._builder.info.splits
        known = [str(name) for name in files or info or ()]
        if known and split not in known:
            raise UserError(f"Dataset {self.name} has no split {split}: use {' or '.join(known)}.")

    def _prepared(self, split: str) -> Any:
        with _plain(self.name):
            self.check_split(split)
            if not Path(self._builder.cache_dir).is_dir():
                self._download()
            self._builder.download_and_prepare()
            return self._builder.as_dataset(split=split)

    def _download(self) -> None:
        """Fetch the data files and compare them with the hub's checksums, which the package omits.

        Raises
        ------
        UserError
            If a file arrived damaged; it is deleted.
        """
        from huggingface_hub import hf_hub_download

        for url in itertools.chain.from_iterable(self._builder.config.data_files.values()):
            place = re.fullmatch(r"hf://datasets/([^@]+)@([^/]+)/(.+)", url)
            if place is None:
                continue
            repository, revision, name = place.groups()
            path = hf_hub_download(repository, name, repo_type="dataset", revision=revision)
            # In the hub's cache a large file is a link to one whose name is its SHA-256.
            blob = Path(path).resolve()
            if re.fullmatch(r"[0-9a-f]{64}", blob.name):
                with blob.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                if digest != blob.name:
                    Path(path).unlink()
                    blob.unlink()
                    raise UserError(
                        f"File {name} of dataset {self.name} arrived damaged and was deleted: run "
                        "again to fetch it anew."
                    )


def sample(total: int, count: int | None, seed: int) -> list[int]:
    """Numbers of ``count`` of ``total`` rows, sorted; all if there are no more or count is None.

    Each row is drawn by its own number, so that a larger sample contains the smaller ones.
    """
    if count is None or count >= total:
        return list(range(total))
    return sorted(heapq.nsmallest(count, range(total), lambda row: item_seed(seed, "sample", row)))


def _text(value: Any, names: Sequence[str] | None, *, column: str, row: str) -> str | None:
    """Label or caption of a row as text; None where there is none."""
    if names is not None and value is not None:
        if not -1 <= value < len(names):
            raise UserError(
                f"{row} has the {column} {value}, but there are {len(names)} names of classes: use "
                "another `revision` or dataset."
            )
        return names[value] if value >= 0 else None
    if value is None or isinstance(value, str | int | float):
        return label_text(value) if column == "label" else text_or_none(value)
    raise UserError(
        f"{row} has a {column} of type {type(value).__name__}, which is no text or number: set "
        f"`columns.{column}` to a column with one for each image."
    )


@contextlib.contextmanager
def _plain(dataset: str) -> Iterator[None]:
    """Turn what the package raises into one sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"Dataset {dataset} {_reason(dataset, error)}") from error


def _reason(dataset: str, error: Exception) -> str:
    from datasets.exceptions import DataFilesNotFoundError, DatasetNotFoundError

    while type(error).__name__ == "DatasetGenerationError" and isinstance(
        error.__cause__, Exception
    ):
        error = error.__cause__  # the package says no more than that there was one
    text = " ".join(str(error).split())
    named = re.match(r"Invalid metadata file_name '(.*?)':", text)
    if named:
        return (
            f"names {printable(named[1])} in its metadata, which is no file of the dataset and is "
            "not read: use another `revision` or dataset."
        )
    if "scripts are no longer supported" in text:
        return (
            "is a program that loads data, which is never run: use a copy in Parquet; the hub "
            "often has one under `revision: refs/convert/parquet`."
        )
    if "gated" in text.lower() or "GatedRepo" in type(error).__name__:
        return (
            f"is gated: open https://huggingface.co/datasets/{dataset}, accept its terms, then "
            "log in with `hf auth login` or set HF_TOKEN, and run again."
        )
    if isinstance(error, DatasetNotFoundError):
        if "Revision" in text:
            return "has no such revision: correct `revision`, or leave it out."
        return (
            "is not on the hub, or is private: correct `dataset`, or log in with `hf auth login`."
        )
    if isinstance(error, DataFilesNotFoundError) or "EmptyDataset" in type(error).__name__:
        return "has no data files that can be read: use one in Parquet, Arrow or image files."
    if "onfig" in text and "vailable" in text:
        return f"cannot be opened: set `config` ({text})."
    return (
        f"cannot be read ({type(error).__name__}: {text}): check the connection to the hub and "
        "run again."
    )
