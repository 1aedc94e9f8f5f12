"""Parts of a model folder in diffusers' layout: loading one, and making one anew."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprscope.errors import UserError

if TYPE_CHECKING:
    import torch


def load_part(kind: Any, folder: Path, component: str, *, name: str, dtype: torch.dtype) -> Any:
    """Load one part of a model folder, of a diffusers class, and nothing else of it.

    Raises
    ------
    UserError
        If it cannot be loaded; calls it ``name``, such as U-Net.
    """
    try:
        return kind.from_pretrained(folder / component, torch_dtype=dtype, low_cpu_mem_usage=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"The {name} in {folder} cannot be loaded ({error}): delete the folder and fetch it "
            "again."
        ) from error


def write_untrained(kind: Any, folder: Path, component: str, out: Path, *, seed: int) -> None:
    """Write a part of the same configuration to ``out``, with diffusers' own initial weights."""
    import torch

    config = kind.load_config(folder / component)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = kind.from_config(config)
    module.save_pretrained(out / component, safe_serialization=True)
