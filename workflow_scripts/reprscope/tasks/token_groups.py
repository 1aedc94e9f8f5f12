"""Similarity among corner, border and other tokens, with and without the border of the image.

Thesis, figures 20 and 37; paper, second row of figure 2. Two maps of the same part of an image are
compared. One is the map of the whole image without its outer ring of tokens, so that its outermost
tokens did not see the border of an image. The other is the map of the image that was cut by one
token on each side before it was encoded: there the same tokens lie at the border. If tokens in the
corners of an image resemble each other because they are in a corner, their mean cosine similarity
is higher in the second map than in the first. The cut may change the similarity of all tokens, so
that a sentence rests on what corners gain beyond what the inner tokens of the same image gain: a
paired difference, one for each image.

By how many pixels an image is cut depends on the layer's token size. The task reads one further
representation for every size, each made by a view that cuts the encoded image, and takes for each
layer the one that is cut by one of its tokens: an image is encoded once for every token size and
not once for every layer.

The published numbers divide by the number of tokens of the grid before its outer ring is removed.
Their corners are right, border and other tokens are not: ``counts: published`` computes them so.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from reprscope.measures.similarity import normalise
from reprscope.measures.statistics import SIGNIFICANT, Estimate, holm, mean
from reprscope.representations.coordinates import Affine
from reprscope.runtime.errors import UserError
from reprscope.tasks._findings import CONDITION, Findings, told_apart, where
from reprscope.tasks._pictures import finite_tokens

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from reprscope.data.canonical import Annotations
    from reprscope.representations.store import Representations

    Floats = NDArray[np.float64]

NEEDS: Final[frozenset[str]] = frozenset()
STORES: Final = frozenset({"tokens"})
PROTOCOL: Final[frozenset[str]] = frozenset()
TABLE_COLUMNS: Final = (
    "groups",
    "token_size",
    "cropped_image",
    "cropped_representation",
    "relative",
    "low",
    "high",
    "gain",
    "gain_low",
    "gain_high",
    "p",
    "images",
)

COUNTS: Final = ("exact", "published")
GROUPS: Final = ("corner", "border", "other")
PAIRS: Final = [(i, j) for i in range(len(GROUPS)) for j in range(i, len(GROUPS))]
"""Groups that are compared; similarity is the same in both directions."""
NAMES: Final = [GROUPS[i] if i == j else f"{GROUPS[i]} and {GROUPS[j]}" for i, j in PAIRS]

_SCHEMA: Final = {
    "position": pl.String,
    "image_id": pl.String,
    "groups": pl.String,
    "token_size": pl.Int32,
    "rows": pl.Int32,
    "cols": pl.Int32,
    "cropped_image": pl.Float64,
    "cropped_representation": pl.Float64,
}
_SUMMARY: Final = {
    "position": pl.String,
    "groups": pl.String,
    "token_size": pl.Int32,
    "cropped_image": pl.Float64,
    "cropped_representation": pl.Float64,
    "relative": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "gain": pl.Float64,
    "gain_low": pl.Float64,
    "gain_high": pl.Float64,
    "p": pl.Float64,
    "images": pl.Int64,
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Settings of the task.

    Attributes
    ----------
    crops
        Views that cut the encoded image by the same number of pixels on each side, one for every
        token size that is to be measured, such as ``after: [{crop: {left: 8, top: 8, right: 8,
        bottom: 8}}]`` for tokens of 8 pixels. Layers with tokens of another size are left out.
    counts
        ``exact``: means over the pairs of tokens that there are. ``published``: divided by the
        number of tokens before the outer ring is removed, as in the thesis and the paper.
    """

    crops: tuple[str, ...] = ("crop-8", "crop-16", "crop-32", "crop-64")
    counts: str = "exact"

    def __post_init__(self) -> None:
        # A study's list becomes a tuple here, so that it cannot be changed.
        object.__setattr__(self, "crops", tuple(self.crops))
        if not self.crops or len(set(self.crops)) != len(self.crops):
            raise UserError(f"crops is {list(self.crops)}; list at least one view, each once.")
        if self.counts not in COUNTS:
            raise UserError(f"counts is {self.counts!r}; use one of: {', '.join(COUNTS)}.")


