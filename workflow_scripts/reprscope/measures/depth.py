"""Linear maps from tokens to depth: targets on the token grid, predictions on the depth map.

A depth map lies in the pixels of the original image and tokens in those of the encoded one. Both
axes of the map between them are independent, so that each of the two ways between the grids is a
pair of matrices, one for each axis.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from reprscope.representations.coordinates import Affine, token_index

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Float = NDArray[np.float64]

STRENGTHS: Final = tuple(10.0**exponent for exponent in range(-6, 2))
"""Strengths of the regulariser that are tried, in units of the variance of a channel."""

DELTA: Final = 1.0
"""Error from which on the Huber loss grows linearly, in units of depth."""

DECAY: Final = 0.01
"""AdamW's weight decay, torch's default, with which the thesis trains."""

_BETAS: Final = (0.9, 0.999)
_EPSILON: Final = 1e-8


class Frame:
    """How the pixels of a depth map and the token grids of an encoded image lie to each other.

    Parameters
    ----------
    shape
        (height, width) of the depth map, which covers the original image.
    transform
        From the depth map's pixels to those of the encoded image.
    pixels
        Width and height of the encoded image.
    """

    def __init__(self, shape: tuple[int, int], transform: Affine, pixels: tuple[int, int]) -> None:
        centres = np.arange(max(shape)) + 0.5
        moved = transform.forward(np.stack([centres, centres], axis=-1))
        self._x, self._y = moved[: shape[1], 0], moved[: shape[0], 1]
        self._pixels = pixels

    @property
    def shown(self) -> NDArray[np.bool_]:
        """Which pixels of the depth map the encoded image shows, (height, width)."""
        width, height = self._pixels
        across = (self._x >= 0) & (self._x < width)
        down = (self._y >= 0) & (self._y < height)
        return down[:, None] & across

    def token(self, grid: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Row (height,) and column (width,) of the token that covers each pixel's centre."""
        count = max(len(self._x), len(self._y))
        xy = np.zeros((count, 2))
        xy[: len(self._x), 0], xy[: len(self._y), 1] = self._x, self._y
        row, col = token_index(xy, self._pixels, grid)
        return row[: len(self._y)], col[: len(self._x)]

    def gather(self, values: NDArray[Any], grid: tuple[int, int]) -> Float:
        """Sum of a map over the pixels of each token: (h, w) of (height, width)."""
        row, col = self.token(grid)
        down = np.arange(grid[0])[:, None] == row
        across = np.arange(grid[1])[:, None] == col
        result: Float = down @ np.asarray(values, dtype=np.float64) @ across.T
        return result

    def upsample(self, grid: tuple[int, int]) -> tuple[Float, Float]:
        """Matrices (height, h) and (width, w) that interpolate a token map to the pixels.

        Bilinear between the centres of tokens and constant beyond the outermost, as
        ``torch.nn.functional.interpolate`` does without aligned corners.
        """
        return (
            _linear(self._y * (grid[0] / self._pixels[1]) - 0.5, grid[0]),
            _linear(self._x * (grid[1] / self._pixels[0]) - 0.5, grid[1]),
        )


def _linear(at: Float, size: int) -> Float:
    """Weights (points, size) of linear interpolation at places counted in tokens."""
    at = np.clip(at, 0, size - 1)
    low = np.minimum(np.floor(at).astype(np.int64), max(size - 2, 0))
    share = at - low
    weights = np.zeros((len(at), size))
    points = np.arange(len(at))
    weights[points, low] = 1 - share
    weights[points, np.minimum(low + 1, size - 1)] += share
    return weights


def grid_map(truth: Float, valid: NDArray[np.bool_], place: Frame, grid: tuple[int, int]) -> Float:
    """Depth map that the true mean depth of every token gives: the best of which a grid is told.

    Parameters
    ----------
    truth
        (height, width) depth; 0 where it does not count.
    valid
        (height, width), which pixels count; at least one.
    place
        How map and tokens lie to each other.
    grid
        (h, w) tokens.

    Returns
    -------
    (height, width), interpolated as predictions are. Tokens without a pixel that counts take no
    part; where all tokens about a pixel have none it is the mean of the image.
    """
    counted = place.gather(valid, grid)
    mean = place.gather(truth, grid) / np.maximum(counted, 1)
    down, across = place.upsample(grid)
    share = down @ (counted > 0) @ across.T
    level = float(truth[valid].mean())
    with np.errstate(invalid="ignore", divide="ignore"):
        known: Float = down @ mean @ across.T / share
    return np.where(share > 0, known, level)


def aligned(predicted: Float, truth: Float) -> Float:
    """Predictions (n,) after the scale and shift that bring them closest to the truth (n,).

    By least squares, as depth that is known up to scale and shift is scored (Ranftl et al. 2020,
    "Towards robust monocular depth estimation", equation 4, in depth and not in its inverse).
    """
    centred = predicted - predicted.mean()
    spread = float(centred @ centred)
    scale = float(centred @ truth) / spread if spread > 0 else 0.0
    result: Float = scale * centred + truth.mean()
    return result


