"""The SD-3 family: Stable Diffusion 3 and 3.5, transformers with a text and an image stream.

Reading a study needs :func:`positions` only, so torch is imported where it is used.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprscope.base.protocol import Protocol
from reprscope.models import configs
from reprscope.models.denoiser import Passed, to_grid
from reprscope.models.flow import FlowSchedule, read_schedule
from reprscope.models.parts import write_untrained
from reprscope.models.transformer import (
    COMPONENT_FOLDER,
    Transformer,
    image_stream,
    load_module,
    refuse_upcast,
)
from reprscope.runtime.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from reprscope.models.denoiser import Noising
    from reprscope.models.text import Reader

COMPONENT = COMPONENT_FOLDER
CLASS = "SD3Transformer2DModel"
NOISE = "flow-matching"
PATCH = 2

CLIP_TOKENS = 77
"""Length of a CLIP embedding."""

T5_TOKENS = 256
"""Length of the T5 embedding: the default of the diffusers pipeline."""

IMAGE_ENTRIES = {
    "pos_embed": 0,
    "transformer_blocks": 1,
    "attn": 0,
    "attn2": 0,
    "ff": 0,
    "proj_out": 0,
}
"""Which entry of a module's tuple is the image stream: a block gives (text, image), attention
(image, text), the others a tensor."""


class SD3(Transformer):
    """A denoiser on latents, a noise level and two embeddings of a text.

    The module is a diffusers ``SD3Transformer2DModel``.
    """

    def __call__(
        self, latents: torch.Tensor, timestep: int, prompt: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Run the denoiser.

        Parameters
        ----------
        latents : tensor, (batch, 16, h, w)
        timestep : int
            The module gets 1000 times the noise level of it.
        prompt : mapping
            ``embedding`` (batch, tokens, features) and ``pooled`` (batch, features).
        """
        import torch

        level = self.sigma(latents, timestep) * self.timesteps
        predicted = self.module(
            hidden_states=latents,
            timestep=torch.full((len(latents),), level, device=latents.device),
            encoder_hidden_states=prompt["embedding"],
            pooled_projections=prompt["pooled"],
            return_dict=False,
        )
        prediction: torch.Tensor = predicted[0]
        return prediction

    def tokens(self, position: str, output: Any, passed: Passed) -> torch.Tensor:
        """Token grid (batch, h, w, channels) of the image stream of a module's output.

        The module itself divides the latents into tokens, of ``patch`` x ``patch``.
        """
        stream = image_stream(position, output, IMAGE_ENTRIES)
        return to_grid(position, stream, self.grid(passed.latents))


def encode_prompts(
    folder: Path, texts: Sequence[str], *, device: torch.device
) -> dict[str, NDArray[np.floating[Any]]]:
    """Embeddings of texts as the diffusers pipeline makes them.

    Returns
    -------
    ``embedding`` (texts, tokens, features): first the tokens of the two CLIP encoders, their hidden
    states before the last layer one behind the other along the features and zeros after them, then
    256 tokens of T5, or zeros if the folder has no ``text_encoder_3``. ``pooled`` (texts,
    features): the projected texts of the two CLIP encoders.
    """
    import numpy as np

    from reprscope.models.t5 import compact, t5_text
    from reprscope.models.text import clip_text

    clips = [
        clip_text(folder, texts, hidden="penultimate", device=device, number=number)
        for number in (1, 2)
    ]
    if (folder / "text_encoder_3").is_dir():
        long = t5_text(folder, texts, number=3, tokens=T5_TOKENS, device=device)
    else:
        config = json.loads((folder / COMPONENT / "config.json").read_text(encoding="utf-8"))
        features = config["joint_attention_dim"]
        long = np.zeros((len(texts), T5_TOKENS, features), np.float32)
    short = np.concatenate([clip.hidden for clip in clips], axis=2)
    padding = ((0, 0), (0, 0), (0, long.shape[2] - short.shape[2]))
    return {
        "embedding": compact(np.concatenate([np.pad(short, padding), long], axis=1)),
        "pooled": np.concatenate([clip.pooled for clip in clips], axis=1),
    }


def readers(folder: Path) -> dict[str, Reader]:
    """What reads texts for :func:`encode_prompts`, by text encoder."""
    from reprscope.models.t5 import t5_reader
    from reprscope.models.text import clip_reader

    found = {f"CLIP {number}": clip_reader(folder, number) for number in (1, 2)}
    if (folder / "text_encoder_3").is_dir():
        found["T5"] = t5_reader(folder, number=3, tokens=T5_TOKENS)
    return found


def text_precision(folder: Path, *, device: torch.device) -> dict[str, str]:
    """Types in which :func:`encode_prompts` computes, by text encoder."""
    from reprscope.models.t5 import t5_precision

    if not (folder / "text_encoder_3").is_dir():
        return {"CLIP": "float32"}
    return {"CLIP": "float32", "T5": t5_precision(folder, number=3, device=device)}


def reduced_precision(config: Mapping[str, Any]) -> str:
    """Type of 16 bits that holds what a denoiser of this configuration computes.

    float16 for SD-3, whose weights are published in it; bfloat16 for SD-3.5, which is told by its
    normalised queries and keys and was trained and published in it.
    """
    return "bfloat16" if config.get("qk_norm") else "float16"


