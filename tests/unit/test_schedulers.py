"""Every scheduler of diffusers: noised as it does, or refused in one sentence."""

import importlib
import inspect
import json
import sys
from types import ModuleType
from unittest import mock

import diffusers
import numpy as np
import pytest
import torch
from reprscope.models import flow, schedulers
from reprscope.models.ddpm import alphas_cumprod
from reprscope.models.families.unet import UNet
from reprscope.models.schedulers import FLOW_MATCHING, SIGMA_SPACE, VARIANCE_PRESERVING
from reprscope.runtime.errors import UserError

KNOWN = VARIANCE_PRESERVING | FLOW_MATCHING
OTHERS = sorted(
    {name for name in dir(diffusers) if name.endswith("Scheduler")} - set(KNOWN) - {"Scheduler"}
)
STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
VARIANTS = {
    "defaults": {},
    "stable diffusion": STABLE_DIFFUSION,
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "fewer timesteps": {"num_train_timesteps": 40},
    "trained": {"trained_betas": [0.1, 0.2, 0.05, 0.3], "num_train_timesteps": 4},
    "no terminal signal": STABLE_DIFFUSION | {"rescale_betas_zero_snr": True},
    "other steps": {"timestep_spacing": "trailing", "steps_offset": 1},
}


def of_diffusers(name):
    if name != "DPMSolverSDEScheduler":
        return getattr(diffusers, name)
    # Its module needs torchsde, which is not installed, only to draw steps.
    with mock.patch.dict(sys.modules, {"torchsde": ModuleType("torchsde")}):
        module = importlib.import_module("diffusers.schedulers.scheduling_dpmsolver_sde")
    return getattr(module, name)


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_every_setting_of_a_class_is_accounted_for(name):
    """A field that a new diffusers adds, or another default, has to be looked at."""
    for key, parameter in inspect.signature(of_diffusers(name)).parameters.items():
        if key in KNOWN[name]:
            assert KNOWN[name][key] == parameter.default, key
        else:
            assert key in schedulers.SAMPLING, key


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", sorted(VARIANCE_PRESERVING))
def test_noised_latents_equal_the_scheduler(name, variant):
    kind = of_diffusers(name)
    known = inspect.signature(kind).parameters
    theirs = kind(**{key: value for key, value in VARIANTS[variant].items() if key in known})
    ours = UNet(torch.nn.Identity(), json.loads(theirs.to_json_string()))
    assert ours.timesteps == len(theirs.betas)
    clean, drawn = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for timestep in (0, 1, ours.timesteps // 2, ours.timesteps - 1):
        found = ours.add_noise(clean, drawn, timestep)
        level = theirs.alphas_cumprod[timestep]
        expected = level.sqrt() * clean + (1 - level).sqrt() * drawn
        assert torch.allclose(found, expected, atol=1e-4), timestep


@pytest.mark.parametrize("name", ["DDIMScheduler", "PNDMScheduler", "LCMScheduler"])
def test_defaults_fill_what_is_left_out_or_null(name):
    theirs = getattr(diffusers, name)()
    for given in ({}, dict.fromkeys(VARIANCE_PRESERVING[name]), {"num_train_timesteps": None}):
        config = {"_class_name": name, **given}
        assert np.allclose(alphas_cumprod(config), theirs.alphas_cumprod, rtol=2e-4, atol=1e-8)


@pytest.mark.parametrize("name", sorted(SIGMA_SPACE))
def test_samplers_that_scale_the_denoisers_input(name):
    """Its scaled input has unit variance: what they add and scale is the same as elsewhere."""
    theirs = of_diffusers(name)(**STABLE_DIFFUSION)
    theirs.set_timesteps(1000)
    timestep = theirs.timesteps[500]
    clean, drawn = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    noised = theirs.scale_model_input(theirs.add_noise(clean, drawn, timestep.reshape(1)), timestep)
    ours = UNet(torch.nn.Identity(), json.loads(theirs.to_json_string()))
    found = ours.add_noise(clean, drawn, round(float(timestep)))
    assert torch.allclose(found, noised, atol=2e-3)


@pytest.mark.parametrize("name", sorted(set(VARIANCE_PRESERVING) - SIGMA_SPACE))
def test_samplers_that_leave_the_denoisers_input(name):
    theirs = getattr(diffusers, name)()
    theirs.set_timesteps(10)
    sample = torch.ones(1)
    assert theirs.scale_model_input(sample, theirs.timesteps[0]) is sample


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("name", sorted(FLOW_MATCHING))
def test_noise_levels_of_flow_matching(name, shift):
    theirs = getattr(diffusers, name)(shift=shift, num_train_timesteps=500)
    ours = flow.schedule_of(json.loads(theirs.to_json_string()))
    found = [ours.sigma(t, 64) for t in range(ours.steps)]
    assert np.allclose(found, theirs.sigmas.flip(0), rtol=1e-5)


@pytest.mark.parametrize("kind", ["variance-preserving", "flow-matching"])
@pytest.mark.parametrize("name", [*OTHERS, None, ["DDIMScheduler"], 5])
def test_every_other_scheduler_is_refused(name, kind):
    with pytest.raises(
        UserError,
        match=r"^scheduler/scheduler_config\.json is that of .*, which is not supported: ",
    ):
        schedulers.complete({"_class_name": name, "num_train_timesteps": 1000}, kind)


def test_edm_and_vq_are_among_the_others():
    assert {"EDMDPMSolverMultistepScheduler", "EDMEulerScheduler", "VQDiffusionScheduler"} <= set(
        OTHERS
    )
    assert set(KNOWN) <= set(dir(diffusers))


REFUSED = {
    "other betas": ({"beta_schedule": "sigmoid"}, "has beta_schedule: sigmoid"),
    "flow sigmas": ({"use_flow_sigmas": True}, "has use_flow_sigmas: True"),
    "flow prediction": ({"prediction_type": "flow_prediction"}, "has prediction_type: flow_pred"),
    "no timesteps": ({"num_train_timesteps": 0}, "has num_train_timesteps: 0"),
    "timesteps as a fraction": ({"num_train_timesteps": 1000.0}, "has num_train_timesteps: 1000.0"),
    "timesteps as a text": ({"num_train_timesteps": "1000"}, "has num_train_timesteps: 1000"),
    "timesteps as a truth value": ({"num_train_timesteps": True}, "has num_train_timesteps: True"),
    "negative beta": ({"beta_start": -0.1}, "has beta_start: -0.1"),
    "beta of one": ({"beta_end": 1.0}, "has beta_end: 1.0"),
    "beta that is no number": ({"beta_end": float("nan")}, "has beta_end: nan"),
    "no trained betas": ({"trained_betas": []}, "has trained_betas that are no list"),
    "trained betas as a number": ({"trained_betas": 0.1}, "has trained_betas that are no list"),
    "text among betas": ({"trained_betas": ["x"]}, "has trained_betas: x"),
    "fewer betas than timesteps": (
        {"trained_betas": [0.1, 0.2], "num_train_timesteps": 1000},
        "has 2 trained_betas and num_train_timesteps: 1000: make them equal",
    ),
    "rescaling as a number": ({"rescale_betas_zero_snr": 1}, "has rescale_betas_zero_snr: 1"),
    "field that nobody knows": ({"snr_shift_scale": 3.0}, "has snr_shift_scale: 3.0, which UniPC"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_configuration_that_cannot_be_right_is_one_sentence(what):
    values, said = REFUSED[what]
    with pytest.raises(UserError) as caught:
        alphas_cumprod({"_class_name": "UniPCMultistepScheduler", **values})
    assert str(caught.value).startswith(f"scheduler/scheduler_config.json {said}")
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_continuous_timesteps_are_refused():
    config = {"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}
    with pytest.raises(UserError, match="has timestep_type: continuous, which is not supported"):
        alphas_cumprod(config)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"use_dynamic_shifting": True, "max_image_seq_len": 256}, "max_image_seq_len: 256"),
        ({"use_dynamic_shifting": True, "base_shift": "x"}, "base_shift: x"),
        ({"use_dynamic_shifting": True, "time_shift_type": "cubic"}, "time_shift_type: cubic"),
        ({"shift": 0}, "shift: 0"),
        ({"shift": float("inf")}, "shift: inf"),
        ({"use_karras_sigmas": True}, "use_karras_sigmas: True"),
        ({"invert_sigmas": True}, "invert_sigmas: True"),
    ],
)
def test_flow_matching_that_cannot_be_right_is_one_sentence(values, said):
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", **values}
    with pytest.raises(UserError, match=f"^scheduler/scheduler_config.json has {said}"):
        flow.schedule_of(config)


def test_a_scheduler_of_the_other_kind_names_the_family():
    with pytest.raises(UserError, match="or set `family: unet`"):
        flow.schedule_of({"_class_name": "DDIMScheduler"})
    with pytest.raises(UserError, match="or set the `family` of a transformer"):
        alphas_cumprod({"_class_name": "FlowMatchEulerDiscreteScheduler"})