def companions(parameters: Parameters) -> dict[str, dict[str, str]]:
    """Representations of the cut images, one for every token size; see :mod:`reprscope.tasks`."""
    return {view: {"view": view} for view in parameters.crops}


def measure(
    representations: Representations,
    annotations: Annotations,
    parameters: Parameters,
    *,
    companions: Mapping[str, Representations],
) -> pl.DataFrame:
    """Mean similarity within and between groups of tokens, for every image at every position.

    Parameters
    ----------
    representations
        Features of the whole images.
    annotations
        Not read.
    parameters
        Which views, and how pairs are counted.
    companions
        Features of the cut images, by the name of their view.

    Returns
    -------
    One row for each position, image and pair of groups: ``position``, ``image_id``, ``groups``
    ("corner", "border", "other", "corner and border", …), ``token_size`` (pixels), ``rows`` and
    ``cols`` (of the map without its ring), ``cropped_image`` and ``cropped_representation`` (mean
    cosine similarity in either map over ordered pairs of different tokens; null without any).

    Raises
    ------
    UserError
        If a view does not cut the encoded images alike on all sides, two cut them by as much, an
        image or a layer does not fit, or no layer has tokens of the size of a cut.
    """
    images = sorted(representations.image_ids)
    crops = _by_size(representations, companions, images)
    parts: list[pl.DataFrame] = []
    left_out = set()
    for position in representations.positions:
        values: list[list[Floats]] = []
        sizes: list[float] = []
        grids: list[tuple[int, int]] = []
        names: list[str] = []
        for image in images:
            tokens = finite_tokens(representations, position, image, kind="token_groups")
            size = token_size(tokens.shape[:2], representations.pixels(image))
            if size is None:
                raise UserError(
                    f"token_groups: at {position} the {_grid(tokens)} tokens of image '{image}' "
                    "are not squares; use images whose sides are multiples of the model's largest "
                    "token."
                )
            if size not in crops:
                left_out.add(size)
                continue
            inner = tokens[1:-1, 1:-1]
            cut = finite_tokens(crops[size], position, image, kind="token_groups")
            if cut.shape != inner.shape:
                raise UserError(
                    f"token_groups: at {position} the cut image '{image}' has {_grid(cut)} tokens "
                    f"and the whole one {_grid(inner)} without its outer ring; use images whose "
                    "sides are multiples of the model's largest token."
                )
            values.append([similarities(m, counts=parameters.counts) for m in (cut, inner)])
            sizes.append(size)
            grids.append(inner.shape[:2])
            names.append(image)
        if names:
            parts.append(_frame(position, names, np.array(values), sizes, grids))
    if left_out:
        there = ", ".join(f"{size:g}" for size in sorted(left_out))
        logger.warning("no view in `crops` cuts by the size of tokens of %s px: left out", there)
    if not parts:
        cuts = ", ".join(f"{size:g}" for size in sorted(crops))
        raise UserError(
            f"token_groups: no layer has tokens of {cuts} px, by which the views in `crops` cut; "
            "add views for the sizes of the model's tokens."
        )
    return pl.concat(parts)


def _grid(tokens: NDArray[Any]) -> str:
    return f"{tokens.shape[0]} x {tokens.shape[1]}"


def _frame(
    position: str,
    names: list[str],
    values: Floats,
    sizes: list[float],
    grids: list[tuple[int, int]],
) -> pl.DataFrame:
    """Rows of one position, of ``values`` (images, 2, pairs of groups)."""
    every = len(NAMES)
    columns = {
        "position": [position] * (len(names) * every),
        "image_id": np.repeat(names, every),
        "groups": NAMES * len(names),
        "token_size": np.repeat(sizes, every),
        "rows": np.repeat([grid[0] for grid in grids], every),
        "cols": np.repeat([grid[1] for grid in grids], every),
        "cropped_image": values[:, 0].ravel(),
        "cropped_representation": values[:, 1].ravel(),
    }
    return pl.DataFrame(columns).with_columns(
        pl.col(name).cast(kind).fill_nan(None) if kind.is_float() else pl.col(name).cast(kind)
        for name, kind in _SCHEMA.items()
    )


