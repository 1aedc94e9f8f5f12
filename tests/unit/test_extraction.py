"""Extraction against running the modules by hand and against diffusers' own classes."""

import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from reprscope.base.protocol import Protocol
from reprscope.models.denoiser import compile_parts, modules
from reprscope.models.families.unet import encode_prompts, positions
from reprscope.representations.encoding import encode
from reprscope.representations.extraction import Capture, batches, extract
from reprscope.representations.prompts import Prompts
from reprscope.representations.store import Representations, writer
from reprscope.representations.views import View
from support.embedded import load_unet
from support.pictures import image_frame, smooth_image

BLOCKS = ["conv_in", "down_blocks.0", "down_blocks.3", "mid_block", "up_blocks.1", "conv_out"]
SIZES = [(64, 64), (96, 64), (64, 64), (64, 96), (96, 64), (64, 64), (64, 64)]


@pytest.fixture(scope="module")
def prompt(nano):
    return encode_prompts(nano, [""], device=torch.device("cpu"))["embedding"][0]


@pytest.fixture(scope="module")
def latents(tmp_path_factory, vae):
    path = tmp_path_factory.mktemp("latents") / "latents.h5"
    with writer(path, spec="{}", provenance={}, dtype=np.float32) as store:
        encode(
            image_frame(SIZES),
            View(fit="keep"),
            vae,
            store,
            resolution=96,
            pixels="symmetric",
            batch_size=3,
        )
    return path


def run(
    path,
    unet,
    latents,
    prompt,
    *,
    wanted=BLOCKS,
    size=4,
    timestep=50,
    seed=0,
    dtype=torch.float32,
    stored=np.float32,
    form="tokens",
    **protocol,
):
    chosen = Protocol(**protocol)
    made = {"provenance": {"positions": wanted}, "dtype": stored, "form": form}
    with (
        Representations([latents]) as source,
        writer(path, spec="{}", **made) as store,
    ):
        prompts = Prompts({"embedding": prompt[None]}, dict.fromkeys(source.image_ids, 0))
        extract(
            unet,
            batches(source, prompts, seed=seed, protocol=chosen, scaling=0.7, shift=0.1, size=size),
            positions=wanted,
            timestep=timestep,
            protocol=chosen,
            device=torch.device("cpu"),
            dtype=dtype,
            store=store,
        )
    return Representations([path])


def test_encoder_sees_pixels_from_minus_one_to_one(nano, vae):
    image = smooth_image(64, 64, 0)
    theirs = AutoencoderKL.from_pretrained(nano / "vae", torch_dtype=torch.float32)
    pixels = (torch.from_numpy(image).float() / 255 - 0.5) / 0.5
    with torch.no_grad():
        expected = theirs.encode(pixels.permute(2, 0, 1)[None]).latent_dist
    mean, logvar = vae.encode(image[None], pixels="symmetric")
    assert np.allclose(mean[0], expected.mean[0].permute(1, 2, 0), atol=1e-4)
    assert np.allclose(logvar[0], expected.logvar[0].permute(1, 2, 0), atol=1e-4)
    assert mean.shape == (1, 16, 16, 4)


def test_tokens_equal_a_pass_by_hand_through_diffusers(tmp_path, nano, unet, latents, prompt):
    """The whole of the standard protocol, written out with diffusers' own parts."""
    theirs = UNet2DConditionModel.from_pretrained(nano / "unet", torch_dtype=torch.float32)
    config = json.loads((nano / "scheduler" / "scheduler_config.json").read_text())
    scheduler = DDPMScheduler.from_config(config)
    from reprscope.representations.diffusion import noise

    with (
        run(tmp_path / "a.h5", unet, latents, prompt) as found,
        Representations([latents]) as source,
    ):
        for name in ("image-1", "image-3"):
            clean = torch.from_numpy(source.tokens("mean", name)).permute(2, 0, 1)[None]
            clean = (clean - 0.1) * 0.7
            drawn = noise(tuple(clean.shape[1:]), seed=0, image_id=name)[None]
            noised = scheduler.add_noise(clean, drawn, torch.tensor([50]))
            outputs, handles = {}, []
            for position in BLOCKS:
                keep = partial(
                    lambda found, key, *call: found.update({key: call[2]}), outputs, position
                )
                handles.append(theirs.get_submodule(position).register_forward_hook(keep))
            with torch.no_grad():
                theirs(noised, 50, encoder_hidden_states=torch.from_numpy(prompt)[None])
            for handle in handles:
                handle.remove()
            for position in BLOCKS:
                expected = outputs[position]
                expected = expected[0] if isinstance(expected, tuple) else expected
                expected = expected[0].permute(1, 2, 0).numpy()
                assert np.allclose(found.tokens(position, name), expected, atol=2e-4), position


