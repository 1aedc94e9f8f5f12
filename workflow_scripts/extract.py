"""Extract a hook set of one shard under one condition."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from reprscope import prompts, provenance
from reprscope.data.canonical import Annotations
from reprscope.device import lease, torch_dtype
from reprscope.job import job
from reprscope.progress import progress
from reprscope.protocol import Protocol
from reprscope.store import Representations, writer

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(
    latents: Path,
    prompt: Path,
    dataset: Path,
    model: Path,
    vae: Path,
    out: Path,
    spec: str,
    gpus: int,
    batch_size: int,
) -> None:
    """Run the denoiser over the latents and store what its positions put out."""
    settings = json.loads(spec)
    with lease(gpus) as device, Representations([latents]) as source:
        import torch
        from reprscope.extraction import batches, extract
        from reprscope.models.denoiser import family
        from reprscope.models.vae import scaling

        protocol, timestep = Protocol(**settings["protocol"]), settings["timestep"]
        dtype = torch_dtype(settings["precision"], device)
        denoiser = family(settings["family"]).load(
            model.parent / "snapshot",
            dtype=dtype,
            device=torch.device(device),
            protocol=protocol,
            upcast_attention=settings["upcast_attention"],
        )
        rows = Annotations(dataset).images().to_dicts()
        origin = provenance.origin(
            model=model,
            device=device,
            precision=str(dtype),
            positions=settings["positions"],
            latents=source.origin,
        )
        scale, shift = scaling(vae.parent / "snapshot")
        with (
            writer(out, spec=spec, provenance=origin, form=settings["store"]) as store,
            progress(len(source.image_ids), "images") as advance,
        ):
            extract(
                denoiser,
                batches(
                    source,
                    prompts.by_image(prompt, settings["template"], rows),
                    seed=settings["seed"],
                    protocol=protocol,
                    scaling=scale,
                    shift=shift,
                    size=batch_size,
                ),
                positions=settings["positions"],
                timestep=timestep,
                protocol=protocol,
                device=torch.device(device),
                dtype=dtype,
                store=store,
                progress=advance,
            )


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        main(
            latents=Path(snakemake.input.latents),
            prompt=Path(snakemake.input.prompt),
            dataset=Path(snakemake.input.images).parent,
            model=Path(snakemake.input.model),
            vae=Path(snakemake.input.vae),
            out=Path(snakemake.output[0]),
            spec=snakemake.params.spec,
            gpus=snakemake.resources.get("gpu", 0),
            batch_size=snakemake.resources.batch_size,
        )
