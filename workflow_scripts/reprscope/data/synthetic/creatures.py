"""The menagerie's animals, grown from their anatomy in a random pose.

Units, axes and sides are those of `reprscope.data.synthetic.parts`.
"""

import math

import numpy as np

from reprscope.data.synthetic.adornments import adorn
from reprscope.data.synthetic.anatomy import ANATOMIES, Anatomy
from reprscope.data.synthetic.parts import Creature, Float, Frame, Skeleton, vector

KINDS = tuple(sorted(ANATOMIES))

KEYPOINTS = (
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "nose",
    "left_front_paw",
    "right_front_paw",
    "left_hind_paw",
    "right_hind_paw",
    "tail_tip",
    "back",
)

#: Length, width, lean from the vertical (rad) and forward component of leaf-shaped ears.
LEAVES = {
    "cow": (0.21, 0.075, 1.45, 0.0),
    "deer": (0.21, 0.065, 0.95, -0.05),
    "giraffe": (0.15, 0.05, 1.05, -0.05),
    "horse": (0.16, 0.052, 0.28, 0.0),
    "rabbit": (0.56, 0.085, 0.22, -0.25),
    "sheep": (0.19, 0.065, 1.75, 0.0),
}


def grow(kind: str, rng: np.random.Generator) -> Creature:
    """An animal of a kind, in a random pose and with slightly varied proportions.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    rng : numpy.random.Generator

    Returns
    -------
    Creature
        With every keypoint of `KEYPOINTS`.
    """
    plan = ANATOMIES[kind]
    animal = Creature()
    build = rng.uniform(0.93, 1.07, 4)  # trunk length, girth, leg length, head size
    trunk, girth = plan.trunk * build[0], build[1]
    height = plan.height * build[2]
    hip = vector(-trunk / 2, height, 0)
    chest = vector(trunk / 2, height + plan.slope, 0)
    _trunk(animal, kind, plan, hip, chest, girth)
    _legs(animal, kind, plan, hip, chest, rng)
    turn = np.radians(rng.uniform([-22, -10, -8], [22, 12, 8]))
    angle = math.radians(plan.neck_angle) + turn[1]
    neck = chest + vector(0.35, 0.35, 0) * plan.chest * girth
    length = plan.neck + 0.5 * plan.chest
    bend = 0.35 * math.sin(turn[0]) * plan.neck
    end = neck + vector(length * math.cos(angle), length * math.sin(angle), bend)
    animal.capsule(neck, end, *plan.neck_radii, "coat")
    head = Frame(_rotation(yaw=turn[0], pitch=0.4 * turn[1], roll=turn[2]) * build[3], end)
    _face(animal, kind, plan, head)
    for side, name in ((-1.0, "left"), (1.0, "right")):
        _eye(animal, kind, plan, head, side, f"{name}_eye")
        _ear(animal, kind, plan, head, side, f"{name}_ear", sway=rng.uniform(-0.08, 0.08))
    _tail(animal, kind, plan, hip, girth, rng)
    adorn(animal, kind, plan, Skeleton(hip, chest, neck, head))
    return animal


