"""The registry of known models against what diffusers and published tables say."""

import re

import pytest
from reprscope.models import registry
from reprscope.models.denoiser import family
from reprscope.models.families import unet
from reprscope.runtime.errors import UserError

NAMES = [
    "sd-1.1",
    "sd-1.2",
    "sd-1.3",
    "sd-1.4",
    "sd-1.5",
    "sd-2.0-base",
    "sd-2.0",
    "sd-2.1-base",
    "sd-2.1",
    "sd-turbo",
    "sdxl",
    "sdxl-turbo",
    "sdxl-lightning-1-step",
    "sdxl-lightning-2-step",
    "sdxl-lightning-4-step",
    "sdxl-lightning-8-step",
    "sd-3-medium",
    "sd-3.5-medium",
    "flux-schnell",
    "flux-dev",
]

# Parameters of the denoisers in millions, as published: the SD-1 and SDXL papers (860 M, 2.6 G),
# the SD-2 model cards (865 M), SD-3 and SD-3.5 medium (2 and 2.5 G with their tables of positions,
# 57 and 226 M, which are no parameters in diffusers), FLUX.1 (12 G).
PARAMETERS = {
    "sd-1.5": (859.5, 0.1),
    "sd-2.1": (865.9, 0.1),
    "sd-turbo": (865.9, 0.1),
    "sdxl": (2567.5, 0.1),
    "sd-3-medium": (2028, 1),
    "sd-3.5-medium": (2243, 1),
    "flux-schnell": (11891, 1),
    "flux-dev": (11901, 1),
}
CLASSES = {
    "unet": "UNet2DConditionModel",
    "sd3": "SD3Transformer2DModel",
    "flux": "FluxTransformer2DModel",
}


def test_every_model_is_there():
    assert list(registry.models()) == NAMES


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_denoiser_has_the_published_number_of_parameters(name):
    import diffusers
    import torch

    architecture = registry.find(name).architecture
    kind = getattr(diffusers, CLASSES[architecture.family])
    with torch.device("meta"):
        module = kind.from_config(dict(architecture.denoiser))
    millions = sum(p.numel() for p in module.parameters()) / 1e6
    expected, tolerance = PARAMETERS[name]
    assert millions == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_is_complete_and_names_what_exists(name):
    import diffusers

    model = registry.find(name)
    schedule = model.architecture.scheduler
    scheduler = getattr(diffusers, schedule["_class_name"])
    assert scheduler.from_config(dict(schedule)).config.num_train_timesteps == 1000
    if model.architecture.family == "unet":
        # The resolution is that of the latents which the denoiser was trained on.
        cells = model.resolution // model.architecture.vae.factor
        assert model.architecture.denoiser["sample_size"] == cells
    for source in (*model.sources, *filter(None, [model.denoiser])):
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", source.repository)
        assert re.fullmatch(r"main|[0-9a-f]{40}", source.revision)


def test_models_without_a_pinned_commit_are_known():
    unpinned = {
        name for name, model in registry.models().items() if model.sources[0].revision == "main"
    }
    assert unpinned == {"sd-1.1", "sd-1.2", "sd-1.3", "sd-2.0"}


def test_attention_of_sd_2_is_upcast():
    upcast = {n for n, model in registry.models().items() if model.architecture.upcast_attention}
    assert upcast == {"sd-2.0-base", "sd-2.0", "sd-2.1-base", "sd-2.1", "sd-turbo"}


def test_prediction_types():
    kinds = {
        name: model.architecture.scheduler.get("prediction_type")
        for name, model in registry.models().items()
    }
    assert {name for name, kind in kinds.items() if kind == "v_prediction"} == {"sd-2.0", "sd-2.1"}
    assert {name for name, kind in kinds.items() if kind == "sample"} == {"sdxl-lightning-1-step"}


@pytest.mark.parametrize("name", ["sd-1.5", "sd-2.1", "sdxl"])
def test_positions_exist_in_the_network(name):
    import torch
    from diffusers import UNet2DConditionModel

    config = registry.find(name).architecture.denoiser
    with torch.device("meta"):
        module = UNet2DConditionModel.from_config(dict(config))
    for position in unet.positions(config):
        module.get_submodule(position)


@pytest.mark.parametrize("name", ["sd-3-medium", "sd-3.5-medium", "flux-schnell", "flux-dev"])
def test_families_of_the_transformers_list_their_blocks(name):
    architecture = registry.find(name).architecture
    positions = family(architecture.family).positions(architecture.denoiser)
    blocks = [p for p in positions if re.fullmatch(r"transformer_blocks\.\d+", p)]
    assert len(blocks) == (24 if name.startswith("sd") else 19)


def test_an_unknown_name_is_one_sentence():
    with pytest.raises(UserError, match=r"^there is no known model sd: use sd-1\.1, .*flux-dev\.$"):
        registry.find("sd")
