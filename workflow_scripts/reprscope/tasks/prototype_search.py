"""Search for anomalous tokens by their cosine similarity to a prototype.

Thesis, figure 23: the mean of the anomalous tokens of one dataset finds those of another, so that
anomalies have a direction in common beside their high norm. A token counts as found if its
similarity to the prototype reaches a threshold; what is to be found are the tokens of the patches
of :mod:`reprscope.measures.anomalies`. The published figure shows counts over thresholds, without
saying which threshold one would take; here it is the one of the highest F1 on validation images,
and so is the position, and the scores are those on test images. Without enough validation images
nothing is chosen, and the report describes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from reprscope.measures.anomalies import (
    OUTCOMES,
    Detection,
    covered,
    find,
    outcomes,
    patch_means,
    shares,
)
from reprscope.measures.similarity import cosine
from reprscope.measures.statistics import FEWEST_TO_CHOOSE
from reprscope.runtime.errors import UserError
from reprscope.tasks._findings import CONDITION, Findings, best, interval, superlative, told_apart
from reprscope.tasks._pictures import finite_tokens, frame

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reprscope.data.canonical import Annotations
    from reprscope.representations.store import Representations

NEEDS: Final[frozenset[str]] = frozenset()
STORES: Final = frozenset({"tokens"})
PROTOCOL: Final[frozenset[str]] = frozenset()
TABLE_COLUMNS: Final = (
    "split",
    "threshold",
    "score",
    "value",
    "low",
    "high",
    "chosen",
    "true_positives",
    "false_positives",
    "false_negatives",
    "images",
    "tokens",
    "patches",
)

COMPANION: Final = "prototype"
SCORES: Final = ("precision", "recall", "F1")
COUNTS: Final = OUTCOMES[:3]

_SCHEMA: Final = {
    "position": pl.String,
    "image_id": pl.String,
    "split": pl.String,
    "patches": pl.Int32,
    "threshold": pl.Float64,
    **dict.fromkeys(COUNTS, pl.Int32),
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Parameters(Detection):
    """Settings of the task, beside those of the detection.

    Attributes
    ----------
    prototype
        Representations whose anomalous tokens make the prototype: ``dataset``, of which all images
        count, and what else differs from the searched ones, such as ``resolution`` or ``view``.
        Empty for the training images of the dataset that is searched.
    prototype_labels
        File of labels of these, as ``labels`` is of the searched ones.
    thresholds
        Cosine similarities from which a token is found.
    """

    prototype: Mapping[str, Any] = field(default_factory=dict)
    prototype_labels: str | None = None
    thresholds: tuple[float, ...] = tuple(round(0.7 + 0.02 * step, 2) for step in range(15))

    def __post_init__(self) -> None:
        super().__post_init__()
        # A study's list becomes a tuple here, so that parameters stay hashable.
        object.__setattr__(self, "thresholds", tuple(self.thresholds))
        usable = all(isinstance(one, int | float) and -1 <= one <= 1 for one in self.thresholds)
        if not self.thresholds or not usable or len(set(self.thresholds)) != len(self.thresholds):
            raise UserError(
                f"thresholds is {list(self.thresholds)}; "
                "list at least one number from -1 to 1, and each only once."
            )
        if "dataset" not in self.prototype and (self.prototype or self.prototype_labels):
            raise UserError(
                "prototype has no dataset; write `prototype: {dataset: NAME}`, or leave it and "
                "prototype_labels out for a prototype of the searched dataset's training images."
            )

    @property
    def files(self) -> list[str]:
        """Local files that these settings name."""
        return [*super().files, *([self.prototype_labels] if self.prototype_labels else [])]


def companions(parameters: Parameters) -> dict[str, dict[str, Any]]:
    """Representations that make the prototype."""
    return {COMPANION: dict(parameters.prototype)} if parameters.prototype else {}


def measure(
    representations: Representations,
    annotations: Annotations,
    parameters: Parameters,
    *,
    companions: Mapping[str, Representations] | None = None,
) -> pl.DataFrame:
    """Search the images for tokens like the prototype, at every position and threshold.

    Parameters
    ----------
    representations
        Features of the searched images.
    annotations
        Splits of these images.
    parameters
        How patches are found, and the thresholds.
    companions
        Features of the images that make the prototype, if they are of another dataset.

    Returns
    -------
    One row for each position, image and threshold: ``position``, ``image_id``, ``split``,
    ``patches`` (of which the prototype is the mean), ``threshold``, and the numbers of tokens
    ``true_positives``, ``false_positives``, ``false_negatives``. All splits if the prototype is of
    another dataset, else validation and test. Without a patch there is no prototype, and no token
    is found.

    Raises
    ------
    UserError
        If patches cannot be found as the parameters say, or a feature is not finite.
    """
    splits = dict(annotations.images().select("image_id", "split").iter_rows())
    images = sorted(representations.image_ids)
    if companions:
        source = companions[COMPANION]
        made_of = sorted(source.image_ids)
        detection: Detection = replace(parameters, labels=parameters.prototype_labels)
    else:
        source, detection = representations, parameters
        made_of = [image for image in images if splits[image] == "train"]
        images = [image for image in images if splits[image] != "train"]
        if not made_of or not images:
            raise UserError(
                "prototype_search: the dataset has no training images for the prototype, or no "
                "others to search; name another dataset that makes it in `prototype`."
            )
    model = find(source, detection, made_of, kind="prototype_search")
    wanted = find(representations, parameters, images, kind="prototype_search")
    truth = wanted.partition_by("image_id", as_dict=True)
    found = []
    for position in representations.positions:
        prototype = _prototype(source, position, model)
        for image in images:
            tokens = finite_tokens(representations, position, image, kind="prototype_search")
            actual = covered(truth.get((image,), wanted.clear()), tokens.shape[:2])
            found.append(
                (position, image, _counts(tokens, prototype, actual, parameters.thresholds))
            )
        logger.info("searched %s by a prototype of %d patches", position, len(model))
    size = len(parameters.thresholds)
    names = np.array([image for _, image, _ in found]).repeat(size)
    return frame(
        _SCHEMA,
        position=np.array([position for position, _, _ in found]).repeat(size),
        image_id=names,
        split=[splits[name] for name in names],
        patches=len(model),
        threshold=np.tile(parameters.thresholds, len(found)),
        **dict(zip(COUNTS, np.concatenate([c for _, _, c in found], axis=1), strict=True)),
    )


def _prototype(
    source: Representations, position: str, patches: pl.DataFrame
) -> NDArray[np.float64] | None:
    """Mean token (channels,) of the patches; None if there are none."""
    if patches.is_empty():
        return None
    tokens = [
        patch_means(
            finite_tokens(source, position, found["image_id"][0], kind="prototype_search"), found
        )
        for found in patches.partition_by("image_id", maintain_order=True)
    ]
    return np.asarray(np.concatenate(tokens).mean(axis=0))


def _counts(
    tokens: NDArray[np.float32],
    prototype: NDArray[np.float64] | None,
    actual: NDArray[np.bool_],
    thresholds: tuple[float, ...],
) -> NDArray[np.int64]:
    """True positives, false positives and false negatives, (3, thresholds)."""
    if prototype is None:
        found = np.zeros((len(thresholds), *actual.shape), dtype=bool)
    else:
        similarity = cosine(prototype[None], tokens.reshape(-1, tokens.shape[-1]))
        found = similarity.reshape(actual.shape) >= np.array(thresholds)[:, None, None]
    return outcomes(found, actual)[: len(COUNTS)]


def summarise(measurements: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
    """Precision, recall and F1 over thresholds, with 95 % intervals over images.

    Parameters
    ----------
    measurements
        What :func:`measure` returns.
    parameters
        Settings of the task.

    Returns ------- ``position``, ``split``, ``threshold``, ``score`` (``precision``, ``recall``,
    ``F1``), ``value`` (null where nothing was found, or is to be found), ``low``, ``high``,
    ``chosen`` (whether the threshold has the highest F1 on validation images, the lowest of equals;
    false everywhere with fewer than :data:`~reprscope.measures.statistics.FEWEST_TO_CHOOSE` of
    them), the counts ``true_positives``, ``false_positives``, ``false_negatives`` (alike beside
    each score), ``images``, ``tokens`` (to be found), ``patches`` (of which the prototype is the
    mean).
    """
    positions = measurements["position"].unique(maintain_order=True).to_list()
    frames = []
    for split in ("train", "validation", "test"):
        for position in positions:
            rows = measurements.filter(split=split, position=position).sort("image_id", "threshold")
            if len(rows):
                frames.append(_scores(rows, split))
    table = pl.concat(frames)
    judged = (
        (pl.col("split") == "validation")
        & (pl.col("score") == "F1")
        & (pl.col("images") >= FEWEST_TO_CHOOSE)
    )
    chosen = (
        table.filter(judged)
        .drop_nulls("value")
        .sort(-pl.col("value"), "threshold", maintain_order=True)
        .unique("position", keep="first", maintain_order=True)
        .select("position", "threshold", chosen=True)
    )
    return (
        table.join(chosen, on=["position", "threshold"], how="left", maintain_order="left")
        .with_columns(pl.col("chosen").fill_null(value=False))
        .select(*table.columns[:7], "chosen", *table.columns[7:])
    )


def _scores(rows: pl.DataFrame, split: str) -> pl.DataFrame:
    """Scores of one position and split; rows sorted by image and threshold."""
    thresholds = rows["threshold"].unique().sort()
    images = len(rows) // len(thresholds)
    hit, wrong, missed = (
        rows[name].to_numpy().reshape(images, -1).astype(np.float64) for name in COUNTS
    )
    bounds = shares(
        np.concatenate([hit, hit, 2 * hit], axis=1),
        np.concatenate([hit + wrong, hit + missed, 2 * hit + wrong + missed], axis=1),
    )
    size = len(SCORES) * len(thresholds)
    totals = {
        name: pl.Series(np.tile(part.sum(axis=0), len(SCORES)).astype(np.int64))
        for name, part in zip(COUNTS, (hit, wrong, missed), strict=True)
    }
    return pl.DataFrame(
        {
            "position": rows["position"][0],
            "split": split,
            "threshold": pl.concat([thresholds] * len(SCORES)),
            "score": np.repeat(SCORES, len(thresholds)).tolist(),
            "value": bounds.value,
            "low": bounds.low,
            "high": bounds.high,
            **totals,
            "images": pl.Series([images] * size, dtype=pl.Int32),
            "tokens": pl.Series([int((hit + missed)[:, 0].sum())] * size, dtype=pl.Int32),
            "patches": pl.Series([rows["patches"][0]] * size, dtype=pl.Int32),
        }
    ).with_columns(pl.col("value", "low", "high").fill_nan(None))


def findings(table: pl.DataFrame) -> Findings:
    """How well the prototype of each model finds test tokens, where and at what threshold.

    Where a threshold was chosen on validation images, positions compare at theirs, otherwise at the
    threshold of the highest F1 on the images that are described.
    """
    group = [c for c in ("model", *CONDITION) if c in table.columns]
    place = [*group, "timestep", "position"]
    f1 = table.filter(pl.col("score") == "F1", pl.col("tokens") > 0, pl.col("patches") > 0)
    taken = (
        f1.drop_nulls("value")
        .with_columns(firm_threshold=pl.col("chosen").any().over(place))
        .filter(
            pl.when("firm_threshold")
            .then("chosen")
            .otherwise(pl.col("value") == pl.col("value").max().over(*place, "split"))
        )
        .unique([*place, "split"], keep="first", maintain_order=True)
    )
    sentences = []
    for none in table.join(taken.filter(split="test"), on=group, how="anti").partition_by(
        group, maintain_order=True
    ):
        test = none.filter(split="test")
        sentences.append(
            f"Nothing can be said of a search in {none['model'][0]} on {none['dataset'][0]}: the "
            f"prototype has {none['patches'][0]} anomalous patches, and "
            f"{max(test['tokens'].to_list(), default=0)} anomalous tokens of test images are to be "
            "found."
        )
    chosen = best(taken, "value")
    said = [
        _sentence(row, under, table.filter(*(pl.col(c) == row[c] for c in (*place, "split"))))
        for row, under in zip(chosen.iter_rows(named=True), told_apart(chosen), strict=True)
    ]
    return Findings([*said, *sentences], chosen.drop("firm_threshold"))


def _sentence(row: dict[str, Any], under: str, same: pl.DataFrame) -> str:
    """Sentence on a row of F1, with the other scores of the same place and threshold."""
    firm = row["firm"] and row["firm_threshold"]
    how = "chosen with it" if firm else f"the highest of {same['threshold'].n_unique()} on them"
    subject = (
        f"F1 of a search of {row['model']} on {row['dataset']}{under} for {row['tokens']} "
        f"anomalous tokens by the mean of {row['patches']} anomalous patches, from a cosine of "
        f"{row['threshold']:g} on ({how}),"
    )

    def written(value: float, low: float | None, high: float | None) -> str:
        return interval(value, low, high) if firm else interval(value)

    others = [
        f"{one['score']} {written(one['value'], one['low'], one['high'])}"
        for one in same.filter(pl.col("score") != "F1", threshold=row["threshold"])
        .drop_nulls("value")
        .iter_rows(named=True)
    ]
    return f"{superlative(row, subject, 'value', form=written)}; {', '.join(others)}."