def test_hook_on_a_module_equals_running_that_module(unet):
    """A resnet's captured output is the resnet applied to its captured input."""
    name = "mid_block.resnets.0"
    seen = {}
    module = modules(unet, [name])[name]
    handle = module.register_forward_pre_hook(lambda m, args: seen.update(args=args))
    with Capture(unet, [name]) as capture:
        found = capture(torch.randn(2, 4, 16, 16), 10, {"embedding": torch.zeros(2, 16, 64)})
    handle.remove()
    with torch.inference_mode():
        expected = module(*seen["args"])
    assert torch.allclose(found[name], expected.permute(0, 2, 3, 1), atol=1e-5)


def test_early_exit_equals_the_full_pass_and_runs_nothing_after_it(unet):
    noised, prompt = torch.randn(2, 4, 16, 16), {"embedding": torch.randn(2, 16, 64)}
    ran = []
    handles = [
        module.register_forward_hook(lambda m, a, o, p=p: ran.append(p))
        for p, module in modules(unet, BLOCKS).items()
    ]
    with Capture(unet, BLOCKS) as capture:
        full = capture(noised, 50, prompt)
    assert ran[-1] == "conv_out"
    ran.clear()
    with Capture(unet, ["mid_block", "conv_in"]) as capture:
        early = capture(noised, 50, prompt)
    assert ran == ["conv_in", "down_blocks.0", "down_blocks.3", "mid_block"]
    for handle in handles:
        handle.remove()
    for position in ("conv_in", "mid_block"):
        assert torch.equal(early[position], full[position])


def test_batches_and_shards_change_features_by_rounding_alone(tmp_path, unet, latents, prompt, vae):
    whole = run(tmp_path / "one.h5", unet, latents, prompt, size=1)
    wide = run(tmp_path / "four.h5", unet, latents, prompt, size=4)
    assert whole.image_ids == wide.image_ids
    frame = image_frame(SIZES)
    with writer(tmp_path / "part.h5", spec="{}", provenance={}, dtype=np.float32) as store:
        encode(
            frame[3:], View(fit="keep"), vae, store, resolution=96, pixels="symmetric", batch_size=2
        )
    part = run(tmp_path / "shard.h5", unet, tmp_path / "part.h5", prompt, size=3)
    for name in whole.image_ids:
        for position in BLOCKS:
            expected = whole.tokens(position, name)
            others = [wide, part] if name in part.image_ids else [wide]
            for other in others:
                far = np.linalg.norm(other.tokens(position, name) - expected)
                # A few values fall on the other side when they become float16.
                assert far < 1e-4 * np.linalg.norm(expected)
    assert len(part.image_ids) == 4


