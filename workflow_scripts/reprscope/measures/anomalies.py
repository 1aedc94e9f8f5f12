"""Tokens whose norm stands out from their map: found by a robust rule or labelled by hand.

Thesis, section "high-norm anomalies", and the second part of the paper. In SD-1.5, SD-2.1 and
SD-Turbo the anomalies arise in the layers of ``up[1]``, which have 16 x 16 tokens at 512 px; the
block's upsampler doubles each to 2 x 2 tokens, as which they were labelled by hand. So they are
looked for before the upsampler, or with ``pool: 2`` behind it.

A patch is one token of the grid on which it was found. On the grid of another layer it covers the
same area of the image: token i of n covers [i / n, (i + 1) / n), and what a patch covers in part
counts in part.

The rule is not calibrated. On maps with planted anomalies of the published norms it finds 77 % of
them for SD-1.5, 58 % for SD-2.1 and 94 % for SD-Turbo, and an object of 3 x 3 tokens of 1.9 times
the norm in an even map is always called one. So the share of anomalous tokens is a curve over
thresholds (:func:`standing_out`) beside that of tokens as far below the median, and does not
compare between models; where a file of labels is given, the rule's agreement with it is measured
(:func:`agreement`).

Labels are not portable. Two sets by one author for the same model, seed and images have 46 of 141
patches in common; a file of labels therefore names the representations that it was made on, and is
refused on others.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from reprscope.base.parameters import check_whole
from reprscope.measures.statistics import Interval, mean, ratio
from reprscope.models.positions import spell
from reprscope.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from reprscope.representations.store import Representations

    Float = NDArray[np.float64]

PATCHES: Final = {
    "image_id": pl.String,
    "row": pl.Int32,
    "col": pl.Int32,
    "height": pl.Int32,
    "width": pl.Int32,
    "score": pl.Float64,
}
"""Columns of a frame of patches: place on a grid of ``height`` x ``width`` tokens, and score."""

LABELS: Final = ("image_id", "x", "y", "grid", "provenance")
"""Columns of a file of labels; ``grid`` is width x height, such as ``16x16``."""

OUTCOMES: Final = ("true_positives", "false_positives", "false_negatives", "true_negatives")
"""What a token is, by whether it is found and whether it is an anomaly."""

AGREEMENT: Final = ("precision", "recall", "IoU", "kappa")

_GAUSSIAN: Final = 1.4826
"""Standard deviation of a normal distribution in units of its median absolute deviation."""


@dataclass(frozen=True, kw_only=True)
class Detection:
    """Which tokens are anomalous; the settings of a task that needs them begin with these.

    Attributes
    ----------
    detect
        Position whose norms decide, which must be in the hook set.
    pool
        Side of the squares of tokens whose mean norm decides: 2 behind an upsampler that doubles.
    threshold
        Smallest score of an anomaly, see :func:`scores`.
    ratio
        Smallest norm of an anomaly in units of its map's median norm.
    labels
        File of labels (Parquet or CSV with the columns :data:`LABELS`) in place of detection.
    """

    detect: str | None = "up_blocks.1.resnets.2"
    pool: int = 1
    threshold: float = 6.0
    ratio: float = 1.5
    labels: str | None = None

    def __post_init__(self) -> None:
        check_whole(self, "pool")
        for name in ("threshold", "ratio"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or value <= 0:
                raise UserError(f"{name} is {value!r}; write a positive number.")

    @property
    def files(self) -> list[str]:
        """Local files that these settings name."""
        return [] if self.labels is None else [self.labels]


def scores(norms: NDArray[Any]) -> Float:
    """How far the norm of each token lies above those of its map.

    The logarithm of the norm, less the map's median, in robust standard deviations (1.4826 times
    the median absolute deviation): neither is moved by the anomalies themselves, as long as they
    are fewer than half of the tokens. In logarithms, because norms are positive and skewed.

    Parameters
    ----------
    norms
        (h, w), not negative.

    Returns
    -------
    (h, w); 0 at the median. Where more than half of the norms are equal, all others are far away.
    """
    tiny = np.finfo(np.float64).tiny
    logs = np.log(np.maximum(np.asarray(norms, dtype=np.float64), tiny))
    centred = logs - np.median(logs)
    spread = _GAUSSIAN * np.median(np.abs(centred))
    # Differences below the rounding of float32 features are none.
    result: Float = centred / max(spread, float(np.finfo(np.float32).eps))
    return result


def anomalous(norms: NDArray[Any], *, threshold: float, ratio: float) -> NDArray[np.bool_]:
    """Which tokens of one map are anomalies.

    A token is one if its score reaches ``threshold`` and its norm ``ratio`` times the median. The
    first alone finds differences of a few percent in an even map, the second alone a bright object
    in an uneven one. On Gaussian features the defaults find less than one token in 10,000 maps.

    Parameters
    ----------
    norms
        (h, w), not negative.
    threshold
        Smallest score, see :func:`scores`.
    ratio
        Smallest norm in units of the median.

    Returns
    -------
    (h, w) bool.
    """
    high = norms >= ratio * np.median(norms)
    return np.asarray(high & (norms > 0) & (scores(norms) >= threshold))


def standing_out(
    norms: NDArray[Any], thresholds: Sequence[float], *, ratio: float
) -> NDArray[np.int64]:
    """Numbers of tokens of one map that stand out upwards and downwards, over thresholds.

    Downwards counts what the rule would find in the map of the inverse norms. Where logarithms of
    norms scatter alike about their median in both directions, as those of noise do, either is as
    likely to be the larger.

    Parameters
    ----------
    norms
        (h, w), not negative.
    thresholds, ratio
        As for :func:`anomalous`.

    Returns
    -------
    (2, thresholds): above and below.
    """
    size, score = norms / np.median(norms) if np.median(norms) > 0 else norms * 0, scores(norms)
    levels = np.asarray(thresholds, dtype=np.float64)[:, None, None]
    above = (size >= ratio) & (norms > 0) & (score >= levels)
    below = (size <= 1 / ratio) & (norms > 0) & (score <= -levels)
    return np.asarray(np.stack([above, below]).sum(axis=(2, 3)), dtype=np.int64)


def outcomes(found: NDArray[np.bool_], actual: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Number of tokens of each of :data:`OUTCOMES`: (4, ...) of (..., h, w) found and (h, w)."""
    parts = (found & actual, found & ~actual, ~found & actual, ~found & ~actual)
    return np.asarray(np.stack([part.sum(axis=(-2, -1)) for part in parts]), dtype=np.int64)


