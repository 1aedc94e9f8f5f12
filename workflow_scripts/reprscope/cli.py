"""The command ``reprscope``, for what needs no study; studies are run by Snakemake."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence

import polars as pl

from reprscope.base.provenance import canonical_json
from reprscope.models import registry
from reprscope.models.labels import block_label
from reprscope.models.registry import Model
from reprscope.representations.shapes import latent_grid, shapes
from reprscope.runtime.errors import UserError
from reprscope.tasks._findings import of_blocks


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code.

    Parameters
    ----------
    arguments : sequence of str or None
        None for those of the process.
    """
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except UserError as error:
        print(f"reprscope: {error}", file=sys.stderr)
        return 1
    return 0


def _print_shapes(options: argparse.Namespace) -> None:
    chosen = {name: registry.find(name) for name in options.models or registry.models()}
    for names, resolution, table in groups(chosen, resolution=options.resolution):
        print(text(names, resolution, table if options.layers else of_blocks(table)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="reprscope", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "shapes",
        help="print the sizes of the representations of known models",
        description="Print the sizes of representations, without loading or fetching a model.",
    )
    command.add_argument("models", nargs="*", metavar="MODEL", help="a known model (default: all)")
    command.add_argument(
        "--resolution", type=int, metavar="PIXELS", help="size of images (default: native)"
    )
    command.add_argument("--layers", action="store_true", help="also layers inside blocks")
    command.set_defaults(run=_print_shapes)
    return parser


def groups(
    models: Mapping[str, Model], *, resolution: int | None = None
) -> list[tuple[list[str], int, pl.DataFrame]]:
    """Known models with the same sizes, together.

    Parameters
    ----------
    models : mapping of str to Model
        By name.
    resolution : int or None
        Size of square images in pixels; None for the native size of each.

    Returns
    -------
    list of (names, resolution, table)
        In the order of ``models``; the table is that of
        :func:`reprscope.representations.shapes.shapes`.
    """
    computed: dict[str, pl.DataFrame] = {}
    found: list[tuple[list[str], int, pl.DataFrame]] = []
    for name, model in models.items():
        pixels = model.resolution if resolution is None else resolution
        architecture = model.architecture
        grid = latent_grid(pixels, architecture.vae.factor)
        key = canonical_json([architecture.family, dict(architecture.denoiser), grid])
        if key not in computed:
            computed[key] = shapes(architecture.family, architecture.denoiser, grid)
        for names, size, table in found:
            if size == pixels and table.equals(computed[key]):
                names.append(name)
                break
        else:
            found.append(([name], pixels, computed[key]))
    return found


def text(names: Iterable[str], resolution: int, table: pl.DataFrame) -> str:
    """A table of sizes for a terminal, with the labels that figures print."""
    labels = [block_label(position) for position in table["position"]]
    width = max(map(len, ["position", *labels]))
    lines = [f"{', '.join(names)}: {resolution} x {resolution} pixels", ""]
    lines.append(f"  {'position':{width}}  channels  tokens (height x width)")
    for label, (_, channels, height, columns) in zip(labels, table.iter_rows(), strict=True):
        lines.append(f"  {label:{width}}  {channels:8}  {height} x {columns}")
    return "\n".join(lines) + "\n"
