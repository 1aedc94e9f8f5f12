"""Where the tokens of each layer lie, and what it does to correspondence.

``python -m benchmarks.offsets FOLDER`` measures nano-sd and its untrained twin by the workflow's
own rule, the architecture of SD-1.5 with flat kernels, and PCK of nano-sd with tokens in the
middle of their squares and where they were measured; it writes ``docs/offsets.md``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import polars as pl
import torch
from reprscope.models.families.unet import UNet, positions
from reprscope.models.labels import block_label, in_network_order
from reprscope.models.positions import blocks
from reprscope.models.registry import find
from reprscope.representations.offsets import Measured, measure

from benchmarks import project

STUDY = Path(__file__).with_suffix(".yaml")
PAGE = project.ROOT / "docs" / "offsets.md"
NARROW = 10
"""SD-1.5's widths are divided by this; see :func:`flat`."""


def main() -> None:
    """Measure all of it, or take what is there, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where to run; kept, and taken up again")
    parser.add_argument("--cores", type=int, default=2)
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    models = ("nano-sd", "nano-sd-untrained")
    files = [f"results/models/{model}/offsets.json" for model in models]
    table = "results/tables/places.parquet"
    study = STUDY.read_text(encoding="utf-8")
    project.run(folder, study, [*files, table], cores=arguments.cores)
    measured = {
        model: json.loads((folder / file).read_text(encoding="utf-8"))
        for model, file in zip(models, files, strict=True)
    }
    text = page(measured, flat_offsets(), pl.read_parquet(folder / table))
    PAGE.write_text(text, encoding="utf-8")


def flat(config: Mapping[str, Any]) -> torch.nn.Module:
    """A U-Net whose kernels weigh all their inputs alike, without norms, activations, attention.

    What is left is linear. All channels are alike, so that only the shares in which a
    concatenation's parts have them matter, and narrow layers give what wide ones do.
    """
    from diffusers import UNet2DConditionModel
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.transformers import Transformer2DModel

    widths = config.get("block_out_channels", (320, 640, 1280, 1280))
    narrow = {
        "block_out_channels": [width // NARROW for width in widths],
        "norm_num_groups": 4,
        "cross_attention_dim": 8,
        "attention_head_dim": 4,
    }
    module = UNet2DConditionModel.from_config({**config, **narrow}).eval().requires_grad_(False)
    for part in module.modules():
        if isinstance(part, torch.nn.Conv2d):
            part.weight.fill_(1.0 / part.weight[0].numel())
            cast(torch.nn.Parameter, part.bias).zero_()
        if isinstance(part, ResnetBlock2D):
            part.norm1 = part.norm2 = part.nonlinearity = torch.nn.Identity()
            part.time_emb_proj.weight.zero_()
            part.time_emb_proj.bias.zero_()
    for part in list(module.modules()):
        for name, child in part.named_children():
            if isinstance(child, Transformer2DModel):
                setattr(part, name, _Nothing())
    module.conv_norm_out = module.conv_act = torch.nn.Identity()
    return cast(torch.nn.Module, module)


class _Nothing(torch.nn.Module):
    """In the place of attention: what goes in comes out."""

    def forward(self, hidden_states: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
        return (hidden_states,)


def flat_offsets(*, wanted: str = "", tokens: int = 16) -> dict[str, Measured]:
    """Offsets of SD-1.5's blocks with flat kernels against 64 x 64 latents.

    Parameters
    ----------
    wanted : str
        How the names of blocks begin.
    tokens : int
        See :func:`reprscope.representations.offsets.measure`.
    """
    config = find("sd-1.5").architecture.denoiser
    denoiser = UNet(flat(config), find("sd-1.5").architecture.scheduler)
    names = [name for name in blocks(positions(config)) if name.startswith(wanted)]
    # What is linear has the same gradients for every picture.
    maps = [torch.zeros(4, 64, 64)] * 4
    prompt = {"embedding": torch.zeros(1, 1, 8)}
    return measure(denoiser, names, _as_it_is, maps, timestep=0, prompt=prompt, tokens=tokens)


def _as_it_is(leaf: torch.Tensor, _: int) -> torch.Tensor:
    return leaf


def page(
    measured: Mapping[str, Mapping[str, Any]], geometry: Mapping[str, Measured], table: pl.DataFrame
) -> str:
    """Text of the page."""
    first, twin = measured.values()
    names = in_network_order(first["offsets"])
    lines = [HEAD, "", "| block | nano-sd, x | y | untrained twin, x | y | flat SD-1.5, x, y |"]
    lines.append("|---|---|---|---|---|---|")
    for name in names:
        cells = [block_label(name)]
        for one in (first, twin):
            pairs = zip(one["offsets"][name], one["errors"][name], strict=True)
            cells += [f"{value:+.2f} ± {error:.2f}" for value, error in pairs]
        flat = geometry[name]
        cells.append(f"{flat.x:+.3f}, {flat.y:+.3f}")
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        MIDDLE,
        "",
        "| block | PCK@0.05, centred | measured | PCK@0.1, centred | measured |",
    ]
    lines.append("|---|---|---|---|---|")
    chosen = table.filter(
        (pl.col("model") == "nano-sd")
        & (pl.col("split") == "test")
        & (pl.col("average") == "point")
        & (pl.col("estimator") == "cosine")
    )
    for name in names:
        cells = [block_label(name)]
        for alpha in (0.05, 0.1):
            for protocol in ("standard", "placed"):
                row = chosen.row(
                    by_predicate=(pl.col("position") == name)
                    & (pl.col("alpha") == alpha)
                    & (pl.col("protocol") == protocol),
                    named=True,
                )
                values = [100 * row[key] for key in ("pck", "low", "high")]
                cells.append("{:.1f} [{:.1f}, {:.1f}]".format(*values))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


HEAD = """# Where tokens lie

A token of a layer is drawn and read as a square of pixels, with its place in the middle
(`coordinates: centred`). diffusers' downsampler (3 x 3, stride 2, one row of padding on each side)
puts output i on input 2i, not between 2i and 2i + 1: a quarter of a token to the upper left, and
half of what was there before. An upsampler repeats tokens, which doubles an offset in the tokens
that it makes. Trained kernels make up for part of it. `coordinates: measured` takes for each layer
what is measured on the model, once (`workflow_scripts/reprscope/representations/offsets.py` says
how): the centroid of what reaches a token, in tokens from the middle of its square, to the right
and down, at the model's resolution, t = 50. The VAE is in it for nano-sd and its twin; SD-1.5's
architecture stands alone, with kernels that weigh all inputs alike.

    python -m benchmarks.offsets FOLDER

measures all of it again; standard errors are over twelve pictures. A block on the way up repeats
the tokens of the level below, so that its offset is nearly twice theirs; the flat network has no
attention, no norms and no training to make up for it.

Sizes that strides do not divide are rounded up, and their tokens are a little larger than the
squares that they are taken for: no offset puts that right."""

MIDDLE = """What it does to correspondence on nano-sd (600 test pairs of the default study, t = 50,
in percent, with 95 % intervals). Source and target are moved alike, so that errors of place cancel
between images of one size; what changes is which token stands for a keypoint. It is no better
throughout: where a block's tokens are 16 or 32 px wide (down[2] to mid) it is worse."""


if __name__ == "__main__":
    main()
