"""Depth from single tokens by a linear map, by region of the image.

Thesis, figure 25, after Chen et al. 2023 ("Beyond surface statistics"): at every layer one linear
map from a token to its depth.

``ridge``
    The default: the map of least squared error between tokens and the mean depth of their pixels,
    each token by the share of its pixels that have a depth, with the strength of the regulariser
    that is best on validation images (or on a fifth of the training images, drawn by name, if there
    are none). It is the same whatever the optimiser, and takes seconds.
``published``
    AdamW on the Huber loss of maps that are upsampled to the depth map, from random weights. At the
    published 10,000 steps of 64 images a layer takes an hour at 640 x 480 px, and no fewer steps
    give its numbers.

Either is scored on the full depth map, against predictions upsampled to it bilinearly: by the root
of the mean squared error over all pixels, by the mean of that over images, by the share of pixels
whose prediction lies within a factor of 1.25, by the mean relative error, and by the error after
the best scale and shift of every image. A coarse grid cannot be right everywhere: ``grid_rmse`` is
the error of the true mean depth of every token, upsampled alike. Layers of different grids compare
only beside it. The mean depth of the training images is what a map must beat.

Images of one scene are not independent: intervals are over scenes where the dataset names them.

The error is taken over all pixels, those of corner tokens, of border tokens (without the corners)
and of anomalous patches (:mod:`reprscope.measures.anomalies`). Each region is measured where it is:
a token's pixels are those that it covers through the view. The published code takes token indices
for pixels, so that its curve of anomalies is that of the upper left corner of the image. Pixels
that have no depth, or that the view does not show, count nowhere.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import polars as pl

from reprscope.base.parameters import check_whole
from reprscope.base.seeds import item_seed
from reprscope.measures.anomalies import Detection, covered, find
from reprscope.measures.depth import STRENGTHS, Frame, Moments, aligned, grid_map, huber, ridge
from reprscope.measures.statistics import SIGNIFICANT, Estimate, Interval, holm
from reprscope.models.positions import spell
from reprscope.runtime.errors import UserError
from reprscope.tasks._findings import CONDITION, Findings, best, superlative, told_apart
from reprscope.tasks._pictures import finite_tokens, frame

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reprscope.data.canonical import Annotations
    from reprscope.representations.store import Representations

    Float = NDArray[np.float64]
    Fit = tuple[Float, float]
    """Weights (channels,) and bias."""

NEEDS: Final = frozenset({"depth"})
STORES: Final = frozenset({"tokens"})
PROTOCOL: Final[frozenset[str]] = frozenset()
TABLE_COLUMNS: Final = (
    "split",
    "region",
    "images",
    "scenes",
    "pixels",
    "rmse",
    "low",
    "high",
    "grid_rmse",
    "mean_rmse",
    "relative_rmse",
    "relative_low",
    "relative_high",
    "p",
    "image_rmse",
    "aligned_rmse",
    "within_1.25",
    "absolute_relative",
    "strength",
)

REGIONS: Final = ("all", "corner", "border", "anomalous")
SCORED: Final = ("validation", "test")
HELD_OUT: Final = 5
"""One in how many training images chooses the regulariser without validation images."""

_KEPT_BYTES: Final = 1 << 30
CLOSE: Final = 1.25
"""Factor within which a prediction counts as close (Eigen et al. 2014)."""

_SUMS: Final = (
    "squared_error",
    "mean_squared_error",
    "grid_squared_error",
    "aligned_squared_error",
    "relative_error",
    "close",
)
_SCHEMA: Final = {
    "position": pl.String,
    "image_id": pl.String,
    "scene": pl.String,
    "split": pl.String,
    "region": pl.String,
    "pixels": pl.Int64,
    **dict.fromkeys(_SUMS, pl.Float64),
    "strength": pl.Float64,
}
_SUMMARY: Final = {
    "position": pl.String,
    "split": pl.String,
    "region": pl.String,
    "images": pl.Int32,
    "scenes": pl.Int32,
    "pixels": pl.Int64,
    **dict.fromkeys(("rmse", "low", "high", "grid_rmse", "mean_rmse"), pl.Float64),
    **dict.fromkeys(("relative_rmse", "relative_low", "relative_high", "p"), pl.Float64),
    **dict.fromkeys(("image_rmse", "aligned_rmse", "within_1.25", "absolute_relative"), pl.Float64),
    "strength": pl.Float64,
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Parameters(Detection):
    """Settings of the probe, beside those of the detection.

    Without a position in ``detect`` and without ``labels`` there is no region of anomalies.

    Attributes
    ----------
    form : {"ridge", "published"}
        How the map is fitted, see the module's text.
    far
        Largest depth that counts; null for no limit. Pixels at 0 or infinity never count.
    positions
        Positions to measure, of those in the hook set; empty for all. The published form is slow.
    learning_rate, batch, steps
        Training of the published form.
    seed
        Seed of the division of training images, and of the published form.
    """

    detect: str | None = None
    form: Literal["ridge", "published"] = "ridge"
    far: float | None = None
    positions: tuple[str, ...] = ()
    learning_rate: float = 1e-3
    batch: int = 64
    steps: int = 10000
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        # A study's list becomes a tuple here, so that parameters stay hashable.
        object.__setattr__(self, "positions", tuple(self.positions))
        if self.form not in ("ridge", "published"):
            raise UserError(f"form is {self.form!r}; use one of: ridge, published.")
        for name in ("far", "learning_rate"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int | float) or value <= 0):
                raise UserError(f"{name} is {value!r}; write a positive number.")
        check_whole(self, "batch", "steps")


def minutes(parameters: Parameters, positions: int) -> int:
    """An hour for each position in the published form, see :func:`reprscope.tasks.minutes`."""
    published = parameters.form == "published"
    return 60 * (len(parameters.positions) or positions) if published else 0


@dataclass(frozen=True)
class _Images:
    """Names of the images by what they are for, each sorted, their scenes, and their depth."""

    train: list[str]
    choose: list[str]
    scored: list[tuple[str, str]]
    scene: dict[str, str]
    refit: bool
    depth: Callable[[str], tuple[NDArray[np.float32], NDArray[np.bool_], Frame]]


def measure(
    representations: Representations, annotations: Annotations, parameters: Parameters
) -> pl.DataFrame:
    """Fit a map at every position and score it on each validation and test image.

    Parameters
    ----------
    representations
        Features.
    annotations
        Images with split and depth.
    parameters
        Settings of the probe.

    Returns
    -------
    One row for each position, image and region with pixels: ``position``, ``image_id``, ``scene``
    (the image itself where the dataset names none), ``split``, ``region`` (``all``, ``corner``,
    ``border``, ``anomalous``), ``pixels``, and sums over them: ``squared_error``,
    ``mean_squared_error`` (of the training images' mean depth), ``grid_squared_error`` (of every
    token's true mean depth) and ``aligned_squared_error`` (after the best scale and shift for the
    image), in squared units of depth; ``relative_error`` (absolute error over the true depth) and
    ``close`` (pixels within a factor of :data:`CLOSE`); ``strength`` of the regulariser (null in
    the published form).

    Raises
    ------
    UserError
        If there are no training or test images, a split has no pixel with depth, patches cannot be
        found as the parameters say, or a feature is not finite.
    """
    positions = _positions(representations, parameters)
    images = _images(representations, annotations, parameters)
    level = _mean_depth(images)
    if parameters.form == "ridge":
        fits = _fit_ridge(representations, positions, images)
    else:
        fits = {
            position: (_fit_published(representations, position, images, parameters), None)
            for position in positions
        }
    patches = {}
    if parameters.detect is not None or parameters.labels is not None:
        names = [name for name, _ in images.scored]
        found = find(representations, parameters, names, kind="depth_probe")
        patches = found.partition_by("image_id", as_dict=True)
    rows: list[tuple[Any, ...]] = []
    for name, split in images.scored:
        target, valid, place = images.depth(name)
        truth = np.where(valid, target, 0).astype(np.float64)
        baseline = np.square(truth - level)
        known: dict[tuple[int, ...], tuple[Float, Float, Float, dict[str, NDArray[np.bool_]]]] = {}
        if not valid.any():
            continue
        for position in positions:
            (weights, bias), strength = fits[position]
            tokens = finite_tokens(representations, position, name, kind="depth_probe")
            grid = tokens.shape[:2]
            if grid not in known:
                regions = _regions(place, grid, patches.get((name,)))
                counted = {region: inside & valid for region, inside in regions.items()}
                oracle = np.square(grid_map(truth, valid, place, grid) - truth)
                known[grid] = (*place.upsample(grid), oracle, counted)
            down, across, oracle, counted = known[grid]
            predicted = down @ (tokens @ weights + bias) @ across.T
            errors = (*_errors(predicted, truth, valid), baseline, oracle)
            for region, pixels in counted.items():
                if pixels.any():
                    error, fitted, relative, close, level_error, grid_error = (
                        float(one[pixels].sum()) for one in errors
                    )
                    sums = (error, level_error, grid_error, fitted, relative, close)
                    about = (position, name, images.scene[name], split, region)
                    rows.append((*about, int(pixels.sum()), *sums, strength))
    columns = dict(zip(_SCHEMA, zip(*rows, strict=True), strict=True))
    order = {position: number for number, position in enumerate(positions)}
    return frame(_SCHEMA, **columns).sort(
        pl.col("position").replace_strict(order, return_dtype=pl.Int32), maintain_order=True
    )


def _errors(
    predicted: Float, truth: Float, valid: NDArray[np.bool_]
) -> tuple[Float, Float, Float, NDArray[np.bool_]]:
    """Squared error, that after scale and shift, relative error and closeness of every pixel.

    Where no depth counts they are 0.
    """
    fitted, relative = np.zeros_like(truth), np.zeros_like(truth)
    close = np.zeros(truth.shape, dtype=bool)
    told, true = predicted[valid], truth[valid]
    fitted[valid] = np.square(aligned(told, true) - true)
    relative[valid] = np.abs(told - true) / true
    # A depth that is not positive is close to none.
    close[valid] = (told < CLOSE * true) & (told * CLOSE > true)
    return np.where(valid, np.square(predicted - truth), 0), fitted, relative, close


def _positions(representations: Representations, parameters: Parameters) -> list[str]:
    """Positions to measure, in the order of the features."""
    wanted = {spell(name) for name in parameters.positions}
    missing = sorted(wanted - set(representations.positions))
    if missing:
        raise UserError(
            f"depth_probe: position {missing[0]} is not in the hook set; name some of: "
            f"{', '.join(representations.positions)}."
        )
    return [name for name in representations.positions if not wanted or name in wanted]


def _images(
    representations: Representations, annotations: Annotations, parameters: Parameters
) -> _Images:
    """Divide the images, and check that there are enough."""
    known = set(representations.image_ids)
    table = annotations.images()
    scenes = table["scene" if "scene" in table.columns else "image_id"]
    by_split: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for name, split in sorted(table.select("image_id", "split").iter_rows()):
        if name in known:
            by_split[split].append(name)
    for split in ("train", "test"):
        if not by_split[split]:
            raise UserError(
                f"depth_probe: the {split} split has no images; use a dataset with train and test "
                "images, or more images of it."
            )
    train, choose = by_split["train"], by_split["validation"]
    if not choose:
        drawn = sorted(train, key=lambda name: item_seed("depth_probe", parameters.seed, name))
        held = set(drawn[: max(1, len(drawn) // HELD_OUT)])
        choose = sorted(held)
        train = [name for name in train if name not in held]

    def depth(name: str) -> tuple[NDArray[np.float32], NDArray[np.bool_], Frame]:
        values = annotations.depth(name)
        place = Frame(
            (values.shape[0], values.shape[1]),
            representations.transform(name),
            representations.pixels(name),
        )
        far = np.inf if parameters.far is None else parameters.far
        valid = (values > 0) & (values <= far) & np.isfinite(values) & place.shown
        return values, valid, place

    return _Images(
        train=train,
        choose=choose,
        scored=[(name, split) for split in SCORED for name in by_split[split]],
        scene=dict(zip(table["image_id"], scenes.fill_null(table["image_id"]), strict=True)),
        refit=not by_split["validation"],
        depth=depth,
    )


def _mean_depth(images: _Images) -> float:
    """Mean over the pixels of all training images."""
    total, pixels = 0.0, 0
    for name in images.train + (images.choose if images.refit else []):
        values, valid, _ = images.depth(name)
        total += float(values[valid].sum(dtype=np.float64))
        pixels += int(valid.sum())
    if not pixels:
        raise UserError(
            "depth_probe: no pixel of the training images has a depth; use more images, or a "
            "larger `far`."
        )
    return total / pixels


def _fit_ridge(
    representations: Representations, positions: list[str], images: _Images
) -> dict[str, tuple[Fit, float | None]]:
    """Map and strength at every position; each depth map is read once."""
    sums: dict[str, dict[str, Moments]] = {position: {} for position in positions}
    for part, names in (("train", images.train), ("choose", images.choose)):
        for name in names:
            target, valid, place = images.depth(name)
            truth = np.where(valid, target, 0).astype(np.float64)
            grids: dict[tuple[int, ...], tuple[Float, Float]] = {}
            for position, of_position in sums.items():
                tokens = finite_tokens(representations, position, name, kind="depth_probe")
                grid = tokens.shape[:2]
                if grid not in grids:
                    counted = place.gather(valid, grid)
                    mean = place.gather(truth, grid) / np.maximum(counted, 1)
                    share = counted / np.maximum(place.gather(place.shown, grid), 1)
                    grids[grid] = (mean.ravel(), share.ravel())
                flat = tokens.reshape(-1, tokens.shape[-1])
                if part not in of_position:
                    of_position[part] = Moments(flat.shape[1])
                of_position[part].add(flat, *grids[grid])
    fits: dict[str, tuple[Fit, float | None]] = {}
    for position, of_position in sums.items():
        train, choose = of_position["train"], of_position["choose"]
        if not train.weight or not choose.weight:
            raise UserError(
                "depth_probe: the images that choose the regulariser have no depth; use more "
                "images, or a larger `far`."
            )
        errors = [choose.error(*fit) for fit in ridge(train, STRENGTHS)]
        strength = STRENGTHS[int(np.argmin(errors))]
        final = train + choose if images.refit else train
        fits[position] = (ridge(final, [strength])[0], strength)
        logger.info("fitted %s: strength %g", position, strength)
    return fits


def _fit_published(
    representations: Representations, position: str, images: _Images, parameters: Parameters
) -> Fit:
    """Map trained on all training images; token maps stay in memory as far as there is room."""
    names = sorted(images.train + (images.choose if images.refit else []))
    kept: dict[int, NDArray[np.float32]] = {}
    read: dict[int, tuple[NDArray[np.float32], NDArray[np.bool_], Frame]] = {}

    def tokens(number: int) -> NDArray[np.float32]:
        if number in kept:
            return kept[number]
        values = finite_tokens(representations, position, names[number], kind="depth_probe")
        if (len(kept) + 1) * values.nbytes <= _KEPT_BYTES:
            kept[number] = values
        return values

    def depth(number: int) -> tuple[NDArray[np.float32], NDArray[np.bool_], Frame]:
        if number in read:
            return read[number]
        values = images.depth(names[number])
        if (len(read) + 1) * values[0].nbytes <= _KEPT_BYTES:
            read[number] = values
        return values

    rng = np.random.default_rng(item_seed("depth_probe", parameters.seed, position))
    batches = [
        np.sort(rng.choice(len(names), size=min(parameters.batch, len(names)), replace=False))
        for _ in range(parameters.steps)
    ]
    fit = huber(
        tokens,
        lambda number: depth(number)[:2],
        lambda number: depth(number)[2],
        batches,
        learning_rate=parameters.learning_rate,
        rng=rng,
    )
    logger.info("trained %s: %d steps", position, parameters.steps)
    return fit


def _regions(
    place: Frame, grid: tuple[int, int], patches: pl.DataFrame | None
) -> dict[str, NDArray[np.bool_]]:
    """Pixels of each region, (height, width)."""
    row, col = place.token(grid)
    first, last = (row == 0) | (row == grid[0] - 1), (col == 0) | (col == grid[1] - 1)
    corner = first[:, None] & last
    regions = {
        "all": np.ones(corner.shape, dtype=bool),
        "corner": corner,
        "border": (first[:, None] | last) & ~corner,
    }
    if patches is not None:
        own = (patches["height"][0], patches["width"][0])
        at = place.token(own)
        regions["anomalous"] = covered(patches, own)[np.ix_(*at)]
    return regions


def summarise(measurements: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
    """Errors at each position and region, with 95 % intervals over scenes.

    Parameters
    ----------
    measurements
        What :func:`measure` returns.
    parameters
        Settings of the probe.

    Returns ------- ``position``, ``split``, ``region``, ``images`` (with pixels of the region),
    ``scenes`` (of these), ``pixels``, ``rmse`` (over the pixels of all images together), ``low``,
    ``high``, ``grid_rmse`` (of every token's true mean depth: no map on this grid can be expected
    to do better), ``mean_rmse`` (of predicting the mean depth, on the same pixels),
    ``relative_rmse`` (the one in units of the last, by which regions compare: some are harder than
    others), ``relative_low``, ``relative_high``, ``p`` (of the null that the map does no better
    than the mean depth, paired by scene, Holm-adjusted over the positions of a split and region;
    null where the mean makes no error), ``image_rmse`` (mean over images of each one's),
    ``aligned_rmse`` (after the best scale and shift of every image), ``within_1.25`` (share of
    pixels within that factor), ``absolute_relative`` (mean of the absolute error over the true
    depth), ``strength``. Intervals and ``p`` are null for fewer than
    :data:`~reprscope.measures.statistics.FEWEST_UNITS` scenes.
    """
    frames = []
    keys = ["split", "region", "position"]
    for (split, region, position), rows in measurements.sort("image_id").group_by(
        keys, maintain_order=True
    ):
        pixels, scene = rows["pixels"].to_numpy(), rows["scene"].to_numpy()
        sums = {name: rows[name].to_numpy() for name in _SUMS}
        error = sums["squared_error"]
        per_pixel = logarithm(error, pixels, scene)
        per_mean = logarithm(error, sums["mean_squared_error"], scene)
        total = int(pixels.sum())
        bounds = (_root(per_pixel), _root(per_mean))
        frames.append(
            {
                "position": position,
                "split": split,
                "region": region,
                "images": len(rows),
                "scenes": rows["scene"].n_unique(),
                "pixels": total,
                **dict(zip(("rmse", "low", "high"), map(float, bounds[0]), strict=True)),
                "grid_rmse": np.sqrt(sums["grid_squared_error"].sum() / total),
                "mean_rmse": np.sqrt(sums["mean_squared_error"].sum() / total),
                **{
                    f"relative_{name}": float(one)
                    for name, one in zip(("rmse", "low", "high"), bounds[1], strict=True)
                },
                "p": float(per_mean.p_value(alternative="less")[0]),
                "image_rmse": float(np.sqrt(error / pixels).mean()),
                "aligned_rmse": np.sqrt(sums["aligned_squared_error"].sum() / total),
                "within_1.25": sums["close"].sum() / total,
                "absolute_relative": sums["relative_error"].sum() / total,
                "strength": rows["strength"][0],
            }
        )
    order = measurements["position"].unique(maintain_order=True).to_list()
    ranks = {"split": SCORED, "region": REGIONS, "position": order}
    return (
        pl.DataFrame(frames, schema=_SUMMARY)
        .with_columns(
            pl.col("p")
            .map_batches(lambda p: pl.Series(holm(p.to_numpy())), return_dtype=pl.Float64)
            .over("split", "region")
        )
        .with_columns(
            pl.col(name).fill_nan(None) for name, kind in _SUMMARY.items() if kind.is_float()
        )
        .sort(
            *(
                pl.col(name).replace_strict(
                    {value: place for place, value in enumerate(values)}, return_dtype=pl.Int32
                )
                for name, values in ranks.items()
            )
        )
    )


def logarithm(numerator: NDArray[Any], denominator: NDArray[Any], scene: NDArray[Any]) -> Estimate:
    """Logarithm of the ratio of two sums over images, with its error over scenes.

    Squared errors are skewed to the right, and scenes have one image or many. So the logarithm is
    taken, its error is the jackknife's (one scene left out at a time), and the degrees of freedom
    are those of as many scenes of equal size (Carter, Schnepel, Steigerwald 2017): by the delta
    method alone an interval over 12 such scenes covers .92 (simulated).

    Parameters
    ----------
    numerator, denominator
        (images,) not negative.
    scene
        (images,) what is independent.

    Returns
    -------
    Estimate of (1,), NaN where a sum is 0.
    """
    number = np.unique(scene, return_inverse=True)[1]
    top, bottom = (np.bincount(number, weights=one) for one in (numerator, denominator))
    count = len(top)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.log(top.sum() / bottom.sum())
        left = np.log((top.sum() - top) / (bottom.sum() - bottom))
        share = bottom / bottom.sum()
        variance = (count - 1) / count * np.square(left - left.mean()).sum()
        alike = 1 / np.square(share).sum()
    freedom = max(1, int(alike + 1e-9) - 1) if np.isfinite(alike) else 1
    return Estimate(np.array([value]), np.sqrt([variance]), freedom, count)


def _root(logarithm: Estimate) -> Interval:
    """Root of what has this logarithm, with its interval."""
    return Interval(*(np.exp(bound / 2)[0] for bound in logarithm.interval()))


def findings(table: pl.DataFrame) -> Findings:
    """Layer of each model that reads depth best, beside what its grid and the mean depth allow."""
    whole = table.filter(pl.col("region") == "all")
    units = "images" if whole["images"].equals(whole["scenes"]) else "scenes"
    chosen = best(whole, "rmse", units=units, lowest=True)
    sentences = []
    for row, under in zip(chosen.iter_rows(named=True), told_apart(chosen), strict=True):
        subject = f"the RMSE of depth read from single tokens of {row['model']} on {row['dataset']}"
        said = superlative(row, subject + under, "rmse", units=units, lowest=True, form=_bounded)
        sentences.append(f"{said[0].upper()}{said[1:]}{_beside(row)}")
    keys = [c for c in ("model", *CONDITION, "position", "timestep", "split") if c in table.columns]
    return Findings(sentences, table.join(chosen, on=keys, how="semi", maintain_order="left"))


def _bounded(value: float, low: float | None, high: float | None) -> str:
    return f"{value:.2f}" + (f" [{low:.2f}, {high:.2f}]" if low is not None else "")


def _beside(row: dict[str, Any]) -> str:
    """What a sentence on a layer adds: the grid's own error, and whether the mean is beaten."""
    said = (
        f". The true means of its tokens have {row['grid_rmse']:.2f}, the mean depth of the "
        f"training images {row['mean_rmse']:.2f}"
    )
    if not row["firm"] or row["p"] is None:
        return f"{said}."
    relative = _bounded(row["relative_rmse"], row["relative_low"], row["relative_high"])
    if row["p"] < SIGNIFICANT:
        return f"{said}; tokens tell more than the mean, with {relative} of its error."
    return f"{said}; tokens cannot be told from it, with {relative} of its error."
