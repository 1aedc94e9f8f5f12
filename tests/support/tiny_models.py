"""Tiny pipelines of the transformer families, as complete folders in diffusers' layout.

Each has the parts, the switches and the scheduler of the real model at a width of 8 to 48, with
random weights.
"""

from pathlib import Path
from string import ascii_lowercase

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

TOKENIZER = Path(__file__).parents[2] / "resources" / "models" / "nano-sd" / "tokenizer"
T5_WIDTH = 48


def sd3(
    folder: Path, *, medium35: bool = False, t5: bool = True, layers: int = 3, side: int = 24
) -> Path:
    """Save a pipeline like SD-3-medium, or like SD-3.5-medium, that knows ``side`` x ``side``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        transformer = SD3Transformer2DModel(
            sample_size=32,
            num_layers=layers,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=T5_WIDTH,
            caption_projection_dim=16,
            pooled_projection_dim=24 + 24,
            pos_embed_max_size=side,
            dual_attention_layers=(0, 1) if medium35 else (),
            qk_norm="rms_norm" if medium35 else None,
        )
        StableDiffusion3Pipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=_vae(scaling_factor=1.5305, shift_factor=0.0609),
            text_encoder=CLIPTextModelWithProjection(_clip(16)),
            tokenizer=CLIPTokenizer.from_pretrained(TOKENIZER),
            text_encoder_2=CLIPTextModelWithProjection(_clip(24)),
            tokenizer_2=CLIPTokenizer.from_pretrained(TOKENIZER, pad_token="!"),
            text_encoder_3=_t5() if t5 else None,
            tokenizer_3=_t5_tokenizer() if t5 else None,
        ).save_pretrained(folder)
    return folder


def flux(folder: Path, *, guidance: bool = False, layers: tuple[int, int] = (2, 3)) -> Path:
    """Save a pipeline like FLUX.1-dev (with guidance) or FLUX.1-schnell to ``folder``."""
    dynamic = {
        "base_image_seq_len": 256,
        "base_shift": 0.5,
        "max_image_seq_len": 4096,
        "max_shift": 1.15,
        "shift": 3.0,
        "use_dynamic_shifting": True,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        transformer = FluxTransformer2DModel(
            in_channels=64,
            num_layers=layers[0],
            num_single_layers=layers[1],
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=T5_WIDTH,
            pooled_projection_dim=16,
            guidance_embeds=guidance,
            axes_dims_rope=(4, 2, 2),
        )
        FluxPipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(**dynamic if guidance else {"shift": 1.0}),
            vae=_vae(scaling_factor=0.3611, shift_factor=0.1159),
            text_encoder=CLIPTextModel(_clip(16)),
            tokenizer=CLIPTokenizer.from_pretrained(TOKENIZER),
            text_encoder_2=_t5(),
            tokenizer_2=_t5_tokenizer(),
        ).save_pretrained(folder)
    return folder


def _vae(**scale: float) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 16),
        norm_num_groups=4,
        latent_channels=16,
        use_quant_conv=False,
        use_post_quant_conv=False,
        **scale,
    )


def _clip(width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=221,
        bos_token_id=219,
        eos_token_id=220,
        pad_token_id=220,
        max_position_embeddings=16,
        hidden_size=width,
        intermediate_size=2 * width,
        num_attention_heads=2,
        num_hidden_layers=3,
        projection_dim=24,
        # Not the tiny default, so that the text matters to the denoiser.
        initializer_factor=5.0,
    )


def _t5() -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=len(_vocabulary()),
            d_model=T5_WIDTH,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=2,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
        )
    )


def _t5_tokenizer() -> T5TokenizerFast:
    return T5TokenizerFast(vocab=_vocabulary(), extra_ids=0, model_max_length=512)


def _vocabulary() -> list[tuple[str, float]]:
    """Pieces with their log probabilities: letters, and some words that a prompt may have."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    words = [(f"▁{word}", -3.0) for word in ("a", "photo", "of", "the", "cat", "dog")]
    return [*special, *words, ("▁", -4.0), *((letter, -6.0) for letter in ascii_lowercase)]
