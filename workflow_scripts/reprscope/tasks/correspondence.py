"""Zero-shot semantic correspondence by the most similar token.

Thesis, section "semantic correspondence" and figures 7 to 9; the measure of DIFT (Tang et al. 2023)
on pairs in the form of SPair-71k. For every keypoint of a source image the target token of the
highest cosine similarity is found, and the centre of that token, mapped back to the original target
image, is the prediction. Three estimators that see no features are scored on the same keypoints:

``random``
    A uniformly random point of the target image. Its score is the exact expectation, so that no
    single point is stored (the thesis averages 1000 draws; figure 9).
``same_position``
    The source point's pixel coordinates in the original images, as in the thesis (figure 9).
``same_place_in_box``
    The same relative place in the target's bounding box.

All points are in original pixels: a prediction is mapped back before it is compared, because a view
that scales the axes differently would turn PCK's disk into an ellipse. The thesis compares in
encoded pixels instead, after cutting points and boxes to whole ones (``coordinates`` of its
protocol); its estimators without features are in original pixels all the same, so that they do not
depend on the protocol.
"""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from reprscope.coordinates import token_centre
from reprscope.errors import UserError
from reprscope.findings import Findings, chosen_on_validation, interval, where
from reprscope.metrics import correct, pck, random_correct, same_place_in_box
from reprscope.protocol import Coordinates
from reprscope.seeds import item_seed
from reprscope.tasks._keypoints import (
    COLUMNS,
    CORNERS,
    SIDES,
    SPLITS,
    boxes,
    in_whole_encoded_pixels,
    of_pairs,
)
from reprscope.tasks._matching import Maps, Memory, Queries, Stored, columns, search_pairs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reprscope.data.canonical import Annotations
    from reprscope.store import Representations

NEEDS: Final = frozenset({"pairs"})
STORES: Final = frozenset({"tokens"})
PROTOCOL: Final = frozenset({"coordinates"})

