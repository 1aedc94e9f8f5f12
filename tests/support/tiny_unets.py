"""Tiny pipelines of the U-Net family, as complete folders in diffusers' layout.

Each has the parts, the switches and the scheduler of the real model at a width of 8 to 32, with
random weights. All weights are numbers that float16 holds exactly, so that a peer which loads them
through float16 computes with the same ones.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

TOKENIZER = Path(__file__).parents[2] / "resources" / "models" / "nano-sd" / "tokenizer"
NOISE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}
SCHEDULERS = {
    "sd-1": lambda: PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=False, **NOISE),
    "sd-2": lambda: DDIMScheduler(
        prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False, **NOISE
    ),
    "sd-turbo": lambda: EulerDiscreteScheduler(timestep_spacing="trailing", **NOISE),
    "sdxl": lambda: EulerDiscreteScheduler(timestep_spacing="leading", **NOISE),
    "sdxl-turbo": lambda: EulerAncestralDiscreteScheduler(timestep_spacing="trailing", **NOISE),
}
KINDS = tuple(SCHEDULERS)


def make(kind: str, folder: Path, *, deep: bool = False) -> Path:
    """Save a complete tiny pipeline of a kind to ``folder``; ``deep``: with every real layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(KINDS.index(kind))
        parts: dict[str, Any] = {
            "scheduler": SCHEDULERS[kind](),
            "vae": _vae(),
            "tokenizer": CLIPTokenizer.from_pretrained(TOKENIZER),
        }
        if kind.startswith("sdxl"):
            parts |= {
                "text_encoder": CLIPTextModel(_text(16, act="quick_gelu", layers=2)),
                "text_encoder_2": CLIPTextModelWithProjection(_text(24, act="gelu", layers=3)),
                "tokenizer_2": CLIPTokenizer.from_pretrained(TOKENIZER, pad_token="!"),
                "unet": _sdxl(deep=deep),
            }
            pipeline = StableDiffusionXLPipeline(**parts)
        else:
            act, layers = ("quick_gelu", 2) if kind == "sd-1" else ("gelu", 3)
            parts |= {
                "text_encoder": CLIPTextModel(_text(16, act=act, layers=layers)),
                "unet": _stable_diffusion(second=kind != "sd-1", deep=deep),
                "safety_checker": None,
                "feature_extractor": None,
            }
            pipeline = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.half().float()
    pipeline.save_pretrained(folder)
    return folder


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 16),
        norm_num_groups=4,
        scaling_factor=0.18215,
    )


def _text(width: int, *, act: str, layers: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=221,
        bos_token_id=219,
        eos_token_id=220,
        pad_token_id=220,
        max_position_embeddings=16,
        hidden_size=width,
        intermediate_size=2 * width,
        num_attention_heads=2,
        num_hidden_layers=layers,
        hidden_act=act,
        projection_dim=24,
        # Not the tiny default, so that the text matters to the denoiser.
        initializer_factor=3.0,
    )


def _stable_diffusion(*, second: bool, deep: bool) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        block_out_channels=(8, 16, 16, 16),
        layers_per_block=2 if deep else 1,
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=(1, 2, 4, 4) if second else 2,
        use_linear_projection=second,
    )


def _sdxl(*, deep: bool) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16, 16),
        transformer_layers_per_block=(1, 2, 10) if deep else (1, 2, 3),
        attention_head_dim=(1, 2, 4),
        layers_per_block=2 if deep else 1,
        norm_num_groups=4,
        use_linear_projection=True,
        cross_attention_dim=40,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24 + 6 * 8,
    )
