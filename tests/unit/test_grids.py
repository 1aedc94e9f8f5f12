"""Token grids of every layer for latents of any size, against plain passes by diffusers.

The sizes are a random sample of 8 x 8 to 72 x 72; ``REPRSCOPE_ALL_GRIDS=1`` tries them all.
"""

import os
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from diffusers import (
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from reprscope.base.protocol import Protocol
from reprscope.models.denoiser import Passed, family
from reprscope.representations.extraction import Capture
from reprscope.runtime.errors import UserError
from support import tiny_models, tiny_unets

KINDS = {
    "sd-1": "unet",
    "sd-2": "unet",
    "sdxl": "unet",
    "sd-3": "sd3",
    "sd-3.5": "sd3",
    "flux": "flux",
}
CLASSES = {
    "unet": UNet2DConditionModel,
    "sd3": SD3Transformer2DModel,
    "flux": FluxTransformer2DModel,
}
SAMPLE = {"sd-1": 40, "sd-2": 20, "sdxl": 40, "sd-3": 60, "sd-3.5": 60, "flux": 80}
TIMESTEP = 50


@pytest.fixture(scope="module", params=KINDS)
def both(request, tmp_path_factory):
    """Name of a kind, our denoiser and diffusers' own of the same folder."""
    kind = request.param
    folder = tmp_path_factory.mktemp("models") / kind
    if kind.startswith("sd-3"):
        tiny_models.sd3(folder, medium35=kind == "sd-3.5", side=36)
    elif kind == "flux":
        tiny_models.flux(folder)
    else:
        tiny_unets.make(kind, folder)
    module = family(KINDS[kind])
    denoiser = module.load(
        folder,
        dtype=torch.float32,
        device=torch.device("cpu"),
        protocol=Protocol(),
        upcast_attention=False,
    )
    theirs = CLASSES[KINDS[kind]].from_pretrained(folder / module.COMPONENT).eval()
    return kind, denoiser, theirs


def sizes(kind: str) -> Iterator[tuple[int, int]]:
    """Latents (h, w); transformers take multiples of their patch."""
    step = family(KINDS[kind]).PATCH
    every = [(h, w) for h in range(8, 73, step) for w in range(8, 73, step)]
    if os.environ.get("REPRSCOPE_ALL_GRIDS"):
        return iter(every)
    chosen = np.random.default_rng(list(KINDS).index(kind)).permutation(len(every))[: SAMPLE[kind]]
    return (every[number] for number in chosen)


def conditions(theirs, pixels) -> dict[str, torch.Tensor]:
    config = theirs.config
    generator = torch.Generator().manual_seed(1)
    width = config.get("cross_attention_dim") or config["joint_attention_dim"]
    found = {"embedding": torch.randn(1, 7, width, generator=generator)}
    if config.get("addition_embed_type") == "text_time":
        pooled = config["projection_class_embeddings_input_dim"]
        pooled -= 6 * config["addition_time_embed_dim"]
        found["pooled"] = torch.randn(1, pooled, generator=generator)
        found["pixels"] = torch.tensor([pixels], dtype=torch.float32)
    elif "pooled_projection_dim" in config:
        pooled = config["pooled_projection_dim"]
        found["pooled"] = torch.randn(1, pooled, generator=generator)
    return found


def plain(kind, theirs, latents, known, level, wanted) -> dict[str, torch.Tensor]:
    """Tokens (1, h, w, channels) by plain hooks, on grids that feature maps of the pass have."""
    outputs = {}
    watched = [*wanted, *(name for name, _ in theirs.named_modules() if name == "pos_embed.proj")]
    handles = [
        theirs.get_submodule(name).register_forward_hook(
            lambda module, given, output, name=name: outputs.update({name: output})
        )
        for name in watched
    ]
    height, width = latents.shape[2:]
    named = {"encoder_hidden_states": known["embedding"], "return_dict": False}
    with torch.no_grad():
        if KINDS[kind] == "unet":
            if "pooled" in known:
                across, down = (int(side) for side in known["pixels"][0])
                ids = torch.tensor([[down, across, 0, 0, down, across]], dtype=torch.float32)
                named["added_cond_kwargs"] = {"text_embeds": known["pooled"], "time_ids": ids}
            theirs(latents, torch.tensor(TIMESTEP), **named)
        elif KINDS[kind] == "sd3":
            time = torch.tensor([1000 * level])
            theirs(latents, timestep=time, pooled_projections=known["pooled"], **named)
        else:
            packed = FluxPipeline._pack_latents(latents, 1, latents.shape[1], height, width)
            ids = FluxPipeline._prepare_latent_image_ids(
                1, height // 2, width // 2, "cpu", torch.float32
            )
            theirs(
                packed,
                timestep=torch.tensor([level]),
                pooled_projections=known["pooled"],
                img_ids=ids,
                txt_ids=torch.zeros(known["embedding"].shape[1], 3),
                **named,
            )
    for handle in handles:
        handle.remove()

    def tokens(name: str) -> torch.Tensor:
        output = outputs[name]
        if KINDS[kind] == "unet":
            output = output[0] if isinstance(output, tuple) else output
            if output.ndim == 4:
                return output.permute(0, 2, 3, 1)
            whole = outputs[name.split(".transformer_blocks.")[0]]
            whole = whole[0] if isinstance(whole, tuple) else whole
            return output.unflatten(1, whole.shape[2:])
        if isinstance(output, tuple):  # attention gives the image first, blocks last
            output = output[0] if name.endswith(("attn", "attn2")) else output[1]
        rows, columns = (height // 2, width // 2)
        if KINDS[kind] == "sd3":
            rows, columns = outputs["pos_embed.proj"].shape[2:]
        elif output.shape[1] > rows * columns:  # text comes first
            output = output[:, known["embedding"].shape[1] :]
        return output.unflatten(1, (rows, columns))

    return {name: tokens(name) for name in wanted}


def test_every_layer_equals_a_plain_pass_for_latents_of_any_size(both):
    kind, denoiser, theirs = both
    wanted = family(KINDS[kind]).positions(theirs.config)
    tried = 0
    with Capture(denoiser, wanted) as capture:
        for height, width in sizes(kind):
            generator = torch.Generator().manual_seed(height * 100 + width)
            channels = theirs.config["in_channels"] // (4 if kind == "flux" else 1)
            latents = torch.randn(1, channels, height, width, generator=generator)
            known = conditions(theirs, (8 * width, 8 * height))
            level = denoiser.sigma(latents, TIMESTEP) if hasattr(denoiser, "sigma") else None
            found = capture(latents, TIMESTEP, known)
            expected = plain(kind, theirs, latents, known, level, wanted)
            assert list(found) == wanted
            for name in wanted:
                assert found[name].shape == expected[name].shape, (name, height, width)
                error = (found[name] - expected[name]).abs().max()
                assert error <= 2e-5 * expected[name].abs().max(), (name, height, width)
            tried += 1
    assert tried >= SAMPLE[kind]


@pytest.mark.parametrize("size", [(42, 64), (9, 31), (17, 8), (43, 43)])
def test_tokens_of_a_transformer_block_lie_where_its_projection_puts_them(tmp_path, size):
    """The map that the layers around it make of the last block's tokens, place by place."""
    folder = tiny_unets.make("sd-1", tmp_path / "model")
    theirs = UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    denoiser = family("unet").load(
        folder,
        dtype=torch.float32,
        device=torch.device("cpu"),
        protocol=Protocol(),
        upcast_attention=False,
    )
    layers = [
        name
        for name, module in theirs.named_modules()
        if type(module).__name__ == "Transformer2DModel"
    ]
    inputs = {}
    handles = [
        denoiser.module.get_submodule(layer).register_forward_pre_hook(
            lambda module, given, layer=layer: inputs.update({layer: given[0]})
        )
        for layer in layers
    ]
    wanted = [name for layer in layers for name in (f"{layer}.transformer_blocks.0", layer)]
    latents = torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(0))
    with Capture(denoiser, wanted) as capture:
        found = capture(latents, TIMESTEP, conditions(theirs, (8, 8)))
    for handle in handles:
        handle.remove()
    assert len(layers) > 4
    for layer in layers:
        inner = found[f"{layer}.transformer_blocks.0"].permute(0, 3, 1, 2)
        with torch.no_grad():
            expected = theirs.get_submodule(layer).proj_out(inner) + inputs[layer]
        assert torch.allclose(found[layer].permute(0, 3, 1, 2), expected, atol=1e-5), layer


@pytest.mark.parametrize(
    ("name", "position", "shape"),
    [
        ("unet", "mid_block.attentions.0.transformer_blocks.0", (1, 47, 8)),
        ("sd3", "transformer_blocks.0.attn", (1, 47, 8)),
        ("flux", "transformer_blocks.0.attn", (1, 47, 8)),
        ("flux", "single_transformer_blocks.0", (1, 50, 8)),
    ],
)
def test_a_sequence_that_fills_no_grid_is_refused(name, position, shape):
    """6 x 8 tokens, and five of text."""
    empty = {"unet": {}, "sd3": {"num_layers": 1}, "flux": {"num_layers": 1}}[name]
    denoiser, _, _ = family(name).make_empty(empty, (16, 16))
    side = 1 if name == "unet" else 2
    passed = Passed((6 * side, 8 * side), (6, 8), 5)
    with pytest.raises(UserError, match="which is no grid of 6 x 8 tokens"):
        denoiser.tokens(position, torch.zeros(shape), passed)
    right = torch.arange(48.0)[None, :, None]
    assert denoiser.tokens(position, right, passed)[0, 2, 3, 0] == 2 * 8 + 3
