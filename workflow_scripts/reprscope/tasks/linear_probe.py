"""Linear probe: how well a linear classifier tells the classes from spatially averaged tokens.

``form: converged`` is multinomial logistic regression (:mod:`reprscope.measures.logistic`) on
channels that are standardised by the training images. The strength of its penalty is chosen among
decades on validation images (by accuracy, of equal ones by cross-entropy) and, where those are
fewer than :data:`reprscope.measures.statistics.FEWEST_TO_CHOOSE`, on a stratified fifth of the
training images, after which it is fitted on all of them. Validation images have then chosen a
penalty (and may choose a block): what is reported is the accuracy on the test images.

``form: published`` is the thesis' recipe (section "linear probe classification", table 2): one
linear layer without a bias on raw means, weights drawn from a unit normal, Adam with a learning
rate of 1e-3, batches of 128, 80 epochs. Channel scales differ by orders of magnitude between
blocks, so that it compares how far the optimiser got as much as what a block holds: on
ill-conditioned means ten times the epochs move its accuracy by many points. The thesis averages the
accuracies of batches, of which the last is smaller; here accuracy is the share of images.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np
import polars as pl

from reprscope.base.parameters import check_whole
from reprscope.base.seeds import item_seed
from reprscope.measures import logistic
from reprscope.measures.statistics import FEWEST_TO_CHOOSE, SIGNIFICANT, Interval, holm, mean
from reprscope.models.labels import KEYS
from reprscope.runtime.errors import UserError
from reprscope.tasks._findings import CONDITION, Findings, best, interval, superlative, told_apart

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reprscope.data.canonical import Annotations
    from reprscope.representations.store import Representations

    Float = NDArray[np.float64]

NEEDS: Final = frozenset({"labels"})
STORES: Final = frozenset({"tokens", "mean"})
PROTOCOL: Final[frozenset[str]] = frozenset()
TABLE_COLUMNS: Final = (
    "training_images",
    "split",
    "classes",
    "images",
    "accuracy",
    "low",
    "high",
    "chance",
    "majority",
    "p_value",
    "penalty",
    "train_accuracy",
    "iterations",
    "converged",
    "added",
    "added_low",
    "added_high",
    "against",
    "over",
    "over_low",
    "over_high",
    "over_p",
)

UNLABELLED: Final = "-1"
"""What stands for no label in many data sets, beside a blank one."""

_SCORED: Final = ("validation", "test")
_OF_FORM: Final[Mapping[str, tuple[str, ...]]] = {
    "converged": ("penalties", "iterations"),
    "published": ("learning_rate", "batch", "epochs"),
}
_OVER: Final = ("over_low", "over_high")
_PART: Final = 5
"""One in so many training images is held out to choose the penalty."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Settings of the probe.

    Attributes
    ----------
    form
        ``converged`` or ``published``, see the module.
    training_images
        Numbers of training images, or ``all``: one probe for each, for a learning curve. The images
        of a smaller number are among those of a larger one and are drawn evenly from the classes.
    seeds
        One probe is trained for each, and accuracy is their mean. A seed draws the training images
        if not all are used, those held out, and for ``published`` initial weights and the order.
    against
        A model of the experiment whose accuracy is taken off, at the place that is best for it;
        empty for none.
    penalties
        Of ``converged``: strengths to choose from, relative to the mean cross-entropy over images.
    iterations
        Of ``converged``: a fit that needs more has not converged, and the table says so.
    learning_rate, batch, epochs
        Of ``published``: training with Adam; the last batch of an epoch may be smaller.
    """

    form: Literal["converged", "published"] = "converged"
    training_images: tuple[int | str, ...] = ("all",)
    seeds: tuple[int, ...] = (0,)
    against: str = ""
    penalties: tuple[float, ...] = tuple(10.0**exponent for exponent in range(-6, 4))
    iterations: int = 2000
    learning_rate: float = 1e-3
    batch: int = 128
    epochs: int = 80

    def __post_init__(self) -> None:
        # A study's list becomes a tuple here, so that parameters stay hashable.
        for name in ("training_images", "seeds", "penalties"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.form not in _OF_FORM:
            raise UserError(f"form is {self.form!r}; use one of: {', '.join(_OF_FORM)}.")
        default = {field.name: field.default for field in fields(self)}
        for form, names in _OF_FORM.items():
            for name in names:
                if form != self.form and getattr(self, name) != default[name]:
                    raise UserError(f"{name} belongs to form: {form}; leave it out or set that.")
        check_whole(self, "batch", "epochs", "iterations")
        if not isinstance(self.learning_rate, int | float) or self.learning_rate <= 0:
            raise UserError(
                f"learning_rate is {self.learning_rate!r}; write a positive number such as 0.001."
            )
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise UserError(f"seeds is {list(self.seeds)}; list at least one, and each only once.")
        positive = all(isinstance(one, int | float) and one > 0 for one in self.penalties)
        if not self.penalties or not positive or len(set(self.penalties)) != len(self.penalties):
            raise UserError(
                f"penalties is {list(self.penalties)}; list positive numbers, each only once."
            )
        wrong = [
            one
            for one in self.training_images
            if one != "all" and (not isinstance(one, int) or isinstance(one, bool) or one < 2)
        ]
        if (
            wrong
            or not self.training_images
            or len(set(self.training_images)) != len(self.training_images)
        ):
            raise UserError(
                f"training_images is {list(self.training_images)}; list whole numbers from 2 or "
                "all, each only once."
            )


def minutes(parameters: Parameters, positions: int) -> int:
    """Allow for sets of 100,000 images and 200 classes, see :func:`reprscope.tasks.minutes`.

    A converged fit takes about 350 passes over the means in double precision, twice as many if
    there are no validation images; of some 1,000 images it takes a second.
    """
    probes = positions * len(parameters.training_images) * len(parameters.seeds)
    return 45 * probes if parameters.form == "converged" else 0


def measure(
    representations: Representations, annotations: Annotations, parameters: Parameters
) -> pl.DataFrame:
    """Train a probe at every position and predict the validation and test images.

    Parameters
    ----------
    representations
        Features; only the spatial means are read.
    annotations
        Images with label and split.
    parameters
        Settings of the probe.

    Returns
    -------
    One row for each position, number of training images, probe seed and image that is not in the
    training split: ``position``, ``training_images``, ``probe_seed``, ``image_id``, ``split``,
    ``label``, ``prediction``, ``probability`` (of the true label, float32), ``classes`` (number of
    classes of the probe), ``commonest`` (the class with most training images); and of the probe
    ``penalty`` (null for ``published``), ``train_accuracy`` (share of its training images),
    ``iterations`` (steps of the optimiser in the last fit), ``converged`` (null for ``published``).

    Raises
    ------
    UserError
        If an image has no label, the train or the test split is empty, there are fewer than two
        classes, a label is absent from the training images, there are too few training images for
        what is asked, or a feature is not finite.
    """
    images = _labelled_images(representations, annotations)
    train = images.filter(pl.col("split") == "train")
    scored = images.filter(pl.col("split").is_in(_SCORED))
    names = np.array(sorted(train["label"].unique()))
    labels = np.searchsorted(names, train["label"].to_numpy())
    truth = np.searchsorted(names, scored["label"].to_numpy())
    validation = (scored["split"] == "validation").to_numpy()
    if validation.sum() < FEWEST_TO_CHOOSE:
        validation = np.zeros_like(validation)
    drawn = {
        seed: np.array([item_seed("linear_probe", seed, name) for name in train["image_id"]])
        for seed in parameters.seeds
    }
    draws = [
        (seed, number, chosen)
        for seed in parameters.seeds
        for number, chosen in _draws(labels, drawn[seed], parameters.training_images).items()
    ]
    if parameters.form == "converged" and not validation.any() and len(parameters.penalties) > 1:
        _check_divisible(min(len(chosen) for _, _, chosen in draws))

    frames = []
    for position in representations.positions:
        means = representations.means(position)
        _check_finite(means, position, representations.image_ids)
        features = means[train["row"].to_numpy()]
        queries = means[scored["row"].to_numpy()]
        for seed, number, chosen in draws:
            if parameters.form == "published":
                probe = _published(
                    features[chosen].astype(np.float32),
                    labels[chosen],
                    queries.astype(np.float32),
                    classes=len(names),
                    parameters=parameters,
                    seed=item_seed(seed, position),
                )
            else:
                probe = _converged(
                    features[chosen],
                    labels[chosen],
                    queries,
                    classes=len(names),
                    parameters=parameters,
                    judges=(validation, truth) if validation.any() else None,
                    drawn=drawn[seed][chosen],
                )
            counts = np.bincount(labels[chosen], minlength=len(names))
            frames.append(
                scored.select(
                    pl.lit(position).alias("position"),
                    pl.lit(number, pl.Int32).alias("training_images"),
                    pl.lit(seed, pl.Int32).alias("probe_seed"),
                    "image_id",
                    "split",
                    "label",
                    pl.Series(
                        "prediction", names[probe.probability.argmax(axis=1)].tolist(), pl.String
                    ),
                    pl.Series(
                        "probability", probe.probability[np.arange(len(scored)), truth].copy()
                    ).cast(pl.Float32),
                    pl.lit(len(names), pl.Int32).alias("classes"),
                    pl.lit(str(names[counts.argmax()])).alias("commonest"),
                    pl.lit(probe.penalty, pl.Float64).alias("penalty"),
                    pl.lit(probe.train_accuracy, pl.Float64).alias("train_accuracy"),
                    pl.lit(probe.iterations, pl.Int32).alias("iterations"),
                    pl.lit(probe.converged, pl.Boolean).alias("converged"),
                )
            )
            if probe.converged is False:
                logger.warning(
                    "the probe of %d images at %s has not converged after %d iterations",
                    *(number, position, probe.iterations),
                )
        logger.info("probed %s: %d classes, %d training images", position, len(names), len(train))
    return pl.concat(frames)


def summarise(measurements: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
    """Accuracy at each position and split, with its 95 % interval over images.

    Parameters
    ----------
    measurements
        What :func:`measure` returns.
    parameters
        Settings of the probe.

    Returns
    -------
    ``position``, ``training_images``, ``split``, ``classes``, ``images``, ``accuracy`` (mean over
    images and probe seeds), ``low``, ``high`` (Wilson; the probe is held fixed, so that what other
    training images would change is not in it), ``chance`` (1 / classes), ``majority`` (share of the
    commonest training class), ``p_value`` (one-sided, that accuracy is above both; not corrected
    for how many rows there are), ``added``, ``added_low``, ``added_high`` (accuracy over that of
    the next smaller number of training images, on the same images; null for the smallest),
    ``penalty``, ``train_accuracy``, ``iterations`` (means over probe seeds, of the penalty the
    geometric one), ``converged`` (all of them), and ``right_of_image``, the score of each image in
    the order of names, for :func:`relate`.
    """
    keys = ["position", "training_images", "split"]
    classes = int(measurements["classes"][0])
    scores = (
        measurements.group_by(*keys, "image_id", maintain_order=True)
        .agg(
            (pl.col("label") == pl.col("prediction")).mean().alias("right"),
            (pl.col("label") == pl.col("commonest")).mean().alias("commonest"),
        )
        .sort("image_id", maintain_order=True)
    )
    of_probe = measurements.group_by(keys, maintain_order=True).agg(
        pl.col("penalty").log().mean().exp(),
        pl.col("train_accuracy").mean(),
        pl.col("iterations").mean(),
        pl.col("converged").all() & pl.col("converged").first(),
    )
    order = measurements["position"].unique(maintain_order=True).to_list()
    frames = []
    for split in _SCORED:
        for number in scores["training_images"].unique().sort():
            for position in order:
                part = scores.filter(
                    pl.col("split") == split,
                    pl.col("training_images") == number,
                    pl.col("position") == position,
                )
                if len(part):
                    frames.append(_accuracy(part, classes))
    table = pl.concat(frames).join(of_probe, on=keys, how="left", maintain_order="left")
    return _with_added(table)


def relate(table: pl.DataFrame, parameters: Mapping[str, Parameters]) -> pl.DataFrame:
    """Compare every model with the one that its task names in ``against``.

    Parameters
    ----------
    table
        Summaries of all measurements, with what they were measured under.
    parameters
        Settings of each task.

    Returns ------- The table with ``over``, accuracy less that of the model ``against`` on the same
    images, at the block and timestep that are best for it (:func:`reprscope.tasks._findings.best`,
    of the same number of training images), ``over_low``, ``over_high``, ``over_p`` (two-sided, not
    corrected for how many rows there are) and ``against`` itself. Null without such a model.
    Without ``right_of_image``.
    """
    columns = ("over", "over_low", "over_high", "over_p")
    alike = [c for c in KEYS if c in table.columns and c not in ("model", "position", "timestep")]
    parts = []
    for part in table.partition_by(*alike, "training_images", maintain_order=True):
        against = parameters[part["task"][0]].against
        others = part.filter(pl.col("model") == against)
        bounds = np.full((len(columns), len(part)), np.nan)
        if len(others):
            # Its validation images choose its place for both splits.
            twin = best(others, "accuracy").row(0, named=True)
            place = others.filter(
                pl.col("position") == twin["position"], pl.col("timestep") == twin["timestep"]
            )
            right = dict(place.select("split", "right_of_image").iter_rows())
            for i, row in enumerate(part.iter_rows(named=True)):
                own, other = (np.array(r) for r in (row["right_of_image"], right[row["split"]]))
                if row["model"] != against and len(own) == len(other):
                    estimate = mean((own - other)[:, None])
                    bounds[:, i] = np.ravel([*estimate.interval(), estimate.p_value()])
        parts.append(
            part.with_columns(
                pl.lit(against or None, pl.String).alias("against"),
                *(
                    pl.Series(name, one, nan_to_null=True, dtype=pl.Float64)
                    for name, one in zip(columns, bounds, strict=True)
                ),
            )
        )
    order = [*KEYS, "training_images", "split"]
    order = [column for column in order if column in table.columns]
    return table.drop("right_of_image").join(
        pl.concat(parts).select(*order, "against", *columns),
        on=order,
        how="left",
        maintain_order="left",
        nulls_equal=True,
    )


def findings(table: pl.DataFrame) -> Findings:
    """Best block of each model with its test accuracy, whether it is above chance, and by what."""
    keys = [column for column in CONDITION if column in table.columns]
    most = table.filter(pl.col("training_images") == pl.col("training_images").max().over(keys))
    found = best(most, "accuracy")
    if found.is_empty():
        return Findings((), found)
    # What is only described is not tested.
    tested = {
        name: holm(found.select(pl.when("firm").then(name).fill_null(np.nan)).to_numpy()[:, 0])
        for name in ("p_value", "over_p")
    }
    sentences = []
    rows = zip(found.iter_rows(named=True), told_apart(found), *tested.values(), strict=True)
    for row, under, p_value, over_p in rows:
        subject = f"Linear probe accuracy of {row['model']} on {row['dataset']}{under}"
        warning = (
            " Its fit has not converged: raise iterations." if row["converged"] is False else ""
        )
        told = superlative(row, subject, "accuracy") + _beside_chance(row, float(p_value))
        sentences.append(f"{told}.{warning}")
        if row["over"] is not None and not np.isnan(over_p):
            more, over = ("more", 1) if row["over"] > 0 else ("fewer", -1)
            points = _points(over * row["over"], *sorted(over * row[c] for c in _OVER))
            verb = f"{more} than" if over_p < SIGNIFICANT else "apart, within chance, from"
            sentences.append(f"That is {points} {verb} {row['against']} at its own best place.")
        if row["firm"] and row["added"] is not None:
            added = _points(row["added"], row["added_low"], row["added_high"])
            last = f"{row['training_images']:,} training images"
            sentences.append(f"The last step, to {last}, changes it by {added}.")
    return Findings(sentences, found)


def _beside_chance(row: Mapping[str, Any], p_value: float) -> str:
    """Chance in words, and, if the row was chosen on validation, whether accuracy is above."""
    chance, majority = interval(row["chance"]), interval(row["majority"])
    counts = row["majority"] > row["chance"]
    if np.isnan(p_value):
        level = f"; chance is {chance} for {row['classes']} classes"
        return level + (f", the commonest class alone {majority}" if counts else "")
    level = f"chance ({chance} for {row['classes']} classes)"
    level += f" and the commonest class alone ({majority})" if counts else ""
    return f", above {level}" if p_value < SIGNIFICANT else f", not told from {level}"


def _points(value: float, low: float | None, high: float | None) -> str:
    bounds = "" if low is None or high is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{100 * value:.1f} points{bounds}"


def _accuracy(part: pl.DataFrame, classes: int) -> pl.DataFrame:
    """One row of :func:`summarise`, from the scores of its images."""
    right, commonest = (part[name].to_numpy() for name in ("right", "commonest"))
    estimate = mean(right[:, None])
    bounds = estimate.share()
    above = np.stack([right - 1 / classes, right - commonest], axis=1)
    return part.head(1).select(
        *("position", "training_images", "split"),
        pl.lit(classes, pl.Int32).alias("classes"),
        pl.lit(len(part), pl.Int32).alias("images"),
        *_columns("accuracy", "low", "high", bounds),
        pl.lit(1 / classes).alias("chance"),
        pl.lit(float(commonest.mean())).alias("majority"),
        pl.lit(float(mean(above).p_value(alternative="greater").max()))
        .fill_nan(None)
        .alias("p_value"),
        pl.Series("right_of_image", [right.tolist()], pl.List(pl.Float64)),
    )


def _columns(value: str, low: str, high: str, bounds: Interval) -> list[pl.Expr]:
    """The one column of an interval as three of a table, null where it is not known."""
    return [
        pl.lit(float(one[0])).fill_nan(None).alias(name)
        for name, one in zip((value, low, high), bounds, strict=True)
    ]


def _with_added(table: pl.DataFrame) -> pl.DataFrame:
    """Add what each number of training images adds to the next smaller one."""
    frames = []
    for part in table.partition_by("split", "position", maintain_order=True):
        ranked = part.sort("training_images")
        scores = [np.array(one) for one in ranked["right_of_image"]]
        for i, row in enumerate(ranked.iter_slices(1)):
            bounds = Interval(*np.full((3, 1), np.nan))
            if i:
                bounds = mean((scores[i] - scores[i - 1])[:, None]).interval()
            frames.append(row.with_columns(_columns("added", "added_low", "added_high", bounds)))
    keys = ["position", "training_images", "split"]
    added = pl.concat(frames).select(*keys, "added", "added_low", "added_high")
    return table.join(added, on=keys, how="left", maintain_order="left")


class _Probe(NamedTuple):
    """What a trained probe says of the scored images, (images, classes), and of itself."""

    probability: NDArray[np.floating]
    penalty: float | None
    train_accuracy: float
    iterations: int
    converged: bool | None


def _draws(
    labels: NDArray[np.int64], drawn: NDArray[np.int64], wanted: tuple[int | str, ...]
) -> dict[int, NDArray[np.int64]]:
    """Rows of the training images for each number of them, smallest first.

    ``labels`` and ``drawn``, a random number for each image, are (images,). The order is by rank
    within a class, over the size of the class: any beginning of it holds the classes in their
    proportions.
    """
    by_class = np.lexsort((drawn, labels))
    size = np.bincount(labels)
    rank = np.empty(len(labels))
    rank[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(size) - size, size)
    order = np.lexsort((drawn, (rank + 0.5) / size[labels]))
    numbers = sorted({len(labels) if n == "all" else int(n) for n in wanted})
    classes = int((size > 0).sum())
    for number in numbers:
        if number > len(labels) or number < classes:
            raise UserError(
                f"linear_probe: training_images asks for {number}, but there are {len(labels)} "
                f"training images of {classes} classes; ask for {classes} to {len(labels)}, or all."
            )
    return {number: np.sort(order[:number]) for number in numbers}


def _check_divisible(images: int) -> None:
    if images < 2 * _PART:
        raise UserError(
            f"linear_probe: {images} training images are too few to hold a fifth of them out for "
            f"choosing the penalty; use at least {2 * _PART}, or set penalties to one number."
        )


def _converged(
    features: NDArray[np.floating],
    labels: NDArray[np.int64],
    queries: NDArray[np.floating],
    *,
    classes: int,
    parameters: Parameters,
    judges: tuple[NDArray[np.bool_], NDArray[np.int64]] | None,
    drawn: NDArray[np.int64],
) -> _Probe:
    """Logistic regression of (images, channels) features.

    ``judges`` says which queries choose the penalty, and the labels of all queries. Without it a
    fifth of the training images does, of every class as many as it has in five, by ``drawn``.
    """
    scaling = logistic.Scaling.of(features)
    inputs, scaled = scaling(features), scaling(queries)
    settings = {"classes": classes, "iterations": parameters.iterations}
    penalties: Sequence[float] = parameters.penalties
    if len(penalties) > 1 and judges is None:
        held = np.zeros(len(labels), dtype=np.bool_)
        held[np.lexsort((drawn, labels))[_PART // 2 :: _PART]] = True
        inner = logistic.Scaling.of(features[~held])
        fits = logistic.path(inner(features[~held]), labels[~held], penalties=penalties, **settings)
        chosen = _chosen(fits, inner(features[held]), labels[held])
        # Down the same path, so that each fit starts near its end.
        penalties = [penalty for penalty in penalties if penalty >= chosen]
    fits = logistic.path(inputs, labels, penalties=penalties, **settings)
    penalty = min(penalties)
    if judges is not None:
        judge, truth = judges
        penalty = _chosen(fits, scaled[judge], truth[judge])
    fit = fits[penalty]
    right = fit.logits(inputs).argmax(axis=1) == labels
    return _Probe(
        _softmax(fit.logits(scaled)),
        penalty,
        float(right.mean()),
        fit.iterations,
        fit.gradient <= logistic.TOLERANCE,
    )


def _chosen(fits: Mapping[float, logistic.Fit], inputs: Float, labels: NDArray[np.int64]) -> float:
    """The penalty whose fit is right most often; of equal ones that of least cross-entropy."""

    def score(penalty: float) -> tuple[int, float]:
        logits = fits[penalty].logits(inputs)
        own = np.log(_softmax(logits)[np.arange(len(labels)), labels] + np.finfo(np.float64).tiny)
        return int((logits.argmax(axis=1) == labels).sum()), float(own.mean())

    return max(fits, key=score)


def _softmax(logits: Float) -> Float:
    """Probabilities (images, classes)."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: Float = powers / powers.sum(axis=1, keepdims=True)
    return result


