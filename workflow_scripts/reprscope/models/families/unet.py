"""The U-Net family: Stable Diffusion 1.x, 2.x, XL and their distilled forms.

Reading a study needs :func:`positions` only, so torch is imported where it is used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprscope.base.protocol import Protocol
from reprscope.models import configs, schedulers
from reprscope.models.ddpm import alphas_cumprod
from reprscope.models.denoiser import Passed, to_grid
from reprscope.models.parts import load_part, write_untrained
from reprscope.runtime.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from reprscope.models.denoiser import Noising
    from reprscope.models.text import Reader

COMPONENT = "unet"
CLASS = "UNet2DConditionModel"
NOISE = "variance-preserving"
PATCH = 1

TOKENS = 77
"""Length of a CLIP embedding."""


NORM_GROUPS = 32
"""Groups of features over which diffusers normalises a text."""

RIGID = ("AttnUpBlock2D", "ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D")
"""Blocks on the way up that double the map, whatever size it had on the way down."""


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
        See :class:`reprscope.base.protocol.Protocol`.
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
        self._multiple = _multiple(getattr(module, "config", {}))
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

        Raises
        ------
        UserError
            If the latents have sides that the model cannot halve and double again.
        """
        import torch

        height, width = latents.shape[2:]
        if height % self._multiple or width % self._multiple:
            raise UserError(
                f"Latents of {height} x {width} do not fit the model, which takes sides of a "
                f"multiple of {self._multiple} latents: set another `resolution`, and a view that "
                "makes squares."
            )
        if self._rescaling:
            latents = latents * math.sqrt(float(self._alphas[timestep]))
        time = torch.full((len(latents),), timestep, device=latents.device)
        added = None
        if self._sized:
            across, down = prompt["pixels"].unbind(1)
            nothing = torch.zeros_like(across)
            # Size of the original, corner of the crop, size of the target: the whole image.
            sizes = [down, across, nothing, nothing, down, across]
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


def readers(folder: Path) -> dict[str, Reader]:
    """What reads texts for :func:`encode_prompts`, by text encoder."""
    from reprscope.models.text import clip_reader

    numbers = (1, 2) if (folder / "text_encoder_2").is_dir() else (1,)
    return {f"CLIP {number}": clip_reader(folder, number) for number in numbers}


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
        If it cannot be loaded, or is of a kind that is not supported.
    """
    import torch

    module = load_part(CLASS, folder, COMPONENT, dtype=dtype)
    sized = bool(module.config["addition_embed_type"]) and protocol.added_conditioning
    if not sized:
        module.register_to_config(addition_embed_type=None)
    if upcast_attention and dtype != torch.float32:
        _upcast_attention(module)
    module.to(device, memory_format=torch.channels_last)
    return UNet(module, schedule_config(folder), sized=sized, rescaling=protocol.rescaling)


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
        If it is of a kind that is not supported.
    """
    import torch
    from diffusers import UNet2DConditionModel

    configs.complete(CLASS, config, where=COMPONENT)
    with torch.device("meta"):
        module = UNet2DConditionModel.from_config(dict(config))
        full = module.config
        sized = bool(full["addition_embed_type"])
        prompt = {"embedding": torch.empty(1, TOKENS, _text_width(full))}
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
    write_untrained(CLASS, folder, COMPONENT, out, seed=seed)


def schedule_config(folder: Path) -> dict[str, Any]:
    """Configuration of the model's own noise scheduler."""
    path = folder / "scheduler" / "scheduler_config.json"
    return dict(json.loads(path.read_text(encoding="utf-8")))


