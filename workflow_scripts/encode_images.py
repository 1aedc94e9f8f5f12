"""Encode one shard of a dataset under a view: the VAE runs once for all models that share it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from reprscope import fingerprints, provenance
from reprscope.data.canonical import read_images
from reprscope.device import lease
from reprscope.job import job
from reprscope.models.snapshot import verified
from reprscope.progress import progress
from reprscope.store import writer
from reprscope.views import View

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(images: Path, manifest: Path, out: Path, spec: str, gpus: int, batch_size: int) -> None:
    """Write the posterior over latents of the shard's images."""
    settings = json.loads(spec)
    fingerprints.check(settings["files"])
    frame = read_images(images, settings["shard"])
    with lease(gpus) as device:
        from reprscope.device import machine, torch_device
        from reprscope.encoding import encode
        from reprscope.models.vae import load

        vae = load(verified(manifest, "vae"), device=torch_device(device))
        viewed = {
            "view": settings["view"],
            "resolution": settings["resolution"],
            "multiple": vae.factor * settings["patch"],
        }
        origin = provenance.origin(
            model=manifest,
            device=device,
            precision="float32",
            machine=machine(vae.device),
            viewed=viewed,
        )
        with (
            writer(out, spec=spec, provenance=origin, dtype="float32") as store,
            progress(len(frame), "images") as advance,
        ):
            encode(
                frame,
                View(**settings["view"]),
                vae,
                store,
                resolution=settings["resolution"],
                pixels=settings["pixels"],
                patch=settings["patch"],
                batch_size=batch_size,
                progress=advance,
            )


if __name__ == "__main__":
    with job(
        snakemake.log[0], snakemake.threads, spec=snakemake.params.spec, files=snakemake.input
    ) as state:
        main(
            images=Path(snakemake.input.images),
            manifest=Path(snakemake.input.vae),
            out=Path(snakemake.output[0]),
            spec=snakemake.params.spec,
            gpus=snakemake.resources.get("gpu", 0),
            batch_size=state.batch(snakemake.resources.batch_size),
        )
