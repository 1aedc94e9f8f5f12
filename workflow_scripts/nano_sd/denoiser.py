"""Training the denoiser and its text encoder on latents: the DDPM loss of SD-1.5."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from numpy.typing import NDArray
from reprscope.base.seeds import item_seed
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from nano_sd.architecture import build_scheduler
from nano_sd.loop import Budget, Optimisation, Trainer

logger = logging.getLogger(__name__)

#: Share of captions that are replaced by the empty one. Far more than SD's .1, since it is the
#: empty prompt that representations are read with.
CAPTION_DROPOUT = 0.4


class Denoiser(nn.Module):
    """U-Net and text encoder, trained together."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder
        schedule = build_scheduler()
        # Plain attributes, not buffers: they belong to the schedule, not to the weights.
        self.signal = schedule.alphas_cumprod.sqrt()
        self.spread = (1 - schedule.alphas_cumprod).sqrt()

    def forward(self, latents: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        """Predict the noise in (n, 4, h, w) latents at (n,) timesteps for (n, 16) tokens."""
        context = self.text_encoder(tokens).last_hidden_state
        predicted: Tensor = self.unet(latents, timesteps, context, return_dict=False)[0]
        return predicted


@dataclass(frozen=True)
class Part:
    """A part of a batch.

    Attributes
    ----------
    latents, noise : (n, 4, h, w) float32
    timesteps : (n,) int64
    tokens : (n, 16) int64
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    tokens: Tensor


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Latents of one resolution and how they are batched.

    Attributes
    ----------
    latents : (orientations, pictures, 4, h, w) float16
        Scaled latents; the second orientation, if any, is that of the mirrored pictures.
    until : float
        Share of the budget at which the next stage begins.
    batch, part : int
        Pictures per step and per part.
    """

    latents: NDArray[np.float16]
    until: float
    batch: int
    part: int


def ddpm_loss(denoiser: Denoiser, part: Part) -> Tensor:
    """Mean squared error of the predicted noise at random timesteps.

    References
    ----------
    Ho, Jain, Abbeel (2020), "Denoising diffusion probabilistic models", equation 14.
    """
    shape = (-1, 1, 1, 1)
    noisy = (
        denoiser.signal[part.timesteps].view(shape) * part.latents
        + denoiser.spread[part.timesteps].view(shape) * part.noise
    )
    noisy = noisy.contiguous(memory_format=torch.channels_last)
    return F.mse_loss(denoiser(noisy, part.timesteps, part.tokens), part.noise)


def tokenize(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> Tensor:
    """Captions to (n, 16) padded token numbers."""
    padded = tokenizer(
        list(captions),
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    )
    tokens: Tensor = padded.input_ids
    return tokens


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng(item_seed(seed, "epoch", epoch)).permutation(count)


def draw(
    stages: Sequence[Stage], tokens: Tensor, empty: Tensor, step: int, progress: float, *, seed: int
) -> list[Part]:
    """Draw the batch of one step.

    Parameters
    ----------
    stages : sequence of Stage
        The one that ``progress`` falls into is drawn from.
    tokens : (pictures, 16) int64
    empty : (16,) int64
        Tokens of the empty caption.
    step, progress, seed
        All that the batch depends on.
    """
    stage = next((stage for stage in stages if progress < stage.until), stages[-1])
    generator = np.random.default_rng(item_seed(seed, "denoiser", step))
    orientations, count = stage.latents.shape[:2]
    places = step * stage.batch + np.arange(stage.batch)
    chosen = np.array([_order(seed, int(p) // count, count)[int(p) % count] for p in places])
    mirrored = generator.integers(0, orientations, stage.batch)
    latents = torch.from_numpy(stage.latents[mirrored, chosen].astype(np.float32))
    noise = torch.from_numpy(generator.standard_normal(latents.shape, dtype=np.float32))
    # Uniform, and spread evenly over the batch: less noise in the gradient at no cost (Kingma et
    # al. 2021, "Variational diffusion models", appendix I.1).
    strata = (generator.random() + np.arange(stage.batch) / stage.batch) % 1
    timesteps = torch.from_numpy((1000 * strata).astype(np.int64))
    captions = tokens[torch.from_numpy(chosen)].clone()
    captions[torch.from_numpy(generator.random(stage.batch) < CAPTION_DROPOUT)] = empty
    return [
        Part(*fields)
        for fields in zip(
            *(values.split(stage.part) for values in (latents, noise, timesteps, captions)),
            strict=True,
        )
    ]


def train_denoiser(
    denoiser: Denoiser,
    stages: Sequence[Stage],
    tokens: Tensor,
    empty: Tensor,
    checkpoint: Path,
    budget: Budget,
    *,
    seed: int,
    workers: int,
    optimisation: Optimisation | None = None,
    on_save: Callable[[Trainer], None] | None = None,
) -> Trainer:
    """Train ``denoiser`` in place, stage after stage.

    Raises
    ------
    UserError
        On SIGTERM or SIGINT, after a checkpoint.
    """
    denoiser.unet.to(memory_format=torch.channels_last)
    trainer = Trainer(denoiser, checkpoint, optimisation or Optimisation())
    trainer.run(
        functools.partial(draw, stages, tokens, empty, seed=seed),
        ddpm_loss,
        lambda parts: sum(len(part.latents) for part in parts),
        budget,
        workers=workers,
        name="denoiser",
        on_save=on_save,
    )
    return trainer
