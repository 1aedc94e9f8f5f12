"""In what type and where models compute."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def torch_dtype(precision: str, device: str, *, reduced: str) -> torch.dtype:
    """Type in which the denoiser computes.

    Parameters
    ----------
    precision : {"auto", "float32", "float16", "bfloat16"}
        ``auto`` is ``reduced`` on GPUs and float32 on processors.
    device : {"cpu", "cuda"}
    reduced : {"float16", "bfloat16"}
        What the model's family computes in on a GPU; see
        :meth:`reprscope.models.denoiser.Family.reduced_precision`.
    """
    import torch

    types = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if precision != "auto":
        return types[precision]
    return types[reduced] if device == "cuda" else torch.float32


def torch_device(name: str) -> torch.device:
    """Device of a job, on which float32 is float32.

    GPUs since Ampere run convolutions in float32 as TF32, with 10 bits of mantissa in place of 23,
    unless that is switched off; matrices, also on processors, have a switch of their own.
    """
    import torch

    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    return torch.device(name)
