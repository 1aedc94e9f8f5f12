"""Pictures of the menagerie's animals with exact depth, masks, boxes and keypoints.

One unit of length is roughly the length of a horse's trunk.  The camera is a pinhole whose
optical axis is horizontal; its principal point lies anywhere (a shifted lens), so that an animal
anywhere in the picture is seen without distortion and the horizon is the row of the principal
point.  Camera frame: x right, y down, z forward; a pixel centre ``(u, v)`` at depth ``z`` is the
point ``((u - cx) z / f, (v - cy) z / f, z)``.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from reprscope.data.synthetic.coats import COLOURS, PATTERNS, Markings, draw_markings, palette
from reprscope.data.synthetic.creatures import KINDS, grow
from reprscope.data.synthetic.parts import Creature
from reprscope.data.synthetic.quadrics import (
    Pieces,
    capsule_pieces,
    ellipsoid_pieces,
    join,
    normals,
    trace,
)
from reprscope.data.synthetic.scenery import GROUNDS, Shadow, landscape

Float = NDArray[np.float64]
Float32 = NDArray[np.float32]

#: Share of pictures on plain white.
WHITE = 0.2

#: Focal length in image sides.
FOCAL = 1.8


@dataclass(frozen=True)
class Camera:
    """Pinhole: focal length and principal point in px, height over the ground in units."""

    focal: float
    centre_x: float
    centre_y: float
    height: float


@dataclass(frozen=True)
class Keypoint:
    """A named point of the animal: px, depth along the optical axis, and visibility by depth."""

    x: float
    y: float
    depth: float
    visible: bool


@dataclass(frozen=True, eq=False)
class Scene:
    """One rendered picture and everything known about it.

    Attributes
    ----------
    image : (size, size, 3) uint8
    depth : (size, size) float32
        Depth along the optical axis at pixel centres, in scene units; ``inf`` for the sky and
        for plain white.
    mask : (size, size) bool
        Pixels whose centre sees the animal.
    box : (x0, y0, x1, y1)
        Tight box of the mask in px; pixel i covers [i, i + 1).
    kind, colour, pattern, ground : str
        ``ground`` is a ground of the scenery or "white".
    caption : str
    keypoints : dict of name -> Keypoint
        Left and right are the animal's own.
    yaw : float
        Heading in degrees, in [-180, 180): 0 faces the right of the picture, 90 away from the
        camera, -90 the camera and -180 the left.
    mirrored : bool
        Whether the scene was mirrored, so that the animal faces the left half.
    scale : float
        Longer side of the whole animal's box over the image side, parts outside included.
    truncation : float
        Share of the whole animal's box outside the picture, in [0, 1).
    camera : Camera
    """

    image: NDArray[np.uint8]
    depth: Float32
    mask: NDArray[np.bool_]
    box: tuple[float, float, float, float]
    kind: str
    colour: str
    pattern: str
    ground: str
    caption: str
    keypoints: dict[str, Keypoint]
    yaw: float
    mirrored: bool
    scale: float
    truncation: float
    camera: Camera


@dataclass(frozen=True)
class _Placed:
    """An animal in camera coordinates: ``rotation @ point + origin``."""

    rotation: Float
    origin: Float
    pieces: Pieces
    colours: Float32
    coat: NDArray[np.bool_]
    shine: Float32


def render(seed: int, index: int, *, size: int = 128, supersample: int = 2) -> Scene:
    """Render one picture; it depends on its arguments alone.

    Parameters
    ----------
    seed, index : int
        Non-negative; they seed the picture's random generator.  The kind is
        ``KINDS[index % len(KINDS)]``.
    size : int
        Image side in px.  The same scene is rendered at every size.
    supersample : int
        Rays per pixel side for the colours; depth and mask use the ray through the pixel centre.

    Returns
    -------
    Scene
    """
    rng = np.random.default_rng([seed, index])
    kind = KINDS[index % len(KINDS)]
    yaw = float(np.radians(rng.uniform(-68, 55)))
    mirrored = bool(rng.random() < 0.5)
    target = rng.uniform(0.48, 0.92)
    elevation = rng.uniform(0.05, 0.27)
    place = rng.random(2)
    overhang = 0.15 * float(rng.random() < 0.15)
    white = bool(rng.random() < WHITE)
    ground = str(rng.choice(list(GROUNDS)))
    colour = str(rng.choice(list(COLOURS)))
    pattern = str(rng.choice(PATTERNS, p=(0.34, 0.24, 0.24, 0.18)))
    animal = grow(kind, rng)
    rotation = _heading(yaw)
    origin = _stand(animal, rotation, elevation, target)
    materials = palette(kind, colour, rng)
    placed = _place(animal, rotation, origin, materials)

    focal = FOCAL * size
    outline = placed.pieces.bounds
    low, high = outline[:, :2].min(axis=0) * focal, outline[:, 2:].max(axis=0) * focal
    extent = high - low
    margin = extent * overhang - 0.015 * size
    corner = -margin + place * (size - extent + 2 * margin)
    centre_x, centre_y = (corner - low).tolist()
    camera = Camera(focal, centre_x, centre_y, float(origin[1]))

    light = _light(rng)
    markings = draw_markings(animal, pattern, rng)
    if white:
        background = np.ones((size, size, 3), dtype=np.float32)
        depth = np.full((size, size), np.inf, dtype=np.float32)
    else:
        background, depth = landscape(
            rng,
            ground=ground,
            size=size,
            focal=focal,
            centre=(centre_x, centre_y),
            height=camera.height,
            shadow=_shadow(animal, rotation, origin, light),
        )

    # Only the pixels of the animal's box are traced.
    first = np.clip(np.floor(corner), 0, size).astype(int)
    last = np.clip(np.ceil(corner + extent), 0, size).astype(int)
    window = np.s_[first[1] : last[1], first[0] : last[0]]

    def rays(per_pixel: int) -> tuple[Float, Float]:
        xs, ys = (
            first[i] + (np.arange((last[i] - first[i]) * per_pixel) + 0.5) / per_pixel
            for i in range(2)
        )
        return (xs - centre_x) / focal, (ys - centre_y) / focal

    nearest, _ = trace(placed.pieces, *rays(1))
    mask = np.zeros((size, size), dtype=bool)
    mask[window] = np.isfinite(nearest)
    np.copyto(depth[window], nearest, where=mask[window])
    painted, alpha = _paint(placed, *rays(supersample), light, markings, materials, supersample)
    background[window] *= 1 - alpha[:, :, None]
    background[window] += painted
    image = (background * 255 + 0.5).astype(np.uint8)

    keypoints = _locate(animal, rotation, origin, camera, depth, mask)
    heading = float(np.degrees(yaw))
    if mirrored:
        # The mirror image of an animal shows its left side where its right side was.
        image, depth, mask = (np.ascontiguousarray(a[:, ::-1]) for a in (image, depth, mask))
        keypoints = {
            name: replace(keypoints[_other_side(name)], x=size - keypoints[_other_side(name)].x)
            for name in keypoints
        }
        heading = (360 - heading) % 360 - 180
        camera = replace(camera, centre_x=size - centre_x)
    inside = np.minimum(corner + extent, size) - np.maximum(corner, 0)
    ground = "white" if white else ground
    return Scene(
        image=image,
        depth=depth,
        mask=mask,
        box=_tight_box(mask),
        kind=kind,
        colour=colour,
        pattern=pattern,
        ground=ground,
        caption=_caption(kind, colour, pattern, ground),
        keypoints=keypoints,
        yaw=heading,
        mirrored=mirrored,
        scale=float(extent.max() / size),
        truncation=float(max(0.0, 1 - np.prod(inside) / np.prod(extent))),
        camera=camera,
    )


def _locate(
    animal: Creature,
    rotation: Float,
    origin: Float,
    camera: Camera,
    depth: Float32,
    mask: NDArray[np.bool_],
) -> dict[str, Keypoint]:
    """Project the keypoints and compare their depths with the depth map."""
    size = len(mask)
    keypoints = {}
    for name, (point, reach) in animal.keypoints.items():
        x, y, z = (rotation @ point + origin).tolist()
        u, v = camera.centre_x + camera.focal * x / z, camera.centre_y + camera.focal * y / z
        visible = False
        if 0 <= u < size and 0 <= v < size:
            pixel = int(v), int(u)
            visible = bool(mask[pixel]) and abs(float(depth[pixel]) - z) <= reach
        keypoints[name] = Keypoint(u, v, z, visible)
    return keypoints


def _tight_box(mask: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """Box around the mask's pixels; pixel i covers [i, i + 1)."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _other_side(name: str) -> str:
    """The keypoint's counterpart on the other side of the animal."""
    if name.startswith("left_"):
        return "right_" + name.removeprefix("left_")
    if name.startswith("right_"):
        return "left_" + name.removeprefix("right_")
    return name


