"""Choices of method that differ between papers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Pixels = Literal["symmetric", "unit"]
Coordinates = Literal["centred", "measured", "integer"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How latents, noise, the denoiser's input and coordinates are made.

    Each part can be set on its own; the defaults are the ``standard`` protocol. The published
    numbers of the thesis carry the other choices (:data:`PROTOCOLS`, ``thesis``), which equal the
    package sdhelper 1.0.0 called with one image at a time and the same seed, on the CPU. How the
    image is padded is no part of it: that is the view's ``fit``, whose default ``pad`` (a square
    by repeating the edge pixels) is also the thesis' way for SPair-71k.

    Attributes
    ----------
    pixels : {"symmetric", "unit"}
        Range of pixel values that the VAE is given: [-1, 1], on which it was trained, or [0, 1]
        (thesis), which makes black a mid-grey and halves the contrast.
    posterior : {"mode", "sample", "shared_sample"}
        Encode to the mean of the VAE's posterior, or draw from it: with random numbers of the
        image's own, or with the same for all images (thesis).
    noise : {"per_image", "shared", "none"}
        One noise map for each image (right), one for all images (thesis; it makes position look
        encoded where it is not), or none at all. ``shared`` and ``shared_sample`` are two maps of
        one generator seeded with the noise seed, as in sdhelper: see
        :func:`reprscope.representations.diffusion.shared_maps`.
    rescaling : bool
        Scale the noised latents by the input scaling of the model's sampler although they already
        have unit variance (thesis). It matters for Euler samplers (SD-Turbo, SDXL), where it
        multiplies by the square root of the signal level once more.
    added_conditioning : bool
        Give SDXL the pooled text and the image size that it was trained with; the thesis leaves
        both out.
    coordinates : {"centred", "measured", "integer"}
        Of the tasks on keypoints. A token stands at the middle of its square of pixels, or with
        ``measured`` beside it, by what was measured on the model
        (:mod:`reprscope.representations.offsets`). With ``integer`` points and boxes are cut to
        whole pixels of the encoded image, in which PCK is then computed (thesis).
    """

    pixels: Pixels = "symmetric"
    posterior: Literal["mode", "sample", "shared_sample"] = "mode"
    noise: Literal["per_image", "shared", "none"] = "per_image"
    rescaling: bool = False
    added_conditioning: bool = True
    coordinates: Coordinates = "centred"


PROTOCOLS: Final = {
    "standard": Protocol(),
    "thesis": Protocol(
        pixels="unit",
        posterior="shared_sample",
        noise="shared",
        rescaling=True,
        added_conditioning=False,
        coordinates="integer",
    ),
}
"""Protocols that are there in every study."""
