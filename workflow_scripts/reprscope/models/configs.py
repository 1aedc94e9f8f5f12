"""What the configurations of a model's parts may say, read without torch.

diffusers and transformers build a part from its ``config.json``, so most of what it says is done
by building it. The tables here list every field of a class with its default, and the values with
which the part does what is expected of it here; everything else is refused while the study is
read. A test compares them with the signatures of the installed classes, so that a field which a
new version adds is looked at before it is used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from reprscope.models import schedulers
from reprscope.runtime.errors import UserError

if TYPE_CHECKING:
    from reprscope.models.denoiser import Family

SCHEDULER: Final = "scheduler"

Config = Mapping[str, Any]


class Form(NamedTuple):
    """Values that a field may have, and how a sentence calls them."""

    accepts: Callable[[Any], bool]
    says: str


class Field(NamedTuple):
    """A field of a configuration: its default, and values that are supported."""

    default: Any
    forms: tuple[Form, ...]


def _is_whole(value: Any, least: int = 1) -> bool:
    return type(value) is int and least <= value < 2**24


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


WHOLE: Final = Form(_is_whole, "a whole number from 1")
COUNT: Final = Form(lambda value: _is_whole(value, 0), "a whole number from 0")
NUMBER: Final = Form(_is_number, "a number")
FLAG: Final = Form(lambda value: isinstance(value, bool), "true or false")
NULL: Final = Form(lambda value: value is None, "null")
ANY: Final = Form(lambda _: True, "anything")
"""Of a field that changes nothing which is measured."""


def only(*values: Any) -> Form:
    """Form of a field that must be one of some values."""
    shown = " or ".join(json.dumps(value) for value in values)
    return Form(lambda value: any(type(value) is type(v) and value == v for v in values), shown)


def each(form: Form, *, least: int = 1) -> Form:
    """Form of a field that lists values of one form."""

    def accepts(value: Any) -> bool:
        listed = isinstance(value, list | tuple) and len(value) >= least
        return listed and all(map(form.accepts, value))

    return Form(accepts, f"a list, each {form.says}")


EVEN: Final = Form(lambda value: _is_whole(value, 2) and value % 2 == 0, "an even number from 2")
ACTIVATION: Final = only("silu", "swish", "mish", "gelu", "relu")
COUNTS: Final = Form(
    lambda value: COUNT.accepts(value) or each(COUNT).accepts(value),
    "a whole number from 0, or a list of such",
)


def _field(default: Any, *forms: Form) -> Field:
    return Field(default, forms)


_DOWN: Final = (
    "AttnDownBlock2D",
    "CrossAttnDownBlock2D",
    "DownBlock2D",
    "ResnetDownsampleBlock2D",
    "SimpleCrossAttnDownBlock2D",
)
_UP: Final = (
    "AttnUpBlock2D",
    "CrossAttnUpBlock2D",
    "ResnetUpsampleBlock2D",
    "SimpleCrossAttnUpBlock2D",
    "UpBlock2D",
)

_UNET: Final = {
    "sample_size": _field(None, ANY),
    "in_channels": _field(4, WHOLE),
    "out_channels": _field(4, WHOLE),
    "center_input_sample": _field(False, FLAG),
    "flip_sin_to_cos": _field(True, FLAG),
    "freq_shift": _field(0, NUMBER),
    "down_block_types": _field(
        ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        each(only(*_DOWN)),
    ),
    "mid_block_type": _field(
        "UNetMidBlock2DCrossAttn",
        only("UNetMidBlock2DCrossAttn", "UNetMidBlock2DSimpleCrossAttn", "UNetMidBlock2D", None),
    ),
    "up_block_types": _field(
        ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        each(only(*_UP)),
    ),
    "only_cross_attention": _field(False, FLAG, each(FLAG)),
    "block_out_channels": _field((320, 640, 1280, 1280), each(WHOLE)),
    "layers_per_block": _field(2, WHOLE, each(WHOLE)),
    # With more the map would grow at every level.
    "downsample_padding": _field(1, only(0, 1)),
    "mid_block_scale_factor": _field(1, NUMBER),
    "dropout": _field(0.0, ANY),
    "act_fn": _field("silu", ACTIVATION),
    "norm_num_groups": _field(32, WHOLE),
    "norm_eps": _field(1e-5, NUMBER),
    "cross_attention_dim": _field(1280, WHOLE, each(WHOLE)),
    "transformer_layers_per_block": _field(1, COUNT, each(COUNTS)),
    "reverse_transformer_layers_per_block": _field(None, NULL, each(COUNTS)),
    "encoder_hid_dim": _field(None, NULL),
    "encoder_hid_dim_type": _field(None, NULL),
    "attention_head_dim": _field(8, WHOLE, each(WHOLE)),
    "num_attention_heads": _field(None, NULL),
    "dual_cross_attention": _field(False, only(False)),
    "use_linear_projection": _field(False, FLAG),
    "class_embed_type": _field(None, NULL),
    "addition_embed_type": _field(None, only("text_time"), NULL),
    "addition_time_embed_dim": _field(None, WHOLE, NULL),
    "num_class_embeds": _field(None, NULL),
    # diffusers' fused attention ignores it; the study decides by it how to compute.
    "upcast_attention": _field(False, FLAG, NULL),
    "resnet_time_scale_shift": _field("default", only("default", "scale_shift")),
    "resnet_skip_time_act": _field(False, FLAG),
    "resnet_out_scale_factor": _field(1.0, NUMBER),
    "time_embedding_type": _field("positional", only("positional", "fourier")),
    "time_embedding_dim": _field(None, EVEN, NULL),
    "time_embedding_act_fn": _field(None, ACTIVATION, NULL),
    "timestep_post_act": _field(None, ACTIVATION, NULL),
    "time_cond_proj_dim": _field(None, NULL),
    "conv_in_kernel": _field(3, only(1, 3, 5, 7)),
    "conv_out_kernel": _field(3, only(1, 3, 5, 7)),
    "projection_class_embeddings_input_dim": _field(None, WHOLE, NULL),
    # Gated attention looks at boxes, and does nothing without them.
    "attention_type": _field("default", only("default", "gated", "gated-text-image")),
    "class_embeddings_concat": _field(False, only(False)),
    "mid_block_only_cross_attention": _field(None, FLAG, NULL),
    "cross_attention_norm": _field(None, only("group_norm"), NULL),
    "addition_embed_type_num_heads": _field(64, ANY),
}

_VAE: Final = {
    "in_channels": _field(3, only(3)),
    "out_channels": _field(3, only(3)),
    "down_block_types": _field(
        ("DownEncoderBlock2D",), each(only("DownEncoderBlock2D", "AttnDownEncoderBlock2D"))
    ),
    "up_block_types": _field(
        ("UpDecoderBlock2D",), each(only("UpDecoderBlock2D", "AttnUpDecoderBlock2D"))
    ),
    "block_out_channels": _field((64,), each(WHOLE)),
    "layers_per_block": _field(1, WHOLE),
    "act_fn": _field("silu", ACTIVATION),
    "latent_channels": _field(4, WHOLE),
    "norm_num_groups": _field(32, WHOLE),
    "sample_size": _field(32, ANY),
    "scaling_factor": _field(0.18215, NUMBER),
    "shift_factor": _field(None, NUMBER, NULL),
    # Pipelines that read them scale latents channel by channel.
    "latents_mean": _field(None, NULL),
    "latents_std": _field(None, NULL),
    # It is always run in float32.
    "force_upcast": _field(True, ANY),
    "use_quant_conv": _field(True, FLAG),
    "use_post_quant_conv": _field(True, FLAG),
    "mid_block_add_attention": _field(True, FLAG),
}

_SD3: Final = {
    "sample_size": _field(128, WHOLE),
    "patch_size": _field(2, only(2)),
    "in_channels": _field(16, WHOLE),
    "num_layers": _field(18, WHOLE),
    "attention_head_dim": _field(64, WHOLE),
    "num_attention_heads": _field(18, WHOLE),
    "joint_attention_dim": _field(4096, WHOLE),
    "caption_projection_dim": _field(1152, WHOLE),
    "pooled_projection_dim": _field(2048, WHOLE),
    "out_channels": _field(16, WHOLE),
    "pos_embed_max_size": _field(96, WHOLE),
    "dual_attention_layers": _field((), each(COUNT, least=0)),
    "qk_norm": _field(None, only("rms_norm", "layer_norm"), NULL),
}

_FLUX: Final = {
    "patch_size": _field(1, only(1)),
    "in_channels": _field(64, WHOLE),
    "out_channels": _field(None, WHOLE, NULL),
    "num_layers": _field(19, COUNT),
    "num_single_layers": _field(38, COUNT),
    "attention_head_dim": _field(128, WHOLE),
    "num_attention_heads": _field(24, WHOLE),
    "joint_attention_dim": _field(4096, WHOLE),
    "pooled_projection_dim": _field(768, WHOLE),
    "guidance_embeds": _field(False, FLAG),
    "axes_dims_rope": _field((16, 56, 56), each(EVEN, least=3)),
}

_OF_TRANSFORMERS: Final = {
    "transformers_version": _field(None, ANY),
    "architectures": _field(None, ANY),
    "output_hidden_states": _field(False, ANY),
    "return_dict": _field(True, only(True)),
    "dtype": _field(None, ANY),
    "chunk_size_feed_forward": _field(0, ANY),
    "is_encoder_decoder": _field(False, ANY),
    "id2label": _field(None, ANY),
    "label2id": _field(None, ANY),
    "problem_type": _field(None, ANY),
    "initializer_factor": _field(1.0, ANY),
}

_CLIP: Final = {
    **_OF_TRANSFORMERS,
    "vocab_size": _field(49408, WHOLE),
    "hidden_size": _field(512, WHOLE),
    "intermediate_size": _field(2048, WHOLE),
    "projection_dim": _field(512, WHOLE, NULL),
    "num_hidden_layers": _field(12, WHOLE),
    "num_attention_heads": _field(8, WHOLE),
    "max_position_embeddings": _field(77, WHOLE),
    "hidden_act": _field("quick_gelu", only("quick_gelu", "gelu")),
    "layer_norm_eps": _field(1e-5, NUMBER),
    "attention_dropout": _field(0.0, ANY),
    "initializer_range": _field(0.02, ANY),
    "pad_token_id": _field(1, ANY),
    "bos_token_id": _field(49406, ANY),
    "eos_token_id": _field(49407, COUNT),
}

_T5: Final = {
    **_OF_TRANSFORMERS,
    "is_encoder_decoder": _field(True, ANY),
    "vocab_size": _field(32128, WHOLE),
    "d_model": _field(512, WHOLE),
    "d_kv": _field(64, WHOLE),
    "d_ff": _field(2048, WHOLE),
    "num_layers": _field(6, WHOLE),
    "num_decoder_layers": _field(None, ANY),
    "num_heads": _field(8, WHOLE),
    "relative_attention_num_buckets": _field(32, WHOLE),
    "relative_attention_max_distance": _field(128, WHOLE),
    "dropout_rate": _field(0.1, ANY),
    "layer_norm_epsilon": _field(1e-6, NUMBER),
    "feed_forward_proj": _field("relu", only("relu", "gated-gelu")),
    "use_cache": _field(True, ANY),
    "pad_token_id": _field(0, ANY),
    "eos_token_id": _field(1, ANY),
    "classifier_dropout": _field(0.0, ANY),
    "is_decoder": _field(False, only(False)),
}

CLASSES: Final[Mapping[str, Mapping[str, Field]]] = {
    "AutoencoderKL": _VAE,
    "CLIPTextModel": _CLIP,
    "CLIPTextModelWithProjection": _CLIP,
    "FluxTransformer2DModel": _FLUX,
    "SD3Transformer2DModel": _SD3,
    "T5EncoderModel": _T5,
    "UNet2DConditionModel": _UNET,
}
"""Fields by class."""

TEXT_ENCODERS: Final = frozenset(("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel"))
"""Classes of transformers, which name themselves in ``architectures``."""

_TRAINING: Final = frozenset(
    (
        "decay",
        "inv_gamma",
        "min_decay",
        "optimization_step",
        "power",
        "update_after_step",
        "use_ema_warmup",
    )
)
"""What diffusers' moving average of weights leaves in a configuration."""


