"""The transformer families against diffusers' own pipelines, at a tiny width."""

import json
import shutil
import weakref

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, StableDiffusion3Pipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from reprscope.base.protocol import Protocol
from reprscope.models import denoiser, flow, positions, registry, t5, text
from reprscope.models.denoiser import modules
from reprscope.models.families import flux, sd3
from reprscope.models.hub.fetch import make_untrained
from reprscope.models.labels import block_label, in_network_order
from reprscope.models.positions import resolve, spell
from reprscope.representations import prompts
from reprscope.representations.extraction import Capture
from reprscope.runtime.errors import UserError
from support import tiny_models

CPU = torch.device("cpu")
TEXTS = ["", "a photo of a cat", "the dog " * 30]
KINDS = {
    "sd3": (sd3, StableDiffusion3Pipeline, tiny_models.sd3, {}),
    "sd3.5": (sd3, StableDiffusion3Pipeline, tiny_models.sd3, {"medium35": True}),
    "schnell": (flux, FluxPipeline, tiny_models.flux, {}),
    "dev": (flux, FluxPipeline, tiny_models.flux, {"guidance": True}),
}
# Latents that give as many image tokens as there are text tokens (256 + 16 of SD-3).
GRIDS = {272: (32, 34), 256: (32, 32), 512: (32, 64)}


class Model:
    """A family's denoiser, and the diffusers pipeline of the same folder."""

    def __init__(self, kind, folder):
        self.family, pipeline, make, choices = KINDS[kind]
        self.folder = make(folder, **choices)
        self.tokens = 512 if kind == "dev" else 256  # of T5
        self.pipeline = pipeline.from_pretrained(folder, torch_dtype=torch.float32)
        self.pipeline.set_progress_bar_config(disable=True)
        self.denoiser = self.family.load(
            folder, dtype=torch.float32, device=CPU, protocol=Protocol()
        )
        config = json.loads((folder / "transformer" / "config.json").read_text())
        self.positions = self.family.positions(config)
        self.prompts = {
            key: torch.from_numpy(values)
            for key, values in self.family.encode_prompts(folder, TEXTS, device=CPU).items()
        }

    def prompt(self, rows):
        return {key: values[rows] for key, values in self.prompts.items()}


@pytest.fixture(scope="module", params=list(KINDS))
def model(request, tmp_path_factory):
    with torch.random.fork_rng():
        return Model(request.param, tmp_path_factory.mktemp("model") / request.param)


def draw(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# The noise schedule.


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_noise_levels_are_those_of_the_scheduler(shift):
    theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
    ours = flow.schedule_of(json.loads(theirs.to_json_string()))
    expected = theirs.sigmas.flip(0)
    assert np.allclose([ours.sigma(t, 64) for t in range(1000)], expected, rtol=1e-5)
    assert ours.sigma(999, 64) == 1.0


@pytest.mark.parametrize("form", ["exponential", "linear"])
@pytest.mark.parametrize("tokens", [64, 256, 1024, 4096])
def test_noise_levels_with_a_dynamic_shift_are_those_of_the_scheduler(form, tokens):
    config = {"use_dynamic_shifting": True, "time_shift_type": form, "shift": 3.0}
    theirs = FlowMatchEulerDiscreteScheduler(**config)
    straight = [(t + 1) / 1000 for t in (0, 50, 261, 500, 999)]
    theirs.set_timesteps(sigmas=straight, mu=calculate_shift(tokens))
    ours = flow.schedule_of(json.loads(theirs.to_json_string()))
    levels = [ours.sigma(t, tokens) for t in (0, 50, 261, 500, 999)]
    assert np.allclose(levels, theirs.sigmas[:-1], rtol=1e-5)


def test_the_known_level_of_flux_dev_at_1024_pixels():
    """At 4096 tokens mu is 1.15, so that the middle of the schedule is e^1.15 / (e^1.15 + 1)."""
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}
    assert flow.schedule_of(config).sigma(499, 4096) == pytest.approx(0.759511, abs=1e-6)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"_class_name": "DDIMScheduler"}, "DDIMScheduler"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift_terminal": 0.1}, "shift_term"),
    ],
)
def test_other_schedules_are_refused(config, named):
    with pytest.raises(UserError, match=named):
        flow.schedule_of(config)


# Prompts.


