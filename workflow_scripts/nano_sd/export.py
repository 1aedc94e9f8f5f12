"""Writing nano-sd in diffusers' own folder layout, file by file and atomically."""

from __future__ import annotations

import copy
import logging
import shutil
import tempfile
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from reprscope.runtime.files import atomic
from transformers import CLIPTextModel, CLIPTokenizer

from nano_sd.architecture import PROMPT_TOKENS, build_scheduler
from nano_sd.corpus import caption_words
from nano_sd.tokenizer import write_tokenizer

logger = logging.getLogger(__name__)

Module = TypeVar("Module", bound=torch.nn.Module)


def export_pipeline(
    folder: Path,
    *,
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
) -> None:
    """Write a complete pipeline folder as safetensors.

    Everything is written beside ``folder`` first and then moved over it file by file, so that
    each file in ``folder`` is complete at any time.

    Parameters
    ----------
    folder : Path
        ``model_index.json``, ``unet/``, ``vae/``, ``text_encoder/``, ``tokenizer/`` and
        ``scheduler/`` appear here; other files are left alone.
    unet, vae, text_encoder : modules
        The first two are written as float16 copies, the text encoder as float32; the modules
        themselves keep their precision.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as name:
        draft = Path(name)
        write_tokenizer(draft / "tokenizer", caption_words(), length=PROMPT_TOKENS)
        pipeline = StableDiffusionPipeline(
            unet=_half(unet),
            vae=_half(vae),
            # transformers loads a text encoder in its stored precision but diffusers loads the rest
            # in float32, which do not work together; it is small, so it stays float32.
            text_encoder=text_encoder,
            tokenizer=CLIPTokenizer.from_pretrained(draft / "tokenizer"),
            scheduler=build_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.save_pretrained(draft / "pipeline", safe_serialization=True)
        # transformers' own form of the tokenizer differs between its major versions.
        shutil.rmtree(draft / "pipeline" / "tokenizer")
        shutil.move(draft / "tokenizer", draft / "pipeline" / "tokenizer")
        for source in sorted((draft / "pipeline").rglob("*")):
            if source.is_file():
                with atomic(folder / source.relative_to(draft / "pipeline")) as part:
                    shutil.copyfile(source, part)
    logger.info("exported %s", folder)


def _half(module: Module) -> Module:
    return copy.deepcopy(module).to(torch.float16).eval()
