"""Train the embedded model nano-sd on menagerie, from scratch or from its checkpoints.

Renders the training pictures, trains the VAE, encodes the pictures, trains denoiser and text
encoder, and writes the model folder with its card. Every part that is finished is kept in the
work folder; a run that was stopped (SIGTERM, Ctrl-C) continues where it stood, and a run with
more minutes than the last one trains on.
"""

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from reprscope.runtime.errors import UserError
from reprscope.runtime.job import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(
    *,
    output: str,
    work: str,
    minutes: float = 150.0,
    vae_minutes: float = 16.5,
    small_share: float = 0.3,
    pictures: int = 18_000,
    threads: int = 2,
    seed: int = 0,
) -> None:
    """Train nano-sd and export it.

    Parameters
    ----------
    output : str
        Model folder, in diffusers' layout.
    work : str
        Folder for pictures, latents, checkpoints and curves.
    minutes, vae_minutes : float
        Training time of the denoiser and of the VAE, each over all sittings. More minutes for the
        VAE mean new latents and a new denoiser.
    small_share : float
        Share of the denoiser's time that goes to pictures of half the side.
    pictures : int
        Training pictures.
    threads : int
        Cores to use.
    seed : int
        Of initial weights and of every random choice in training.
    """
    from nano_sd.gradients import keep_memory
    from nano_sd.training import Plan, train

    keep_memory()
    train(
        Path(output),
        Path(work),
        Plan(
            minutes=minutes,
            vae_minutes=vae_minutes,
            small_share=small_share,
            pictures=pictures,
            threads=threads,
            seed=seed,
        ),
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--minutes", type=float, default=150.0)
    parser.add_argument("--vae-minutes", type=float, default=16.5)
    parser.add_argument("--small-share", type=float, default=0.3)
    parser.add_argument("--pictures", type=int, default=18_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    if "snakemake" in globals():
        with job(snakemake.log[0], snakemake.threads, files=snakemake.input):
            main(
                output=snakemake.output[0],
                work=str(Path(snakemake.output[0]).with_name("work")),
                threads=snakemake.threads,
            )
    else:
        logging.basicConfig(
            level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr
        )
        try:
            main(**vars(_arguments()))
        except UserError as error:
            sys.exit(f"train_nano: {error}")
