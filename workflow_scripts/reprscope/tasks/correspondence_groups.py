"""PCK of parts of the pairs: of each category, and by what makes pairs hard.

Published tables of correspondence have a column for each of SPair-71k's 18 categories and one for
their mean (DIFT, table 1; GeoAware-SC, table 1). SPair-71k also says of each pair how much
viewpoint and scale differ, and whether source, target or both are truncated or occluded (Min et
al. 2019, table 2).

The matches are those of :mod:`reprscope.tasks.correspondence`, with all its settings. Parts of the
pairs are described, each with its own interval; nothing is concluded from one part being above
another, because there are as many comparisons as pairs of parts.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from reprscope.base.protocol import Coordinates
from reprscope.measures.metrics import pck
from reprscope.runtime.errors import UserError
from reprscope.tasks import correspondence
from reprscope.tasks._findings import Findings, best, interval, told_apart, where
from reprscope.tasks._keypoints import SPLITS

if TYPE_CHECKING:
    from reprscope.data.canonical import Annotations
    from reprscope.representations.store import Representations

NEEDS: Final = correspondence.NEEDS
STORES: Final = correspondence.STORES
PROTOCOL: Final = correspondence.PROTOCOL
TABLE_COLUMNS: Final = (
    "split",
    "estimator",
    "alpha",
    "by",
    "value",
    "average",
    "points",
    "pairs",
    "images",
    "pck",
    "low",
    "high",
)

EVERY: Final = "all"
"""Value of the column ``value`` in rows of all pairs together."""

CATEGORY: Final = "category"

_SIDES: Final = ("none", "source", "target", "both")
_EASE: Final = ("easy", "medium", "hard")

DIFFICULTIES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "viewpoint": ("viewpoint_variation", _EASE),
    "scale": ("scale_variation", _EASE),
    "truncation": ("truncation", _SIDES),
    "occlusion": ("occlusion", _SIDES),
}
"""Column of the pairs, and what its numbers from 0 mean, in SPair-71k's words."""

_SUMMARY: Final[dict[str, Any]] = {
    "position": pl.String,
    "split": pl.String,
    "estimator": pl.String,
    "alpha": pl.Float64,
    "by": pl.String,
    "value": pl.String,
    "average": pl.String,
    "points": pl.Int32,
    "pairs": pl.Int32,
    "images": pl.Int32,
    "pck": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
}


@dataclass(frozen=True, kw_only=True)
class Parameters(correspondence.Parameters):
    """Settings of the measure: those of correspondence, and the parts.

    Attributes
    ----------
    by
        What pairs are told apart by, some of ``category``, ``viewpoint``, ``scale``,
        ``truncation`` and ``occlusion``. All but ``category`` need a dataset whose pairs say how
        hard they are, as those of SPair-71k.
    """

    by: tuple[str, ...] = (CATEGORY,)

    def __post_init__(self) -> None:
        super().__post_init__()
        known = (CATEGORY, *DIFFICULTIES)
        if not self.by or not set(self.by) <= set(known) or len(set(self.by)) != len(self.by):
            raise UserError(f"by is {list(self.by)}; list some of {', '.join(known)}, each once.")


def needs(parameters: Parameters) -> frozenset[str]:
    """Annotations that these settings need beside :data:`NEEDS`."""
    return frozenset({"difficulties"} if set(parameters.by) & set(DIFFICULTIES) else ())


companions = correspondence.companions


def measure(
    representations: Representations,
    annotations: Annotations,
    parameters: Parameters,
    *,
    coordinates: Coordinates = "centred",
    companions: Mapping[str, Representations] | None = None,
    companion_protocols: Mapping[str, Mapping[str, Any]] | None = None,
) -> pl.DataFrame:
    """Predict every keypoint, as :func:`reprscope.tasks.correspondence.measure` does.

    Returns
    -------
    Its rows, with a column (text) for each of ``by``.

    Raises
    ------
    UserError
        As there, and if a pair's difficulty is a number without a meaning.
    """
    found = correspondence.measure(
        representations,
        annotations,
        parameters,
        coordinates=coordinates,
        companions=companions,
        companion_protocols=companion_protocols,
    )
    pairs = annotations.pairs().select("pair_id", "split", *_levels(annotations, parameters))
    return found.join(pairs, on=["pair_id", "split"], how="left", maintain_order="left")


def _levels(annotations: Annotations, parameters: Parameters) -> list[pl.Series]:
    """Words for the difficulties of each pair."""
    pairs = annotations.pairs()
    series = []
    for name in parameters.by:
        if name == CATEGORY:
            continue
        column, words = DIFFICULTIES[name]
        unknown = pairs.filter(~pl.col(column).is_between(0, len(words) - 1).fill_null(False))
        if len(unknown):
            raise UserError(
                f"correspondence_groups: {column} of pair '{unknown['pair_id'][0]}' is "
                f"{unknown[column][0]}, which is none of 0 to {len(words) - 1}; correct the "
                "dataset's pairs."
            )
        meaning = dict(enumerate(words))
        series.append(pairs[column].replace_strict(meaning, return_dtype=pl.String).alias(name))
    return series


