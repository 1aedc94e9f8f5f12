"""Ellipsoids and tapered capsules seen by a pinhole camera, by analytic ray intersection.

The camera sits at the origin of a right-handed frame (x right, y down, z forward).  A ray has
the direction ``(X, Y, 1)``, so that the ray parameter of a hit *is* its depth along the optical
axis.  An ellipsoid is one quadric; a tapered capsule (the convex hull of two spheres) is two
spheres and the part of a cone tangent to both.  For each of these pieces the first hit is

    t = (l(X, Y) - sqrt(h(X, Y))) / k(X, Y)

with ``h`` and ``k`` quadratic and ``l`` linear in the image coordinates.  The coefficients are
computed once per piece in float64 around the centre of its own image, which keeps the float32
evaluation over pixels free of cancellation; only the pixels inside the piece's exact image
bounds are evaluated.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Pieces:
    """Quadric pieces in camera coordinates (n of them).

    Attributes
    ----------
    discriminant, denominator : (n, 3, 3)
        Symmetric forms ``h`` and ``k`` on ``(X, Y, 1)``.
    linear : (n, 3)
        The form ``l`` on ``(X, Y, 1)``.
    axis : (n, 3)
        Capsule axis of a cone piece, zero for ellipsoids.
    start, extent : (n,)
        A hit at depth t counts on a cone piece if ``0 < start + t axis.(X, Y, 1) < extent``;
        ``extent`` is infinite for ellipsoids, whose hits all count.
    normal_matrix : (n, 3, 3)
    normal_offset : (n, 3)
        ``normal_matrix @ p + normal_offset`` is an outward normal (not unit) at surface point p.
    bounds : (n, 4)
        Exact image bounds ``X0, Y0, X1, Y1``.
    part : (n,)
        Index of the primitive a piece belongs to.
    """

    discriminant: Float
    denominator: Float
    linear: Float
    axis: Float
    start: Float
    extent: Float
    normal_matrix: Float
    normal_offset: Float
    bounds: Float
    part: NDArray[np.int64]


def ellipsoid_pieces(centres: Float, shapes: Float, part: NDArray[np.int64]) -> Pieces:
    """Pieces of ellipsoids.

    Parameters
    ----------
    centres : (n, 3)
        Centres in camera coordinates.
    shapes : (n, 3, 3)
        ``R diag(radii**2) R.T``: the set of points ``c + R diag(radii) s``, ``|s| <= 1``.
    part : (n,)
        Index of each ellipsoid's primitive.

    Notes
    -----
    The bounds are the tangent lines of the outline: the image of an ellipsoid has the dual conic
    ``shape - c c^T`` (Hartley and Zisserman, Multiple View Geometry, section 8.3).
    """
    inverse = np.asarray(np.linalg.inv(shapes), dtype=np.float64)
    linear = np.einsum("nij,nj->ni", inverse, centres)
    constant = np.einsum("ni,ni->n", linear, centres) - 1.0
    discriminant = linear[:, :, None] * linear[:, None, :] - constant[:, None, None] * inverse
    dual = shapes - centres[:, :, None] * centres[:, None, :]
    bounds = np.empty((len(centres), 4))
    for i in range(2):
        middle = dual[:, i, 2] / dual[:, 2, 2]
        half = np.sqrt(np.maximum(middle**2 - dual[:, i, i] / dual[:, 2, 2], 0.0))
        bounds[:, i], bounds[:, i + 2] = middle - half, middle + half
    count = len(centres)
    return Pieces(
        discriminant=discriminant,
        denominator=inverse,
        linear=linear,
        axis=np.zeros((count, 3)),
        start=np.ones(count),
        extent=np.full(count, np.inf),
        normal_matrix=inverse,
        normal_offset=-linear,
        bounds=bounds,
        part=part,
    )


def capsule_pieces(
    first: Float, second: Float, radii: Float, part: NDArray[np.int64]
) -> list[Pieces]:
    """Pieces of tapered capsules: their cones and their two end spheres.

    Parameters
    ----------
    first, second : (n, 3)
        Centres of the end spheres, farther apart than the difference of their radii.
    radii : (n, 2)
        Radii of the end spheres.
    part : (n,)
        Index of each capsule's primitive.

    Notes
    -----
    The cone is Inigo Quilez' rounded-cone intersection, with the camera at the origin and rays
    that are not unit vectors.
    """
    eye: Float = np.eye(3)
    spheres = [
        ellipsoid_pieces(centre, radius[:, None, None] ** 2 * eye, part)
        for centre, radius in ((first, radii[:, 0]), (second, radii[:, 1]))
    ]
    axis = second - first
    taper = radii[:, 0] - radii[:, 1]
    length2 = np.einsum("ni,ni->n", axis, axis)
    extent = length2 - taper**2
    along = -np.einsum("ni,ni->n", axis, first)
    start = along - radii[:, 0] * taper
    outer = axis[:, :, None] * axis[:, None, :]
    denominator = extent[:, None, None] * eye - outer
    linear = extent[:, None] * first + start[:, None] * axis
    constant = (
        extent * np.einsum("ni,ni->n", first, first)
        - along**2
        + 2.0 * along * taper * radii[:, 0]
        - length2 * radii[:, 0] ** 2
    )
    discriminant = linear[:, :, None] * linear[:, None, :] - constant[:, None, None] * denominator
    one, two = (sphere.bounds for sphere in spheres)
    cone = Pieces(
        discriminant=discriminant,
        denominator=denominator,
        linear=linear,
        axis=axis,
        start=start,
        extent=extent,
        normal_matrix=denominator,
        normal_offset=-linear,
        bounds=np.concatenate(
            [np.minimum(one[:, :2], two[:, :2]), np.maximum(one[:, 2:], two[:, 2:])], axis=1
        ),
        part=part,
    )
    return [cone, *spheres]


def join(pieces: list[Pieces]) -> Pieces:
    """Concatenate groups of pieces."""
    names = Pieces.__dataclass_fields__
    return Pieces(**{name: np.concatenate([getattr(p, name) for p in pieces]) for name in names})


def trace(pieces: Pieces, xs: Float, ys: Float) -> tuple[Float32, NDArray[np.int16]]:
    """First hit of the rays ``(xs[j], ys[i], 1)``.

    Parameters
    ----------
    pieces : Pieces
        All of them in front of the camera.
    xs : (w,)
    ys : (h,)
        Increasing image coordinates of the columns and rows.

    Returns
    -------
    depth : (h, w) float32
        Depth along the optical axis, ``inf`` where nothing is hit.
    piece : (h, w) int16
        Index of the piece hit, -1 where nothing is.
    """
    depth = np.full((len(ys), len(xs)), np.inf, dtype=np.float32)
    piece = np.full((len(ys), len(xs)), -1, dtype=np.int16)
    # The coefficients around the centre of each piece's own image.
    shift = np.tile(np.eye(3), (len(pieces.part), 1, 1))
    shift[:, 0, 2] = (pieces.bounds[:, 0] + pieces.bounds[:, 2]) / 2
    shift[:, 1, 2] = (pieces.bounds[:, 1] + pieces.bounds[:, 3]) / 2
    transposed = shift.transpose(0, 2, 1)
    h_forms = (transposed @ pieces.discriminant @ shift).tolist()
    k_forms = (transposed @ pieces.denominator @ shift).tolist()
    l_forms = np.einsum("nji,nj->ni", shift, pieces.linear).tolist()
    a_forms = np.einsum("nji,nj->ni", shift, pieces.axis).tolist()
    columns = np.searchsorted(xs, pieces.bounds[:, [0, 2]]).tolist()
    rows = np.searchsorted(ys, pieces.bounds[:, [1, 3]]).tolist()
    for index, (start, extent) in enumerate(
        zip(pieces.start.tolist(), pieces.extent.tolist(), strict=True)
    ):
        (row0, row1), (column0, column1) = rows[index], columns[index]
        if row0 == row1 or column0 == column1:
            continue
        window = np.s_[row0:row1, column0:column1]
        x = (xs[column0:column1] - shift[index, 0, 2]).astype(np.float32)[None, :]
        y = (ys[row0:row1] - shift[index, 1, 2]).astype(np.float32)[:, None]
        h = _quadratic(h_forms[index], x, y)
        hit = h > 0
        np.maximum(h, 0, out=h)
        np.sqrt(h, out=h)
        lx, ly, lc = l_forms[index]
        t = np.subtract(lx * x + (ly * y + lc), h, out=h)
        t /= _quadratic(k_forms[index], x, y)
        if extent < np.inf:
            ax, ay, ac = a_forms[index]
            position = (ax * x + (ay * y + ac)) * t
            position += start
            hit &= (position > 0) & (position < extent)
        hit &= t < depth[window]
        np.copyto(depth[window], t, where=hit)
        np.copyto(piece[window], np.int16(index), where=hit)
    return depth, piece


def _quadratic(form: list[list[float]], x: Float32, y: Float32) -> Float32:
    """Evaluate a symmetric form on ``(x, y, 1)`` over a grid of columns x and rows y."""
    (xx, xy, xc), (_, yy, yc), (_, _, cc) = form
    value: Float32 = (2 * xy * y) * x
    value += (xx * x + 2 * xc) * x
    value += (yy * y + 2 * yc) * y + cc
    return value


def normals(pieces: Pieces, piece: NDArray[np.int16], points: Float32) -> Float32:
    """Unit outward normals at surface points.

    Parameters
    ----------
    pieces : Pieces
    piece : (n,) int16
        Piece each point lies on.
    points : (n, 3) float32
        Points in camera coordinates.

    Returns
    -------
    (n, 3) float32
    """
    # Scaled first, since the forms of thin and of thick parts differ by orders of magnitude.
    scale = np.abs(pieces.normal_matrix).max(axis=(1, 2))
    matrix = (pieces.normal_matrix / scale[:, None, None]).astype(np.float32)
    offset = (pieces.normal_offset / scale[:, None]).astype(np.float32)
    x, y, z = points[:, 0], points[:, 1], points[:, 2]
    normal = np.empty_like(points)
    for i in range(3):
        row = matrix[:, i]
        component = row[:, 0][piece] * x
        component += row[:, 1][piece] * y
        component += row[:, 2][piece] * z
        component += offset[:, i][piece]
        normal[:, i] = component
    normal /= np.sqrt(np.einsum("ni,ni->n", normal, normal))[:, None]
    return normal