def complete(kind: str, config: Config, *, where: str) -> dict[str, Any]:
    """A part's configuration with defaults filled in.

    Parameters
    ----------
    kind : str
        Class of diffusers or transformers.
    config : mapping
        Its ``config.json``.
    where : str
        How a sentence names the part, such as ``unet``.

    Raises
    ------
    UserError
        If it is of another class, or a field has a value that is not supported.
    """
    _check_class(kind, config, where)
    fields = CLASSES[kind]
    for key, value in config.items():
        known = key in fields or key.startswith("_") or key in _TRAINING
        known = known or value is None or value is False
        # transformers keeps much in a configuration that no encoder reads.
        if key == "quantization_config" or not (known or kind in TEXT_ENCODERS):
            raise UserError(
                f"{where}/config.json has {key}: {_shown(value)}, which is not supported: use a "
                "model without it."
            )
    found = {key: config.get(key, field.default) for key, field in fields.items()}
    for key, field in fields.items():
        if not any(form.accepts(found[key]) for form in field.forms):
            raise UserError(
                f"{where}/config.json has {key}: {_shown(found[key])}, which is not supported: use "
                f"a model with {' or '.join(form.says for form in field.forms)}."
            )
    return found


def _check_class(kind: str, config: Config, where: str) -> None:
    named = config.get("_class_name")
    if kind in TEXT_ENCODERS:
        architectures = config.get("architectures")
        named = architectures[0] if isinstance(architectures, list) and architectures else None
        if named is None and kind != "CLIPTextModelWithProjection":
            # It says at least which of the encoders it is.
            types = {"CLIPTextModel": "clip_text_model", "T5EncoderModel": "t5"}
            named = kind if config.get("model_type") == types[kind] else "of no class"
    if named not in (None, kind) or (named is None and kind in TEXT_ENCODERS):
        raise UserError(
            f"{where}/config.json is that of a part of the class {_shown(named)}, which is not "
            f"supported: use a model with a {kind} there."
        )