def parts(found: Container[str]) -> dict[str, str]:
    """Classes of a model's parts by their folders; SDXL has a second text encoder."""
    classes = {COMPONENT: CLASS, "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}
    if "text_encoder_2" in found:
        classes["text_encoder_2"] = "CLIPTextModelWithProjection"
    return classes


def check(parts: Mapping[str, Mapping[str, Any]]) -> None:
    """Check what fields of the parts' configurations have to do with each other.

    Raises
    ------
    UserError
        If they do not fit together.
    """
    config = parts[COMPONENT]
    blocks = len(config["down_block_types"])
    listed = (
        "up_block_types",
        "block_out_channels",
        "layers_per_block",
        "only_cross_attention",
        "cross_attention_dim",
        "attention_head_dim",
        "transformer_layers_per_block",
        "reverse_transformer_layers_per_block",
    )
    configs.check_lengths(config, COMPONENT, *listed, blocks=blocks)
    configs.check_groups(config, COMPONENT)
    _check_depths(config)
    heads = _per_block(config["attention_head_dim"], blocks)
    for width, count in zip(config["block_out_channels"], heads, strict=True):
        if count > width:
            raise UserError(
                f"{COMPONENT}/config.json has {width} channels and an attention_head_dim of "
                f"{count}: correct it, or use another model."
            )
    if config["attention_type"] != "default" and not isinstance(config["cross_attention_dim"], int):
        raise UserError(
            f"{COMPONENT}/config.json has attention_type: {config['attention_type']} and a list of "
            "cross_attention_dim: write it as one number."
        )
    if config["cross_attention_norm"] is not None and _text_width(config) % NORM_GROUPS:
        raise UserError(
            f"{COMPONENT}/config.json has cross_attention_norm: {config['cross_attention_norm']} "
            f"for {_text_width(config)} features, which do not divide into {NORM_GROUPS} groups: "
            "correct it, or use another model."
        )
    if "vae" in parts:
        configs.check_equal(
            ("in_channels of the U-Net", config["in_channels"]),
            ("latent_channels of the VAE", parts["vae"]["latent_channels"]),
        )
    sized = config["addition_embed_type"] is not None
    if sized and not (config["addition_time_embed_dim"] and _pooled_width(config)):
        raise UserError(
            f"{COMPONENT}/config.json has addition_embed_type: {config['addition_embed_type']} "
            "without addition_time_embed_dim and projection_class_embeddings_input_dim that fit "
            "it: correct them, or use another model."
        )
    encoders = [part for name, part in parts.items() if name.startswith("text_encoder")]
    if encoders:
        width = sum(part["hidden_size"] for part in encoders)
        configs.check_equal(
            ("cross_attention_dim of the U-Net", _text_width(config)),
            ("hidden_size of the text encoder", width),
        )
    if sized and encoders:
        if "text_encoder_2" not in parts:
            raise UserError(
                f"{COMPONENT}/config.json has addition_embed_type: {config['addition_embed_type']},"
                " for which the folder has no text_encoder_2: use a whole model, as released."
            )
        configs.check_equal(
            ("the length of pooled text that the U-Net takes", _pooled_width(config)),
            ("projection_dim of text_encoder_2", parts["text_encoder_2"]["projection_dim"]),
        )


def _check_depths(config: Mapping[str, Any]) -> None:
    """Check that every transformer of a block has its own number of layers, where they are listed.

    diffusers asks for the way up apart as soon as one is listed.
    """
    blocks = len(config["down_block_types"])
    layers = _per_block(config["layers_per_block"], blocks)
    down = _per_block(config["transformer_layers_per_block"], blocks)
    nested = any(isinstance(depth, list | tuple) for depth in down)
    if nested and config["reverse_transformer_layers_per_block"] is None:
        raise UserError(
            f"{COMPONENT}/config.json lists transformer_layers_per_block within a block and has no "
            "reverse_transformer_layers_per_block: add it, or use another model."
        )
    counts = [*zip(down, layers, strict=True)]
    counts += [(depth, count + 1) for depth, count in zip(_up(config), layers[::-1], strict=True)]
    for depth, count in counts:
        if isinstance(depth, list | tuple) and len(depth) < count:
            raise UserError(
                f"{COMPONENT}/config.json lists {len(depth)} numbers of transformer layers for a "
                f"block of {count} layers: correct it, or use another model."
            )


def _text_width(config: Mapping[str, Any]) -> int:
    """Features of the text embedding; the same for all blocks, which are given one text."""
    blocks = len(config["down_block_types"])
    widths = _per_block(config["cross_attention_dim"], blocks)
    configs.check_equal(*((f"cross_attention_dim of block {i}", w) for i, w in enumerate(widths)))
    return int(widths[0])


def _pooled_width(config: Mapping[str, Any]) -> int:
    """Features of the pooled text, which is followed by six sizes; 0 if there is no room for it."""
    sizes = 6 * config["addition_time_embed_dim"]
    return max(0, int((config["projection_class_embeddings_input_dim"] or 0) - sizes))


def positions(config: Mapping[str, Any]) -> list[str]:
    """Module paths of a ``UNet2DConditionModel``, in the order of the forward pass.

    A block comes after the layers inside it, as its output does.

    Parameters
    ----------
    config : mapping
        The U-Net's ``config.json``; values that are missing are diffusers' defaults.
    """
    config = configs.complete(CLASS, config, where=COMPONENT)
    down, up = config["down_block_types"], config["up_block_types"]
    layers = _per_block(config["layers_per_block"], len(down))
    depth = _per_block(config["transformer_layers_per_block"], len(down))
    found = ["conv_in"]
    for i, kind in enumerate(down):
        block = f"down_blocks.{i}"
        found += _layers(block, layers[i], kind, depth[i])
        if i < len(down) - 1:
            found.append(f"{block}.downsamplers.0")
        found.append(block)
    if config["mid_block_type"] is not None:
        found.append("mid_block.resnets.0")
        if config["mid_block_type"] != "UNetMidBlock2D":
            found += _attention("mid_block.attentions.0", config["mid_block_type"], depth[-1], 0)
            found.append("mid_block.resnets.1")
        found.append("mid_block")
    for i, (kind, deep) in enumerate(zip(up, _up(config), strict=True)):
        block = f"up_blocks.{i}"
        found += _layers(block, layers[-1 - i] + 1, kind, deep)
        if i < len(up) - 1:
            found.append(f"{block}.upsamplers.0")
        found.append(block)
    return [*found, "conv_out"]


def _multiple(config: Mapping[str, Any]) -> int:
    """Of how many latents the sides of a map are multiples; 1 if any number will do."""
    kinds = config.get("up_block_types", ())
    return int(2 ** (len(kinds) - 1)) if set(kinds) & set(RIGID) else 1


def _per_block(value: Any, blocks: int) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value] * blocks


def _up(config: Mapping[str, Any]) -> list[Any]:
    """Transformer layers on the way up, block by block."""
    if config["reverse_transformer_layers_per_block"] is not None:
        return list(config["reverse_transformer_layers_per_block"])
    blocks = len(config["down_block_types"])
    return _per_block(config["transformer_layers_per_block"], blocks)[::-1]


def _layers(block: str, count: int, kind: str, depth: Any) -> Iterator[str]:
    for j in range(count):
        yield f"{block}.resnets.{j}"
        if "Attn" in kind:
            yield from _attention(f"{block}.attentions.{j}", kind, depth, j)


def _attention(path: str, kind: str, depth: Any, number: int) -> Iterator[str]:
    """An attention of a block: a transformer with layers, or in some kinds of blocks a bare one."""
    if "CrossAttn" in kind and "Simple" not in kind:
        for k in range(depth[number] if isinstance(depth, list | tuple) else depth):
            for part in ("attn1", "attn2", "ff"):
                yield f"{path}.transformer_blocks.{k}.{part}"
            yield f"{path}.transformer_blocks.{k}"
    yield path
