"""Encoding the corpus once, with the trained VAE."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from reprscope.runtime.files import atomic
from tqdm import tqdm

from nano_sd.vae import encode

logger = logging.getLogger(__name__)


def halve(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Means of 2x2 pixels: (n, side, side, 3) uint8 to half the side."""
    count, side = images.shape[:2]
    blocks = images.reshape(count, side // 2, 2, side // 2, 2, 3).astype(np.float32)
    means: NDArray[np.uint8] = np.rint(blocks.mean(axis=(2, 4))).astype(np.uint8)
    return means


def load_or_encode(
    path: Path,
    vae: AutoencoderKL,
    images: NDArray[np.uint8],
    *,
    half: bool,
    mirror: bool,
    workers: int,
    batch: int = 32,
) -> NDArray[np.float16]:
    """Read scaled latents, encoding them first if they are not there.

    Parameters
    ----------
    path : Path
        The ``.npy`` that holds them.
    vae : AutoencoderKL
        Trained; its ``scaling_factor`` is applied.
    images : (n, side, side, 3) uint8
    half : bool
        Encode pictures of half the side.
    mirror : bool
        Encode every mirrored picture too.
    workers, batch : int
        Cores, and pictures per part.

    Returns
    -------
    (1 or 2, n, 4, h, w) float16
        Posterior means times the scaling factor; index 1 holds the mirrored pictures.
    """
    if not path.exists():
        side = images.shape[1] // (8 if half else 4)
        latents = np.empty((1 + mirror, len(images), 4, side, side), np.float16)

        def fill(task: tuple[int, int]) -> None:
            orientation, start = task
            chosen = images[start : start + batch]
            chosen = halve(chosen) if half else chosen
            chosen = chosen[:, :, ::-1] if orientation else chosen
            values = encode(vae, chosen) * vae.config.scaling_factor
            latents[orientation, start : start + batch] = values

        tasks = [(o, s) for o in range(1 + mirror) for s in range(0, len(images), batch)]
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for _ in tqdm(pool.map(fill, tasks), total=len(tasks), desc=path.stem, mininterval=10):
                pass
        with atomic(path) as part:
            np.save(part, latents)
        logger.info("encoded %d pictures into %s", len(images), path)
    stored: NDArray[np.float16] = np.load(path, mmap_mode="r")
    return stored


def scaling_factor(vae: AutoencoderKL, images: NDArray[np.uint8], *, count: int = 512) -> float:
    """1 / standard deviation of the latents of ``count`` pictures, as SD's VAE defines it."""
    return float(1 / encode(vae, images[:count]).std())
