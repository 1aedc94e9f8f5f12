"""Linear probe: how well a linear classifier tells the classes from spatially averaged tokens.

Thesis, section "linear probe classification" and table 2: one linear layer, Adam with a learning
rate of 1e-3, batches of 128 and 80 epochs, on the spatial mean of each representation.

The default form standardises every channel by the training images' mean and deviation, and starts a
layer with a bias at zero. Channel scales differ by orders of magnitude between blocks, so that on
raw means a fixed learning rate and number of epochs compare how far the optimiser got rather than
what the block holds. The thesis trains on raw means, without a bias, from weights drawn from a unit
normal: ``standardise: false`` with ``initialisation: normal``. It also averages the accuracies of
batches, of which the last is smaller; here accuracy is the share of images.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from reprscope.errors import UserError
from reprscope.findings import Findings, best, superlative, told_apart
from reprscope.metrics import accuracy
from reprscope.parameters import check_whole
from reprscope.seeds import item_seed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reprscope.data.canonical import Annotations
    from reprscope.store import Representations

NEEDS: Final = frozenset({"labels"})
STORES: Final = frozenset({"tokens", "mean"})
PROTOCOL: Final[frozenset[str]] = frozenset()

INITIALISATIONS: Final = ("zeros", "normal")
_SCORED: Final = ("validation", "test")

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Settings of the probe.

    Attributes
    ----------
    learning_rate, batch, epochs
        Training with Adam; the last batch of an epoch may be smaller.
    seeds
        One probe is trained for each. A seed sets the order of the training images, and the initial
        weights if they are random.
    standardise
        Whether to scale each channel to mean 0 and deviation 1 over the training images.
    initialisation
        ``zeros``: weights and a bias that start at zero. ``normal``: weights from a unit normal and
        no bias, as in the thesis.
    bootstrap
        Number of resamples of the images for the 95 % intervals.
    """

    learning_rate: float = 1e-3
    batch: int = 128
    epochs: int = 80
    seeds: tuple[int, ...] = (0,)
    standardise: bool = True
    initialisation: str = "zeros"
    bootstrap: int = 1000

    def __post_init__(self) -> None:
        # A study's list becomes a tuple here, so that parameters stay hashable.
        object.__setattr__(self, "seeds", tuple(self.seeds))
        if not isinstance(self.learning_rate, int | float) or self.learning_rate <= 0:
            raise UserError(
                f"learning_rate is {self.learning_rate!r}; write a positive number such as 0.001."
            )
        check_whole(self, "batch", "epochs", "bootstrap")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise UserError(f"seeds is {list(self.seeds)}; list at least one, and each only once.")
        if self.initialisation not in INITIALISATIONS:
            raise UserError(
                f"initialisation is {self.initialisation!r}; "
                f"use one of: {', '.join(INITIALISATIONS)}."
            )


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
    One row for each position, probe seed and image that is not in the training split: ``position``,
    ``probe_seed``, ``image_id``, ``split``, ``label``, ``prediction``, ``probability`` (of the true
    label, float32), ``classes`` (number of classes of the probe).

    Raises
    ------
    UserError
        If an image has no label, the train or the test split is empty, there are fewer than two
        classes, a label is absent from the training images, or a feature is not finite.
    """
    images = _labelled_images(representations, annotations)
    train = images.filter(pl.col("split") == "train")
    scored = images.filter(pl.col("split").is_in(_SCORED))
    names = np.array(sorted(train["label"].unique()))
    train_labels = np.searchsorted(names, train["label"].to_numpy())
    scored_labels = np.searchsorted(names, scored["label"].to_numpy())

    frames = []
    for position in representations.positions:
        means = representations.means(position)
        _check_finite(means, position, representations.image_ids)
        features = means[train["row"].to_numpy()].astype(np.float64)
        queries = means[scored["row"].to_numpy()].astype(np.float64)
        if parameters.standardise:
            centre, deviation = features.mean(axis=0), features.std(axis=0)
            deviation[deviation == 0] = 1
            features, queries = (features - centre) / deviation, (queries - centre) / deviation
        for seed in parameters.seeds:
            probability = _predict(
                features.astype(np.float32),
                train_labels,
                queries.astype(np.float32),
                classes=len(names),
                parameters=parameters,
                seed=item_seed(seed, position),
            )
            frames.append(
                scored.select(
                    pl.lit(position).alias("position"),
                    pl.lit(seed, pl.Int32).alias("probe_seed"),
                    "image_id",
                    "split",
                    "label",
                    pl.Series("prediction", names[probability.argmax(axis=1)].tolist(), pl.String),
                    pl.Series(
                        "probability", probability[np.arange(len(scored)), scored_labels].copy()
                    ),
                    pl.lit(len(names), pl.Int32).alias("classes"),
                )
            )
        log.info("probed %s: %d classes, %d training images", position, len(names), len(train))
    return pl.concat(frames)


def summarise(measurements: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
    """Accuracy at each position and split, with its 95 % bootstrap interval over images.

    Parameters
    ----------
    measurements
        What :func:`measure` returns.
    parameters
        Settings of the probe.

    Returns
    -------
    ``position``, ``split``, ``classes``, ``images``, ``accuracy`` (mean over images and probe
    seeds), ``low``, ``high``, ``chance`` (1 / classes). All positions are scored on the same
    resamples of the images.
    """
    positions = measurements["position"].unique(maintain_order=True).to_list()
    classes = measurements["classes"][0]
    scores = (
        measurements.group_by("split", "image_id", "position")
        .agg((pl.col("label") == pl.col("prediction")).mean().alias("score"))
        .pivot("position", index=["split", "image_id"], values="score")
        .sort("split", "image_id")
    )
    frames = []
    for split in _SCORED:
        rows = scores.filter(pl.col("split") == split)
        if rows.is_empty():
            continue
        bounds = accuracy(
            rows.select(positions).to_numpy(),
            replicates=parameters.bootstrap,
            seed=item_seed("linear_probe", split),
        )
        frames.append(
            pl.DataFrame(
                {
                    "position": positions,
                    "split": split,
                    "classes": pl.Series([classes] * len(positions), dtype=pl.Int32),
                    "images": pl.Series([len(rows)] * len(positions), dtype=pl.Int32),
                    "accuracy": bounds.value,
                    "low": bounds.low,
                    "high": bounds.high,
                    "chance": 1 / classes,
                }
            )
        )
    return pl.concat(frames)


def _labelled_images(representations: Representations, annotations: Annotations) -> pl.DataFrame:
    """Image_id, split, label and row in the features, sorted by image_id, checked."""
    rows = pl.DataFrame({"image_id": representations.image_ids}).with_row_index("row")
    images = (
        annotations.images()
        .select("image_id", "split", "label")
        .join(rows, on="image_id", how="inner")
        .sort("image_id")
    )
    unlabelled = images.filter(pl.col("label").is_null())["image_id"]
    if len(unlabelled):
        raise UserError(
            f"linear_probe: {len(unlabelled)} of {len(images)} images have no label, the first is "
            f"'{unlabelled[0]}'; use a dataset with a label for every image."
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


def _predict(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    queries: NDArray[np.float32],
    *,
    classes: int,
    parameters: Parameters,
    seed: int,
) -> NDArray[np.float32]:
    """Train on (images, channels) features and return (queries, classes) probabilities."""
    import torch
    from torch.nn import functional

    def logits(inputs: Any) -> Any:
        return inputs @ weight if bias is None else torch.addmm(bias, inputs, weight)

    inputs, targets = torch.from_numpy(features), torch.from_numpy(labels)
    generator = torch.Generator().manual_seed(seed)
    shape = (features.shape[1], classes)
    bias = None
    if parameters.initialisation == "zeros":
        weight = torch.zeros(shape, requires_grad=True)
        bias = torch.zeros(classes, requires_grad=True)
    else:
        weight = torch.randn(shape, generator=generator).requires_grad_()
    weights = [weight] if bias is None else [weight, bias]
    optimiser = torch.optim.Adam(weights, lr=parameters.learning_rate, fused=True)

    # One thread is the quickest for matrices of this size, and its sums do not depend on the
    # number of cores.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(parameters.epochs):
            order = torch.randperm(len(inputs), generator=generator)
            for chosen in order.split(parameters.batch):
                optimiser.zero_grad()
                loss = functional.cross_entropy(logits(inputs[chosen]), targets[chosen])
                loss.backward()
                optimiser.step()
        with torch.no_grad():
            probability = logits(torch.from_numpy(queries)).softmax(dim=1)
    finally:
        torch.set_num_threads(threads)
    result: NDArray[np.float32] = probability.numpy()
    return result


def findings(table: pl.DataFrame) -> Findings:
    """Best block of each model, with its test accuracy."""
    found = best(table, "accuracy")
    sentences = [
        superlative(
            row,
            f"Linear probe accuracy of {row['model']} on {row['dataset']}{under}",
            "accuracy",
        )
        + f"; chance of {row['classes']} classes is {100 * row['chance']:.1f} %."
        for row, under in zip(found.iter_rows(named=True), told_apart(found), strict=True)
    ]
    return Findings(sentences, found)
