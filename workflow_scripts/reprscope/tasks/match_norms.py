"""Whether tokens of a high norm are matched with tokens of a high norm.

Thesis, figure 40: tokens drawn at random, the most similar token of any other image, and the norms
of both, each relative to the largest norm of its image; and the same for the token of the largest
norm of every image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from reprscope.base.parameters import check_whole
from reprscope.measures import statistics
from reprscope.measures.similarity import nearest, normalise
from reprscope.tasks._findings import CONDITION, Findings, of_blocks, told_apart, where
from reprscope.tasks._pictures import finite_tokens, frame
from reprscope.tasks._samples import draw, histogram, several_images

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reprscope.data.canonical import Annotations
    from reprscope.representations.store import Representations

    Floats = NDArray[np.float64]

NEEDS: Final[frozenset[str]] = frozenset()
STORES: Final = frozenset({"tokens"})
PROTOCOL: Final[frozenset[str]] = frozenset()
TABLE_COLUMNS: Final = (
    "sample",
    "norm",
    "norm_end",
    "match_norm",
    "match_norm_end",
    "pairs",
    "share",
    "mean_match_norm",
    "correlation",
    "low",
    "high",
    "p",
    "images",
    "tokens",
)

RANDOM: Final = "random"
HIGHEST: Final = "highest"
EDGE: Final = 1e-12
"""Distance from 1 at which a correlation has a finite place on Fisher's scale."""

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
    "p": pl.Float64,
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
    seed
        Seed of the draw.
    """

    tokens: int = 1000
    bins: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole(self, "tokens")
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
        Cells of the histogram.

    Returns
    -------
    One row for each position, sample and cell that is not empty: ``norm`` to ``norm_end`` and
    ``match_norm`` to ``match_norm_end`` (both from 0 to 1), ``pairs`` and ``share`` of the sample's
    pairs. The same in all cells of a position and sample: ``mean_match_norm``, ``correlation``
    (Pearson's, of the two norms) with ``low`` and ``high`` (95 % interval over images that matches
    share, by Fisher's transformation) and ``p`` (that it is not above 0), null for the sample
    "highest", whose first norm is always 1, the bounds and ``p`` also for few images; ``images``
    and ``tokens``.
    """
    frames = []
    edges = np.linspace(0, 1, parameters.bins + 1)
    keys = ["position", "sample"]
    for (position, sample), part in measurements.group_by(keys, maintain_order=True):
        part = part.sort("image_id", maintain_order=True)
        first, second = (part[name].to_numpy() for name in ("norm", "match_norm"))
        counts = histogram(first, second, x_edges=edges, y_edges=edges)
        rows, cols = counts.nonzero()
        found = correlation(part) if sample == RANDOM else None
        bounds = None if found is None else np.tanh(np.stack(found.interval())[:, 0])
        r, low, high = (None, None, None) if bounds is None else bounds
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
                p=None if found is None else found.p_value(alternative="greater")[0],
                images=part["image_id"].n_unique(),
                tokens=len(part),
            )
        )
    return pl.concat(frames).with_columns(pl.col("low", "high", "p").fill_nan(None))


def correlation(matches: pl.DataFrame) -> statistics.Estimate | None:
    """Pearson's correlation of the norms of matches, on Fisher's scale, atanh(r).

    Matches that share an image may depend, whichever of the two it is: the error follows from the
    influence of each match on r, z_x z_y - r (z_x^2 + z_y^2) / 2 of standardised norms, by
    :func:`reprscope.measures.statistics.dyadic_ratio`.

    Parameters
    ----------
    matches
        Rows of :func:`measure`.

    Returns
    -------
    Estimate of one column, or None if the norms of either side are equal.
    """
    x, y = (matches[name].to_numpy() for name in ("norm", "match_norm"))
    deviations = x.std(), y.std()
    # What is left of equal values is rounding.
    if min(deviations) <= 8 * np.finfo(np.float64).eps:
        return None
    x, y = (
        (one - one.mean()) / deviation for one, deviation in zip((x, y), deviations, strict=True)
    )
    r = float(np.clip((x * y).mean(), -1 + EDGE, 1 - EDGE))
    influence = (x * y - r * (x * x + y * y) / 2) / (1 - r * r)
    found = statistics.dyadic_ratio(
        influence[:, None],
        np.ones(len(x)),
        matches["image_id"].to_numpy(),
        matches["match_image_id"].to_numpy(),
    )
    return found._replace(value=np.array([np.arctanh(r)]))


def findings(table: pl.DataFrame) -> Findings:
    """Where the norm of a token goes with that of its match, for every model.

    That the correlation is not above 0 is tested in all blocks and timesteps of a model together
    (Holm).
    """
    keys = [name for name in CONDITION if name in table.columns]
    each = of_blocks(table).filter(sample=RANDOM).drop_nulls("correlation")
    each = each.unique([*keys, "model", "timestep", "position"], maintain_order=True)
    if each.is_empty():
        return Findings((), None)
    each = each.with_columns(condition=pl.Series(told_apart(each), dtype=pl.String))
    parts = [
        part.with_columns(p=pl.Series(statistics.holm(part["p"].cast(pl.Float64).to_numpy())))
        for part in each.partition_by([*keys, "model"], maintain_order=True)
    ]
    return Findings([_sentence(part) for part in parts], pl.concat(parts).drop("condition"))


def _sentence(rows: pl.DataFrame) -> str:
    row = rows.sort("correlation", descending=True, maintain_order=True).row(0, named=True)
    name = f"{row['model']} on {row['dataset']}{row['condition']}"
    place = where(row["position"], row["timestep"])
    if row["low"] is None:
        return (
            f"{name}: norms of tokens and of their best matches in other images have a correlation "
            f"of {row['correlation']:.2f} in {place}, the highest of {len(rows)}; {row['images']} "
            "images are too few for an interval."
        )
    value = f"{row['correlation']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
    above = len(rows.filter(pl.col("p") < statistics.SIGNIFICANT))
    if not above:
        return (
            f"{name}: that the norm of a token goes with that of its best match in another image "
            f"is shown in none of {len(rows)} tests (after Holm's correction); the highest "
            f"correlation is {value}, in {place}."
        )
    return (
        f"{name}: the norm of a token goes with that of its best match in another image in {above} "
        f"of {len(rows)} tests (correlation above 0, after Holm's correction); the highest on "
        f"these {row['images']} images is {value}, in {place}."
    )
