"""Position probe: how well a linear map reads a token's place from the token.

Thesis, figures 11 and 27, and the upper row of the paper's figures 2, 4 and 5. Two estimators are
trained on the tokens of the training images, at every position of the network:

``classification``
    Two linear classifiers, channels -> rows and channels -> columns, with the mean of their
    cross-entropies as the loss.
``regression``
    One linear map, channels -> (row, column), with the squared error as the loss; the nearest place
    on the map is the prediction.

Both have a bias, Adam with a learning rate of 1e-3, batches of 512 tokens and 5 epochs. A place is
compared on grids of s x s cells, where a place ``p`` of ``n`` lies in cell ``p * s // n``; a map
that is smaller than the grid is compared on its own.

The default form scales every channel, and the places that the regression aims at, to mean 0 and
deviation 1 over the training tokens, and trains longer where 5 epochs are few steps: on raw tokens
with a fixed number of epochs, layers of other scales and sizes would be compared by how far the
optimiser got rather than by what they hold. The thesis' form is ``standardise: false``,
``initialisation: uniform`` and ``least_steps: 0``.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from reprscope.data.shares import drawn_split
from reprscope.errors import UserError
from reprscope.findings import Findings, best, superlative
from reprscope.metrics import accuracy
from reprscope.parameters import check_whole
from reprscope.seeds import item_seed
from reprscope.tasks import PICTURE
from reprscope.tasks._pictures import encoded_png, finite_tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reprscope.data.canonical import Annotations
    from reprscope.store import Representations

    Ints = NDArray[np.int64]

NEEDS: Final[frozenset[str]] = frozenset()
STORES: Final = frozenset({"tokens"})
PROTOCOL: Final[frozenset[str]] = frozenset()

ESTIMATORS: Final = ("classification", "regression")
COORDINATES: Final = ("each", "both")
INITIALISATIONS: Final = ("zeros", "uniform")
HELD_OUT: Final = ("drawn", "last")
OWN: Final = 0
"""Stands in the column ``grid`` for the map's own grid."""