def test_prompts_are_those_of_the_pipeline(model):
    with torch.no_grad():
        if model.family is sd3:
            embedding, _, pooled, _ = model.pipeline.encode_prompt(
                TEXTS, None, None, do_classifier_free_guidance=False
            )
        else:
            embedding, pooled, _ = model.pipeline.encode_prompt(
                TEXTS, max_sequence_length=model.tokens
            )
    assert torch.allclose(model.prompts["embedding"], embedding, atol=1e-5)
    assert torch.allclose(model.prompts["pooled"], pooled, atol=1e-5)
    assert embedding.shape[1] == model.tokens + (16 if model.family is sd3 else 0)
    assert not torch.allclose(embedding[0], embedding[1], atol=0.1)
    assert not torch.allclose(pooled[0], pooled[1], atol=0.1)


def test_without_t5_its_tokens_are_zeros_as_in_the_pipeline(tmp_path):
    folder = tiny_models.sd3(tmp_path / "model", t5=False)
    ours = sd3.encode_prompts(folder, TEXTS, device=CPU)
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        folder, text_encoder_3=None, tokenizer_3=None
    )
    with torch.no_grad():
        embedding, _, pooled, _ = pipeline.encode_prompt(
            TEXTS, None, None, do_classifier_free_guidance=False
        )
    assert np.allclose(ours["embedding"], embedding, atol=1e-5)
    assert np.allclose(ours["pooled"], pooled, atol=1e-5)
    assert not ours["embedding"][:, 16:].any()


def test_texts_in_batches_are_as_alone(model):
    number, tokens = 3 if model.family is sd3 else 2, model.tokens
    texts = [f"a photo of {'the ' * i}cat" for i in range(t5.BATCH + 2)]
    many = t5.t5_text(model.folder, texts, number=number, tokens=tokens, device=CPU)
    alone = t5.t5_text(model.folder, texts[-1:], number=number, tokens=tokens, device=CPU)
    assert many.shape == (len(texts), tokens, tiny_models.T5_WIDTH)
    assert np.allclose(many[-1], alone[0], atol=1e-5)


@pytest.mark.parametrize("hidden", ["last", "penultimate", "none"])
def test_clip_encodes_many_texts_in_batches_and_keeps_what_is_asked_for(model, hidden):
    texts = [f"a photo of {'the ' * (i % 9)}cat" for i in range(text.BATCH + 3)]
    many = text.clip_text(model.folder, texts, hidden=hidden, device=CPU)
    alone = text.clip_text(model.folder, texts[-1:], hidden=hidden, device=CPU)
    assert many.hidden.shape == (len(texts), 0 if hidden == "none" else 16, 16)
    assert np.allclose(many.hidden[-1], alone.hidden[0], atol=1e-5)
    assert np.allclose(many.pooled[-1], alone.pooled[0], atol=1e-5)


def test_precision_of_texts_is_stated(model, tmp_path):
    """That of T5 on a GPU is the one that its configuration names."""
    number = 3 if model.family is sd3 else 2
    config = model.folder / f"text_encoder_{number}" / "config.json"
    card = torch.device("cuda")
    for device, named in ((CPU, "float32"), (card, json.loads(config.read_text())["dtype"])):
        found = model.family.text_precision(model.folder, device=device)
        assert found == {"CLIP": "float32", "T5": named}
    folder = tmp_path / f"text_encoder_{number}"
    folder.mkdir()
    for named in ("bfloat16", "float16"):
        (folder / "config.json").write_text(json.dumps({"torch_dtype": named}))
        assert t5.t5_precision(tmp_path, number=number, device=card) == named
    (folder / "config.json").write_text("{}")
    assert t5.t5_precision(tmp_path, number=number, device=card) == "float32"


def test_reduced_precision_is_that_of_the_released_weights():
    def of(name):
        model = registry.find(name).architecture
        return denoiser.family(model.family).reduced_precision(model.denoiser)

    wide = {name for name in registry.models() if of(name) == "bfloat16"}
    assert wide == {"sd-3.5-medium", "flux-schnell", "flux-dev"}


def test_text_encoders_are_loaded_one_after_the_other_and_released(model, monkeypatch):
    import transformers

    loaded, alive = [], []

    def watch(kind):
        load = kind.from_pretrained

        def watched(*arguments, **choices):
            if arguments[0] is None:  # a look at headers, without weights
                return load(*arguments, **choices)
            alive.append(sum(module() is not None for module in loaded))
            module = load(*arguments, **choices)
            loaded.append(weakref.ref(module))
            return module

        monkeypatch.setattr(kind, "from_pretrained", watched)

    for name in ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel"):
        watch(getattr(transformers, name))
    model.family.encode_prompts(model.folder, [""], device=CPU)
    assert alive == [0, 0, 0] if model.family is sd3 else [0, 0]
    assert not any(module() is not None for module in loaded)