def _rotation(yaw: float, pitch: float, roll: float) -> Float:
    """Rotation of the head: roll about x, then pitch (nose up) about z, then yaw (to its right)."""
    cy, sy = math.cos(yaw), math.sin(yaw)
    cp, sp = math.cos(pitch), math.sin(pitch)
    cr, sr = math.cos(roll), math.sin(roll)
    about_y = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    about_z = np.array([[cp, -sp, 0], [sp, cp, 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    rotation: Float = about_y @ about_z @ about_x
    return rotation


def _trunk(
    animal: Creature, kind: str, plan: Anatomy, hip: Float, chest: Float, girth: float
) -> None:
    """Trunk with its keypoint on the back."""
    a, b = plan.hip * girth, plan.chest * girth
    animal.capsule(hip, chest, a, b, "coat")
    middle = (hip + chest) / 2
    if kind in ("cow", "horse", "elephant", "bear"):
        belly = middle + vector(0, -0.12 * a, 0)
        animal.ball(belly, (0.5 * plan.trunk + 0.3 * a, 1.0 * a, 1.04 * a), "coat")
    radius = (a + b) / 2
    wool = 0.09 if kind == "sheep" else 0.0
    top = middle + vector(0, 0.92 * radius + wool, 0)
    animal.keypoints["back"] = (top, 0.75 * radius)


def _legs(
    animal: Creature, kind: str, plan: Anatomy, hip: Float, chest: Float, rng: np.random.Generator
) -> None:
    """Four legs in a random stride, each with the keypoint of its paw or hoof."""
    foot = plan.paw
    gait = rng.uniform(-1, 1)
    wobble = rng.uniform(-0.3, 0.3, 4)
    stride = 0.2 * plan.height * (0.4 if kind in ("rabbit", "elephant") else 1.0)
    for i, name in enumerate(("left_front", "right_front", "left_hind", "right_hind")):
        side = -1.0 if name.startswith("left") else 1.0
        front = name.endswith("front")
        # Diagonal pairs of legs swing together, as in a trot.
        phase = side * gait * (1.0 if front else -1.0) + wobble[i]
        top = (chest if front else hip) + vector(0.04, -0.35 * plan.chest, side * plan.stance)
        ground = vector(top[0] + stride * phase, 0.55 * foot, side * plan.stance * 1.08)
        if kind == "rabbit" and not front:
            ground = _haunch(animal, hip, side)
        else:
            _leg(animal, kind, plan, top, ground, front=front)
        animal.keypoints[f"{name}_paw"] = (ground + vector(0.3 * foot, 0, 0), 1.3 * foot)


def _haunch(animal: Creature, hip: Float, side: float) -> Float:
    """A rabbit's folded hind leg with its long foot; returns the end of the foot."""
    thigh = vector(hip[0] + 0.06, 0.2, side * 0.17)
    animal.ball(thigh, (0.19, 0.19, 0.1), "coat")
    heel = vector(thigh[0] - 0.04, 0.05, side * 0.19)
    toes = heel + vector(0.26, 0, 0)
    animal.capsule(heel, toes, 0.055, 0.06, "sock")
    return toes


def _leg(
    animal: Creature, kind: str, plan: Anatomy, top: Float, ground: Float, *, front: bool
) -> None:
    """Upper and lower leg, and a hoof or a paw with claws."""
    (thick, thin), foot = plan.leg, plan.paw
    knee = 0.47 * top + 0.53 * ground
    knee[0] += plan.hock * (0.35 if front else -1.0)
    animal.capsule(top, knee, thick * (1.0 if front else 1.2), thin * 1.08, "coat")
    ankle = ground + vector(0, 0.75 * foot, 0)
    animal.capsule(knee, ankle, thin * 1.08, thin, "coat")
    if plan.hoof:
        pastern = ground + vector(0, 0.2 * foot, 0)
        animal.capsule(ankle, pastern, thin * 1.05, 0.8 * foot, "sock")
        hoof = ground + vector(0.15 * foot, -0.05 * foot, 0)
        animal.ball(hoof, (foot, 0.5 * foot, 0.85 * foot), "dark")
        return
    animal.capsule(ankle, ground, thin * 1.08, 0.75 * foot, "sock")
    toes = ground + vector(0.35 * foot, 0, 0)
    animal.ball(toes, (1.1 * foot, 0.55 * foot, 0.85 * foot), "sock")
    for lateral in (-0.45, 0.0, 0.45):
        claw = ground + vector(1.2 * foot, -0.12 * foot, lateral * foot)
        animal.ball(claw, 0.25 * foot, "white" if kind == "elephant" else "dark")


def _face(animal: Creature, kind: str, plan: Anatomy, head: Frame) -> None:
    """Skull, muzzle, cheeks and nose."""
    a, b, _ = plan.skull
    animal.ball(head(0, 0, 0), plan.skull, "face" if kind == "sheep" else "coat", head.rotation)
    drop = math.radians(plan.muzzle_angle)
    root = vector(0.5 * a, -0.28 * b, 0)
    tip = root + (plan.muzzle + 0.3 * a) * vector(math.cos(drop), -math.sin(drop), 0)
    wide, narrow = plan.muzzle_radii
    coats = {"sheep": "face", "elephant": "coat", "horse": "coat", "deer": "coat"}
    animal.capsule(head(*root), head(*tip), wide, narrow, coats.get(kind, "pale"))
    if kind in ("horse", "deer", "giraffe"):
        animal.ball(head(*tip), narrow * 1.12, "dark" if kind == "horse" else "pale")
    if kind in ("cat", "rabbit"):
        for side in (-1, 1):
            cheek = tip + narrow * vector(-0.25, -0.1, side * 0.6)
            animal.ball(head(*cheek), 0.72 * narrow, "pale")
    if kind == "elephant":
        return
    ahead = vector(math.cos(drop * 0.4), 0.25 - math.sin(drop * 0.4), 0)
    if kind == "cow":
        radii = (0.85 * narrow, 0.75 * narrow, 1.05 * narrow)
        animal.ball(head(*(tip + 0.3 * narrow * ahead)), radii, "pink", head.rotation)
        for side in (-1, 1):
            nostril = tip + 1.12 * narrow * ahead + vector(0, 0.02, side * 0.45 * narrow)
            animal.ball(head(*nostril), 0.028, "nose")
        animal.keypoints["nose"] = (head(*(tip + 1.15 * narrow * ahead)), 0.8 * narrow)
        return
    size = max(0.52 * narrow, 0.038)
    animal.ball(
        head(*(tip + 0.85 * narrow * ahead)),
        (0.8 * size, 0.8 * size, 1.15 * size),
        "pink" if kind in ("rabbit", "sheep") else "nose",
        head.rotation,
    )
    animal.keypoints["nose"] = (head(*(tip + 1.1 * narrow * ahead)), 0.8 * narrow)


def _eye(animal: Creature, kind: str, plan: Anatomy, head: Frame, side: float, name: str) -> None:
    """One eye: white, pupil and a highlight, with its keypoint on the pupil."""
    forward, up, out = 0.52, 0.34, 0.76
    if kind in ("bear", "cat"):
        forward, up, out = 0.66, 0.36, 0.62
    elif kind == "dog":
        forward, up, out = 0.66, 0.42, 0.58
    direction = vector(forward, up, side * out)
    socket = direction / np.linalg.norm(direction) * plan.skull
    gaze = vector(0.62, 0.06, side * 0.78)
    size = plan.eye
    animal.ball(head(*(socket - 0.15 * size * gaze)), size, "white")
    pupil = socket + 0.42 * size * gaze
    animal.ball(head(*pupil), 0.74 * size, "pupil")
    glint = pupil + size * vector(0.40, 0.42, side * 0.34)
    animal.ball(head(*glint), 0.24 * size, "white")
    animal.keypoints[name] = (head(*(socket + 0.8 * size * gaze)), 1.2 * size)


def _ear(
    animal: Creature, kind: str, plan: Anatomy, head: Frame, side: float, name: str, *, sway: float
) -> None:
    """One ear with its keypoint in the outer half."""
    _, b, c = plan.skull
    if kind == "bear":
        centre = vector(-0.02, 0.92 * b, side * 0.72 * c)
        animal.ball(head(*centre), (0.06, 0.105, 0.105), "coat", head.rotation)
        inner = centre + vector(0.035, 0, 0)
        animal.ball(head(*inner), (0.04, 0.066, 0.066), "pink", head.rotation)
        point, reach = centre + vector(0, 0.03, 0), 0.13
    elif kind == "elephant":
        turn = _rotation(yaw=-side * 0.62, pitch=0.0, roll=side * 0.12)
        centre = vector(-0.10, -0.02, side * (c + 0.17))
        animal.ball(head(*centre), (0.055, 0.29, 0.27), "coat", head.rotation @ turn)
        inner = centre + vector(0.022, 0, side * 0.01)
        animal.ball(head(*inner), (0.04, 0.22, 0.2), "pink", head.rotation @ turn)
        point, reach = centre + turn @ vector(0, 0, side * 0.15), 0.13
    elif kind == "dog":
        turn = _rotation(yaw=0.0, pitch=0.12, roll=side * (0.22 + sway))
        root = vector(-0.02, 0.62 * b, side * 0.78 * c)
        centre = root + turn @ vector(-0.02, -0.15, side * 0.035)
        animal.ball(head(*centre), (0.095, 0.19, 0.045), "mane", head.rotation @ turn)
        point, reach = centre + turn @ vector(0, -0.09, side * 0.02), 0.11
    elif kind == "cat":
        root, axes = _ear_axes(plan, side, 0.30 + sway, -0.05)
        normal, direction = axes[:, 0], axes[:, 1]
        tip = root + 0.17 * direction
        animal.capsule(head(*root), head(*tip), 0.095, 0.018, "coat")
        inner = root + 0.064 * direction + 0.055 * normal
        inner_tip = inner + 0.064 * direction - 0.025 * normal
        animal.capsule(head(*inner), head(*inner_tip), 0.05, 0.014, "pink")
        point, reach = root + 0.12 * direction, 0.09
    else:
        length, width, lean, forward = LEAVES[kind]
        root, axes = _ear_axes(plan, side, lean + sway, forward)
        normal, direction = axes[:, 0], axes[:, 1]
        centre = root + 0.5 * length * direction
        frame = head.rotation @ axes
        material = "face" if kind == "sheep" else "coat"
        animal.ball(head(*centre), (0.4 * width, 0.55 * length, width), material, frame)
        inner = centre + 0.22 * width * normal
        radii = (0.28 * width, 0.43 * length, 0.66 * width)
        animal.ball(head(*inner), radii, "pink", frame)
        point, reach = root + 0.72 * length * direction, 1.1 * width
    animal.keypoints[name] = (head(*point), reach)


def _ear_axes(plan: Anatomy, side: float, lean: float, forward: float) -> tuple[Float, Float]:
    """Root of an ear and, as columns, its forward normal, its direction and its width axis."""
    a, b, c = plan.skull
    direction = vector(forward, math.cos(lean), side * math.sin(lean))
    direction /= np.linalg.norm(direction)
    across = np.cross(direction, [1.0, 0.0, 0.0])
    across /= np.linalg.norm(across)
    normal = np.cross(across, direction)
    normal *= np.sign(normal[0])
    upright = vector(-0.15 * a, 0.72 * b, side * 0.55 * c)
    sideways = vector(-0.2 * a, 0.55 * b, side * 0.8 * c)
    return sideways if lean > 0.9 else upright, np.column_stack([normal, direction, across])


def _tail(
    animal: Creature, kind: str, plan: Anatomy, hip: Float, girth: float, rng: np.random.Generator
) -> None:
    """A chain of capsules that ends in the keypoint of the tail tip."""
    side = rng.uniform(-0.35, 0.35)
    lift = rng.uniform(-12, 12)
    radius = plan.hip * girth
    steep = 0.55 if plan.tail[0] > 0 else 0.35
    start = hip + radius * vector(-math.cos(steep) * 0.92, math.sin(steep) * 0.92, 0)
    step = plan.tail_length / len(plan.tail)
    radii = np.linspace(*plan.tail_radii, len(plan.tail) + 1)
    material = "mane" if kind == "horse" else "pale" if kind in ("rabbit", "deer") else "coat"
    if kind == "horse":
        radii = np.array([0.06, 0.085, 0.08, 0.03])
    for i, angle in enumerate(plan.tail):
        radians = math.radians(angle + lift)
        run = vector(-math.cos(radians), math.sin(radians), side * (0.5 + 0.3 * i))
        end = start + step * run
        animal.capsule(start, end, float(radii[i]), float(radii[i + 1]), material)
        start = end
    tip = float(radii[-1])
    if kind in ("cow", "giraffe", "elephant"):
        tip = 0.06
        animal.ball(start - vector(0, 0.03, 0), (0.05, 0.09, 0.05), "mane")
    elif kind in ("cat", "dog"):
        animal.ball(start, 1.25 * tip, "sock")
    animal.keypoints["tail_tip"] = (start, 1.6 * tip)
