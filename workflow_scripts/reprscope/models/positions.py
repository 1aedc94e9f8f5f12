"""How a study names positions.

A position is a module path in diffusers' own spelling; studies may also write the thesis' labels
(``up[1]``, ``mid``, ``conv-in``; for transformers ``block[7]``, ``single[12]``, and ``double[3]``
for a block with two streams) and globs (``up_blocks.*``, ``single[*]``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import groupby

from reprscope.runtime.errors import UserError

_LABELS = (
    (re.compile(r"^conv[-_]in$"), "conv_in"),
    (re.compile(r"^conv[-_]out$"), "conv_out"),
    (re.compile(r"^mid(?=$|[. ])"), "mid_block"),
    (re.compile(r"\bdown\[(\d+|\*)\]"), r"down_blocks.\1"),
    (re.compile(r"\bup\[(\d+|\*)\]"), r"up_blocks.\1"),
    (re.compile(r"\bres\[(\d+|\*)\]"), r"resnets.\1"),
    (re.compile(r"\battn\[(\d+|\*)\]"), r"attentions.\1"),
    (re.compile(r"\bdownsample$"), "downsamplers.0"),
    (re.compile(r"\bupsample$"), "upsamplers.0"),
    (re.compile(r"\b(?:block|double)\[(\d+|\*)\]"), r"transformer_blocks.\1"),
    (re.compile(r"\bsingle\[(\d+|\*)\]"), r"single_transformer_blocks.\1"),
)

# First names of the positions of all families.
_NAMES = frozenset(
    (
        "conv_in",
        "down_blocks",
        "mid_block",
        "up_blocks",
        "conv_out",
        "pos_embed",
        "x_embedder",
        "transformer_blocks",
        "single_transformer_blocks",
        "proj_out",
    )
)


def spell(pattern: str) -> str:
    """Spell a label as a module path: ``up[1] attn[2]`` is ``up_blocks.1.attentions.2``."""
    path = pattern.strip()
    for label, module in _LABELS:
        path = label.sub(module, path)
    return path.replace(" ", ".")


def resolve(
    patterns: Sequence[str], positions: Sequence[str], *, entry: str, optional: bool = False
) -> list[str]:
    """Resolve positions, labels and globs to module paths, in network order.

    A ``*`` stands for one part of a path: ``up_blocks.*`` are the blocks, not their layers. A
    pattern for blocks that only models of another family have is passed over, so that one list
    serves a study of several families.

    Parameters
    ----------
    patterns : sequence of str
    positions : sequence of str
        All module paths of the model.
    entry : str
        What an error names.
    optional : bool
        Whether the model may have none of them.

    Raises
    ------
    UserError
        If a pattern matches nothing, or all were passed over; names ``entry`` and what exists.
    """
    own = {_first(position) for position in positions}
    chosen: set[str] = set()
    for pattern in patterns:
        path = spell(pattern)
        depth = path.count(".")
        matches = [p for p in positions if p.count(".") == depth and fnmatchcase(p, path)]
        if not matches and _first(path) not in _NAMES - own:
            raise _missing(entry, pattern, positions)
        chosen.update(matches)
    if not chosen and not optional:
        raise _missing(entry, ", ".join(patterns), positions)
    return [position for position in positions if position in chosen]


def _first(path: str) -> str:
    return path.split(".")[0]


def _missing(entry: str, pattern: str, positions: Sequence[str]) -> UserError:
    whole = blocks(positions)
    layer = next(p for p in positions if p not in whole)
    return UserError(
        f"{entry} has no position {pattern}: its blocks are {', '.join(_runs(whole))}, with "
        f"layers such as {layer} inside them."
    )


def blocks(positions: Sequence[str]) -> list[str]:
    """Those of a model's positions that are blocks, not layers inside them."""
    return [p for p in positions if p.count(".") == (1 if "_blocks" in p else 0)]


def _runs(names: Sequence[str]) -> list[str]:
    """Names of blocks with each run shortened: ``up_blocks.0 to up_blocks.3``."""
    runs = [list(run) for _, run in groupby(names, key=lambda block: block.split(".")[0])]
    return [run[0] if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs]
