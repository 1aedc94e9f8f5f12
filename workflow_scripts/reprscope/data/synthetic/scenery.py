"""Skies and grounds of the menagerie: smooth, low-frequency textures at output resolution."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Float32 = NDArray[np.float32]

#: Display colours (red, green, blue in [0, 1]) of each ground.
GROUNDS = {
    "grass": (0.30, 0.56, 0.17),
    "sand": (0.84, 0.70, 0.43),
    "snow": (0.90, 0.92, 0.96),
    "soil": (0.43, 0.28, 0.18),
}

#: Zenith and horizon colours.
SKIES = (
    ((0.25, 0.50, 0.90), (0.72, 0.86, 0.97)),
    ((0.45, 0.66, 0.92), (0.86, 0.91, 0.96)),
    ((0.52, 0.58, 0.68), (0.84, 0.86, 0.88)),
    ((0.30, 0.68, 0.76), (0.84, 0.95, 0.90)),
    ((0.56, 0.50, 0.80), (0.97, 0.84, 0.74)),
)


@dataclass(frozen=True)
class Shadow:
    """Soft dark patches on the ground, in ground coordinates of the camera (x right, z forward).

    Attributes
    ----------
    centres : (n, 2)
    inverse_axes : (n, 2, 2)
        Maps an offset from the centre to one where the darkness falls as ``exp(-|.|**2)``.
    strengths : (n,)
        Darkness at the centres, in [0, 1].
    """

    centres: Float
    inverse_axes: Float
    strengths: Float


def landscape(
    rng: np.random.Generator,
    *,
    ground: str,
    size: int,
    focal: float,
    centre: tuple[float, float],
    height: float,
    shadow: Shadow,
) -> tuple[Float32, Float32]:
    """Sky over a flat ground.

    Parameters
    ----------
    rng : numpy.random.Generator
        Chooses the sky and the textures.
    ground : str
        A key of `GROUNDS`.
    size : int
        Image side in px.
    focal : float
        Focal length in px.
    centre : (x, y)
        Principal point in px; its y is the horizon.
    height : float
        Height of the camera over the ground, in scene units.
    shadow : Shadow

    Returns
    -------
    colour : (size, size, 3) float32 in [0, 1]
    depth : (size, size) float32
        Depth of the ground along the optical axis in scene units, ``inf`` for the sky.
    """
    pixel = np.arange(size, dtype=np.float64) + 0.5
    zenith, haze = (np.array(c) for c in SKIES[rng.integers(len(SKIES))])
    haze = np.clip(haze + rng.uniform(-0.03, 0.03, 3), 0, 1)
    below = (pixel - centre[1]) / size  # rows below the horizon, in image heights
    blend = np.clip(-below / 0.75, 0, 1)[:, None] ** 0.8
    sky = (haze + (zenith - haze) * blend)[:, None, :].astype(np.float32)
    clouds = _noise(rng, pixel / size * 4, pixel / size * 3)
    cover = rng.uniform(-0.5, 0.4)
    clouds = np.clip((clouds + cover) * 1.6, 0, 1)[:, :, None] * np.float32(0.75)
    image = sky + clouds * (np.float32(0.97) - sky)

    colour = np.array(GROUNDS[ground]) * rng.uniform(0.88, 1.08) + rng.uniform(-0.025, 0.025, 3)
    hills = rng.random() < 0.5
    waves = rng.uniform([0.02, 0.01, 0.5, 2.0, 0, 0], [0.07, 0.035, 1.2, 3.5, 6.3, 6.3])
    if hills:
        across = 2 * np.pi * pixel / size
        ridge = waves[0] + waves[1] * (
            np.sin(across * waves[2] + waves[4]) + 0.5 * np.sin(across * waves[3] + waves[5])
        )
        covered = _coverage((below[:, None] + ridge[None, :]) * size)[:, :, None]
        hue = (0.45 * colour + 0.55 * (0.6 * haze + 0.4 * zenith) * 0.85).astype(np.float32)
        image += covered * (hue - image)

    rows = below > 0
    depth = np.full((size, size), np.inf, dtype=np.float32)
    start = size - int(rows.sum())
    if start < size:
        z = focal * height / (pixel[start:] - centre[1])
        depth[start:] = z[:, None]
    if _coverage(below[-1:] * size)[0] > 0:
        # One row more, for the pixels that the horizon crosses above their centre.
        first = max(start - 1, 0)
        along = np.sqrt(np.maximum(below[first:], 0)) * 7
        texture = _noise(rng, along, pixel / size * 4)[:, :, None]
        tint = np.array([0.10, 0.09, 0.06]) * rng.uniform(0.7, 1.3)
        soil = colour.astype(np.float32) + texture * tint.astype(np.float32)
        fade = np.exp(-np.maximum(below[first:], 0) / 0.05)[:, None, None] * 0.35
        soil += fade.astype(np.float32) * (haze.astype(np.float32) - soil)
        if start < size:
            dark = _darkness(shadow, (pixel - centre[0]) / focal, z)
            soil[start - first :] *= 1 - dark[:, :, None]
        covered = _coverage(below[first:] * size)[:, None, None]
        image[first:] += covered * (soil - image[first:])
    return np.clip(image, 0, 1, out=image), depth


def _coverage(rows: Float) -> Float32:
    """Share of a pixel below an edge that lies ``rows`` px above the pixel's centre."""
    return np.clip(rows + 0.5, 0, 1).astype(np.float32)


def _noise(rng: np.random.Generator, rows: Float, columns: Float) -> Float32:
    """Smooth noise of unit-spaced random values, by tensor-product cubic B-splines.

    Parameters
    ----------
    rng : numpy.random.Generator
    rows, columns : (h,), (w,)
        Non-negative coordinates in grid cells.

    Returns
    -------
    (h, w) float32, about in [-1, 1]
    """
    left, right = _spline(rows), _spline(columns)
    grid = rng.uniform(-1.6, 1.6, (24, 24))[: left.shape[1], : right.shape[1]]
    return (left @ grid @ right.T).astype(np.float32)


def _spline(coordinates: Float) -> Float:
    """Cubic B-spline weights of each coordinate: (n, cells + 4), rows sum to one."""
    cell = np.floor(coordinates).astype(int)
    t = coordinates - cell
    weights = np.zeros((len(coordinates), int(cell.max()) + 4))
    row = np.arange(len(coordinates))
    values = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    for offset, value in enumerate(values):
        weights[row, cell + offset] = value / 6
    return weights


def _darkness(shadow: Shadow, x: Float, z: Float) -> Float32:
    """Darkness in [0, 1] at the ground points ``(x[j] z[i], z[i])``."""
    depth = z.astype(np.float32)[:, None]
    lateral = x.astype(np.float32)[None, :] * depth
    light = np.ones(lateral.shape, dtype=np.float32)
    for (cx, cz), ((a, b), (c, d)), strength in zip(
        shadow.centres.tolist(), shadow.inverse_axes.tolist(), shadow.strengths.tolist(),
        strict=True,
    ):  # fmt: skip
        dx, dz = lateral - cx, depth - cz
        far = (a * dx + b * dz) ** 2 + (c * dx + d * dz) ** 2
        light *= 1 - np.float32(strength) * np.exp(-far)
    return 1 - light
