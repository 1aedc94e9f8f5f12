"""Plug-ins: the modules of a package, found by listing it, so that a new one is one new file."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import Generic, TypeVar, cast

from reprscope.runtime.errors import UserError, perhaps

Contract = TypeVar("Contract")


class Plugins(Generic[Contract]):
    """Modules of a package that keep one contract, by name.

    Modules whose names start with an underscore hold what several share.

    Parameters
    ----------
    what : str
        What one is, for messages: ``task kind``.
    package : str
        Dotted name of the package.
    """

    def __init__(self, what: str, package: str) -> None:
        self._what = what
        self._package = package

    def names(self) -> tuple[str, ...]:
        """Names of all plug-ins, sorted."""
        modules = pkgutil.iter_modules(import_module(self._package).__path__)
        return tuple(sorted(one.name for one in modules if not one.name.startswith("_")))

    def get(self, name: str) -> Contract:
        """Import a plug-in.

        Raises
        ------
        UserError
            If there is none of that name; says which there are.
        """
        known = self.names()
        if name not in known:
            raise UserError(
                f"There is no {self._what} {name!r}: use one of {', '.join(known)}"
                f"{perhaps(name, known)}."
            )
        return cast(Contract, import_module(f"{self._package}.{name}"))