def _by_size(
    whole: Representations, companions: Mapping[str, Representations], images: list[str]
) -> dict[float, Representations]:
    """Cut representations by the number of pixels that is cut off each side of all images."""
    found: dict[float, Representations] = {}
    for view, cut in companions.items():
        first = images[0]
        size = (whole.pixels(first)[0] - cut.pixels(first)[0]) / 2
        for image in images:
            width, height = whole.pixels(image)
            expected = whole.transform(image).then(Affine(offset_x=-size, offset_y=-size))
            if (
                size <= 0
                or cut.pixels(image) != (width - 2 * size, height - 2 * size)
                or cut.transform(image) != expected
            ):
                raise UserError(
                    f"token_groups: view {view} does not cut the encoded image '{image}' by as "
                    "many pixels on each side as others; write `after: [{crop: {left: 8, top: 8, "
                    "right: 8, bottom: 8}}]`, otherwise as the view of the whole images."
                )
        if size in found:
            raise UserError(
                f"token_groups: two views in `crops` cut by {size:g} px; leave out {view}."
            )
        found[size] = cut
    return found


def token_size(grid: tuple[int, ...], pixels: tuple[int, int]) -> float | None:
    """Pixels along a side of a token; None if it is no square, as where a grid was rounded up.

    Parameters
    ----------
    grid
        (h, w) tokens.
    pixels
        Width and height of the encoded image.
    """
    across, down = pixels[0] / grid[1], pixels[1] / grid[0]
    return across if across == down else None


def groups_of(rows: int, cols: int) -> NDArray[np.int64]:
    """Group of every token of a grid: index in :data:`GROUPS`, (rows, cols).

    Corners are up to four tokens, the border is the outermost ring without them.
    """
    row, col = np.indices((rows, cols))
    at_row = (row == 0) | (row == rows - 1)
    at_col = (col == 0) | (col == cols - 1)
    return np.where(at_row & at_col, 0, np.where(at_row | at_col, 1, 2)).astype(np.int64)


def similarities(tokens: NDArray[Any], *, counts: str) -> Floats:
    """Mean cosine similarity between groups of tokens of one map.

    The sum over all pairs of two groups is the product of the sums of their unit vectors, so that
    no matrix of similarities is needed.

    Parameters
    ----------
    tokens
        (rows, cols, channels).
    counts
        One of :data:`COUNTS`.

    Returns
    -------
    (6,) mean for each of :data:`PAIRS`, over ordered pairs of different tokens; NaN without any.
    """
    rows, cols = tokens.shape[:2]
    group = groups_of(rows, cols).ravel()
    unit = normalise(tokens).reshape(rows * cols, -1).astype(np.float64)
    members = [unit[group == index] for index in range(len(GROUPS))]
    sums = [tokens.sum(axis=0) for tokens in members]
    # A token of zeros is not similar to anything, not even to itself.
    selves = [float(np.square(tokens).sum()) for tokens in members]
    numbers = [len(tokens) for tokens in members]
    if counts == "published":
        numbers = [4, 2 * (rows + cols), rows * cols]
        selves = [float(number) for number in numbers]
    means = []
    for i, j in PAIRS:
        total = sums[i] @ sums[j] - (selves[i] if i == j else 0.0)
        pairs = numbers[i] * numbers[j] - (numbers[i] if i == j else 0)
        means.append(total / pairs if pairs and len(members[i]) and len(members[j]) else np.nan)
    return np.array(means)


