"""What the transformer families share: noising, the token grid, loading."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprscope.models.flow import FlowSchedule
from reprscope.models.parts import load_part
from reprscope.runtime.errors import UserError

if TYPE_CHECKING:
    import torch

COMPONENT_FOLDER = "transformer"


class Transformer:
    """A denoiser whose tokens are squares of latents, noised by flow matching.

    Parameters
    ----------
    module : torch.nn.Module
        A diffusers transformer.
    schedule : FlowSchedule
    patch : int
        Latents per side of a token.
    limit : int or None
        Most tokens per side, where the model knows no more positions.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        schedule: FlowSchedule,
        *,
        patch: int,
        limit: int | None = None,
    ) -> None:
        self.module = module.eval().requires_grad_(False)
        self.schedule = schedule
        self.patch = patch
        self.limit = limit

    @property
    def clipping(self) -> list[str]:
        """The blocks, which in float16 cut off what is too large for it."""
        lists = ("transformer_blocks", "single_transformer_blocks")
        return [f"{name}.{i}" for name in lists for i in range(len(getattr(self.module, name, ())))]

    @property
    def timesteps(self) -> int:
        """Number of training timesteps; valid timesteps are 0 to one less."""
        return self.schedule.steps

    def sigma(self, latents: torch.Tensor, timestep: int) -> float:
        """Noise level of latents (batch, channels, h, w) at a timestep, in (0, 1]."""
        height, width = self.grid((latents.shape[2], latents.shape[3]))
        return self.schedule.sigma(timestep, height * width)

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timestep: int) -> torch.Tensor:
        """Noised latents of a timestep: ``(1 - sigma) x + sigma e``.

        See :meth:`reprscope.models.flow.FlowSchedule.sigma`.
        """
        sigma = self.sigma(latents, timestep)
        return (1.0 - sigma) * latents + sigma * noise

    def grid(self, latents: tuple[int, int]) -> tuple[int, int]:
        """Token grid (h, w) of a grid of latents (h, w).

        Raises
        ------
        UserError
            If the latents do not divide into tokens, or make too many.
        """
        height, width = latents[0] // self.patch, latents[1] // self.patch
        if (height * self.patch, width * self.patch) != latents:
            raise UserError(
                f"Latents of {latents[0]} x {latents[1]} do not divide into tokens of "
                f"{self.patch} x {self.patch}: use a `resolution` and a view that give sides of "
                f"a multiple of {self.patch} latents, which are 8 pixels each in known models."
            )
        if self.limit is not None and max(height, width) > self.limit:
            raise UserError(
                f"An image of {height} x {width} tokens is too large for the model, which knows "
                f"{self.limit} x {self.limit}: set a smaller `resolution`."
            )
        return height, width


def image_stream(position: str, output: Any, entries: Mapping[str, int]) -> torch.Tensor:
    """Image tokens (batch, tokens, channels) of what a module puts out.

    Never chosen by shape, since there may be as many text tokens as image tokens.

    Parameters
    ----------
    position : str
        Module path; its last name says what kind of module it is.
    output
        A tensor, or a tuple with the text stream in it.
    entries : mapping
        By kind of module, which entry of a tuple is the image stream.

    Raises
    ------
    UserError
        If modules of this kind have no image tokens.
    """
    kind = [name for name in position.split(".") if not name.isdecimal()][-1]
    if kind not in entries:
        raise UserError(
            f"Position {position} has no image tokens: use blocks, or {', '.join(entries)} in them."
        )
    stream: torch.Tensor = output[entries[kind]] if isinstance(output, tuple) else output
    return stream


def refuse_upcast(upcast_attention: bool) -> None:
    """Refuse to compute attention alone in float32, which is for U-Nets."""
    if upcast_attention:
        raise UserError(
            "The transformer families cannot upcast attention alone: remove upcast_attention from "
            "the model, and set `precision: float32` if its numbers overflow."
        )


def load_module(
    kind: str, folder: Path, *, dtype: torch.dtype, device: torch.device
) -> torch.nn.Module:
    """Load the transformer of a model folder, and nothing else of it.

    As :func:`reprscope.models.parts.load_part`.
    """
    import torch

    module = load_part(kind, folder, COMPONENT_FOLDER, dtype=dtype)
    # In SD-3 a float32 buffer comes first, from which diffusers without accelerate concludes that
    # the file has the wanted dtype already. Its own `to` warns about modules that it does not have.
    loaded: torch.nn.Module = torch.nn.Module.to(module, device=device, dtype=dtype)
    return loaded
