"""Contact sheets of the menagerie: the pictures above, their annotations below."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from reprscope.data.synthetic.scenes import Scene

#: Left, right and middle keypoints.
DOTS = {"left": (64, 200, 255), "right": (255, 96, 96), "middle": (255, 220, 64)}
BOX = (120, 120, 255)


def contact_sheet(scenes: Sequence[Scene], *, columns: int = 10, gap: int = 2) -> NDArray[np.uint8]:
    """Tile scenes, then their depth maps with boxes and visible keypoints.

    Parameters
    ----------
    scenes : sequence of Scene
        All of one size.
    columns : int
    gap : int
        White px between tiles.

    Returns
    -------
    (height, width, 3) uint8
        Depth is brighter when nearer, scaled per image, and black where infinite; keypoints of
        the animal's left side are blue, right red and in the middle yellow.
    """
    tiles = [scene.image for scene in scenes] + [_annotated(scene) for scene in scenes]
    size = scenes[0].image.shape[0]
    rows = -(-len(scenes) // columns)
    sheet = np.full(
        (2 * rows * (size + gap) - gap, columns * (size + gap) - gap, 3), 255, dtype=np.uint8
    )
    for position, tile in enumerate(tiles):
        block, inner = divmod(position, len(scenes))
        row, column = divmod(inner, columns)
        top, left = (block * rows + row) * (size + gap), column * (size + gap)
        sheet[top : top + size, left : left + size] = tile
    return sheet


def _annotated(scene: Scene) -> NDArray[np.uint8]:
    """Depth map with box and keypoints."""
    nearness = np.where(np.isfinite(scene.depth), 1 / scene.depth, 0.0)
    gray = np.sqrt(nearness / nearness.max()) * 255
    picture = Image.fromarray(gray.astype(np.uint8)).convert("RGB")
    draw = ImageDraw.Draw(picture)
    x0, y0, x1, y1 = scene.box
    draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline=BOX)
    radius = max(scene.image.shape[0] / 64, 1.0)
    for name, point in scene.keypoints.items():
        if point.visible:
            side = name.split("_")[0]
            colour = DOTS.get(side, DOTS["middle"])
            box = (point.x - radius, point.y - radius, point.x + radius, point.y + radius)
            draw.ellipse(box, fill=colour, outline=(0, 0, 0))
    return np.asarray(picture)
