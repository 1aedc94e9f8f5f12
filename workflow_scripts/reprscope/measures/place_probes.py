"""Linear maps from tokens to their places, as classes and as numbers.

Two estimators: ``classification``, one linear classifier of rows and one of columns, and
``regression``, a linear map to (row, column), of which the nearest place on the map counts.

:func:`converged` fits them to their minimum, with a penalty chosen on validation images, so that
layers are compared by what they hold and not by how far an optimiser got. :func:`published` is the
recipe of the thesis (figures 11 and 27) and the paper (figures 2, 4 and 5): Adam on raw tokens for
five epochs, however few steps these are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from reprscope.measures import logistic

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float64]
    Ints = NDArray[np.int64]

ESTIMATORS: Final = ("classification", "regression")
AXES: Final = ("row", "column")

EPOCHS: Final = 5
BATCH: Final = 512
LEARNING_RATE: Final = 1e-3
"""Training with Adam, as published."""


class Tokens(NamedTuple):
    """Tokens of several images with their places.

    Attributes
    ----------
    values
        (n, channels).
    places
        (n, 2) row and column.
    """

    values: NDArray[Any]
    places: Ints


class Learned(NamedTuple):
    """How one coordinate was learned by one estimator.

    Attributes
    ----------
    estimator, axis
        One of :data:`ESTIMATORS`, one of :data:`AXES`.
    penalty
        The chosen one; None in the published form.
    iterations
        Iterations of L-BFGS or steps of Adam; 0 for a closed form.
    train_accuracy
        Share of the training tokens whose coordinate is right.
    """

    estimator: str
    axis: str
    penalty: float | None
    iterations: int
    train_accuracy: float


@dataclass(frozen=True)
class Probe:
    """Both estimators as one linear map: logits of rows and of columns, then row and column.

    Attributes
    ----------
    weight, bias
        (channels, h + w + 2) and (h + w + 2,).
    grid
        (h, w) of the token map.
    learned
        How each estimator learned each coordinate.
    """

    weight: Float
    bias: Float
    grid: tuple[int, int]
    learned: tuple[Learned, ...] = ()

    def predict(self, tokens: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        """Places (n, 2) of tokens (n, channels), by estimator; whole for ``classification``."""
        found = np.asarray(tokens, dtype=np.float64) @ self.weight + self.bias
        height, width = self.grid
        classes = [found[:, :height].argmax(axis=1), found[:, height : height + width].argmax(1)]
        return {
            "classification": np.stack(classes, axis=1).astype(np.float32),
            "regression": found[:, height + width :].astype(np.float32),
        }

    def on_map(self, found: NDArray[Any]) -> Ints:
        """The nearest places on the map, (n, 2); a regression may aim beside it."""
        whole = np.clip(np.rint(found), 0, np.array(self.grid) - 1)
        return np.asarray(whole, dtype=np.int64)

    def with_accuracy(self, train: Tokens, how: Callable[[str, int], dict[str, Any]]) -> Probe:
        """The same probe with ``learned``, from a function of estimator and axis (0, 1)."""
        learned = []
        for estimator, found in self.predict(train.values).items():
            right = (self.on_map(found) == train.places).mean(axis=0)
            for number, axis in enumerate(AXES):
                about = how(estimator, number)
                learned.append(
                    Learned(estimator, axis, train_accuracy=float(right[number]), **about)
                )
        return Probe(self.weight, self.bias, self.grid, tuple(learned))


def converged(
    train: Tokens,
    validation: Tokens,
    grid: tuple[int, int],
    *,
    penalties: Sequence[float] = logistic.PENALTIES,
    iterations: int = logistic.ITERATIONS,
) -> Probe:
    """Fit both estimators to their minimum, each coordinate with a penalty of its own.

    Channels are standardised over the training tokens. The penalty of a classifier is the one with
    the highest accuracy on the validation tokens, that of a regression the one with the smallest
    squared error there; of equal ones the strongest.

    Parameters
    ----------
    train, validation
        Tokens of different images.
    grid
        (h, w) of the token map.
    penalties
        Penalties to choose from, see :mod:`reprscope.measures.logistic`.
    iterations
        Iterations of L-BFGS at most.
    """
    scaling = logistic.Scaling.of(train.values)
    axes = logistic.Axes(scaling(train.values))
    queries = scaling(validation.values)
    height, width = grid
    weight = np.zeros((queries.shape[1], height + width + 2))
    bias = np.zeros(height + width + 2)
    chosen: dict[tuple[str, int], dict[str, Any]] = {}
    for axis, start in enumerate((0, height)):
        classes = grid[axis]
        fits = logistic.path(
            axes,
            train.places[:, axis],
            classes=classes,
            penalties=penalties,
            iterations=iterations,
        )
        place = validation.places[:, axis]
        right = {p: (f.logits(queries).argmax(axis=1) == place).mean() for p, f in fits.items()}
        penalty = max(right, key=lambda p: right[p])  # the first, which is the strongest
        fit = fits[penalty]
        weight[:, start : start + classes], bias[start : start + classes] = fit.weight, fit.bias
        chosen["classification", axis] = {"penalty": penalty, "iterations": fit.iterations}

        column = height + width + axis
        penalty, weight[:, column], bias[column] = _ridge(
            axes, train.places[:, axis], queries, place, penalties
        )
        chosen["regression", axis] = {"penalty": penalty, "iterations": 0}
    weight /= scaling.deviation[:, None]
    probe = Probe(weight, bias - scaling.centre @ weight, grid)
    return probe.with_accuracy(train, lambda estimator, axis: chosen[estimator, axis])


def _ridge(
    axes: logistic.Axes, target: Ints, queries: Float, place: Ints, penalties: Sequence[float]
) -> tuple[float, Float, float]:
    """Penalty, weight (channels,) and bias of the ridge regression that is best on ``queries``."""
    middle = float(target.mean())
    product = axes.scores.T @ (target - middle) / len(target)
    best: tuple[float, float, Float, float] | None = None
    for penalty in sorted(penalties, reverse=True):
        weight = axes.directions @ (product / (axes.variance + penalty))
        bias = middle - float(axes.centre @ weight)
        error = float(np.square(queries @ weight + bias - place).mean())
        if best is None or error < best[0]:
            best = (error, penalty, weight, bias)
    assert best is not None
    return best[1:]


def published(train: Tokens, grid: tuple[int, int], *, seed: int) -> Probe:
    """Train both estimators as the thesis does: Adam, raw tokens, five epochs.

    Weights and biases start in +-1/sqrt(channels). The loss is the mean of the cross-entropies of
    rows and columns, and the squared error of the places. Adam scales each weight by its own
    gradients, so that both estimators, which share no weight, train as they would alone.

    Parameters
    ----------
    train
        Tokens in the precision in which they were stored.
    grid
        (h, w) of the token map.
    seed
        Seed of the start and of the order of the tokens.
    """
    import torch
    from torch.nn import functional

    height, width = grid
    inputs, targets = torch.from_numpy(train.values), torch.from_numpy(train.places)
    generator = torch.Generator().manual_seed(seed)
    bound = 1 / math.sqrt(inputs.shape[1])
    weight, bias = (
        torch.empty(shape).uniform_(-bound, bound, generator=generator).requires_grad_()
        for shape in ((inputs.shape[1], height + width + 2), (height + width + 2,))
    )
    optimiser = torch.optim.Adam([weight, bias], lr=LEARNING_RATE, fused=True)
    steps = 0
    # One thread: the quickest for such matrices, and sums that do not depend on the cores.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(EPOCHS):
            order = torch.randperm(len(inputs), generator=generator)
            for chosen in order.split(BATCH):
                optimiser.zero_grad()
                found = torch.addmm(bias, inputs[chosen].float(), weight)
                place = targets[chosen]
                loss = (
                    functional.cross_entropy(found[:, :height], place[:, 0]) / 2
                    + functional.cross_entropy(found[:, height : height + width], place[:, 1]) / 2
                    + functional.mse_loss(found[:, height + width :], place.float())
                )
                loss.backward()
                optimiser.step()
                steps += 1
    finally:
        torch.set_num_threads(threads)
    learned = [one.detach().numpy().astype(np.float64) for one in (weight, bias)]
    probe = Probe(learned[0], learned[1], grid)
    return probe.with_accuracy(train, lambda *_: {"penalty": None, "iterations": steps})
