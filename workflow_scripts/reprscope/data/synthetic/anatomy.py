"""Proportions of the menagerie's kinds of animals."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """Proportions of one kind (lengths in animal units, angles in degrees).

    ``hip`` and ``chest`` are trunk radii, ``height`` the height of the trunk's axis, ``stance``
    half the distance between left and right legs, ``slope`` the rise of the trunk from hip to
    chest.
    """

    trunk: float
    hip: float
    chest: float
    height: float
    stance: float
    slope: float = 0.0
    leg: tuple[float, float] = (0.09, 0.06)
    paw: float = 0.08
    hoof: bool = False
    hock: float = 0.06
    neck: float = 0.2
    neck_angle: float = 45.0
    neck_radii: tuple[float, float] = (0.15, 0.12)
    skull: tuple[float, float, float] = (0.2, 0.19, 0.18)
    muzzle: float = 0.2
    muzzle_radii: tuple[float, float] = (0.11, 0.08)
    muzzle_angle: float = 20.0
    eye: float = 0.05
    tail: tuple[float, ...] = (60.0,)
    tail_length: float = 0.4
    tail_radii: tuple[float, float] = (0.05, 0.035)


ANATOMIES = {
    "bear": Anatomy(
        trunk=0.66, hip=0.34, chest=0.33, height=0.60, stance=0.19, leg=(0.17, 0.12), paw=0.125,
        hock=0.03, neck=0.16, neck_angle=22, neck_radii=(0.27, 0.22), skull=(0.24, 0.23, 0.25),
        muzzle=0.17, muzzle_radii=(0.13, 0.095), muzzle_angle=18, eye=0.042, tail=(-10.0,),
        tail_length=0.09, tail_radii=(0.07, 0.06),
    ),
    "cat": Anatomy(
        trunk=0.62, hip=0.17, chest=0.165, height=0.47, stance=0.095, leg=(0.075, 0.05),
        paw=0.065, hock=0.05, neck=0.12, neck_angle=50, neck_radii=(0.12, 0.11),
        skull=(0.19, 0.18, 0.21), muzzle=0.055, muzzle_radii=(0.10, 0.075), muzzle_angle=22,
        eye=0.056, tail=(35.0, 70.0, 100.0, 60.0), tail_length=0.78, tail_radii=(0.05, 0.04),
    ),
    "cow": Anatomy(
        trunk=0.88, hip=0.31, chest=0.33, height=0.76, stance=0.18, leg=(0.125, 0.075), paw=0.09,
        hoof=True, neck=0.22, neck_angle=24, neck_radii=(0.24, 0.17), skull=(0.20, 0.17, 0.18),
        muzzle=0.20, muzzle_radii=(0.135, 0.13), muzzle_angle=38, eye=0.045,
        tail=(-50.0, -82.0, -88.0), tail_length=0.62, tail_radii=(0.035, 0.025),
    ),
    "deer": Anatomy(
        trunk=0.68, hip=0.20, chest=0.205, height=0.86, stance=0.10, leg=(0.085, 0.036),
        paw=0.05, hoof=True, hock=0.08, neck=0.40, neck_angle=60, neck_radii=(0.14, 0.085),
        skull=(0.15, 0.125, 0.12), muzzle=0.19, muzzle_radii=(0.09, 0.058), muzzle_angle=24,
        eye=0.042, tail=(40.0,), tail_length=0.13, tail_radii=(0.055, 0.03),
    ),
    "dog": Anatomy(
        trunk=0.66, hip=0.18, chest=0.225, height=0.58, stance=0.12, leg=(0.095, 0.06),
        paw=0.08, hock=0.07, neck=0.22, neck_angle=52, neck_radii=(0.16, 0.13),
        skull=(0.19, 0.18, 0.185), muzzle=0.20, muzzle_radii=(0.115, 0.085), muzzle_angle=14,
        eye=0.048, tail=(35.0, 62.0, 80.0), tail_length=0.42, tail_radii=(0.055, 0.03),
    ),
    "elephant": Anatomy(
        trunk=0.74, hip=0.40, chest=0.39, height=0.82, stance=0.22, leg=(0.19, 0.14), paw=0.15,
        hock=0.0, neck=0.16, neck_angle=28, neck_radii=(0.30, 0.27), skull=(0.29, 0.31, 0.28),
        muzzle=0.16, muzzle_radii=(0.16, 0.13), muzzle_angle=55, eye=0.045,
        tail=(-55.0, -85.0), tail_length=0.42, tail_radii=(0.035, 0.022),
    ),
    "giraffe": Anatomy(
        trunk=0.52, hip=0.20, chest=0.235, height=1.02, stance=0.115, slope=0.12,
        leg=(0.095, 0.045), paw=0.06, hoof=True, hock=0.04, neck=0.98, neck_angle=66,
        neck_radii=(0.17, 0.075), skull=(0.135, 0.105, 0.105), muzzle=0.19,
        muzzle_radii=(0.085, 0.065), muzzle_angle=30, eye=0.042, tail=(-60.0, -85.0),
        tail_length=0.52, tail_radii=(0.03, 0.02),
    ),
    "horse": Anatomy(
        trunk=0.78, hip=0.255, chest=0.25, height=0.96, stance=0.14, leg=(0.12, 0.05), paw=0.07,
        hoof=True, hock=0.09, neck=0.52, neck_angle=52, neck_radii=(0.21, 0.125),
        skull=(0.17, 0.15, 0.125), muzzle=0.32, muzzle_radii=(0.115, 0.085), muzzle_angle=42,
        eye=0.042, tail=(-30.0, -65.0, -85.0), tail_length=0.72, tail_radii=(0.06, 0.03),
    ),
    "rabbit": Anatomy(
        trunk=0.30, hip=0.26, chest=0.19, height=0.33, stance=0.11, slope=-0.01,
        leg=(0.075, 0.06), paw=0.07, hock=0.0, neck=0.16, neck_angle=48, neck_radii=(0.16, 0.14),
        skull=(0.20, 0.185, 0.18), muzzle=0.085, muzzle_radii=(0.115, 0.085), muzzle_angle=25,
        eye=0.055, tail=(25.0,), tail_length=0.07, tail_radii=(0.095, 0.095),
    ),
    "sheep": Anatomy(
        trunk=0.58, hip=0.28, chest=0.28, height=0.64, stance=0.15, leg=(0.075, 0.052),
        paw=0.062, hoof=True, hock=0.03, neck=0.16, neck_angle=38, neck_radii=(0.20, 0.16),
        skull=(0.155, 0.15, 0.14), muzzle=0.17, muzzle_radii=(0.105, 0.075), muzzle_angle=38,
        eye=0.042, tail=(-35.0,), tail_length=0.14, tail_radii=(0.085, 0.07),
    ),
}  # fmt: skip
