"""How many tokens stand out by their norm, and how high it is over the layers.

Thesis, figure 24, and the bottom row of the paper's figure 2. Patches are found at one position, by
a robust rule or a file of labels (:mod:`reprscope.measures.anomalies`), and followed through all
layers: the mean norm of a patch's tokens over the mean norm of all tokens of its map. The published
curves rest on labels by hand; their bands are one standard deviation of the labels, here 95 %
intervals of the mean, over images.

Where patches are found by their norm, the norm is high there by selection. The token of the highest
norm of every image is measured beside them, found at the same position without a threshold: it is
there in a model without anomalies, and says how far selection alone goes.

The rule is not calibrated, so that one number of anomalies says little. The share of tokens that
stand out is a curve over thresholds, beside the share of those that stand out downwards, by the
same rule. Noise about a smooth map makes either alike; that a model has anomalies is claimed only
where more images have more of the first (sign test over images). Where a file of labels is given,
the rule's agreement with it stands over thresholds: precision, recall, IoU and Cohen's kappa.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from reprscope.measures.anomalies import (
    AGREEMENT,
    OUTCOMES,
    PATCHES,
    Detection,
    agreement,
    anomalous,
    covered,
    deciding,
    find,
    maps,
    norm_map,
    outcomes,
    patch_means,
    scores,
    standing_out,
)
from reprscope.measures.statistics import FEWEST_UNITS, SIGNIFICANT, holm, ratio
from reprscope.models.labels import block_label
from reprscope.runtime.errors import UserError
from reprscope.tasks._findings import CONDITION, Findings, interval, told_apart
from reprscope.tasks._pictures import finite_tokens, frame

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reprscope.data.canonical import Annotations
    from reprscope.representations.store import Representations

NEEDS: Final[frozenset[str]] = frozenset()
STORES: Final = frozenset({"tokens"})
PROTOCOL: Final[frozenset[str]] = frozenset()
TABLE_COLUMNS: Final = (
    "kind",
    "group",
    "detected",
    "images",
    "all_images",
    "image_share",
    "patches",
    "patch_share",
    "relative_norm",
    "threshold",
    "chosen",
    "score",
    "value",
    "low",
    "high",
    "all_tokens",
    "p",
)

GROUPS: Final = ("anomalies", "highest norm")
LABELLED: Final = "labels"
"""Stands in the column ``detected`` for a position if patches were labelled by hand."""

SHARES: Final = ("above", "below")
"""Columns of the numbers of tokens that stand out upwards and downwards."""

CURVES: Final = ("above the median", "below the median")
"""Scores that are the shares of these tokens."""

UNCALIBRATED: Final = (
    "The rule that finds anomalous tokens is not calibrated: of planted ones it finds another "
    "share in every model, so their numbers and norms do not compare between models."
)

_SCHEMA: Final = {
    "position": pl.String,
    "group": pl.String,
    "detected": pl.String,
    **PATCHES,
    "relative_norm": pl.Float64,
    "threshold": pl.Float64,
    **dict.fromkeys(SHARES, pl.Int64),
    **dict.fromkeys(OUTCOMES, pl.Int64),
    "provenance": pl.String,
}
_SUMMARY: Final = {
    "kind": pl.String,
    "position": pl.String,
    "group": pl.String,
    "detected": pl.String,
    "images": pl.Int32,
    "all_images": pl.Int32,
    "image_share": pl.Float64,
    "patches": pl.Int32,
    "patch_share": pl.Float64,
    "relative_norm": pl.Float64,
    "threshold": pl.Float64,
    "chosen": pl.Boolean,
    "score": pl.String,
    "value": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "all_tokens": pl.Int64,
    "p": pl.Float64,
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Parameters(Detection):
    """Settings of the task, beside those of the detection.

    Attributes
    ----------
    thresholds
        Scores over which the share of tokens that stand out, and the agreement with labels, are
        drawn; ``threshold`` is one of them in any case.
    """

    thresholds: tuple[float, ...] = (2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 16.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        # A study's list becomes a tuple here, so that parameters stay hashable.
        object.__setattr__(self, "thresholds", tuple(self.thresholds))
        usable = all(isinstance(one, int | float) and one > 0 for one in self.thresholds)
        if not usable or len(set(self.thresholds)) != len(self.thresholds):
            raise UserError(
                f"thresholds is {list(self.thresholds)}; list positive numbers, each only once."
            )

    @property
    def levels(self) -> list[float]:
        """All thresholds, ascending."""
        return sorted({*map(float, self.thresholds), float(self.threshold)})


def measure(
    representations: Representations, annotations: Annotations, parameters: Parameters
) -> pl.DataFrame:
    """Find the patches of all images and measure their norm at every position.

    Parameters
    ----------
    representations
        Features of the images.
    annotations
        Not used.
    parameters
        How patches are found.

    Returns ------- One row for each patch and position: ``position``, ``group`` (``anomalies`` or
    ``highest norm``, the token of the highest norm of each image), ``detected`` (position that
    decided, or ``labels``), ``image_id``, ``row``, ``col`` on a grid of ``height`` x ``width``
    tokens, ``score`` (null for labels), ``relative_norm``, ``provenance`` (what a file of labels
    states). And one row for each image and ``threshold``, with null ``group``, the position that
    the rule looks at, and the grid: the numbers of tokens that stand out ``above`` and ``below``,
    and with a file of labels those of each of :data:`reprscope.measures.anomalies.OUTCOMES`, on the
    grid where the rule looks.

    Raises
    ------
    UserError
        If patches cannot be found as the parameters say, or a feature is not finite.
    """
    images = sorted(representations.image_ids)
    anomalies = find(representations, parameters, images, kind="anomalies")
    highest = _highest(representations, parameters, images)
    patches = pl.concat(
        [
            anomalies.with_columns(group=pl.lit(GROUPS[0])),
            highest.with_columns(group=pl.lit(GROUPS[1])),
        ]
    )
    groups = patches.sort("image_id", maintain_order=True).partition_by(
        "image_id", "group", maintain_order=True
    )
    common = {
        "detected": LABELLED
        if parameters.labels is not None
        else deciding(representations, parameters, kind="anomalies"),
        "provenance": representations.origin,
    }
    frames = [_curve(representations, parameters, images, anomalies, common)]
    for position in representations.positions:
        relative = []
        image, norms = None, np.empty((0, 0))
        for found in groups:
            if found["image_id"][0] != image:
                image = found["image_id"][0]
                norms = norm_map(finite_tokens(representations, position, image, kind="anomalies"))
            relative.append(patch_means(norms, found) / norms.mean())
        frames.append(
            frame(
                _SCHEMA,
                **pl.concat(groups).to_dict(),
                position=position,
                relative_norm=np.concatenate(relative),
                **common,
            )
        )
        logger.info("measured %d anomalies at %s", len(anomalies), position)
    return pl.concat(frames)


def _curve(
    representations: Representations,
    parameters: Parameters,
    images: list[str],
    labelled: pl.DataFrame,
    common: dict[str, str],
) -> pl.DataFrame:
    """Tokens that stand out, and those that agree with the labels, of every image."""
    levels = parameters.levels
    truth = labelled.partition_by("image_id", as_dict=True)
    names = SHARES if parameters.labels is None else (*SHARES, *OUTCOMES)
    counts, grids = [], []
    for image, norms in maps(representations, parameters, images, kind="anomalies"):
        counted = standing_out(norms, levels, ratio=parameters.ratio)
        if parameters.labels is not None:
            found = np.stack(
                [anomalous(norms, threshold=one, ratio=parameters.ratio) for one in levels]
            )
            actual = covered(truth.get((image,), labelled.clear()), norms.shape)
            counted = np.concatenate([counted, outcomes(found, actual)])
        counts.append(counted)
        grids.append(norms.shape)
    return frame(
        _SCHEMA,
        position=deciding(representations, parameters, kind="anomalies"),
        image_id=np.repeat(images, len(levels)),
        threshold=levels * len(images),
        height=np.repeat([height for height, _ in grids], len(levels)),
        width=np.repeat([width for _, width in grids], len(levels)),
        **dict(zip(names, np.concatenate(counts, axis=1), strict=True)),
        **common,
    )


def _highest(
    representations: Representations, parameters: Parameters, images: list[str]
) -> pl.DataFrame:
    """Patch of the highest norm of every image."""
    rows: list[tuple[Any, ...]] = []
    for image, norms in maps(representations, parameters, images, kind="anomalies"):
        row, col = divmod(int(norms.argmax()), norms.shape[1])
        rows.append((image, row, col, *norms.shape, float(scores(norms)[row, col])))
    return pl.DataFrame(rows, schema=PATCHES, orient="row")


def summarise(measurements: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
    """Norms by layer, shares over thresholds and agreement with labels, with 95 % intervals.

    Parameters
    ----------
    measurements
        What :func:`measure` returns.
    parameters
        Settings of the task.

    Returns
    -------
    Rows of three kinds, with ``detected``, ``all_images`` and ``all_tokens`` (of their maps).
    "norm": one for each ``position`` and ``group``, with ``images`` (that have a patch of it),
    ``image_share``, ``patches``, ``patch_share`` (of all tokens), ``relative_norm`` (mean over
    patches; null if there are none), and its interval over images with a patch. "share": one for
    each ``threshold`` and ``score`` (:data:`CURVES`), where the rule looks: ``value`` (share
    of tokens that stand out so far), and ``p`` of the null that images with more tokens above are
    as many as those with more below (one-sided sign test). "agreement", with a file of labels:
    ``score`` (``precision``, ``recall``, ``IoU``, ``kappa``). ``chosen`` marks the
    threshold of the rule. Intervals are null for fewer than
    :data:`~reprscope.measures.statistics.FEWEST_UNITS` images.
    """
    images = measurements.filter(pl.col("group").is_null()).sort("threshold", "image_id")
    common = {
        "detected": images["detected"][0],
        "all_images": images["image_id"].n_unique(),
        "all_tokens": int(
            images.unique("image_id").select(pl.col("height") * pl.col("width")).to_series().sum()
        ),
    }
    rows = [
        *_norms(measurements.filter(pl.col("group").is_not_null()), common["all_tokens"]),
        *_over_thresholds(images, parameters.threshold),
    ]
    table = pl.DataFrame([common | row for row in rows], schema=_SUMMARY)
    return table.with_columns(
        pl.col(name).fill_nan(None) for name, kind in _SUMMARY.items() if kind.is_float()
    ).with_columns(image_share=pl.col("images") / pl.col("all_images"))


def _norms(patches: pl.DataFrame, tokens: int) -> list[dict[str, Any]]:
    """Relative norm at each position and group."""
    rows = []
    for group in GROUPS:
        of_group = patches.filter(pl.col("group") == group).sort("image_id", maintain_order=True)
        for position in patches["position"].unique(maintain_order=True):
            found = of_group.filter(pl.col("position") == position)
            row: dict[str, Any] = {
                "kind": "norm",
                "position": position,
                "group": group,
                "images": found["image_id"].n_unique(),
                "patches": len(found),
                "patch_share": len(found) / tokens,
            }
            if len(found):
                norms = found["relative_norm"].to_numpy()[:, None]
                over = ratio(norms, np.ones(len(found)), cluster=found["image_id"].to_numpy())
                names = ("relative_norm", "low", "high")
                bounds = over.interval()
                row |= {name: float(one[0]) for name, one in zip(names, bounds, strict=True)}
            rows.append(row)
    return rows


def _over_thresholds(images: pl.DataFrame, threshold: float) -> list[dict[str, Any]]:
    """Shares of tokens that stand out, and agreement with labels, at each threshold."""
    rows = []
    for (level,), found in images.group_by(["threshold"], maintain_order=True):
        at = {
            "position": found["position"][0],
            "threshold": level,
            "chosen": level == threshold,
        }
        tokens = (found["height"] * found["width"]).to_numpy()
        counts = found.select(SHARES).to_numpy()
        p = sign_test(counts[:, 0] - counts[:, 1])
        bounds = ratio(counts, tokens).share()
        for score, value, low, high in zip(CURVES, *bounds, strict=True):
            own = {"score": score, "value": value, "low": low, "high": high}
            rows.append({"kind": "share", **at, **own, "p": p if score == CURVES[0] else None})
        if found[OUTCOMES[0]].is_not_null().all():
            told = agreement(found.select(OUTCOMES).to_numpy())
            for score, value, low, high in zip(AGREEMENT, *told, strict=True):
                own = {"score": score, "value": value, "low": low, "high": high}
                rows.append({"kind": "agreement", **at, **own})
    return rows


def sign_test(differences: Sequence[int] | np.ndarray[Any, Any]) -> float | None:
    """One-sided p-value that positive differences are no likelier than negative ones.

    Exact, by the binomial distribution of the signs; those of 0 do not count. None with fewer than
    :data:`~reprscope.measures.statistics.FEWEST_UNITS` images altogether.
    """
    from scipy import stats

    values = np.asarray(differences)
    if len(values) < FEWEST_UNITS:
        return None
    positive, negative = int((values > 0).sum()), int((values < 0).sum())
    if positive + negative == 0:
        return 1.0
    return float(stats.binomtest(positive, positive + negative, 0.5, alternative="greater").pvalue)


def findings(table: pl.DataFrame) -> Findings:
    """How many tokens stand out in each model, whether noise would do as much, and their norm.

    A model is said to have anomalies where the sign test over images says so, adjusted for the
    number of sentences (Holm), or where they were labelled by hand.
    """
    keys = [c for c in ("model", *CONDITION, "timestep") if c in table.columns]
    # Where a study does not measure the position that the rule looks at, there is no curve of it.
    looked = pl.col("kind").eq("share").any().over(keys)
    parts = table.filter(looked).partition_by(keys, maintain_order=True)
    if not parts:
        return Findings((), None)
    rule = [
        part.filter(kind="share", chosen=True, score=CURVES[0]).row(0, named=True) for part in parts
    ]
    adjusted = holm(np.array([row["p"] if row["p"] is not None else np.nan for row in rule]))
    under = told_apart(pl.concat([part.head(1) for part in parts]))
    sentences = []
    for part, p, text in zip(parts, adjusted, under, strict=True):
        sentences += _sentences(part, float(p), text)
    if table["model"].n_unique() > 1 and not (table["detected"] == LABELLED).all():
        sentences.append(UNCALIBRATED)
    return Findings(sentences, table.filter(pl.col("kind") != "norm", "chosen"))


def _sentences(part: pl.DataFrame, p: float, under: str) -> list[str]:
    """Sentences on one model and condition."""
    norms = part.filter(pl.col("kind") == "norm")
    found = norms.filter(pl.col("group") == GROUPS[0])
    first = found.row(0, named=True)
    labelled = first["detected"] == LABELLED
    where = f"{first['model']} at t = {first['timestep']} ({first['dataset']}){under}"
    shares = {row["score"]: row for row in part.filter(kind="share", chosen=True).to_dicts()}
    above = shares[CURVES[0]]
    counted = [round(shares[one]["value"] * first["all_tokens"]) for one in CURVES]
    sentences = []
    if labelled:
        sentences.append(
            f"{first['patches']} anomalous patches were labelled in {first['images']} of "
            f"{first['all_images']} images of {where}."
        )
        told = part.filter(kind="agreement", chosen=True).drop_nulls("value")
        said = [
            f"{row['score']} {interval(row['value'], row['low'], row['high'])}"
            if row["score"] != "kappa"
            else f"kappa {_number(row['value'], row['low'], row['high'])}"
            for row in told.iter_rows(named=True)
        ]
        sentences.append(
            f"At the threshold {above['threshold']:g} the rule agrees with these labels by "
            f"{', '.join(said)}."
        )
    elif not first["patches"]:
        sentences.append(
            f"No token of {where} stands out in {block_label(first['detected'])}, in "
            f"{first['all_images']} images."
        )
    else:
        share = f"{_percent(above)} of tokens"
        counts = (
            f"In {block_label(first['detected'])} of {where} {counted[0]} tokens ({share}) in "
            f"{first['images']} of {first['all_images']} images stand out above the others of "
            f"their map, {counted[1]} as far below"
        )
        if p < SIGNIFICANT:
            sentences.append(
                f"{counts}: more than noise about a smooth map explains (sign test {_p(p)})."
            )
        else:
            reason = f"sign test {_p(p)}" if np.isfinite(p) else "too few images to test"
            sentences.append(f"{counts}: noise about a smooth map may explain them ({reason}).")
    for group in GROUPS:
        of_group = norms.filter(pl.col("group") == group).drop_nulls("relative_norm")
        if of_group.is_empty() or (group == GROUPS[0] and not (labelled or p < SIGNIFICANT)):
            continue
        sentences.append(_reach(of_group, group, labelled))
    return sentences


def _reach(norms: pl.DataFrame, group: str, labelled: bool) -> str:
    """Norm where patches were found, and the highest over the layers, which describes."""
    top = norms.sort("relative_norm", descending=True, maintain_order=True).row(0, named=True)
    what = (
        "Their mean norm"
        if group == GROUPS[0]
        else ("The mean norm of the token of the highest norm of each image")
    )
    said = (
        f"{what} is highest of {len(norms)} layers on these images in "
        f"{block_label(top['position'])}: {_number(top['relative_norm'])} times that of their map"
    )
    own = norms.filter(pl.col("position") == pl.col("detected"))
    if not labelled and len(own) and own["position"][0] != top["position"]:
        row = own.row(0, named=True)
        said += (
            f"; where they were looked for, it is high by selection: "
            f"{_number(row['relative_norm'], row['low'], row['high'])}"
        )
    return f"{said}."


def _number(value: float, low: float | None = None, high: float | None = None) -> str:
    return f"{value:.2f}" + (f" [{low:.2f}, {high:.2f}]" if low is not None else "")


def _percent(row: dict[str, Any]) -> str:
    """A share of which little is left at one decimal."""
    bounds = "" if row["low"] is None else f" [{100 * row['low']:.3f}, {100 * row['high']:.3f}]"
    return f"{100 * row['value']:.3f} %{bounds}"


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
