"""The measurements that can be made on representations, one module each.

A task is a module of this package with the members of :class:`Task`; its name is the ``kind``
that a study writes. It is found by listing the package, so that a new task is one new file. Modules
whose names start with an underscore hold what several tasks share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from reprscope.base.plugins import Plugins
from reprscope.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import polars as pl

    from reprscope.data.canonical import Annotations
    from reprscope.representations.store import Representations


CHANGES = ("dataset", "view", "resolution", "prompt", "timestep", "seed", "protocol")
"""Keys in which a task's companions may differ from the representations it is measured on."""

LATENTS = "latents"
"""In place of a hook set: the task reads latents, which rule decode_noise gives it."""

PICTURE = "image"
"""Stands in the column ``position`` of a row that holds an image's own picture."""


class Task(Protocol):
    """What a task module provides."""

    Parameters: type[Any]
    """Frozen dataclass of the task's settings; raises UserError for values it cannot use.

    With an attribute ``files``, paths of local files that it names, a measurement is made anew when
    one of them changes.
    """
    NEEDS: frozenset[str]
    """Annotations that the dataset must have, for instance ``{"labels"}``."""
    STORES: frozenset[str]
    """Forms of a hook set that it can read: ``"tokens"``, ``"mean"``; or ``"latents"`` alone."""

    PROTOCOL: frozenset[str]
    """Parts of the protocol that ``measure`` takes as keywords, for instance ``coordinates``."""

    TABLE_COLUMNS: Sequence[str]
    """Columns of an experiment's table beside those that say what a row was measured on."""

    def measure(
        self,
        representations: Representations,
        annotations: Annotations,
        parameters: Any,
        /,
        **further: Any,
    ) -> pl.DataFrame:
        """Return every prediction or value at every position, with a column ``position``.

        ``further`` are the parts of the protocol that ``PROTOCOL`` names and, if the task has
        companions, ``companions``, their representations by name, and ``companion_protocols``,
        those parts of each one's protocol, unless ``PROTOCOL`` is empty.
        """

    # Optional: ``companions(parameters)``, see :func:`companions`; ``needs(parameters)``, see
    # :func:`needs`; ``relate(table, parameters)``,
    # which adds to an experiment's table what follows from several measurements together, by the
    # parameters of each task; ``findings(table)``, see :mod:`reprscope.tasks._findings`;
    # ``minutes(parameters, positions)``, see :func:`minutes`.

    def summarise(self, measurements: pl.DataFrame, parameters: Any, /) -> pl.DataFrame:
        """Aggregate measurements, with intervals, keeping the column ``position``."""


KINDS: Final = Plugins[Task]("task kind", "reprscope.tasks")
available = KINDS.names
load = KINDS.get


def needs(kind: str, parameters: Any) -> frozenset[str]:
    """Annotations that a task needs: its ``NEEDS``, and what its ``needs(parameters)`` adds."""
    task = load(kind)
    further: frozenset[str] = getattr(task, "needs", lambda _: frozenset())(parameters)
    return task.NEEDS | further


def companions(kind: str, parameters: Any) -> Mapping[str, Mapping[str, Any]]:
    """Further representations that a task reads beside those it is measured on.

    Parameters
    ----------
    kind
        Name of the task.
    parameters
        Its settings.

    Returns
    -------
    For each companion, by a name that ``measure`` finds it under, what differs from the
    measurement's own keys: some of :data:`CHANGES`. Model and hook set are the measurement's own.
    Empty for a task without a function ``companions(parameters)``.

    Raises
    ------
    UserError
        If a companion changes anything else.
    """
    named: Mapping[str, Mapping[str, Any]] = getattr(load(kind), "companions", lambda _: {})(
        parameters
    )
    for changes in named.values():
        for key in changes:
            if key not in CHANGES:
                raise UserError(f"{key} cannot differ; use some of: {', '.join(CHANGES)}.")
    return dict(sorted(named.items()))


def minutes(kind: str, parameters: Any, positions: int) -> int:
    """Minutes that a measurement may take beside what all take for reading and computing.

    Parameters
    ----------
    kind
        Name of the task.
    parameters
        Its settings.
    positions
        Number of positions that it is measured at.

    Returns
    -------
    What the task's function ``minutes(parameters, positions)`` says, 0 for a task without one.
    """
    return int(getattr(load(kind), "minutes", lambda *_: 0)(parameters, positions))
