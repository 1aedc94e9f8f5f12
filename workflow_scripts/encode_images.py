"""Encode one shard of a dataset under a view: the VAE runs once for all models that share it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from reprscope.base import provenance
from reprscope.data.canonical import read_images
from reprscope.representations.store import writer
from reprscope.representations.views import View
from reprscope.runtime import fingerprints
from reprscope.runtime.device import lease
from reprscope.runtime.job import job
from reprscope.runtime.progress import progress
from reprscope.runtime.snapshot import verified

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(images: Path, manifest: Path, out: Path, spec: str, gpus: int, batch_size: int) -> None:
    """Write the posterior over latents of the shard's images."""
    settings = json.loads(spec)
    fingerprints.check(settings["files"])
    frame = read_images(images, settings["shard"])
    with lease(gpus) as device:
        from reprscope.models.vae import load
        from reprscope.representations.encoding import encode
        from reprscope.representations.precision import torch_device
        from reprscope.runtime.device import machine

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
