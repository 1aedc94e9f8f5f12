"""Configurations of parts: run as diffusers runs them, or refused in one sentence."""

import inspect
import json
import re
import shutil
from functools import partial

import diffusers
import pytest
import torch
import transformers
from diffusers import AutoencoderKL, FluxTransformer2DModel, SD3Transformer2DModel
from diffusers import UNet2DConditionModel as Network
from reprscope.models import configs
from reprscope.models.families import flux, sd3, unet
from reprscope.models.families.unet import UNet
from reprscope.representations.extraction import Capture
from reprscope.representations.shapes import shapes
from reprscope.runtime.errors import UserError

SETTINGS = {
    "CLIPTextModel": "CLIPTextConfig",
    "CLIPTextModelWithProjection": "CLIPTextConfig",
    "T5EncoderModel": "T5Config",
}


@pytest.mark.parametrize("name", sorted(configs.CLASSES))
def test_every_field_of_a_class_is_accounted_for(name):
    """A field that a new version adds, or another default, has to be looked at."""
    kind = getattr(transformers, SETTINGS[name]) if name in SETTINGS else getattr(diffusers, name)
    fields = configs.CLASSES[name]
    signature = inspect.signature(kind.__init__).parameters
    known = {
        key: value.default for key, value in signature.items() if key not in ("self", "kwargs")
    }
    assert set(known) - set(fields) == set()
    for key, field in fields.items():
        if key in known:
            assert known[key] == field.default, key
        assert any(form.accepts(field.default) for form in field.forms), key


