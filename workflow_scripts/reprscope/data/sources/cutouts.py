"""The synthetic correspondence set of the thesis (figure 14): cut-outs on a grid of positions.

Each cut-out is pasted on white at every position of a grid, partly cut off at the borders, and
each picture is also mirrored.  Pairs are ordered, link pictures of equal mirroring, and carry the
keypoints that both show, so that errors can be counted by the position of source and target.

As in the thesis, the left edge of a cut-out at column k is ``k * size / grid + grid // 2 -
cutout // 2`` (rows alike), mirroring takes x to ``size - x``, and left and right keep their names
in a mirrored picture.  The thesis has four cut-outs, 128 px of 512 px, on a 16 x 16 grid: 2,048
pictures. The column ``scene`` names the cut-out: there are few, however many the pictures.

Cut-outs are renderings of the menagerie, or those of a folder: for each ``NAME.png`` with
transparent background a ``NAME.json`` with its keypoints, ``{"left_eye": [x, y], ...}``, in pixels
of the PNG.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reprscope.base.seeds import item_seed
from reprscope.data.canonical import (
    IMAGES_SCHEMA,
    KEYPOINTS_SCHEMA,
    OPTIONAL_SCHEMA,
    PAIRS_SCHEMA,
    Dataset,
    encode_png,
)
from reprscope.data.pictures import decode_picture
from reprscope.data.synthetic.creatures import KINDS
from reprscope.data.synthetic.scenes import render
from reprscope.runtime.errors import UserError

#: A table of pairs holds at most this many; four cut-outs as in the thesis make 2,095,104.
MOST_PAIRS = 3_000_000


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Settings of the synthetic correspondence set.

    Attributes
    ----------
    size, cutout : int
        Sides of a picture and of a cut-out in px.
    grid : int
        Positions along each axis; divides ``size``.
    kinds : int
        Number of the menagerie's kinds, 1 to 10, each with one cut-out.
    mirrored : bool
        Whether every picture is there mirrored, too.
    pairs : int
        Number of pairs, drawn from all of them without repetition. A task that compares all
        pictures needs no table of pairs: the keypoints' ``group`` is the mirroring.
    seed : int
        Seed of the renderings and of the drawn pairs.
    folder : str
        Folder of cut-outs to use in place of renderings; empty for none.
    """

    size: int = 512
    cutout: int = 128
    grid: int = 16
    kinds: int = 4
    mirrored: bool = True
    pairs: int = 10_000
    seed: int = 1
    folder: str = ""

    def __post_init__(self) -> None:
        for name in ("size", "cutout", "grid"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} of cutouts must be at least 1.")
        if self.size % self.grid:
            raise UserError(
                f"size of cutouts is {self.size}, which {self.grid} positions do not divide: set "
                "a grid that divides it."
            )
        if not 1 <= self.kinds <= len(KINDS):
            raise UserError(f"kinds of cutouts must be from 1 to {len(KINDS)}.")
        if self.seed < 0:
            raise UserError("seed of cutouts must not be negative.")
        if not 1 <= self.pairs <= MOST_PAIRS:
            raise UserError(f"pairs of cutouts must be from 1 to {MOST_PAIRS}.")

    @property
    def total(self) -> int | None:
        """Number of images."""
        if self.folder:
            return None
        return self.kinds * self.grid**2 * (1 + self.mirrored)


@dataclass(frozen=True, eq=False)
class Cutout:
    """A cut-out: its name, (side, side, 4) uint8 with straight alpha, and keypoints in its px."""

    name: str
    rgba: NDArray[np.uint8]
    keypoints: dict[str, tuple[float, float]]


def provides(parameters: Parameters) -> frozenset[str]:
    """Annotations beside the images."""
    return frozenset({"labels", "pairs", "keypoints"})


def files(parameters: Parameters) -> list[str]:
    """Pictures and keypoints of a user's cut-outs, sorted; none for rendered ones.

    Raises
    ------
    UserError
        If there is no such folder.
    """
    if not parameters.folder:
        return []
    folder = Path(parameters.folder)
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}: set `folder` to a folder of cut-outs.")
    return sorted(str(path) for path in folder.iterdir() if path.suffix in (".png", ".json"))