BASELINES: Final = ("random", "same_position", "same_place_in_box")
_SUMMARY: Final = {
    "position": pl.String,
    "split": pl.String,
    "estimator": pl.String,
    "alpha": pl.Float64,
    "average": pl.String,
    "points": pl.Int32,
    "pairs": pl.Int32,
    "pck": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
}

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Settings of the measure.

    Attributes
    ----------
    alphas
        Fractions of the longer side of the target's bounding box within which a prediction is
        correct.
    bootstrap
        Number of resamples of the pairs for the 95 % intervals.
    seed
        Seed of the resamples.
    strict
        Count a prediction at exactly that distance as wrong (``<`` in place of ``<=``), as figure
        9 of the thesis does; it matters where predictions are whole pixels, as ``same_position``.
    """

    alphas: tuple[float, ...] = (0.05, 0.1, 0.15)
    bootstrap: int = 1000
    seed: int = 0
    strict: bool = False

    def __post_init__(self) -> None:
        # A study's list becomes a tuple here, so that parameters stay hashable.
        object.__setattr__(self, "alphas", tuple(self.alphas))
        usable = all(isinstance(alpha, int | float) and alpha > 0 for alpha in self.alphas)
        if not self.alphas or not usable or len(set(self.alphas)) != len(self.alphas):
            raise UserError(
                f"alphas is {list(self.alphas)}; "
                "list at least one positive number, and each only once."
            )
        if not isinstance(self.bootstrap, int) or self.bootstrap < 1:
            raise UserError(f"bootstrap is {self.bootstrap!r}; write a whole number from 1.")
        if not isinstance(self.seed, int):
            raise UserError(f"seed is {self.seed!r}; write a whole number.")
        if not isinstance(self.strict, bool):
            raise UserError(f"strict is {self.strict!r}; write true or false.")


def measure(
    representations: Representations,
    annotations: Annotations,
    parameters: Parameters,
    *,
    coordinates: Coordinates = "exact",
) -> pl.DataFrame:
    """Predict every keypoint of the validation and test pairs, at every position.

    Keypoints that a view moves out of its picture, for instance by a crop, are left out for all
    estimators, since no token stands for them.

    Parameters
    ----------
    representations
        Features of the pairs' images.
    annotations
        Pairs, and the sizes of the images.
    parameters
        Settings of the measure; what is measured does not depend on them.
    coordinates : {"exact", "integer"}
        With ``integer``, all coordinates and sizes in the rows of ``cosine`` are in pixels of the
        encoded images, points and boxes cut to whole ones (towards zero), as in the thesis.

    Returns
    -------
    One row for each keypoint of a pair and estimator, ``cosine`` at each position and the others
    once, with a null ``position``: ``position``, ``estimator``, ``pair_id``, ``split``,
    ``category``, ``keypoint``, ``source_id``, ``target_id``; in pixels of the original images
    ``source_x``, ``source_y``, ``target_x``, ``target_y``, the target's bounding box ``box_x0``,
    ``box_y0``, ``box_x1``, ``box_y1``, the target's size ``target_width``, ``target_height``, and
    ``predicted_x``, ``predicted_y`` (null for ``random``); ``similarity`` (cosine, float32, null
    without features).

    Raises
    ------
    UserError
        If there are no validation or test pairs, an image of a pair has no features, a keypoint
        lies outside its image, a bounding box is empty, or a feature is not finite.
    """
    points = of_pairs(annotations, representations, task="correspondence")
    source_xy, seen = points.source_xy, points.table
    if coordinates == "integer":
        source_xy, seen = np.trunc(source_xy), in_whole_encoded_pixels(points)
    frames = []
    memory = Memory()
    pixels = points.frames.pixels
    for position in representations.positions:
        reader = Stored(representations, position)
        maps = Maps(reader, points.frames.names, memory, task="correspondence", position=position)
        queries = Queries.at(points.source, source_xy, pixels, maps.grid)
        index, similarity = search_pairs(maps, queries, points.target, points.component)
        grid = maps.grid[points.target]
        row, col = np.divmod(index, grid[:, 1])
        predicted = token_centre(row, col, columns(pixels[points.target]), columns(grid))
        if coordinates == "exact":
            predicted = points.frames.back(points.target, predicted)
        frames.append(_rows(seen, "cosine", position, predicted, similarity))
        log.info("matched %d keypoints at %s", len(seen), position)
    table = points.table
    source = table.select("source_x", "source_y").to_numpy()
    in_box = same_place_in_box(source, boxes(table, "source_box"), boxes(table, "target_box"))
    predictions = {"random": None, "same_position": source, "same_place_in_box": in_box}
    frames += [_rows(table, name, None, predictions[name], None) for name in BASELINES]
    return pl.concat(frames)


def summarise(measurements: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
    """PCK of every position and estimator, with 95 % bootstrap intervals over pairs.

    Parameters
    ----------
    measurements
        What :func:`measure` returns.
    parameters
        Settings of the measure.

    Returns
    -------
    ``position``, ``split``, ``estimator``, ``alpha``, ``average`` (``point``, ``pair``,
    ``category``; see :func:`reprscope.metrics.pck`), ``points``, ``pairs``, ``pck``, ``low``,
    ``high``. The estimators without features are repeated at every position. All positions and
    estimators are scored on the same resamples of the pairs.
    """
    positions = measurements["position"].drop_nulls().unique(maintain_order=True).to_list()
    alphas = parameters.alphas
    scored = _scores(measurements, alphas, strict=parameters.strict)
    rows: list[tuple[object, ...]] = []
    for split in SPLITS:
        of_split = scored.filter(pl.col("split") == split)
        if of_split.is_empty():
            continue
        cosine = of_split.filter(pl.col("estimator") == "cosine")
        series = [cosine.filter(pl.col("position") == position) for position in positions]
        series += [of_split.filter(pl.col("estimator") == name) for name in BASELINES]
        # All series score the same keypoints, so that the first one's pairs are everyone's.
        pairs = series[0]
        averages = pck(
            np.concatenate([one.select(map(str, alphas)).to_numpy() for one in series], axis=1),
            pairs["points"].to_numpy(),
            pairs["category"].to_numpy(),
            replicates=parameters.bootstrap,
            seed=item_seed("correspondence", parameters.seed, split),
        )
        for number, position in enumerate(positions):
            of_estimator = {"cosine": number}
            of_estimator |= {name: len(positions) + i for i, name in enumerate(BASELINES)}
            for (estimator, one), (i, alpha), (average, bounds) in itertools.product(
                of_estimator.items(), enumerate(alphas), averages.items()
            ):
                column = one * len(alphas) + i
                scores = (float(bound[column]) for bound in bounds)
                counts = (pairs["points"].sum(), len(pairs))
                rows.append((position, split, estimator, alpha, average, *counts, *scores))
    return pl.DataFrame(rows, schema=_SUMMARY, orient="row")


def _rows(
    points: pl.DataFrame,
    estimator: str,
    position: str | None,
    predicted: NDArray[np.float64] | None,
    similarity: NDArray[Any] | None,
) -> pl.DataFrame:
    """Measurements of one estimator."""
    nothing = pl.lit(None, pl.Float64)
    return points.select(
        pl.lit(position, pl.String).alias("position"),
        pl.lit(estimator).alias("estimator"),
        *COLUMNS,
        *(f"{side}_{axis}" for side in SIDES for axis in "xy"),
        *(pl.col(f"target_box_{corner}").alias(f"box_{corner}") for corner in CORNERS),
        *(pl.col(f"target_{name}").cast(pl.Int32) for name in ("width", "height")),
        *(
            (nothing if predicted is None else pl.Series(predicted[:, i])).alias(
                f"predicted_{axis}"
            )
            for i, axis in enumerate("xy")
        ),
        (pl.lit(None, pl.Float32) if similarity is None else pl.Series(similarity)).alias(
            "similarity"
        ),
    )


def _scores(measurements: pl.DataFrame, alphas: tuple[float, ...], *, strict: bool) -> pl.DataFrame:
    """Count the correct keypoints of each pair: a column for each alpha, sorted."""
    keys = ["estimator", "position", "split", "pair_id", "category"]
    rows = measurements.sort(keys, maintain_order=True)
    target = rows.select("target_x", "target_y").to_numpy()
    predicted = rows.select("predicted_x", "predicted_y").to_numpy()
    size = rows.select("target_width", "target_height").to_numpy()
    box = boxes(rows, "box")
    random = (rows["estimator"] == "random").to_numpy()
    pair = rows.select(pl.struct(keys).rle_id()).to_series().to_numpy()
    columns = [pl.Series("points", np.bincount(pair))]
    for alpha in alphas:
        score = correct(predicted, target, box, alpha=alpha, strict=strict).astype(np.float64)
        score[random] = random_correct(target[random], box[random], size[random], alpha=alpha)
        # Not a polars sum, whose order, and so its last bit, may depend on the threads.
        columns.append(pl.Series(str(alpha), np.bincount(pair, weights=score)))
    return rows.select(keys).unique(maintain_order=True).with_columns(columns)


def findings(table: pl.DataFrame) -> Findings:
    """Best block of each model, chosen on the validation pairs, beside the estimators."""
    alphas = table["alpha"].unique().sort()
    alpha = alphas[int((alphas - 0.1).abs().arg_min() or 0)]
    scored = table.filter((pl.col("average") == "point") & (pl.col("alpha") == alpha))
    best = chosen_on_validation(scored.filter(pl.col("estimator") == "cosine"), "pck")
    sentences = [
        f"{row['model']} finds {interval(row['pck'], row['low'], row['high'])} of {row['points']} "
        f"test keypoints of {row['dataset']} within {alpha:g} of the target box in "
        f"{where(row['position'], row['timestep'])}."
        for row in best.iter_rows(named=True)
    ]
    others = scored.filter((pl.col("estimator") != "cosine") & (pl.col("split") == "test"))
    reached = others.unique(["dataset", "estimator"], keep="first", maintain_order=True)
    for row in reached.iter_rows(named=True):
        name = row["estimator"].replace("_", " ")
        share = interval(row["pck"], row["low"], row["high"])
        sentences.append(f"Without looking, the {name} estimator reaches {share} of them.")
    return Findings(sentences, best)
