"""Checking a study against ``study.schema.json``, in sentences."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, cast

from jsonschema import Draft202012Validator, ValidationError, validators
from jsonschema.exceptions import best_match
from jsonschema.protocols import Validator

from reprscope.runtime.errors import UserError, perhaps

DEEPEST: Final = 12
"""Levels of nesting; studies have up to seven."""

LARGEST: Final = 2**53
"""Largest number that is the same as a whole number and as a float; NaN is in no range."""

_TYPES: Final = {
    "object": "a mapping",
    "array": "a list",
    "integer": "a whole number",
    "string": "a text",
    "boolean": "true or false",
}

SCHEMA = Path(__file__).with_name("study.schema.json")


@cache
def _validator() -> Validator:
    # To JSON Schema 50.0 is a whole number; in Python it makes other paths and texts than 50.
    types = Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    )
    extend = cast(Callable[..., Callable[[Any], Validator]], validators.extend)
    kind = extend(Draft202012Validator, type_checker=types)
    return kind(json.loads(SCHEMA.read_text(encoding="utf-8")))


def check_schema(config: Mapping[str, Any]) -> None:
    """Check what a study says against the schema.

    Raises
    ------
    UserError
        For the most relevant mistake: names the entry and what would be right.
    """
    _check_values(config, "", 0)
    error = best_match(_validator().iter_errors(config))
    while error is not None and error.validator == "anyOf":
        inner = _of_the_form_that_is_meant(error)
        if inner is None:
            break
        error = inner
    if error is not None:
        raise UserError(_sentence(error, _entry(error, config)))


def _of_the_form_that_is_meant(error: ValidationError) -> ValidationError | None:
    """What is wrong within the one form whose keys are all there; None if it is not clear."""
    forms: Any = error.validator_value
    value: Any = error.instance
    meant = [
        number
        for number, form in enumerate(forms)
        if isinstance(value, Mapping) and value.keys() >= set(form["required"])
    ]
    if len(meant) != 1:
        return None
    inner = [e for e in error.context or () if e.relative_schema_path[0] == meant[0]]
    # A key of another form says that both were meant.
    others = {key for form in forms for key in form["properties"]}
    if any(e.validator == "additionalProperties" for e in inner) and value.keys() <= others:
        return None
    best: ValidationError | None = best_match(iter(inner))
    return best


def _check_values(value: Any, entry: str, depth: int) -> None:
    """Check what no entry may be, whatever it is."""
    where = entry or "The study"
    if depth > DEEPEST:
        raise UserError(
            f"{entry[:80]} … is nested more than {DEEPEST} levels deep: check its indentation."
        )
    match value:
        case Mapping():
            for key, item in value.items():
                if not isinstance(key, str):
                    raise UserError(f"{where} has the key {key!r}: put it in quotes.")
                _check_values(item, f"{entry}.{key}" if entry else key, depth + 1)
        case list() | tuple():
            for number, item in enumerate(value, 1):
                named = item.get("name") if isinstance(item, Mapping) else None
                _check_values(item, f"{entry}.{named or number}", depth + 1)
        case bool() | None:
            pass
        case int() | float() if not -LARGEST <= value <= LARGEST:
            raise UserError(f"{where} is {value}: use a number between -2^53 and 2^53.")
        case str() if any(ord(letter) < 32 and letter not in "\n\t" for letter in value):
            raise UserError(f"{where} has a control character: remove it.")
        case int() | float() | str():
            pass
        case _:
            raise UserError(
                f"{where} is {value}, which YAML takes for a {type(value).__name__}: put it in "
                "quotes."
            )


def _sentence(error: ValidationError, entry: str) -> str:
    value: Any = error.instance
    wanted: Any = error.validator_value
    match error.validator:
        case "additionalProperties":
            schema: Any = error.schema
            known = schema["properties"]
            unknown = next(key for key in value if key not in known)
            wanted = ", ".join(known) + perhaps(unknown, known)
            return f"{entry} has an unknown key {unknown}: use {wanted}."
        case "required":
            missing = next(key for key in wanted if key not in value)
            return f"{entry} lacks the key {missing}: add it."
        case "anyOf":
            forms = " or ".join(" and ".join(form["required"]) for form in wanted)
            return f"{entry} is not complete: give {forms}, and no other keys than theirs."
        case "enum":
            return (
                f"{entry} is {value}: use {' or '.join(map(str, wanted))}{perhaps(value, wanted)}."
            )
        case "pattern":
            name = _line(value)
            form = cast(Mapping[str, Any], error.schema)["description"]
            return f"{entry}: the name {name} is not usable: use {form}."
        case "uniqueItems":
            doubled = next(item for item in value if value.count(item) > 1)
            return f"{entry} has {doubled} twice: remove one."
        case "minItems" | "minProperties":
            return f"{entry} is empty: add at least one."
        case "minLength":
            return f"{entry} is empty: write at least one character."
        case "maxLength":
            return (
                f"{entry}: the name {value[:20]}… is not usable: use at most {wanted} characters."
            )
        case "minimum":
            return f"{entry} is {value}: use {wanted} or more."
        case "maximum":
            return f"{entry} is {value}: use {wanted} or less."
        case "type":
            names = {
                "object": "a mapping",
                "array": "a list",
                "integer": "a whole number",
                "string": "a text",
            }
            return f"{entry} is {value!r}: use {names.get(wanted, 'true or false')}."
        case _:
            return f"{entry}: {error.message}."


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _line(name: str) -> str:
    """A name as it can stand in a sentence."""
    return name if name.isprintable() and name.strip() == name != "" else repr(name)


def _entry(error: ValidationError, study: Any) -> str:
    """Path of the faulty entry; items of lists go by their name where they have one."""
    parts: list[str] = []
    for key in error.absolute_path:
        study = study[key]
        if isinstance(key, str):
            parts.append(key)
        else:
            named = isinstance(study, Mapping) and "name" in study
            parts.append(_line(str(study["name"])) if named else str(key + 1))
    return ".".join(parts) or "The study"
