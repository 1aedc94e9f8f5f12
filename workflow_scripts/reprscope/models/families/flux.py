"""The FLUX family: FLUX.1-schnell and FLUX.1-dev, transformers with double and single blocks.

In double blocks text and image are two streams; in single blocks they are one, text first.
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

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from reprscope.models.denoiser import Noising
    from reprscope.models.text import Reader

COMPONENT = COMPONENT_FOLDER
CLASS = "FluxTransformer2DModel"
NOISE = "flow-matching"

PATCH = 2
"""Latents per side of a token: the pipeline packs them, the module knows nothing of it."""

T5_TOKENS = {True: 512, False: 256}
"""Length of the T5 embedding: FLUX.1-dev, which is guided, knows 512 tokens and FLUX.1-schnell 256
(``max_sequence_length`` on their model cards; the pipeline's default, 512, is that of dev)."""

GUIDANCE = 3.5
"""Guidance of models that were distilled with it: the default of the diffusers pipeline."""

IMAGE_ENTRIES = {
    "x_embedder": 0,
    "transformer_blocks": 1,
    "single_transformer_blocks": 1,
    "attn": 0,
    "ff": 0,
    "proj_mlp": 0,
    "proj_out": 0,
}
"""Which entry of a module's tuple is the image stream: a block gives (text, image), attention
(image, text), the others a tensor."""


class Flux(Transformer):
    """A denoiser on packed latents, a noise level and two embeddings of a text.

    Parameters
    ----------
    module : torch.nn.Module
        A diffusers ``FluxTransformer2DModel``.
    schedule : FlowSchedule
    guided : bool
        Whether it was distilled with guidance, and wants to be told how much (FLUX.1-dev).
    """

    def __init__(self, module: torch.nn.Module, schedule: FlowSchedule, *, guided: bool) -> None:
        super().__init__(module, schedule, patch=PATCH)
        self.guided = guided

    def __call__(
        self, latents: torch.Tensor, timestep: int, prompt: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Run the denoiser.

        Parameters
        ----------
        latents : tensor, (batch, 16, h, w)
        timestep : int
            The module gets the noise level of it.
        prompt : mapping
            ``embedding`` (batch, tokens, features) and ``pooled`` (batch, features).

        Returns
        -------
        tensor, (batch, h / 2 * w / 2, 64)
            The prediction, packed as :func:`pack` does.
        """
        import torch

        count, device = len(latents), latents.device
        level = self.sigma(latents, timestep) * self.timesteps
        predicted = self.module(
            hidden_states=pack(latents),
            # In this order of rounding and dividing low precisions give what the pipeline gives.
            timestep=torch.full((count,), level, device=device, dtype=latents.dtype) / 1000,
            guidance=torch.full((count,), GUIDANCE, device=device) if self.guided else None,
            encoder_hidden_states=prompt["embedding"],
            pooled_projections=prompt["pooled"],
            txt_ids=torch.zeros(prompt["embedding"].shape[1], 3, device=device),
            img_ids=image_ids(self.grid((latents.shape[2], latents.shape[3]))).to(device),
            return_dict=False,
        )
        prediction: torch.Tensor = predicted[0]
        return prediction

    def tokens(self, position: str, output: Any, passed: Passed) -> torch.Tensor:
        """Token grid (batch, h, w, channels) of the image stream of a module's output.

        The latents are packed 2 x 2 to tokens.
        """
        height, width = self.grid(passed.latents)
        stream = image_stream(position, output, IMAGE_ENTRIES)
        single = position.startswith("single_transformer_blocks")
        # One stream of text and image, except where the block has already cut the text off.
        if single and stream.shape[1] == passed.text + height * width:
            stream = stream[:, passed.text :]
        return to_grid(position, stream, (height, width))


def pack(latents: torch.Tensor) -> torch.Tensor:
    """Pack latents (batch, channels, h, w) 2 x 2 to tokens (batch, h / 2 * w / 2, channels * 4).

    Tokens follow row by row; in each, the four latents of a channel are together.
    """
    batch, channels, height, width = latents.shape
    h, w = height // PATCH, width // PATCH
    cells = latents.reshape(batch, channels, h, PATCH, w, PATCH).permute(0, 2, 4, 1, 3, 5)
    return cells.reshape(batch, h * w, channels * PATCH * PATCH)


def image_ids(grid: tuple[int, int]) -> torch.Tensor:
    """Positions (h * w, 3) of image tokens: 0, row and column, from which attention turns."""
    import torch

    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3).float()


def encode_prompts(
    folder: Path, texts: Sequence[str], *, device: torch.device
) -> dict[str, NDArray[np.floating[Any]]]:
    """Embeddings of texts as the diffusers pipeline makes them.

    Returns
    -------
    ``embedding`` (texts, 512 or 256, features) of T5, and ``pooled`` (texts, features) of CLIP.
    """
    from reprscope.models.t5 import t5_text
    from reprscope.models.text import clip_text

    tokens = _t5_tokens(folder)
    pooled = clip_text(folder, texts, hidden="none", device=device).pooled
    long = t5_text(folder, texts, number=2, tokens=tokens, device=device)
    return {"embedding": long, "pooled": pooled}


def _t5_tokens(folder: Path) -> int:
    config = json.loads((folder / COMPONENT / "config.json").read_text(encoding="utf-8"))
    return T5_TOKENS[bool(config.get("guidance_embeds", False))]


def readers(folder: Path) -> dict[str, Reader]:
    """What reads texts for :func:`encode_prompts`, by text encoder."""
    from reprscope.models.t5 import t5_reader
    from reprscope.models.text import clip_reader

    tokens = _t5_tokens(folder)
    return {"CLIP": clip_reader(folder), "T5": t5_reader(folder, number=2, tokens=tokens)}


def text_precision(folder: Path, *, device: torch.device) -> dict[str, str]:
    """Types in which :func:`encode_prompts` computes, by text encoder."""
    from reprscope.models.t5 import t5_precision

    return {"CLIP": "float32", "T5": t5_precision(folder, number=2, device=device)}


def reduced_precision(config: Mapping[str, Any]) -> str:
    """Type of 16 bits that holds what a denoiser of this configuration computes: bfloat16.

    In float16 some activations of the released weights are cut off at the largest number.
    """
    return "bfloat16"


def noising(folder: Path) -> Noising:
    """Noise of a model folder's own schedule: :meth:`Transformer.add_noise` without its weights."""
    import torch

    return Flux(torch.nn.Identity(), read_schedule(folder), guided=False).add_noise


def load(
    folder: Path,
    *,
    dtype: torch.dtype,
    device: torch.device,
    protocol: Protocol,
    upcast_attention: bool = False,
) -> Flux:
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
    return Flux(module, schedule, guided=config["guidance_embeds"])


def make_empty(
    config: Mapping[str, Any], grid: tuple[int, int]
) -> tuple[Flux, torch.Tensor, dict[str, torch.Tensor]]:
    """Make a denoiser without weights, latents and a prompt for it, on the meta device.

    Parameters
    ----------
    config : mapping
        The transformer's ``config.json``; values that are missing are diffusers' defaults.
    grid : (h, w)
        Size of the latents.
    """
    import torch
    from diffusers import FluxTransformer2DModel

    configs.complete(CLASS, config, where=COMPONENT)
    with torch.device("meta"):
        module = FluxTransformer2DModel.from_config(dict(config))
        full = module.config
        latents = torch.empty(1, full["in_channels"] // PATCH**2, *grid)
        prompt = {
            "embedding": torch.empty(
                1, T5_TOKENS[bool(full["guidance_embeds"])], full["joint_attention_dim"]
            ),
            "pooled": torch.empty(1, full["pooled_projection_dim"]),
        }
    return Flux(module, FlowSchedule(), guided=full["guidance_embeds"]), latents, prompt


def make_untrained(folder: Path, out: Path, *, seed: int) -> None:
    """Write an untrained twin of a model's denoiser to ``out``: same configuration, new weights."""
    write_untrained(CLASS, folder, COMPONENT, out, seed=seed)


def parts(found: Container[str]) -> dict[str, str]:
    """Classes of a model's parts by their folders."""
    return {
        COMPONENT: CLASS,
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModel",
        "text_encoder_2": "T5EncoderModel",
    }


def check(parts: Mapping[str, Mapping[str, Any]]) -> None:
    """Check what fields of the parts' configurations have to do with each other.

    Raises
    ------
    UserError
        If they do not fit together.
    """
    config = parts[COMPONENT]
    configs.check_equal(
        ("attention_head_dim", config["attention_head_dim"]),
        ("the sum of axes_dims_rope", sum(config["axes_dims_rope"])),
    )
    if "vae" in parts:
        configs.check_equal(
            ("in_channels of the transformer", config["in_channels"]),
            (
                "four times latent_channels of the VAE",
                PATCH**2 * parts["vae"]["latent_channels"],
            ),
        )
    if "text_encoder" in parts:
        configs.check_equal(
            ("pooled_projection_dim", config["pooled_projection_dim"]),
            ("hidden_size of the text encoder", parts["text_encoder"]["hidden_size"]),
        )
    if "text_encoder_2" in parts:
        configs.check_equal(
            ("joint_attention_dim", config["joint_attention_dim"]),
            ("d_model of text_encoder_2", parts["text_encoder_2"]["d_model"]),
        )


def positions(config: Mapping[str, Any]) -> list[str]:
    """Module paths of a ``FluxTransformer2DModel``, in the order of the forward pass.

    Parameters
    ----------
    config : mapping
        The transformer's ``config.json``; values that are missing are diffusers' defaults.
    """
    config = configs.complete(CLASS, config, where=COMPONENT)
    found = ["x_embedder"]
    for name, count, inner in (
        ("transformer_blocks", config["num_layers"], ("attn", "ff")),
        (
            "single_transformer_blocks",
            config["num_single_layers"],
            ("proj_mlp", "attn", "proj_out"),
        ),
    ):
        for i in range(count):
            found += [*(f"{name}.{i}.{layer}" for layer in inner), f"{name}.{i}"]
    return [*found, "proj_out"]
