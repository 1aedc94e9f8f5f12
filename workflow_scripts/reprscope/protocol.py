"""Choices of method that differ between papers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How latents and noise are made; the defaults are the ``standard`` protocol.

    Attributes
    ----------
    posterior : {"mode", "sample"}
        Encode to the mean of the VAE's posterior, or draw from it.
    noise : {"per_image", "shared", "none"}
        One noise map for each image (right), one for all images (the thesis; it makes position
        look encoded where it is not), or none at all.
    """

    posterior: Literal["mode", "sample"] = "mode"
    noise: Literal["per_image", "shared", "none"] = "per_image"
