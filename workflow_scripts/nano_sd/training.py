"""From nothing to the model folder, in steps that are each done once."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from transformers import CLIPTokenizer

from nano_sd.architecture import PROMPT_TOKENS, build_text_encoder, build_unet, build_vae
from nano_sd.card import write_card, write_history
from nano_sd.corpus import HELD_OUT_SEED, TRAINING_SEED, Corpus, caption_words, load_or_render
from nano_sd.denoiser import CAPTION_DROPOUT, Denoiser, Stage, tokenize, train_denoiser
from nano_sd.export import export_pipeline
from nano_sd.latents import load_or_encode, scaling_factor
from nano_sd.loop import Budget, Trainer
from nano_sd.tokenizer import write_tokenizer
from nano_sd.vae import fidelity, train_vae

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Settings of a training run; see ``train_nano.main``."""

    minutes: float
    vae_minutes: float
    small_share: float
    pictures: int
    threads: int
    seed: int
    held_out: int = 128


def _trained_vae(work: Path, corpus: Corpus, plan: Plan) -> tuple[AutoencoderKL, Trainer]:
    vae = build_vae(seed=plan.seed)
    trainer = train_vae(
        vae,
        corpus.images,
        work / "vae.pt",
        Budget(minutes=plan.vae_minutes),
        seed=plan.seed,
        workers=plan.threads,
    )
    # Latents are encoded by the very weights that ship, which are float16.
    vae.to(torch.float16).to(torch.float32)
    vae.register_to_config(scaling_factor=round(scaling_factor(vae, corpus.images), 5))
    return vae, trainer


def train(output: Path, work: Path, plan: Plan) -> None:
    """Render, train, encode, train and export, skipping what the work folder holds already.

    Raises
    ------
    UserError
        On SIGTERM or SIGINT, after a checkpoint.
    """
    pictures = work / "pictures"
    corpus = load_or_render(pictures, seed=TRAINING_SEED, count=plan.pictures, threads=plan.threads)
    held_out = load_or_render(
        pictures, seed=HELD_OUT_SEED, count=plan.held_out, threads=plan.threads
    )
    vae, vae_trainer = _trained_vae(work, corpus, plan)
    vae_fidelity = fidelity(vae, held_out.images)
    logger.info(
        "vae: scaling factor %.4f, held-out PSNR %.2f dB, SSIM %.4f, L1 %.4f",
        vae.config.scaling_factor,
        vae_fidelity["psnr"],
        vae_fidelity["ssim"],
        vae_fidelity["l1"],
    )

    # Latents, and a denoiser of them, belong to one VAE; a VAE that was trained on gets new ones.
    state = f"step-{vae_trainer.state.step}"
    stages = []
    if plan.small_share > 0:
        small = load_or_encode(
            work / f"latents-half-{state}.npy",
            vae,
            corpus.images,
            half=True,
            mirror=True,
            workers=plan.threads,
        )
        stages.append(Stage(latents=small, until=plan.small_share, batch=32, part=8))
    whole = load_or_encode(
        work / f"latents-{state}.npy",
        vae,
        corpus.images,
        half=False,
        mirror=False,
        workers=plan.threads,
    )
    stages.append(Stage(latents=whole, until=np.inf, batch=12, part=3))

    vocabulary = write_tokenizer(work / "tokenizer", caption_words(), length=PROMPT_TOKENS)
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    unet = build_unet(seed=plan.seed)
    text_encoder = build_text_encoder(seed=plan.seed, vocabulary=vocabulary)
    denoiser = Denoiser(unet, text_encoder)
    average = Denoiser(
        build_unet(seed=plan.seed), build_text_encoder(seed=plan.seed, vocabulary=vocabulary)
    )

    def export(folder: Path, trainer: Trainer) -> None:
        trainer.averaged(average)
        export_pipeline(folder, unet=average.unet, vae=vae, text_encoder=average.text_encoder)

    def keep(trainer: Trainer) -> None:
        write_history(work / "denoiser.csv", trainer.state.history)
        export(work / "nano-sd", trainer)

    trainer = train_denoiser(
        denoiser,
        stages,
        tokenize(tokenizer, corpus.captions),
        tokenize(tokenizer, [""])[0],
        work / f"denoiser-{state}.pt",
        Budget(minutes=plan.minutes),
        seed=plan.seed,
        workers=plan.threads,
        on_save=keep,
    )
    export(output, trainer)
    write_card(
        output,
        vae=vae_trainer.state,
        denoiser=trainer.state,
        fidelity=vae_fidelity,
        held_out=len(held_out.images),
        pictures=plan.pictures,
        seed=plan.seed,
        small_share=plan.small_share,
        dropout=CAPTION_DROPOUT,
    )
