"""The model card: what nano-sd was trained on, how far it came, and what it is not."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import polars as pl
import torch
import vl_convert
from diffusers import DDIMScheduler, StableDiffusionPipeline
from numpy.typing import NDArray
from PIL import Image
from reprscope.runtime.files import atomic, write_text

from nano_sd.architecture import SCHEDULER
from nano_sd.loop import State

logger = logging.getLogger(__name__)

#: Captions of the sample sheet.
SAMPLES = (
    "a striped orange cat on grass",
    "a brown horse on sand",
    "a white rabbit on soil",
    "a gray elephant on snow",
    "a spotted cream giraffe on white",
)
#: Denoising steps and guidance scale of the sample sheet.
STEPS, GUIDANCE = 30, 4.0

TEMPLATE = """\
---
library_name: diffusers
pipeline_tag: text-to-image
tags: [latent-diffusion, toy-model]
---

# nano-sd

A latent diffusion model with Stable Diffusion 1.5's topology and module names at small width,
trained from scratch on *menagerie*, reprscope's rendered animals. It exists so that every analysis
of reprscope runs end to end in minutes, without a download and without a GPU.

```python
from diffusers import StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained("resources/models/nano-sd", safety_checker=None)
```

## What it is

| part | class | parameters | differs from SD-1.5 in |
|---|---|---|---|
{parts}

The noise schedule is SD's own (`scaled_linear`, 0.00085 to 0.012, 1000 steps, noise prediction).
A picture of 128 x 128 pixels becomes a latent of 4 x 32 x 32. U-Net and VAE are stored as float16,
the text encoder as float32.

## Training

| | VAE | U-Net and text encoder |
|---|---|---|
| minutes | {vae_minutes:.0f} | {minutes:.0f} |
| steps | {vae_steps:,} | {steps:,} |
| pictures seen (with repetition) | {vae_samples:,} | {samples:,} |
| last loss | {vae_loss:.4f} | {loss:.4f} |

Processor only, float32, seed {seed}. `workflow_scripts/train_nano.py` (`snakemake train_nano`) does
it, and trains on from its checkpoints; since its budget is time, the weights depend on the machine.

- **Data**: {pictures:,} menagerie pictures of seed 0 at 128 pixels (index `i` shows kind
  `i mod 10`) with captions such as "a spotted brown dog on grass". Evaluation pictures have other
  seeds, so that none was trained on.
- **VAE**: random mirrored 64-pixel crops, later whole pictures; L1 of pixels, of neighbour
  differences and of 4 x 4 means, plus a small Kullback-Leibler term; no adversarial or perceptual
  loss.
- **U-Net and text encoder**, jointly: the plain DDPM loss (mean squared error of the noise; uniform
  timesteps, spread evenly over each batch) on posterior means; captions dropped with probability
  {dropout}; AdamW with a cosine decay; exponential moving average of the weights, which is what is
  stored. The first
  {small_share:.0%} of the time goes to pictures of half the side (16 x 16 latents, also mirrored),
  the rest to 32 x 32 latents.

![Loss over training time](loss.png)

## How far it came

Held-out pictures (seed 1): the VAE reconstructs {held_out} of them with PSNR {psnr:.1f} dB, SSIM
{ssim:.3f} and mean absolute error {l1:.4f} (of 1).

What its blocks represent, block by block and against its untrained twin, is measured by the default
study of this project.

![Samples](samples.jpg)

Each row: one caption ({captions}), four seeds; DDIM, {sample_steps} steps, guidance {guidance}.

## What it is not

