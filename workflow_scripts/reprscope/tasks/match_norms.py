"""Whether tokens of a high norm are matched with tokens of a high norm.

Thesis, figure 40: tokens drawn at random, the most similar token of any other image, and the norms
of both, each relative to the largest norm of its image; and the same for the token of the largest
norm of every image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from reprscope.findings import Findings, where
from reprscope.metrics import LEVEL, bootstrap_ratio
from reprscope.parameters import check_whole
from reprscope.seeds import item_seed
from reprscope.similarity import nearest, normalise
from reprscope.tasks._pictures import finite_tokens, frame
from reprscope.tasks._samples import draw, histogram, several_images

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reprscope.data.canonical import Annotations
    from reprscope.store import Representations

    Floats = NDArray[np.float64]

NEEDS: Final[frozenset[str]] = frozenset()
STORES: Final = frozenset({"tokens"})
PROTOCOL: Final[frozenset[str]] = frozenset()

RANDOM: Final = "random"
HIGHEST: Final = "highest"

_SCHEMA: Final = {
    "position": pl.String,
    "sample": pl.String,
    "image_id": pl.String,
    "row": pl.Int32,
    "col": pl.Int32,
    "norm": pl.Float64,
    "match_image_id": pl.String,
    "match_row": pl.Int32,
    "match_col": pl.Int32,
    "match_norm": pl.Float64,
    "similarity": pl.Float64,
}
_SUMMARY: Final = {
    "position": pl.String,
    "sample": pl.String,
    "norm": pl.Float64,
    "norm_end": pl.Float64,
    "match_norm": pl.Float64,
    "match_norm_end": pl.Float64,
    "pairs": pl.Int64,
    "share": pl.Float64,
    "mean_match_norm": pl.Float64,
    "correlation": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "images": pl.Int64,
    "tokens": pl.Int64,
}


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Settings of the task.

    Attributes
    ----------
    tokens
        Number of tokens that are drawn at each position, as many of every image.
    bins
        Cells of the histogram along each side.
    bootstrap, seed
        Number of resamples of the images for the 95 % intervals; seed of them and of the draw.
    """

    tokens: int = 1000
    bins: int = 40
    bootstrap: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole(self, "tokens", "bootstrap")
        check_whole(self, "bins", least=2)


def measure(
    representations: Representations, annotations: Annotations, parameters: Parameters
) -> pl.DataFrame:
    """Match tokens with the most similar ones of all other images, at every position.

    Parameters
    ----------
    representations
        Features of the images.
    annotations
        Not read.
    parameters
        How many tokens.

    Returns
    -------
    One row for each position and token: ``sample`` ("random", or "highest" for the token of the
    largest norm of an image), ``image_id``, ``row``, ``col``, ``norm`` (relative to the largest of
    its image, in [0, 1]), the same of its match as ``match_image_id`` and so on, and their
    ``similarity`` (cosine). Of equally similar tokens the first of the first image is taken.

    Raises
    ------
    UserError
        If there are fewer than two images, or a feature is not finite.
    """
    images = several_images(representations, kind="match_norms")
    return pl.concat(
        _matches(representations, position, images, parameters)
        for position in representations.positions
    )


def _matches(
    representations: Representations, position: str, images: list[str], parameters: Parameters
) -> pl.DataFrame:
    samples = draw(
        representations,
        position,
        images,
        number=parameters.tokens,
        seed=parameters.seed,
        kind="match_norms",
        with_highest=True,
    )
    queries = normalise(np.concatenate([sample.tokens for sample in samples]))
    ends = np.cumsum([0, *(len(sample.norms) for sample in samples)])
    best = np.full(len(queries), -np.inf, dtype=np.float32)
    match = np.zeros((len(queries), 3), dtype=np.int64)
    match_norms = np.zeros(len(queries))
    for number, image in enumerate(images):
        tokens = finite_tokens(representations, position, image, kind="match_norms")
        keys = normalise(tokens.reshape(-1, tokens.shape[-1]))
        norms = np.linalg.norm(tokens, axis=-1).ravel().astype(np.float64)
        # All but the image's own queries: those before them, and those after.
        for part in (slice(0, ends[number]), slice(ends[number + 1], None)):
            if not len(queries[part]):
                continue
            index, similarity = nearest(queries[part], keys)
            better = similarity > best[part]
            best[part][better] = similarity[better]
            found = np.stack([np.full_like(index, number), *np.divmod(index, tokens.shape[1])], 1)
            match[part][better] = found[better]
            match_norms[part][better] = (norms / (norms.max() or 1.0))[index[better]]
    return frame(
        _SCHEMA,
        position=position,
        sample=[HIGHEST if i == 0 else RANDOM for s in samples for i in range(len(s.norms))],
        image_id=[sample.image for sample in samples for _ in sample.norms],
        row=np.concatenate([sample.rows for sample in samples]),
        col=np.concatenate([sample.cols for sample in samples]),
        norm=np.concatenate([sample.norms / (sample.largest or 1.0) for sample in samples]),
        match_image_id=[images[number] for number in match[:, 0]],
        match_row=match[:, 1],
        match_col=match[:, 2],
        match_norm=match_norms,
        similarity=best,
    )


