"""Encode a prompt: the text encoder runs once for all texts of a dataset."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from reprscope.base import provenance
from reprscope.data.canonical import Annotations
from reprscope.representations import prompts
from reprscope.runtime.device import lease
from reprscope.runtime.job import job
from reprscope.runtime.snapshot import TEXT, verified

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(manifest: Path, dataset: Path | None, out: Path, spec: str, gpus: int) -> None:
    """Write the embeddings of the distinct texts that the template gives."""
    settings = json.loads(spec)
    template = settings["template"]
    rows = [{}] if dataset is None else Annotations(dataset).images().to_dicts()
    texts = sorted(set(prompts.texts(template, rows)))
    with lease(gpus) as device:
        from reprscope.models.denoiser import family
        from reprscope.models.text import count_cut
        from reprscope.representations.precision import torch_device
        from reprscope.runtime.device import machine

        kind, snapshot, place = (
            family(settings["family"]),
            verified(manifest, *TEXT),
            torch_device(device),
        )
        cut = count_cut(kind.readers(snapshot), texts)
        embeddings = kind.encode_prompts(snapshot, texts, device=place)
        origin = provenance.origin(
            model=manifest,
            device=device,
            precision=kind.text_precision(snapshot, device=place),
            machine=machine(place),
            cut=cut,
        )
    prompts.write(out, texts, embeddings, spec=spec, provenance=origin)


if __name__ == "__main__":
    with job(
        snakemake.log[0], snakemake.threads, spec=snakemake.params.spec, files=snakemake.input
    ):
        images = snakemake.input.get("images")
        main(
            manifest=Path(snakemake.input.text_encoder),
            dataset=Path(images).parent if images else None,
            out=Path(snakemake.output[0]),
            spec=snakemake.params.spec,
            gpus=snakemake.resources.get("gpu", 0),
        )