SMALL = {
    "block_out_channels": (8, 16, 16, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 24,
    "attention_head_dim": 2,
}
C, D, S, A, R = (
    "CrossAttnDownBlock2D",
    "DownBlock2D",
    "SimpleCrossAttnDownBlock2D",
    "AttnDownBlock2D",
    "ResnetDownsampleBlock2D",
)
UP = {
    C: "CrossAttnUpBlock2D",
    D: "UpBlock2D",
    S: "SimpleCrossAttnUpBlock2D",
    A: "AttnUpBlock2D",
    R: "ResnetUpsampleBlock2D",
}


def blocks(*down, **more):
    """Blocks on the way down, and their mirrors on the way up."""
    channels = (8, *[16] * (len(down) - 1))
    return {
        "down_block_types": down,
        "up_block_types": tuple(UP[kind] for kind in reversed(down)),
        "block_out_channels": channels,
        **more,
    }


SUPPORTED = {
    "stable diffusion": {},
    "two layers": {"layers_per_block": 2},
    "layers by block": {"layers_per_block": (1, 2, 1, 3)},
    "no mid block": {"mid_block_type": None},
    "mid block without attention": {"mid_block_type": "UNetMidBlock2D"},
    "mid block with simple attention": {"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"},
    "one level": blocks(C),
    "two levels": blocks(C, C),
    "three levels": blocks(D, C, C),
    "six levels": blocks(C, C, C, C, C, D),
    "no attention": blocks(D, D, mid_block_type="UNetMidBlock2D"),
    "attention at the lowest alone": blocks(D, D, C),
    "attention at the top alone": blocks(C, D, D),
    "other blocks on the way up": blocks(D, C) | {"up_block_types": (UP[D], UP[C])},
    "simple attention": blocks(R, S, mid_block_type="UNetMidBlock2DSimpleCrossAttn"),
    "simple attention with norms": blocks(
        R,
        S,
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        cross_attention_norm="group_norm",
        cross_attention_dim=32,
    ),
    "self attention": blocks(A, D),
    "resampling by residual blocks": blocks(R, R, R, mid_block_type=None),
    "every kind": blocks(C, D, S, A, R),
    "deeper transformers": {"transformer_layers_per_block": 3},
    "depths by block": {"transformer_layers_per_block": (1, 2, 3, 1)},
    "depths of none": {"transformer_layers_per_block": (0, 1, 2, 0)},
    "depths by layer": blocks(
        D,
        C,
        C,
        layers_per_block=2,
        transformer_layers_per_block=[1, [2, 1], [3, 2]],
        reverse_transformer_layers_per_block=[[1, 1, 3], [2, 1, 1], 1],
    ),
    "depths of the way up": {
        "transformer_layers_per_block": (1, 2, 3, 1),
        "reverse_transformer_layers_per_block": (1, 1, 1, 2),
    },
    "no mid block and depths by layer": blocks(
        D,
        C,
        transformer_layers_per_block=[1, [2]],
        reverse_transformer_layers_per_block=[[2, 1], 1],
        mid_block_type=None,
    ),
    "linear projections": {"use_linear_projection": True},
    "heads by block": {"attention_head_dim": (1, 2, 4, 4)},
    "widths of text by block": {"cross_attention_dim": (24, 24, 24, 24)},
    "only cross attention": {"only_cross_attention": True},
    "only cross attention in some": {"only_cross_attention": (True, False, True, False)},
    "only cross attention in mid": {
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "mid_block_only_cross_attention": True,
    },
    "upcast attention": {"upcast_attention": True},
    "gated attention": {"attention_type": "gated"},
    "without padding": {"downsample_padding": 0},
    "mid block that is scaled": {"mid_block_scale_factor": 1.4},
    "centred input": {"center_input_sample": True},
    "cosine first": {"flip_sin_to_cos": False, "freq_shift": 1},
    "other activation": {"act_fn": "gelu"},
    "other norms": {"norm_num_groups": 2, "norm_eps": 1e-3},
    "scale and shift by time": {"resnet_time_scale_shift": "scale_shift"},
    "activated time": {"resnet_skip_time_act": True, "time_embedding_act_fn": "silu"},
    "residuals that are scaled": blocks(
        R, S, resnet_out_scale_factor=1.4, mid_block_type="UNetMidBlock2DSimpleCrossAttn"
    ),
    "width of time": {"time_embedding_dim": 20},
    "time in waves": {"time_embedding_type": "fourier"},
    "activation behind time": {"timestep_post_act": "silu"},
    "wide kernels": {"conv_in_kernel": 5, "conv_out_kernel": 1},
    "more channels out": {"out_channels": 8},
    "more channels in": {"in_channels": 16},
    "dropout": {"dropout": 0.5},
    "text and time": {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 12 + 6 * 4,
    },
}
"""What a small U-Net of Stable Diffusion has otherwise."""

NAMES = re.compile(
    r"conv_in|conv_out|mid_block|(down|up)_blocks\.\d+"
    r"|(mid_block|(down|up)_blocks\.\d+)\.(resnets\.\d+|attentions\.\d+|(down|up)samplers\.0)"
    r"|.*\.transformer_blocks\.\d+(\.(attn1|attn2|ff))?"
)


def plain(network, config, latents, text, added):
    """What modules put out in a plain pass by diffusers, in the order in which they end."""
    found = {}

    def keep(name, _module, _inputs, output):
        found[name] = output[0] if isinstance(output, tuple) else output

    handles = [
        module.register_forward_hook(partial(keep, name))
        for name, module in network.named_modules()
        if NAMES.fullmatch(name)
    ]
    with torch.no_grad():
        network(latents, torch.tensor(50), encoder_hidden_states=text, added_cond_kwargs=added)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("what", SUPPORTED)
def test_a_unet_is_run_as_diffusers_runs_it(what):
    """Positions are those of the modules that run, in order, and values and shapes are equal."""
    config = SMALL | SUPPORTED[what]
    stored = json.loads(json.dumps(config))
    torch.manual_seed(0)
    network = Network(**config).eval()
    generator = torch.Generator().manual_seed(1)
    # Of 24 rows some blocks make 3, and 4 of 3 on the way up.
    grid = (16, 32) if what in ("every kind", "six levels") else (16, 24)
    latents = torch.randn(1, network.config.in_channels, *grid, generator=generator)
    width = 32 if config["cross_attention_dim"] == 32 else 24
    text = torch.randn(1, 5, width, generator=generator)
    sized = "addition_embed_type" in config
    pooled, size = torch.randn(1, 12, generator=generator), torch.tensor([[192.0, 128.0]])
    ids = torch.tensor([[128.0, 192.0, 0.0, 0.0, 128.0, 192.0]])
    added = {"text_embeds": pooled, "time_ids": ids} if sized else {}
    expected = plain(network, config, latents, text, added)
    found = unet.positions(stored)
    assert found == list(expected)
    denoiser = UNet(network, {"_class_name": "DDPMScheduler"}, sized=sized)
    with Capture(denoiser, found) as capture:
        ours = capture(latents, 50, {"embedding": text, "pooled": pooled, "pixels": size})
    for position, values in expected.items():
        tokens = values.permute(0, 2, 3, 1).flatten(1, 2) if values.ndim == 4 else values
        assert torch.allclose(ours[position].flatten(1, 2), tokens, atol=1e-6), position
    table = shapes("unet", stored, grid)
    sizes = {p: (1, h, w, c) for p, c, h, w in table.iter_rows()}
    assert sizes == {position: tuple(values.shape) for position, values in ours.items()}


@pytest.mark.parametrize("what", ["every kind", "self attention", "simple attention"])
def test_a_grid_that_cannot_be_halved_and_doubled_is_one_sentence(what):
    denoiser, _, prompt = unet.make_empty(SMALL | SUPPORTED[what], (8, 8))
    latents = torch.empty(1, 4, 17, 16, device="meta")
    with pytest.raises(UserError, match=r"^Latents of 17 x 16 do not fit the model, which takes"):
        denoiser(latents, 50, prompt)


TEXT = {"architectures": ["CLIPTextModel"], "hidden_size": 24, "projection_dim": 12}
LEVELS = {
    "block_out_channels": [8, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "norm_num_groups": 4,
}
DDPM = {"_class_name": "DDPMScheduler"}


def stable_diffusion(**parts):
    """Configurations of a small model; ``None`` leaves a part out."""
    whole = {"unet": SMALL, "vae": LEVELS, "text_encoder": TEXT, "scheduler": DDPM}
    found = {name: value for name, value in (whole | parts).items() if value is not None}
    return json.loads(json.dumps(found))


def refusal(family, parts):
    """The sentence by which a model is refused."""
    with pytest.raises(UserError) as caught:
        configs.check(family, parts)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


REFUSED = {
    "inpainting": ({"in_channels": 9}, "in_channels of the U-Net is 9 and latent_channels of the"),
    "classes": ({"num_class_embeds": 10}, "has num_class_embeds: 10, which is not supported"),
    "noise level as a class": ({"class_embed_type": "timestep"}, 'class_embed_type: "timestep"'),
    "projected class": ({"class_embed_type": "projection"}, 'class_embed_type: "projection"'),
    "classes beside time": ({"class_embeddings_concat": True}, "class_embeddings_concat: true"),
    "text as an addition": ({"addition_embed_type": "text"}, 'addition_embed_type: "text"'),
    "image as an addition": ({"addition_embed_type": "image"}, 'addition_embed_type: "image"'),
    "hint as an addition": ({"addition_embed_type": "image_hint"}, 'embed_type: "image_hint"'),
    "projected text": ({"encoder_hid_dim": 32}, "has encoder_hid_dim: 32"),
    "projected image": ({"encoder_hid_dim_type": "image_proj"}, "has encoder_hid_dim_type"),
    "guidance as an embedding": ({"time_cond_proj_dim": 256}, "has time_cond_proj_dim: 256"),
    "two texts": ({"dual_cross_attention": True}, "has dual_cross_attention: true"),
    "heads": ({"num_attention_heads": 4}, "has num_attention_heads: 4"),
    "blocks of the K family": ({"down_block_types": ["KDownBlock2D"] * 4}, "has down_block_types"),
    "blocks of a VAE": ({"down_block_types": ["DownEncoderBlock2D"] * 4}, "has down_block_types"),
    "blocks with skips": ({"up_block_types": ["SkipUpBlock2D"] * 4}, "has up_block_types"),
    "blocks that nobody knows": ({"mid_block_type": "Mid"}, 'has mid_block_type: "Mid"'),
    "blocks as a text": ({"down_block_types": "DownBlock2D"}, "has down_block_types"),
    "fewer blocks up": ({"up_block_types": ["UpBlock2D"]}, "1 values of up_block_types for 4"),
    "fewer widths": ({"block_out_channels": [8, 8]}, "2 values of block_out_channels for 4"),
    "fewer layers": ({"layers_per_block": [1, 1]}, "2 values of layers_per_block for 4 blocks"),
    "no layers": ({"layers_per_block": 0}, "has layers_per_block: 0"),
    "layers as null": ({"layers_per_block": None}, "has layers_per_block: null"),
    "layers as a fraction": ({"layers_per_block": 2.0}, "has layers_per_block: 2.0"),
    "layers as a text": ({"layers_per_block": "2"}, 'has layers_per_block: "2"'),
    "layers as a truth value": ({"layers_per_block": True}, "has layers_per_block: true"),
    "text as null": ({"cross_attention_dim": None}, "has cross_attention_dim: null"),
    "text of other widths": (
        {"cross_attention_dim": [24, 24, 48, 24]},
        "the parts do not fit together, since cross_attention_dim of block 0 is 24",
    ),
    "text of another encoder": (
        {"cross_attention_dim": 32},
        "cross_attention_dim of the U-Net is 32 and hidden_size of the text encoder is 24",
    ),
    "groups that do not divide": ({"norm_num_groups": 3}, "8 channels, which do not divide into 3"),
    "more heads than channels": (
        {"attention_head_dim": 32},
        "8 channels and an attention_head_dim",
    ),
    "depths by layer without the way up": (
        {"transformer_layers_per_block": [1, [2, 2], 1, 1]},
        "has no reverse_transformer_layers_per_block",
    ),
    "too few depths by layer": (
        {
            "transformer_layers_per_block": [1, 1, 1, [1]],
            "reverse_transformer_layers_per_block": [[1], 1, 1, 1],
        },
        "lists 1 numbers of transformer layers for a block of 2 layers",
    ),
    "size without a second encoder": (
        SUPPORTED["text and time"],
        "has addition_embed_type: text_time, for which the folder has no text_encoder_2",
    ),
    "size without widths": ({"addition_embed_type": "text_time"}, "without addition_time_embed"),
    "norms of text": ({"cross_attention_norm": "group_norm"}, "which do not divide into 32 groups"),
    "other norms of text": ({"cross_attention_norm": "layer_norm"}, "has cross_attention_norm"),
    "no groups": ({"norm_num_groups": None}, "has norm_num_groups: null"),
    "no such activation": ({"act_fn": "snake"}, 'has act_fn: "snake"'),
    "no such activation of time": ({"timestep_post_act": "tanh"}, 'timestep_post_act: "tanh"'),
    "other scale and shift": ({"resnet_time_scale_shift": "spatial"}, 'scale_shift: "spatial"'),
    "odd width of time": ({"time_embedding_dim": 21}, "has time_embedding_dim: 21"),
    "gated attention of widths by block": (
        {"attention_type": "gated", "cross_attention_dim": [24] * 4},
        "has attention_type: gated and a list of cross_attention_dim",
    ),
    "padding": ({"downsample_padding": 2}, "has downsample_padding: 2"),
    "even kernel": ({"conv_in_kernel": 4}, "has conv_in_kernel: 4"),
    "other time": ({"time_embedding_type": "learned"}, 'has time_embedding_type: "learned"'),
    "other class": ({"_class_name": "UNet3DConditionModel"}, 'of the class "UNet3DCondition'),
    "field that nobody knows": ({"new_scale": 2}, "has new_scale: 2, which is not supported"),
    "quantised": ({"quantization_config": {"load_in_4bit": True}}, "has quantization_config"),
    "number that is none": ({"norm_eps": float("nan")}, "has norm_eps: NaN"),
    "width beyond all sense": ({"block_out_channels": [2**40] * 4}, "has block_out_channels"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_unet_that_cannot_be_run_is_one_sentence(what):
    changes, said = REFUSED[what]
    assert said in refusal(unet, stable_diffusion(unet=SMALL | changes))


def test_what_training_leaves_in_a_configuration_is_passed_over():
    left = {"decay": 0.9999, "optimization_step": 400000, "use_ema_warmup": True, "new": None}
    configs.check(unet, stable_diffusion(unet=SMALL | left | {"_name_or_path": "x", "old": False}))


VAES = {
    "one level": {
        "block_out_channels": [8],
        "down_block_types": ["DownEncoderBlock2D"],
        "up_block_types": ["UpDecoderBlock2D"],
    },
    "four levels": {
        "block_out_channels": [8, 8, 8, 16],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    },
    "attention in blocks": {
        "down_block_types": ["AttnDownEncoderBlock2D"] * 2,
        "up_block_types": ["AttnUpDecoderBlock2D"] * 2,
    },
    "two layers": {"layers_per_block": 2},
    "other activation": {"act_fn": "gelu"},
    "no convolution behind": {"use_quant_conv": False, "use_post_quant_conv": False},
    "no attention": {"mid_block_add_attention": False},
    "shift and scale": {"scaling_factor": 0.3611, "shift_factor": 0.1159},
    "in half precision": {"force_upcast": False},
    "other size": {"sample_size": 512},
}


@pytest.mark.parametrize("what", VAES)
def test_a_vae_is_run_as_diffusers_runs_it(what, tmp_path):
    import numpy as np
    from reprscope.models import vae

    config = LEVELS | VAES[what]
    configs.check(unet, stable_diffusion(vae=config))
    torch.manual_seed(0)
    network = AutoencoderKL(**config).eval()
    network.save_pretrained(tmp_path / "vae")
    pictures = np.random.default_rng(0).integers(0, 256, (1, 16, 24, 3), np.uint8)
    with torch.no_grad():
        values = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
        expected = network.encode(values).latent_dist
    loaded = vae.load(tmp_path, device=torch.device("cpu"))
    mean, logvar = loaded.encode(pictures, pixels="symmetric")
    assert np.allclose(mean.transpose(0, 3, 1, 2), expected.mean, atol=1e-5)
    assert np.allclose(logvar.transpose(0, 3, 1, 2), expected.logvar, atol=1e-5)
    assert (16 // loaded.factor, 24 // loaded.factor) == mean.shape[1:3]
    scale, shift = config.get("scaling_factor", 0.18215), config.get("shift_factor", 0.0)
    assert vae.scaling(tmp_path) == (scale, shift)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"latent_channels": 16}, "latent_channels of the VAE is 16"),
        ({"in_channels": 1}, "vae/config.json has in_channels: 1"),
        ({"out_channels": 4}, "vae/config.json has out_channels: 4"),
        ({"layers_per_block": 0}, "vae/config.json has layers_per_block: 0"),
        ({"act_fn": "snake"}, 'vae/config.json has act_fn: "snake"'),
        ({"latents_mean": [0.1] * 4}, "vae/config.json has latents_mean"),
        ({"latents_std": [0.1] * 4}, "vae/config.json has latents_std"),
        ({"down_block_types": ["DownBlock2D"] * 2}, "vae/config.json has down_block_types"),
        ({"up_block_types": ["UpDecoderBlock2D"]}, "1 values of up_block_types for 2 blocks"),
        ({"scaling_factor": None}, "vae/config.json has scaling_factor: null"),
        ({"norm_num_groups": 3}, "8 channels, which do not divide into 3 groups"),
        ({"_class_name": "AutoencoderTiny"}, 'of the class "AutoencoderTiny"'),
        ({"_class_name": "AsymmetricAutoencoderKL"}, 'of the class "AsymmetricAutoencoderKL"'),
        ({"_class_name": "VQModel"}, 'of the class "VQModel"'),
    ],
)
def test_a_vae_that_cannot_be_run_is_one_sentence(changes, said):
    assert said in refusal(unet, stable_diffusion(vae=LEVELS | changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architectures": ["BertModel"]}, 'of the class "BertModel"'),
        ({"architectures": ["RobertaSeriesModelWithTransformation"]}, 'of the class "Roberta'),
        ({"architectures": ["T5EncoderModel"]}, 'of the class "T5EncoderModel"'),
        ({"architectures": ["CLIPTextModelWithProjection"]}, 'of the class "CLIPTextModelWith'),
        ({"architectures": None}, 'of the class "of no class"'),
        ({"architectures": None, "model_type": "bert"}, 'of the class "of no class"'),
        ({"hidden_size": 32}, "hidden_size of the text encoder is 32"),
        ({"hidden_act": "snake"}, 'text_encoder/config.json has hidden_act: "snake"'),
        ({"num_attention_heads": 5}, "24 features (hidden_size), which do not divide into 5 heads"),
        ({"num_hidden_layers": 0}, "text_encoder/config.json has num_hidden_layers: 0"),
        ({"return_dict": False}, "text_encoder/config.json has return_dict: false"),
        ({"hidden_act": None}, "text_encoder/config.json has hidden_act: null"),
        ({"quantization_config": {"bits": 4}}, "text_encoder/config.json has quantization_config"),
    ],
)
def test_a_text_encoder_that_cannot_be_run_is_one_sentence(changes, said):
    assert said in refusal(unet, stable_diffusion(text_encoder=TEXT | changes))


CLIPS = {
    "clip": {},
    "other activation": {"hidden_act": "gelu"},
    "one layer": {"num_hidden_layers": 1},
    "more layers": {"num_hidden_layers": 4, "num_attention_heads": 4},
    "longer texts": {"max_position_embeddings": 20},
    "norms": {"layer_norm_eps": 1e-3},
    "end of text of old versions": {"eos_token_id": 2},
}


@pytest.mark.parametrize("projects", [False, True])
@pytest.mark.parametrize("what", CLIPS)
def test_a_text_encoder_is_run_as_transformers_runs_it(what, projects, tmp_path, nano):
    from reprscope.models.text import clip_text

    shutil.copytree(nano / "tokenizer", tmp_path / "tokenizer")
    small = {"vocab_size": 221, "hidden_size": 24, "intermediate_size": 48, "projection_dim": 12}
    small |= {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 16}
    settings = small | {"bos_token_id": 219, "eos_token_id": 220, "pad_token_id": 220}
    name = "CLIPTextModelWithProjection" if projects else "CLIPTextModel"
    torch.manual_seed(0)
    network = getattr(transformers, name)(transformers.CLIPTextConfig(**settings | CLIPS[what]))
    network.eval().save_pretrained(tmp_path / "text_encoder")
    stored = configs.read_folder(tmp_path)["text_encoder"]
    configs.complete(name, stored, where="text_encoder")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    texts = ["a red cat", ""]
    tokens = tokenizer(
        texts, padding="max_length", max_length=16, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        expected = network(tokens.input_ids, output_hidden_states=True)
    found = clip_text(tmp_path, texts, hidden="last", device=torch.device("cpu"))
    before = clip_text(tmp_path, texts, hidden="penultimate", device=torch.device("cpu"))
    pooled = expected.text_embeds if projects else expected.pooler_output
    for ours, theirs in (
        (found.hidden, expected.last_hidden_state),
        (before.hidden, expected.hidden_states[-2]),
        (found.pooled, pooled),
    ):
        assert torch.allclose(torch.from_numpy(ours), theirs, atol=1e-5)


def test_a_text_encoder_that_says_its_type_alone_is_known():
    text = TEXT | {"architectures": None, "model_type": "clip_text_model", "dropout": 0.0}
    configs.check(unet, stable_diffusion(text_encoder=text))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "scheduler"])
