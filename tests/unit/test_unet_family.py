"""The U-Net family under the standard protocol, against the diffusers pipelines' own parts."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from diffusers import (
    AutoPipelineForText2Image,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
)
from reprscope.models.denoiser import modules
from reprscope.models.families.unet import encode_prompts, positions
from reprscope.representations.extraction import Capture
from reprscope.runtime.errors import UserError
from support import tiny_unets
from support.embedded import load_unet
from torch.nn.attention import SDPBackend, sdpa_kernel

CPU = torch.device("cpu")
GRIDS = [(16, 16), (16, 24)]
FACTOR = 4
"""Pixels per latent cell of the tiny VAEs."""


@pytest.fixture(scope="module", params=tiny_unets.KINDS)
def folder(request, tmp_path_factory):
    return tiny_unets.make(request.param, tmp_path_factory.mktemp("models") / request.param)


@pytest.fixture(scope="module")
def pipeline(folder):
    return AutoPipelineForText2Image.from_pretrained(
        folder, torch_dtype=torch.float32, local_files_only=True
    )


@pytest.fixture(scope="module")
def config(folder):
    return json.loads((folder / "unet" / "config.json").read_text())


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    return tiny_unets.make("sdxl", tmp_path_factory.mktemp("models") / "sdxl")


def conditions(folder, texts, grid):
    """What extraction hands to a denoiser."""
    found = {k: torch.from_numpy(v) for k, v in encode_prompts(folder, texts, device=CPU).items()}
    height, width = (FACTOR * side for side in grid)
    return found | {"pixels": torch.tensor([(width, height)] * len(texts), dtype=torch.float32)}


def latents(grid, count=2):
    generator = torch.Generator().manual_seed(grid[1])
    return [torch.randn(count, 4, *grid, generator=generator) for _ in range(2)]


def relative(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


def test_prompts_equal_the_pipelines_own(folder, pipeline):
    texts = ["a red cat", "", "a much longer text about a dog that is cut off at the last token"]
    found = encode_prompts(folder, texts, device=CPU)
    embedding, _, *pooled = pipeline.encode_prompt(
        prompt=texts, device=CPU, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    assert np.allclose(found["embedding"], embedding.detach(), atol=1e-5)
    assert found["embedding"].shape[2] == pipeline.unet.config.cross_attention_dim
    if pooled:
        assert np.allclose(found["pooled"], pooled[0].detach(), atol=1e-5)
        assert np.abs(found["pooled"][0] - found["pooled"][1]).max() > 0.01
    else:
        assert set(found) == {"embedding"}
    assert np.abs(found["embedding"][1]).max() > 0.01  # the empty text is encoded too


@pytest.mark.parametrize("timestep", [0, 50, 261, 999])
def test_noised_latents_equal_the_models_own_scheduler(folder, pipeline, timestep):
    clean, drawn = latents((8, 8))
    found = load_unet(folder).add_noise(clean, drawn, timestep)
    scheduler = pipeline.scheduler
    expected = scheduler.add_noise(clean, drawn, torch.tensor([timestep] * 2))
    if isinstance(scheduler, EulerDiscreteScheduler | EulerAncestralDiscreteScheduler):
        # These add sigma times the noise to the latents, and scale them before the denoiser.
        scheduler = scheduler.from_config(scheduler.config)
        expected = scheduler.scale_model_input(expected, torch.tensor(timestep))
    assert relative(found, expected) < 2e-5


@pytest.mark.parametrize("grid", GRIDS)
def test_every_position_equals_a_plain_call_of_the_pipelines_denoiser(
    folder, pipeline, config, grid
):
    """Also of the layers inside transformer blocks, and on images that are not square."""
    noised, _ = latents(grid)
    texts = ["a red cat", ""]
    wanted = positions(config)
    with Capture(load_unet(folder), wanted) as capture:
        found = capture(noised, 261, conditions(folder, texts, grid))
    embedding, _, *pooled = pipeline.encode_prompt(
        prompt=texts, device=CPU, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    added = {}
    if pooled:
        size = (FACTOR * grid[0], FACTOR * grid[1])
        ids = pipeline._get_add_time_ids(
            size, (0, 0), size, dtype=torch.float32, text_encoder_projection_dim=24
        )
        added = {"text_embeds": pooled[0], "time_ids": ids.repeat(2, 1)}
    outputs: dict[str, torch.Tensor] = {}
    handles = [
        pipeline.unet.get_submodule(position).register_forward_hook(
            partial(lambda key, _module, _inputs, output: outputs.update({key: output}), position)
        )
        for position in wanted
    ]
    with torch.no_grad():
        pipeline.unet(
            noised,
            torch.tensor(261),
            encoder_hidden_states=embedding,
            added_cond_kwargs=added,
        )
    for handle in handles:
        handle.remove()
    assert list(found) == wanted
    for position in wanted:
        output = outputs[position]
        output = output[0] if isinstance(output, tuple) else output
        tokens = output.permute(0, 2, 3, 1).flatten(1, 2) if output.ndim == 4 else output
        if ".transformer_blocks." in position:
            whole = outputs[position.split(".transformer_blocks.")[0]]
            whole = whole[0] if isinstance(whole, tuple) else whole
            assert found[position].shape[1:3] == whole.shape[2:], position
        assert relative(found[position].flatten(1, 2), tokens) < 2e-5, position


def test_conditions_of_sdxl_matter(sdxl):
    denoiser = load_unet(sdxl)
    noised, _ = latents((16, 16))
    known = conditions(sdxl, ["", ""], (16, 16))

    def middle(**changes):
        with Capture(denoiser, ["mid_block"]) as capture:
            return capture(noised, 50, known | changes)["mid_block"]

    expected = middle()
    assert relative(middle(pixels=2 * known["pixels"]), expected) > 1e-3
    assert relative(middle(pooled=-known["pooled"]), expected) > 1e-3
    assert torch.equal(middle(), expected)


def test_without_added_conditioning_sdxl_sees_neither_text_vector_nor_size(sdxl):
    denoiser = load_unet(sdxl, added_conditioning=False)
    noised, _ = latents((16, 16))
    known = conditions(sdxl, ["", ""], (16, 16))
    with Capture(denoiser, ["mid_block"]) as capture:
        alone = capture(noised, 50, {"embedding": known["embedding"]})["mid_block"]
        both = capture(noised, 50, known)["mid_block"]
    assert torch.equal(alone, both)
    with Capture(load_unet(sdxl), ["mid_block"]) as capture:
        right = capture(noised, 50, known)["mid_block"]
    assert relative(alone, right) > 1e-3


def test_rescaling_is_that_of_the_models_sampler(folder, pipeline):
    """Nothing for SD-1 and SD-2, the square root of the signal level for Euler samplers."""
    noised, _ = latents((16, 16))
    known = conditions(folder, ["", ""], (16, 16))
    scheduler = pipeline.scheduler.from_config(pipeline.scheduler.config)
    scaled = scheduler.scale_model_input(noised, torch.tensor(500))
    with Capture(load_unet(folder, rescaling=True), ["conv_in"]) as capture:
        found = capture(noised, 500, known)["conv_in"]
    with Capture(load_unet(folder), ["conv_in"]) as capture:
        expected = capture(scaled, 500, known)["conv_in"]
    assert relative(found, expected) < 2e-5
    euler = "Euler" in type(scheduler).__name__
    assert (relative(scaled, noised) > 0.4) == euler


@pytest.fixture
def low_products():
    """Products of low precision stay in it, as on devices without fused attention."""
    before = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    yield
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_upcast_attention_is_near_float32_where_lower_precision_is_not(sdxl, dtype, low_products):
    """Queries and keys so large that their products leave the range of float16."""
    name = "mid_block.attentions.0.transformer_blocks.0.attn1"
    tokens = torch.randn(1, 24, 16, generator=torch.Generator().manual_seed(0))

    def attention(dtype, upcast):
        denoiser = load_unet(sdxl, dtype=dtype, upcast_attention=upcast)
        module = modules(denoiser, [name])[name]
        with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH):
            for weight in (module.to_q.weight, module.to_k.weight):
                weight.mul_(800.0)
            return module(tokens.to(dtype)).float()

    expected = attention(torch.float32, False)
    found = attention(dtype, True)
    assert torch.isfinite(found).all()
    assert relative(found, expected) < 0.02
    plain = attention(dtype, False)
    assert not torch.isfinite(plain).all() or relative(plain, expected) > 0.02


def test_a_whole_pass_with_upcast_attention_is_near_float32(sdxl):
    known = conditions(sdxl, ["a red cat", ""], (16, 24))
    noised, _ = latents((16, 24))
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        denoiser = load_unet(sdxl, dtype=dtype, upcast_attention=True)
        cast = {k: v if k == "pixels" else v.to(dtype) for k, v in known.items()}
        with Capture(denoiser, ["mid_block", "conv_out"]) as capture:
            found[dtype] = capture(noised.to(dtype), 50, cast)
    for position, values in found[torch.bfloat16].items():
        assert values.dtype == torch.bfloat16
        assert relative(values.float(), found[torch.float32][position]) < 0.05, position


def test_a_denoiser_with_unknown_conditioning_is_refused(sdxl, tmp_path):
    import shutil

    shutil.copytree(sdxl, tmp_path / "model")
    path = tmp_path / "model" / "unet" / "config.json"
    path.write_text(path.read_text().replace('"text_time"', '"text"'))
    with pytest.raises(UserError, match='has addition_embed_type: "text", which is not supp'):
        load_unet(tmp_path / "model")
