"""The U-Net family: Stable Diffusion 1.x, 2.x, XL and their distilled forms.

Reading a study needs :func:`positions` only, so torch is imported where it is used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprscope.diffusion import alphas_cumprod
from reprscope.errors import UserError
from reprscope.models import schedulers
from reprscope.models.denoiser import Passed, to_grid
from reprscope.models.parts import load_part, write_untrained
from reprscope.protocol import Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from reprscope.models.denoiser import Noising

COMPONENT = "unet"
NOISE = "variance-preserving"
PATCH = 1

TOKENS = 77
"""Length of a CLIP embedding."""


class UNet:
    """A denoiser that predicts from noised latents, a timestep and a text embedding.

    Parameters
    ----------
    module : torch.nn.Module
        A diffusers ``UNet2DConditionModel``.
    schedule : mapping
        The scheduler's configuration.
    sized : bool
        Whether it is conditioned on the pooled text and the image size too (SDXL).
    rescaling : bool
        See :class:`reprscope.protocol.Protocol`.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        schedule: Mapping[str, Any],
        *,
        sized: bool = False,
        rescaling: bool = False,
    ) -> None:
        self.module = module.eval().requires_grad_(False)
        self._alphas = alphas_cumprod(schedule)
        self._sized = sized
        self._rescaling = rescaling and schedule.get("_class_name") in schedulers.SIGMA_SPACE

    @property
    def clipping(self) -> Sequence[str]:
        """None: what is too large becomes infinite."""
        return ()

    @property
    def timesteps(self) -> int:
        """Number of training timesteps; valid timesteps are 0 to one less."""
        return len(self._alphas)

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timestep: int) -> torch.Tensor:
        """Noised latents of a timestep: ``sqrt(a) x + sqrt(1 - a) e`` (DDPM, equation 4).

        The latents of a variance-preserving schedule are not rescaled afterwards.
        """
        level = float(self._alphas[timestep])
        return math.sqrt(level) * latents + math.sqrt(1.0 - level) * noise

    def __call__(
        self, latents: torch.Tensor, timestep: int, prompt: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Run the denoiser.

        Parameters
        ----------
        latents : tensor, (batch, channels, h, w)
        timestep : int
        prompt : mapping
            ``embedding`` (batch, tokens, features); for SDXL also ``pooled`` (batch, features)
            and ``pixels`` (batch, 2), width and height of the encoded images.
        """
        import torch

        if self._rescaling:
            latents = latents * math.sqrt(float(self._alphas[timestep]))
        time = torch.full((len(latents),), timestep, device=latents.device)
        added = None
        if self._sized:
            width, height = prompt["pixels"].unbind(1)
            nothing = torch.zeros_like(width)
            # Size of the original, corner of the crop, size of the target: the whole image.
            sizes = [height, width, nothing, nothing, height, width]
            added = {"text_embeds": prompt["pooled"], "time_ids": torch.stack(sizes, 1)}
        predicted = self.module(
            latents,
            time,
            encoder_hidden_states=prompt["embedding"],
            added_cond_kwargs=added,
            return_dict=False,
        )
        prediction: torch.Tensor = predicted[0]
        return prediction

    @staticmethod
    def tokens(position: str, output: Any, passed: Passed) -> torch.Tensor:
        """Token grid (batch, h, w, channels) of a module's output.

        Parameters
        ----------
        position : str
        output
            A tensor, or a tuple whose first entry is the tensor (blocks return their residuals
            too). Feature maps are (batch, channels, h, w); layers inside a transformer block give
            (batch, h * w, channels), on the grid of the feature map that went into the whole.
        passed : Passed

        Raises
        ------
        UserError
            If the output has not as many tokens as that feature map.
        """
        tensor: torch.Tensor = output[0] if isinstance(output, tuple) else output
        if tensor.ndim == 4:
            return tensor.permute(0, 2, 3, 1)
        return to_grid(position, tensor, passed.features or passed.latents)


def encode_prompts(
    folder: Path, texts: Sequence[str], *, device: torch.device
) -> dict[str, NDArray[np.float32]]:
    """Embeddings of texts as the diffusers pipelines make them; see :mod:`reprscope.models.text`.

    Returns
    -------
    ``embedding`` (texts, tokens, features): the last hidden state of the text encoder. SDXL has two
    encoders and takes the hidden states before the last layer, one behind the other along the
    features, and ``pooled`` (texts, features), the projected text of the second encoder. The empty
    text is encoded like any other.
    """
    import numpy as np

    from reprscope.models.text import clip_text

    if not (folder / "text_encoder_2").is_dir():
        return {"embedding": clip_text(folder, texts, hidden="last", device=device).hidden}
    first = clip_text(folder, texts, hidden="penultimate", device=device)
    second = clip_text(folder, texts, hidden="penultimate", device=device, number=2)
    embedding = np.concatenate([first.hidden, second.hidden], axis=-1)
    return {"embedding": embedding, "pooled": second.pooled}


def text_precision(folder: Path, *, device: torch.device) -> dict[str, str]:
    """Types in which :func:`encode_prompts` computes, by text encoder."""
    return {"CLIP": "float32"}


def reduced_precision(config: Mapping[str, Any]) -> str:
    """Type of 16 bits that holds what a denoiser of this configuration computes: float16."""
    return "float16"


def noising(folder: Path) -> Noising:
    """Noise of a model folder's own schedule: :meth:`UNet.add_noise` without its weights."""
    import torch

    return UNet(torch.nn.Identity(), schedule_config(folder)).add_noise


def load(
    folder: Path,
    *,
    dtype: torch.dtype,
    device: torch.device,
    protocol: Protocol,
    upcast_attention: bool,
) -> UNet:
    """Load the denoiser of a model folder in diffusers' layout; nothing else of it.

    Parameters
    ----------
    folder : Path
    dtype : torch.dtype
    device : torch.device
    protocol : Protocol
        ``rescaling`` and ``added_conditioning`` are read.
    upcast_attention : bool
        Compute attention in float32, whatever ``dtype`` is: SD-2 overflows float16 there.

    Raises
    ------
    UserError
        If it cannot be loaded, or is conditioned on more than text and image size.
    """
    import torch
    from diffusers import UNet2DConditionModel

    module = load_part(UNet2DConditionModel, folder, COMPONENT, name="U-Net", dtype=dtype)
    sized = _is_sized(module, f"The U-Net in {folder}") and protocol.added_conditioning
    if not sized:
        module.register_to_config(addition_embed_type=None)
    if upcast_attention and dtype != torch.float32:
        _upcast_attention(module)
    module.to(device, memory_format=torch.channels_last)
    return UNet(module, schedule_config(folder), sized=sized, rescaling=protocol.rescaling)


def _is_sized(module: Any, name: str) -> bool:
    wanted = module.config["addition_embed_type"]
    if wanted not in (None, "text_time"):
        raise UserError(
            f"{name} is conditioned on {wanted}, which is not supported: use a model of the kinds "
            "SD-1, SD-2 or SDXL."
        )
    return bool(wanted)


def _upcast_attention(module: torch.nn.Module) -> None:
    """Make every attention compute in float32, between its projections in lower precision.

    diffusers' processor for fused attention ignores ``upcast_attention``.
    """
    from diffusers.models.attention_processor import Attention

    def upcast(_: torch.nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor:
        return output.float()

    def downcast(projection: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> Any:
        return (inputs[0].to(next(projection.parameters()).dtype), *inputs[1:])

    for attention in module.modules():
        if isinstance(attention, Attention):
            for projection in (attention.to_q, attention.to_k, attention.to_v):
                projection.register_forward_hook(upcast)
            attention.to_out[0].register_forward_pre_hook(downcast)


def make_empty(
    config: Mapping[str, Any], grid: tuple[int, int]
) -> tuple[UNet, torch.Tensor, dict[str, torch.Tensor]]:
    """Make a denoiser without weights, latents and a prompt for it, on the meta device.

    Parameters
    ----------
    config : mapping
        The U-Net's ``config.json``; values that are missing are diffusers' defaults.
    grid : (h, w)
        Size of the latents.

    Raises
    ------
    UserError
        If it is conditioned on more than text and image size.
    """
    import torch
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        module = UNet2DConditionModel.from_config(dict(config))
        full = module.config
        sized = _is_sized(module, "The U-Net")
        prompt = {"embedding": torch.empty(1, TOKENS, full["cross_attention_dim"])}
        if sized:
            sizes = 6 * full["addition_time_embed_dim"]
            pooled = full["projection_class_embeddings_input_dim"] - sizes
            prompt |= {"pooled": torch.empty(1, pooled), "pixels": torch.empty(1, 2)}
        latents = torch.empty(1, full["in_channels"], *grid)
    # Without weights and without values the schedule does not matter.
    return UNet(module, {"_class_name": "DDPMScheduler"}, sized=sized), latents, prompt


def make_untrained(folder: Path, out: Path, *, seed: int) -> None:
    """Write an untrained twin of a model's denoiser to ``out``: same configuration, new weights.

    The weights are diffusers' own initialisation, drawn from ``seed``.
    """
    from diffusers import UNet2DConditionModel

    write_untrained(UNet2DConditionModel, folder, COMPONENT, out, seed=seed)


def schedule_config(folder: Path) -> dict[str, Any]:
    """Configuration of the model's own noise scheduler."""
    path = folder / "scheduler" / "scheduler_config.json"
    return dict(json.loads(path.read_text(encoding="utf-8")))


def positions(config: Mapping[str, Any]) -> list[str]:
    """Module paths of a ``UNet2DConditionModel``, in the order of the forward pass.

    A block comes after the layers inside it, as its output does.

    Parameters
    ----------
    config : mapping
        The U-Net's ``config.json``: ``down_block_types``, ``up_block_types``,
        ``layers_per_block``, ``transformer_layers_per_block``.
    """
    down, up = list(config["down_block_types"]), list(config["up_block_types"])
    layers = _per_block(config.get("layers_per_block", 2), len(down))
    depth = _per_block(config.get("transformer_layers_per_block", 1), len(down))
    found = ["conv_in"]
    for i, kind in enumerate(down):
        block = f"down_blocks.{i}"
        found += _layers(block, layers[i], depth[i] if "CrossAttn" in kind else None)
        if i < len(down) - 1:
            found.append(f"{block}.downsamplers.0")
        found.append(block)
    found.append("mid_block.resnets.0")
    if config.get("mid_block_type", "UNetMidBlock2DCrossAttn") == "UNetMidBlock2DCrossAttn":
        found += _attention("mid_block.attentions.0", depth[-1])
    found += ["mid_block.resnets.1", "mid_block"]
    for i, kind in enumerate(up):
        block, mirror = f"up_blocks.{i}", len(down) - 1 - i
        found += _layers(block, layers[mirror] + 1, depth[mirror] if "CrossAttn" in kind else None)
        if i < len(up) - 1:
            found.append(f"{block}.upsamplers.0")
        found.append(block)
    return [*found, "conv_out"]


def _per_block(value: int | Sequence[int], blocks: int) -> list[int]:
    return [value] * blocks if isinstance(value, int) else list(value)


def _layers(block: str, count: int, depth: int | None) -> Iterator[str]:
    for j in range(count):
        yield f"{block}.resnets.{j}"
        if depth is not None:
            yield from _attention(f"{block}.attentions.{j}", depth)


def _attention(path: str, depth: int) -> Iterator[str]:
    for k in range(depth):
        for part in ("attn1", "attn2", "ff"):
            yield f"{path}.transformer_blocks.{k}.{part}"
        yield f"{path}.transformer_blocks.{k}"
    yield path
