"""Noise schedules and per-item seeded noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reprscope.errors import UserError
from reprscope.seeds import item_seed

if TYPE_CHECKING:
    import torch


def alphas_cumprod(config: Mapping[str, Any]) -> NDArray[np.float64]:
    """Cumulative signal level of a variance-preserving (DDPM) schedule.

    Parameters
    ----------
    config : mapping
        A diffusers scheduler configuration: ``beta_schedule`` (``linear``, ``scaled_linear`` or
        ``squaredcos_cap_v2``), ``beta_start``, ``beta_end``, ``num_train_timesteps``.

    Returns
    -------
    array, (num_train_timesteps,)
        Products of ``1 - beta``, in (0, 1). Timestep 0 already adds a little noise.

    Raises
    ------
    UserError
        For a schedule that is not of this kind.
    """
    if config.get("rescale_betas_zero_snr"):
        raise UserError(
            "The model's scheduler rescales its betas to zero terminal signal, which is not "
            "supported: use a model without rescale_betas_zero_snr."
        )
    steps = int(config.get("num_train_timesteps", 1000))
    start, end = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    schedule = config.get("beta_schedule", "linear")
    if config.get("trained_betas") is not None:
        betas = np.asarray(config["trained_betas"], float)
    elif schedule == "linear":
        betas = np.linspace(start, end, steps)
    elif schedule == "scaled_linear":
        betas = np.linspace(start**0.5, end**0.5, steps) ** 2
    elif schedule == "squaredcos_cap_v2":
        time = np.arange(steps + 1) / steps
        level = np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1.0 - level[1:] / level[:-1], 0.999)
    else:
        raise UserError(
            f"The model's scheduler has beta_schedule {schedule}, which is not known: use linear, "
            "scaled_linear or squaredcos_cap_v2."
        )
    return np.asarray(np.cumprod(1.0 - betas), np.float64)


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
