"""Multinomial logistic regression that has converged, by L-BFGS from any start.

The loss is the mean cross-entropy over the items plus ``penalty / 2`` times the squared norm of the
weights; the bias is not penalised. In terms of scikit-learn's ``C`` it is ``penalty = 1 / (C n)``.
With a positive penalty the minimum is unique, so that a fit depends on the data alone and not on an
optimiser's rate or its number of steps.

Channels of a network are ill-conditioned, for which L-BFGS takes thousands of iterations. It
therefore works in the principal axes of the features, each scaled by the curvature that the loss
has there at zero weights (the covariance over the number of classes, Böhning 1992, Annals of the
Institute of Statistical Mathematics 44, plus the penalty). The minimum stays where it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float64]

PENALTIES: Final = tuple(10.0**exponent for exponent in range(-6, 1))
"""Penalties to choose from, for features of deviation 1."""

ITERATIONS: Final = 2000
"""Iterations after which a fit ends although its gradient is above the tolerance."""

TOLERANCE: Final = 1e-5
"""Largest entry of the gradient, in scaled axes, at which a fit has converged."""

_MEMORY: Final = 20


class Fit(NamedTuple):
    """A linear classifier: logits are ``features @ weight + bias``.

    Attributes
    ----------
    weight
        (d, classes).
    bias
        (classes,), of mean 0.
    iterations
        Iterations of L-BFGS.
    gradient
        Largest entry of the gradient where it ended, in scaled axes.
    """

    weight: Float
    bias: Float
    iterations: int
    gradient: float

    def logits(self, features: NDArray[np.floating]) -> Float:
        """Logits (n, classes) of features (n, d); the largest is the predicted class."""
        result: Float = features @ self.weight + self.bias
        return result


class Axes:
    """Features in their principal axes, computed once for all penalties and labels.

    Parameters
    ----------
    features
        (n, d) float64, finite; n from 1.
    """

    def __init__(self, features: Float) -> None:
        self.centre: Float = features.mean(axis=0)
        centred = features - self.centre
        variance, self.directions = np.linalg.eigh(centred.T @ centred / len(features))
        self.variance: Float = np.maximum(variance, 0.0)
        self.scores: Float = centred @ self.directions


def fit(
    features: Float | Axes,
    labels: NDArray[np.integer],
    *,
    classes: int,
    penalty: float,
    start: Fit | None = None,
    iterations: int = ITERATIONS,
    tolerance: float = TOLERANCE,
) -> Fit:
    """Minimise the loss for one penalty.

    Parameters
    ----------
    features
        (n, d) float64, or their :class:`Axes`, which several fits can share.
    labels
        (n,) whole numbers from 0, below ``classes``.
    classes
        Number of classes; one that no item has gets the lowest logits that the penalty allows.
    penalty
        Strength, above 0.
    start
        Where to start, such as the fit for the next stronger penalty; zeros by default.
    iterations, tolerance
        When to end: after so many iterations, or at such a gradient.

    Returns
    -------
    The fit. It has converged if its ``gradient`` is at most ``tolerance``.
    """
    from scipy.optimize import minimize

    axes = features if isinstance(features, Axes) else Axes(features)
    items, channels = axes.scores.shape
    scale = 1 / np.sqrt(axes.variance / classes + penalty)
    inputs = axes.scores * scale
    # The bias' own curvature is 1 / classes.
    bias_scale = np.sqrt(classes)
    decay = (penalty * scale**2)[:, None]
    rows = np.arange(items)

    def loss(flat: Float) -> tuple[float, Float]:
        parameters = flat.reshape(channels + 1, classes)
        logits = inputs @ parameters[:-1] + bias_scale * parameters[-1]
        logits -= logits.max(axis=1, keepdims=True)
        own = logits[rows, labels]
        np.exp(logits, out=logits)
        total = logits.sum(axis=1, keepdims=True)
        value = float((np.log(total[:, 0]) - own).mean())
        logits /= total
        logits[rows, labels] -= 1
        logits /= items
        gradient = np.empty_like(parameters)
        gradient[:-1] = inputs.T @ logits + decay * parameters[:-1]
        gradient[-1] = bias_scale * logits.sum(axis=0)
        value += 0.5 * float((decay * parameters[:-1] ** 2).sum())
        return value, gradient.ravel()

    first = np.zeros((channels + 1, classes))
    if start is not None:
        first[:-1] = (axes.directions.T @ start.weight) / scale[:, None]
        first[-1] = (start.bias + axes.centre @ start.weight) / bias_scale
    found = minimize(
        loss,
        first.ravel(),
        jac=True,
        method="L-BFGS-B",
        options={
            "maxiter": iterations,
            "maxfun": 2 * iterations + 20,
            "gtol": tolerance,
            "ftol": 0.0,
            "maxcor": _MEMORY,
        },
    )
    parameters = found.x.reshape(channels + 1, classes)
    weight = axes.directions @ (parameters[:-1] * scale[:, None])
    bias = bias_scale * parameters[-1] - axes.centre @ weight
    return Fit(weight, bias - bias.mean(), int(found.nit), float(np.abs(found.jac).max()))


def path(
    features: Float | Axes,
    labels: NDArray[np.integer],
    *,
    classes: int,
    penalties: Sequence[float] = PENALTIES,
    iterations: int = ITERATIONS,
    tolerance: float = TOLERANCE,
) -> dict[float, Fit]:
    """Fits for several penalties, each started from that of the next stronger one.

    Returns
    -------
    Fit for each penalty, from the strongest to the weakest.
    """
    axes = features if isinstance(features, Axes) else Axes(features)
    fits: dict[float, Fit] = {}
    last: Fit | None = None
    for penalty in sorted(penalties, reverse=True):
        last = fit(
            axes,
            labels,
            classes=classes,
            penalty=penalty,
            start=last,
            iterations=iterations,
            tolerance=tolerance,
        )
        fits[penalty] = last
    return fits


class Scaling(NamedTuple):
    """Mean and deviation of each channel, with which features are standardised.

    Attributes
    ----------
    centre, deviation
        (d,); a channel without variance has deviation 1.
    """

    centre: Float
    deviation: Float

    @classmethod
    def of(cls, features: NDArray[np.floating]) -> Scaling:
        """Of features (n, d), in double precision."""
        centre = features.mean(axis=0, dtype=np.float64)
        deviation = features.std(axis=0, dtype=np.float64)
        return cls(centre, np.where(deviation > 0, deviation, 1.0))

    def __call__(self, features: NDArray[np.floating]) -> Float:
        """Standardise features (..., d)."""
        result: Float = (np.asarray(features, dtype=np.float64) - self.centre) / self.deviation
        return result
