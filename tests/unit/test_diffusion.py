import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from reprscope.models.ddpm import alphas_cumprod
from reprscope.models.families.unet import UNet
from reprscope.representations.diffusion import noise, shared_maps

STABLE_DIFFUSION = {
    "_class_name": "DDPMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}


def test_timestep_zero_already_adds_a_little_noise():
    assert np.sqrt(1 - alphas_cumprod(STABLE_DIFFUSION)[0]) == pytest.approx(0.00085**0.5)


def test_noised_latents_equal_diffusers():
    latents, drawn = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    ours = UNet(torch.nn.Identity(), STABLE_DIFFUSION).add_noise(latents, drawn, 261)
    theirs = DDPMScheduler.from_config(STABLE_DIFFUSION).add_noise(
        latents, drawn, torch.tensor([261, 261])
    )
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_maps_of_one_image_are_independent():
    """At two sizes, also of as many values, and for two purposes."""
    maps = [
        noise(shape, seed=0, image_id="a", purpose=purpose).flatten()[:4096].numpy()
        for shape in ((4, 32, 32), (4, 16, 64), (4, 64, 64))
        for purpose in ("noise", "posterior")
    ]
    correlation = np.corrcoef(maps) - np.eye(len(maps))
    assert np.abs(correlation).max() < 0.08


def test_noise_depends_on_seed_image_and_size_alone():
    first = noise((4, 8, 8), seed=0, image_id="a")
    torch.randn(17)
    assert torch.equal(first, noise((4, 8, 8), seed=0, image_id="a"))
    assert not torch.equal(first, noise((4, 8, 8), seed=0, image_id="b"))
    assert not torch.equal(first, noise((4, 8, 8), seed=1, image_id="a"))


def test_shared_maps_are_two_draws_of_one_generator():
    torch.manual_seed(3)
    first = torch.randn(1, 4, 6, 8)[0]
    latents = torch.zeros(1, 6, 8, 4).permute(0, 3, 1, 2)  # channels last, as from a picture
    second = torch.randn_like(latents)[0]
    posterior, drawn = shared_maps((4, 6, 8), seed=3)
    assert torch.equal(posterior, first)
    assert torch.equal(drawn, second)


def test_noise_of_different_images_is_standard_normal_and_uncorrelated():
    drawn = torch.stack([noise((4, 32, 32), seed=0, image_id=str(i)) for i in range(20)]).flatten(1)
    assert abs(float(drawn.mean())) < 0.02
    assert float(drawn.std()) == pytest.approx(1.0, abs=0.02)
    correlation = np.corrcoef(drawn.numpy()) - np.eye(20)
    assert np.abs(correlation).max() < 0.08
