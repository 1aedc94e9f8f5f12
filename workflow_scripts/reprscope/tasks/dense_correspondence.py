"""Dense correspondence: every token of an image finds its most similar token in a reference.

The reference is the same image under other conditions: undegraded, mirrored, cropped elsewhere, at
another size, with other noise. Where each token should be found there follows from what both views
did to the image, so that every token has a true answer without any annotation (thesis, figures 12,
13, 16, 17, 28 and 34 to 36). For chosen examples, also pairs of different images, the whole map is
kept (figures 12, 13, 15, 28, 32, 33).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence  # Parameters need it when they are built
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np
import polars as pl

from reprscope.measures.similarity import nearest, normalise
from reprscope.measures.statistics import mean
from reprscope.models.labels import KEYS, block_label
from reprscope.representations.coordinates import Affine, token_centre, token_index
from reprscope.representations.degradations import last_steps, starts
from reprscope.runtime.errors import UserError
from reprscope.tasks import PICTURE
from reprscope.tasks._changes import CHANGE, apart, counted, holding, losses, with_changes
from reprscope.tasks._findings import Findings, interval
from reprscope.tasks._pictures import Choice, choose, encoded_png, finite_tokens, frame

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reprscope.data.canonical import Annotations
    from reprscope.representations.store import Representations

    Float32 = NDArray[np.float32]
    Float64 = NDArray[np.float64]
    Int64 = NDArray[np.int64]
    Bool = NDArray[np.bool_]

NEEDS: Final[frozenset[str]] = frozenset()
STORES: Final = frozenset({"tokens"})
PROTOCOL: Final[frozenset[str]] = frozenset()
TABLE_COLUMNS: Final = (
    "kind",
    "images",
    "tokens",
    "accuracy",
    "low",
    "high",
    "within_one",
    "within_one_low",
    "within_one_high",
    "error",
    "chance",
    "image_id",
    "source_id",
    "row",
    "col",
    "source_row",
    "source_col",
    "source_rows",
    "source_cols",
    "similarity",
    "expected_x",
    "expected_y",
    "percentile",
    "width",
    "height",
    "source_width",
    "source_height",
    "mirrored",
    "png",
    "source_png",
    "apart_p",
    "change",
    "change_low",
    "change_high",
    "change_apart_p",
)

DIGITS: Final = 6
"""Decimals of a pixel to which places are rounded, so that equal distances stay equal."""

_KIND: Final = "dense_correspondence"
_PAIR: Final = ("category", "target_id", "source_id")
_QUERIES: Final = 512
_SCHEMA: Final = {
    "image_id": pl.String,
    "source_id": pl.String,
    "position": pl.String,
    "kind": pl.String,
    "tokens": pl.Int32,
    "candidates": pl.Int32,
    "correct": pl.Int32,
    "within_one": pl.Int32,
    "error": pl.Float64,
    "row": pl.Int32,
    "col": pl.Int32,
    "source_row": pl.Int32,
    "source_col": pl.Int32,
    "source_rows": pl.Int32,
    "source_cols": pl.Int32,
    "similarity": pl.Float32,
    "expected_x": pl.Float64,
    "expected_y": pl.Float64,
    "percentile": pl.Float64,
    "width": pl.Int32,
    "height": pl.Int32,
    "source_width": pl.Int32,
    "source_height": pl.Int32,
    "mirrored": pl.Boolean,
    "png": pl.Binary,
    "source_png": pl.Binary,
}
_COUNTS: Final = ("tokens", "candidates", "correct", "within_one")
_SUMMARY: Final[dict[str, Any]] = {
    "position": pl.String,
    "kind": pl.String,
    "images": pl.Int32,
    "tokens": pl.Int32,
    "accuracy": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "within_one": pl.Float64,
    "within_one_low": pl.Float64,
    "within_one_high": pl.Float64,
    "error": pl.Float64,
    "chance": pl.Float64,
    "shares": pl.List(pl.Float64),
}
_TABLE: Final = _SUMMARY | {name: kind for name, kind in _SCHEMA.items() if name not in _COUNTS}


@dataclass(frozen=True, kw_only=True)
class Parameters(Choice):
    """Settings of the task.

    Attributes
    ----------
    reference
        In what the reference differs from the representations that are measured, for instance
        ``{"view": "identity", "seed": 0}``. If empty, or of another dataset, only maps are made and
        nothing is scored, since no token has a true place.
    candidates
        ``all`` tokens of the reference may be chosen, or only those in the ``overlap`` of both
        views, as in the thesis' comparison of offset crops (figure 36).
    images, count
        Images whose maps are kept: those named, or else the first ``count`` test images.
    pairs
        Further maps, of an image and another one whose tokens it takes: target, source.
    listed
        Categories of the dataset's pairs: the same maps for the first test pair of each.
    """

    reference: Mapping[str, Any] = field(default_factory=lambda: {"view": "identity"})
    candidates: Literal["all", "overlap"] = "all"
    count: int = 0
    pairs: tuple[tuple[str, str], ...] = ()
    listed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # Here no map at all is a choice as well.
        if self.count != 0:
            super().__post_init__()
        object.__setattr__(self, "images", tuple(self.images))
        object.__setattr__(self, "pairs", tuple(tuple(pair) for pair in self.pairs))
        if any(len(pair) != 2 for pair in self.pairs):
            raise UserError("pairs has one without two images; write [target, source].")
        object.__setattr__(self, "listed", tuple(self.listed))
        if not self.reference and not self.pairs and not self.listed:
            raise UserError(
                "reference is empty; name in what it differs, such as `{view: identity}`, or "
                "`pairs` of different images."
            )
        if self.candidates not in ("all", "overlap"):
            raise UserError(f"candidates is {self.candidates!r}; write all or overlap.")


def companions(parameters: Parameters) -> dict[str, Mapping[str, Any]]:
    """Return in what the reference differs."""
    return {"reference": parameters.reference}


class Frame(NamedTuple):
    """What a view did to an image, and the grid of tokens that stand for it.

    ``pixels`` is (width, height) of the encoded image, ``transform`` the map to it from the
    original, ``grid`` (h, w) of the tokens.
    """

    pixels: tuple[int, int]
    transform: Affine
    grid: tuple[int, int]

    def centres(self) -> Float64:
        """Centres of all tokens, row by row, (h w, 2), in encoded pixels."""
        rows, cols = np.indices(self.grid).reshape(2, -1)
        return token_centre(rows, cols, self.pixels, self.grid)

    def holds(self, xy: Float64) -> Bool:
        """Whether points (..., 2) in encoded pixels lie in the encoded image."""
        return np.asarray(((xy >= 0) & (xy < self.pixels)).all(axis=-1))


class Match(NamedTuple):
    """What the tokens of an image found, (h w,) each, row by row.

    ``row`` and ``col`` are those of the token of the reference that was found, ``similarity`` its
    cosine.
    """

    row: Int64
    col: Int64
    similarity: Float32


def expected(measured: Frame, reference: Frame) -> Float64:
    """Where the centres of an image's tokens lie in the reference.

    Parameters
    ----------
    measured, reference
        Two views of one original.

    Returns
    -------
    (h w, 2) in encoded pixels of the reference, rounded to :data:`DIGITS`; outside of it where the
    reference does not show what the token stands for.
    """
    original = measured.transform.back(measured.centres())
    return np.round(reference.transform.forward(original), DIGITS)


def match(tokens: Float32, source: Float32, allowed: Bool | None = None) -> Match:
    """Find the most similar token of a source for every token.

    Parameters
    ----------
    tokens, source
        (h, w, channels) and (h', w', channels).
    allowed
        (h' w',) the source's tokens that may be found; all by default.
    """
    keys = normalise(source).reshape(-1, source.shape[-1])
    chosen = np.arange(len(keys)) if allowed is None else np.flatnonzero(allowed)
    index, similarity = nearest(normalise(tokens).reshape(-1, tokens.shape[-1]), keys[chosen])
    row, col = np.divmod(chosen[index], source.shape[1])
    return Match(row, col, similarity)


def distances(found: Match, where: Float64, reference: Frame) -> Float64:
    """Distance (h w,) between the centre of each token found and the place (h w, 2) expected."""
    centre = token_centre(found.row, found.col, reference.pixels, reference.grid)
    return np.asarray(np.hypot(*(centre - where).T))


def percentiles(
    error: Float64, where: Float64, reference: Frame, allowed: Bool | None = None
) -> Float64:
    """Share of the answers that would have been closer to the expected place.

    The thesis' figure 13 shows the same (its text says "at least as far", its code compares with
    ``<``). Equally distant tokens do not count as closer, so that 0 means that no token is closer;
    a token drawn at random has a mean slightly below one half.

    Parameters
    ----------
    error
        (n,) distances to the expected places, in pixels.
    where
        (n, 2) expected places.
    reference
        Frame whose tokens could have been found.
    allowed
        (h' w',) which of them; all by default.

    Returns
    -------
    (n,) in [0, 1).
    """
    centres = reference.centres()
    centres = centres if allowed is None else centres[allowed]
    result = np.empty(len(error))
    for start in range(0, len(error), _QUERIES):
        part = slice(start, start + _QUERIES)
        x, y = np.moveaxis(where[part, None] - centres, -1, 0)
        # Half of the rounding of places: rounding must not decide between equal distances.
        closer = np.hypot(x, y) < error[part, None] - 0.5 * 10**-DIGITS
        result[part] = closer.mean(axis=1)
    return result


def measure(
    representations: Representations,
    annotations: Annotations,
    parameters: Parameters,
    *,
    companions: Mapping[str, Representations],
) -> pl.DataFrame:
    """Find every token of every image in the reference, at every position.

    Parameters
    ----------
    representations
        Features of the images.
    annotations
        The images themselves.
    parameters
        Which images' maps are kept, and which tokens may be found.
    companions
        ``reference``, the features in which tokens are found.

    Returns
    -------
    Rows of ``kind`` "score", one for each image: ``tokens`` that have a true place in the
    reference, ``candidates`` that could be found, ``correct`` where the token that holds this place
    was found, ``within_one`` where it or one of its eight neighbours was, ``error``, the mean
    distance in pixels of the encoded reference.

    Rows of ``kind`` "map", one for each token of an example: ``row``, ``col``; the token found,
    ``source_row``, ``source_col``, of a grid of ``source_rows`` x ``source_cols``; ``similarity``
    (cosine); ``expected_x``, ``expected_y`` (the true place as a fraction of the reference's
    sides), ``error`` and ``percentile`` (see :func:`percentiles`), all null without a true place.

    Rows of ``kind`` "image", one for each example, at position "image": ``png`` and ``source_png``
    (null if the reference is of another dataset), ``width``, ``height``, ``source_width`` and
    ``source_height`` in encoded pixels, and whether the example is ``mirrored`` left and right
    against its source.

    Raises
    ------
    UserError
        If an image has no features in one of the two, both show no common part of it, or a feature
        is not finite.
    """
    reference = companions["reference"]
    elsewhere = "dataset" in parameters.reference
    # Only of another view of the same image is the true place known.
    scored = bool(parameters.reference) and not elsewhere
    images = representations.image_ids if scored else []
    chosen = []
    if parameters.images or parameters.count:
        chosen = choose(representations, annotations, parameters, kind=_KIND)
    examples = [*((image, image) for image in chosen), *parameters.pairs]
    examples += _first_pairs(annotations, parameters.listed)
    _check(representations, reference, [*((i, i) for i in images), *examples])
    frames = [
        _pictures(representations, reference, annotations, *example, elsewhere=elsewhere)
        for example in examples
    ]
    for position in representations.positions:
        scores = []
        for image in images:
            tokens = finite_tokens(representations, position, image, kind=_KIND)
            source = finite_tokens(reference, position, image, kind=_KIND)
            measured = _frame(representations, image, tokens)
            held = _frame(reference, image, source)
            scores.append(_score(image, tokens, source, measured, held, parameters))
        if scores:
            frames.append(frame(_SCHEMA, position=position, kind="score", **_columns(scores)))
        for image, source_id in examples:
            tokens = finite_tokens(representations, position, image, kind=_KIND)
            source = finite_tokens(reference, position, source_id, kind=_KIND)
            columns = _map(
                tokens,
                source,
                _frame(representations, image, tokens),
                _frame(reference, source_id, source),
                overlap=parameters.candidates == "overlap",
                same=scored and image == source_id,
            )
            names = {"image_id": image, "source_id": source_id, "position": position}
            frames.append(frame(_SCHEMA, **columns, **names, kind="map"))
    return pl.concat(frames)


def needs(parameters: Parameters) -> frozenset[str]:
    """Annotations that these settings need beside :data:`NEEDS`."""
    return frozenset({"pairs"} if parameters.listed else ())


def _first_pairs(annotations: Annotations, categories: Sequence[str]) -> list[tuple[str, str]]:
    """Target and source of the first test pair of each category."""
    if not categories:
        return []
    try:
        pairs = annotations.pairs().filter(pl.col("split") == "test").sort("pair_id")
    except FileNotFoundError as error:
        raise UserError(
            f"{_KIND}: the dataset has no pairs; name two images in `pairs` in place of `listed`."
        ) from error
    first = pairs.unique("category", keep="first", maintain_order=True)
    found = {category: (t, s) for category, t, s in first.select(*_PAIR).iter_rows()}
    for category in categories:
        if category not in found:
            raise UserError(
                f"{_KIND}: there is no test pair of category '{category}'; "
                f"list some of: {', '.join(sorted(found))}."
            )
    return [found[category] for category in categories]


def _check(
    representations: Representations, reference: Representations, examples: list[tuple[str, str]]
) -> None:
    known, known_there = set(representations.image_ids), set(reference.image_ids)
    for image, source in examples:
        if image not in known or source not in known_there:
            missing, whose = (image, "") if image not in known else (source, " in the reference")
            raise UserError(
                f"{_KIND}: image '{missing}' has no features{whose}; name images of the dataset, "
                "and a reference with the same images."
            )


def _frame(representations: Representations, image: str, tokens: Float32) -> Frame:
    height, width = tokens.shape[:2]
    return Frame(representations.pixels(image), representations.transform(image), (height, width))


def _overlap(measured: Frame, reference: Frame) -> Bool:
    """Tokens of the reference that stand for something that the measured image shows."""
    return measured.holds(expected(reference, measured))


def _score(
    image: str,
    tokens: Float32,
    source: Float32,
    measured: Frame,
    reference: Frame,
    parameters: Parameters,
) -> dict[str, Any]:
    """Columns of an image's row of ``kind`` "score"."""
    where = expected(measured, reference)
    inside = reference.holds(where)
    allowed = _overlap(measured, reference) if parameters.candidates == "overlap" else None
    if not inside.any() or (allowed is not None and not allowed.any()):
        raise UserError(
            f"{_KIND}: the view of image '{image}' and that of its reference have no part in "
            "common: change the views, or `reference`."
        )
    found = match(tokens.reshape(-1, 1, tokens.shape[-1])[inside], source, allowed)
    row, col = token_index(where[inside], reference.pixels, reference.grid)
    away = np.maximum(np.abs(found.row - row), np.abs(found.col - col))
    return {
        "image_id": image,
        "source_id": image,
        "tokens": len(away),
        "candidates": source.shape[0] * source.shape[1] if allowed is None else allowed.sum(),
        "correct": (away == 0).sum(),
        "within_one": (away <= 1).sum(),
        "error": distances(found, where[inside], reference).mean(),
    }


