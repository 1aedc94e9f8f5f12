"""Decode the noised latents of some images of a dataset at one timestep."""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from reprscope import tasks
from reprscope.base.parameters import build
from reprscope.base.protocol import Protocol
from reprscope.data.canonical import Annotations
from reprscope.representations.store import Representations
from reprscope.runtime.device import lease
from reprscope.runtime.frames import write_frame
from reprscope.runtime.job import job
from reprscope.runtime.snapshot import verified

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(
    latents: list[Path], dataset: Path, model: Path, vae: Path, out: Path, spec: str, gpus: int
) -> None:
    """Write the pictures that the VAE makes of the denoiser's input."""
    settings = json.loads(spec)
    task = tasks.load(settings["kind"])
    parameters = build(task.Parameters, settings["parameters"], entry=settings["kind"])
    with lease(gpus) as device, Representations(latents) as source:
        from reprscope.models.denoiser import family
        from reprscope.models.vae import load_decoder, scaling
        from reprscope.representations.decoding import mixed_linearly, noised_pictures
        from reprscope.representations.precision import torch_device

        autoencoder = verified(vae, "vae")
        scale, shift = scaling(autoencoder)
        published = parameters.mixing == "published"
        schedule = family(settings["family"]).noising(verified(model, "scheduler"))
        decode = partial(
            noised_pictures,
            source,
            add_noise=mixed_linearly if published else schedule,
            decoder=load_decoder(autoencoder, device=torch_device(device)),
            timestep=settings["timestep"],
            seed=settings["seed"],
            protocol=Protocol(**settings["protocol"]),
            scaling=scale,
            shift=shift,
        )
        frame = task.measure(source, Annotations(dataset), parameters, decode=decode)
    write_frame(frame, out, spec=spec)


if __name__ == "__main__":
    with job(
        snakemake.log[0], snakemake.threads, spec=snakemake.params.spec, files=snakemake.input
    ):
        main(
            latents=[Path(path) for path in snakemake.input.latents],
            dataset=Path(snakemake.input.images).parent,
            model=Path(snakemake.input.model),
            vae=Path(snakemake.input.vae),
            out=Path(snakemake.output[0]),
            spec=snakemake.params.spec,
            gpus=snakemake.resources.get("gpu", 0),
        )
