"""Noised latents as pictures: what of an image a denoiser is given at a timestep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from reprscope.representations.extraction import batches
from reprscope.representations.prompts import Prompts

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from reprscope.base.protocol import Protocol
    from reprscope.models.denoiser import Noising
    from reprscope.models.vae import Decoder
    from reprscope.representations.store import Representations


def mixed_linearly(latents: torch.Tensor, noise: torch.Tensor, timestep: int) -> torch.Tensor:
    """Noise as the thesis' figure 2 adds it, of a share that grows with the timestep (0 to 999)."""
    share = timestep / 999
    return (1 - share) * latents + share * noise


def noised_pictures(
    latents: Representations,
    names: Sequence[str],
    *,
    add_noise: Noising,
    decoder: Decoder,
    timestep: int,
    seed: int,
    protocol: Protocol,
    scaling: float,
    shift: float,
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Decode the very latents that an extraction under the same conditions would run on.

    Parameters
    ----------
    latents : Representations
        Store with the tables ``mean`` and ``logvar`` in the VAE's units.
    names : sequence of str
        Images to decode, all of them in the store.
    add_noise : callable
        See :meth:`reprscope.models.denoiser.Family.noising`.
    scaling, shift : float
        The denoiser's units are ``(z - shift) * scaling``.

    Yields
    ------
    image_id, picture (height, width, 3) uint8
        In the order of the store.
    """
    wanted = set(names)
    texts = Prompts({}, dict.fromkeys(latents.image_ids, 0))
    for one in batches(
        latents, texts, seed=seed, protocol=protocol, scaling=scaling, shift=shift, size=1
    ):
        if one.image_ids[0] in wanted:
            noised = one.latents
            if protocol.noise != "none":
                noised = add_noise(noised, one.noise, timestep)
            (picture,) = decoder.decode(noised / scaling + shift, pixels=protocol.pixels)
            yield one.image_ids[0], picture
