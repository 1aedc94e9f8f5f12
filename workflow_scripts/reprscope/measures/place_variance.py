"""How much of the variance of tokens their place explains, in closed form.

Tokens x_ip of images i at places p are a two-way layout, with images as draws. With mu_p the mean
over all images that there could be, the share of place is

    sum over channels of var_p(mu_p)  /  sum over channels of var_ip(x_ip),

and likewise of the row means and the column means of mu. Squared means over the images at hand are
too large by their own error; sums over pairs of *different* images are not (they are U-statistics:
Hoeffding 1948, Annals of Mathematical Statistics 19). For z_i, an image's tokens less their mean
over places, var(mu) is the mean of <z_i, z_j> over i != j, which is the ANOVA estimate of the
variance component of place with images as blocks. Whatever the tokens of one image have in common
with their neighbours, images are independent, so that the interval is the jackknife over images,
and the null of no effect flips the signs of whole images: a draw of e_i e_j <z_i, z_j> with random
signs e has the distribution of the estimate without an effect (the multiplier bootstrap of a
degenerate U-statistic: Dehling, Mikosch 1994, Journal of Multivariate Analysis 51). Shuffling the
tokens of an image instead would break what neighbours have in common, and find effects in tokens
that are merely smooth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from reprscope.measures.statistics import Estimate, shuffled_p

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float64]

AXES: Final = ("row", "column", "place")
DRAWS: Final = 9999
"""Draws of signs: enough for a p-value below .05 after Holm's correction for 400 tests."""


class Products(NamedTuple):
    """What the estimates follow from, for n images.

    Attributes
    ----------
    square
        (n,) mean over places of the squared norm of an image's tokens.
    mean
        (n, n) inner products of the images' mean tokens.
    axes
        For each of :data:`AXES` (n, n) inner products, per place, of the images' row means, column
        means and tokens, each less the image's mean.
    """

    square: Float
    mean: Float
    axes: dict[str, Float]


def products(tokens: NDArray[Any]) -> Products:
    """Inner products between images of their tokens (n, h, w, channels), finite.

    A constant subtracted from each channel changes none of the estimates, and keeps the products of
    large values exact: subtract the mean before.
    """
    images, height, width = tokens.shape[:3]
    mean = tokens.mean(axis=(1, 2), dtype=np.float64)
    centred = tokens - mean[:, None, None].astype(tokens.dtype)
    parts = {
        "row": centred.mean(axis=2, dtype=np.float64),
        "column": centred.mean(axis=1, dtype=np.float64),
    }
    place = np.zeros((images, images))
    for row in range(height):
        flat = centred[:, row].reshape(images, -1).astype(np.float64)
        place += flat @ flat.T
    place /= height * width
    square = np.diagonal(place) + np.square(mean).sum(axis=1)
    grams = {
        name: np.einsum("ilc,jlc->ij", part, part, optimize=True) / part.shape[1]
        for name, part in parts.items()
    }
    return Products(square, mean @ mean.T, grams | {"place": place})


def without(tokens: NDArray[Any], content: NDArray[Any]) -> NDArray[np.float32]:
    """Tokens (n, h, w, channels) less what is linear in the content (n, h, w, features).

    Both are centred first, so that the result has mean 0 in every channel.
    """
    shape = tokens.shape
    values = tokens.reshape(-1, shape[-1]).astype(np.float64)
    features = content.reshape(-1, content.shape[-1]).astype(np.float64)
    values = values - values.mean(axis=0)
    features = features - features.mean(axis=0)
    # Products of colours are nearly collinear; what adds nothing is left out.
    slope = np.linalg.pinv(features.T @ features, rcond=1e-10, hermitian=True)
    values -= features @ (slope @ (features.T @ values))
    result: NDArray[np.float32] = values.reshape(shape).astype(np.float32)
    return result


def others(gram: Float) -> Float:
    """Sum (n,) of each image's inner products (n, n) with all others."""
    result: Float = gram.sum(axis=1) - np.diagonal(gram)
    return result


def share(cross: Float, square: Float, mean_cross: Float) -> Estimate:
    """Share of variance that an axis explains, with the jackknife's error over images.

    Parameters
    ----------
    cross
        (n,) sum over j != i of <z_i, z_j>, of the axis: see :func:`others`.
    square
        (n,) mean over places of the squared norm of an image's tokens.
    mean_cross
        (n,) as ``cross``, of the mean tokens.

    Returns
    -------
    Estimate of one column; its value may be below 0 where there is no effect.
    """
    images = len(cross)

    def ratio(effect: Any, norm: Any, centre: Any, count: int) -> Any:
        pairs = count * (count - 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return (effect / pairs) / (norm / count - centre / pairs)

    value = ratio(cross.sum(), square.sum(), mean_cross.sum(), images)
    # Leaving an image out takes its pairs away in both orders.
    left_out = ratio(
        cross.sum() - 2 * cross,
        square.sum() - square,
        mean_cross.sum() - 2 * mean_cross,
        images - 1,
    )
    spread = np.square(left_out - left_out.mean()).sum() * (images - 1) / images
    return Estimate(np.array([value]), np.sqrt(np.array([spread])), max(images - 1, 1), images)


def sign_flip_p(gram: Float, *, draws: int = DRAWS, rng: np.random.Generator) -> float:
    """P-value that an axis explains nothing, from its inner products (n, n) between images."""
    apart = gram - np.diag(np.diagonal(gram))
    null = np.empty(draws)
    for start in range(0, draws, 1000):
        size = min(1000, draws - start)
        signs = rng.choice([-1.0, 1.0], size=(size, len(gram)))
        null[start : start + size] = ((signs @ apart) * signs).sum(axis=1)
    return shuffled_p(float(apart.sum()), null)
