"""Colours and markings of the menagerie's animals."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reprscope.data.synthetic.parts import Creature

Float = NDArray[np.float64]
Float32 = NDArray[np.float32]

COLOURS = {
    "black": (0.15, 0.15, 0.17),
    "brown": (0.47, 0.28, 0.14),
    "cream": (0.92, 0.81, 0.60),
    "gray": (0.53, 0.55, 0.58),
    "orange": (0.90, 0.47, 0.13),
    "red": (0.66, 0.15, 0.12),
    "white": (0.94, 0.94, 0.93),
}

PATTERNS = ("plain", "spotted", "striped", "belted")


def palette(kind: str, colour: str, rng: np.random.Generator) -> dict[str, Float]:
    """Display colours, red, green and blue in [0, 1], of what an animal can be made of.

    Parameters
    ----------
    kind : str
        Decides the colour of the feet.
    colour : str
        A key of `COLOURS`, for the coat.
    rng : numpy.random.Generator
        Varies the coat's colour a little.

    Returns
    -------
    dict of material -> (3,)
        "coat" (it alone carries markings, and is paler below), "mark" (the markings), "pale"
        (muzzle, chest), "dark" (hooves, claws), "face" (a sheep's), "sock" (lowest part of a leg,
        paws), "mane", "nose", "white" (of the eye, tusks, highlights), "pupil", "pink" (inside
        of an ear, udder) and "horn".
    """
    coat = np.clip(np.array(COLOURS[colour]) * rng.uniform(0.9, 1.06), 0, 0.97)
    coat = np.clip(coat + rng.uniform(-0.02, 0.02, 3), 0, 0.97)
    dark_coat = float(coat @ [0.3, 0.59, 0.11]) < 0.5
    cream, near_black = np.array([0.95, 0.90, 0.80]), np.array([0.16, 0.12, 0.10])
    pale = coat + 0.62 * (cream - coat)
    if colour in ("white", "cream"):
        pale = np.array([0.97, 0.84, 0.74])
    if kind in ("dog", "cat", "rabbit"):
        sock = coat + 0.8 * (np.array([0.97, 0.95, 0.92]) - coat)
        if not dark_coat and colour in ("white", "cream"):
            sock = np.array([0.60, 0.50, 0.42])
    elif colour == "black":
        sock = np.array([0.46, 0.42, 0.40])
    else:
        sock = 0.55 * coat
    return {
        "coat": coat,
        "mark": np.array([0.93, 0.89, 0.82]) if dark_coat else near_black + 0.12 * coat,
        "pale": pale,
        "dark": np.array([0.17, 0.14, 0.14]),
        "face": np.array([0.56, 0.48, 0.42] if colour == "black" else [0.17, 0.14, 0.14]),
        "sock": sock,
        "mane": np.array([0.52, 0.44, 0.38]) if colour == "black" else 0.45 * coat,
        "nose": np.array([0.07, 0.06, 0.08]),
        "white": np.array([0.97, 0.97, 0.95]),
        "pupil": np.array([0.05, 0.04, 0.05]),
        "pink": np.array([0.93, 0.62, 0.60]),
        "horn": np.array([0.80, 0.70, 0.52]),
    }


@dataclass(frozen=True)
class Markings:
    """Where a coat carries its second colour, in the animal's frame.

    Attributes
    ----------
    pattern : str
        One of `PATTERNS`.
    seeds, radii : (n, 3), (n,)
        Centres and radii of spots.
    waves : (6,)
        Period, tilt, phase and ripple of stripes; middle and half width of a belt.
    """

    pattern: str
    seeds: Float32
    radii: Float32
    waves: Float32

    def at(self, points: Float32) -> NDArray[np.bool_]:
        """Whether each point (n, 3) lies on a marking."""
        x, y, z = points[:, 0], points[:, 1], points[:, 2]
        if self.pattern == "spotted":
            # Inside a ball around a seed: |p - s|^2 < r^2 for some seed.
            power = 2 * (points @ self.seeds.T)
            power += self.radii**2 - np.einsum("ni,ni->n", self.seeds, self.seeds)
            return np.asarray(power.max(axis=1) > np.einsum("ni,ni->n", points, points))
        period, tilt, phase, ripple, middle, half = self.waves
        if self.pattern == "striped":
            along = x + tilt * y + ripple * np.sin(5 * z + 4 * y + phase)
            return np.asarray(np.sin(2 * np.pi / period * along + phase) > 0.15)
        if self.pattern == "belted":
            return np.asarray(np.abs(x - middle) < half)
        return np.zeros(len(points), dtype=bool)


def draw_markings(animal: Creature, pattern: str, rng: np.random.Generator) -> Markings:
    """Random markings; every pattern draws the same numbers."""
    low, high = [0.19, 0.25, 0.0, 0.01, -0.06, 0.11], [0.27, 0.5, 6.28, 0.03, 0.06, 0.17]
    waves = rng.uniform(low, high)
    coats = [(a, b, max(r, s)) for a, b, r, s, m in animal.capsules if m == "coat"]
    weights = np.array([(np.linalg.norm(b - a) + r) * r for a, b, r in coats])
    chosen = rng.choice(len(coats), size=34, p=weights / weights.sum())
    along, directions = rng.random(34), rng.normal(size=(34, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    seeds = [
        coats[i][0] + t * (coats[i][1] - coats[i][0]) + coats[i][2] * d
        for i, t, d in zip(chosen, along, directions, strict=True)
    ]
    return Markings(
        pattern,
        np.array(seeds, dtype=np.float32),
        rng.uniform(0.07, 0.13, 34).astype(np.float32),
        waves.astype(np.float32),
    )
