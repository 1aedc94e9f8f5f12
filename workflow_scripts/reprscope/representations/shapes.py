"""Sizes of representations, from a model's configuration alone.

The denoiser itself runs on PyTorch's meta device, where tensors have a shape and no values: no
weights, hardly any memory, seconds for the largest model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from reprscope.models.denoiser import family
from reprscope.runtime.errors import UserError

SCHEMA = {"position": pl.String, "channels": pl.Int64, "height": pl.Int64, "width": pl.Int64}


def shapes(name: str, config: Mapping[str, Any], grid: tuple[int, int]) -> pl.DataFrame:
    """Token grids of all positions of a denoiser.

    Parameters
    ----------
    name : str
        Model family.
    config : mapping
        The denoiser's ``config.json``; values that are missing are diffusers' defaults.
    grid : (h, w)
        Size of the latents.

    Returns
    -------
    DataFrame
        ``position``, ``channels``, ``height`` and ``width`` in tokens; in network order.

    Raises
    ------
    UserError
        If the model does not take latents of this size, or is of a kind that is not supported.
    """
    from reprscope.representations.extraction import Capture

    module = family(name)
    positions = module.positions(config)
    denoiser, latents, prompt = module.make_empty(config, grid)
    with Capture(denoiser, positions) as capture:
        found = capture(latents, 0, prompt)
    sizes = [tuple(found[position].shape) for position in positions]
    rows = [(p, c, h, w) for p, (_, h, w, c) in zip(positions, sizes, strict=True)]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def latent_grid(resolution: int, factor: int) -> tuple[int, int]:
    """Latents (h, w) of a square image: what a VAE does not fill a latent with is left out.

    Parameters
    ----------
    resolution : int
        Side of the image in pixels.
    factor : int
        Pixels per latent, along each side.

    Raises
    ------
    UserError
        If the image is smaller than a latent.
    """
    if resolution < factor:
        raise UserError(
            f"An image of {resolution} pixels is smaller than one latent: use {factor} or more."
        )
    return resolution // factor, resolution // factor
