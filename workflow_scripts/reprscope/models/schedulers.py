"""Which of diffusers' schedulers noise latents how, read from their configuration without torch.

A scheduler is known here if it does one of two things to clean latents at a training timestep.
Variance-preserving ones (DDPM, equation 4) give ``sqrt(a) x + sqrt(1 - a) e`` with ``a`` from
betas; some divide it by ``sqrt(a)`` and multiply again before the denoiser. Those of flow matching
give ``(1 - s) x + s e``. How a sampler walks from one timestep to the next (:data:`SAMPLING`)
changes nothing that is measured.

Defaults are those of diffusers 0.42, for values that are left out or null.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from reprscope.runtime.errors import UserError

FILE: Final = "scheduler/scheduler_config.json"

Kind = Literal["variance-preserving", "flow-matching"]

_BETAS: Final[Mapping[str, Any]] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
}
_LATENT_BETAS: Final = {**_BETAS, "beta_start": 0.00085, "beta_end": 0.012}
_FLOW: Final = {"use_flow_sigmas": False}
_RESCALE: Final = {"rescale_betas_zero_snr": False}
_STRAIGHT: Final[Mapping[str, Any]] = {"num_train_timesteps": 1000, "shift": 1.0}
_SHIFTED: Final = {
    **_STRAIGHT,
    "use_dynamic_shifting": False,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "time_shift_type": "exponential",
    "invert_sigmas": False,
    "shift_terminal": None,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
}

VARIANCE_PRESERVING: Final[Mapping[str, Mapping[str, Any]]] = {
    "DDIMParallelScheduler": {**_BETAS, **_RESCALE},
    "DDIMScheduler": {**_BETAS, **_RESCALE},
    "DDPMParallelScheduler": {**_BETAS, **_RESCALE},
    "DDPMScheduler": {**_BETAS, **_RESCALE},
    "DEISMultistepScheduler": {**_BETAS, **_FLOW},
    "DPMSolverMultistepInverseScheduler": {**_BETAS, **_FLOW},
    "DPMSolverMultistepScheduler": {**_BETAS, **_FLOW, **_RESCALE},
    "DPMSolverSDEScheduler": _LATENT_BETAS,
    "DPMSolverSinglestepScheduler": {**_BETAS, **_FLOW},
    "EulerAncestralDiscreteScheduler": {**_BETAS, **_RESCALE},
    "EulerDiscreteScheduler": {**_BETAS, **_RESCALE, "timestep_type": "discrete"},
    "HeunDiscreteScheduler": _LATENT_BETAS,
    "KDPM2AncestralDiscreteScheduler": _LATENT_BETAS,
    "KDPM2DiscreteScheduler": _LATENT_BETAS,
    "LCMScheduler": {**_LATENT_BETAS, **_RESCALE, "beta_schedule": "scaled_linear"},
    "LMSDiscreteScheduler": _BETAS,
    "PNDMScheduler": _BETAS,
    "SASolverScheduler": {**_BETAS, **_FLOW},
    "TCDScheduler": {**_LATENT_BETAS, **_RESCALE, "beta_schedule": "scaled_linear"},
    "UniPCMultistepScheduler": {**_BETAS, **_FLOW, **_RESCALE},
}
"""By class, what says how latents are noised, with its default."""

FLOW_MATCHING: Final[Mapping[str, Mapping[str, Any]]] = {
    "FlowMatchEulerDiscreteScheduler": _SHIFTED,
    "FlowMatchHeunDiscreteScheduler": _STRAIGHT,
    "FlowMatchLCMScheduler": _SHIFTED,
}
"""By class, what says how latents are noised, with its default."""

SIGMA_SPACE: Final = frozenset(
    (
        "DPMSolverSDEScheduler",
        "EulerAncestralDiscreteScheduler",
        "EulerDiscreteScheduler",
        "HeunDiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "LMSDiscreteScheduler",
    )
)
"""Samplers that scale the denoiser's input, because their own latents grow with the noise."""

FLOORED: Final = frozenset(
    (
        "DPMSolverMultistepScheduler",
        "EulerAncestralDiscreteScheduler",
        "EulerDiscreteScheduler",
        "UniPCMultistepScheduler",
    )
)
"""Samplers that leave a trace of signal, :data:`FLOOR`, where betas are rescaled to none."""

FLOOR: Final = 2.0**-24

SAMPLING: Final = frozenset(
    (
        "algorithm_type",
        "clip_sample",
        "clip_sample_range",
        "disable_corrector",
        "dynamic_thresholding_ratio",
        "euler_at_final",
        "final_sigmas_type",
        "flow_shift",
        "interpolation_type",
        "lambda_min_clipped",
        "lower_order_final",
        "noise_sampler_seed",
        "original_inference_steps",
        "predict_x0",
        "predictor_order",
        "corrector_order",
        "sample_max_value",
        "scale_factors",
        "set_alpha_to_one",
        "shift_terminal",
        "sigma_max",
        "sigma_min",
        "skip_prk_steps",
        "solver_order",
        "solver_p",
        "solver_type",
        "steps_offset",
        "stochastic_sampling",
        "tau_func",
        "thresholding",
        "time_shift_type",
        "timestep_scaling",
        "timestep_spacing",
        "upscale_mode",
        "use_beta_sigmas",
        "use_dynamic_shifting",
        "use_exponential_sigmas",
        "use_karras_sigmas",
        "use_lu_lambdas",
        "variance_type",
        # Of older versions, still in configurations on the hub.
        "predict_epsilon",
        "tensor_format",
        "timestep_values",
    )
)
"""What only says how a sampler steps through the timesteps; of all classes together, since
diffusers keeps what one class does not know when another takes its place."""

