"""The noise of flow matching, on the timesteps of the model's own scheduler."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from reprscope.models import schedulers


@dataclass(frozen=True, kw_only=True)
class DynamicShift:
    """A shift that grows with the number of image tokens.

    ``mu`` is linear in that number: ``base_shift`` at ``base_tokens``, ``max_shift`` at
    ``max_tokens``. The shift is ``exp(mu)``, or ``mu`` itself if ``kind`` is ``linear``.
    """

    base_shift: float = 0.5
    max_shift: float = 1.15
    base_tokens: int = 256
    max_tokens: int = 4096
    kind: Literal["exponential", "linear"] = "exponential"

    def at(self, tokens: int) -> float:
        """Shift for a number of image tokens."""
        slope = (self.max_shift - self.base_shift) / (self.max_tokens - self.base_tokens)
        mu = self.base_shift + slope * (tokens - self.base_tokens)
        return math.exp(mu) if self.kind == "exponential" else mu


@dataclass(frozen=True, kw_only=True)
class FlowSchedule:
    """Noise levels of a flow-matching model, Esser et al. 2024, section 3.1 and equation 23.

    Attributes
    ----------
    steps : int
        Number of training timesteps.
    shift : float or DynamicShift
        How far the schedule leans to high noise; 1 leaves it straight.
    """

    steps: int = 1000
    shift: float | DynamicShift = 1.0

    def sigma(self, timestep: int, tokens: int) -> float:
        """Noise level of a timestep, in (0, 1].

        ``s = (t + 1) / steps`` and ``sigma = shift s / (1 + (shift - 1) s)``, so that 0 already
        has a little noise and the last timestep is noise alone, as in diffusers'
        ``FlowMatchEulerDiscreteScheduler``. With ``shift = exp(mu)`` this is FLUX's
        ``exp(mu) / (exp(mu) + 1 / s - 1)``.

        Parameters
        ----------
        timestep : int
            0 to ``steps - 1``.
        tokens : int
            Number of image tokens, which only a dynamic shift depends on.
        """
        shift = self.shift if isinstance(self.shift, float) else self.shift.at(tokens)
        straight = (timestep + 1) / self.steps
        return shift * straight / (1.0 + (shift - 1.0) * straight)


def schedule_of(config: Mapping[str, Any]) -> FlowSchedule:
    """Schedule of a scheduler configuration.

    Raises
    ------
    UserError
        If it is not one of flow matching, or bends its schedule in a way that is not known here;
        see :func:`reprscope.models.schedulers.complete`.
    """
    found = schedulers.complete(config, "flow-matching")
    steps = found["num_train_timesteps"]
    if not found.get("use_dynamic_shifting"):
        return FlowSchedule(steps=steps, shift=float(found["shift"]))
    dynamic = DynamicShift(
        base_shift=float(found["base_shift"]),
        max_shift=float(found["max_shift"]),
        base_tokens=found["base_image_seq_len"],
        max_tokens=found["max_image_seq_len"],
        kind=found["time_shift_type"],
    )
    return FlowSchedule(steps=steps, shift=dynamic)


def read_schedule(folder: Path) -> FlowSchedule:
    """Schedule of a model folder in diffusers' layout; see :func:`schedule_of`."""
    path = folder / "scheduler" / "scheduler_config.json"
    return schedule_of(json.loads(path.read_text(encoding="utf-8")))