def summarise(measurements: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
    """Count matches by the two norms, and correlate the norms.

    Parameters
    ----------
    measurements
        What :func:`measure` returns.
    parameters
        Cells of the histogram; number and seed of the resamples.

    Returns
    -------
    One row for each position, sample and cell that is not empty: ``norm`` to ``norm_end`` and
    ``match_norm`` to ``match_norm_end`` (both from 0 to 1), ``pairs`` and ``share`` of the sample's
    pairs. The same in all cells of a position and sample: ``mean_match_norm``, ``correlation``
    (Pearson's, of the two norms) with ``low`` and ``high`` (95 % interval from resampled images;
    null for the sample "highest", whose first norm is always 1), ``images`` and ``tokens``.
    """
    frames = []
    edges = np.linspace(0, 1, parameters.bins + 1)
    keys = ["position", "sample"]
    for (position, sample), part in measurements.group_by(keys, maintain_order=True):
        part = part.sort("image_id", maintain_order=True)
        first, second = (part[name].to_numpy() for name in ("norm", "match_norm"))
        counts = histogram(first, second, x_edges=edges, y_edges=edges)
        rows, cols = counts.nonzero()
        r, low, high = correlation(part, parameters) if sample == RANDOM else (None, None, None)
        frames.append(
            frame(
                _SUMMARY,
                position=position,
                sample=sample,
                norm=edges[cols],
                norm_end=edges[cols + 1],
                match_norm=edges[rows],
                match_norm_end=edges[rows + 1],
                pairs=counts[rows, cols],
                share=counts[rows, cols] / len(part),
                mean_match_norm=second.mean(),
                correlation=r,
                low=low,
                high=high,
                images=part["image_id"].n_unique(),
                tokens=len(part),
            )
        )
    return pl.concat(frames)


def correlation(
    matches: pl.DataFrame, parameters: Parameters
) -> tuple[float | None, float | None, float | None]:
    """Pearson's correlation of the norms of matches, with its interval over resampled images.

    Images are resampled with all of their tokens, since these are not independent. All are None if
    the norms of either side are equal.
    """
    x, y = pl.col("norm"), pl.col("match_norm")
    sums = matches.group_by("image_id", maintain_order=True).agg(
        n=pl.len(), x=x.sum(), y=y.sum(), xx=(x * x).sum(), yy=(y * y).sum(), xy=(x * y).sum()
    )
    numerator = sums.select("x", "y", "xx", "yy", "xy").to_numpy().astype(np.float64)
    counts = sums["n"].to_numpy().astype(np.float64)
    value = _pearson(numerator.sum(axis=0, keepdims=True) / counts.sum())
    resampled = _pearson(
        bootstrap_ratio(
            numerator,
            counts,
            replicates=parameters.bootstrap,
            rng=np.random.default_rng(item_seed(parameters.seed, "images")),
        )
    )
    if not np.isfinite(value).all() or not np.isfinite(resampled).all():
        return None, None, None
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(value[0]), float(low), float(high)


def _pearson(means: Floats) -> Floats:
    """Correlation (n,) from means (n, 5) of x, y, their squares and their product."""
    x, y, xx, yy, xy = means.T
    variance = np.maximum(xx - x * x, 0) * np.maximum(yy - y * y, 0)
    # What is left of equal values is rounding.
    variance[variance <= np.square(np.finfo(np.float64).eps * 8)] = np.nan
    result: Floats = (xy - x * y) / np.sqrt(variance)
    return result


def findings(table: pl.DataFrame) -> Findings:
    """Where the norm of a token says most about that of its match, for every model."""
    keys = [name for name in ("task", "dataset", "model", "protocol", "seed") if name in table]
    each = table.filter(pl.col("sample") == RANDOM).drop_nulls("correlation")
    most = each.sort("correlation", descending=True, maintain_order=True).unique(
        keys, keep="first", maintain_order=True
    )
    return Findings([_sentence(row) for row in most.iter_rows(named=True)], most)


def _sentence(row: dict[str, Any]) -> str:
    return (
        f"{row['model']}: the norm of a token and that of its best match in another image go "
        f"together most in {where(row['position'], row['timestep'])}, with a correlation of "
        f"{row['correlation']:.2f} [{row['low']:.2f}, {row['high']:.2f}]."
    )
