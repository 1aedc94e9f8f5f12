"""Settings of a study's entries as typed dataclasses, with errors that a user understands."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from reprscope.runtime.errors import UserError, perhaps

Settings = TypeVar("Settings")

LARGEST: Final = 10**12
"""Of floats, in magnitude."""

MOST: Final = 10**7
"""Of whole numbers that have no limit of their own: of images, tokens, pairs and steps."""

_SIDES: Final = (1, 8192)
_FEW: Final = (-1024, 1024)
LIMITS: Final[Mapping[str, tuple[int, int]]] = {
    "seed": (0, 2**32 - 1),
    "seeds": (0, 2**32 - 1),
    "size": _SIDES,
    "cutout": _SIDES,
    "bins": _FEW,
    "cells": _FEW,
    "clusters": _FEW,
    "grid": _FEW,
    "grids": _FEW,
    "kinds": _FEW,
    "pool": _FEW,
    "references": _FEW,
    "subdivide": _FEW,
    "window": _FEW,
}
"""Least and largest whole number that makes sense, by name; who needs less says so itself.

A field for which a name means something else says ``field(metadata={"limits": (least, most)})``.
"""

_UNREADABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
LONGEST: Final = 4096
"""Letters of a text; also the longest path."""


def build(kind: type[Settings], values: Mapping[str, Any], *, entry: str) -> Settings:
    """Make a settings dataclass from what a study writes.

    Lists become tuples and whole numbers become floats where the field asks for it. Numbers beyond
    all sense (:data:`LIMITS`) and texts that hide something are refused, whatever the field.

    Parameters
    ----------
    kind : dataclass type
    values : mapping
        Field names to values.
    entry : str
        How to name the entry in an error, such as ``tasks.probe``.

    Raises
    ------
    UserError
        For an unknown or missing key or a value of the wrong type; names the entry and what
        would be right. Checks in the dataclass' ``__post_init__`` are passed on likewise.
    """
    hints = get_type_hints(kind)
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise UserError(
                f"{entry} has an unknown key {key}: use {', '.join(known)}{perhaps(key, known)}."
            )
    arguments = {}
    for name, field in known.items():
        if name in values:
            arguments[name] = _convert(values[name], hints[name], entry=f"{entry}.{name}")
            if arguments[name] == "" and field.default in (MISSING, None):
                raise UserError(f"{entry}.{name} is empty: write a text, or leave it out.")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise UserError(f"{entry} lacks the key {name}: add it.")
    try:
        settings = kind(**arguments)
    except UserError as error:
        raise UserError(f"{entry}: {error}") from error
    for name, value in arguments.items():
        own = known[name].metadata.get("limits")
        limits = LIMITS if own is None else {**LIMITS, name: own}
        _check_sense(value, name, limits, entry=f"{entry}.{name}")
    return settings


def check_whole(settings: Any, *names: str, least: int = 1) -> None:
    """Check that fields of a settings dataclass are whole numbers of at least ``least``.

    Raises
    ------
    UserError
        If one is not; names it.
    """
    for name in names:
        value = getattr(settings, name)
        if not isinstance(value, int) or value < least:
            raise UserError(f"{name} is {value!r}; write a whole number from {least}.")


def _check_sense(
    value: Any, name: str, limits: Mapping[str, tuple[int, int]], *, entry: str
) -> None:
    """Check what no setting may be, whatever it is for."""
    match value:
        case Mapping():
            for key, item in value.items():
                _check_sense(key, name, limits, entry=entry)
                _check_sense(item, str(key), limits, entry=f"{entry}.{key}")
        case list() | tuple():
            for item in value:
                _check_sense(item, name, limits, entry=entry)
        case str():
            # Folded titles end in a line break.
            text = value.rstrip("\n") if "title" in name else value
            if _UNREADABLE.search(text) or text != text.strip() or len(text) > LONGEST:
                raise UserError(
                    f"{entry} is {_shown(value)}: write at most {LONGEST} letters in one line, "
                    "without blanks around them."
                )
        case bool():
            pass
        case int():
            least, most = limits.get(name, (-MOST, MOST))
            if not least <= value <= most:
                raise UserError(f"{entry} is {value}: use a whole number from {least} to {most}.")
        case float() if not abs(value) <= LARGEST:
            raise UserError(f"{entry} is {value}: use a number from {-LARGEST} to {LARGEST}.")


def _shown(value: object) -> str:
    text = str(value) if str(value).isprintable() and value != "" else repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _convert(value: Any, hint: Any, *, entry: str) -> Any:
    origin, choices = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in choices:
            return None
        failures = []
        for choice in choices:
            if choice is not type(None):
                try:
                    return _convert(value, choice, entry=entry)
                except UserError as error:
                    failures.append(error)
        raise failures[0]
    if origin is Literal:
        if value in choices:
            return value
        said = " or ".join(map(str, choices))
        raise UserError(f"{entry} is {_shown(value)}: use {said}{perhaps(value, choices)}.")
    if origin in (tuple, Sequence):
        if not isinstance(value, list | tuple):
            raise UserError(f"{entry} is {_shown(value)}: use a list.")
        if origin is Sequence or choices[1:] == (Ellipsis,):
            return tuple(_convert(item, choices[0], entry=entry) for item in value)
        if len(value) != len(choices):
            raise UserError(f"{entry} is {_shown(value)}: use a list of {len(choices)} values.")
        return tuple(
            _convert(item, choice, entry=entry) for item, choice in zip(value, choices, strict=True)
        )
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise UserError(f"{entry} is {_shown(value)}: use a mapping.")
        return {
            key: _convert(item, choices[1], entry=f"{entry}.{key}") for key, item in value.items()
        }
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float, str, bool):
        if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
            return value
        names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
        raise UserError(f"{entry} is {_shown(value)}: use {names[hint]}.")
    raise TypeError(f"{entry}: settings of type {hint} are not supported")