def build(parameters: Parameters, threads: int) -> Dataset:
    """Make the dataset; its pairs are all in the test split.

    Raises
    ------
    UserError
        If the folder's cut-outs cannot be used, or there are more or fewer pairs than can be
        listed.
    """
    if parameters.folder:
        cutouts = read_cutouts(Path(parameters.folder), parameters.cutout)
    else:
        cutouts = [_rendered(parameters, kind) for kind in range(parameters.kinds)]
    names = sorted({name for cutout in cutouts for name in cutout.keypoints})
    rows: list[tuple[object, ...]] = []
    boxes, points = [], []
    for cutout in cutouts:
        own = np.array([cutout.keypoints.get(n, (math.nan, math.nan)) for n in names], float)
        for row in range(parameters.grid):
            for column in range(parameters.grid):
                x, y = (_edge(parameters, k) for k in (column, row))
                picture = _paste(cutout.rgba, x, y, parameters.size)
                box = _box(cutout.rgba, x, y, parameters.size)
                shown = own + np.array([x, y])
                outside = ~((shown >= 0) & (shown < parameters.size)).all(axis=1)
                shown[outside] = math.nan
                for mirror in range(1 + parameters.mirrored):
                    if mirror:
                        picture = picture[:, ::-1]
                        box = (parameters.size - box[2], box[1], parameters.size - box[0], box[3])
                        shown = shown * (-1, 1) + (parameters.size, 0)
                    name = f"{cutout.name}-r{row:02d}-c{column:02d}" + "-mirrored" * mirror
                    data = encode_png(np.ascontiguousarray(picture))
                    size = (parameters.size, parameters.size)
                    rows.append((name, data, *size, cutout.name, None, "test", cutout.name))
                    boxes.append(box)
                    points.append(shown)
    images = pl.DataFrame(rows, schema={**IMAGES_SCHEMA, **OPTIONAL_SCHEMA}, orient="row")
    xy = np.array(points).reshape(len(images), len(names), 2)
    return Dataset(
        images=images,
        pairs=_pairs(parameters, images, names, xy, np.array(boxes, float)),
        keypoints=_keypoints(parameters, images, names, xy),
    )


def read_cutouts(folder: Path, side: int) -> list[Cutout]:
    """Cut-outs of a folder, each fitted into a square of ``side`` px, in the order of their names.

    Raises
    ------
    UserError
        If there are none, or a picture or its keypoints cannot be used.
    """
    from PIL import Image, ImageOps

    paths = sorted(folder.glob("*.png"))
    if not paths:
        raise UserError(f"{folder} has no cut-outs: set `folder` to a folder of PNG files.")
    found = []
    for path in paths:
        keypoints = _read_keypoints(path.with_suffix(".json"))
        try:
            picture = decode_picture(path.read_bytes(), str(path))
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error}): replace the file.") from error
        if picture.alpha is None:
            raise UserError(f"{path} has no transparent background: save it with an alpha channel.")
        rgba = Image.fromarray(np.dstack([picture.pixels, picture.alpha]))
        for name, (x, y) in keypoints.items():
            if not (0 <= x <= rgba.width and 0 <= y <= rgba.height):
                raise UserError(f"Keypoint {name} of {path} lies outside the picture: correct it.")
        fitted = ImageOps.pad(rgba.convert("RGBa"), (side, side)).convert("RGBA")
        if not np.asarray(fitted)[..., 3].any():
            raise UserError(f"{path} is transparent everywhere: replace the file.")
        scale = side / max(rgba.size)
        # The same rounding as in ImageOps.pad.
        shift = [round((side - round(length * scale)) * 0.5) for length in rgba.size]
        moved = {n: (x * scale + shift[0], y * scale + shift[1]) for n, (x, y) in keypoints.items()}
        found.append(Cutout(path.stem, np.asarray(fitted), moved))
    return found


def _read_keypoints(path: Path) -> dict[str, tuple[float, float]]:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): (float(x), float(y)) for name, (x, y) in content.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not a file of keypoints ({error}): write names with their pixels, such as "
            '{"nose": [12, 30]}.'
        ) from error


