"""Zero-shot semantic correspondence by the most similar token.

Thesis, section "semantic correspondence" and figures 7 to 9; the measure of DIFT (Tang et al. 2023)
on pairs in the form of SPair-71k. For every keypoint of a source image the target token of the
highest cosine similarity is found, and the centre of that token, mapped back to the original target
image, is the prediction. Four estimators that see no features are scored on the same keypoints:

``random``
    A uniformly random point of the target image. Its score is the exact expectation, so that no
    single point is stored (the thesis averages 1000 draws; figure 9).
``same_position``
    The source point's pixel coordinates in the original images, as in the thesis (figure 9).
``same_place_in_square``
    The same relative place of the encoded picture, for instance of the padded square: what a match
    of tokens that hold their place, or noise that all images share, finds.
``same_place_in_box``
    The same relative place in the target's bounding box.

All points are in original pixels: a prediction is mapped back before it is compared, because a view
that scales the axes differently would turn PCK's disk into an ellipse. The thesis compares in
encoded pixels instead, after cutting points and boxes to whole ones (``coordinates`` of its
protocol); its estimators without features are in original pixels all the same, so that they do not
depend on the protocol.

**Variants** change what is matched; the thesis tries ten in section 4.3. Each is an entry of the
study's ``tasks``, and they can be put together. In the rows of a variant ``plain`` is the same
match without it, so that its gain is measured on the same pairs. What the published code did
otherwise:

class prompt: ``variants: [{prompt: class}], own: false``
    With a prompt ``class: "{label}"``; the code passes the bare name of the category.
concatenation: ``concatenate: [up[1]]``
    Each position is joined with those named, normalised first and enlarged by repetition.
empty images: ``subtract: {dataset: empty}``
    The mean representation of empty images is subtracted. The code takes 20 black ones at timestep
    999, whatever the timestep of the images (``timestep: 999`` does so too), where an image is
    noise; their own timestep is right.
shifts of less than a token: ``variants: [{view: third-to-the-right}, ...], combine: nearest``
    With ``subdivide: 3``. The code interleaves the tokens of shifted images, as ``nearest`` does,
    and predicts a token's corner.
noise seeds, averaged: ``variants: [{seed: 1}, ...], combine: features``
    The mean of the representations.
noise seeds, maximum: ``variants: [{seed: 1}, ...], combine: max, across: true``
    The most similar of all combinations of a source and a target.
scales: ``variants: [{resolution: 256}, ...], combine: max, across: true``
    The code compares the maxima of maps of different grids; here they share the places.
flips: ``variants: [{view: mirrored}]``
    Similarities are averaged after the mirrored map is turned back.
padding: ``variants: [{view: padded}], own: false``
principal components: ``pca: 256``
    Of the tokens of all images of the pairs, at unit length. The code multiplies the projected
    tokens as they are; here it is their cosine.

**Read-outs** (``readout``) of other published numbers, see :mod:`reprscope.tasks._readout`. They
are variants as well, so that what they gain over the centre of the most similar token is measured:

``bilinear``
    DIFT's, who also squash the image to 768 pixels, write "a photo of a {class}" and average eight
    draws of noise: ``readout: bilinear, variants: [{seed: 1}, ..., {seed: 7}], combine: features``.
    The pixel that holds the source point is looked up, and a pixel is predicted: its number where
    the dataset's points are whole pixels, as those of SPair-71k, and its middle where they are not.
``window``
    GeoAware-SC's. Its similarities count as 0 outside the window, as published, which matters
    only where the highest one is not far above ``temperature``.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from reprscope.base.parameters import check_whole
from reprscope.base.protocol import Coordinates
from reprscope.measures.metrics import correct, pck, random_correct, same_place_in_box
from reprscope.measures.statistics import SIGNIFICANT, Estimate, holm
from reprscope.models.labels import KEYS, words
from reprscope.models.positions import spell
from reprscope.representations.degradations import BLIND, last_steps
from reprscope.runtime.errors import UserError
from reprscope.tasks import CHANGES
from reprscope.tasks._changes import APART, holding, losses, with_changes
from reprscope.tasks._combining import Combine, Member, Rule, search_combined, unique_points
from reprscope.tasks._derived import Derived, Projected, principal_components
from reprscope.tasks._findings import Findings, best, interval, superlative, told_apart
from reprscope.tasks._keypoints import (
    COLUMNS,
    CORNERS,
    SIDES,
    SPLITS,
    Points,
    boxes,
    in_whole_encoded_pixels,
    of_pairs,
)
from reprscope.tasks._matching import Frames, Maps, Memory, Queries, Reader, Stored, search_pairs
from reprscope.tasks._readout import (
    TEMPERATURE,
    WINDOW,
    Mixtures,
    Raster,
    Readout,
    cosines,
    expected_place,
    middles,
    most_similar_pixel,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reprscope.data.canonical import Annotations
    from reprscope.representations.store import Representations

NEEDS: Final = frozenset({"pairs"})
STORES: Final = frozenset({"tokens"})
PROTOCOL: Final = frozenset({"coordinates"})
TABLE_COLUMNS: Final = (
    "split",
    "estimator",
    "alpha",
    "average",
    "points",
    "pairs",
    "pck",
    "low",
    "high",
    "gain",
    "gain_low",
    "gain_high",
    "gain_p",
    "gain_p_holm",
    "gains_tried",
    "change",
    "change_low",
    "change_high",
    "change_apart_p",
)

BASELINES: Final = ("random", "same_position", "same_place_in_square", "same_place_in_box")

TASK: Final = "correspondence"
EMPTY: Final = "empty"
SOURCE: Final = "source"
_SUMMARY: Final[dict[str, Any]] = {
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
    "gain": pl.Float64,
    "gain_low": pl.Float64,
    "gain_high": pl.Float64,
    "gain_p": pl.Float64,
    # Of each pair, for relate(): correct keypoints of every row that changes are told of, and what
    # is alike for all alphas in the first one's rows alone.
    "correct_of_pair": pl.List(pl.Int32),
    "points_of_pair": pl.List(pl.Int32),
    "source_of_pair": pl.List(pl.Int32),
    "target_of_pair": pl.List(pl.Int32),
    "category_of_pair": pl.List(pl.Int32),
}
_PAIRS: Final = ("points_of_pair", "source_of_pair", "target_of_pair", "category_of_pair")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Settings of the measure.

    Attributes
    ----------
    alphas
        Fractions of the longer side of the target's bounding box within which a prediction is
        correct.
    source
        In what the representations of the source images differ from the measurement's own, for
        instance ``{"view": "identity"}``: then only the target images have the measurement's view,
        as in the thesis' figure 18. Not together with variants.
    strict
        Count a prediction at exactly that distance as wrong (``<`` in place of ``<=``), as figure
        9 of the thesis does; it matters where predictions are whole pixels, as ``same_position``.
    variants
        Further representations of the same images: what differs from the measurement's own
        ``view``, ``resolution``, ``prompt``, ``timestep``, ``seed`` or ``protocol``.
    own
        Whether the measurement's own representation is matched beside its variants.
    combine : {"mean", "max", "nearest", "features"}
        Of several representations: the mean or the maximum of their similarities at each place of
        the target, the similarity of the one whose token is centred nearest, or the similarity of
        their mean tokens, which need one grid and view.
    across
        With ``mean`` or ``max``, compare every representation of the source with every one of the
        target, not each with its own alone.
    concatenate
        Positions of the same hook set that are joined with each position.
    subtract
        Representation of empty images whose mean is subtracted: a ``dataset``, and what else
        differs from the measurement's own.
    pca
        Number of principal components that tokens are reduced to, as far as they have more
        channels; null for none.
    subdivide
        Places along each axis for one token of the first representation, between which the
        similarities of several are interpolated.
    smooth
        Standard deviation, in tokens, of a Gaussian over the map of similarities; 0 for none.
    readout : {"token", "bilinear", "window"}
        Predict the centre of the most similar token; the most similar pixel of features that are
        enlarged bilinearly (DIFT); or the expected place in a window around the most similar token
        (GeoAware-SC).
    window
        Tokens on each side of the most similar one that the window holds.
    temperature
        Of the softmax in the window.
    """

    alphas: tuple[float, ...] = (0.05, 0.1, 0.15)
    source: Mapping[str, Any] = field(default_factory=dict)
    strict: bool = False
    variants: tuple[Mapping[str, Any], ...] = ()
    own: bool = True
    combine: Combine = "mean"
    across: bool = False
    concatenate: tuple[str, ...] = ()
    subtract: Mapping[str, Any] = field(default_factory=dict)
    pca: int | None = None
    subdivide: int = 1
    smooth: float = 0.0
    readout: Readout = "token"
    window: int = WINDOW
    temperature: float = TEMPERATURE

    def __post_init__(self) -> None:
        # A study's list becomes a tuple here, so that parameters stay hashable.
        object.__setattr__(self, "alphas", tuple(self.alphas))
        usable = all(isinstance(alpha, int | float) and alpha > 0 for alpha in self.alphas)
        if not self.alphas or not usable or len(set(self.alphas)) != len(self.alphas):
            raise UserError(
                f"alphas is {list(self.alphas)}; "
                "list at least one positive number, and each only once."
            )
        check_whole(self, "subdivide")
        if not isinstance(self.strict, bool):
            raise UserError(f"strict is {self.strict!r}; write true or false.")
        if not set(self.source) <= set(CHANGES) - {"dataset"}:
            raise UserError(
                f"source is {dict(self.source)}; write what differs, some of: "
                f"{', '.join(key for key in CHANGES if key != 'dataset')}."
            )
        if self.source and not self.plain:
            raise UserError("source goes only with the plain match; make a task of each.")
        for changes in self.variants:
            if not changes or not set(changes) <= set(CHANGES) - {"dataset"}:
                raise UserError(
                    f"variants has {dict(changes)}; write what differs, some of: "
                    f"{', '.join(key for key in CHANGES if key != 'dataset')}."
                )
        if self.subtract and not {"dataset"} <= set(self.subtract) <= set(CHANGES):
            raise UserError(
                f"subtract is {dict(self.subtract)}; name the `dataset` of empty images, and what "
                f"else differs, some of: {', '.join(CHANGES)}."
            )
        if not self.own and not self.variants:
            raise UserError("own is false, but there are no variants; name one.")
        if self.pca is not None and self.pca < 1:
            raise UserError(f"pca is {self.pca}; write a whole number from 1, or null.")
        if not self.smooth >= 0:
            raise UserError(f"smooth is {self.smooth}; write a number from 0.")
        self._check_readout()

    def _check_readout(self) -> None:
        check_whole(self, "window")
        if not self.temperature > 0:
            raise UserError(f"temperature is {self.temperature}; write a number above 0.")
        if self.readout != "window" and (self.window, self.temperature) != (WINDOW, TEMPERATURE):
            raise UserError("window and temperature go only with `readout: window`.")
        several = self.combine != "features" and len(self.variants) + self.own > 1
        if self.readout == "bilinear" and (several or self.subdivide > 1 or self.smooth):
            raise UserError(
                "`readout: bilinear` enlarges the features of one representation; leave subdivide "
                "and smooth out, and join several by `combine: features`."
            )

    @property
    def plain(self) -> bool:
        """Whether these settings match the representation as it is, token by token."""
        changed = self.variants or self.concatenate or self.subtract or self.pca
        read = self.readout == "token"
        return not changed and read and self.subdivide == 1 and not self.smooth