It is not an image generator and not a small Stable Diffusion: it knows ten kinds of rendered
animals on five grounds and nothing else. It was trained for minutes, not to convergence. Its
prompts are words of the captions; other words are spelled in pieces that it never saw. Conclusions
about what its blocks represent hold for it, not for models trained on photographs; the analyses are
the same, the findings are not.
"""


def write_card(
    folder: Path,
    *,
    vae: State,
    denoiser: State,
    fidelity: Mapping[str, float],
    held_out: int,
    pictures: int,
    seed: int,
    small_share: float,
    dropout: float,
) -> None:
    """Write ``README.md``, ``loss.png`` and ``samples.jpg`` into a model folder.

    Parameters
    ----------
    folder : Path
        A complete pipeline.
    vae, denoiser : State
        How both were trained.
    fidelity : mapping
        ``psnr``, ``ssim``, ``l1`` of the VAE on ``held_out`` held-out pictures.
    held_out, pictures, seed, small_share, dropout
        Settings of the training.
    """
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    _write_image(folder / "samples.jpg", sample_sheet(pipeline))
    with atomic(folder / "loss.png") as part:
        part.write_bytes(curve(denoiser.history))
    text = TEMPLATE.format(
        parts=_parts(pipeline),
        vae_minutes=vae.seconds / 60,
        minutes=denoiser.seconds / 60,
        vae_steps=vae.step,
        steps=denoiser.step,
        vae_samples=vae.samples,
        samples=denoiser.samples,
        vae_loss=vae.history[-1]["loss"],
        loss=denoiser.history[-1]["loss"],
        seed=seed,
        pictures=pictures,
        dropout=dropout,
        small_share=small_share,
        held_out=held_out,
        captions=", ".join(f'"{caption}"' for caption in SAMPLES),
        sample_steps=STEPS,
        guidance=GUIDANCE,
        **fidelity,
    )
    write_text(folder / "README.md", text)


def _parts(pipeline: StableDiffusionPipeline) -> str:
    differences = {
        "unet": "widths 32, 64, 128, 128 (320, 640, 1280, 1280); heads 1, 2, 4, 4 (8); "
        "8 groups (32); text width 64 (768)",
        "vae": "widths 16, 32, 64 (128, 256, 512, 512), so 4 px per latent cell (8); "
        "1 layer per block (2)",
        "text_encoder": "2 layers of width 64 (12 of 768); 16 tokens (77); own vocabulary",
    }
    rows = []
    for name, difference in differences.items():
        module = getattr(pipeline, name)
        count = sum(parameter.numel() for parameter in module.parameters())
        rows.append(
            f"| `{name}` | `{type(module).__name__}` | {count / 1e6:.2f} M | {difference} |"
        )
    return "\n".join(rows)


def curve(history: Sequence[Mapping[str, float]]) -> bytes:
    """Draw the loss over minutes of training as PNG."""
    frame = pl.DataFrame([{"minutes": row["minutes"], "loss": row["loss"]} for row in history])
    chart = (
        alt.Chart(frame)
        .mark_line(strokeWidth=1.5)
        .encode(
            alt.X("minutes:Q", title="minutes of training"),
            alt.Y("loss:Q", title="loss (mean of 30 s)", scale=alt.Scale(type="log", nice=False)),
        )
        .properties(width=480, height=220)
    )
    image: bytes = vl_convert.vegalite_to_png(chart.to_dict(), scale=1.5)
    return image


def write_history(path: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Write the loss history as CSV."""
    with atomic(path) as part:
        pl.DataFrame(list(history)).write_csv(part)


@torch.no_grad()
def sample_sheet(pipeline: StableDiffusionPipeline, *, seeds: int = 4) -> NDArray[np.uint8]:
    """Generate ``seeds`` pictures per caption: (captions x 128, seeds x 128, 3) uint8."""
    pipeline.set_progress_bar_config(disable=True)
    settings: dict[str, Any] = {k: v for k, v in SCHEDULER.items() if k != "prediction_type"}
    pipeline.scheduler = DDIMScheduler(**settings)
    rows = []
    for caption in SAMPLES:
        pictures = pipeline(
            [caption] * seeds,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=[torch.Generator().manual_seed(seed) for seed in range(seeds)],
            output_type="np",
        ).images
        rows.append(np.concatenate(list(pictures), axis=1))
    sheet: NDArray[np.uint8] = np.rint(np.concatenate(rows) * 255).astype(np.uint8)
    return sheet


def _write_image(path: Path, pixels: NDArray[np.uint8]) -> None:
    with atomic(path) as part:
        Image.fromarray(pixels).save(part, format="JPEG", quality=90)