def _rendered(parameters: Parameters, kind: int) -> Cutout:
    """Cut-out of the first picture of a kind that shows the whole animal."""
    from PIL import Image

    index = kind
    scene = render(parameters.seed, index, size=2 * parameters.cutout)
    while scene.truncation > 0:
        index += len(KINDS)
        scene = render(parameters.seed, index, size=2 * parameters.cutout)
    x0, y0, x1, y1 = scene.box
    side = int(max(x1 - x0, y1 - y0))
    left, top = int(x0 - (side - (x1 - x0)) // 2), int(y0 - (side - (y1 - y0)) // 2)
    alpha = (scene.mask * 255).astype(np.uint8)[..., None]
    whole = Image.fromarray(np.concatenate([scene.image, alpha], axis=2))
    # Premultiplied, so that the background's colour does not bleed into the outline.
    cropped = whole.convert("RGBa").crop((left, top, left + side, top + side))
    small = cropped.resize((parameters.cutout, parameters.cutout), Image.Resampling.LANCZOS)
    scale = parameters.cutout / side
    keypoints = {
        name: ((point.x - left) * scale, (point.y - top) * scale)
        for name, point in scene.keypoints.items()
        if point.visible
    }
    return Cutout(scene.kind, np.asarray(small.convert("RGBA")), keypoints)


def _edge(parameters: Parameters, k: int) -> int:
    """Pixel of a cut-out's left or upper edge at position k."""
    step = parameters.size // parameters.grid
    return k * step + parameters.grid // 2 - parameters.cutout // 2


def _paste(rgba: NDArray[np.uint8], x: int, y: int, size: int) -> NDArray[np.uint8]:
    """Picture (size, size, 3) of a cut-out over white."""
    from PIL import Image

    canvas = Image.new("RGB", (size, size), "white")
    cut = Image.fromarray(rgba)
    canvas.paste(cut, (x, y), cut)
    return np.asarray(canvas)


def _box(rgba: NDArray[np.uint8], x: int, y: int, size: int) -> tuple[float, float, float, float]:
    """Tight box [x0, y0, x1, y1] of what the picture shows of a cut-out; no area if nothing."""
    side = len(rgba)
    seen = rgba[max(-y, 0) : max(min(side, size - y), 0), max(-x, 0) : max(min(side, size - x), 0)]
    rows, columns = (np.flatnonzero((seen[..., 3] > 0).any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return 0.0, 0.0, 0.0, 0.0
    left, top = float(max(x, 0)), float(max(y, 0))
    return left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1


def _keypoints(
    parameters: Parameters, images: pl.DataFrame, names: list[str], xy: NDArray[np.float64]
) -> pl.DataFrame:
    """Keypoints that a picture shows."""
    image, name = np.nonzero(np.isfinite(xy).all(axis=2))
    return pl.DataFrame(
        {
            "image_id": images["image_id"].gather(image),
            "keypoint": pl.Series(names).gather(name),
            "x": xy[image, name, 0],
            "y": xy[image, name, 1],
            "visible": np.ones(len(image), bool),
            # A picture is compared with those of its own mirroring.
            "group": image % (1 + parameters.mirrored),
        },
        schema=KEYPOINTS_SCHEMA,
    )


def _choose(
    parameters: Parameters, shown: NDArray[np.bool_]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows of source and target pictures, of as many pairs as are wanted."""
    step = 1 + parameters.mirrored
    chosen = []
    for mirror in range(step):
        of = np.arange(mirror, len(shown), step)
        seen = shown[of].astype(np.float32)
        common = seen @ seen.T > 0
        np.fill_diagonal(common, False)
        chosen.append(of[np.argwhere(common)])
    pairs = np.concatenate(chosen)
    if not len(pairs):
        raise UserError("No two cut-outs share a keypoint: use the same names in their files.")
    if parameters.pairs > len(pairs):
        raise UserError(
            f"The cut-outs make {len(pairs)} pairs, not {parameters.pairs}: set fewer `pairs`, or "
            "more cut-outs with keypoints of the same names."
        )
    rng = np.random.default_rng(item_seed("cutouts pairs", parameters.seed))
    drawn = pairs[np.sort(rng.choice(len(pairs), parameters.pairs, replace=False))]
    return drawn[:, 0], drawn[:, 1]


def _pairs(
    parameters: Parameters,
    images: pl.DataFrame,
    names: list[str],
    xy: NDArray[np.float64],
    boxes: NDArray[np.float64],
) -> pl.DataFrame:
    """The table of pairs, built by columns."""
    area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    shown = np.isfinite(xy).all(axis=2) & area[:, None]
    source, target = _choose(parameters, shown)
    pair, name = np.nonzero(shown[source] & shown[target])
    flat = pl.DataFrame({"pair": pair, "keypoints": pl.Series(names).gather(name)})
    for side, rows in (("source", source), ("target", target)):
        flat = flat.with_columns(pl.Series(f"{side}_xy", xy[rows[pair], name]).cast(LIST))
    lists = flat.group_by("pair", maintain_order=True).agg(pl.exclude("pair"))
    ids = images["image_id"]
    zeros = pl.lit(0, pl.Int32)
    frame = lists.with_columns(
        source_id=ids.gather(source),
        target_id=ids.gather(target),
        category=images["label"].gather(source),
        source_box=pl.Series(boxes[source]).cast(LIST),
        target_box=pl.Series(boxes[target]).cast(LIST),
        split=pl.lit("test"),
        viewpoint_variation=zeros,
        scale_variation=zeros,
        truncation=zeros,
        occlusion=zeros,
        mirror=zeros,
    ).with_columns(pair_id=pl.concat_str("source_id", "target_id", separator="-to-"))
    return frame.select(list(PAIRS_SCHEMA)).cast(PAIRS_SCHEMA)  # type: ignore[arg-type]


#: An [x, y] or a box.
LIST = pl.List(pl.Float64)