def test_long_embeddings_are_stored_in_half_the_bytes_unless_they_overflow(tmp_path):
    long = np.random.default_rng(0).normal(size=(2, 512, 1024)).astype(np.float32)
    stored = t5.compact(long)
    assert stored.dtype == np.float16
    assert np.allclose(stored, long, rtol=1e-3, atol=1e-6)
    prompts.write(
        tmp_path / "prompts.h5", ["a", "b"], {"embedding": stored}, spec="{}", provenance={}
    )
    read = prompts.by_image(tmp_path / "prompts.h5", "{label}", [{"image_id": "i", "label": "b"}])
    assert np.array_equal(read.of(["i"])["embedding"][0], stored[1])
    long[1, 3, 4] = 70000.0
    assert t5.compact(long) is long
    assert t5.compact(long[:, :8]).dtype == np.float32


def test_a_damaged_text_encoder_is_one_sentence(tmp_path):
    folder = tiny_models.flux(tmp_path / "model")
    weights = folder / "text_encoder_2" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"text_encoder_2: model\.safetensors is damaged"):
        flux.encode_prompts(folder, [""], device=CPU)
    (folder / "text_encoder" / "config.json").unlink()
    with pytest.raises(UserError, match=r"text_encoder/config\.json cannot be read"):
        text.clip_text(folder, [""], hidden="none", device=CPU)


def test_a_tokenizer_without_its_words_is_refused(tmp_path):
    """transformers makes an empty one instead, which takes every word for the same unknown."""
    folder = tiny_models.flux(tmp_path / "model")
    (folder / "tokenizer_2" / "tokenizer.json").rename(folder / "tokenizer_2" / "spiece.model")
    with pytest.raises(UserError, match=r"tokenizer_2 has no tokenizer\.json: use"):
        flux.encode_prompts(folder, [""], device=CPU)
    for file in (folder / "tokenizer").glob("*.json"):
        file.unlink()
    with pytest.raises(UserError, match=r"no tokenizer\.json, or vocab\.json and merges\.txt"):
        flux.encode_prompts(folder, [""], device=CPU)


def test_the_tokenizer_of_released_models_is_read_from_its_json(model, tmp_path):
    """Their settings date from the time when a prefix space asked for the slow tokenizer."""
    number = 3 if model.family is sd3 else 2
    folder = tmp_path / "model"
    shutil.copytree(model.folder, folder)
    settings = {
        "add_prefix_space": True,
        "extra_ids": 0,
        "legacy": True,
        "model_max_length": 512,
        "sp_model_kwargs": {},
        "tokenizer_class": "T5Tokenizer",
    }
    vocabulary = folder / f"tokenizer_{number}"
    (vocabulary / "tokenizer_config.json").write_text(json.dumps(settings))
    (vocabulary / "spiece.model").write_bytes(b"not read")
    choices = {"number": number, "tokens": 16, "device": CPU}
    ours = t5.t5_text(folder, TEXTS, **choices)
    assert np.array_equal(ours, t5.t5_text(model.folder, TEXTS, **choices))


# The denoiser.


