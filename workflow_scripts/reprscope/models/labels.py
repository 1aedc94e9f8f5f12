"""Names of positions and columns as readers meet them, and their order.

Labels are the thesis': ``up[1]``, ``mid``, ``conv-in``. ``reprscope.models.positions.spell`` reads
them back, so that a reader can copy a label from a figure into a study.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

KEYS = (
    "task",
    "dataset",
    "view",
    "model",
    "resolution",
    "prompt",
    "timestep",
    "seed",
    "protocol",
    "position",
)
"""Columns of every table: what a row was measured on."""

Part = tuple[int, int, int, str]

_PLAIN = {"conv_in": "conv-in", "conv_out": "conv-out", "mid_block": "mid"}
_INDEXED = {
    "down_blocks": "down",
    "up_blocks": "up",
    "resnets": "res",
    "attentions": "attn",
    "transformer_blocks": "block",
    "single_transformer_blocks": "single",
}
_ALONE = {"downsamplers": "downsample", "upsamplers": "upsample"}

_STAGES = (
    "conv_in",
    "pos_embed",
    "x_embedder",
    "down_blocks",
    "mid_block",
    "up_blocks",
    "transformer_blocks",
    "single_transformer_blocks",
    "conv_norm_out",
    "norm_out",
    "proj_out",
    "conv_out",
)
_LAYERS = {
    "resnets": (0, 0),
    "attentions": (0, 1),
    "proj_mlp": (0, 1),
    "downsamplers": (1, 0),
    "upsamplers": (1, 0),
}
_OUTPUT: Part = (len(_STAGES) + 1, 0, 0, "")


def block_label(position: str) -> str:
    """Label of a position: ``up_blocks.1`` is ``up[1]``, its second attention ``up[1] attn[1]``.

    Names that have no label are printed as they are.
    """
    return " ".join(_part_label(name, index) for name, index in _parts(position))


def network_order(position: str) -> tuple[Part, ...]:
    """Sort key that puts module paths in the order of the forward pass.

    ``conv_in`` < ``down_blocks`` < ``mid_block`` < ``up_blocks`` < ``conv_out``; inside a block
    each resnet is followed by its attention, the resampler is last, and the block itself comes
    after its layers, as its output does.
    """
    (stage, index), *inner = _parts(position)
    rank = _STAGES.index(stage) if stage in _STAGES else len(_STAGES)
    key = [(rank, -1 if index is None else index, 0, stage)]
    for name, number in inner:
        level, turn = _LAYERS.get(name, (0, 2))
        key.append((level, -1 if number is None else number, turn, name))
    return (*key, _OUTPUT)


def in_network_order(positions: Iterable[str]) -> list[str]:
    """The distinct ``positions`` in the order of the forward pass."""
    return sorted(set(positions), key=network_order)


def block_of(position: str) -> str:
    """The top-level block a position belongs to: ``mid_block`` for ``mid_block.resnets.0``."""
    name, index = next(_parts(position))
    return name if index is None else f"{name}.{index}"


_WORDS: Final = {"pck": "PCK", "grid_rmse": "true token means", "mean_rmse": "mean depth"}


def words(name: str) -> str:
    """A column or estimator name in words: ``same_place_in_box`` is ``same place in box``."""
    return _WORDS.get(name, name.replace("_", " "))


def named(column: str, value: object) -> str:
    """Name of a panel or series: a text itself, a number with what it is, ``timestep 50``."""
    return value if isinstance(value, str) else f"{words(column)} {value}"


def _parts(position: str) -> Iterator[tuple[str, int | None]]:
    """Names of a module path, each with the number that follows it."""
    names = position.split(".")
    while names:
        name = names.pop(0)
        yield name, int(names.pop(0)) if names and names[0].isdecimal() else None


def _part_label(name: str, index: int | None) -> str:
    if index is None:
        return _PLAIN.get(name, name)
    if name in _ALONE and index == 0:
        return _ALONE[name]
    return f"{_INDEXED.get(name, name)}[{index}]"