def _caption(kind: str, colour: str, pattern: str, ground: str) -> str:
    words = ([] if pattern == "plain" else [pattern]) + [colour, kind]
    article = "an" if words[0][0] in "aeiou" else "a"
    return " ".join([article, *words, "on", ground])


def _heading(yaw: float) -> Float:
    """Rotation from the animal's frame (forward, up, right) to the camera's."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, 0.0, s], [0.0, -1.0, 0.0], [s, 0.0, -c]])


def _stand(animal: Creature, rotation: Float, elevation: float, target: float) -> Float:
    """Camera coordinates of the animal's origin, so that its box has the wanted longer side.

    ``elevation`` is the camera's height over its distance, ``target`` in image sides.
    """
    centres = np.array(
        [c for c, _, _ in animal.ellipsoids] + [e for a, b, *_ in animal.capsules for e in (a, b)]
    )
    # Half extents along the camera's axes.
    reach = np.array(
        [np.linalg.norm(rotation @ axes, axis=1) for _, axes, _ in animal.ellipsoids]
        + [np.full(3, r) for _, _, *radii, _ in animal.capsules for r in radii]
    )
    points = centres @ rotation.T
    distance = 5.0
    for _ in range(3):
        z = points[:, 2] + distance
        spans = []
        for i, offset in ((0, 0.0), (1, elevation * distance)):
            low, high = points[:, i] + offset - reach[:, i], points[:, i] + offset + reach[:, i]
            spans.append((high / z).max() - (low / z).min())
        distance *= FOCAL * max(spans) / target
    return np.array([0.0, elevation * distance, distance])


def _place(
    animal: Creature, rotation: Float, origin: Float, materials: dict[str, Float]
) -> _Placed:
    """Pieces, colours and materials of an animal in camera coordinates."""
    count = len(animal.ellipsoids)
    centres = np.array([c for c, _, _ in animal.ellipsoids]) @ rotation.T + origin
    axes = rotation @ np.array([a for _, a, _ in animal.ellipsoids])
    first = np.array([a for a, *_ in animal.capsules]) @ rotation.T + origin
    second = np.array([b for _, b, *_ in animal.capsules]) @ rotation.T + origin
    radii = np.array([[r, s] for _, _, r, s, _ in animal.capsules])
    pieces = join(
        [
            ellipsoid_pieces(centres, axes @ axes.transpose(0, 2, 1), np.arange(count)),
            *capsule_pieces(first, second, radii, count + np.arange(len(first))),
        ]
    )
    names = [m for *_, m in animal.ellipsoids] + [m for *_, m in animal.capsules]
    parts = [names[i] for i in pieces.part]
    return _Placed(
        rotation=rotation,
        origin=origin,
        pieces=pieces,
        colours=np.array([materials[m] for m in parts], dtype=np.float32),
        coat=np.array([m == "coat" for m in parts]),
        shine=np.array(
            [{"nose": 0.6, "pupil": 0.25, "horn": 0.15, "dark": 0.1}.get(m, 0.03) for m in parts],
            dtype=np.float32,
        ),
    )


def _light(rng: np.random.Generator) -> Float:
    """Unit vector towards a light above, on the camera's side of the animal."""
    azimuth, height = np.radians(rng.uniform([-160, 30], [-20, 65]))
    return np.array(
        [np.cos(azimuth) * np.cos(height), -np.sin(height), np.sin(azimuth) * np.cos(height)]
    )


