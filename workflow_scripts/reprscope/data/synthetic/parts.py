"""What an animal is made of: ellipsoids, tapered capsules and named keypoints.

An animal's own frame has x forward, y up and z to the animal's right (right-handed), the ground
at y = 0.  One unit is roughly the length of a horse's trunk.  Left and right are anatomical.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


@dataclass
class Creature:
    """Primitives and keypoints of one animal in its own frame.

    Attributes
    ----------
    ellipsoids : list of (centre (3,), axes (3, 3), material)
        The columns of ``axes`` are the semi-axes; materials are those of
        `reprscope.data.synthetic.coats.palette`.
    capsules : list of (end (3,), end (3,), radius, radius, material)
    keypoints : dict of name -> (point (3,), reach)
        ``reach`` is how far from the point, along a ray, the surface it marks may lie.
    """

    ellipsoids: list[tuple[Float, Float, str]] = field(default_factory=list)
    capsules: list[tuple[Float, Float, float, float, str]] = field(default_factory=list)
    keypoints: dict[str, tuple[Float, float]] = field(default_factory=dict)

    def ball(
        self,
        centre: Float,
        radii: tuple[float, float, float] | float,
        material: str,
        axes: Float | None = None,
    ) -> None:
        """Add an ellipsoid with its axes along the columns of ``axes`` (default: the animal's)."""
        diagonal = np.diag(np.broadcast_to(radii, 3).astype(float))
        self.ellipsoids.append((centre, diagonal if axes is None else axes @ diagonal, material))

    def capsule(
        self, first: Float, second: Float, radius: float, end_radius: float, material: str
    ) -> None:
        """Add the convex hull of two spheres, neither of which holds the other."""
        self.capsules.append((first, second, radius, end_radius, material))


@dataclass(frozen=True)
class Frame:
    """Placement of a group of parts: ``rotation @ point + origin`` (``rotation`` may scale)."""

    rotation: Float
    origin: Float

    def __call__(self, x: float, y: float, z: float) -> Float:
        """The point (x, y, z) of the group in the animal's frame."""
        moved: Float = self.rotation @ np.array([x, y, z]) + self.origin
        return moved


@dataclass(frozen=True)
class Skeleton:
    """Where the main groups of parts are: trunk ends, root of the neck, head."""

    hip: Float
    chest: Float
    neck: Float
    head: Frame


def vector(x: float, y: float, z: float) -> Float:
    """A point or offset (3,)."""
    return np.array([x, y, z], dtype=float)