def summarise(measurements: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
    """Mean similarities over images, their ratio, and what the border adds, with intervals.

    Parameters
    ----------
    measurements
        What :func:`measure` returns.
    parameters
        Not read.

    Returns
    -------
    One row for each position and pair of groups that has a similarity: ``position``, ``groups``,
    ``token_size``, ``cropped_image`` and ``cropped_representation`` (mean over images),
    ``relative`` (the first as a multiple of the second) with its interval over images, ``gain``
    (the mean over images of their difference less that of the pairs of other tokens of the same
    image) with its interval ``gain_low``, ``gain_high``, ``p`` of the null that it is not above 0
    (one-sided t-test, not adjusted), ``images``. A ratio to a similarity that is not positive says
    nothing: ``relative`` is null then, and its interval where that of the similarity reaches 0.
    ``gain`` is null for the other tokens themselves, and where a grid has no two of them. Intervals
    and ``p`` are null for fewer than :data:`~reprscope.measures.statistics.FEWEST_UNITS` images.
    """
    rows: list[dict[str, Any]] = []
    keys = ["position", "groups", "token_size"]
    columns = ["cropped_image", "cropped_representation"]
    there = measurements.drop_nulls(columns)
    inner = there.filter(pl.col("groups") == GROUPS[-1]).select(
        "position", "token_size", "image_id", inner=pl.col(columns[0]) - pl.col(columns[1])
    )
    for (position, groups, size), part in there.group_by(keys, maintain_order=True):
        part = part.sort("image_id")
        values = part.select(columns).to_numpy()
        image, representation = values.mean(axis=0)
        row = {
            "position": position,
            "groups": groups,
            "token_size": size,
            "cropped_image": image,
            "cropped_representation": representation,
            "images": len(values),
        }
        if representation > 0:
            row |= _named(("relative", "low", "high"), ratio_of_means(values))
        if groups != GROUPS[-1]:
            paired = part.join(
                inner, on=["position", "token_size", "image_id"], how="inner", maintain_order="left"
            )
            gains = paired.select(pl.col(columns[0]) - pl.col(columns[1]) - pl.col("inner"))
            if len(gains):
                estimate = mean(gains.to_numpy())
                row |= _named(("gain", "gain_low", "gain_high"), estimate)
                row["p"] = float(estimate.p_value(alternative="greater")[0])
        rows.append(row)
    return pl.DataFrame(rows, schema=_SUMMARY).with_columns(
        pl.col(name).fill_nan(None) for name, kind in _SUMMARY.items() if kind == pl.Float64
    )


def ratio_of_means(values: Floats) -> Estimate:
    """Ratio of the means of two columns over images, with its error by the delta method.

    Parameters
    ----------
    values
        (images, 2); single values may be negative, the mean of the second is positive.

    Returns
    -------
    Estimate of (1,). Its error is NaN where the interval of the second mean reaches 0.
    """
    first, second = values.mean(axis=0)
    value = first / second
    error = mean((values[:, 0] - value * values[:, 1])[:, None]).error / second
    if not mean(values[:, 1:]).interval().low[0] > 0:
        error = np.full(1, np.nan)
    return mean(values[:, :1])._replace(value=np.array([value]), error=error)


def _named(names: tuple[str, str, str], estimate: Estimate) -> dict[str, float]:
    """Value and interval of an estimate of one column, by the names of columns of a table."""
    return {name: float(one[0]) for name, one in zip(names, estimate.interval(), strict=True)}


def findings(table: pl.DataFrame) -> Findings:
    """In how many layers corners resemble each other for being corners, of every model.

    A layer counts if corners gain more than the other tokens of the same images, adjusted for the
    number of layers and timesteps (Holm).
    """
    keys = [name for name in ("model", *CONDITION) if name in table.columns]
    corners = table.filter(pl.col("groups") == GROUPS[0]).drop_nulls("p")
    if corners.is_empty():
        return Findings((), None)
    corners = corners.with_columns(
        pl.col("p")
        .map_batches(lambda p: pl.Series(holm(p.to_numpy())), return_dtype=pl.Float64)
        .over(keys)
        .alias("adjusted")
    )
    parts = corners.partition_by(keys, maintain_order=True)
    under = told_apart(pl.concat([part.head(1) for part in parts]))
    sentences, rows = [], []
    for part, text in zip(parts, under, strict=True):
        held = part.filter(pl.col("adjusted") < SIGNIFICANT)
        many = f"the {len(part)} layers" if len(part) > 1 else "one layer"
        said = (
            f"The corners of an image gain more similarity to each other from lying at its border "
            f"than its inner tokens in {len(held) or 'none'} of {many} of {part['model'][0]}{text} "
            f"(paired over {max(part['images'].to_list())} images"
            f"{f', adjusted for {len(part)} layers' if len(part) > 1 else ''})"
        )
        top = held.drop_nulls(["relative", "low"]).sort(
            "relative", descending=True, maintain_order=True
        )
        if len(top):
            row = top.row(0, named=True)
            said += (
                f"; the highest of these is {row['relative']:.2f} times as much as away from the "
                f"border, in {where(row['position'], row['timestep'])}"
            )
        sentences.append(f"{said}.")
        rows.append(held)
    return Findings(sentences, pl.concat(rows))