class Moments:
    """Weighted sums over tokens that determine a least-squares fit.

    Parameters
    ----------
    channels
        Number of channels of a token.
    """

    def __init__(self, channels: int) -> None:
        self.weight = 0.0
        self.target = 0.0
        self.square = 0.0
        self.tokens = np.zeros(channels)
        self.product = np.zeros(channels)
        self.gram = np.zeros((channels, channels))

    def add(self, tokens: NDArray[Any], target: Float, weight: Float) -> None:
        """Add the tokens of one image.

        Parameters
        ----------
        tokens
            (n, channels).
        target
            (n,) depth of each.
        weight
            (n,) not negative; tokens of weight 0 do not count.
        """
        used = weight > 0
        values = np.asarray(tokens[used], dtype=np.float64)
        target, weight = target[used], weight[used]
        weighted = values * weight[:, None]
        self.weight += float(weight.sum())
        self.target += float(weight @ target)
        self.square += float(weight @ (target * target))
        self.tokens += weighted.sum(axis=0)
        self.product += weighted.T @ target
        self.gram += weighted.T @ values

    def __add__(self, other: Moments) -> Moments:
        total = Moments(len(self.tokens))
        for name in vars(total):
            setattr(total, name, getattr(self, name) + getattr(other, name))
        return total

    def error(self, weights: Float, bias: float) -> float:
        """Mean squared error of a linear map on these tokens."""
        # Sum of (x w + b - t)^2, written out.
        total = weights @ self.gram @ weights - 2 * weights @ self.product + self.square
        total += 2 * bias * (weights @ self.tokens - self.target) + bias * bias * self.weight
        return float(total / self.weight)


def ridge(moments: Moments, strengths: Sequence[float]) -> list[tuple[Float, float]]:
    """Linear maps of least squared error, for several strengths of the regulariser.

    Channels count as if each had mean 0 and variance 1, so that the penalty on the squared weights
    does not depend on their scale; the bias is free.

    Parameters
    ----------
    moments
        Of the tokens to fit.
    strengths
        Each the penalty in units of the variance of a channel.

    Returns
    -------
    Weights (channels,) and bias for each strength.
    """
    count = moments.weight
    mean, level = moments.tokens / count, moments.target / count
    covariance = moments.gram / count - np.outer(mean, mean)
    scale = np.sqrt(np.clip(np.diag(covariance), 0, None))
    # What is left of a constant channel is rounding.
    scale[scale <= 1e-6 * np.abs(mean)] = np.inf
    values, vectors = np.linalg.eigh(covariance / np.outer(scale, scale))
    values = np.clip(values, 0, None)
    product = vectors.T @ ((moments.product / count - mean * level) / scale)
    fits = []
    for strength in strengths:
        weights = (vectors @ (product / (values + strength))) / scale
        fits.append((weights, float(level - mean @ weights)))
    return fits


def huber(
    tokens: Callable[[int], NDArray[np.float32]],
    depth: Callable[[int], tuple[NDArray[np.float32], NDArray[np.bool_]]],
    frames: Callable[[int], Frame],
    batches: Sequence[NDArray[np.int64]],
    *,
    learning_rate: float,
    rng: np.random.Generator,
) -> tuple[Float, float]:
    """Linear map trained as in the thesis: AdamW on the Huber loss of upsampled predictions.

    Parameters
    ----------
    tokens
        Token map (h, w, channels) of an image by its number.
    depth
        Depth map (height, width) of an image, and which of its pixels count.
    frames
        How the two lie to each other.
    batches
        Numbers of the images of each step.
    learning_rate
        Of AdamW.
    rng
        Source of the initial weights, which are those of ``torch.nn.Linear``.

    Returns
    -------
    Weights (channels,) and bias.
    """
    channels = tokens(int(batches[0][0])).shape[-1]
    bound = 1 / np.sqrt(channels)
    values = rng.uniform(-bound, bound, channels + 1)
    first, second = np.zeros_like(values), np.zeros_like(values)
    for step, batch in enumerate(batches, 1):
        gradient, pixels = np.zeros_like(values), 0
        for number in batch.tolist():
            image = tokens(number)
            target, valid = depth(number)
            down, across = frames(number).upsample(image.shape[:2])
            error = down @ (image @ values[:-1] + values[-1]) @ across.T - target
            slope = np.where(valid, np.clip(error, -DELTA, DELTA), 0)
            on_tokens = down.T @ slope @ across
            gradient[:-1] += np.einsum("hw,hwc->c", on_tokens, image)
            gradient[-1] += on_tokens.sum()
            pixels += int(valid.sum())
        gradient /= max(pixels, 1)
        values *= 1 - learning_rate * DECAY
        first += (1 - _BETAS[0]) * (gradient - first)
        second += (1 - _BETAS[1]) * (gradient * gradient - second)
        scale = np.sqrt(second / (1 - _BETAS[1] ** step)) + _EPSILON
        values -= learning_rate * first / (1 - _BETAS[0] ** step) / scale
    return values[:-1], float(values[-1])
