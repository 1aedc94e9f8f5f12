"""Schedules of variance-preserving (DDPM) noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reprscope.models import schedulers


def alphas_cumprod(config: Mapping[str, Any]) -> NDArray[np.float64]:
    """Cumulative signal level of a variance-preserving (DDPM) schedule.

    With ``rescale_betas_zero_snr`` its square root is moved and stretched so that nothing is left
    of the signal at the last timestep (Lin et al. 2024, algorithm 1).

    Parameters
    ----------
    config : mapping
        A diffusers scheduler configuration; see :func:`reprscope.models.schedulers.complete`.

    Returns
    -------
    array, (num_train_timesteps,)
        Products of ``1 - beta``, in [0, 1). Timestep 0 already adds a little noise.

    Raises
    ------
    UserError
        For a schedule that is not of this kind.
    """
    found = schedulers.complete(config, "variance-preserving")
    steps = found["num_train_timesteps"]
    start, end = float(found["beta_start"]), float(found["beta_end"])
    if found["trained_betas"] is not None:
        betas = np.asarray(found["trained_betas"], float)
    elif found["beta_schedule"] == "linear":
        betas = np.linspace(start, end, steps)
    elif found["beta_schedule"] == "scaled_linear":
        betas = np.linspace(start**0.5, end**0.5, steps) ** 2
    else:
        time = np.arange(steps + 1) / steps
        level = np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1.0 - level[1:] / level[:-1], 0.999)
    levels = np.cumprod(1.0 - betas)
    if found.get("rescale_betas_zero_snr"):
        root = np.sqrt(levels)
        levels = ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2
        if found["_class_name"] in schedulers.FLOORED:
            levels[-1] = schedulers.FLOOR
    return np.asarray(levels, np.float64)
