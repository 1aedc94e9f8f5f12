"""What nano-sd is made of: SD-1.5's block types and module names at small width.

Against SD-1.5 it has widths (32, 64, 128, 128) for (320, 640, 1280, 1280), heads (1, 2, 4, 4) for
8 at every level, 8 groups for 32 in every group norm, a text width of 64 for 768, and a VAE that
shrinks the picture 4 times for 8.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

#: Side of a training latent.
LATENT_SIDE = 32
#: Tokens of a prompt, with start and end.
PROMPT_TOKENS = 16

UNET: dict[str, Any] = {
    "sample_size": LATENT_SIDE,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "block_out_channels": (32, 64, 128, 128),
    "down_block_types": (
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    ),
    "up_block_types": (
        "UpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
    ),
    "norm_num_groups": 8,
    "cross_attention_dim": 64,
    # In diffusers' UNet2DConditionModel this is the number of heads per level.
    "attention_head_dim": (1, 2, 4, 4),
}

VAE: dict[str, Any] = {
    "sample_size": 128,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 1,
    "block_out_channels": (16, 32, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "norm_num_groups": 8,
}

TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": PROMPT_TOKENS,
    "projection_dim": 64,
}

#: SD-1.5's own schedule (DDPM form; pipelines may build any scheduler from it).
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "clip_sample": False,
    "steps_offset": 1,
}


def build_unet(*, seed: int, config: dict[str, Any] | None = None) -> UNet2DConditionModel:
    """Make a U-Net with fresh weights; equal seeds give equal weights.

    Parameters
    ----------
    seed : int
        Of the initial weights. The caller's random state is left as it was.
    config : dict, optional
        A U-Net's configuration as in diffusers' ``config.json``; nano-sd's own by default.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = UNet2DConditionModel.from_config(dict(config or UNET))
    assert isinstance(model, UNet2DConditionModel)
    return model.eval()


def build_vae(*, seed: int) -> AutoencoderKL:
    """Make a VAE with fresh weights: (3, 128, 128) pictures in [-1, 1] to (4, 32, 32) latents."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoencoderKL(**VAE)
    return model.eval()


def build_text_encoder(*, seed: int, vocabulary: int) -> CLIPTextModel:
    """Make a text encoder with fresh weights for a tokenizer of ``vocabulary`` tokens.

    The last two tokens start and end a prompt, as in CLIP's own vocabulary.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = CLIPTextConfig(
            vocab_size=vocabulary,
            bos_token_id=vocabulary - 2,
            eos_token_id=vocabulary - 1,
            pad_token_id=vocabulary - 1,
            **TEXT,
        )
        model = CLIPTextModel(config)
    return model.eval()


def build_scheduler() -> DDPMScheduler:
    """Make the noise schedule that nano-sd is trained with."""
    return DDPMScheduler(**SCHEDULER)
