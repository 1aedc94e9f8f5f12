"""Divisions into splits that depend on each image's own name, never on the others."""

from __future__ import annotations

from reprscope.errors import UserError
from reprscope.seeds import item_seed


def check_shares(*, validation: float, test: float = 0.0, seed: int) -> None:
    """Check shares of images and the seed of a division.

    Raises
    ------
    UserError
        If a share is outside [0, 1], or both together are.
    """
    if min(validation, test) < 0 or validation + test > 1:
        raise UserError(
            "validation and test are shares of the images: set them between 0 and 1, together at "
            "most 1."
        )
    if seed < 0:
        raise UserError("seed must not be negative.")


def drawn_split(seed: int, image_id: str, validation: float, test: float = 0.0) -> str:
    """Split of an image: ``test`` and ``validation`` with these probabilities, or ``train``."""
    position = item_seed(seed, "split", image_id) / 2**63
    if position < test:
        return "test"
    return "validation" if position < test + validation else "train"