def _map(
    tokens: Float32,
    source: Float32,
    measured: Frame,
    reference: Frame,
    *,
    overlap: bool,
    same: bool,
) -> dict[str, Any]:
    """Columns of an example's rows of ``kind`` "map"; ``same`` if both are of one image."""
    allowed = _overlap(measured, reference) if overlap and same else None
    found = match(tokens, source, allowed)
    rows, cols = np.indices(measured.grid).reshape(2, -1)
    columns = {
        "row": rows,
        "col": cols,
        "source_row": found.row,
        "source_col": found.col,
        "source_rows": reference.grid[0],
        "source_cols": reference.grid[1],
        "similarity": found.similarity,
    }
    if not same:
        return columns
    where = expected(measured, reference)
    inside = reference.holds(where)
    error = distances(found, where, reference)
    truth = {
        "expected_x": where[:, 0] / reference.pixels[0],
        "expected_y": where[:, 1] / reference.pixels[1],
        "error": error,
        "percentile": percentiles(error, where, reference, allowed),
    }
    return columns | {
        name: pl.select(pl.when(pl.Series(inside)).then(pl.Series(values))).to_series()
        for name, values in truth.items()
    }


def _pictures(
    representations: Representations,
    reference: Representations,
    annotations: Annotations,
    image: str,
    source: str,
    *,
    elsewhere: bool,
) -> pl.DataFrame:
    """Row of ``kind`` "image" of an example."""
    width, height = representations.pixels(image)
    source_width, source_height = reference.pixels(source)
    scales = representations.transform(image).scale_x, reference.transform(source).scale_x
    return frame(
        _SCHEMA,
        image_id=[image],
        source_id=source,
        position=PICTURE,
        kind="image",
        width=width,
        height=height,
        source_width=source_width,
        source_height=source_height,
        mirrored=scales[0] * scales[1] < 0,
        png=encoded_png(representations, annotations, image),
        source_png=None if elsewhere else encoded_png(reference, annotations, source),
    )


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def summarise(measurements: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
    """Accuracy of every position, with 95 % intervals over images; maps as they are.

    Parameters
    ----------
    measurements
        What :func:`measure` returns.
    parameters
        Settings of the task.

    Returns ------- Rows of ``kind`` "score", one for each position: ``images``, ``tokens`` in all
    of them; ``accuracy`` (mean over images of the share of tokens that are correct), ``low``,
    ``high``; ``within_one``, ``within_one_low``, ``within_one_high``; mean ``error`` in pixels;
    ``chance``, the accuracy of a token drawn at random; ``shares``, of correct tokens in each
    image, by name. Intervals are null with too few images
    (:data:`reprscope.measures.statistics.FEWEST_UNITS`). Then the rows of ``kind`` "image" and
    "map".
    """
    del parameters
    scores = measurements.filter(pl.col("kind") == "score").sort("image_id", maintain_order=True)
    maps = measurements.filter(pl.col("kind") != "score")
    positions = scores["position"].unique(maintain_order=True).to_list()
    rows: list[tuple[object, ...]] = []
    for position in positions:
        of = scores.filter(pl.col("position") == position)
        correct, tokens, candidates = (
            of.select(name).to_numpy()
            for name in (["correct", "within_one"], "tokens", "candidates")
        )
        shares = mean(correct / tokens).share()
        # NumPy's sums, whose last bit does not depend on threads.
        means = (of["error"].to_numpy().mean(), (1 / candidates).mean())
        numbers = (*(bound[column] for column in (0, 1) for bound in shares), *means)
        counts = (len(of), int(tokens.sum()))
        shares_of_images = (correct[:, 0] / tokens[:, 0]).tolist()
        rows.append((position, "score", *counts, *map(float, numbers), shares_of_images))
    summary = pl.DataFrame(rows, schema=_SUMMARY, orient="row").with_columns(
        pl.col(pl.Float64).fill_nan(None)
    )
    return pl.concat([summary, maps.drop(_COUNTS)], how="diagonal").select(*_TABLE)


def relate(table: pl.DataFrame, parameters: Mapping[str, Parameters]) -> pl.DataFrame:
    """Compare positions with each other, and every view with the undegraded one.

    Parameters
    ----------
    table
        Summaries of all measurements of an experiment, with what they were measured under.
    parameters
        Settings of each task.

    Returns
    -------
    The table without ``shares``, and with these columns, null elsewhere.

    ``apart_p``: for the highest and the lowest accuracy of a measurement, whether it differs from
    that of every other position (:func:`reprscope.tasks._changes.apart`).

    ``change``: the accuracy relative to that of the view from which a degradation starts, minus 1,
    on the same images; ``change_low``, ``change_high``, its 95 % interval over images;
    ``change_apart_p`` (see :func:`reprscope.tasks._changes.with_changes`). Null without such a
    view, and at positions that are not above chance there.
    """
    del parameters
    scores = table.filter(pl.col("kind") == "score")
    keys = [key for key in KEYS if key in table.columns]
    parts = [scores.select(keys).clear().with_columns(apart_p=pl.lit(None, pl.Float64()))]
    for rows in scores.partition_by([key for key in keys if key != "position"]):
        shares = np.array(rows["shares"].to_list()).T
        p = apart(rows["accuracy"].to_numpy(), shares, mean)
        parts.append(rows.select(keys).with_columns(apart_p=pl.Series(p, nan_to_null=True)))
    found = pl.concat(parts).with_columns(kind=pl.lit("score"))
    return with_changes(
        table.join(found, on=[*keys, "kind"], how="left", maintain_order="left"),
        scores,
        scores.filter(pl.col("low") > pl.col("chance")),
        values="shares",
        alike="images",
        further=("kind",),
        mean=lambda _, values: mean(values),
    ).drop("shares")


def findings(table: pl.DataFrame) -> Findings:
    """Which block finds its tokens again, and which loses most, in the strongest of each view.

    Of the steps of one degradation (see :mod:`reprscope.representations.degradations`) the last is
    told. A position is said to be best, or to lose most or least, only if it differs from every
    other one after Holm's correction for all that is claimed here.
    """
    scores = table.filter(pl.col("kind") == "score")
    keys = [key for key in KEYS if key in scores.columns and key != "view"]
    views = scores["view"].unique(maintain_order=True).to_list()
    start = starts(views)
    last = scores.filter(pl.col("view").is_in(last_steps(views)))
    groups = [key for key in ("view", *keys) if key != "position"]
    parts = last.partition_by(groups, maintain_order=True)
    # What a degradation did is said first, and how it was without one after that.
    parts.sort(key=lambda rows: rows["view"][0] == start[rows["view"][0]])
    best = [
        rows.sort("accuracy", descending=True, maintain_order=True).row(0, named=True)
        for rows in parts
    ]
    lost = [losses(rows) for rows in parts]
    claims = [
        [row["apart_p"], *(one.claims() if one else ())]
        for row, one in zip(best, lost, strict=True)
    ]
    hold = iter(holding([p for part in claims for p in part]))
    sentences = []
    for rows, row, one in zip(parts, best, lost, strict=True):
        tried = rows["position"].to_list()
        text = f"{row['model']}, {row['view']}: {_found(row, tried, firm=next(hold))}"
        if one:
            text += f"; {one.told('accuracy', 'images', [next(hold), next(hold)])}"
        sentences.append(f"{text}.")
    columns = ["accuracy", "low", "high", *CHANGE, "within_one", "error", "chance"]
    shown = pl.concat(parts) if parts else last
    return Findings(sentences, shown.select("view", *keys, "images", "tokens", *columns))


def _found(best: Mapping[str, Any], tried: Sequence[str], *, firm: bool) -> str:
    """What the best of a measurement's positions finds, in words."""
    name = block_label(best["position"])
    share = interval(best["accuracy"], best["low"], best["high"])
    items = f"{share} of {best['tokens']:,} tokens in {best['images']:,} images"
    chance = f"chance {100 * best['chance']:.2g} %"
    if firm:
        return f"of {counted(tried)}, {name} finds most tokens again, {items} ({chance})"
    among = f"the highest of {counted(tried)} on these images, " if len(tried) > 1 else ""
    return f"{name} finds {items} again ({among}{chance})"
