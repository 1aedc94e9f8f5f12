"""Counts that a source must have: published numbers, unless the study states others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from reprscope.runtime.errors import UserError


def check_keys(expected: Mapping[str, int], known: Iterable[str]) -> None:
    """Check the names in the setting ``counts``.

    Raises
    ------
    UserError
        For a name that is not counted.
    """
    known = list(known)
    for name in expected:
        if name not in known:
            raise UserError(f"counts has an unknown key {name}: use {', '.join(known)}.")


def check(found: Mapping[str, int], expected: Mapping[str, int], *, what: str) -> None:
    """Compare what was found with what must be there.

    Raises
    ------
    UserError
        For the first number that differs.
    """
    for name, count in expected.items():
        if found[name] != count:
            raise UserError(
                f"{what} has {found[name]} {name.replace('_', ' ')}, not {count}: it is incomplete "
                "or another version; fetch it anew, or state in `counts` what it should have."
            )