def shares(numerator: NDArray[Any], denominator: NDArray[Any]) -> Interval:
    """Shares of two sums over images, column by column, over the images that have a part in them.

    Parameters
    ----------
    numerator, denominator
        (images, columns); images whose denominator is 0 say nothing of a column.

    Returns
    -------
    Interval of (columns,), NaN where no image has a part.
    """
    columns = []
    for top, bottom in zip(np.asarray(numerator).T, np.asarray(denominator).T, strict=True):
        used = bottom > 0
        none = Interval(*np.full((3, 1), np.nan))
        columns.append(ratio(top[used, None], bottom[used]).share() if used.any() else none)
    return Interval(*(np.concatenate(bounds) for bounds in zip(*columns, strict=True)))


def agreement(counts: NDArray[Any]) -> Interval:
    """Precision, recall, IoU and Cohen's kappa of found and actual anomalies, over images.

    Parameters
    ----------
    counts
        (images, 4) tokens of each of :data:`OUTCOMES`.

    Returns
    -------
    Interval of (4,), see :data:`AGREEMENT`. Kappa's is a t interval by the delta method.
    """
    values = np.asarray(counts, dtype=np.float64)
    hit, wrong, missed, _ = values.T
    found = shares(
        np.stack([hit, hit, hit], axis=1),
        np.stack([hit + wrong, hit + missed, hit + wrong + missed], axis=1),
    )
    a, b, c, d = values.sum(axis=0)
    expected = (a + b) * (b + d) + (a + c) * (c + d)
    if expected == 0:
        kappa = Interval(*np.full((3, 1), np.nan))
    else:
        value = 2 * (a * d - b * c) / expected
        slope = np.array(
            [b + c + 2 * d, a + 2 * b + d, a + 2 * c + d, 2 * a + b + c]
        )  # of expected, by each count
        slope = (2 * np.array([d, -c, -b, a]) - value * slope) / expected
        # Kappa does not change where all counts double, so that these sum to 0.
        residual = mean(len(values) * (values @ slope)[:, None])
        kappa = residual._replace(value=np.array([value])).interval()
    return Interval(*(np.concatenate(both) for both in zip(found, kappa, strict=True)))