def _published(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    queries: NDArray[np.float32],
    *,
    classes: int,
    parameters: Parameters,
    seed: int,
) -> _Probe:
    """Train on (images, channels) features with Adam, as the thesis does."""
    import torch
    from torch.nn import functional

    inputs, targets = torch.from_numpy(features), torch.from_numpy(labels)
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn((features.shape[1], classes), generator=generator).requires_grad_()
    optimiser = torch.optim.Adam([weight], lr=parameters.learning_rate, fused=True)

    # One thread is the quickest for matrices of this size, and its sums do not depend on the
    # number of cores.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    steps = 0
    try:
        for _ in range(parameters.epochs):
            order = torch.randperm(len(inputs), generator=generator)
            for chosen in order.split(parameters.batch):
                optimiser.zero_grad()
                loss = functional.cross_entropy(inputs[chosen] @ weight, targets[chosen])
                loss.backward()
                optimiser.step()
                steps += 1
        with torch.no_grad():
            probability = (torch.from_numpy(queries) @ weight).softmax(dim=1)
            right = (inputs @ weight).argmax(dim=1) == targets
    finally:
        torch.set_num_threads(threads)
    return _Probe(probability.numpy(), None, float(right.double().mean()), steps, None)


def _labelled_images(representations: Representations, annotations: Annotations) -> pl.DataFrame:
    """Image_id, split, label and row in the features, sorted by image_id, checked."""
    rows = pl.DataFrame({"image_id": representations.image_ids}).with_row_index("row")
    images = (
        annotations.images()
        .select("image_id", "split", "label")
        .join(rows, on="image_id", how="inner")
        .sort("image_id")
    )
    blank = pl.col("label").str.strip_chars().is_in(["", UNLABELLED])
    unlabelled = images.filter(pl.col("label").is_null() | blank)["image_id"]
    if len(unlabelled):
        raise UserError(
            f"linear_probe: {len(unlabelled)} of {len(images)} images have no label (none, a blank "
            f"one or {UNLABELLED}), the first is '{unlabelled[0]}'; use a dataset with a label for "
            "every image."
        )
    for split in ("train", "test"):
        if not (images["split"] == split).any():
            raise UserError(
                f"linear_probe: the {split} split has no images; use a dataset with train and test "
                "images, or more images of it."
            )
    known = images.filter(pl.col("split") == "train")["label"].unique()
    if len(known) < 2:
        raise UserError(
            f"linear_probe: all training images have the label '{known[0]}'; "
            "a probe needs at least two classes."
        )
    unknown = images.filter(~pl.col("label").is_in(known.to_list()))
    if len(unknown):
        raise UserError(
            f"linear_probe: the label '{unknown['label'][0]}' of image '{unknown['image_id'][0]}' "
            "occurs in no training image; use more images of the dataset."
        )
    return images


def _check_finite(means: NDArray[np.float32], position: str, image_ids: list[str]) -> None:
    bad = np.flatnonzero(~np.isfinite(means).all(axis=1))
    if len(bad):
        raise UserError(
            f"linear_probe: the features of image '{image_ids[bad[0]]}' at {position} are not "
            "finite; extract them again, with precision float32."
        )
