"""What every model family offers; a new family is one new module beside this one."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from reprscope.base.plugins import Plugins
from reprscope.runtime.errors import UserError

if TYPE_CHECKING:
    import torch

    import reprscope.base.protocol
    from reprscope.models import schedulers
    from reprscope.models.text import Reader


Grid = tuple[int, int]
"""Rows and columns."""


class Passed(NamedTuple):
    """What a pass has shown of the grid on which a module's tokens lie.

    Attributes
    ----------
    latents : (h, w)
        Grid of the latents.
    features : (h, w) or None
        Grid of the feature map (batch, channels, h, w) that went into the module, or else into the
        nearest module around it that is given one; None if all are given sequences.
    text : int
        Tokens of the text embedding.
    """

    latents: Grid
    features: Grid | None
    text: int


class Denoiser(Protocol):
    """A loaded denoiser."""

    module: torch.nn.Module

    @property
    def clipping(self) -> Sequence[str]:
        """Paths of modules that cut off, unseen, what is too large for float16."""

    @property
    def timesteps(self) -> int:
        """Number of training timesteps; valid timesteps are 0 to one less."""

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timestep: int) -> torch.Tensor:
        """Noise latents (batch, channels, h, w) by the model's own schedule."""

    def __call__(
        self, latents: torch.Tensor, timestep: int, prompt: Mapping[str, torch.Tensor]
    ) -> Any:
        """Run the denoiser on noised latents.

        ``prompt`` has what :meth:`Family.encode_prompts` gives, and may have ``pixels`` (batch, 2),
        width and height of the encoded images, for a family that is conditioned on them.
        """

    def tokens(self, position: str, output: Any, passed: Passed) -> torch.Tensor:
        """Token grid (batch, h, w, channels) of what the module at a position puts out.

        Raises
        ------
        UserError
            If the output has not as many tokens as the grid.
        """


class Noising(Protocol):
    """What adds the noise of a timestep to latents: a denoiser's ``add_noise``."""

    def __call__(
        self, latents: torch.Tensor, noise: torch.Tensor, timestep: int, /
    ) -> torch.Tensor:
        """Noised latents (batch, channels, h, w)."""


class Family(Protocol):
    """A module of this package that knows how to run one kind of denoiser."""

    PATCH: int
    """Latent cells along a side of an image token: the sides of latents are multiples of it."""

    COMPONENT: str
    """Folder of the denoiser in diffusers' layout."""

    NOISE: schedulers.Kind
    """How it was trained to be noised."""

    def parts(self, found: Container[str]) -> dict[str, str]:
        """Classes of a model's parts by their folders, of all folders that it has.

        Parts that a model may do without are among them if they were found.
        """

    def check(self, parts: Mapping[str, Mapping[str, Any]]) -> None:
        """Check what fields of the parts' configurations have to do with each other.

        Parameters
        ----------
        parts : mapping
            What :func:`reprscope.models.configs.complete` gives, by folder; without those that a
            model lacks.

        Raises
        ------
        UserError
            If they do not fit together.
        """

    def positions(self, config: Mapping[str, Any]) -> list[str]:
        """Module paths in the order of the forward pass; without torch."""

    def make_empty(
        self, config: Mapping[str, Any], grid: tuple[int, int]
    ) -> tuple[Denoiser, torch.Tensor, dict[str, torch.Tensor]]:
        """Make a denoiser without weights, with latents (1, channels, h, w) and a prompt for it.

        All are on the meta device: what comes out of the denoiser has a shape and no values.
        ``grid`` is (h, w) of the latents.
        """

    def make_untrained(self, folder: Path, out: Path, *, seed: int) -> None:
        """Write a denoiser of the same configuration with new weights to ``out``."""

    def encode_prompts(
        self, folder: Path, texts: Sequence[str], *, device: torch.device
    ) -> dict[str, NDArray[np.floating[Any]]]:
        """All that the denoiser wants of texts: arrays with one entry per text.

        ``embedding`` (texts, tokens, features); where the family has it, ``pooled``
        (texts, features). Text encoders are loaded one after the other and released.
        """

    def readers(self, folder: Path) -> dict[str, Reader]:
        """What reads texts for :meth:`encode_prompts`, and how much of them, by text encoder."""

    def text_precision(self, folder: Path, *, device: torch.device) -> dict[str, str]:
        """Types in which :meth:`encode_prompts` computes, by text encoder."""

    def reduced_precision(self, config: Mapping[str, Any]) -> str:
        """Type of 16 bits that holds what a denoiser of this ``config.json`` computes.

        ``float16``, which is finer, or ``bfloat16``, which reaches further.
        """

    def noising(self, folder: Path) -> Noising:
        """Noise of a model folder's own schedule; reads its configuration and no weights."""

    def load(
        self,
        folder: Path,
        *,
        dtype: torch.dtype,
        device: torch.device,
        protocol: reprscope.base.protocol.Protocol,
        upcast_attention: bool,
    ) -> Denoiser:
        """Load the denoiser alone, to run under a protocol.

        ``upcast_attention`` makes attention compute in float32 whatever ``dtype`` is.
        """


FAMILIES: Final = Plugins[Family]("model family", "reprscope.models.families")
families = FAMILIES.names
family = FAMILIES.get


def to_grid(position: str, stream: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Token grid (batch, h, w, channels) of a sequence (batch, h * w, channels), row by row.

    Raises
    ------
    UserError
        If the sequence is not as long as the grid has places.
    """
    height, width = grid
    if stream.ndim != 3 or stream.shape[1] != height * width:
        raise UserError(
            f"Position {position} puts out {tuple(stream.shape)[1:]}, which is no grid of {height} "
            f"x {width} tokens: name a position whose output has a token for each place."
        )
    return stream.reshape(len(stream), height, width, stream.shape[2])


def modules(denoiser: Denoiser, positions: Sequence[str]) -> dict[str, torch.nn.Module]:
    """Modules at the given paths.

    Raises
    ------
    UserError
        If a path does not exist.
    """
    found = {}
    for position in positions:
        try:
            found[position] = denoiser.module.get_submodule(position)
        except AttributeError as error:
            raise UserError(
                f"The model has no position {position}: name one of its modules."
            ) from error
    return found


def compile_parts(denoiser: Denoiser, positions: Sequence[str]) -> None:
    """Compile a denoiser by ``torch.compile``, in the largest parts that no hook cuts through.

    A part is compiled when it runs first, for each shape of its input: that takes a minute and
    pays for many images.

    Parameters
    ----------
    denoiser : Denoiser
    positions : sequence of str
        Where outputs are taken: they lie between the parts.
    """
    import torch

    def visit(module: torch.nn.Module, path: str) -> None:
        cut = any(position.startswith(f"{path}.") for position in positions)
        if cut or isinstance(module, torch.nn.ModuleList):
            for name, child in module.named_children():
                visit(child, f"{path}.{name}")
        else:
            module.forward = torch.compile(module.forward)

    for name, child in denoiser.module.named_children():
        visit(child, name)
