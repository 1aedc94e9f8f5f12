"""Extract a hook set of one shard at one or several timesteps."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from reprscope.base import paths, provenance
from reprscope.base.protocol import Protocol
from reprscope.data.canonical import Annotations
from reprscope.representations import prompts
from reprscope.representations.precision import torch_device, torch_dtype
from reprscope.representations.store import Representations, complete, writer
from reprscope.runtime.device import lease, machine
from reprscope.runtime.files import resumed
from reprscope.runtime.job import job
from reprscope.runtime.progress import progress
from reprscope.runtime.snapshot import verified

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(
    latents: Path,
    prompt: Path,
    dataset: Path,
    model: Path,
    vae: Path,
    outs: list[Path],
    spec: str,
    gpus: int,
    batch_size: int,
) -> None:
    """Run the denoiser over the latents and store what its positions put out."""
    settings = json.loads(spec)
    inputs = [latents, prompt, dataset / "images.parquet", model, vae]
    with (
        lease(gpus) as device,
        Representations([latents]) as source,
        resumed(outs, inputs, lambda path: complete(path, spec)) as missing,
    ):
        from reprscope.models.denoiser import compile_parts, family
        from reprscope.models.vae import scaling
        from reprscope.representations.extraction import batches, extract
        from reprscope.runtime.memory import BatchSize

        protocol = Protocol(**settings["protocol"])
        kind, place = family(settings["family"]), torch_device(device)
        snapshot = verified(model, kind.COMPONENT, "scheduler")
        config = json.loads((snapshot / kind.COMPONENT / "config.json").read_text(encoding="utf-8"))
        reduced = kind.reduced_precision(config)
        dtype = torch_dtype(settings["precision"], device, reduced=reduced)
        denoiser = kind.load(
            snapshot,
            dtype=dtype,
            device=place,
            protocol=protocol,
            upcast_attention=settings["upcast_attention"],
        )
        if settings["compile"]:
            compile_parts(denoiser, settings["positions"])
        texts = prompts.by_image(
            prompt, settings["template"], Annotations(dataset).images().to_dicts()
        )
        origin = provenance.origin(
            model=model,
            device=device,
            precision=str(dtype).removeprefix("torch."),
            machine=machine(place),
            prompt=prompts.origin(prompt),
            positions=settings["positions"],
            latents=source.origin,
            viewed=source.viewed,
        )
        scale, shift = scaling(verified(vae, "vae"))
        size = BatchSize(place)
        with progress(len(missing) * len(source.image_ids), "images") as advance:
            for out, part in missing.items():
                timestep = paths.timestep(out)
                made = origin | {"timestep": timestep}
                with writer(part, spec=spec, provenance=made, form=settings["store"]) as store:
                    extract(
                        denoiser,
                        batches(
                            source,
                            texts,
                            seed=settings["seed"],
                            protocol=protocol,
                            scaling=scale,
                            shift=shift,
                            size=batch_size,
                        ),
                        positions=settings["positions"],
                        timestep=timestep,
                        protocol=protocol,
                        device=place,
                        dtype=dtype,
                        store=store,
                        size=size,
                        progress=advance,
                    )


if __name__ == "__main__":
    with job(
        snakemake.log[0], snakemake.threads, spec=snakemake.params.spec, files=snakemake.input
    ) as state:
        main(
            latents=Path(snakemake.input.latents),
            prompt=Path(snakemake.input.prompt),
            dataset=Path(snakemake.input.images).parent,
            model=Path(snakemake.input.model),
            vae=Path(snakemake.input.vae),
            outs=[Path(path) for path in snakemake.output],
            spec=snakemake.params.spec,
            gpus=snakemake.resources.get("gpu", 0),
            batch_size=state.batch(snakemake.resources.batch_size),
        )
