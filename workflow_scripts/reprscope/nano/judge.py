"""A quick look at what features have learnt, on held-out pictures, against the untrained twin.

The studies measure the same with intervals and conventions; this is the short form for the model
card and for watching a training run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from reprscope.coordinates import token_centre, token_index
from reprscope.metrics import correct
from reprscope.nano.architecture import untrained_unet
from reprscope.nano.corpus import HELD_OUT_SEED, SIDE, load_or_render
from reprscope.nano.vae import encode

logger = logging.getLogger(__name__)

BLOCKS = (
    *(f"down_blocks.{index}" for index in range(4)),
    "mid_block",
    *(f"up_blocks.{index}" for index in range(4)),
)
TIMESTEP, ALPHA, PAIRS, TEST = 100, 0.1, 400, 240


@dataclass(frozen=True)
class Pair:
    """Two test pictures of one kind and the keypoints visible in both, (k, 2) px."""

    source: int
    target: int
    source_xy: NDArray[np.float64]
    target_xy: NDArray[np.float64]
    target_box: NDArray[np.float64]


def keypoint_pairs(first: int, kinds: Sequence[str], *, count: int) -> list[Pair]:
    """Draw same-kind pairs among held-out pictures ``first .. first + len(kinds) - 1``.

    ``source`` and ``target`` count from ``first``.
    """
    from reprscope.data.scenes import render

    # Geometry does not depend on supersampling.
    scenes = [render(HELD_OUT_SEED, first + i, size=SIDE, supersample=1) for i in range(len(kinds))]
    generator = np.random.default_rng(0)
    pairs: list[Pair] = []
    while len(pairs) < count:
        a, b = (int(i) for i in generator.integers(0, len(kinds), 2))
        source, target = scenes[a].keypoints, scenes[b].keypoints
        names = [n for n in source if source[n].visible and target[n].visible]
        if a == b or kinds[a] != kinds[b] or not names:
            continue
        pairs.append(
            Pair(
                a,
                b,
                np.array([(source[n].x, source[n].y) for n in names]),
                np.array([(target[n].x, target[n].y) for n in names]),
                np.array(scenes[b].box, dtype=np.float64),
            )
        )
    return pairs


def pck(features: Tensor, pairs: Sequence[Pair]) -> float:
    """Share of keypoints found by cosine arg-max in (n, c, h, w) features."""
    unit = F.normalize(features, dim=1)
    grid = (unit.shape[2], unit.shape[3])
    hits = []
    for pair in pairs:
        rows, columns = token_index(pair.source_xy, (SIDE, SIDE), grid)
        queries = unit[pair.source][:, torch.from_numpy(rows), torch.from_numpy(columns)]
        best = (queries.T @ unit[pair.target].flatten(1)).argmax(dim=1).numpy()
        found = token_centre(best // grid[1], best % grid[1], (SIDE, SIDE), grid)
        hits.append(correct(found, pair.target_xy, pair.target_box, alpha=ALPHA))
    return float(np.concatenate(hits).mean())


@torch.no_grad()
def block_outputs(
    unet: UNet2DConditionModel, noisy: Tensor, context: Tensor, *, batch: int = 8
) -> dict[str, Tensor]:
    """Outputs of all blocks at ``TIMESTEP`` for (n, 4, h, w) latents and one (1, 16, c) prompt."""
    stored: dict[str, list[Tensor]] = {name: [] for name in BLOCKS}

    def keep(name: str, output: Tensor | tuple[Tensor, ...]) -> None:
        stored[name].append(output[0] if isinstance(output, tuple) else output)

    handles = [
        unet.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: keep(name, output)
        )
        for name in BLOCKS
    ]
    for part in noisy.split(batch):
        unet(part, TIMESTEP, context.expand(len(part), -1, -1))
    for handle in handles:
        handle.remove()
    return {name: torch.cat(parts) for name, parts in stored.items()}


def judge(folder: Path, pictures: Path, *, count: int = 800, threads: int = 2) -> str:
    """Compare a model folder with its untrained twin on held-out pictures.

    Parameters
    ----------
    folder : Path
        A complete pipeline.
    pictures : Path
        Folder of the corpus.
    count : int
        Held-out pictures; the last 240 are for testing.
    threads : int
        Rendering processes, if pictures are missing.

    Returns
    -------
    str
        Markdown: kind accuracy and PCK@0.1 per block, trained and untrained.
    """
    held_out = load_or_render(pictures, seed=HELD_OUT_SEED, count=count, threads=threads)
    first = count - TEST
    pairs = keypoint_pairs(first, held_out.kinds[first:], count=PAIRS)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    latents = torch.from_numpy(encode(pipeline.vae, held_out.images))
    latents *= pipeline.vae.config.scaling_factor
    tokens = pipeline.tokenizer("", padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        context = pipeline.text_encoder(tokens).last_hidden_state
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    signal = pipeline.scheduler.alphas_cumprod[TIMESTEP]
    noisy = signal.sqrt() * latents + (1 - signal).sqrt() * noise
    scores = {}
    twin = untrained_unet(dict(pipeline.unet.config), seed=0)
    for name, unet in (("trained", pipeline.unet), ("untrained", twin)):
        features = block_outputs(unet, noisy, context)
        scores[name] = {
            block: (
                _accuracy(values.mean((2, 3)).numpy(), held_out.kinds, first),
                pck(values[first:], pairs),
            )
            for block, values in features.items()
        }
    return _markdown(scores, sum(len(pair.source_xy) for pair in pairs))


def _accuracy(means: NDArray[np.float32], kinds: Sequence[str], first: int) -> float:
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=400))
    probe.fit(means[:first], kinds[:first])
    return float(probe.score(means[first:], kinds[first:]))


def _markdown(scores: Mapping[str, Mapping[str, tuple[float, float]]], points: int) -> str:
    lines = [
        f"Block outputs at timestep {TIMESTEP}, empty prompt, seed 1: accuracy of a linear probe "
        f"for the ten kinds on spatial means ({TEST} test pictures, chance 0.10), and zero-shot "
        f"PCK@{ALPHA} by cosine arg-max ({PAIRS} same-kind pairs, {points} keypoints); in brackets "
        "the untrained twin.",
        "",
        "| block | kind accuracy | PCK@0.1 |",
        "|---|---|---|",
    ]
    for block, (accuracy, share) in scores["trained"].items():
        twin_accuracy, twin_share = scores["untrained"][block]
        lines.append(
            f"| `{block}` | {accuracy:.2f} ({twin_accuracy:.2f}) | {share:.2f} ({twin_share:.2f}) |"
        )
    return "\n".join(lines)
