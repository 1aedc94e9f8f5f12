"""The embedded model, loaded as tests want it."""

from pathlib import Path

from support.project import ROOT

NANO = ROOT / "resources" / "models" / "nano-sd"


def load_unet(folder: Path, *, dtype=None, upcast_attention: bool = False, **choices):
    """The U-Net of a model folder on the CPU, in float32 by default, under protocol choices."""
    import torch
    from reprscope.base.protocol import Protocol
    from reprscope.models.families.unet import load

    return load(
        folder,
        dtype=dtype or torch.float32,
        device=torch.device("cpu"),
        protocol=Protocol(**choices),
        upcast_attention=upcast_attention,
    )