def check(family: Family, parts: Mapping[str, Config], *, whole: bool = True) -> None:
    """Check that a family can run a model, by the configurations of its parts.

    Parameters
    ----------
    family : Family
    parts : mapping
        ``config.json`` by folder, such as ``unet``, and ``scheduler_config.json``.
    whole : bool
        Whether all parts have to be there.

    Raises
    ------
    UserError
        If a part is missing, a field has a value that is not supported, or parts do not fit
        together.
    """
    schedulers.complete(_part(parts, SCHEDULER), family.NOISE)
    wanted = family.parts(parts)
    if whole:
        for folder in wanted:
            _part(parts, folder)
    found = {
        folder: complete(kind, parts[folder], where=folder)
        for folder, kind in wanted.items()
        if folder in parts
    }
    if "vae" in found:
        _check_vae(found["vae"])
    for folder, config in found.items():
        if (
            wanted[folder].startswith("CLIP")
            and config["hidden_size"] % (config["num_attention_heads"])
        ):
            raise UserError(
                f"{folder}/config.json has {config['hidden_size']} features (hidden_size), which "
                f"do not divide into {config['num_attention_heads']} heads: correct it, or use "
                "another model."
            )
    family.check(found)


def _part(parts: Mapping[str, Config], folder: str) -> Config:
    if folder not in parts:
        name = f"{folder}_config" if folder == SCHEDULER else "config"
        raise UserError(
            f"there is no {folder}/{name}.json: use a whole model in diffusers' layout, and set "
            "its `family`."
        )
    return parts[folder]


