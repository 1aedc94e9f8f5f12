"""How far the tokens of a layer lie beside their squares, measured on a model.

A token tells of the places from which a change reaches it. With v a random direction in the space
of a layer's tokens, the energy at a place p of the image is ``|d (v . token) / d p|^2``, summed
over colours: its mean over directions is the squared norm of the Jacobian, the effective receptive
field (Luo et al. 2016). The energy of a token, of sum 1, is moved so that the middle of its square
is the origin, in tokens. The mean over tokens and images has a peak with wide tails, since
attention reaches everywhere; the offset is the centroid under a Gaussian window with a standard
deviation of one token around that very centroid (mean shift; Comaniciu and Meer 2002).

Strided convolutions make such offsets: diffusers' downsampler (3 x 3, stride 2, one row of padding
on each side) puts output ``i`` on input ``2 i`` and not between ``2 i`` and ``2 i + 1``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray

from reprscope.models.denoiser import Denoiser
from reprscope.representations.diffusion import noise
from reprscope.representations.extraction import Capture

if TYPE_CHECKING:
    from reprscope.models.vae import VAE

Floats = NDArray[np.float64]

WINDOW = 1.0
"""Standard deviation of the window, in tokens."""

IMAGES, TOKENS = 12, 16
"""Images, and tokens of each at every position: squares of four."""


class Measured(NamedTuple):
    """Offset to the right and down, in tokens, and the standard errors of both over images."""

    x: float
    y: float
    error_x: float
    error_y: float


@dataclass(frozen=True)
class Fields:
    """Energies of some tokens of one image.

    Attributes
    ----------
    energy : array, (tokens, height, width)
        Of the places of the input, of sum 1 for each token.
    centre : array, (tokens, 2)
        Middle of each token's square, x and y in places.
    side : array, (2,)
        Places along a token, x and y.
    """

    energy: Floats
    centre: Floats
    side: Floats


def offset(fields: Sequence[Fields]) -> Floats:
    """Offset (x, y), in tokens, of the mean energy of all tokens of all images."""
    place = np.zeros(2)
    for _ in range(200):
        moments = np.sum([_moments(each, place) for each in fields], axis=0)
        before, place = place, moments[:2] / moments[2]
        if np.abs(place - before).max() < 1e-6:
            break
    return place


def _moments(fields: Fields, place: Floats) -> Floats:
    """Windowed sums of x, y and 1, in tokens from the middle of each token's square."""
    height, width = fields.energy.shape[1:]
    x = (np.arange(width) + 0.5 - fields.centre[:, :1]) / fields.side[0]
    y = (np.arange(height) + 0.5 - fields.centre[:, 1:]) / fields.side[1]
    across = np.exp(-0.5 * ((x - place[0]) / WINDOW) ** 2)
    down = np.exp(-0.5 * ((y - place[1]) / WINDOW) ** 2)
    columns = np.einsum("thw,th->tw", fields.energy, down) * across
    rows = np.einsum("thw,tw->th", fields.energy, across) * down
    return np.array([(columns * x).sum(), (rows * y).sum(), columns.sum()])


