"""Checking a study against ``schemas/study.schema.json``, in sentences."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.exceptions import best_match

from reprscope.errors import UserError

SCHEMA = Path(__file__).parents[2] / "schemas" / "study.schema.json"


@cache
def _validator() -> Draft202012Validator:
    return Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))


def check_schema(config: Mapping[str, Any]) -> None:
    """Check what a study says against the schema.

    Raises
    ------
    UserError
        For the most relevant mistake: names the entry and what would be right.
    """
    error = best_match(_validator().iter_errors(config))
    if error is not None:
        raise UserError(_sentence(error, _entry(error, config)))


def _sentence(error: ValidationError, entry: str) -> str:
    value: Any = error.instance
    wanted: Any = error.validator_value
    match error.validator:
        case "additionalProperties":
            schema: Any = error.schema
            known = schema["properties"]
            unknown = next(key for key in value if key not in known)
            return f"{entry} has an unknown key {unknown}: use {', '.join(known)}."
        case "required":
            missing = next(key for key in wanted if key not in value)
            return f"{entry} lacks the key {missing}: add it."
        case "anyOf":
            forms = " or ".join(" and ".join(form["required"]) for form in wanted)
            return f"{entry} is not complete: give {forms}, and no other keys than theirs."
        case "enum":
            return f"{entry} is {value}: use {' or '.join(map(str, wanted))}."
        case "pattern":
            return (
                f"{entry}: the name {value} is not usable: use letters, digits, dots and hyphens."
            )
        case "uniqueItems":
            doubled = next(item for item in value if value.count(item) > 1)
            return f"{entry} has {doubled} twice: remove one."
        case "minItems" | "minProperties":
            return f"{entry} is empty: add at least one."
        case "minimum":
            return f"{entry} is {value}: use {wanted} or more."
        case "type":
            names = {"object": "a mapping", "array": "a list", "integer": "a whole number"}
            return f"{entry} is {value!r}: use {names.get(wanted, f'a {wanted}')}."
        case _:
            return f"{entry}: {error.message}."


def _entry(error: ValidationError, study: Any) -> str:
    """Path of the faulty entry; items of lists go by their name where they have one."""
    parts: list[str] = []
    for key in error.absolute_path:
        study = study[key]
        if isinstance(key, str):
            parts.append(key)
        else:
            named = isinstance(study, Mapping) and "name" in study
            parts.append(str(study["name"] if named else key + 1))
    return ".".join(parts) or "The study"