def check_equal(*said: tuple[str, int]) -> None:
    """Check that values which parts say of one size agree; ``(what, value)`` each.

    Raises
    ------
    UserError
        If they do not.
    """
    if len({value for _, value in said}) > 1:
        listed = " and ".join(f"{what} is {value}" for what, value in said)
        raise UserError(f"the parts do not fit together, since {listed}: use a model as released.")


def check_lengths(config: Config, where: str, *names: str, blocks: int) -> None:
    """Check that fields that are lists have a value for every block.

    Raises
    ------
    UserError
        If one has not.
    """
    for name in names:
        value = config[name]
        if isinstance(value, list | tuple) and len(value) != blocks:
            raise UserError(
                f"{where}/config.json has {len(value)} values of {name} for {blocks} blocks: "
                "correct it, or use another model."
            )


def check_groups(config: Config, where: str) -> None:
    """Check that channels divide into the groups over which they are normalised.

    Raises
    ------
    UserError
        If they do not.
    """
    for width in config["block_out_channels"]:
        if width % config["norm_num_groups"]:
            raise UserError(
                f"{where}/config.json has {width} channels, which do not divide into "
                f"{config['norm_num_groups']} groups (norm_num_groups): correct it, or use another "
                "model."
            )


def _check_vae(config: Config) -> None:
    blocks = len(config["block_out_channels"])
    check_lengths(config, "vae", "down_block_types", "up_block_types", blocks=blocks)
    check_groups(config, "vae")


def read_files(files: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Configurations by folder, of files by their names in diffusers' layout.

    Raises
    ------
    UserError
        If one is not JSON, or cannot be read.
    """
    names = {name: name.removesuffix("/config.json") for name in files}
    names |= {name: SCHEDULER for name in files if name == f"{SCHEDULER}/scheduler_config.json"}
    return {
        folder: read_file(files[name])
        for name, folder in names.items()
        if folder != name and "/" not in folder
    }


def read_folder(folder: Path) -> dict[str, dict[str, Any]]:
    """Configurations of all parts of a folder in diffusers' layout, by their folders.

    Raises
    ------
    UserError
        If one is not JSON, or cannot be read.
    """
    files = [*folder.glob("*/config.json"), folder / SCHEDULER / "scheduler_config.json"]
    return read_files({p.relative_to(folder).as_posix(): p for p in files if p.is_file()})


def read_file(path: Path) -> dict[str, Any]:
    """A part's configuration.

    Raises
    ------
    UserError
        If it is not a mapping in JSON, or cannot be read.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}): correct or replace it.") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is not a configuration, which is a mapping: replace it.")
    return value


def _shown(value: Any) -> str:
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = str(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
