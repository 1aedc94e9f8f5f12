"""The models that a study can name with ``known``; what is known of them is in registry.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from reprscope.runtime.errors import UserError

FILE = Path(__file__).with_name("registry.yaml")


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A model repository of the Hugging Face hub.

    Attributes
    ----------
    repository : str
        ``owner/name``.
    revision : str
        Commit, tag or branch.
    """

    repository: str
    revision: str = "main"


@dataclass(frozen=True, kw_only=True)
class WeightsFile(Repository):
    """One safetensors file of a repository."""

    file: str


@dataclass(frozen=True, kw_only=True)
class VAE:
    """Facts about a VAE.

    Attributes
    ----------
    latent_channels : int
    factor : int
        Pixels per latent cell, along each side.
    scaling_factor, shift_factor : float
        A denoiser's latents are ``(z - shift_factor) * scaling_factor``.
    """

    latent_channels: int
    factor: int
    scaling_factor: float
    shift_factor: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What models of one kind have in common.

    Attributes
    ----------
    family : str
        Module of ``reprscope.models`` that runs it.
    denoiser : mapping
        Configuration of the denoiser; values that are missing are diffusers' defaults.
    vae : VAE
    scheduler : mapping
        Configuration of the noise scheduler, as far as it says how images are noised.
    upcast_attention : bool
        Whether attention is computed in float32 in every precision.
    """

    name: str
    family: str
    denoiser: Mapping[str, Any]
    vae: VAE
    scheduler: Mapping[str, Any]
    upcast_attention: bool = False


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model of the Hugging Face hub.

    Attributes
    ----------
    architecture : Architecture
    resolution : int
        Native size of its images in pixels.
    sources : tuple of Repository
        Where it is, in the order in which they are tried.
    access : {"open", "gated"}
        Gated repositories ask for a login and for accepted terms.
    denoiser : WeightsFile or None
        File that takes the place of the denoiser's weights.
    """

    architecture: Architecture
    resolution: int
    sources: tuple[Repository, ...]
    access: Literal["open", "gated"] = "open"
    denoiser: WeightsFile | None = None


@cache
def models() -> Mapping[str, Model]:
    """All known models by name."""
    content = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    architectures = {
        name: Architecture(**(entry | {"name": name, "vae": VAE(**entry["vae"])}))
        for name, entry in content["architectures"].items()
    }
    return {
        name: Model(
            architecture=architectures[entry["architecture"]],
            resolution=entry["resolution"],
            sources=tuple(Repository(**source) for source in entry["sources"]),
            access=entry.get("access", "open"),
            denoiser=WeightsFile(**entry["denoiser"]) if "denoiser" in entry else None,
        )
        for name, entry in content["models"].items()
    }


def find(name: str) -> Model:
    """Known model by name.

    Raises
    ------
    UserError
        If there is none of that name.
    """
    if name not in models():
        raise UserError(f"there is no known model {name}: use {', '.join(models())}.")
    return models()[name]