_KNOWN: Final = SAMPLING.union(*VARIANCE_PRESERVING.values(), *FLOW_MATCHING.values())

_ALLOWED: Final[Mapping[str, tuple[Any, ...]]] = {
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "prediction_type": ("epsilon", "sample", "v_prediction"),
    "use_flow_sigmas": (False,),
    "timestep_type": ("discrete",),
    "rescale_betas_zero_snr": (False, True),
    "use_dynamic_shifting": (False, True),
    "time_shift_type": ("exponential", "linear"),
    # These bend the schedule in ways that are not known here.
    "invert_sigmas": (False,),
    "shift_terminal": (None,),
    "use_karras_sigmas": (False,),
    "use_exponential_sigmas": (False,),
    "use_beta_sigmas": (False,),
}


def complete(config: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    """What a scheduler's configuration says of noise, with defaults filled in.

    Parameters
    ----------
    config : mapping
        A diffusers ``scheduler_config.json``.
    kind : {"variance-preserving", "flow-matching"}
        What the family of the model needs.

    Returns
    -------
    mapping
        ``_class_name`` and the fields of its class in the tables above. If ``trained_betas`` are
        given, ``num_train_timesteps`` is their number.

    Raises
    ------
    UserError
        If the class is not known or of another kind, or a value is not supported.
    """
    name = str(config.get("_class_name") or "")
    classes = VARIANCE_PRESERVING if kind == "variance-preserving" else FLOW_MATCHING
    if name not in classes:
        common = ", ".join([known for known in classes if "Parallel" not in known][:4])
        raise UserError(
            f"{FILE} is that of {name or 'no class (_class_name)'}, which is not supported: use a "
            f"model with a {kind} scheduler, such as {common}{_other_family(name)}."
        )
    defaults = classes[name]
    given = {key: value for key, value in config.items() if value is not None}
    found = {"_class_name": name} | {key: given.get(key, defaults[key]) for key in defaults}
    for key, value in given.items():
        if key not in _KNOWN and not key.startswith("_") and value is not False:
            raise UserError(
                f"{FILE} has {key}: {value}, which {name} does not know: remove it "
                "from there, or use another model."
            )
    for key, allowed in _ALLOWED.items():
        # False is equal to 0, and no number is meant.
        if key in found and not any(found[key] is a or _same(found[key], a) for a in allowed):
            known = " or ".join("null" if a is None else str(a) for a in allowed)
            raise UserError(
                f"{FILE} has {key}: {found[key]}, which is not supported: use a model with {known}."
            )
    _check_numbers(found)
    betas = found.get("trained_betas")
    if betas is not None:
        if "num_train_timesteps" in given and given["num_train_timesteps"] != len(betas):
            raise UserError(
                f"{FILE} has {len(betas)} trained_betas and num_train_timesteps: "
                f"{given['num_train_timesteps']}: make them equal."
            )
        found["num_train_timesteps"] = len(betas)
    return found


def timesteps(config: Mapping[str, Any], kind: Kind) -> int:
    """Number of training timesteps; see :func:`complete`."""
    return int(complete(config, kind)["num_train_timesteps"])


def _other_family(name: str) -> str:
    if name in FLOW_MATCHING:
        return ", or set the `family` of a transformer"
    return ", or set `family: unet`" if name in VARIANCE_PRESERVING else ""


def _same(value: Any, allowed: Any) -> bool:
    return type(value) is type(allowed) and bool(value == allowed)


def _check_numbers(found: Mapping[str, Any]) -> None:
    """Check that numbers are numbers, in the range in which a schedule makes sense."""

    def check(key: str, value: Any, *, whole: bool, least: float, most: float) -> None:
        kinds = int if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
            what = "a whole number" if whole else "a number"
            raise UserError(
                f"{FILE} has {key}: {str(value)[:80]}, which should be {what} from "
                f"{least:g} to {most:g}: correct it."
            )

    check("num_train_timesteps", found["num_train_timesteps"], whole=True, least=1, most=100000)
    for key in ("beta_start", "beta_end"):
        if key in found:
            check(key, found[key], whole=False, least=1e-12, most=1 - 1e-12)
    betas = found.get("trained_betas")
    if betas is not None:
        if not isinstance(betas, list | tuple) or not betas:
            raise UserError(f"{FILE} has trained_betas that are no list of numbers: correct it.")
        for beta in betas:
            check("trained_betas", beta, whole=False, least=0, most=1 - 1e-12)
    if "shift" in found:
        check("shift", found["shift"], whole=False, least=1e-6, most=1e6)
    if found.get("use_dynamic_shifting"):
        for key in ("base_shift", "max_shift"):
            check(key, found[key], whole=False, least=-20, most=20)
        few, many = found["base_image_seq_len"], found["max_image_seq_len"]
        check("base_image_seq_len", few, whole=True, least=1, most=2**40)
        check("max_image_seq_len", many, whole=True, least=few + 1, most=2**41)
