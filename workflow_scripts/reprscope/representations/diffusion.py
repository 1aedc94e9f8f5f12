"""Noise schedules and per-item seeded noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reprscope.base.seeds import item_seed

if TYPE_CHECKING:
    import torch


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
