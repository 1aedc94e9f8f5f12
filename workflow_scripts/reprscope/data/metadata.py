"""Tables beside images: ``metadata.csv``, ``metadata.jsonl`` or ``metadata.parquet``.

Each has ``file_name``, a path in the table's own folder, and any of ``label``, ``caption`` (or
``text``) and ``split``. A blank cell, null, NaN and, for labels, -1 say that there is none.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from reprscope.data.canonical import SPLITS
from reprscope.data.layout import WORDS, split_word
from reprscope.data.record import listed, printable
from reprscope.data.texts import label_text, text_or_none
from reprscope.runtime.errors import UserError

COLUMNS = ("file_name", "label", "caption", "text", "split")


@dataclass
class Metadata:
    """What tables say of images.

    Attributes
    ----------
    rows : dict
        From an image's path to its ``label``, ``caption`` and ``split``, each a text or None.
    says : set of str
        Which of these have a column in any table.
    unread : list of str
        Columns that are not read.
    """

    rows: dict[str, dict[str, str | None]] = field(default_factory=dict)
    says: set[str] = field(default_factory=set)
    unread: list[str] = field(default_factory=list)


def read(folder: Path, tables: Sequence[str], images: Sequence[str]) -> Metadata:
    """Read all tables of a folder.

    Parameters
    ----------
    folder : Path
    tables, images : sequence of str
        Their paths in the folder, with ``/``.

    Raises
    ------
    UserError
        If a table cannot be read, or names an image that is not there, outside the folder, or
        twice.
    """
    found = Metadata()
    # Texts may write the same letters in another way than the file system does.
    known = {unicodedata.normalize("NFC", name): name for name in images} | {n: n for n in images}
    inside = {posixpath.dirname(table) for table in tables}
    for place in sorted(inside):
        here = [table for table in tables if posixpath.dirname(table) == place]
        if len(here) > 1:
            raise UserError(f"{folder} has {' and '.join(here)}: keep one of them.")
        _read_one(folder / here[0], place, known, found)
    return found


def _read_one(path: Path, place: str, known: Mapping[str, str], found: Metadata) -> None:
    columns, rows = _rows(path)
    if "file_name" not in columns:
        raise UserError(
            f"{path} has no column file_name, only {listed(columns, len(columns))}: use "
            f"{', '.join(COLUMNS)}, with commas between them."
        )
    caption = "caption" if "caption" in columns else "text"
    read = {"label": "label", "caption": caption, "split": "split"}
    found.says |= {ours for ours, theirs in read.items() if theirs in columns}
    used = {"file_name", *read.values()}
    found.unread += [name for name in columns if name not in used and name not in found.unread]
    for number, row in rows:
        where = f"{path}, row {number}"
        name = _image(row.get("file_name"), place, known, where)
        if name in found.rows:
            raise UserError(f"{where} names {printable(name)} a second time: keep one row.")
        values = {ours: _value(row.get(theirs), theirs, where) for ours, theirs in read.items()}
        split = values["split"] and split_word(values["split"])
        if values["split"] and split is None:
            words = ", ".join(word for words in WORDS.values() for word in words)
            raise UserError(
                f"{where}: the split of {printable(name)} is {values['split']}: use "
                f"{', '.join(SPLITS)} (or one of {words})."
            )
        found.rows[name] = values | {"split": split}


def _image(value: Any, place: str, known: Mapping[str, str], where: str) -> str:
    """Image that a cell of ``file_name`` names."""
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where} has no file_name: write the image's path in this folder.")
    shown = printable(value)
    for name in (value, value.strip(), value.strip().replace("\\", "/")):
        normal = posixpath.normpath(name)
        if "://" in name or posixpath.isabs(name) or normal.split("/")[0] == "..":
            raise UserError(
                f"{where} names {shown}, which is outside the table's folder and is not read: "
                "write a path in this folder."
            )
        path = posixpath.join(place, normal)
        for spelling in (path, unicodedata.normalize("NFC", path)):
            if spelling in known:
                return known[spelling]
    raise UserError(f"{where} names {shown}, which is not in the folder: correct the row.")


def _value(value: Any, column: str, where: str) -> str | None:
    if value is not None and not isinstance(value, str | int | float):
        raise UserError(f"{where}: {column} is {type(value).__name__}, not a text or a number.")
    if isinstance(value, str) and column != "caption" and column != "text":
        value = value.strip()
    return label_text(value) if column == "label" else text_or_none(value)


def _rows(path: Path) -> tuple[list[str], Iterable[tuple[int, Mapping[str, Any]]]]:
    """Columns of a table, and its rows with the numbers that an editor shows."""
    readers = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
    try:
        return readers[path.suffix](path)
    except (OSError, UnicodeDecodeError, csv.Error, pl.exceptions.PolarsError) as error:
        text = " ".join(str(error).split())
        kind = "in UTF-8" if path.suffix != ".parquet" else "again"
        raise UserError(f"{path} cannot be read ({text}): save it {kind}.") from error


def _csv(path: Path) -> tuple[list[str], list[tuple[int, Mapping[str, Any]]]]:
    reader = csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""), strict=True)
    columns: list[str] = []
    rows: list[tuple[int, Mapping[str, Any]]] = []
    for cells in reader:
        if not columns:
            columns = [cell.strip() for cell in cells]
            continue
        if not cells:
            continue
        if len(cells) > len(columns):
            raise UserError(
                f"{path}, row {reader.line_num} has {len(cells)} fields for {len(columns)} "
                'columns: put texts with commas between "quotes".'
            )
        rows.append((reader.line_num, dict(zip(columns, cells, strict=False))))
    _check_columns(path, columns)
    return columns, rows


def _jsonl(path: Path) -> tuple[list[str], list[tuple[int, Mapping[str, Any]]]]:
    columns: dict[str, None] = {}
    rows: list[tuple[int, Mapping[str, Any]]] = []
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, row {number} is no JSON ({error}): correct it.") from error
        if not isinstance(row, dict):
            raise UserError(f'{path}, row {number} is not of the form {{"file_name": …}}.')
        columns |= dict.fromkeys(row)
        rows.append((number, row))
    return list(columns), rows


def _parquet(path: Path) -> tuple[list[str], list[tuple[int, Mapping[str, Any]]]]:
    frame = pl.read_parquet(path, glob=False)
    wanted = [name for name in frame.columns if name in COLUMNS]
    return frame.columns, list(enumerate(frame.select(wanted).iter_rows(named=True), start=1))


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    doubled = [name for name in COLUMNS if columns.count(name) > 1]
    if doubled:
        raise UserError(f"{path} has the column {doubled[0]} twice: keep one.")
