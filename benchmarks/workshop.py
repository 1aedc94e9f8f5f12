"""What is measured on: models, pictures, latents and features, made once for all measurements."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch
from reprscope.base.protocol import Protocol
from reprscope.data.sources import menagerie
from reprscope.models.families import unet
from reprscope.models.positions import blocks
from reprscope.models.vae import VAE
from reprscope.models.vae import load as load_vae
from reprscope.models.vae import scaling as scaling_of
from reprscope.representations.coordinates import Affine
from reprscope.representations.encoding import encode
from reprscope.representations.extraction import Batch, batches, extract
from reprscope.representations.prompts import Prompts
from reprscope.representations.store import Representations, writer
from reprscope.representations.views import View

from benchmarks.machine import reduced_precision

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reprscope.models.denoiser import Denoiser

ROOT = Path(__file__).parents[1]
NANO = ROOT / "resources" / "models" / "nano-sd"
CPU = torch.device("cpu")
SEED = 1
PROTOCOL = Protocol()
RESOLUTIONS = {"nano-sd": 128, "sd-1.5": 512}
"""Sides of a picture in pixels: each model's own."""


class Workshop:
    """Models by name, with pictures for them.

    Parameters
    ----------
    folder : Path
        Where things are made; the caller removes it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def model(self, name: str) -> Path:
        """Folder of a model: ``nano-sd``, or ``sd-1.5`` at full width with random weights."""
        if name == "nano-sd":
            return NANO
        folder = self.folder / name
        if not folder.exists():
            save_stable_diffusion(folder)
        return folder

    def blocks(self, name: str) -> list[str]:
        """Blocks of a model in network order."""
        config = json.loads((self.model(name) / "unet" / "config.json").read_text(encoding="utf-8"))
        return blocks(unet.positions(config))

    def pictures(self, name: str, count: int) -> pl.DataFrame:
        """Pictures of the menagerie in the size of a model: the frame ``images``."""
        parameters = menagerie.Parameters(
            images=count,
            seed=SEED,
            size=RESOLUTIONS[name],
            pairs_validation=0,
            pairs_test=0,
        )
        return menagerie.build(parameters, threads=1).images

    def denoiser(self, name: str, dtype: torch.dtype = torch.float32) -> Denoiser:
        """Denoiser of a model, loaded as an extraction does it."""
        return unet.load(
            self.model(name), dtype=dtype, device=CPU, protocol=PROTOCOL, upcast_attention=False
        )

    def prompts(self, name: str, image_ids: Sequence[str]) -> Prompts:
        """Embedding of the empty prompt, for every image; loads the text encoder."""
        found = unet.encode_prompts(self.model(name), [""], device=CPU)
        return Prompts(found, dict.fromkeys(image_ids, 0))

    def latents(self, name: str, pictures: pl.DataFrame, *, batch: int) -> Path:
        """Store with the latents of pictures."""
        path = self.folder / f"latents-{name}-{len(pictures)}.h5"
        if not path.exists():
            self.encode(name, self.vae(name), pictures, path, batch=batch)
        return path

    def vae(self, name: str) -> VAE:
        """VAE of a model."""
        return load_vae(self.model(name), device=CPU)

    def encode(
        self, name: str, encoder: VAE, pictures: pl.DataFrame, path: Path, *, batch: int
    ) -> None:
        """Pictures to a store of latents, as the stage does it."""
        with writer(path, spec="{}", provenance={}, dtype=np.float32) as store:
            encode(
                pictures,
                View(),
                encoder,
                store,
                resolution=RESOLUTIONS[name],
                pixels=PROTOCOL.pixels,
                batch_size=batch,
            )

    def random_latents(self, name: str, images: int, path: Path) -> None:
        """Write a store of random latents: speed and memory depend on their shape alone."""
        side = RESOLUTIONS[name] // self.vae(name).factor
        rng = np.random.default_rng(SEED)
        with writer(path, spec="{}", provenance={}, dtype=np.float32) as store:
            for start in range(0, images, 100):
                names = [f"image-{number}" for number in range(start, min(start + 100, images))]
                grids = rng.standard_normal((2, len(names), side, side, 4), dtype=np.float32)
                store.append(
                    names,
                    [(RESOLUTIONS[name],) * 2] * len(names),
                    [Affine()] * len(names),
                    {"mean": grids[0], "logvar": grids[1] - 10},
                )

    def batches(
        self, name: str, source: Representations, prompts: Prompts, *, size: int
    ) -> Iterator[Batch]:
        """Latents in batches, as the stage cuts them."""
        scaling, shift = scaling_of(self.model(name))
        return batches(
            source,
            prompts,
            seed=SEED,
            protocol=PROTOCOL,
            scaling=scaling,
            shift=shift,
            size=size,
        )

    def extract(
        self,
        name: str,
        denoiser: Denoiser,
        latents: Path,
        prompts: Prompts,
        out: Path,
        *,
        positions: Sequence[str],
        timestep: int,
        batch: int,
    ) -> None:
        """Latents to a store of all tokens, until its file is complete."""
        with (
            Representations([latents]) as source,
            writer(out, spec="{}", provenance={"positions": list(positions)}) as store,
        ):
            extract(
                denoiser,
                self.batches(name, source, prompts, size=batch),
                positions=positions,
                timestep=timestep,
                protocol=PROTOCOL,
                device=CPU,
                dtype=next(denoiser.module.parameters()).dtype,
                store=store,
            )


def precisions() -> list[torch.dtype]:
    """float32, and what this processor computes faster if there is such a type."""
    return list(dict.fromkeys([torch.float32, getattr(torch, reduced_precision())]))


def said(dtype: torch.dtype) -> str:
    """Name of a type in the results."""
    return str(dtype).removeprefix("torch.")


def save_stable_diffusion(folder: Path) -> int:
    """Save Stable Diffusion 1.5 at full width with random weights, in float16 (2 GB).

    Returns
    -------
    int
        Number of the denoiser's parameters.
    """
    from diffusers import (
        AutoencoderKL,
        PNDMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    schedule: dict[str, Any] = {
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "steps_offset": 1,
    }
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            pipeline = StableDiffusionPipeline(
                unet=UNet2DConditionModel(cross_attention_dim=768, sample_size=64),
                vae=AutoencoderKL(
                    down_block_types=("DownEncoderBlock2D",) * 4,
                    up_block_types=("UpDecoderBlock2D",) * 4,
                    block_out_channels=(128, 256, 512, 512),
                    layers_per_block=2,
                ),
                text_encoder=CLIPTextModel(
                    CLIPTextConfig(
                        hidden_size=768,
                        intermediate_size=3072,
                        num_attention_heads=12,
                        num_hidden_layers=12,
                    )
                ),
                tokenizer=CLIPTokenizer.from_pretrained(NANO / "tokenizer", model_max_length=77),
                scheduler=PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=False, **schedule),
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )
    finally:
        torch.set_default_dtype(before)
    pipeline.save_pretrained(folder)
    return sum(parameter.numel() for parameter in pipeline.unet.parameters())
