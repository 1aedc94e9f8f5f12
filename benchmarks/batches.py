"""How far features depend on the size of the batch and on the number of threads.

    python -m benchmarks.batches

prints the table in docs/robustness.md: nano-sd on sixteen smooth pictures, t = 50, all blocks. Each
row is compared with a batch of sixteen on one thread.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from reprscope.base.protocol import Protocol
from reprscope.models.denoiser import Denoiser, family
from reprscope.models.vae import load, scaling
from reprscope.representations.diffusion import noise
from reprscope.representations.extraction import Capture

MODEL = Path(__file__).parents[1] / "resources" / "models" / "nano-sd"
IMAGES, SIDE, TIMESTEP = 16, 128, 50
RUNS = ((16, 1), (5, 1), (1, 1), (16, 2), (5, 2), (1, 2))
"""Images in a batch, and threads."""


def pictures() -> NDArray[np.uint8]:
    """Pictures of a few waves in each channel, (images, side, side, 3)."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    waves = np.sin(
        2 * np.pi * np.einsum("nckd,dhw->nckhw", rng.uniform(-3, 3, (IMAGES, 3, 4, 2)), [y, x])
        + rng.uniform(-3, 3, (IMAGES, 3, 4, 1, 1))
    )
    values = 127.5 + 32 * waves.sum(axis=2).transpose(0, 2, 3, 1)
    found: NDArray[np.uint8] = np.clip(values, 0, 255).astype(np.uint8)
    return found


def features(
    denoiser: Denoiser,
    positions: list[str],
    latents: torch.Tensor,
    prompt: torch.Tensor,
    batch: int,
) -> dict[str, torch.Tensor]:
    """Tokens of all positions, computed in batches."""
    shape = tuple(latents.shape[1:])
    drawn = torch.stack([noise(shape, seed=0, image_id=str(n)) for n in range(IMAGES)])
    dtype = next(denoiser.module.parameters()).dtype
    found: dict[str, list[torch.Tensor]] = {position: [] for position in positions}
    with torch.inference_mode(), Capture(denoiser, positions) as capture:
        for start in range(0, IMAGES, batch):
            part = slice(start, start + batch)
            noised = denoiser.add_noise(latents[part], drawn[part], TIMESTEP).to(dtype)
            conditions = {
                "embedding": prompt.expand(len(noised), -1, -1).to(dtype),
                "pixels": torch.tensor([[SIDE, SIDE]] * len(noised), dtype=torch.float32),
            }
            noised = noised.contiguous(memory_format=torch.channels_last)
            for position, tokens in capture(noised, TIMESTEP, conditions).items():
                found[position].append(tokens.float())
    return {position: torch.cat(parts) for position, parts in found.items()}


def main() -> None:
    """Print the table."""
    place = torch.device("cpu")
    kind = family("unet")
    config = json.loads((MODEL / "unet" / "config.json").read_text())
    blocks = [name for name in kind.positions(config) if name.count(".") <= 1]
    scale, shift = scaling(MODEL)
    mean, _ = load(MODEL, device=place).encode(pictures(), pixels="symmetric")
    latents = (torch.from_numpy(mean).permute(0, 3, 1, 2).float() - shift) * scale
    prompt = torch.from_numpy(kind.encode_prompts(MODEL, [""], device=place)["embedding"])
    print("| precision | batch | threads | relative distance | largest |")
    print("|---|---|---|---|---|")
    for dtype in (torch.float32, torch.bfloat16):
        denoiser = kind.load(
            MODEL, dtype=dtype, device=place, protocol=Protocol(), upcast_attention=False
        )
        first: dict[str, torch.Tensor] = {}
        for batch, threads in RUNS:
            torch.set_num_threads(threads)
            found = features(denoiser, blocks, latents, prompt, batch)
            first = first or found
            pairs = [(found[name], first[name]) for name in blocks]
            distance = max(float((a - b).norm() / b.norm()) for a, b in pairs)
            largest = max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
            name = str(dtype).removeprefix("torch.")
            print(f"| {name} | {batch} | {threads} | {distance:.1e} | {largest:.1e} |", flush=True)


if __name__ == "__main__":
    main()
