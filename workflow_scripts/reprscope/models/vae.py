"""The VAE: pixels to the posterior over latents. Loaded once per image view."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from reprscope.base.protocol import Pixels
from reprscope.models import configs
from reprscope.models.parts import load_part

Posterior = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Mean and logarithm of the variance, (batch, h, w, channels) each."""


class VAE:
    """The encoder half of a diffusers ``AutoencoderKL``; always in float32.

    Attributes
    ----------
    factor : int
        Pixels per latent cell.
    """

    def __init__(self, module: torch.nn.Module, config: Any) -> None:
        self.module = module.eval().requires_grad_(False)
        self.factor = 2 ** (len(config["block_out_channels"]) - 1)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.module.parameters()).device

    @torch.inference_mode()
    def encode(self, images: NDArray[np.uint8], *, pixels: Pixels) -> Posterior:
        """Posterior of a batch of images of one size.

        Parameters
        ----------
        images : array, (batch, height, width, 3), uint8
        pixels : {"symmetric", "unit"}
            Range that 0 to 255 is scaled to; see :class:`reprscope.base.protocol.Protocol`.

        Returns
        -------
        mean, logvar : arrays, (batch, h, w, channels), float32
            In the VAE's own units: not yet shifted and scaled.
        """
        values = to_range(torch.from_numpy(images).to(self.device), pixels)
        posterior = cast(Any, self.module).encode(values.permute(0, 3, 1, 2)).latent_dist
        return _channels_last(posterior.mean), _channels_last(posterior.logvar)


def scaling(folder: Path) -> tuple[float, float]:
    """Scaling factor and shift of a model folder's VAE, without its weights."""
    # Old repositories leave out what is diffusers' default.
    config = _config(configs.read_file(folder / "vae" / "config.json"), folder)
    return float(config["scaling_factor"]), float(config["shift_factor"] or 0.0)


def _config(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    return configs.complete("AutoencoderKL", config, where=f"{folder}/vae")


def to_range(images: torch.Tensor, pixels: Pixels) -> torch.Tensor:
    """Bytes 0..255 to float32: black is -1 (``symmetric``) or 0 (``unit``), white is 1."""
    if pixels == "unit":
        return images.float() / 255.0
    return images.float() / 127.5 - 1.0


def _channels_last(values: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = values.permute(0, 2, 3, 1).float().cpu().numpy()
    return array


class Decoder:
    """The decoder half of a diffusers ``AutoencoderKL``; always in float32."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module.eval().requires_grad_(False)

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor, *, pixels: Pixels) -> NDArray[np.uint8]:
        """Images of latents.

        Parameters
        ----------
        latents : tensor, (batch, channels, h, w), float32
            In the VAE's own units: neither shifted nor scaled.
        pixels : {"symmetric", "unit"}
            Range that the images were encoded from; values outside it are cut.

        Returns
        -------
        array, (batch, height, width, 3), uint8
        """
        place = next(self.module.parameters()).device
        values = cast(Any, self.module).decode(latents.to(place)).sample.permute(0, 2, 3, 1)
        if pixels == "symmetric":
            values = (values + 1.0) / 2.0
        found: NDArray[np.uint8] = (values.clamp(0, 1) * 255.0).round().byte().cpu().numpy()
        return found


def load_decoder(folder: Path, *, device: torch.device) -> Decoder:
    """Load the decoder of a model folder's VAE in diffusers' layout."""
    module = load_part("AutoencoderKL", folder, "vae", dtype=torch.float32)
    module.encoder = None
    return Decoder(module.to(device))


def load(folder: Path, *, device: torch.device) -> VAE:
    """Load the VAE of a model folder in diffusers' layout."""
    module = load_part("AutoencoderKL", folder, "vae", dtype=torch.float32)
    config = _config(module.config, folder)
    module.decoder = None
    return VAE(module.to(device), config)