def test_noise_is_drawn_per_image_and_shared_only_on_request(tmp_path, unet, latents, prompt):
    """Images with equal latents differ by their noise alone."""
    with Representations([latents]) as source:
        names = [n for n in source.image_ids if source.pixels(n) == (96, 96)][:2]
        values = source.tokens("mean", names[0])
        transform = source.transform(names[0])
    with writer(tmp_path / "twins.h5", spec="{}", provenance={}, dtype=np.float32) as store:
        for name in ("a", "b"):
            tables = {"mean": values[None], "logvar": np.full_like(values, -2.0)[None]}
            store.append([name], [(96, 96)], [transform], tables)

    def tokens(name, **choices):
        path = tmp_path / f"{name}.h5"
        found = run(path, unet, tmp_path / "twins.h5", prompt, wanted=["conv_in"], **choices)
        return found.tokens("conv_in", "a"), found.tokens("conv_in", "b")

    a, b = tokens("standard", timestep=500)
    assert not np.allclose(a, b, atol=0.05)
    a, b = tokens("shared", timestep=500, noise="shared")
    assert np.allclose(a, b, atol=1e-5)
    a, b = tokens("none", timestep=500, noise="none")
    assert np.allclose(a, b, atol=1e-5)
    a, b = tokens("sample", timestep=500, noise="none", posterior="sample")
    assert not np.allclose(a, b, atol=0.05)


def test_a_failing_writer_ends_the_job_with_its_error(tmp_path, unet, latents, prompt, monkeypatch):
    from reprscope.runtime.errors import UserError

    broken = modules(unet, ["mid_block"])["mid_block"]
    handle = broken.register_forward_hook(lambda m, a, o: o * float("nan"))
    try:
        with pytest.raises(UserError, match="Position mid_block of image image-"):
            run(tmp_path / "a.h5", unet, latents, prompt, wanted=["mid_block"])
    finally:
        handle.remove()
    assert not (tmp_path / "a.h5").exists()


def with_one_value(unet, value):
    """Let the first image's first token of the middle block have a certain value."""

    def write(module, given, output):
        changed = output.clone()
        changed[0, 0, 0, 0] = value
        return changed

    return modules(unet, ["mid_block"])["mid_block"].register_forward_hook(write)


@pytest.mark.parametrize("form", ["tokens", "mean"])
@pytest.mark.parametrize("value", [65504.0, -65504.0, float("inf"), float("nan")])
def test_the_ends_of_float16_are_out_of_its_range(tmp_path, nano, latents, prompt, value, form):
    """A value that was cut off at the largest number is finite."""
    from reprscope.runtime.errors import UserError

    half = load_unet(nano, dtype=torch.float16)
    named = {"wanted": ["mid_block"], "dtype": torch.float16, "stored": np.float16, "form": form}
    run(tmp_path / "before.h5", half, latents, prompt, **named)
    with_one_value(half, value)
    with pytest.raises(UserError, match=r"mid_block of image image-. has values beyond .* float16"):
        run(tmp_path / "a.h5", half, latents, prompt, **named)


@pytest.mark.parametrize("value", [65472.0, 65504.0, 65510.0, 1e6])
def test_large_values_of_wider_types_are_stored_as_they_are(tmp_path, nano, latents, prompt, value):
    wide = load_unet(nano)
    with_one_value(wide, value)
    with run(
        tmp_path / "a.h5", wide, latents, prompt, wanted=["mid_block"], stored=np.float16
    ) as found:
        tops = {name: found.tokens("mid_block", name).max() for name in found.image_ids}
    assert max(tops.values()) == value


def test_positions_from_the_configuration_are_the_modules_in_the_order_they_run(nano, unet):
    config = json.loads((nano / "unet" / "config.json").read_text())
    expected = positions(config)
    ran = []
    handles = [
        module.register_forward_hook(lambda m, a, o, p=p: ran.append(p))
        for p, module in modules(unet, expected).items()
    ]
    with torch.no_grad():
        unet(torch.randn(1, 4, 16, 16), 0, {"embedding": torch.zeros(1, 16, 64)})
    for handle in handles:
        handle.remove()
    assert ran == expected


def test_layers_inside_a_transformer_block_give_token_grids_of_non_square_images(unet):
    names = ["down_blocks.1.attentions.0.transformer_blocks.0.attn1", "down_blocks.1.attentions.0"]
    with Capture(unet, names) as capture:
        found = capture(torch.randn(1, 4, 16, 24), 0, {"embedding": torch.zeros(1, 16, 64)})
    assert found[names[0]].shape[:3] == (1, 8, 12)
    assert found[names[1]].shape[:3] == (1, 8, 12)