def summarise(measurements: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
    """PCK of every part of the pairs, with 95 % intervals over images.

    Returns
    -------
    ``position``, ``split``, ``estimator``, ``alpha``; ``by`` and ``value``, which part (``all``:
    all pairs); ``average`` (``point`` or ``pair``, and of all pairs ``category``, the mean over
    categories); ``points``, ``pairs`` and ``images`` of the part; ``pck``, ``low``, ``high`` (null
    with too few images). The estimators without features are repeated at every position.
    """
    positions = measurements["position"].drop_nulls().unique(maintain_order=True).to_list()
    names = [
        name for name in ("cosine", "plain") if name in measurements["estimator"].unique().to_list()
    ]
    alphas = parameters.alphas
    scored = correspondence.pair_scores(measurements, alphas, strict=parameters.strict)
    further = [name for name in parameters.by if name != CATEGORY]
    levels = measurements.select("pair_id", "split", *further).unique(maintain_order=True)
    rows: list[tuple[object, ...]] = []
    for split in SPLITS:
        of_split = scored.filter(pl.col("split") == split)
        if of_split.is_empty():
            continue
        series = {
            (name, position): of_split.filter(estimator=name, position=position)
            for name in names
            for position in positions
        }
        series |= {
            (name, None): of_split.filter(estimator=name) for name in correspondence.BASELINES
        }
        # All series score the same pairs, in one order.
        pairs = next(iter(series.values())).join(
            levels, on=["pair_id", "split"], how="left", maintain_order="left"
        )
        hits = pl.concat(
            [
                one.select(pl.col(str(alpha)).alias(f"{number}, {alpha}") for alpha in alphas)
                for number, one in enumerate(series.values())
            ],
            how="horizontal",
        ).to_numpy()
        for by, value, part in _parts(pairs, parameters.by):
            own = pairs.filter(part)
            images = pl.concat([own["source_id"], own["target_id"]]).n_unique()
            averages = pck(
                hits[part.to_numpy()],
                *(own[c].to_numpy() for c in ("points", "source_id", "target_id", "category")),
            )
            if value != EVERY:
                # The mean over the categories of a part that lacks some is none over categories.
                del averages["category"]
            shares = {average: found.share() for average, found in averages.items()}
            for (number, (name, only)), (i, alpha) in itertools.product(
                enumerate(series), enumerate(alphas)
            ):
                for position, (average, bounds) in itertools.product(
                    positions if only is None else [only], shares.items()
                ):
                    found = (
                        correspondence.known(bound[number * len(alphas) + i]) for bound in bounds
                    )
                    rows.append(
                        (position, split, name, alpha, by, value, average,
                         own["points"].sum(), len(own), images, *found)
                    )  # fmt: skip
    return pl.DataFrame(rows, schema=_SUMMARY, orient="row")


def _parts(pairs: pl.DataFrame, by: tuple[str, ...]) -> list[tuple[str, str, pl.Series]]:
    """What the parts are by, their values, and (pairs,) which pairs they hold; first all."""
    parts = []
    for name in by:
        parts.append((name, EVERY, pl.Series([True] * len(pairs))))
        there = pairs[name].unique().to_list()
        order = sorted(there) if name == CATEGORY else DIFFICULTIES[name][1]
        parts += [(name, value, pairs[name] == value) for value in order if value in there]
    return parts


def findings(table: pl.DataFrame) -> Findings:
    """Describe the parts in the best block of each model."""
    alphas = table["alpha"].unique().sort()
    alpha = alphas[int((alphas - 0.1).abs().arg_min() or 0)]
    own = table.filter(
        (pl.col("average") == "point")
        & (pl.col("alpha") == alpha)
        & (pl.col("estimator") == "cosine")
    )
    first = own["by"].unique(maintain_order=True).to_list()[:1]
    chosen = best(own.filter(pl.col("by").is_in(first), value=EVERY), "pck", units="pairs")
    keys = [c for c in ("task", "dataset", "view", "resolution", "prompt", "seed", "protocol",
                        "model", "position", "timestep", "split") if c in own.columns]  # fmt: skip
    sentences = []
    for row, under in zip(chosen.iter_rows(named=True), told_apart(chosen), strict=True):
        here = own.filter(**{key: row[key] for key in keys}).filter(pl.col("value") != EVERY)
        told = [_told(here.filter(by=by), by) for by in here["by"].unique(maintain_order=True)]
        sentences.append(
            f"PCK@{alpha:g} of {row['model']} on {row['dataset']}{under} in "
            f"{where(row['position'], row['timestep'])}, {row['split']} pairs: {'; '.join(told)}."
        )
    return Findings(sentences, chosen)


def _told(rows: pl.DataFrame, by: str) -> str:
    def share(row: Mapping[str, Any]) -> str:
        return f"{row['value']} {interval(row['pck'], row['low'], row['high'])}"

    if by != CATEGORY:
        return f"by {by} " + ", ".join(share(row) for row in rows.iter_rows(named=True))
    ordered = rows.sort("pck", maintain_order=True)
    if len(ordered) == 1:
        return f"of one category, {share(ordered.row(0, named=True))}"
    lowest, highest = (share(ordered.row(i, named=True)) for i in (0, -1))
    return f"of {len(rows)} categories from {lowest} to {highest}"
