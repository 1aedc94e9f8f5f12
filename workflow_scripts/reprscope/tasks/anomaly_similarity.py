"""How similar anomalous tokens of different images are to each other.

Thesis, section 5.3.2: in ``up[1]`` of SD-1.5 labelled tokens have a mean cosine similarity of 0.80,
those at the same corner of their 2 x 2 patches one of 0.92, and all tokens one of 0.055. So
anomalies have a direction in common, and each corner one of its own.

Patches are those of :mod:`reprscope.measures.anomalies`. On a layer whose grid has several tokens
for each patch, all of them count, and pairs "at the same corner" are those at the same place in
their patches; elsewhere a patch counts by the mean of what it covers. Pairs are of different
images, so that neighbours within one do not count.

A mean over pairs of images is a U-statistic. Its error follows from what each image adds to it, and
not from the number of pairs: the jackknife's, one image with all its pairs left out at a time
(Arvesen 1969).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from reprscope.measures.anomalies import Detection, find, patch_means
from reprscope.measures.similarity import normalise
from reprscope.measures.statistics import SIGNIFICANT, Estimate, holm, mean
from reprscope.tasks._findings import CONDITION, Findings, told_apart, where
from reprscope.tasks._pictures import finite_tokens, frame

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from reprscope.data.canonical import Annotations
    from reprscope.representations.store import Representations

    Float = NDArray[np.float64]

NEEDS: Final[frozenset[str]] = frozenset()
STORES: Final = frozenset({"tokens"})
PROTOCOL: Final[frozenset[str]] = frozenset()
TABLE_COLUMNS: Final = (
    "compared",
    "similarity",
    "low",
    "high",
    "over_all",
    "over_low",
    "over_high",
    "p",
    "images",
    "patches",
)

PAIRS: Final = ("anomalies", "same corner", "all tokens")
"""Which tokens of two images are paired."""

_SCHEMA: Final = {
    "position": pl.String,
    "image_id": pl.String,
    "compared": pl.String,
    "patches": pl.Int32,
    "similarity": pl.Float64,
    "count": pl.Int64,
}
_SUMMARY: Final = {
    "position": pl.String,
    "compared": pl.String,
    "similarity": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "over_all": pl.Float64,
    "over_low": pl.Float64,
    "over_high": pl.Float64,
    "p": pl.Float64,
    "images": pl.Int32,
    "patches": pl.Int32,
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Parameters(Detection):
    """Settings of the task: those of the detection."""


def measure(
    representations: Representations, annotations: Annotations, parameters: Parameters
) -> pl.DataFrame:
    """Sum of the similarities of each image's tokens to those of all other images.

    Parameters
    ----------
    representations
        Features of the images.
    annotations
        Not read.
    parameters
        How patches are found.

    Returns
    -------
    One row for each position, image and kind of pairs (:data:`PAIRS`): ``position``, ``image_id``,
    ``compared``, ``patches`` (of the image), ``similarity`` (sum over pairs of a token of the image
    with one of another image) and ``count`` (of these pairs).

    Raises
    ------
    UserError
        If patches cannot be found as the parameters say, or a feature is not finite.
    """
    images = sorted(representations.image_ids)
    patches = find(representations, parameters, images, kind="anomaly_similarity")
    by_image = patches.partition_by("image_id", as_dict=True)
    number = [len(by_image.get((image,), ())) for image in images]
    frames = []
    for position in representations.positions:
        corners: list[Mapping[int, Float]] = []
        whole: list[Mapping[int, Float]] = []
        for image in images:
            tokens = finite_tokens(representations, position, image, kind="anomaly_similarity")
            unit = normalise(tokens).astype(np.float64)
            whole.append({0: unit.reshape(-1, unit.shape[-1])})
            found = by_image.get((image,))
            corners.append({} if found is None else _corners(tokens, unit, found))
        together: list[Mapping[int, Float]] = [
            {0: np.concatenate([*one.values()])} if one else {} for one in corners
        ]
        for name, groups in zip(PAIRS, (together, corners, whole), strict=True):
            similarity, count = sums(groups)
            frames.append(
                frame(
                    _SCHEMA,
                    position=position,
                    image_id=images,
                    compared=name,
                    patches=number,
                    similarity=similarity,
                    count=count,
                )
            )
        logger.info("compared the tokens of %d patches at %s", len(patches), position)
    return pl.concat(frames)


def _corners(tokens: NDArray[Any], unit: Float, patches: pl.DataFrame) -> dict[int, Float]:
    """Unit vectors (patches, channels) of one image by their place in the patch, row by row."""
    (height, width), (down, across) = tokens.shape[:2], patches.select("height", "width").row(0)
    if height % down or width % across:
        return {0: normalise(patch_means(tokens, patches)).astype(np.float64)}
    tall, wide = height // down, width // across
    row, col = (patches[name].to_numpy() for name in ("row", "col"))
    return {
        y * wide + x: unit[row * tall + y, col * wide + x] for y in range(tall) for x in range(wide)
    }


def sums(groups: list[Mapping[int, Float]]) -> tuple[Float, NDArray[np.int64]]:
    """Sum and number, for each image, of the similarities to tokens of the same group elsewhere.

    Parameters
    ----------
    groups
        Unit vectors (tokens, channels) of every image by group.

    Returns
    -------
    Sums (images,), without a matrix of similarities: the sum over all pairs is the product of sums;
    and numbers of pairs (images,).
    """
    similarity, count = np.zeros(len(groups)), np.zeros(len(groups), dtype=np.int64)
    for name in sorted({name for one in groups for name in one}):
        there = [number for number, one in enumerate(groups) if name in one]
        own = np.stack([groups[number][name].sum(axis=0) for number in there])
        size = np.array([len(groups[number][name]) for number in there])
        similarity[there] += np.einsum("ic,ic->i", own, own.sum(axis=0) - own)
        count[there] += size * (size.sum() - size)
    return similarity, count


def summarise(measurements: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
    """Mean similarity at each position and kind of pairs, with 95 % intervals over images.

    Parameters
    ----------
    measurements
        What :func:`measure` returns.
    parameters
        Not read.

    Returns
    -------
    ``position``, ``compared``, ``similarity`` (mean over pairs of tokens of different images; null
    without any), ``low``, ``high``, ``over_all`` (difference to that of all tokens) with its
    interval ``over_low``, ``over_high``, ``p`` of the null that it is not above 0 (one-sided
    t-test, not adjusted), ``images`` (with a pair), ``patches``. Intervals and ``p`` are null for
    fewer than :data:`~reprscope.measures.statistics.FEWEST_UNITS` images with a pair.
    """
    rows = []
    for position in measurements["position"].unique(maintain_order=True):
        found = {
            name: measurements.filter(position=position, compared=name).sort("image_id")
            for name in PAIRS
        }
        told = {name: influences(part) for name, part in found.items()}
        every, of_every = told[PAIRS[-1]]
        for name, part in found.items():
            value, added = told[name]
            used = part["count"].to_numpy() > 0
            row: dict[str, Any] = {
                "position": position,
                "compared": name,
                "images": int(used.sum()),
                "patches": int(part["patches"].sum()),
            }
            if used.any():
                # An image without an anomaly says nothing of them, so that it is no unit.
                own = _estimate(value, added[used])
                row |= _named(("similarity", "low", "high"), own)
                if name != PAIRS[-1]:
                    over = _estimate(value - every, added - of_every)
                    over = over._replace(freedom=own.freedom, units=own.units)
                    row |= _named(("over_all", "over_low", "over_high"), over)
                    row["p"] = float(over.p_value(alternative="greater")[0])
            rows.append(row)
    return pl.DataFrame(rows, schema=_SUMMARY).with_columns(
        pl.col(name).fill_nan(None) for name, kind in _SUMMARY.items() if kind == pl.Float64
    )


def influences(part: pl.DataFrame) -> tuple[float, Float]:
    """Mean over pairs, and what each image adds to its error, (images,).

    By the mean without the image and its pairs, each of which the sums over images count twice.
    """
    similarity, count = part["similarity"].to_numpy(), part["count"].to_numpy()
    added = np.zeros(len(part))
    if not count.any():
        return float("nan"), added
    used = count > 0
    number = int(used.sum())
    with np.errstate(invalid="ignore", divide="ignore"):
        left = (similarity.sum() - 2 * similarity[used]) / (count.sum() - 2 * count[used])
    added[used] = (number - 1) / number * (left.mean() - left)
    return float(similarity.sum() / count.sum()), added


def _estimate(value: float, added: Float) -> Estimate:
    """Estimate from what each image adds, which sums to 0."""
    return mean(len(added) * added[:, None])._replace(value=np.array([value]))


def _named(names: tuple[str, str, str], estimate: Estimate) -> dict[str, float]:
    """Value and interval of an estimate of one column, by the names of columns of a table."""
    return {name: float(one[0]) for name, one in zip(names, estimate.interval(), strict=True)}


def findings(table: pl.DataFrame) -> Findings:
    """Whether anomalous tokens of different images resemble each other, in each layer of a model.

    A layer counts if they do more than all tokens, adjusted for the number of layers and timesteps
    (Holm).
    """
    keys = [name for name in ("model", *CONDITION) if name in table.columns]
    sentences = []
    parts = table.partition_by(keys, maintain_order=True)
    for part, under in zip(
        parts, told_apart(pl.concat([part.head(1) for part in parts])), strict=True
    ):
        tried = part.filter(compared=PAIRS[0]).drop_nulls("p")
        model = f"{part['model'][0]}{under}"
        if tried.is_empty():
            few = part.filter(compared=PAIRS[0])
            sentences.append(
                f"Anomalous tokens of {model} are too few to compare: {few['patches'][0]} patches "
                f"in {few['images'][0]} images of {few['dataset'][0]}."
            )
            continue
        held = tried.filter(pl.Series(holm(tried["p"].to_numpy())) < SIGNIFICANT)
        many = f"the {len(tried)} layers" if len(tried) > 1 else "one layer"
        said = (
            f"Anomalous tokens of different images resemble each other more than all tokens do in "
            f"{len(held) or 'none'} of {many} of {model} ({tried['patches'][0]} patches in "
            f"{max(tried['images'].to_list())} images of {tried['dataset'][0]}"
            f"{f', adjusted for {len(tried)} layers' if len(tried) > 1 else ''})"
        )
        if len(held):
            top = held.sort("over_all", descending=True, maintain_order=True).row(0, named=True)
            same = part.filter(position=top["position"], timestep=top["timestep"])
            values = dict(same.select("compared", "similarity").rows())
            # A patch of one token has no corners.
            corner = (
                f", at the same corner of a patch {values[PAIRS[1]]:.2f}"
                if values[PAIRS[1]] != values[PAIRS[0]]
                else ""
            )
            said += (
                f"; the most of these in {where(top['position'], top['timestep'])}, where their "
                f"mean cosine similarity is {values[PAIRS[0]]:.2f}{corner}, and that of all tokens "
                f"{values[PAIRS[2]]:.3f}"
            )
        sentences.append(f"{said}.")
    return Findings(sentences, table)
