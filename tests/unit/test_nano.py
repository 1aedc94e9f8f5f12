"""The embedded model and how it is trained."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from nano_sd import architecture, corpus
from nano_sd.denoiser import Denoiser, Stage, ddpm_loss, draw, train_denoiser
from nano_sd.gradients import GradientWorkers
from nano_sd.latents import halve
from nano_sd.loop import Budget, Optimisation
from nano_sd.tokenizer import learn_merges, write_tokenizer
from reprscope.runtime.errors import UserError
from safetensors import safe_open
from transformers import CLIPTokenizer

# The blocks of SD-1.5 with their sub-blocks, in network order (Rombach et al. 2022; diffusers).
SD_POSITIONS = [
    "conv_in",
    *(
        f"down_blocks.{block}.{layer}"
        for block in range(3)
        for layer in (
            "resnets.0", "attentions.0", "resnets.1", "attentions.1", "downsamplers.0",
        )
    ),
    "down_blocks.3.resnets.0",
    "down_blocks.3.resnets.1",
    "mid_block.resnets.0",
    "mid_block.attentions.0",
    "mid_block.resnets.1",
    "up_blocks.0.resnets.0",
    "up_blocks.0.resnets.1",
    "up_blocks.0.resnets.2",
    "up_blocks.0.upsamplers.0",
    *(
        f"up_blocks.{block}.{layer}"
        for block in range(1, 4)
        for layer in (
            "resnets.0", "attentions.0", "resnets.1", "attentions.1", "resnets.2", "attentions.2",
            "upsamplers.0",
        )
        if not (block == 3 and layer == "upsamplers.0")
    ),
    "conv_out",
]  # fmt: skip


@pytest.fixture(scope="module")
def pipeline(nano):
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(nano, safety_checker=None)


def test_committed_folder_is_small_and_holds_no_pickles(nano):
    files = [path for path in nano.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 20e6
    weights = [
        path for path in files if path.stat().st_size > 1e6 or path.suffix in {".bin", ".pt"}
    ]
    assert {path.suffix for path in weights} == {".safetensors"}
    assert not [path for path in files if path.name.startswith(".")]


def test_weights_are_stored_as_float16(nano):
    for part in ("unet", "vae"):
        with safe_open(nano / part / "diffusion_pytorch_model.safetensors", "pt") as stored:
            assert {stored.get_slice(key).get_dtype() for key in stored.keys()} == {"F16"}  # noqa: SIM118


def test_committed_folder_loads_as_a_stable_diffusion_pipeline_and_samples(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(
        "a brown horse on sand",
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images[0]
    assert image.shape == (128, 128, 3)
    assert image.std() > 0.01


def test_unet_has_the_topology_of_sd(pipeline):
    assert len(SD_POSITIONS) == 46
    names = {name for name, _ in pipeline.unet.named_modules()}
    assert set(SD_POSITIONS) <= names
    leaves = {"resnets", "attentions", "downsamplers", "upsamplers"}
    present = {
        n for n in names if n.split(".")[-2:-1] and n.split(".")[-2] in leaves and n.count(".") < 4
    }
    assert present == set(SD_POSITIONS) - {"conv_in", "conv_out"}


def test_latents_of_a_training_picture_fit_the_unet(pipeline):
    with torch.no_grad():
        latent = pipeline.vae.encode(torch.zeros(1, 3, 128, 128)).latent_dist.mean
    assert latent.shape == (1, 4, 32, 32)
    assert pipeline.unet.config.sample_size == 32


def test_schedule_is_sd15s(nano):
    config = json.loads((nano / "scheduler" / "scheduler_config.json").read_text())
    assert config["beta_schedule"] == "scaled_linear"
    assert (config["beta_start"], config["beta_end"]) == (0.00085, 0.012)
    assert config["num_train_timesteps"] == 1000
    assert config["prediction_type"] == "epsilon"


def test_every_caption_word_is_one_token(pipeline):
    tokenizer = pipeline.tokenizer
    for word in corpus.caption_words():
        assert tokenizer.tokenize(word) == [word + "</w>"]
    caption = "a spotted white elephant on grass"
    tokens = tokenizer(caption).input_ids
    assert len(tokens) == 8
    assert tokenizer.decode(tokens, skip_special_tokens=True) == caption
    assert tokenizer.model_max_length == 16


def test_every_caption_is_made_of_caption_words():
    from reprscope.data.synthetic.scenes import render

    words = set(corpus.caption_words())
    drawn = {w for i in range(12) for w in render(3, i, size=16, supersample=1).caption.split()}
    assert drawn <= words
    assert len(drawn) > 15


def test_tokenizer_and_text_encoder_agree_on_the_vocabulary(pipeline):
    config = pipeline.text_encoder.config
    assert config.vocab_size == len(pipeline.tokenizer)
    assert config.eos_token_id == pipeline.tokenizer.eos_token_id
    assert config.bos_token_id == pipeline.tokenizer.bos_token_id


def test_words_that_share_pieces_stay_whole(tmp_path):
    # Merging each word alone, "as" before "gr", would split "grass".
    words = ["grass", "as", "gr", "ass", "sag", "a"]
    write_tokenizer(tmp_path, words, length=8)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    assert [tokenizer.tokenize(word) for word in words] == [[word + "</w>"] for word in words]
    assert tokenizer.decode(tokenizer("zebra").input_ids, skip_special_tokens=True) == "zebra"


def test_most_frequent_pair_is_merged_first():
    assert learn_merges(["ab", "cab", "xy"])[0] == ("a", "b</w>")


def test_fresh_weights_leave_the_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    architecture.build_vae(seed=0)
    assert torch.equal(torch.rand(3), expected)


SMALL = {
    **architecture.UNET,
    "block_out_channels": (8, 8, 8, 8),
    "attention_head_dim": (1, 1, 1, 1),
    "layers_per_block": 1,
    "sample_size": 8,
}


def small_denoiser() -> Denoiser:
    return Denoiser(
        architecture.build_unet(seed=3, config=SMALL),
        architecture.build_text_encoder(seed=3, vocabulary=12),
    )


def stages() -> list[Stage]:
    generator = np.random.default_rng(0)
    half = generator.standard_normal((2, 6, 4, 8, 8)).astype(np.float16)
    whole = generator.standard_normal((1, 6, 4, 16, 16)).astype(np.float16)
    return [
        Stage(latents=half, until=0.5, batch=4, part=2),
        Stage(latents=whole, until=np.inf, batch=2, part=1),
    ]


TOKENS = torch.arange(6 * 16).reshape(6, 16) % 10
EMPTY = torch.full((16,), 11)


def trained(checkpoint: Path, *, workers: int = 1, on_save=None) -> tuple[Denoiser, object]:
    denoiser = small_denoiser()
    trainer = train_denoiser(
        denoiser,
        stages(),
        TOKENS,
        EMPTY,
        checkpoint,
        Budget(steps=4),
        seed=1,
        workers=workers,
        optimisation=Optimisation(warm_up=2),
        on_save=on_save,
    )
    return denoiser, trainer


def test_stopped_and_resumed_training_equals_an_uninterrupted_one(tmp_path, monkeypatch):
    whole, whole_trainer = trained(tmp_path / "whole.pt")

    from nano_sd import denoiser as module

    calls = []

    def stop_at_second_step(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(module, "draw", stop_at_second_step)
        with pytest.raises(UserError, match="stopped at step 2"):
            trained(tmp_path / "parts.pt")
    resumed, resumed_trainer = trained(tmp_path / "parts.pt")

    assert len(calls) == 2
    assert resumed_trainer.state.step == whole_trainer.state.step == 4
    assert resumed_trainer.state.samples == 2 * 4 + 2 * 2
    initial = small_denoiser().state_dict()
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    assert not torch.equal(
        initial["unet.conv_in.weight"], whole.state_dict()["unet.conv_in.weight"]
    )
    for mine, theirs in zip(whole_trainer.average, resumed_trainer.average, strict=True):
        assert torch.equal(mine, theirs)


def test_number_of_workers_does_not_change_training(tmp_path):
    one, _ = trained(tmp_path / "one.pt")
    two, _ = trained(tmp_path / "two.pt", workers=2)
    for key, value in one.state_dict().items():
        torch.testing.assert_close(value, two.state_dict()[key], rtol=1e-6, atol=1e-7)


def test_gradient_of_parts_is_the_gradient_of_the_batch():
    module = torch.nn.Linear(5, 3)
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    module(x).square().mean().backward()
    expected = module.weight.grad.clone()
    workers = GradientWorkers(module, lambda m, part: m(part).square().mean(), workers=2)
    loss = workers(x.split(2))
    workers.close()
    torch.testing.assert_close(module.weight.grad, expected)
    assert loss == pytest.approx(float(module(x).square().mean().detach()))


def test_loss_is_that_of_ddpm():
    class Perfect(torch.nn.Module):
        """Solves diffusers' own noising for the noise."""

        def __init__(self, latents):
            super().__init__()
            self.latents = latents
            self.schedule = architecture.build_scheduler()
            real = small_denoiser()
            self.signal, self.spread = real.signal, real.spread

        def forward(self, noisy, timesteps, tokens):
            noise = torch.ones_like(self.latents)
            clean = self.schedule.add_noise(self.latents, 0 * noise, timesteps)
            unit = self.schedule.add_noise(0 * noise, noise, timesteps)
            return (noisy - clean) / unit + 0.5

    part = draw(stages(), TOKENS, EMPTY, 0, 0.0, seed=0)[0]
    assert float(ddpm_loss(Perfect(part.latents), part)) == pytest.approx(0.25, rel=1e-3)


