"""The noise, decoded: the denoiser's own input, against diffusers' scheduler and VAE."""

import numpy as np
import polars as pl
import pytest
import torch
from reprscope.base.protocol import Protocol
from reprscope.data.canonical import decode
from reprscope.models.families import flux, sd3, unet
from reprscope.models.vae import load_decoder, scaling
from reprscope.plan.parse import parse
from reprscope.representations.decoding import mixed_linearly, noised_pictures
from reprscope.representations.diffusion import noise
from reprscope.representations.encoding import encode
from reprscope.representations.store import Representations, writer
from reprscope.representations.views import View
from reprscope.runtime.errors import UserError
from reprscope.tasks import noise_levels
from support.embedded import load_unet
from support.pictures import image_frame

CPU = torch.device("cpu")
SEED = 3
NAMES = ["image-0", "image-1", "image-2"]


@pytest.fixture(scope="module")
def latents(tmp_path_factory, vae):
    path = tmp_path_factory.mktemp("latents") / "0of1.h5"
    frame = image_frame([(64, 64), (64, 64), (64, 48)])
    with writer(path, spec="{}", provenance={}, dtype=np.float32) as store:
        encode(frame, View(fit="keep"), vae, store, resolution=64, pixels="symmetric", batch_size=2)
    with Representations([path]) as found:
        yield found


@pytest.fixture(scope="module")
def decoder(nano):
    return load_decoder(nano, device=CPU)


def pictures(latents, decoder, nano, timestep, names=NAMES, **protocol):
    scale, shift = scaling(nano)
    return dict(
        noised_pictures(
            latents,
            names,
            add_noise=unet.noising(nano),
            decoder=decoder,
            timestep=timestep,
            seed=SEED,
            protocol=Protocol(**protocol),
            scaling=scale,
            shift=shift,
        )
    )


@pytest.mark.parametrize("timestep", [0, 300, 999])
def test_pictures_are_those_of_diffusers(latents, decoder, nano, timestep):
    """Noise of the image's own, by the scheduler, in the units of the pipeline."""
    from diffusers import AutoencoderKL, DDPMScheduler

    scheduler = DDPMScheduler.from_pretrained(nano / "scheduler")
    module = AutoencoderKL.from_pretrained(nano / "vae")
    found = pictures(latents, decoder, nano, timestep)
    assert [*found] == NAMES
    for name in NAMES:
        clean = torch.from_numpy(latents.tokens("mean", name)).permute(2, 0, 1)[None]
        clean = clean * module.config.scaling_factor
        drawn = noise(tuple(clean.shape[1:]), seed=SEED, image_id=name)[None]
        noised = scheduler.add_noise(clean, drawn, torch.tensor([timestep]))
        with torch.inference_mode():
            values = module.decode(noised / module.config.scaling_factor).sample[0]
        expected = (values / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).numpy() * 255
        assert found[name].shape == expected.shape
        assert np.abs(found[name] - expected).max() <= 0.51


def test_the_image_is_there_at_first_and_gone_in_the_end(latents, decoder, nano):
    """Without noise the VAE's reconstruction; with one noise map for all, all look the same."""
    names = NAMES[:2]
    clean = pictures(latents, decoder, nano, 500, names, noise="none")
    start = pictures(latents, decoder, nano, 0, names)
    end = pictures(latents, decoder, nano, 999, names, noise="shared")

    def apart(one, other):
        return np.abs(one.astype(float) - other).mean()

    between = apart(clean["image-0"], clean["image-1"])
    for name in names:
        assert apart(start[name], clean[name]) < 0.2 * between
        assert apart(end[name], clean[name]) > 0.5 * between
    assert apart(end["image-0"], end["image-1"]) < 0.35 * between


