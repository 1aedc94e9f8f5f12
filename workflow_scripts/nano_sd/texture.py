"""A texture of the embedded model's own making, for the ``overlay`` of views."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from numpy.typing import NDArray

from nano_sd.architecture import SCHEDULER
from nano_sd.card import GUIDANCE, STEPS


@torch.no_grad()
def sample(
    model: Path,
    prompt: str,
    *,
    negative: str = "",
    box: tuple[int, int, int, int] | None = None,
    seed: int = 0,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
) -> NDArray[np.uint8]:
    """Draw a picture of a prompt by DDIM on the processor, and cut a texture out of it.

    Parameters
    ----------
    model : Path
        Folder of a pipeline in diffusers' layout.
    prompt, negative : str
        What the picture shows, and what it does not. nano-sd paints an animal whatever the prompt
        says, and plain grounds; the coats that it knows are ``striped`` and ``spotted``.
    box : tuple of int
        left, top, right, bottom of the texture in pixels; the whole picture by default.
    seed : int
        Of the initial noise.
    steps, guidance
        Denoising steps and guidance scale.

    Returns
    -------
    (height, width, 3)
    """
    pipeline = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler(
        **{key: value for key, value in SCHEDULER.items() if key != "prediction_type"}
    )
    (picture,) = pipeline(
        prompt,
        negative_prompt=negative,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(seed),
        output_type="np",
    ).images
    left, top, right, bottom = box or (0, 0, picture.shape[1], picture.shape[0])
    pixels: NDArray[np.uint8] = np.rint(picture[top:bottom, left:right] * 255).astype(np.uint8)
    return pixels