def companions(parameters: Parameters) -> dict[str, dict[str, Any]]:
    """Further representations: sources; variants by their number, and empty images for each."""
    if parameters.source:
        return {SOURCE: dict(parameters.source)}
    named = {str(number): dict(changes) for number, changes in enumerate(parameters.variants, 1)}
    if parameters.subtract:
        # Empty images are made under each variant's conditions, but have a view and noise of
        # their own: mirrored, they are as empty.
        shared = ("resolution", "prompt", "timestep", "protocol")
        own: list[tuple[str, dict[str, Any]]] = [("0", {})] if parameters.own else []
        for number, changes in [*own, *named.items()]:
            kept = {key: value for key, value in changes.items() if key in shared}
            named[f"{EMPTY} {number}"] = kept | dict(parameters.subtract)
    return named


def measure(
    representations: Representations,
    annotations: Annotations,
    parameters: Parameters,
    *,
    coordinates: Coordinates = "centred",
    companions: Mapping[str, Representations] | None = None,
    companion_protocols: Mapping[str, Mapping[str, Any]] | None = None,
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
        Settings of the measure; what is measured depends on those of a variant alone.
    coordinates : {"centred", "measured", "integer"}
        With ``measured``, tokens lie where they were measured to lie
        (:mod:`reprscope.representations.offsets`), otherwise in the middle of their squares. With
        ``integer``, all coordinates and sizes in the rows of ``cosine`` (and ``plain``) are in
        pixels of the encoded images, points and boxes cut to whole ones (towards zero), as in the
        thesis.
    companions
        Representations that :func:`companions` names.
    companion_protocols
        ``coordinates`` of their protocols. The rows of ``cosine`` of a variant have those, and the
        encoded images, of the first representation that it matches.

    Returns
    -------
    One row for each keypoint of a pair and estimator, ``cosine`` and, of a variant, ``plain`` at
    each position and the others once, with a null ``position``: ``position``, ``estimator``,
    ``pair_id``, ``split``, ``category``, ``keypoint``, ``source_id``, ``target_id``; in pixels of
    the original images
    ``source_x``, ``source_y``, ``target_x``, ``target_y``, the target's bounding box ``box_x0``,
    ``box_y0``, ``box_x1``, ``box_y1``, the target's size ``target_width``, ``target_height``, and
    ``predicted_x``, ``predicted_y`` (null for ``random``); ``similarity`` (cosine, float32, null
    without features).

    Raises
    ------
    UserError
        If there are no validation or test pairs, an image of a pair has no features, a keypoint
        lies outside its image, a bounding box is empty, a feature is not finite, or measured
        places are asked for of several resolutions.
    """
    sources = (companions or {}).get(SOURCE)
    points = of_pairs(annotations, representations, sources=sources, task=TASK)
    variant = None
    if not parameters.plain:
        first = {} if parameters.own else (companion_protocols or {}).get("1", {})
        compared = first.get("coordinates", coordinates)
        if compared == "measured" and any("resolution" in one for one in parameters.variants):
            raise UserError(
                f"{TASK}: where tokens lie was measured at one resolution; use a protocol with "
                "`coordinates: centred`, or no variants with a `resolution`."
            )
        variant = _Variant(representations, companions or {}, parameters, points, compared)
        points = variant.points
    source_xy, seen = points.source_xy, points.table
    if coordinates == "integer":
        source_xy, seen = np.trunc(source_xy), in_whole_encoded_pixels(points)
    frames = []
    memory = Memory()
    measured = coordinates == "measured"
    pixels = points.source_frames.pixels
    for position in representations.positions:
        reader = Stored(representations, position, measured=measured)
        names = points.frames.names
        maps = Maps(reader, names, memory, task=TASK, position=position)
        asked = maps
        if sources is not None:
            asked = Maps(
                Stored(sources, position, measured=measured),
                names,
                memory,
                task=TASK,
                position=position,
            )
        queries = Queries.at(points.source, source_xy, pixels, asked.grid, asked.reader.offset)
        index, similarity = search_pairs(
            maps, queries, points.target, points.component, sources=asked
        )
        place = middles(index, maps.grid[points.target, 1]) + reader.offset
        predicted = _encoded(place, points.target, points.frames, maps.grid)
        if coordinates != "integer":
            predicted = points.frames.back(points.target, predicted)
        name = "cosine" if variant is None else "plain"
        frames.append(_rows(seen, name, position, predicted, similarity))
        if variant is not None:
            predicted, similarity = variant.match(position)
            frames.append(_rows(variant.seen, "cosine", position, predicted, similarity))
        logger.info("matched %d keypoints at %s", len(seen), position)
    table = points.table
    source = table.select("source_x", "source_y").to_numpy()
    in_box = same_place_in_box(source, boxes(table, "source_box"), boxes(table, "target_box"))
    # Encoded pictures that are not squares differ in size: the place is relative.
    place = points.source_xy / points.source_frames.pixels[points.source]
    in_square = place * points.frames.pixels[points.target]
    predictions = {
        "random": None,
        "same_position": source,
        "same_place_in_square": points.frames.back(points.target, in_square),
        "same_place_in_box": in_box,
    }
    frames += [_rows(table, name, None, predictions[name], None) for name in BASELINES]
    return pl.concat(frames)


def summarise(measurements: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
    """PCK of every position and estimator, with 95 % intervals over images.

    Parameters
    ----------
    measurements
        What :func:`measure` returns.
    parameters
        Settings of the measure.

    Returns ------- ``position``, ``split``, ``estimator``, ``alpha``, ``average`` (``point``,
    ``pair``, ``category``; see :func:`reprscope.measures.metrics.pck`), ``points``, ``pairs``,
    ``pck``, ``low``, ``high``; of a variant's ``cosine`` ``gain``, ``gain_low``, ``gain_high``, the
    difference to ``plain`` on the same pairs, and ``gain_p``, the p value of no difference, null
    elsewhere; what :func:`relate` needs of every pair. Intervals and p values are null with too few
    images (:data:`reprscope.measures.statistics.FEWEST_UNITS`). The estimators without features are
    repeated at every position.
    """
    positions = measurements["position"].drop_nulls().unique(maintain_order=True).to_list()
    alphas = parameters.alphas
    scored = pair_scores(measurements, alphas, strict=parameters.strict)
    names = [name for name in ("cosine", "plain") if name in scored["estimator"]]
    rows: list[tuple[object, ...]] = []
    for split in SPLITS:
        of_split = scored.filter(pl.col("split") == split)
        if of_split.is_empty():
            continue
        series = [
            of_split.filter((pl.col("estimator") == name) & (pl.col("position") == position))
            for name in names
            for position in positions
        ]
        series += [of_split.filter(pl.col("estimator") == name) for name in BASELINES]
        # All series score the same keypoints, so that the first one's pairs are everyone's.
        pairs = _numbered(series[0])
        scores = [one.select(map(str, alphas)).to_numpy() for one in series]
        if "plain" in names:
            # The gain is a score as well: the difference on the same pairs.
            scores += [scores[i] - scores[len(positions) + i] for i in range(len(positions))]
        columns = (pairs[name].to_numpy() for name in _PAIRS)
        averages = {
            average: (found.share(), found.interval(), found.p_value())
            for average, found in pck(np.concatenate(scores, axis=1), *columns).items()
        }
        for number, position in enumerate(positions):
            of_estimator = {name: i * len(positions) + number for i, name in enumerate(names)}
            first = len(names) * len(positions)
            of_estimator |= {name: first + i for i, name in enumerate(BASELINES)}
            for (estimator, one), (i, alpha), (average, found) in itertools.product(
                of_estimator.items(), enumerate(alphas), averages.items()
            ):
                shares, differences, p_values = found
                column = one * len(alphas) + i
                values = [known(bound[column]) for bound in shares]
                gains: list[float | None] = [None] * 4
                if estimator == "cosine" and "plain" in names:
                    column = (len(series) + number) * len(alphas) + i
                    gains = [known(bound[column]) for bound in (*differences, p_values)]
                counts = (pairs["points_of_pair"].sum(), len(pairs))
                told = estimator == "cosine" and average == "point"
                each = [series[one][str(alpha)].cast(pl.Int32).to_list() if told else None]
                each += [pairs[name].to_list() if told and i == 0 else None for name in _PAIRS]
                rows.append(
                    (position, split, estimator, alpha, average, *counts, *values, *gains, *each)
                )
    return pl.DataFrame(rows, schema=_SUMMARY, orient="row")


def relate(table: pl.DataFrame, parameters: Mapping[str, Parameters]) -> pl.DataFrame:
    """Correct gains for their number, and compare every view with the undegraded one.

    Parameters
    ----------
    table
        Summaries of all measurements of an experiment, with what they were measured under.
    parameters
        Settings of each task.

    Returns
    -------
    The table without what it says of every pair, and with these columns, null elsewhere.

    ``gain_p_holm``: ``gain_p`` by Holm's correction for all gains that the experiment reports of
    one dataset, timestep and noise seed, in one split, at one alpha and in one average: those of
    all variants, positions, models and other conditions together. ``gains_tried`` is their number.

    ``change``: the PCK of ``cosine`` over points relative to that of the view from which a
    degradation starts, minus 1, on the same pairs; ``change_low``, ``change_high``, its 95 %
    interval over images; ``change_apart_p`` (see :func:`reprscope.tasks._changes.with_changes`).
    Null without such a view, if it shows other keypoints, and at positions that do not find more
    there than :data:`reprscope.representations.degradations.BLIND` does.
    """
    del parameters
    table = _corrected(table)
    points = table.filter(pl.col("average") == "point")
    scored_pairs, every = _pairs_of(table)
    keys = [key for key in (*KEYS, "split") if key in table.columns and key != "position"]
    own = points.filter(pl.col("estimator") == "cosine").join(scored_pairs, on=keys)
    others = [key for key in (*KEYS, "split", "alpha") if key in table.columns]
    blind = points.filter(pl.col("estimator") == BLIND).select(*others, blind="pck")

    def mean(row: Mapping[str, Any], values: NDArray[np.float64]) -> Estimate:
        counts, source, target, categories = every[row["pairs_of"]]
        return pck(values, counts, source, target, categories)["point"]

    return with_changes(
        table,
        own,
        own.join(blind, on=others).filter(pl.col("low") > pl.col("blind")),
        values="correct_of_pair",
        alike="pairs_of",
        further=("split", "alpha", "estimator", "average"),
        mean=mean,
    ).drop("correct_of_pair", *_PAIRS)


def _numbered(pairs: pl.DataFrame) -> pl.DataFrame:
    """Of each pair :data:`_PAIRS`: its keypoints, and numbers of its images and category."""
    images = pl.concat([pairs["source_id"], pairs["target_id"]]).unique().sort().to_list()
    number = {name: i for i, name in enumerate(images)}
    category = {name: i for i, name in enumerate(pairs["category"].unique().sort().to_list())}
    return pairs.select(
        points_of_pair=pl.col("points").cast(pl.Int32),
        source_of_pair=pl.col("source_id").replace_strict(number, return_dtype=pl.Int32),
        target_of_pair=pl.col("target_id").replace_strict(number, return_dtype=pl.Int32),
        category_of_pair=pl.col("category").replace_strict(category, return_dtype=pl.Int32),
    )


def _pairs_of(table: pl.DataFrame) -> tuple[pl.DataFrame, list[list[NDArray[Any]]]]:
    """Which pairs each measurement scored, as a number ``pairs_of``, and what is said of them."""
    keys = [key for key in (*KEYS, "split") if key in table.columns and key != "position"]
    one = table.filter(pl.col(_PAIRS[0]).is_not_null()).unique(
        keys, keep="first", maintain_order=True
    )
    numbers: dict[tuple[bytes, ...], int] = {}
    every: list[list[NDArray[Any]]] = []
    found = []
    for row in one.select(_PAIRS).iter_rows():
        arrays = [np.array(values) for values in row]
        known = tuple(array.tobytes() for array in arrays)
        if known not in numbers:
            numbers[known] = len(every)
            every.append(arrays)
        found.append(numbers[known])
    return one.select(keys).with_columns(pairs_of=pl.Series(found, dtype=pl.Int32)), every


def _corrected(table: pl.DataFrame) -> pl.DataFrame:
    """The table with ``gain_p_holm`` and ``gains_tried``, see :func:`relate`."""
    family = ("dataset", "timestep", "seed", "split", "alpha", "average")
    keys = [key for key in family if key in table.columns]
    index = "_row"
    table = table.with_row_index(index)
    parts = [
        rows.select(
            index,
            gain_p_holm=pl.Series(holm(rows["gain_p"].to_numpy())),
            gains_tried=pl.lit(len(rows), pl.Int32),
        )
        for rows in table.filter(pl.col("gain_p").is_not_null()).partition_by(keys)
    ]
    none = {index: table.schema[index], "gain_p_holm": pl.Float64(), "gains_tried": pl.Int32()}
    found = pl.concat([pl.DataFrame(schema=none), *parts])
    return table.join(found, on=index, how="left", maintain_order="left").drop(index)


def known(value: float) -> float | None:
    """A table's cell: null for a number that cannot be given."""
    return None if np.isnan(value) else float(value)


class _Variant:
    """Matching by other tokens than the representation's own, or by several representations.

    Attributes
    ----------
    points
        Keypoints that the first representation shows, too.
    seen
        Their table, in the coordinates in which predictions are compared.
    """

    def __init__(
        self,
        own: Representations,
        companions: Mapping[str, Representations],
        parameters: Parameters,
        points: Points,
        coordinates: Coordinates,
    ) -> None:
        self.parameters = parameters
        numbers = [str(number) for number in range(1, len(parameters.variants) + 1)]
        every = {"0": own} if parameters.own else {}
        every |= {number: companions[number] for number in numbers}
        # Each with its empty images, if they are subtracted.
        self.stores = {n: (store, companions.get(f"{EMPTY} {n}")) for n, store in every.items()}
        names = points.frames.names
        for store in every.values():
            lost = set(names) - set(store.image_ids)
            if lost:
                raise UserError(
                    f"{TASK}: a variant has no features of image '{min(lost)}'; extract the same "
                    "images for all."
                )
        self.frames = [Frames.of(store, names) for store in every.values()]
        if parameters.combine == "features":
            _check_alike(self.frames)
        first = self.frames[0]
        xy = points.table.select("source_x", "source_y").to_numpy()
        goal = points.table.select("target_x", "target_y").to_numpy()
        shown = first.shows(points.source, first.forward(points.source, xy))
        shown &= first.shows(points.target, first.forward(points.target, goal))
        self.points = points.filter(shown, task=TASK)
        self.image, self.xy, self.of = unique_points(self.points.source, xy[shown])
        self.encoded = [frames.forward(self.image, self.xy) for frames in self.frames]
        self.whole = coordinates == "integer"
        self.measured = coordinates == "measured"
        self.seen = self.points.table
        if self.whole:
            self.encoded = [np.trunc(xy) for xy in self.encoded]
            self.seen = in_whole_encoded_pixels(self.points.within(first))
        self.memory = [Memory(len(every)) for _ in every]

    def match(self, position: str) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Predicted points (points, 2) as in ``seen``, and their similarities (points,)."""
        readers = self._readers(position)
        names = self.points.frames.names
        members = []
        for number, reader in enumerate(readers):
            maps = Maps(reader, names, self.memory[number], task=TASK, position=position)
            members.append(
                Member.of(
                    self.frames[number], maps, self.image, self.xy, self.encoded[number], self.of
                )
            )
        chosen = self.parameters
        first = members[0]
        if chosen.readout == "bilinear":
            return self._pixels(first.maps)
        target, component = self.points.target, self.points.component
        window = chosen.window if chosen.readout == "window" else None
        if len(members) == 1 and chosen.subdivide == 1 and not chosen.smooth:
            if window is None:
                index, similarity = search_pairs(first.maps, first.queries, target, component)
                place = middles(index, first.maps.grid[target, 1])
            else:
                find = partial(_expected, first.maps, window, chosen.temperature)
                place, similarity = search_pairs(
                    first.maps, first.queries, target, component, find=find
                )
        else:
            rule = Rule(
                chosen.combine,
                chosen.across,
                chosen.subdivide,
                chosen.smooth,
                window,
                chosen.temperature,
            )
            place, similarity = search_combined(members, target, component, rule)
        place = place / chosen.subdivide + first.maps.reader.offset
        predicted = _encoded(place, target, first.frames, first.maps.grid)
        return predicted if self.whole else first.frames.back(target, predicted), similarity

    def _pixels(self, maps: Maps) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Predictions among the pixels of the originals, or of the encoded images if whole."""
        points, frames = self.points, self.frames[0]
        sizes, scale, offset = frames.pixels, np.ones((1, 2)), np.zeros((1, 2))
        if not self.whole:
            sizes = _sizes(points)
            scale, offset = frames.scale, frames.offset
        tokens = maps.grid[:, ::-1] / frames.pixels
        scale, offset = scale * tokens, offset * tokens
        beside = maps.reader.offset
        # The pixel that holds the point; one on the far border belongs to the last.
        xy = self.seen.select("source_x", "source_y").to_numpy()
        pixel = np.minimum(np.floor(xy), sizes[points.source] - 1)
        image, pixel, of = unique_points(points.source, pixel)
        queries = Mixtures.between(
            image, of, (pixel + 0.5) * scale[image] + offset[image] - beside, maps.grid
        )

        def find(
            asked: NDArray[np.float32], keys: NDArray[np.float32], target: int
        ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
            h, w = maps.grid[target].tolist()
            width, height = sizes[target].tolist()
            raster = Raster.of(
                (width, height), (h, w), tuple(scale[target]), tuple(offset[target]), beside
            )
            shaped = keys.astype(np.float64).reshape(h, w, -1)
            return most_similar_pixel(asked.astype(np.float64), shaped, raster)

        found, similarity = search_pairs(maps, queries, points.target, points.component, find=find)
        names = [f"{side}_{axis}" for side in SIDES for axis in "xy"]
        at = self.seen.select(names).to_numpy()
        # Points that are whole are numbers of pixels, and others are places in them.
        return found + (0.0 if (at == np.floor(at)).all() else 0.5), similarity

    def _readers(self, position: str) -> list[Reader]:
        """Token maps of each representation, or one of their mean."""
        chosen = self.parameters
        joined = [position]
        for name in map(spell, chosen.concatenate):
            if name not in next(iter(self.stores.values()))[0].positions:
                raise UserError(
                    f"{TASK}: {name} in `concatenate` is not in the hook set of {position}; name "
                    "positions that one hook set stores together."
                )
            if name not in joined:
                joined.append(name)
        readers: list[Reader]
        if chosen.combine == "features":
            sets = [list(self.stores.values())]
        else:
            sets = [[store] for store in self.stores.values()]
        readers = [Derived(one, joined, task=TASK, measured=self.measured) for one in sets]
        if chosen.pca is not None:
            # Those of the first: tokens of several are compared only in one basis.
            names = sorted(self.points.frames.names)
            mean, basis = principal_components(readers[0], names, chosen.pca)
            readers = [Projected(reader, mean, basis) for reader in readers]
        return readers


def _check_alike(frames: list[Frames]) -> None:
    """Tokens can be averaged only if they stand for the same places."""
    for other in frames[1:]:
        alike = (other.pixels == frames[0].pixels) & (other.scale == frames[0].scale)
        if not (alike & (other.offset == frames[0].offset)).all():
            raise UserError(
                f"{TASK}: `combine: features` averages tokens, which need one view and resolution; "
                "combine similarities with `mean` or `max`."
            )


def _encoded(
    place: NDArray[np.float64],
    image: NDArray[np.int64],
    frames: Frames,
    grid: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Encoded pixels (n, 2) of places (n, 2), x and y in tokens, of images."""
    return np.asarray(place * (frames.pixels[image] / grid[image, ::-1]))


def _expected(
    maps: Maps,
    window: int,
    temperature: float,
    queries: NDArray[np.float32],
    keys: NDArray[np.float32],
    target: int,
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Expected places in the target's tokens, and the highest similarities."""
    scores = cosines(queries.astype(np.float64), keys.astype(np.float64))
    shaped = scores.reshape(-1, *maps.grid[target].tolist())
    place = expected_place(shaped, window=window, temperature=temperature)
    return place, scores.max(axis=1).clip(-1, 1)


def _sizes(points: Points) -> NDArray[np.int64]:
    """(images, 2) width and height of the originals."""
    sizes = np.ones((len(points.frames.names), 2), dtype=np.int64)
    for side, image in (("source", points.source), ("target", points.target)):
        sizes[image] = points.table.select(f"{side}_width", f"{side}_height").to_numpy()
    return sizes


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


def pair_scores(
    measurements: pl.DataFrame, alphas: tuple[float, ...], *, strict: bool
) -> pl.DataFrame:
    """Count the correct keypoints of each pair: a column for each alpha, sorted."""
    keys = ["estimator", "position", "split", "pair_id", "category", "source_id", "target_id"]
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
    """Best block of each model and variant, beside the estimators.

    A variant is said to gain only if its gain holds after Holm's correction for all that the
    experiment tried (:func:`relate`). Of the steps of one degradation (see
    :mod:`reprscope.representations.degradations`) the last is told, with what it costs.
    """
    alphas = table["alpha"].unique().sort()
    alpha = alphas[int((alphas - 0.1).abs().arg_min() or 0)]
    scored = table.filter((pl.col("average") == "point") & (pl.col("alpha") == alpha))
    own = scored.filter(pl.col("estimator") == "cosine")
    chosen = best(own, "pck", units="pairs")
    if "view" in chosen.columns:
        chosen = chosen.filter(pl.col("view").is_in(last_steps(chosen["view"].to_list())))
    sentences = [
        superlative(
            row,
            f"PCK@{alpha:g} of {row['model']} on {row['dataset']}{under}",
            "pck",
            units="pairs",
            of=f"{row['points']:,} keypoints",
        )
        + f"{_gained(row)}."
        for row, under in zip(chosen.iter_rows(named=True), told_apart(chosen), strict=True)
    ]
    # What a degradation did is said first.
    sentences = _losses(own) + sentences + _unseen(scored)
    return Findings(sentences, chosen.drop(APART, strict=False))


def _losses(own: pl.DataFrame) -> list[str]:
    """What the last step of each degradation costs, in test pairs; nothing without one."""
    if "change" not in own.columns:
        return []
    last = own.filter(
        (pl.col("split") == "test") & pl.col("view").is_in(last_steps(own["view"].to_list()))
    )
    keys = [key for key in KEYS if key in last.columns and key != "position"]
    found = [(part, losses(part)) for part in last.partition_by(keys, maintain_order=True)]
    known = [(part.head(1), lost) for part, lost in found if lost]
    told = pl.concat([part for part, _ in known]) if known else last.clear()
    hold = iter(holding([p for _, lost in known for p in lost.claims()]))
    return [
        f"{part['model'][0]}, {part['view'][0]}{under}: "
        f"{lost.told('PCK', 'pairs', [next(hold), next(hold)])}."
        for (part, lost), under in zip(known, told_apart(told.drop("view")), strict=True)
    ]


def _gained(row: Mapping[str, Any]) -> str:
    """What a variant gains, in words; nothing for the plain task."""
    if row.get("gain") is None:
        return ""
    gain, low, high, p, tried = (
        row[name] for name in ("gain", "gain_low", "gain_high", "gain_p_holm", "gains_tried")
    )
    points, plain = f"{100 * gain:+.1f} points", "against the plain match"
    if p is None:
        return f"; as {row['task']} {points} {plain}, with too few images to test"
    points += f" [{100 * low:+.1f}, {100 * high:+.1f}]"
    if p >= SIGNIFICANT:
        return f"; as {row['task']} {points} {plain}, within chance for {tried} gains tried"
    if not row["firm"]:
        return f"; as {row['task']} {points} {plain}"
    does = "gains" if gain > 0 else "loses"
    least, value, most = sorted(100 * abs(one) for one in (low, gain, high))
    points = f"{value:.1f} points [{least:.1f}, {most:.1f}]"
    number = f"p = {p:.2g}" if p >= 0.001 else "p < 0.001"
    return f"; {row['task']} {does} {points} {plain} ({number} after Holm, {tried} gains tried)"


def _unseen(scored: pl.DataFrame) -> list[str]:
    """What the estimators without features reach on each dataset's test pairs."""
    others = scored.filter(pl.col("estimator").is_in(BASELINES) & (pl.col("split") == "test"))
    reached = others.unique(["dataset", "estimator"], keep="first", maintain_order=True)
    names = {"random": "random point"}
    parts = reached.partition_by("dataset", maintain_order=True)
    sentences = []
    for rows in parts:
        shares = [
            f"{names.get(row['estimator'], words(row['estimator']))} "
            f"{interval(row['pck'], row['low'], row['high'])}"
            for row in rows.iter_rows(named=True)
        ]
        on = f" on {rows['dataset'][0]}" if len(parts) > 1 else ""
        sentences.append(f"Baselines that see no features{on}: {', '.join(shares)}.")
    return sentences