def run_pipeline(model, clean, noise, timestep, rows):
    """Noised latents, and what every position puts out, by diffusers alone."""
    pipe, scheduler = model.pipeline, model.pipeline.scheduler
    height, width = clean.shape[2] * 8, clean.shape[3] * 8
    mu = calculate_shift(clean.shape[2] * clean.shape[3] // 4)
    straight = [(timestep + 1) / 1000]
    scheduler.set_timesteps(sigmas=straight, mu=mu)
    noised = scheduler.scale_noise(clean, scheduler.timesteps, noise)
    outputs, handles = {}, []
    for position in model.positions:
        module = pipe.transformer.get_submodule(position)
        handles.append(
            module.register_forward_hook(lambda m, a, o, key=position: outputs.update({key: o}))
        )
    arguments = {"prompt": [TEXTS[row] for row in rows], "sigmas": straight}
    arguments |= {"height": height, "width": width, "num_inference_steps": 1}
    arguments |= {"output_type": "latent"}
    if model.family is sd3:
        pipe(latents=noised, guidance_scale=1.0, **arguments)
    else:
        packed = pipe._pack_latents(noised, len(clean), 16, *clean.shape[2:])
        arguments |= {"max_sequence_length": model.tokens}
        pipe(latents=packed, guidance_scale=3.5, **arguments)
    for handle in handles:
        handle.remove()
    return noised, outputs


def image_part(model, position, output, tokens):
    """The image stream, written out by the source of the pinned diffusers."""
    last = position.split(".")[-1]
    if last.isdecimal():
        text_stream, image = output  # of every block
        if text_stream is not None:
            assert text_stream.shape[1] == model.tokens + (16 if model.family is sd3 else 0)
        return image
    if position.startswith("single"):
        assert output.shape[1] == model.tokens + tokens
        return output[:, model.tokens :]
    if last == "attn":
        image, _ = output
        return image
    return output


@pytest.mark.parametrize("number", [0, 1, 2], ids=["square", "wide", "as many as text"])
def test_tokens_equal_those_of_the_pipeline(model, number):
    """Prompts, noise, packing, image positions, guidance and timestep, all by the pipeline."""
    text_tokens = model.prompts["embedding"].shape[1]
    grid = ((8, 8), (8, 12), GRIDS[text_tokens])[number]
    timestep, rows = (50, 261, 700)[number], [1, 2]
    clean, noise = draw((2, 16, *grid), 1), draw((2, 16, *grid), 2)
    noised, outputs = run_pipeline(model, clean, noise, timestep, rows)
    ours = model.denoiser.add_noise(clean, noise, timestep)
    assert torch.allclose(ours, noised, atol=1e-5)
    with Capture(model.denoiser, model.positions) as capture:
        found = capture(
            ours.contiguous(memory_format=torch.channels_last), timestep, model.prompt(rows)
        )
    assert list(found) == model.positions
    height, width = grid[0] // 2, grid[1] // 2
    for position, tokens in found.items():
        image = image_part(model, position, outputs[position], height * width)
        assert tokens.shape == (2, height, width, image.shape[2]), position
        for row, column in ((0, 0), (1, 2), (height - 1, width - 1)):
            expected = image[:, row * width + column]
            assert torch.allclose(tokens[:, row, column], expected, atol=1e-5), position
        assert torch.allclose(tokens.flatten(1, 2), image, atol=1e-5), position
        assert tokens.std() > 1e-3, position


def test_the_patch_at_a_token_alone_changes_the_embedding_of_that_token(model):
    """Where a token comes from: the first position sees its own 2 x 2 latents and no others."""
    first = model.positions[0]
    latents = draw((1, 16, 8, 12))
    moved = latents.clone()
    moved[:, :, 5, 8] += 1.0
    with Capture(model.denoiser, [first]) as capture:
        change = capture(moved, 50, model.prompt([0]))[first]
        change = change - capture(latents, 50, model.prompt([0]))[first]
    assert change.abs().sum(-1)[0].nonzero().tolist() == [[2, 4]]


def test_timestep_prompt_and_guidance_reach_the_denoiser(model):
    last = model.positions[-1]
    latents = draw((1, 16, 8, 8))
    with Capture(model.denoiser, [last]) as capture:
        base = capture(latents, 50, model.prompt([0]))[last]
        assert not torch.allclose(capture(latents, 500, model.prompt([0]))[last], base, atol=1e-4)
        assert not torch.allclose(capture(latents, 50, model.prompt([1]))[last], base, atol=1e-4)
    assert getattr(model.denoiser, "guided", None) == {"schnell": False, "dev": True}.get(
        model.folder.name
    )


def test_hook_on_a_module_equals_running_that_module(model):
    name = next(p for p in model.positions if p.endswith(".ff"))
    seen = {}
    module = modules(model.denoiser, [name])[name]
    handle = module.register_forward_pre_hook(lambda m, args: seen.update(args=args))
    with Capture(model.denoiser, [name]) as capture:
        found = capture(draw((2, 16, 8, 12)), 10, model.prompt([0, 1]))
    handle.remove()
    with torch.inference_mode():
        expected = module(*seen["args"])
    assert torch.allclose(found[name].reshape(expected.shape), expected, atol=1e-6)


def test_early_exit_equals_the_full_pass_and_runs_nothing_after_it(model):
    latents, ran = draw((1, 16, 8, 12)), []
    handles = [
        module.register_forward_hook(lambda m, a, o, p=p: ran.append(p))
        for p, module in modules(model.denoiser, model.positions).items()
    ]
    with Capture(model.denoiser, model.positions) as capture:
        full = capture(latents, 50, model.prompt([0]))
    assert ran == model.positions
    ran.clear()
    middle = model.positions[len(model.positions) // 2]
    with Capture(model.denoiser, [middle, model.positions[0]]) as capture:
        early = capture(latents, 50, model.prompt([0]))
    for handle in handles:
        handle.remove()
    assert ran == model.positions[: len(model.positions) // 2 + 1]
    for position, tokens in early.items():
        assert torch.equal(tokens, full[position])


def test_tokens_do_not_depend_on_the_batch(model):
    latents = draw((3, 16, 8, 12))
    with Capture(model.denoiser, model.positions) as capture:
        many = capture(latents, 50, model.prompt([0, 1, 2]))
        alone = capture(latents[1:2], 50, model.prompt([1]))
    for position, tokens in alone.items():
        assert torch.allclose(many[position][1:2], tokens, atol=1e-5), position


def test_low_precision_stays_near_float32(model):
    low = model.family.load(model.folder, dtype=torch.bfloat16, device=CPU, protocol=Protocol())
    assert {weight.dtype for weight in low.module.parameters()} == {torch.bfloat16}
    latents, last = draw((1, 16, 8, 8)), model.positions[-1]
    half = {key: values.bfloat16() for key, values in model.prompt([1]).items()}
    with Capture(low, [last]) as capture:
        rounded = capture(latents.bfloat16(), 261, half)[last].float()
    with Capture(model.denoiser, [last]) as capture:
        exact = capture(latents, 261, model.prompt([1]))[last]
    assert (rounded - exact).norm() < 0.05 * exact.norm()


def test_values_that_float16_cuts_off_are_refused(model):
    """Weights that make a stream too large, which diffusers cuts to 65504 and goes on with."""
    if model.family is sd3:
        wrong, last = "transformer_blocks.0.ff_context.net.2", "transformer_blocks.1"
    else:
        wrong, last = "single_transformer_blocks.0.proj_out", "single_transformer_blocks.1"
    half = {key: values.half() for key, values in model.prompt([1]).items()}
    latents = draw((1, 16, 8, 8)).half()
    place = ".".join(wrong.split(".")[:2])
    for dtype in (torch.float16, torch.bfloat16):
        low = model.family.load(model.folder, dtype=dtype, device=CPU, protocol=Protocol())
        with Capture(low, [last]) as capture:
            given = latents.to(dtype), 261, {k: v.to(dtype) for k, v in half.items()}
            assert torch.isfinite(capture(*given)[last]).all()
            with torch.no_grad():
                module = low.module.get_submodule(wrong)
                module.weight.fill_(1000.0)
                module.bias.fill_(60000.0)
            if dtype == torch.bfloat16:
                assert capture(*given)[last].isfinite().all()
                continue
            with pytest.raises(UserError, match=rf"{place} has values beyond .* bfloat16"):
                capture(*given)


@pytest.mark.parametrize("name", ["context_embedder", "transformer_blocks.0.ff_context"])
def test_modules_of_the_text_have_no_image_tokens(model, name):
    with (
        Capture(model.denoiser, [name]) as capture,
        pytest.raises(UserError, match=f"{name} has no image tokens"),
    ):
        capture(draw((1, 16, 8, 8)), 50, model.prompt([0]))


def test_latents_that_do_not_divide_into_tokens_are_refused(model):
    with pytest.raises(UserError, match="9 x 8 do not divide into tokens of 2 x 2"):
        model.denoiser.add_noise(torch.zeros(1, 16, 9, 8), torch.zeros(1, 16, 9, 8), 50)
    if model.family is sd3:
        with pytest.raises(UserError, match=r"4 x 25 tokens is too large .* 24 x 24"):
            model.denoiser(torch.zeros(1, 16, 8, 50), 50, model.prompt([0]))


def test_the_untrained_twin_is_the_same_network_with_weights_of_its_seed(model, tmp_path):
    name = "flux" if model.family is flux else "sd3"
    trained, states = model.denoiser.module.state_dict(), {}
    for twin, seed in {"a": 0, "b": 0, "c": 1}.items():
        torch.manual_seed(len(states))
        make_untrained(model.folder, tmp_path / twin, family=name, seed=seed)
        loaded = model.family.load(
            tmp_path / twin, dtype=torch.float32, device=CPU, protocol=Protocol()
        )
        states[twin] = loaded.module.state_dict()
    assert {k: v.shape for k, v in states["a"].items()} == {k: v.shape for k, v in trained.items()}
    key = "transformer_blocks.1.attn.to_q.weight"
    assert torch.equal(states["a"][key], states["b"][key])
    assert not torch.equal(states["a"][key], states["c"][key])
    assert not torch.equal(states["a"][key], trained[key])


def test_a_damaged_transformer_is_one_sentence(tmp_path):
    folder = tiny_models.sd3(tmp_path / "model")
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"transformer: .* is damaged"):
        sd3.load(folder, dtype=torch.float32, device=CPU, protocol=Protocol())


@pytest.mark.parametrize("family", [sd3, flux])
def test_upcast_attention_is_refused_before_anything_is_loaded(family, tmp_path):
    choices = {"dtype": torch.float16, "device": CPU, "protocol": Protocol()}
    with pytest.raises(UserError, match="precision: float32"):
        family.load(tmp_path, upcast_attention=True, **choices)


# Names.

FLUX = flux.positions({"num_layers": 19, "num_single_layers": 38})
SD35 = sd3.positions({"num_layers": 24, "dual_attention_layers": list(range(13))})


@pytest.mark.parametrize("network", [FLUX, SD35], ids=["flux", "sd3.5"])
def test_labels_are_distinct_in_network_order_and_read_back(network):
    labels = [block_label(position) for position in network]
    assert len(set(labels)) == len(labels)
    assert [spell(label) for label in labels] == network
    assert in_network_order(reversed(network)) == network


def test_labels_and_globs_of_transformers():
    assert resolve(["single[12]", "double[3]", "x_embedder"], FLUX, entry="h") == [
        "x_embedder",
        "transformer_blocks.3",
        "single_transformer_blocks.12",
    ]
    assert resolve(["block[*] attn2"], SD35, entry="h")[-1] == "transformer_blocks.12.attn2"
    assert len(resolve(["transformer_blocks.*"], FLUX, entry="h")) == 19
    assert len(resolve(["single_transformer_blocks.*"], FLUX, entry="h")) == 38
    assert len(resolve(["single[*] attn", "proj_out"], FLUX, entry="h")) == 39
    assert block_label("single_transformer_blocks.12.proj_mlp") == "single[12] proj_mlp"
    assert block_label("transformer_blocks.7.attn") == "block[7] attn"


def test_an_unknown_position_of_a_transformer_is_answered_with_its_blocks():
    with pytest.raises(UserError) as caught:
        resolve(["up[1]"], FLUX, entry="hooksets.blocks: model flux")
    assert str(caught.value) == (
        "hooksets.blocks: model flux has no position up[1]: its blocks are x_embedder, "
        "transformer_blocks.0 to transformer_blocks.18, single_transformer_blocks.0 to "
        "single_transformer_blocks.37, proj_out, with layers such as transformer_blocks.0.attn "
        "inside them."
    )


def test_one_list_of_positions_serves_models_of_several_families():
    patterns = ["mid", "block[1]", "single[2]"]
    assert resolve(patterns, SD35, entry="h") == ["transformer_blocks.1"]
    assert len(resolve(patterns, FLUX, entry="h")) == 2
    assert resolve(["mid", "up[*]"], SD35, entry="h", optional=True) == []
    for wrong in (["mid", "block[24]"], ["mid", "blok[1]"], ["block[1]", "block[1] fff"]):
        with pytest.raises(UserError, match=r"model sd3 has no position .* its blocks are pos_emb"):
            resolve(wrong, SD35, entry="model sd3", optional=True)
    with pytest.raises(UserError, match=r"model sd3 has no position mid, up\[1\]"):
        resolve(["mid", "up[1]"], SD35, entry="model sd3")


def test_the_names_of_all_families_are_known():
    """A position of a family that is not in the list could not be passed over by the others."""
    for name in denoiser.families():
        own = denoiser.family(name).positions({})
        assert {position.split(".")[0] for position in own} <= positions._NAMES


def test_an_unknown_family_is_answered_with_the_families():
    assert denoiser.family("sd3") is sd3
    with pytest.raises(UserError, match=r"no model family 'vae': use one of flux, sd3, unet\."):
        denoiser.family("vae")