def test_the_published_form_mixes_latents_and_noise_linearly(latents, decoder, nano):
    """At the ends the image and the noise alone; between, what the decoder makes of the mixture."""
    scale, shift = scaling(nano)
    for timestep, share in ((0, 0), (333, 1 / 3), (999, 1)):
        given = noised_pictures(
            latents,
            NAMES[:1],
            add_noise=mixed_linearly,
            decoder=decoder,
            timestep=timestep,
            seed=SEED,
            protocol=Protocol(),
            scaling=scale,
            shift=shift,
        )
        ((name, picture),) = given
        mean = torch.from_numpy(latents.tokens("mean", name)).permute(2, 0, 1)[None]
        drawn = noise(tuple(mean.shape[1:]), seed=SEED, image_id=name)[None]
        mixture = (mean - shift) * scale * (1 - share) + drawn * share
        (expected,) = decoder.decode(mixture / scale + shift, pixels="symmetric")
        assert np.abs(picture.astype(int) - expected).max() <= 1
    with pytest.raises(UserError, match="mixing"):
        noise_levels.Parameters(mixing="linear")


def test_the_range_of_pixels_is_the_protocol_s(latents, decoder, nano):
    symmetric = pictures(latents, decoder, nano, 0, NAMES[:1], noise="none")["image-0"]
    unit = pictures(latents, decoder, nano, 0, NAMES[:1], noise="none", pixels="unit")["image-0"]
    assert np.abs(unit - np.clip(2.0 * symmetric - 255, 0, 255)).max() <= 1.01


def test_schedules_are_those_of_the_loaded_denoisers(nano, tmp_path):
    clean, drawn = torch.randn(2, 1, 4, 8, 8)
    expected = load_unet(nano).add_noise(clean, drawn, 261)
    assert torch.equal(unet.noising(nano)(clean, drawn, 261), expected)
    folder = tmp_path / "scheduler"
    folder.mkdir()
    (folder / "scheduler_config.json").write_text(
        '{"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}'
    )
    share = 600 / 1000
    sigma = 3 * share / (1 + 2 * share)  # a schedule that is shifted by 3
    for family in (sd3, flux):
        noised = family.noising(tmp_path)(torch.zeros(1, 16, 8, 8), torch.ones(1, 16, 8, 8), 599)
        assert noised.unique().item() == pytest.approx(sigma, abs=2e-3)


def test_named_or_first_test_images_are_decoded(latents):
    class Annotations:
        def images(self):
            return image_frame([(64, 64)] * 3, split=["train", "test", "test"])

    def fake(names):
        return [(name, np.full((2, 2, 3), len(name), np.uint8)) for name in names]

    table = noise_levels.measure(
        latents, Annotations(), noise_levels.Parameters(count=2), decode=fake
    )
    assert table["image_id"].to_list() == ["image-1", "image-2"]
    assert table["position"].unique().to_list() == ["image"]
    np.testing.assert_array_equal(decode(table["png"][0], "x"), np.full((2, 2, 3), 7))
    with pytest.raises(UserError, match="has no features"):
        noise_levels.measure(
            latents, Annotations(), noise_levels.Parameters(images=("x",)), decode=fake
        )
    assert noise_levels.summarise(table, noise_levels.Parameters()) is table
    assert isinstance(table, pl.DataFrame)


STUDY = {
    "title": "t",
    "models": {
        "nano-sd": {"path": "resources/models/nano-sd", "family": "unet", "resolution": 128}
    },
    "datasets": {"empty": {"source": "uniform", "images": 2, "size": 64}},
    "hooksets": {"blocks": {"positions": ["mid_block"], "store": "tokens"}},
    "tasks": {"noise": {"kind": "noise_levels"}, "maps": {"kind": "token_maps"}},
}


def study(task, hooksets=None, **changes):
    entry = {"name": "e", "tasks": [task], "datasets": ["empty"], "models": ["nano-sd"]}
    experiments = [entry | {"timesteps": [0, 999]} | changes]
    return parse(STUDY | (hooksets or {}) | {"experiments": experiments})


def test_an_experiment_on_latents_extracts_nothing():
    found = study("noise")
    (experiment,) = found.experiments.values()
    assert [m.hookset for m in found.measurements(experiment)] == ["latents", "latents"]
    assert [found.representations(m) for m in found.measurements(experiment)] == [[], []]


def test_positions_go_with_tasks_that_read_them():
    with pytest.raises(UserError, match="noise_levels reads no positions: remove `positions`"):
        study("noise", positions=["mid_block"])
    with pytest.raises(UserError, match="token_maps needs `positions`"):
        study("maps")
    sets = {"hooksets": {"latents": {"positions": ["mid_block"]}}}
    with pytest.raises(UserError, match="No hook set can be named latents"):
        study("noise", sets)