def _shadow(animal: Creature, rotation: Float, origin: Float, light: Float) -> Shadow:
    """A patch under the trunk, pushed away from the light, and one under each paw."""
    paws = np.array([p for name, (p, _) in animal.keypoints.items() if name.endswith("_paw")])
    flat = rotation[np.ix_([0, 2], [0, 2])]
    back = animal.keypoints["back"][0]
    middle = flat @ np.array([paws[:, 0].mean(), 0.0]) + origin[[0, 2]]
    middle = middle - 0.3 * back[1] * light[[0, 2]] / max(-light[1], 0.5)
    reach = np.abs(paws - paws.mean(axis=0)).max(axis=0)
    trunk = np.diag([1 / (reach[0] + 0.28), 1 / (reach[2] + 0.2)]) @ flat.T
    contact = np.diag([1 / 0.15, 1 / 0.12]) @ flat.T
    return Shadow(
        centres=np.vstack([middle, paws[:, [0, 2]] @ flat.T + origin[[0, 2]]]),
        inverse_axes=np.stack([trunk, *[contact] * len(paws)]),
        strengths=np.array([0.5] + [0.4] * len(paws)),
    )


def _paint(
    placed: _Placed,
    xs: Float,
    ys: Float,
    light: Float,
    markings: Markings,
    materials: dict[str, Float],
    supersample: int,
) -> tuple[Float32, Float32]:
    """Colour times coverage (h, w, 3) and coverage (h, w) of the animal in its window."""
    depth, piece = trace(placed.pieces, xs, ys)
    hit = piece >= 0
    rows, columns = np.nonzero(hit)
    piece, z = piece[hit], depth[hit]
    x, y = xs.astype(np.float32)[columns], ys.astype(np.float32)[rows]
    points = np.stack([x * z, y * z, z], axis=1)
    normal = normals(placed.pieces, piece, points)

    colour = placed.colours[piece]
    coat = placed.coat[piece]
    own = (points - placed.origin.astype(np.float32)) @ placed.rotation.astype(np.float32)
    up = -normal[:, 1]
    if markings.pattern != "plain":
        marked = coat.copy()
        marked[coat] = markings.at(own[coat])
        colour[marked] = materials["mark"].astype(np.float32)
    # Counter-shading: the underside of a coat is paler.
    under = np.clip(-up - 0.25, 0, 0.6) * coat
    colour += under[:, None] * (materials["pale"].astype(np.float32) - colour)

    toward = light.astype(np.float32)
    facing = normal @ toward
    length = np.sqrt(x * x + y * y + 1)
    view = -(normal[:, 0] * x + normal[:, 1] * y + normal[:, 2]) / length
    diffuse = np.clip((facing + 0.25) / 1.25, 0, 1)
    shade = 0.50 + 0.14 * up + 0.50 * diffuse
    # Outlines and the parts near the ground get less light.
    shade *= 0.66 + 0.34 * np.sqrt(np.clip(view * 1.6, 0, 1))
    shade *= 0.80 + 0.20 * np.clip(own[:, 1] / 0.35, 0, 1)
    colour *= shade[:, None]
    # Blinn-Phong highlight with the half vector of light and view.
    half = np.stack([toward[0] - x / length, toward[1] - y / length, toward[2] - 1 / length], 1)
    half /= np.sqrt(np.einsum("ni,ni->n", half, half))[:, None]
    gloss = np.clip(np.einsum("ni,ni->n", normal, half), 0, 1) ** 24
    colour += (gloss * placed.shine[piece])[:, None]
    np.clip(colour, 0, 1, out=colour)

    full = np.zeros((*hit.shape, 3), dtype=np.float32)
    full[hit] = colour
    blocks = (len(ys) // supersample, supersample, len(xs) // supersample, supersample)
    painted: Float32 = full.reshape(*blocks, 3).mean(axis=(1, 3))
    alpha = hit.reshape(blocks).mean(axis=(1, 3), dtype=np.float32)
    return painted, alpha