def test_batches_pass_through_all_pictures_and_drop_captions():
    (first, _) = stages()
    seen, dropped, total = [], 0, 0
    for step in range(3 * 60):
        for part in draw([first], TOKENS, EMPTY, step, 0.0, seed=4):
            for latent, tokens in zip(part.latents, part.tokens, strict=True):
                match = (first.latents == latent.numpy().astype(np.float16)).all(axis=(2, 3, 4))
                assert match.sum() == 1
                picture = int(np.nonzero(match)[1][0])
                seen.append(picture)
                total += 1
                if torch.equal(tokens, EMPTY):
                    dropped += 1
                else:
                    assert torch.equal(tokens, TOKENS[picture])
    assert [sorted(seen[i : i + 6]) for i in range(0, len(seen), 6)] == [list(range(6))] * 120
    assert 0.34 < dropped / total < 0.46  # 0.4 +- 3.3 standard errors


def test_stage_follows_progress():
    early = draw(stages(), TOKENS, EMPTY, 0, 0.49, seed=0)
    late = draw(stages(), TOKENS, EMPTY, 0, 0.5, seed=0)
    assert [tuple(part.latents.shape) for part in early] == [(2, 4, 8, 8)] * 2
    assert [tuple(part.latents.shape) for part in late] == [(1, 4, 16, 16)] * 2


def test_halving_a_picture_takes_means_of_squares():
    picture = np.zeros((1, 4, 4, 3), np.uint8)
    picture[0, :2, 2:, 1] = [[10, 20], [30, 40]]
    expected = np.zeros((1, 2, 2, 3), np.uint8)
    expected[0, 0, 1, 1] = 25
    np.testing.assert_array_equal(halve(picture), expected)


def test_corpus_is_rendered_once_and_equals_the_renderer(tmp_path):
    from reprscope.data.synthetic.scenes import render

    first = corpus.load_or_render(tmp_path, seed=7, count=3, side=16, threads=1)
    scene = render(7, 2, size=16)
    np.testing.assert_array_equal(first.images[2], scene.image)
    assert (first.captions[2], first.kinds[2]) == (scene.caption, scene.kind)
    before = (tmp_path / "seed-7.npy").stat().st_mtime_ns
    again = corpus.load_or_render(tmp_path, seed=7, count=2, side=16, threads=1)
    assert len(again.images) == len(again.captions) == 2
    assert (tmp_path / "seed-7.npy").stat().st_mtime_ns == before
