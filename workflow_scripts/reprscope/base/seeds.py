"""Randomness is seeded per item, never per batch."""

from __future__ import annotations

import hashlib


def item_seed(*parts: object) -> int:
    """Seed of one item, from anything that names it: 63 bits of a SHA-256.

    Equal on every machine and in every process, unlike ``hash``.
    """
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