def test_a_model_without_a_part_is_one_sentence(part):
    sentence = refusal(unet, stable_diffusion(**{part: None}))
    assert sentence.startswith(f"there is no {part}/")


def transformer(**changes):
    """Configurations of a small model of SD-3 or FLUX, by its parts."""
    clip = TEXT | {"architectures": ["CLIPTextModelWithProjection"], "hidden_size": 16}
    return json.loads(
        json.dumps(
            {
                "transformer": changes,
                "vae": LEVELS | {"latent_channels": 16},
                "text_encoder": clip,
                "text_encoder_2": clip,
                "scheduler": {"_class_name": "FlowMatchEulerDiscreteScheduler"},
            }
        )
    )


SD3 = {
    "sample_size": 16,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 48,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 24,
    "pos_embed_max_size": 24,
}
SD3_SUPPORTED = {
    "sd-3": {},
    "sd-3.5": {"dual_attention_layers": (0, 1), "qk_norm": "rms_norm"},
    "dual attention in one": {"dual_attention_layers": (1,)},
    "layer norm": {"qk_norm": "layer_norm"},
    "one layer": {"num_layers": 1},
    "other size": {"sample_size": 8, "pos_embed_max_size": 40},
    "more channels out": {"out_channels": 32},
}
FLUX = {
    "num_layers": 2,
    "num_single_layers": 3,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 48,
    "pooled_projection_dim": 16,
    "axes_dims_rope": (4, 2, 2),
}
FLUX_SUPPORTED = {
    "schnell": {},
    "dev": {"guidance_embeds": True},
    "no double blocks": {"num_layers": 0},
    "no single blocks": {"num_single_layers": 0},
    "other axes": {"axes_dims_rope": (2, 2, 4)},
    "channels out": {"out_channels": 32},
}
TOKENS = re.compile(
    r"x_embedder|proj_out|(single_)?transformer_blocks\.\d+"
    r"(\.(attn|attn2|ff|proj_mlp|proj_out))?"
)


