"""What only one kind of animal has: mane, horns, udder, antlers, trunk, wool, hump."""

import math
from collections.abc import Callable

import numpy as np

from reprscope.data.synthetic.anatomy import Anatomy
from reprscope.data.synthetic.parts import Creature, Skeleton, vector

SIDES = (-1, 1)


def adorn(animal: Creature, kind: str, plan: Anatomy, bones: Skeleton) -> None:
    """Add what only this kind has.

    Parameters
    ----------
    animal : Creature
        Grows the new parts; an elephant's nose moves to the tip of its trunk.
    kind : str
    plan : Anatomy
    bones : Skeleton
    """
    if kind in _ADORNMENTS:
        _ADORNMENTS[kind](animal, plan, bones)


def _bear(animal: Creature, plan: Anatomy, bones: Skeleton) -> None:
    """Hump over the shoulders."""
    animal.ball(bones.chest + vector(-0.02, 0.16, 0), (0.24, 0.22, 0.2), "coat")


def _cow(animal: Creature, plan: Anatomy, bones: Skeleton) -> None:
    """Horns and an udder."""
    head = bones.head
    for side in SIDES:
        root, bend = head(-0.03, 0.13, side * 0.1), head(-0.02, 0.19, side * 0.23)
        animal.capsule(root, bend, 0.05, 0.04, "horn")
        animal.capsule(bend, head(0.02, 0.32, side * 0.24), 0.04, 0.014, "horn")
    udder = bones.hip + vector(0.2, -plan.hip * 1.05, 0)
    animal.ball(udder, (0.16, 0.12, 0.13), "pink")
    for x in (-0.06, 0.06):
        for side in SIDES:
            teat = udder + vector(x, -0.09, side * 0.06)
            animal.capsule(teat, teat - vector(0, 0.06, 0), 0.026, 0.02, "pink")


def _deer(animal: Creature, plan: Anatomy, bones: Skeleton) -> None:
    """Antlers of one beam with two tines, and a pale throat."""
    head = bones.head
    for side in SIDES:
        root, bend = head(-0.02, 0.10, side * 0.06), head(-0.12, 0.28, side * 0.17)
        animal.capsule(root, bend, 0.03, 0.026, "horn")
        animal.capsule(bend, head(-0.02, 0.50, side * 0.24), 0.026, 0.014, "horn")
        fork, tine = head(-0.08, 0.21, side * 0.13), head(0.06, 0.32, side * 0.15)
        animal.capsule(fork, tine, 0.022, 0.013, "horn")
        fork, tine = head(-0.08, 0.38, side * 0.2), head(-0.2, 0.47, side * 0.25)
        animal.capsule(fork, tine, 0.02, 0.013, "horn")
    throat = bones.neck + 0.55 * (head.origin - bones.neck) + vector(0.06, -0.03, 0)
    animal.ball(throat, (0.075, 0.13, 0.075), "pale")


def _dog(animal: Creature, plan: Anatomy, bones: Skeleton) -> None:
    """Pale chest."""
    animal.ball(bones.chest + vector(0.13, -0.02, 0), (0.11, 0.17, 0.12), "pale")


def _elephant(animal: Creature, plan: Anatomy, bones: Skeleton) -> None:
    """Trunk, whose tip is the keypoint of the nose, and tusks."""
    head = bones.head
    nodes = [(0.24, -0.14), (0.38, -0.34), (0.42, -0.54), (0.46, -0.70), (0.58, -0.78)]
    radii = (0.15, 0.125, 0.10, 0.08, 0.07)
    points = [head(x, y, 0) for x, y in nodes]
    for i in range(4):
        animal.capsule(points[i], points[i + 1], radii[i], radii[i + 1], "coat")
    animal.ball(head(0.635, -0.795, 0), (0.03, 0.05, 0.05), "pink", head.rotation)
    animal.keypoints["nose"] = (points[-1], 1.3 * radii[-1])
    for side in SIDES:
        root, bend = head(0.24, -0.22, side * 0.13), head(0.46, -0.36, side * 0.18)
        animal.capsule(root, bend, 0.045, 0.036, "white")
        animal.capsule(bend, head(0.62, -0.33, side * 0.17), 0.036, 0.014, "white")


def _giraffe(animal: Creature, plan: Anatomy, bones: Skeleton) -> None:
    """Horn stubs and a short mane."""
    head = bones.head
    for side in SIDES:
        top = head(-0.05, 0.22, side * 0.06)
        animal.capsule(head(-0.02, 0.07, side * 0.05), top, 0.024, 0.02, "coat")
        animal.ball(top, 0.038, "dark")
    axis = head.origin - bones.neck
    behind = vector(-axis[1], axis[0], 0) / np.linalg.norm(axis)
    first = bones.neck + 0.12 * axis + behind * 0.15
    last = bones.neck + 0.97 * axis + behind * 0.07
    animal.capsule(first, last, 0.035, 0.03, "mane")


def _horse(animal: Creature, plan: Anatomy, bones: Skeleton) -> None:
    """Mane along the neck and a forelock."""
    head, neck = bones.head, bones.neck
    axis = (head.origin - neck) / np.linalg.norm(head.origin - neck)
    behind = vector(-axis[1], axis[0], 0)
    axes = np.column_stack([axis, behind, [0.0, 0.0, 1.0]])
    wide, narrow = plan.neck_radii
    for i in range(5):
        t = 0.2 + 0.2 * i
        ridge = behind * (wide + t * (narrow - wide)) * 0.9
        tuft = neck + t * (head.origin - neck) + ridge
        animal.ball(tuft, (0.11, 0.085, 0.05), "mane", axes)
    animal.ball(head(0.02, 0.14, 0), (0.09, 0.07, 0.06), "mane", head.rotation)


def _sheep(animal: Creature, plan: Anatomy, bones: Skeleton) -> None:
    """Wool: tufts over the trunk and on the crown."""
    middle, radius = (bones.hip + bones.chest) / 2, plan.hip
    for row, around in enumerate((-1.15, -0.45, 0.45, 1.15)):
        for x in (-0.42, -0.2, 0.02, 0.24, 0.44):
            shift = 0.06 if row % 2 else -0.06
            ring = radius * (0.96 - 0.9 * max(0.0, abs(x + shift) - 0.3))
            tuft = vector(x + shift, ring * math.cos(around) * 0.95, ring * math.sin(around))
            animal.ball(middle + tuft, 0.125, "coat")
    for x, lateral in ((-0.36, 0.7), (0.0, 0.85), (0.34, 0.7)):
        for side in SIDES:
            animal.ball(middle + vector(x, -0.12, side * lateral * radius), 0.135, "coat")
    for x, y, z in ((0.03, 0.14, 0), (-0.06, 0.14, 0.08), (-0.06, 0.14, -0.08), (-0.1, 0.06, 0)):
        animal.ball(bones.head(x, y, z), 0.085, "coat")


_ADORNMENTS: dict[str, Callable[[Creature, Anatomy, Skeleton], None]] = {
    "bear": _bear,
    "cow": _cow,
    "deer": _deer,
    "dog": _dog,
    "elephant": _elephant,
    "giraffe": _giraffe,
    "horse": _horse,
    "sheep": _sheep,
}