def test_a_position_that_does_not_exist_is_named(unet):
    from reprscope.runtime.errors import UserError

    with pytest.raises(UserError, match=r"no position up_blocks\.9"):
        Capture(unet, ["up_blocks.9"])


def test_latents_divide_into_the_patches_of_a_transformer(tmp_path, vae):
    path = tmp_path / "latents.h5"
    with writer(path, spec="{}", provenance={}, dtype=np.float32) as store:
        encode(
            image_frame([(100, 62)]),
            View(fit="keep"),
            vae,
            store,
            resolution=100,
            pixels="symmetric",
            patch=2,
            batch_size=1,
        )
    with Representations([path]) as found:
        assert found.grid("mean", "image-0") == (16, 24)  # 64 x 96 px, not 60 x 100


ALL_BLOCKS = [
    "conv_in",
    *(f"down_blocks.{i}" for i in range(4)),
    "mid_block",
    *(f"up_blocks.{i}" for i in range(4)),
    "conv_out",
]
# Mean and largest cosine distance of tokens to those in float32, of nano-sd. The largest is found
# where a token is nearly zero in all but a few channels.
BOUNDS = {
    torch.bfloat16: {
        **dict.fromkeys(ALL_BLOCKS, (2e-4, 1e-3)),
        "conv_in": (1e-5, 1e-4),
        "mid_block": (5e-4, 1e-2),
        "conv_out": (2e-4, 1e-2),
    },
    torch.float16: {
        **dict.fromkeys(ALL_BLOCKS, (2e-6, 2e-5)),
        "conv_in": (1e-7, 1e-6),
        "mid_block": (5e-6, 1e-4),
        "conv_out": (2e-6, 1e-4),
    },
}


@pytest.mark.parametrize("dtype", BOUNDS)
def test_reduced_precision_moves_features_by_no_more_than_this(nano, unet, latents, prompt, dtype):
    with Representations([latents]) as source:
        clean = torch.from_numpy(source.tokens("mean", "image-0")).permute(2, 0, 1)[None]
    drawn = torch.randn(4, *clean.shape[1:], generator=torch.Generator().manual_seed(0))
    noised = unet.add_noise(clean.expand_as(drawn), drawn, 50)
    embedding = torch.from_numpy(prompt)[None].expand(4, -1, -1)
    found = {}
    for kind in (torch.float32, dtype):
        denoiser = unet if kind == torch.float32 else load_unet(nano, dtype=kind)
        with Capture(denoiser, ALL_BLOCKS) as capture:
            found[kind] = capture(noised.to(kind), 50, {"embedding": embedding.to(kind)})
    for position, (mean, largest) in BOUNDS[dtype].items():
        exact, moved = (found[kind][position].double() for kind in (torch.float32, dtype))
        distance = 1 - torch.nn.functional.cosine_similarity(exact, moved, dim=-1)
        assert 0 < distance.mean() < mean, position
        assert distance.max() < largest, position


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_parts_give_the_same_tokens(nano, unet):
    """Up to the first down block: its layers are hooked, so that parts lie inside it too."""
    names = ["conv_in", "down_blocks.0.resnets.0", "down_blocks.0"]
    compiled = load_unet(nano)
    compile_parts(compiled, names)
    assert hasattr(compiled.module.down_blocks[0].resnets[0].forward, "_torchdynamo_orig_callable")
    noised, prompt = torch.randn(2, 4, 16, 16), {"embedding": torch.randn(2, 16, 64)}
    found = []
    for denoiser in (unet, compiled):
        with Capture(denoiser, names) as capture:
            found.append(capture(noised, 50, prompt))
    for name in names:
        assert torch.allclose(found[0][name], found[1][name], atol=1e-4)
