"""Position probe: how well a linear map reads a token's place from the token.

Thesis, figures 11 and 27, and the upper row of the paper's figures 2, 4 and 5. Rows and columns are
read apart, by classification and by regression (:mod:`reprscope.measures.place_probes`), at every
position of the network.

Two forms. ``converged``, the default, fits both to their minimum with penalties chosen on
validation images. ``published`` is the thesis' recipe, in which small maps get few steps of Adam
and large ones many, so that layers are compared by how far the optimiser got as well.

That a place is read better than by chance does not say that position is encoded: the sky is above.
The null is the same probe on the colours of the tokens' own patches
(:mod:`reprscope.measures.patches`), which hold content alone: ``content_only``. What is ``above``
it is compared image by image.

A place is compared on grids of s x s cells, where a place ``p`` of ``n`` lies in cell
``p * s // n``; a map that is smaller than the grid is compared on its own.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import polars as pl

from reprscope.base.parameters import check_whole
from reprscope.base.seeds import item_seed
from reprscope.data.shares import drawn_split
from reprscope.measures import logistic, patches, place_probes, statistics
from reprscope.measures.place_probes import AXES, Probe, Tokens
from reprscope.runtime.errors import UserError
from reprscope.tasks import PICTURE
from reprscope.tasks._findings import CONDITION, Findings, best, superlative, told_apart, where
from reprscope.tasks._pictures import encoded_picture, encoded_png, finite_tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from reprscope.data.canonical import Annotations
    from reprscope.representations.store import Representations

    Ints = NDArray[np.int64]
    Read = Callable[[str], NDArray[np.float32]]
    Grid = tuple[int, int]

NEEDS: Final[frozenset[str]] = frozenset()
STORES: Final = frozenset({"tokens"})
PROTOCOL: Final[frozenset[str]] = frozenset()
TABLE_COLUMNS: Final = (
    "kind",
    "split",
    "estimator",
    "grid",
    "coordinates",
    "images",
    "accuracy",
    "low",
    "high",
    "chance",
    "content_only",
    "above",
    "above_low",
    "above_high",
    "p",
    "error",
    "penalty",
    "iterations",
    "train_accuracy",
    "image_id",
    "height",
    "width",
    "row",
    "col",
    "predicted_row",
    "predicted_col",
    "png",
)

COORDINATES: Final = ("row", "column", "each", "both")
"""Rows, columns, the mean of the two as in the thesis, and both of a token at once."""

FEATURES: Final = ("tokens", "colours")
HELD_OUT: Final = ("drawn", "last")
OWN: Final = 0
"""Stands in the column ``grid`` for the map's own grid."""

