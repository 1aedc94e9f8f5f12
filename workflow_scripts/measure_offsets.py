"""Measure how far the tokens of a model's layers lie beside their squares."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from reprscope.base import provenance
from reprscope.representations import prompts
from reprscope.representations.precision import torch_device
from reprscope.runtime.checksums import write_json
from reprscope.runtime.device import lease, machine
from reprscope.runtime.job import job
from reprscope.runtime.snapshot import verified

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(model: Path, vae: Path, prompt: Path, out: Path, spec: str, gpus: int) -> None:
    """Write the offset of every position in tokens, with its standard error."""
    settings = json.loads(spec)
    with lease(gpus) as device:
        import torch
        from reprscope.base.protocol import Protocol
        from reprscope.models.denoiser import family
        from reprscope.models.vae import load, scaling
        from reprscope.representations.offsets import measure_model

        place = torch_device(device)
        kind = family(settings["family"])
        denoiser = kind.load(
            verified(model, kind.COMPONENT, "scheduler"),
            dtype=torch.float32,
            device=place,
            protocol=Protocol(),
            upcast_attention=False,
        )
        autoencoder = verified(vae, "vae")
        texts, embeddings = prompts.read(prompt)
        found = measure_model(
            denoiser,
            load(autoencoder, device=place),
            scaling(autoencoder),
            {key: values[[texts.index("")]] for key, values in embeddings.items()},
            positions=settings["positions"],
            resolution=settings["resolution"],
            timestep=settings["timestep"],
        )
        origin = provenance.origin(
            model=model, device=device, precision="float32", machine=machine(place)
        )
    content = {
        "spec": settings,
        "provenance": origin,
        "offsets": {name: [each.x, each.y] for name, each in found.items()},
        "errors": {name: [each.error_x, each.error_y] for name, each in found.items()},
    }
    write_json(out, content)


if __name__ == "__main__":
    with job(
        snakemake.log[0], snakemake.threads, spec=snakemake.params.spec, files=snakemake.input
    ):
        main(
            model=Path(snakemake.input.model),
            vae=Path(snakemake.input.vae),
            prompt=Path(snakemake.input.prompt),
            out=Path(snakemake.output[0]),
            spec=snakemake.params.spec,
            gpus=snakemake.resources.get("gpu", 0),
        )