def norm_map(tokens: NDArray[Any]) -> Float:
    """L2 norm of each token: (h, w) of (h, w, channels)."""
    values = np.asarray(tokens, dtype=np.float64)
    return np.asarray(np.sqrt(np.einsum("hwc,hwc->hw", values, values)))


def pooled(norms: Float, side: int) -> Float:
    """Mean over squares of ``side`` x ``side`` tokens: (h / side, w / side) of (h, w).

    Raises
    ------
    UserError
        If the sides of the map are not multiples of ``side``.
    """
    height, width = norms.shape
    if height % side or width % side:
        raise UserError(
            f"A map of {width} x {height} tokens cannot be pooled by {side}: set `pool: 1` and "
            "`detect` to a layer before the upsampler."
        )
    return np.asarray(norms.reshape(height // side, side, width // side, side).mean(axis=(1, 3)))


def find(
    representations: Representations,
    detection: Detection,
    images: Iterable[str],
    *,
    kind: str,
) -> pl.DataFrame:
    """Anomalous patches of some images, detected or read from the file of labels.

    Parameters
    ----------
    representations
        Features, at the position that decides among others.
    detection
        How patches are found.
    images
        Images to search.
    kind
        Name of the task, for the messages.

    Returns
    -------
    One row for each patch, with the columns of :data:`PATCHES`, images in the given order, row by
    row; ``score`` is null for labels.

    Raises
    ------
    UserError
        If the position is not in the hook set, a map cannot be pooled, or the labels cannot be
        used.
    """
    wanted = list(images)
    if detection.labels is not None:
        return read_labels(Path(detection.labels), representations, wanted)
    columns: dict[str, list[Any]] = {name: [] for name in PATCHES}
    for image, norms in maps(representations, detection, wanted, kind=kind):
        found = anomalous(norms, threshold=detection.threshold, ratio=detection.ratio)
        row, col = np.nonzero(found)
        columns["image_id"] += [image] * len(row)
        columns["row"] += row.tolist()
        columns["col"] += col.tolist()
        columns["height"] += [norms.shape[0]] * len(row)
        columns["width"] += [norms.shape[1]] * len(row)
        columns["score"] += scores(norms)[found].tolist()
    return pl.DataFrame(columns, schema=PATCHES)


def maps(
    representations: Representations, detection: Detection, images: Iterable[str], *, kind: str
) -> Iterable[tuple[str, Float]]:
    """Image and pooled norm map at the position that decides, for each image."""
    position = deciding(representations, detection, kind=kind)
    for image in images:
        yield image, pooled(norm_map(representations.tokens(position, image)), detection.pool)


def deciding(representations: Representations, detection: Detection, *, kind: str) -> str:
    """Position whose norms decide.

    Raises
    ------
    UserError
        If there is none, or the features lack it.
    """
    if detection.detect is None:
        raise UserError(
            f"{kind}: set `detect` to the position whose norms decide, such as up[1] res[2], or "
            "`labels` to a file."
        )
    position = spell(detection.detect)
    if position not in representations.positions:
        raise UserError(
            f"{kind}: anomalies are detected at {position}, which is not in the same hook set; "
            f"set `detect` to one of: {', '.join(representations.positions)}; or add a hook set."
        )
    return position


def read_labels(path: Path, representations: Representations, images: list[str]) -> pl.DataFrame:
    """Patches that were labelled by hand.

    Parameters
    ----------
    path
        Parquet or CSV file with the columns :data:`LABELS`: one row for each patch, ``x`` and
        ``y`` its column and row on ``grid``. Images without a row have no anomalies.
    representations
        Features that were labelled.
    images
        Images whose patches are returned, in this order.

    Returns
    -------
    Frame of patches, see :data:`PATCHES`.

    Raises
    ------
    UserError
        If the file cannot be read, lacks a column, was made on other representations, or names
        images or tokens that are not there.
    """
    table = _label_table(path)
    origin = representations.origin
    strange = table.filter(pl.col("provenance") != origin)
    if len(strange):
        raise UserError(
            f"{path} labels representations {strange['provenance'][0]}, but these are {origin}: "
            "anomalies change with model, noise, protocol, precision and library versions, so "
            "label these anew, or leave `labels` out to detect them."
        )
    unknown = table.filter(~pl.col("image_id").is_in(representations.image_ids))
    if len(unknown):
        raise UserError(
            f"{path} labels image '{unknown['image_id'][0]}', which has no features: remove it."
        )
    order = pl.DataFrame({"image_id": images}).with_row_index("place")
    return (
        order.join(table, on="image_id", how="inner")
        .sort("place", "row", "col")
        .select(pl.col(name).cast(kind) for name, kind in PATCHES.items())
    )


def _label_table(path: Path) -> pl.DataFrame:
    """Labels with row, col, height, width and a null score, checked."""
    try:
        if path.suffix == ".parquet":
            table = pl.read_parquet(path)
        else:
            text = dict.fromkeys(("image_id", "grid", "provenance"), pl.String)
            table = pl.read_csv(path, schema_overrides=text)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UserError(f"{path} cannot be read ({error}): set `labels` to a file.") from error
    missing = [name for name in LABELS if name not in table.columns]
    if missing:
        raise UserError(
            f"{path} has no column {missing[0]}: write one row for each patch with "
            f"{', '.join(LABELS)}."
        )
    sides = table["grid"].str.extract_groups(r"^(?<width>\d+)x(?<height>\d+)$").struct.unnest()
    table = table.select(
        "image_id",
        "provenance",
        pl.col("x").cast(pl.Int32, strict=False).alias("col"),
        pl.col("y").cast(pl.Int32, strict=False).alias("row"),
        sides["height"].cast(pl.Int32),
        sides["width"].cast(pl.Int32),
        pl.lit(None, pl.Float64).alias("score"),
    ).unique(maintain_order=True)
    inside = pl.col("col").is_between(0, pl.col("width") - 1) & pl.col("row").is_between(
        0, pl.col("height") - 1
    )
    outside = table.filter(~inside.fill_null(value=False))
    if len(outside):
        raise UserError(
            f"{path} has a patch of image '{outside['image_id'][0]}' that is not a token of its "
            "grid: write x and y from 0, and the grid as width x height, such as 16x16."
        )
    grids = table.group_by("image_id", maintain_order=True).agg(pl.struct("height", "width"))
    mixed = grids.filter(pl.col("height").list.n_unique() > 1)
    if len(mixed):
        raise UserError(
            f"{path} labels image '{mixed['image_id'][0]}' on two grids: write all its patches on "
            "one."
        )
    return table


def overlap(index: NDArray[Any], count: int, grid: int) -> Float:
    """Share of a token's extent that lies in each token of another grid, along one axis.

    Parameters
    ----------
    index
        (n,) tokens of a grid of ``count``.
    count, grid
        Tokens along the axis, of their own grid and of the other.

    Returns
    -------
    (n, grid); rows sum to 1.
    """
    # In units of 1 / (count * grid), so that edges that coincide do so exactly.
    start = np.asarray(index, dtype=np.int64)[:, None] * grid
    cells = np.arange(grid) * count
    shared = np.minimum(start + grid, cells + count) - np.maximum(start, cells)
    result: Float = np.maximum(shared, 0) / grid
    return result


def patch_means(values: NDArray[Any], patches: pl.DataFrame) -> Float:
    """Mean of a map over the area of each patch.

    Parameters
    ----------
    values
        (h, w, ...) map of one image, on any grid.
    patches
        Patches of this image, all on one grid, see :data:`PATCHES`.

    Returns
    -------
    (patches, ...) float64.
    """
    row, col = (patches[name].to_numpy() for name in ("row", "col"))
    down = overlap(row, patches["height"][0], values.shape[0])
    across = overlap(col, patches["width"][0], values.shape[1])
    result: Float = np.einsum("ph,pw,hw...->p...", down, across, values, optimize=True)
    return result


def covered(patches: pl.DataFrame, grid: tuple[int, int]) -> NDArray[np.bool_]:
    """Tokens of a grid that patches cover.

    Parameters
    ----------
    patches
        Patches of one image, see :data:`PATCHES`.
    grid
        (h, w).

    Returns
    -------
    (h, w) bool: along either axis token and patch share at least half of the smaller of the two.
    """
    result = np.zeros(grid, dtype=bool)
    for row, col, height, width in patches.select("row", "col", "height", "width").iter_rows():
        down = overlap(np.array([row]), height, grid[0])[0] * max(height, grid[0]) / height
        across = overlap(np.array([col]), width, grid[1])[0] * max(width, grid[1]) / width
        result |= (down >= 0.5)[:, None] & (across >= 0.5)
    return result