_SCORED: Final = ("validation", "test")
_SCHEMA: Final = {
    "position": pl.String,
    "kind": pl.String,
    "split": pl.String,
    "image_id": pl.String,
    "features": pl.String,
    "estimator": pl.String,
    "height": pl.Int32,
    "width": pl.Int32,
    "grid": pl.Int32,
    "right_rows": pl.Int32,
    "right_columns": pl.Int32,
    "right_both": pl.Int32,
    "row_error": pl.Float64,
    "column_error": pl.Float64,
    "both_error": pl.Float64,
    "axis": pl.String,
    "penalty": pl.Float64,
    "iterations": pl.Int32,
    "train_accuracy": pl.Float64,
    "row": pl.Int32,
    "col": pl.Int32,
    "predicted_row": pl.Float32,
    "predicted_col": pl.Float32,
    "png": pl.Binary,
}
_SUMMARY: Final = {
    **{name: _SCHEMA[name] for name in ("position", "kind", "split", "estimator")},
    "grid": pl.Int32,
    "coordinates": pl.String,
    "images": pl.Int32,
    "accuracy": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "chance": pl.Float64,
    "content_only": pl.Float64,
    "above": pl.Float64,
    "above_low": pl.Float64,
    "above_high": pl.Float64,
    "p": pl.Float64,
    "error": pl.Float64,
    **{name: _SCHEMA[name] for name in ("penalty", "iterations", "train_accuracy")},
    **{name: _SCHEMA[name] for name in ("image_id", "height", "width", "row", "col")},
    **{name: _SCHEMA[name] for name in ("predicted_row", "predicted_col", "png")},
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Settings of the probe.

    Attributes
    ----------
    form
        ``converged``, or ``published``: see :mod:`reprscope.measures.place_probes`.
    iterations
        Iterations of L-BFGS at most, in the converged form.
    tokens_per_image
        Tokens of each training image that are trained on, drawn at random; 0 for all, as published.
        As many of each validation image choose the penalty; scored are all.
    grids
        Sides s of the grids on which places are compared, besides the map's own.
    test_share
        Share of the images that are held out for testing where all images of the dataset are in one
        split, as those of ``imagenet_subset`` are; a dataset's own splits are kept.
    validation_share
        Share of the training images that become validation images where the dataset has none, in
        the converged form.
    held_out
        Which images are held out for testing: ``drawn``, each by its own name, or the ``last`` by
        name, as in the thesis.
    examples
        Number of test images, the first by name, of which every prediction is kept.
    seed
        Seed of the choice of tokens and of the images that are drawn; in the published form also of
        the start and the order of tokens.
    """

    form: Literal["converged", "published"] = "converged"
    iterations: int = logistic.ITERATIONS
    tokens_per_image: int = 128
    grids: tuple[int, ...] = (8, 16, 32, 64)
    test_share: float = 0.2
    validation_share: float = 0.2
    held_out: str = "drawn"
    examples: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        # A study's list becomes a tuple here, so that parameters stay hashable.
        object.__setattr__(self, "grids", tuple(self.grids))
        if self.form not in ("converged", "published"):
            raise UserError(f"form is {self.form!r}; use one of: converged, published.")
        check_whole(self, "iterations")
        check_whole(self, "tokens_per_image", "examples", least=0)
        for name in ("test_share", "validation_share"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 < value < 1:
                raise UserError(f"{name} is {value!r}; write a share between 0 and 1 such as 0.2.")
        if self.held_out not in HELD_OUT:
            raise UserError(f"held_out is {self.held_out!r}; use one of: {', '.join(HELD_OUT)}.")
        if any(grid < 1 for grid in self.grids) or len(set(self.grids)) != len(self.grids):
            raise UserError(f"grids is {list(self.grids)}; list sides from 1, each only once.")


def measure(
    representations: Representations, annotations: Annotations, parameters: Parameters
) -> pl.DataFrame:
    """Learn to read places at every position and read those of all other images' tokens.

    Parameters
    ----------
    representations
        Features of images whose token grids are alike. The training tokens of one position are held
        in memory.
    annotations
        Images with their splits, and the pictures, whose colours are the null.
    parameters
        Settings of the probe.

    Returns
    -------
    Rows of ``kind`` "score", one for each position, ``features`` ("tokens", or "colours" of the
    patches under the same grid), validation or test image, ``estimator`` and ``grid`` (0: the map's
    own): ``height`` and ``width`` of the map, the numbers of tokens whose row (``right_rows``),
    column (``right_columns``) and whose both (``right_both``) are right on that grid, and mean
    errors in tokens on the map's own, ``row_error``, ``column_error`` and ``both_error`` (the
    distance). Rows of ``kind`` "fit": ``penalty``, ``iterations`` and ``train_accuracy`` of each
    estimator and ``axis``. Rows of ``kind`` "map", one for each token of an example: ``row``,
    ``col``, ``predicted_row``, ``predicted_col`` (in tokens, whole for ``classification``). Rows of
    ``kind`` "image", one for each example at position "image": ``png``.

    Raises
    ------
    UserError
        If the train or the test split is empty, token grids differ, or a feature is not finite.
    """
    splits = _splits(representations, annotations, parameters)
    examples = splits["test"][: parameters.examples]
    frames = [
        pl.DataFrame(
            {
                "position": PICTURE,
                "kind": "image",
                "split": "test",
                "image_id": image,
                "png": encoded_png(representations, annotations, image),
            }
        )
        for image in examples
    ]
    content: dict[Grid, pl.DataFrame] = {}
    for position in representations.positions:
        grid = representations.grid(position, splits["train"][0])

        def tokens(image: str, position: str = position, grid: Grid = grid) -> NDArray[np.float32]:
            return _image_tokens(representations, position, image, grid)

        def colours(image: str, grid: Grid = grid) -> NDArray[np.float32]:
            return patches.colours(encoded_picture(representations, annotations, image), grid)

        if grid not in content:
            # The same for all positions with this grid.
            _, content[grid] = _probed(colours, grid, splits, parameters, "colours")
        probe, rows = _probed(tokens, grid, splits, parameters, position)
        for features, part in zip(FEATURES, (rows, content[grid]), strict=True):
            frames.append(
                part.with_columns(
                    pl.lit(position).alias("position"), pl.lit(features).alias("features")
                )
            )
        for image in examples:
            common: dict[str, Any] = {"position": position, "split": "test", "image_id": image}
            common |= {"height": grid[0], "width": grid[1]}
            frames += _maps(probe.predict(_flat(tokens(image))), grid, common)
        logger.info("probed %s: %d x %d", position, *grid)
    schema = pl.DataFrame(schema=_SCHEMA)
    return pl.concat([schema, *(_typed(frame) for frame in frames)], how="diagonal")


def _probed(
    read: Read, grid: Grid, splits: dict[str, list[str]], parameters: Parameters, name: str
) -> tuple[Probe, pl.DataFrame]:
    """A probe of some features, and rows of kind "score" and "fit" of it."""
    seed = item_seed(parameters.seed, name)
    train = _drawn(read, splits["train"], grid, parameters, name)
    if parameters.form == "published":
        probe = place_probes.published(train, grid, seed=seed)
    else:
        validation = _drawn(read, splits["validation"], grid, parameters, name)
        probe = place_probes.converged(train, validation, grid, iterations=parameters.iterations)
    rows: list[dict[str, Any]] = [{"kind": "fit", **one._asdict()} for one in probe.learned]
    for split in _SCORED:
        for image in splits[split]:
            common = {"split": split, "image_id": image, "height": grid[0], "width": grid[1]}
            rows += _scores(probe, _flat(read(image)), parameters.grids, common)
    kept = {key: kind for key, kind in _SCHEMA.items() if key not in ("position", "features")}
    return probe, pl.DataFrame(rows, schema=kept)


def summarise(measurements: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
    """Accuracy of each estimator and grid over images, beside what colours tell.

    Parameters
    ----------
    measurements
        What :func:`measure` returns.
    parameters
        Settings of the probe.

    Returns
    -------
    Rows of ``kind`` "score": ``position``, ``split``, ``estimator``, ``grid``, ``coordinates`` (see
    :data:`COORDINATES`), ``images``, ``accuracy`` (share of tokens), ``low``, ``high``; ``chance``,
    the accuracy of uniformly random places; ``content_only``, that of the probe on colours of the
    same images, ``above``, the difference to it, ``above_low``, ``above_high``, and ``p``, of the
    one-sided test over images that it is not positive; ``error``, the mean error in tokens on the
    map's own grid; ``penalty``, ``iterations`` (of the coordinate; null for two) and
    ``train_accuracy``. Rows of ``kind`` "map" and "image" as they are measured.
    """
    keys = ["position", "estimator", "grid"]
    scores = measurements.filter(pl.col("kind") == "score").sort("image_id", maintain_order=True)
    learned = {
        (row["position"], row["estimator"], row["axis"]): row
        for row in measurements.filter(kind="fit", features="tokens").iter_rows(named=True)
    }
    rows: list[dict[str, Any]] = []
    for split in _SCORED:
        own, content = (
            scores.filter(split=split, features=features).partition_by(
                keys, as_dict=True, maintain_order=True
            )
            for features in FEATURES
        )
        if not own:
            continue
        # All columns side by side, since all groups have the same images.
        shares = np.concatenate([_shares(group) for group in own.values()], axis=1)
        others = np.concatenate([_shares(content[key]) for key in own], axis=1)
        found = statistics.mean(shares).share()
        above = statistics.mean(shares - others)
        differ, p = above.interval(), above.p_value(alternative="greater")
        only = others.mean(axis=0)
        columns = [(key, group, name) for key, group in own.items() for name in COORDINATES]
        for number, (key, group, name) in enumerate(columns):
            position, estimator, grid = key
            shape = (group["height"][0], group["width"][0])
            one = learned.get((position, estimator, name), {})
            both = [learned[position, estimator, axis]["train_accuracy"] for axis in AXES]
            train = {"each": sum(both) / 2, "both": None}.get(name, one.get("train_accuracy"))
            error = group[f"{name}_error"].mean() if name != "each" and grid == OWN else None
            rows.append(
                dict(zip(keys, key, strict=True))
                | {"kind": "score", "split": split, "coordinates": name, "images": len(group)}
                | {"accuracy": found.value[number], "low": found.low[number]}
                | {"high": found.high[number], "chance": chance(shape, int(grid), name)}
                | {"content_only": only[number], "above": differ.value[number]}
                | {"above_low": differ.low[number], "above_high": differ.high[number]}
                | {"p": p[number], "error": error, "train_accuracy": train}
                | {"penalty": one.get("penalty"), "iterations": one.get("iterations")}
            )
    kept = measurements.filter(pl.col("kind").is_in(["map", "image"]))
    bounds = [name for name, kind in _SUMMARY.items() if kind == pl.Float64]
    table = pl.concat(
        [pl.DataFrame(rows, infer_schema_length=None), kept], how="diagonal_relaxed"
    ).select(
        (pl.col(name) if name in {*rows[0], *kept.columns} else pl.lit(None)).cast(kind).alias(name)
        for name, kind in _SUMMARY.items()
    )
    return table.with_columns(pl.col(bounds).fill_nan(None))


def _shares(scores: pl.DataFrame) -> NDArray[np.float64]:
    """Shares (images, coordinates) of tokens that are right."""
    tokens = pl.col("height") * pl.col("width")
    return (
        scores.select(
            row=pl.col("right_rows") / tokens,
            column=pl.col("right_columns") / tokens,
            each=(pl.col("right_rows") + pl.col("right_columns")) / (2 * tokens),
            both=pl.col("right_both") / tokens,
        )
        .select(COORDINATES)
        .to_numpy()
    )


def cells(places: NDArray[Any], length: int, grid: int) -> Ints:
    """Cells of a grid in which places of a map of ``length`` lie; ``OWN`` leaves the places."""
    whole = np.asarray(places, dtype=np.int64)
    return whole if grid == OWN else whole * grid // length


def chance(shape: tuple[int, int], grid: int, coordinates: str) -> float:
    """Accuracy of uniformly random places on a map of ``shape`` (h, w)."""
    shares = []
    for length in shape:
        counts = np.bincount(cells(np.arange(length), length, grid))
        shares.append(float((counts**2).sum()) / length**2)
    if coordinates in AXES:
        return shares[AXES.index(coordinates)]
    return math.prod(shares) if coordinates == "both" else sum(shares) / 2


def _splits(
    representations: Representations, annotations: Annotations, parameters: Parameters
) -> dict[str, list[str]]:
    """Names of the images of each split, sorted."""
    known = set(representations.image_ids)
    images = annotations.images().select("image_id", "split")
    splits = {
        split: sorted(known & set(images.filter(pl.col("split") == split)["image_id"]))
        for split in ("train", *_SCORED)
    }
    filled = [names for names in splits.values() if names]
    if len(filled) == 1:
        splits = {"validation": []} | divided(filled[0], parameters)
    if parameters.form == "converged" and not splits["validation"]:
        splits |= without_validation(splits["train"], parameters)
    for split in ("train", "test"):
        if not splits[split]:
            raise UserError(
                f"position_probe: the {split} split has no images; use a dataset with train and "
                "test images, or more images of it."
            )
    return splits


def divided(names: list[str], parameters: Parameters) -> dict[str, list[str]]:
    """Divide the sorted names of images into those to train on and those to test on."""
    if parameters.held_out == "last":
        number = round(len(names) * (1 - parameters.test_share))
        return {"train": names[:number], "test": names[number:]}
    drawn = [drawn_split(parameters.seed, name, 0.0, parameters.test_share) for name in names]
    return {
        split: [name for name, of in zip(names, drawn, strict=True) if of == split]
        for split in ("train", "test")
    }


def without_validation(names: list[str], parameters: Parameters) -> dict[str, list[str]]:
    """Take validation images from the training images: a fixed share of them, at least one."""
    order = sorted(names, key=lambda name: item_seed(parameters.seed, "validation", name))
    number = math.ceil(len(names) * parameters.validation_share)
    return {"validation": sorted(order[:number]), "train": sorted(order[number:])}


def _image_tokens(
    representations: Representations, position: str, image: str, grid: Grid
) -> NDArray[np.float32]:
    """Tokens (h, w, channels) of one image, on a known grid."""
    tokens = finite_tokens(representations, position, image, kind="position_probe")
    if tokens.shape[:2] != grid:
        raise UserError(
            f"position_probe: image '{image}' has {tokens.shape[0]} x {tokens.shape[1]} tokens at "
            f"{position}, others have {grid[0]} x {grid[1]}; use a view with `fit: pad` or "
            "`fit: squash`."
        )
    return tokens


def _flat(tokens: NDArray[np.float32]) -> NDArray[np.float32]:
    return tokens.reshape(-1, tokens.shape[-1])


def _drawn(read: Read, images: list[str], grid: Grid, parameters: Parameters, name: str) -> Tokens:
    """Tokens of several images, in half precision if nothing is lost by it."""
    table: NDArray[Any] = np.empty(0)
    places: list[Ints] = []
    for number, image in enumerate(images):
        flat = _flat(read(image))
        chosen = np.arange(len(flat))
        if 0 < parameters.tokens_per_image < len(flat):
            rng = np.random.default_rng(item_seed(parameters.seed, "tokens", name, image))
            chosen = np.sort(rng.choice(len(flat), parameters.tokens_per_image, replace=False))
        with np.errstate(over="ignore"):  # what does not fit is found unequal below
            half = flat[chosen].astype(np.float16)
        if number == 0:
            table = np.empty((len(images) * len(chosen), flat.shape[1]), half.dtype)
        if table.dtype == np.float16 and not np.array_equal(half, flat[chosen]):
            table = table.astype(np.float32)
        table[number * len(chosen) : (number + 1) * len(chosen)] = flat[chosen]
        places.append(np.stack(np.divmod(chosen, grid[1]), axis=1))
    return Tokens(table, np.concatenate(places))


def _scores(
    probe: Probe,
    tokens: NDArray[np.float32],
    grids: tuple[int, ...],
    common: dict[str, Any],
) -> list[dict[str, Any]]:
    """Numbers of right tokens of one image, by estimator and grid, and errors on its own."""
    places = np.indices(probe.grid).reshape(2, -1)
    rows = []
    for estimator, found in probe.predict(tokens).items():
        whole = probe.on_map(found).T
        away = np.abs(whole - places)
        errors = {
            "row_error": float(away[0].mean()),
            "column_error": float(away[1].mean()),
            "both_error": float(np.hypot(*away).mean()),
        }
        for grid in (OWN, *grids):
            right = [
                cells(whole[axis], length, grid) == cells(places[axis], length, grid)
                for axis, length in enumerate(probe.grid)
            ]
            rows.append(
                common
                | {
                    "kind": "score",
                    "estimator": estimator,
                    "grid": grid,
                    "right_rows": int(right[0].sum()),
                    "right_columns": int(right[1].sum()),
                    "right_both": int((right[0] & right[1]).sum()),
                }
                | (errors if grid == OWN else {})
            )
    return rows


def _maps(
    predicted: dict[str, NDArray[np.float32]], shape: tuple[int, int], common: dict[str, Any]
) -> list[pl.DataFrame]:
    """One row for each token of one image, by estimator."""
    rows, columns = np.indices(shape).reshape(2, -1)
    return [
        pl.DataFrame(
            {
                "row": rows,
                "col": columns,
                "predicted_row": found[:, 0].copy(),
                "predicted_col": found[:, 1].copy(),
            }
        ).with_columns(
            pl.lit(value).alias(name)
            for name, value in (common | {"kind": "map", "estimator": estimator}).items()
        )
        for estimator, found in predicted.items()
    ]


def _typed(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select(pl.col(name).cast(_SCHEMA[name]) for name in frame.columns)


def findings(table: pl.DataFrame) -> Findings:
    """Where place is read best, and in how many layers it is more than colours tell.

    The first is chosen on validation images. The second is a family of one-sided tests over test
    images, for rows and columns of all layers and timesteps of a condition, adjusted by Holm.
    """
    scores = table.filter(
        (pl.col("kind") == "score")
        & (pl.col("estimator") == "classification")
        & (pl.col("grid") == OWN)
    )
    both = best(scores.filter(pl.col("coordinates") == "both"), "accuracy")
    keys = ["model", *(column for column in CONDITION if column in table.columns)]
    sentences, rows = [], []
    for row, under in zip(both.iter_rows(named=True), told_apart(both), strict=True):
        subject = (
            f"The share of tokens of {row['model']} on {row['dataset']}{under} whose row and "
            "column are both read right"
        )
        told = superlative(row, subject, "accuracy", of="the tokens")
        sentences.append(
            f"{told} (chance {100 * row['chance']:.2g} %, from the colours of the tokens' patches "
            f"{100 * row['content_only']:.2g} %)."
        )
        alike = [pl.col(key).eq_missing(pl.lit(row[key])) for key in keys]
        tried = scores.filter(
            *alike, pl.col("split") == row["split"], pl.col("coordinates").is_in(AXES)
        )
        tried = tried.with_columns(adjusted=statistics.holm(tried["p"].cast(float).to_numpy()))
        sentences += _beyond_colours(tried, f"{row['model']}{under}")
        rows.append(tried)
    return Findings(sentences, pl.concat([both, *rows], how="diagonal") if rows else both)


def _beyond_colours(tried: pl.DataFrame, name: str) -> list[str]:
    """In how many layers each coordinate is read better than from colours; none without a test."""
    tests = int(tried["p"].count())
    if not tests:
        return []
    family = f"{tests} one-sided t-tests over {tried['images'][0]} {tried['split'][0]} images, Holm"
    firm = tried.filter(pl.col("adjusted") < statistics.SIGNIFICANT)
    if firm.is_empty():
        return [
            f"{name}: in no layer is a row or a column read better than from the colours of the "
            f"tokens' patches ({family})."
        ]
    counts, margins = [], []
    for axis in AXES:
        of, known = (part.filter(pl.col("coordinates") == axis) for part in (tried, firm))
        counts.append(f"{axis}s in {len(known)} of {len(of)} layers")
        if len(known):
            most = known.sort("above", descending=True, maintain_order=True).row(0, named=True)
            margins.append(
                f"{axis}s by {100 * most['above']:.1f} points in "
                f"{where(most['position'], most['timestep'])}"
            )
    return [
        f"{name}: position is encoded beyond what the colours of the tokens' patches tell, "
        f"{' and '.join(counts)} ({family}); by most on these images: {', '.join(margins)}."
    ]
