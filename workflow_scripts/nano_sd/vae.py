"""Training the VAE and encoding the corpus with it."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from reprscope.base.seeds import item_seed
from skimage.metrics import structural_similarity
from torch import Tensor

from nano_sd.loop import Budget, Optimisation, Trainer

logger = logging.getLogger(__name__)

#: Weights of the loss: differences of neighbours, 4x4 means (colour), Kullback-Leibler term.
EDGES, MEANS, DIVERGENCE = 0.5, 1.0, 3e-3
#: Pictures per step and per part, side of a random crop, and share of the budget before the
#: crops become whole pictures.
BATCH, PART, CROP, WHOLE_FROM = 16, 4, 64, 0.9


def to_model(images: NDArray[np.uint8]) -> Tensor:
    """(n, side, side, 3) uint8 pictures to (n, 3, side, side) float32 in [-1, 1]."""
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    return (pixels.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def to_pixels(values: Tensor) -> NDArray[np.uint8]:
    """(n, 3, side, side) in [-1, 1] to (n, side, side, 3) uint8; values outside are clipped."""
    levels = ((values.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    pixels: NDArray[np.uint8] = levels.permute(0, 2, 3, 1).contiguous().numpy()
    return pixels


def reconstruction_loss(vae: AutoencoderKL, part: tuple[Tensor, Tensor]) -> Tensor:
    """L1 of pixels, of neighbour differences and of 4x4 means, plus the divergence from N(0, 1).

    Parameters
    ----------
    vae : AutoencoderKL
    part : ((n, 3, side, side), (n, 4, side / 4, side / 4))
        Pictures in [-1, 1] and the standard normal noise that draws from the posterior.
    """
    pixels, noise = part
    posterior = vae.encode(pixels).latent_dist
    error = vae.decode(posterior.mean + posterior.std * noise).sample - pixels
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    means = F.avg_pool2d(error, 4).abs().mean()
    # Mean over latent values, so that its weight does not depend on the size of a crop.
    divergence = posterior.kl().mean() / noise[0].numel()
    loss: Tensor = error.abs().mean() + EDGES * edges + MEANS * means + DIVERGENCE * divergence
    return loss


def crops(
    images: NDArray[np.uint8], step: int, progress: float, *, seed: int
) -> list[tuple[Tensor, Tensor]]:
    """Draw the batch of one step: random mirrored crops, late in training whole pictures."""
    generator = np.random.default_rng(item_seed(seed, "vae", step))
    side = images.shape[1]
    size, count = (CROP, BATCH) if progress < WHOLE_FROM else (side, BATCH // 2)
    chosen = np.sort(generator.choice(len(images), count, replace=False))
    tops, lefts = generator.integers(0, side - size + 1, (2, count))
    batch = np.stack(
        [images[i, y : y + size, x : x + size] for i, y, x in zip(chosen, tops, lefts, strict=True)]
    )
    mirrored = generator.random(count) < 0.5
    batch[mirrored] = batch[mirrored, :, ::-1]
    noise = torch.from_numpy(
        generator.standard_normal((count, 4, size // 4, size // 4), dtype=np.float32)
    )
    part = PART if size < side else PART // 2
    return list(zip(to_model(batch).split(part), noise.split(part), strict=True))


def train_vae(
    vae: AutoencoderKL,
    images: NDArray[np.uint8],
    checkpoint: Path,
    budget: Budget,
    *,
    seed: int,
    workers: int,
) -> Trainer:
    """Train ``vae`` in place; it ends with the averaged weights and its scaling factor."""
    vae.to(memory_format=torch.channels_last)
    trainer = Trainer(vae, checkpoint, Optimisation(rate=1.5e-3, decay=0.0, average=0.99))
    trainer.run(
        functools.partial(crops, images, seed=seed),
        reconstruction_loss,
        lambda parts: sum(len(pixels) for pixels, _ in parts),
        budget,
        workers=workers,
        name="vae",
    )
    trainer.averaged(vae)
    return trainer


@torch.no_grad()
def encode(vae: AutoencoderKL, images: NDArray[np.uint8], *, batch: int = 8) -> NDArray[np.float32]:
    """Posterior means, unscaled: (n, side, side, 3) uint8 to (n, 4, side / 4, side / 4)."""
    parts = [
        vae.encode(to_model(images[start : start + batch])).latent_dist.mean
        for start in range(0, len(images), batch)
    ]
    latents: NDArray[np.float32] = torch.cat(parts).contiguous().numpy()
    return latents


@torch.no_grad()
def fidelity(vae: AutoencoderKL, images: NDArray[np.uint8], *, batch: int = 8) -> dict[str, float]:
    """How well posterior means reconstruct pictures.

    Returns
    -------
    dict
        ``psnr`` (dB, mean over pictures), ``ssim`` (mean over pictures) and ``l1`` (mean absolute
        error, of 1).
    """
    psnr, ssim, l1 = [], [], []
    for start in range(0, len(images), batch):
        chosen = images[start : start + batch]
        latents = vae.encode(to_model(chosen)).latent_dist.mean
        for true, made in zip(chosen, to_pixels(vae.decode(latents).sample), strict=True):
            error = (true.astype(np.float64) - made) / 255
            psnr.append(-10 * np.log10(max(np.square(error).mean(), 1e-12)))
            ssim.append(structural_similarity(true, made, channel_axis=2))
            l1.append(np.abs(error).mean())
    return {"psnr": float(np.mean(psnr)), "ssim": float(np.mean(ssim)), "l1": float(np.mean(l1))}