_SCORED: Final = ("validation", "test")
_SCHEMA: Final = {
    "position": pl.String,
    "kind": pl.String,
    "split": pl.String,
    "image_id": pl.String,
    "estimator": pl.String,
    "height": pl.Int32,
    "width": pl.Int32,
    "grid": pl.Int32,
    "right_rows": pl.Int32,
    "right_columns": pl.Int32,
    "right_both": pl.Int32,
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
    **{name: _SCHEMA[name] for name in ("image_id", "height", "width", "row", "col")},
    **{name: _SCHEMA[name] for name in ("predicted_row", "predicted_col", "png")},
}

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Settings of the probe.

    Attributes
    ----------
    learning_rate, batch, epochs
        Training with Adam; a batch is a number of tokens, and the last of an epoch may be smaller.
    least_steps
        Steps that are trained at least, by more epochs where a layer has few tokens; 0 for the
        number of epochs alone.
    tokens_per_image
        Tokens of each training image that are trained on, drawn at random; 0 for all.
    standardise
        Whether to scale each channel, and the regression's places, to mean 0 and deviation 1 over
        the training tokens.
    initialisation
        ``zeros``, or ``uniform``: weights and biases from the range +-1/sqrt(channels), as the
        thesis starts.
    grids
        Sides s of the grids on which places are compared, besides the map's own.
    test_share
        Share of the images that are held out for testing where all images of the dataset are in one
        split, as those of ``imagenet_subset`` are; a dataset's own splits are kept.
    held_out
        Which images these are: ``drawn``, each by its own name, or the ``last`` by name, as in the
        thesis.
    examples
        Number of test images, the first by name, of which every prediction is kept.
    seed
        Seed of the order of the tokens, of their choice, of random weights, and of the images that
        are drawn for testing.
    bootstrap
        Number of resamples of the images for the 95 % intervals.
    """

    learning_rate: float = 1e-3
    batch: int = 512
    epochs: int = 5
    least_steps: int = 1000
    tokens_per_image: int = 0
    standardise: bool = True
    initialisation: str = "zeros"
    grids: tuple[int, ...] = (8, 16, 32, 64)
    test_share: float = 0.2
    held_out: str = "drawn"
    examples: int = 1
    seed: int = 0
    bootstrap: int = 1000

    def __post_init__(self) -> None:
        # A study's list becomes a tuple here, so that parameters stay hashable.
        object.__setattr__(self, "grids", tuple(self.grids))
        if not isinstance(self.learning_rate, int | float) or self.learning_rate <= 0:
            raise UserError(
                f"learning_rate is {self.learning_rate!r}; write a positive number such as 0.001."
            )
        check_whole(self, "batch", "epochs", "bootstrap")
        check_whole(self, "least_steps", "tokens_per_image", "examples", least=0)
        if self.initialisation not in INITIALISATIONS:
            raise UserError(
                f"initialisation is {self.initialisation!r}; "
                f"use one of: {', '.join(INITIALISATIONS)}."
            )
        if not isinstance(self.test_share, int | float) or not 0 < self.test_share < 1:
            raise UserError(
                f"test_share is {self.test_share!r}; write a share between 0 and 1 such as 0.2."
            )
        if self.held_out not in HELD_OUT:
            raise UserError(f"held_out is {self.held_out!r}; use one of: {', '.join(HELD_OUT)}.")
        if any(grid < 1 for grid in self.grids) or len(set(self.grids)) != len(self.grids):
            raise UserError(f"grids is {list(self.grids)}; list sides from 1, each only once.")


def measure(
    representations: Representations, annotations: Annotations, parameters: Parameters
) -> pl.DataFrame:
    """Train both estimators at every position and read the places of all other images' tokens.

    Parameters
    ----------
    representations
        Features of images whose token grids are alike. The tokens of all training images at one
        position are held in memory, in half precision if that is how they were stored.
    annotations
        Images with their splits.
    parameters
        Settings of the probe.

    Returns
    -------
    Rows of ``kind`` "score", one for each position, validation or test image, ``estimator`` and
    ``grid`` (0: the map's own): ``height`` and ``width`` of the map, and the numbers of tokens
    whose row (``right_rows``), column (``right_columns``) and whose both (``right_both``) are right
    on that grid. Rows of ``kind`` "map", one for each token of an example: ``row``, ``col``,
    ``predicted_row``, ``predicted_col`` (in tokens, whole for ``classification``). Rows of ``kind``
    "image", one for each example at position "image": ``png``.

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
    for position in representations.positions:
        tokens, places, grid = _training_tokens(
            representations, position, splits["train"], parameters
        )
        probe = _train(tokens, places, grid, parameters, seed=item_seed(parameters.seed, position))
        rows: list[dict[str, Any]] = []
        for split in _SCORED:
            for image in splits[split]:
                queries = _image_tokens(representations, position, image, grid)
                predicted = probe.predict(queries)
                common: dict[str, Any] = {"position": position, "split": split, "image_id": image}
                common |= {"height": grid[0], "width": grid[1]}
                rows += _scores(predicted, grid, parameters.grids, common)
                if image in examples and split == "test":
                    frames += _maps(predicted, grid, common)
        frames.append(pl.DataFrame(rows))
        log.info("probed %s: %d x %d, %d training tokens", position, *grid, len(tokens))
    schema = pl.DataFrame(schema=_SCHEMA)
    return pl.concat([schema, *(_typed(frame) for frame in frames)], how="diagonal")


def summarise(measurements: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
    """Accuracy of each estimator and grid, with its 95 % bootstrap interval over images.

    Parameters
    ----------
    measurements
        What :func:`measure` returns.
    parameters
        Settings of the probe.

    Returns
    -------
    Rows of ``kind`` "score": ``position``, ``split``, ``estimator``, ``grid``, ``coordinates``
    ("each": mean over rows and columns, as in the thesis; "both": right in both at once),
    ``images``, ``accuracy`` (share of tokens), ``low``, ``high``, and ``chance``, that of uniformly
    random places. All of them are scored on the same resamples of the images. Rows of ``kind``
    "map" and "image" as they are measured.
    """
    keys = ["position", "estimator", "grid"]
    scores = measurements.filter(pl.col("kind") == "score")
    tokens = pl.col("height") * pl.col("width")
    shares = scores.with_columns(
        each=(pl.col("right_rows") + pl.col("right_columns")) / (2 * tokens),
        both=pl.col("right_both") / tokens,
    )
    frames = []
    for split in _SCORED:
        of_split = shares.filter(pl.col("split") == split)
        if of_split.is_empty():
            continue
        groups = of_split.sort(*keys[1:], "image_id", maintain_order=True).partition_by(
            keys, maintain_order=True
        )
        values = [group[name].to_numpy() for group in groups for name in COORDINATES]
        bounds = accuracy(
            np.stack(values, axis=1),
            replicates=parameters.bootstrap,
            seed=item_seed("position_probe", split),
        )
        rows = [
            {name: group[name][0] for name in keys}
            | {"kind": "score", "split": split, "coordinates": name, "images": len(group)}
            | {"chance": chance((group["height"][0], group["width"][0]), group["grid"][0], name)}
            for group in groups
            for name in COORDINATES
        ]
        frames.append(
            pl.DataFrame(rows).with_columns(
                accuracy=pl.Series(bounds.value),
                low=pl.Series(bounds.low),
                high=pl.Series(bounds.high),
            )
        )
    kept = measurements.filter(pl.col("kind") != "score")
    table = pl.concat([*frames, kept], how="diagonal_relaxed")
    return table.select(
        (pl.col(name) if name in table.columns else pl.lit(None)).cast(kind).alias(name)
        for name, kind in _SUMMARY.items()
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


def _image_tokens(
    representations: Representations, position: str, image: str, grid: tuple[int, int] | None
) -> NDArray[np.float32]:
    """Tokens (h, w, channels) of one image, on a known grid."""
    tokens = finite_tokens(representations, position, image, kind="position_probe")
    if grid is not None and tokens.shape[:2] != grid:
        raise UserError(
            f"position_probe: image '{image}' has {tokens.shape[0]} x {tokens.shape[1]} tokens at "
            f"{position}, others have {grid[0]} x {grid[1]}; use a view with `fit: pad` or "
            "`fit: squash`."
        )
    return tokens


def _training_tokens(
    representations: Representations, position: str, images: list[str], parameters: Parameters
) -> tuple[NDArray[Any], Ints, tuple[int, int]]:
    """Training tokens (n, channels), their places (n, 2) and the grid (h, w)."""
    grid: tuple[int, int] | None = None
    table: NDArray[Any] = np.empty(0)
    places: list[Ints] = []
    for number, image in enumerate(images):
        tokens = _image_tokens(representations, position, image, grid)
        grid = tokens.shape[:2]
        flat = tokens.reshape(-1, tokens.shape[-1])
        chosen = np.arange(len(flat))
        if 0 < parameters.tokens_per_image < len(flat):
            rng = np.random.default_rng(item_seed(parameters.seed, "tokens", position, image))
            chosen = np.sort(rng.choice(len(flat), parameters.tokens_per_image, replace=False))
        with np.errstate(over="ignore"):  # what does not fit is found unequal below
            half = flat[chosen].astype(np.float16)
        if number == 0:
            table = np.empty((len(images) * len(chosen), flat.shape[1]), half.dtype)
        if table.dtype == np.float16 and not np.array_equal(half, flat[chosen]):
            table = table.astype(np.float32)
        table[number * len(chosen) : (number + 1) * len(chosen)] = flat[chosen]
        places.append(np.stack(np.divmod(chosen, grid[1]), axis=1))
    assert grid is not None
    return table, np.concatenate(places), grid


class _Probe:
    """Both estimators as one linear map: logits of rows and columns, then row and column."""

    def __init__(self, weight: Any, bias: Any, scaling: _Scaling, grid: tuple[int, int]) -> None:
        self._weight, self._bias, self._scaling, self._grid = weight, bias, scaling, grid

    def predict(self, tokens: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Places (h * w, 2) of the tokens (h, w, channels) of one image, by estimator."""
        import torch

        height, width = self._grid
        inputs = torch.from_numpy(tokens.reshape(-1, tokens.shape[-1]))
        with torch.no_grad(), _one_thread():
            found = torch.addmm(self._bias, self._scaling.inputs(inputs), self._weight)
            rows = found[:, :height].argmax(dim=1)
            columns = found[:, height : height + width].argmax(dim=1)
            aimed = found[:, height + width :] * self._scaling.spread + self._scaling.middle
        return {
            "classification": torch.stack([rows, columns], dim=1).numpy().astype(np.float32),
            "regression": aimed.numpy(),
        }


class _Scaling:
    """What channels and places are scaled by: nothing, or mean and deviation."""

    def __init__(self, tokens: NDArray[Any], places: Ints, *, standardise: bool) -> None:
        import torch

        channels = tokens.shape[1]
        centre, deviation = np.zeros(channels), np.ones(channels)
        middle, spread = np.zeros(2), np.ones(2)
        if standardise:
            # In parts, since a layer's tokens may fill much of the memory.
            parts = range(0, len(tokens), 1 << 14)
            for start in parts:
                centre += tokens[start : start + (1 << 14)].sum(axis=0, dtype=np.float64)
            centre /= len(tokens)
            square = np.zeros(channels)
            for start in parts:
                away = tokens[start : start + (1 << 14)].astype(np.float64) - centre
                square += np.square(away).sum(axis=0)
            deviation = np.sqrt(square / len(tokens))
            middle, spread = places.mean(axis=0), places.std(axis=0)
            deviation[deviation == 0] = 1
            spread[spread == 0] = 1
        self._identity = not standardise
        self._centre, self._deviation, self.middle, self.spread = (
            torch.from_numpy(values.astype(np.float32))
            for values in (centre, deviation, middle, spread)
        )

    def inputs(self, tokens: Any) -> Any:
        values = tokens.float()
        return values if self._identity else (values - self._centre) / self._deviation


class _one_thread:  # noqa: N801 - used like a function
    """One thread: the quickest for such matrices, and sums that do not depend on the cores."""

    def __enter__(self) -> None:
        import torch

        self._threads = torch.get_num_threads()
        torch.set_num_threads(1)

    def __exit__(self, *failure: object) -> None:
        import torch

        torch.set_num_threads(self._threads)


def _train(
    tokens: NDArray[Any],
    places: Ints,
    grid: tuple[int, int],
    parameters: Parameters,
    *,
    seed: int,
) -> _Probe:
    """Train both estimators at once.

    Adam scales each weight by its own gradients, so that the two, which share no weight, train as
    they would alone.
    """
    import torch
    from torch.nn import functional

    height, width = grid
    outputs = height + width + 2
    scaling = _Scaling(tokens, places, standardise=parameters.standardise)
    inputs, targets = torch.from_numpy(tokens), torch.from_numpy(places)
    generator = torch.Generator().manual_seed(seed)
    weight, bias = torch.zeros((tokens.shape[1], outputs)), torch.zeros(outputs)
    if parameters.initialisation == "uniform":
        bound = 1 / math.sqrt(tokens.shape[1])
        for values in (weight, bias):
            values.uniform_(-bound, bound, generator=generator)
    weights = [weight.requires_grad_(), bias.requires_grad_()]
    optimiser = torch.optim.Adam(weights, lr=parameters.learning_rate, fused=True)
    steps = -(-len(inputs) // parameters.batch)
    with _one_thread():
        for _ in range(max(parameters.epochs, -(-parameters.least_steps // steps))):
            order = torch.randperm(len(inputs), generator=generator)
            for chosen in order.split(parameters.batch):
                optimiser.zero_grad()
                found = torch.addmm(bias, scaling.inputs(inputs[chosen]), weight)
                place = targets[chosen]
                aim = (place - scaling.middle) / scaling.spread
                loss = (
                    functional.cross_entropy(found[:, :height], place[:, 0]) / 2
                    + functional.cross_entropy(found[:, height : height + width], place[:, 1]) / 2
                    + functional.mse_loss(found[:, height + width :], aim)
                )
                loss.backward()
                optimiser.step()
    return _Probe(weight.detach(), bias.detach(), scaling, grid)


def _scores(
    predicted: dict[str, NDArray[np.float32]],
    shape: tuple[int, int],
    grids: tuple[int, ...],
    common: dict[str, Any],
) -> list[dict[str, Any]]:
    """Numbers of right tokens of one image, by estimator and grid."""
    places = np.indices(shape).reshape(2, -1)
    rows = []
    for estimator, found in predicted.items():
        # The nearest place on the map: a regression may aim beside it.
        whole = [
            np.clip(np.rint(found[:, axis]), 0, length - 1) for axis, length in enumerate(shape)
        ]
        for grid in (OWN, *grids):
            right = [
                cells(whole[axis], length, grid) == cells(places[axis], length, grid)
                for axis, length in enumerate(shape)
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
    """The position from which place is read best."""
    scores = table.filter(
        (pl.col("kind") == "score")
        & (pl.col("estimator") == "classification")
        & (pl.col("grid") == OWN)
        & (pl.col("coordinates") == "both")
    )
    found = best(scores, "accuracy")
    return Findings(
        [
            superlative(
                row,
                f"The share of {row['model']}'s tokens whose row and column are both read right on "
                f"{row['dataset']}",
                "accuracy",
            )
            + f"; chance is {100 * row['chance']:.2g} %."
            for row in found.iter_rows(named=True)
        ],
        found,
    )
