"""Norms of tokens: maps of single images, their mean over all images, and how far tokens stand out.

Thesis, figures 21 and 22: the L2 norm of every token of an image, over timesteps, in which single
tokens stand out; figure 38: the mean of these maps over all images, in which places stand out.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from reprscope.measures.statistics import mean
from reprscope.tasks._findings import CONDITION, Findings, told_apart, where
from reprscope.tasks._pictures import Choice, choose, finite_tokens, frame, pictures

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reprscope.data.canonical import Annotations
    from reprscope.representations.store import Representations

NEEDS: Final[frozenset[str]] = frozenset()
STORES: Final = frozenset({"tokens"})
PROTOCOL: Final[frozenset[str]] = frozenset()
TABLE_COLUMNS: Final = (
    "image_id",
    "kind",
    "row",
    "col",
    "norm",
    "images",
    "statistic",
    "value",
    "low",
    "high",
    "png",
)

STATISTICS: Final = ("mean", "deviation", "highest")

_SCHEMA: Final = {
    "image_id": pl.String,
    "position": pl.String,
    "kind": pl.String,
    "row": pl.Int32,
    "col": pl.Int32,
    "norm": pl.Float64,
    "images": pl.Int64,
    "statistic": pl.String,
    "value": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "png": pl.Binary,
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Parameters(Choice):
    """Settings of the task: the choice of images whose own maps are kept."""


def measure(
    representations: Representations, annotations: Annotations, parameters: Parameters
) -> pl.DataFrame:
    """Norms of the tokens of all images at every position.

    Parameters
    ----------
    representations
        Features of the images.
    annotations
        The images themselves.
    parameters
        Whose maps are kept.

    Returns
    -------
    Rows of four kinds. "image": ``png`` of each chosen image, at position "image". "map": ``norm``
    (L2) of every token of the chosen images, at ``row`` and ``col``. "mean": the mean ``norm`` over
    all ``images``, without ``image_id``; where grids differ between images there is none.
    "statistics": three values for every image and position, told apart by ``statistic``: "mean" of
    its norms, "deviation" (standard deviation of its norms as a multiple of their mean) and
    "highest" (largest of its norms as a multiple of their mean).

    Raises
    ------
    UserError
        If a chosen image has no features, or a feature is not finite.
    """
    chosen = choose(representations, annotations, parameters, kind="norms")
    images = sorted(representations.image_ids)
    frames = pictures(_SCHEMA, representations, annotations, chosen)
    for position in representations.positions:
        maps = {image: _norms(representations, position, image) for image in images}
        frames += [_map(position, maps[image], kind="map", image_id=image) for image in chosen]
        if len({one.shape for one in maps.values()}) == 1:
            mean = np.mean(list(maps.values()), axis=0)
            frames.append(_map(position, mean, kind="mean", images=len(images)))
        else:
            logger.warning("grids differ between images at %s: no mean map", position)
        values = [statistics(one) for one in maps.values()]
        frames.append(
            frame(
                _SCHEMA,
                image_id=np.repeat(images, len(STATISTICS)),
                position=position,
                kind="statistics",
                statistic=STATISTICS * len(images),
                value=np.ravel(values),
            )
        )
    return pl.concat(frames)


def _norms(representations: Representations, position: str, image: str) -> NDArray[np.float64]:
    tokens = finite_tokens(representations, position, image, kind="norms")
    lengths: NDArray[np.float64] = np.linalg.norm(tokens, axis=-1).astype(np.float64)
    return lengths


def _map(position: str, norms: NDArray[np.float64], **further: Any) -> pl.DataFrame:
    rows, cols = np.indices(norms.shape).reshape(2, -1)
    return frame(_SCHEMA, row=rows, col=cols, norm=norms.ravel(), position=position, **further)


def statistics(norms: NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean of the norms of one map, their deviation and the highest as multiples of it.

    The multiples are NaN for a map of zeros.
    """
    mean = float(norms.mean())
    scale = mean or np.nan
    return mean, float(norms.std() / scale), float(norms.max() / scale)


def summarise(measurements: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
    """Mean of each statistic over images, with an interval; maps and pictures are kept as they are.

    Parameters
    ----------
    measurements
        What :func:`measure` returns.
    parameters
        Not read.

    Returns
    -------
    The same columns. Rows of kind "statistics" are one for each position and statistic: ``value``,
    ``low`` and ``high`` (95 % t interval over images; null for fewer than
    :data:`~reprscope.measures.statistics.FEWEST_UNITS`), ``images``.
    """
    frames = [measurements.filter(pl.col("kind") != "statistics")]
    values = measurements.filter(pl.col("kind") == "statistics").with_columns(
        pl.col("value").fill_nan(None)
    )
    for (position,), part in values.group_by(["position"], maintain_order=True):
        table = part.pivot(on="statistic", index="image_id", values="value").sort("image_id")
        whole = table.select(STATISTICS).drop_nulls().to_numpy()
        if not len(whole):
            continue
        value, low, high = mean(whole).interval()
        frames.append(
            frame(
                _SCHEMA,
                position=position,
                kind="statistics",
                statistic=STATISTICS,
                value=value,
                low=low,
                high=high,
                images=len(whole),
            )
        )
    return pl.concat(frames).with_columns(pl.col("low", "high").fill_nan(None))


def findings(table: pl.DataFrame) -> Findings:
    """Where single tokens have the highest norm of their map, for every model and condition.

    It describes: a maximum lies above the mean in every map, and the place is the highest of those
    that were looked at.
    """
    keys = [name for name in ("model", *CONDITION) if name in table.columns]
    highest = table.filter(pl.col("statistic") == "highest").drop("png").drop_nulls("value")
    most = (
        highest.with_columns(tried=pl.len().over(keys))
        .sort("value", descending=True, maintain_order=True)
        .unique(keys, keep="first", maintain_order=True)
    )
    order = highest.select(keys).unique(maintain_order=True)
    most = order.join(most, on=keys, how="left", maintain_order="left", nulls_equal=True)
    sentences = []
    for row, under in zip(most.iter_rows(named=True), told_apart(most), strict=True):
        among = f" is highest of {row['tried']} on these images" if row["tried"] > 1 else " is"
        sentences.append(
            f"{row['model']}{under}: the highest norm of a map, in units of its mean,{among} in "
            f"{where(row['position'], row['timestep'])}: {row['value']:.1f} on average over "
            f"{row['images']} images."
        )
    return Findings(sentences, most.drop("tried"))
