"""Noise schedules and per-item seeded noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reprscope.models import schedulers
from reprscope.seeds import item_seed

if TYPE_CHECKING:
    import torch


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


def noise(
    shape: tuple[int, ...], *, seed: int, image_id: str, purpose: str = "noise"
) -> torch.Tensor:
    """Standard normal noise of one image, float32, on the CPU.

    Depends on ``seed``, ``image_id`` and ``shape`` alone: never on the batch, the shard, the order
    or the device. The maps of one image at two sizes are independent. The published results draw
    one map per batch and share it between all its images, which looks like a position bias.

    Parameters
    ----------
    shape : (channels, h, w)
    seed : int
    image_id : str
    purpose : str
        What it is drawn for: maps for different purposes are independent.
    """
    import torch

    generator = torch.Generator("cpu").manual_seed(item_seed(purpose, seed, image_id, *shape))
    return torch.randn(shape, generator=generator, dtype=torch.float32)


def shared_maps(shape: tuple[int, ...], *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two standard normal maps that all images share, as in the thesis; float32, on the CPU.

    They are what sdhelper 1.0.0 draws for a batch of one image after ``torch.manual_seed(seed)``,
    in its order: first the map that samples the VAE's posterior, then the noise.

    Parameters
    ----------
    shape : (channels, h, w)
    seed : int

    Returns
    -------
    posterior, noise : tensors, (channels, h, w)
    """
    import torch

    generator = torch.Generator("cpu").manual_seed(seed)
    posterior = torch.randn(shape, generator=generator)
    # Its latents lie channels last in memory, since they come from a picture's bytes, and noise is
    # drawn in the order of memory.
    drawn = torch.empty((1, *shape), memory_format=torch.channels_last)
    return posterior, drawn.normal_(generator=generator)[0].contiguous()