@pytest.mark.parametrize(
    ("family", "config"),
    [
        *((sd3, SD3 | changes) for changes in SD3_SUPPORTED.values()),
        *((flux, FLUX | changes) for changes in FLUX_SUPPORTED.values()),
    ],
)
def test_a_transformer_lists_the_modules_that_run_and_their_sizes(family, config):
    """Values are compared with the pipelines in test_transformer_families."""
    stored = json.loads(json.dumps(config))
    denoiser, latents, prompt = family.make_empty(stored, (8, 12))
    found = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: found.append(name))
        for name, module in denoiser.module.named_modules()
        # Of FLUX it is the table of angles.
        if TOKENS.fullmatch(name) or (name == "pos_embed" and family is sd3)
    ]
    with torch.no_grad():
        denoiser(latents, 0, prompt)
    for handle in handles:
        handle.remove()
    assert family.positions(stored) == found
    kind = SD3Transformer2DModel if family is sd3 else FluxTransformer2DModel
    assert type(denoiser.module) is kind
    table = shapes(family.__name__.split(".")[-1], stored, (8, 12))
    assert set(table.select("height", "width").iter_rows()) == {(4, 6)}


@pytest.mark.parametrize(
    ("family", "changes", "said"),
    [
        (sd3, {"patch_size": 1}, "has patch_size: 1"),
        (sd3, {"in_channels": 33}, "in_channels of the transformer is 33"),
        (sd3, {"caption_projection_dim": 24}, "caption_projection_dim is 24"),
        (sd3, {"pooled_projection_dim": 48}, "pooled_projection_dim is 48"),
        (sd3, {"joint_attention_dim": 24}, "joint_attention_dim: 24, less than the 32 features"),
        (sd3, {"qk_norm": "l2"}, 'has qk_norm: "l2"'),
        (sd3, {"num_layers": 0}, "has num_layers: 0"),
        (sd3, {"dual_attention_layers": None}, "has dual_attention_layers: null"),
        (sd3, {"dual_attention_layers": [0.5]}, "has dual_attention_layers: [0.5]"),
        (sd3, {"_class_name": "PixArtTransformer2DModel"}, 'of the class "PixArtTransformer2D'),
        (sd3, {"_class_name": "FluxTransformer2DModel"}, 'of the class "FluxTransformer2DModel"'),
        (sd3, {"cross_attention_dim": 8}, "has cross_attention_dim: 8"),
        (flux, {"in_channels": 384}, "in_channels of the transformer is 384"),
        (flux, {"patch_size": 2}, "has patch_size: 2"),
        (flux, {"axes_dims_rope": [4, 4, 4]}, "the sum of axes_dims_rope is 12"),
        (flux, {"axes_dims_rope": [3, 3, 2]}, "has axes_dims_rope: [3, 3, 2]"),
        (flux, {"guidance_embeds": None}, "has guidance_embeds: null"),
        (flux, {"pooled_projection_dim": 768}, "pooled_projection_dim is 768"),
        (flux, {"_class_name": "ChromaTransformer2DModel"}, 'of the class "ChromaTransformer2D'),
    ],
)
def test_a_transformer_that_cannot_be_run_is_one_sentence(family, changes, said):
    parts = transformer(**(SD3 if family is sd3 else FLUX) | changes)
    if family is flux:
        parts["text_encoder"]["architectures"] = ["CLIPTextModel"]
        parts["text_encoder_2"] = {"architectures": ["T5EncoderModel"], "d_model": 48}
    assert said in refusal(family, parts)


def test_small_transformers_are_whole_models():
    parts = transformer(**SD3)
    configs.check(sd3, parts)
    parts["text_encoder_3"] = {"architectures": ["T5EncoderModel"], "d_model": 48}
    configs.check(sd3, parts)
    parts["text_encoder_3"]["d_model"] = 64
    assert "d_model of text_encoder_3 is 64" in refusal(sd3, parts)
    del parts["text_encoder_2"]
    assert refusal(sd3, parts).startswith("there is no text_encoder_2/config.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "\x00", "[" * 5000])
def test_a_file_that_is_no_configuration_is_one_sentence(text, tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet/config.json").write_text(text)
    with pytest.raises(UserError, match=r"unet/config\.json (cannot be read|is not a config)"):
        configs.read_folder(tmp_path)