def fields(
    capture: Capture,
    prepare: Callable[[torch.Tensor], torch.Tensor],
    image: torch.Tensor,
    *,
    timestep: int,
    prompt: Mapping[str, torch.Tensor],
    tokens: int,
    seed: int,
) -> dict[str, Fields]:
    """Energies of one image at every position that is captured.

    Parameters
    ----------
    capture : Capture
        Of a denoiser, with gradients.
    prepare : callable
        Makes noised latents of a batch of images.
    image : tensor, (channels, height, width)
    prompt : mapping of tensors, (1, ...)
    tokens : int
        How many, a multiple of four: squares of 2 x 2 tokens from the middle half of the grid.
    """
    leaf = image.expand(tokens, *image.shape).clone().requires_grad_()
    repeated = {key: values.expand(tokens, *values.shape[1:]) for key, values in prompt.items()}
    found = capture(prepare(leaf), timestep, repeated)
    rng = np.random.default_rng(seed)
    results = {}
    for name, grid in found.items():
        height, width = grid.shape[1:3]
        rows, columns = _squares(rng, height, width, tokens // 4)
        drawn = rng.standard_normal((tokens, grid.shape[3])).astype(np.float32)
        picked = grid[torch.arange(tokens), torch.from_numpy(rows), torch.from_numpy(columns)]
        along = (picked * torch.from_numpy(drawn).to(picked)).sum()
        (gradient,) = torch.autograd.grad(along, leaf, retain_graph=True)
        energy = (gradient.double() ** 2).sum(1).cpu().numpy()
        side = np.array([leaf.shape[3] / width, leaf.shape[2] / height])
        centre = (np.stack([columns, rows], axis=1) + 0.5) * side
        results[name] = Fields(energy / energy.sum((1, 2), keepdims=True), centre, side)
    return results


def _squares(
    rng: np.random.Generator, height: int, width: int, count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the tokens of squares, 2 x 2 each, in the middle half of a grid.

    Nearest upsampling repeats a token, which lies half a token right of one copy and left of the
    other: both count alike.
    """
    found = []
    for size, step in ((height, [0, 0, 1, 1]), (width, [0, 1, 0, 1])):
        last = max(size - size // 4 - 1, size // 4 + 1)
        first = rng.integers(size // 4, last, count)
        found.append(np.minimum(first[:, None] + step, size - 1).ravel())
    return found[0], found[1]


def _swapped(
    prepare: Callable[[torch.Tensor, int], torch.Tensor], seed: int, leaf: torch.Tensor
) -> torch.Tensor:
    return prepare(leaf, seed)


def measure(
    denoiser: Denoiser,
    positions: Sequence[str],
    prepare: Callable[[torch.Tensor, int], torch.Tensor],
    pictures: Sequence[torch.Tensor],
    *,
    timestep: int,
    prompt: Mapping[str, torch.Tensor],
    tokens: int = TOKENS,
) -> dict[str, Measured]:
    """Offsets of a denoiser's positions.

    Parameters
    ----------
    prepare : callable
        Makes noised latents of a batch of one picture and its number, which seeds the noise.
    pictures : sequence of tensor, (channels, height, width)
        At least two.
    prompt : mapping of tensors, (1, ...)
    """
    found: dict[str, list[Fields]] = {name: [] for name in positions}
    with Capture(denoiser, positions, gradients=True) as capture:
        for seed, picture in enumerate(pictures):
            here = fields(
                capture,
                partial(_swapped, prepare, seed),
                picture,
                timestep=timestep,
                prompt=prompt,
                tokens=tokens,
                seed=seed,
            )
            for name in positions:
                found[name].append(here[name])
    results = {}
    for name, each in found.items():
        own = np.array([offset([one]) for one in each])
        x, y = offset(each)
        error = own.std(axis=0, ddof=1) / len(own) ** 0.5
        results[name] = Measured(float(x), float(y), float(error[0]), float(error[1]))
    return results


def measure_model(
    denoiser: Denoiser,
    vae: VAE,
    scaling: tuple[float, float],
    prompt: Mapping[str, NDArray[np.floating[Any]]],
    *,
    positions: Sequence[str],
    resolution: int,
    timestep: int,
    images: int = IMAGES,
) -> dict[str, Measured]:
    """Offsets of a model's positions against the pixels that its VAE encodes.

    Parameters
    ----------
    scaling : (scale, shift)
        The denoiser's latents are ``(z - shift) * scale``.
    prompt : mapping of array, (1, ...)
        What the family makes of the empty text.
    resolution : int
        Side of the pictures in pixels.
    timestep : int
        Of the noise, which is drawn for each picture.
    """
    scale, shift = scaling
    place = vae.device

    def prepare(leaf: torch.Tensor, number: int) -> torch.Tensor:
        posterior = cast(Any, vae.module).encode(leaf).latent_dist
        clean = (posterior.mean - shift) * scale
        drawn = noise(tuple(clean.shape[1:]), seed=0, image_id=str(number)).to(place)
        return denoiser.add_noise(clean, drawn, timestep)

    given = {key: torch.from_numpy(values).float().to(place) for key, values in prompt.items()}
    given["pixels"] = torch.tensor([(resolution, resolution)], dtype=torch.float32, device=place)
    shown = [picture.to(place) for picture in pictures(images, resolution)]
    return measure(denoiser, positions, prepare, shown, timestep=timestep, prompt=given)


def pictures(count: int, side: int) -> list[torch.Tensor]:
    """Make pictures (3, side, side) in [-1, 1] with the spectrum of photographs, 1 / frequency.

    Nothing but their seed decides what they show, so that a model has one measurement.
    """
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    frequency[0, 0] = np.inf
    found = []
    for seed in range(count):
        rng = np.random.default_rng([seed, side])
        # Luminance varies most, as in photographs.
        maps = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((4, side, side))) / frequency)
        maps /= maps.std(axis=(1, 2), keepdims=True)
        picture = np.tanh(0.45 * maps[:1] + 0.15 * maps[1:])
        found.append(torch.from_numpy(picture.astype(np.float32)))
    return found