def noising(folder: Path) -> Noising:
    """Noise of a model folder's own schedule: :meth:`Transformer.add_noise` without its weights."""
    import torch

    return SD3(torch.nn.Identity(), read_schedule(folder), patch=PATCH).add_noise


def load(
    folder: Path,
    *,
    dtype: torch.dtype,
    device: torch.device,
    protocol: Protocol,
    upcast_attention: bool = False,
) -> SD3:
    """Load the denoiser of a model folder in diffusers' layout; nothing else of it.

    Of the protocol nothing applies that a denoiser decides.

    Raises
    ------
    UserError
        If it cannot be loaded, its scheduler is not one of flow matching, or attention is to be
        upcast, which no model of the family asks for.
    """
    refuse_upcast(upcast_attention)
    schedule = read_schedule(folder)
    module: Any = load_module(CLASS, folder, dtype=dtype, device=device)
    config = configs.complete(CLASS, module.config, where=f"{folder}/{COMPONENT}")
    return SD3(module, schedule, patch=config["patch_size"], limit=config["pos_embed_max_size"])


def make_empty(
    config: Mapping[str, Any], grid: tuple[int, int]
) -> tuple[SD3, torch.Tensor, dict[str, torch.Tensor]]:
    """Make a denoiser without weights, latents and a prompt for it, on the meta device.

    Parameters
    ----------
    config : mapping
        The transformer's ``config.json``; values that are missing are diffusers' defaults.
    grid : (h, w)
        Size of the latents.
    """
    import torch
    from diffusers import SD3Transformer2DModel

    configs.complete(CLASS, config, where=COMPONENT)
    with torch.device("meta"):
        module = SD3Transformer2DModel.from_config(dict(config))
        full = module.config
        latents = torch.empty(1, full["in_channels"], *grid)
        prompt = {
            "embedding": torch.empty(1, CLIP_TOKENS + T5_TOKENS, full["joint_attention_dim"]),
            "pooled": torch.empty(1, full["pooled_projection_dim"]),
        }
    limit = full["pos_embed_max_size"]
    denoiser = SD3(module, FlowSchedule(), patch=full["patch_size"], limit=limit)
    return denoiser, latents, prompt


def make_untrained(folder: Path, out: Path, *, seed: int) -> None:
    """Write an untrained twin of a model's denoiser to ``out``: same configuration, new weights."""
    write_untrained(CLASS, folder, COMPONENT, out, seed=seed)


def parts(found: Container[str]) -> dict[str, str]:
    """Classes of a model's parts by their folders; T5 may be left out."""
    classes = {
        COMPONENT: CLASS,
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModelWithProjection",
        "text_encoder_2": "CLIPTextModelWithProjection",
    }
    if "text_encoder_3" in found:
        classes["text_encoder_3"] = "T5EncoderModel"
    return classes


def check(parts: Mapping[str, Mapping[str, Any]]) -> None:
    """Check what fields of the parts' configurations have to do with each other.

    Raises
    ------
    UserError
        If they do not fit together.
    """
    config = parts[COMPONENT]
    configs.check_equal(
        ("caption_projection_dim", config["caption_projection_dim"]),
        (
            "num_attention_heads times attention_head_dim",
            config["num_attention_heads"] * config["attention_head_dim"],
        ),
    )
    if config["caption_projection_dim"] % 4:
        raise UserError(
            f"{COMPONENT}/config.json has {config['caption_projection_dim']} features, into which "
            "sines and cosines of two axes do not go: use a model with a multiple of 4."
        )
    if "vae" in parts:
        configs.check_equal(
            ("in_channels of the transformer", config["in_channels"]),
            ("latent_channels of the VAE", parts["vae"]["latent_channels"]),
        )
    clips = [parts[name] for name in ("text_encoder", "text_encoder_2") if name in parts]
    if clips:
        configs.check_equal(
            ("pooled_projection_dim", config["pooled_projection_dim"]),
            (
                "projection_dim of both text encoders",
                sum(clip["projection_dim"] or 0 for clip in clips),
            ),
        )
        hidden = sum(clip["hidden_size"] for clip in clips)
        if hidden > config["joint_attention_dim"]:
            raise UserError(
                f"{COMPONENT}/config.json has joint_attention_dim: {config['joint_attention_dim']},"
                f" less than the {hidden} features of the text encoders: use a model as released."
            )
    if "text_encoder_3" in parts:
        configs.check_equal(
            ("joint_attention_dim", config["joint_attention_dim"]),
            ("d_model of text_encoder_3", parts["text_encoder_3"]["d_model"]),
        )


def positions(config: Mapping[str, Any]) -> list[str]:
    """Module paths of a ``SD3Transformer2DModel``, in the order of the forward pass.

    Parameters
    ----------
    config : mapping
        The transformer's ``config.json``; values that are missing are diffusers' defaults.
    """
    config = configs.complete(CLASS, config, where=COMPONENT)
    found = ["pos_embed"]
    for i in range(config["num_layers"]):
        block = f"transformer_blocks.{i}"
        dual = i in config["dual_attention_layers"]
        inner = ("attn", "attn2", "ff") if dual else ("attn", "ff")
        found += [*(f"{block}.{name}" for name in inner), block]
    return [*found, "proj_out"]
