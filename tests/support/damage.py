"""Weights that are not those that a class wants, one tensor at a time."""

import random
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def rewrite(path: Path, change) -> Path:
    """Change the tensors of a file: ``change`` gets them by name and returns what is written."""
    save_file(change(load_file(path)), path, metadata={"format": "pt"})
    return path


def left_out(weights: dict, name: str) -> dict:
    return {key: value for key, value in weights.items() if key != name}


def renamed(weights: dict, name: str) -> dict:
    return {f"{key}_old" if key == name else key: value for key, value in weights.items()}


def reshaped(weights: dict, name: str) -> dict:
    return {**weights, name: torch.cat([weights[name]] * 2)}


KINDS = (left_out, renamed, reshaped)


def damages(path: Path, count: int) -> Iterator[tuple[str, str]]:
    """Damage random tensors of a file, each for itself and in every way; the file is restored.

    Yields
    ------
    kind, name : str
        What was done, and to which tensor.
    """
    before, weights = path.read_bytes(), load_file(path)
    names = random.Random(path.parent.name).sample(sorted(weights), min(count, len(weights)))
    for name in names:
        for kind in KINDS:
            save_file(kind(weights, name), path, metadata={"format": "pt"})
            yield kind.__name__, name
            path.write_bytes(before)
