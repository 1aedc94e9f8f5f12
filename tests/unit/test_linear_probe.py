import io
import math

import numpy as np
import polars as pl
import pytest
from reprscope.errors import UserError
from reprscope.tasks.linear_probe import Parameters, measure, summarise
from support.fakes import FakeAnnotations, FakeRepresentations

QUICK = Parameters(epochs=30, learning_rate=0.02, bootstrap=200)


def made_images(*, train: int, test: int, validation: int = 0, names=("b", "c", "a")):
    """Images in an order of first appearance of labels that is not the sorted one."""
    splits = ["train"] * train + ["validation"] * validation + ["test"] * test
    return pl.DataFrame(
        {
            "image_id": [f"i{number:04}" for number in range(len(splits))],
            "split": splits,
            "label": [names[number % len(names)] for number in range(len(splits))],
        }
    )


def made_features(images: pl.DataFrame, *, separation: float, seed: int = 0, channels: int = 16):
    """One 2 x 1 token grid for each image, around a centre for each label, at two positions."""
    rng = np.random.default_rng(seed)
    centres = {name: rng.normal(size=channels) for name in sorted(images["label"].unique())}
    grids = {
        position: {
            image: separation * centres[label] + rng.normal(size=(2, 1, channels))
            for image, label in images.select("image_id", "label").iter_rows()
        }
        for position in ("conv_in", "mid_block")
    }
    return FakeRepresentations(grids)


def parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def test_separable_classes_are_told_apart_and_noise_is_not():
    images = made_images(train=90, validation=30, test=300)
    table = summarise(
        measure(made_features(images, separation=5), FakeAnnotations(images), QUICK), QUICK
    )
    assert table.select("position", "split").rows() == [
        ("conv_in", "validation"),
        ("mid_block", "validation"),
        ("conv_in", "test"),
        ("mid_block", "test"),
    ]
    assert table["images"].to_list() == [30, 30, 300, 300]
    assert (table["accuracy"] > 0.99).all()
    assert (table["chance"] == 1 / 3).all()
    assert (table["classes"] == 3).all()
    noise = summarise(
        measure(made_features(images, separation=0), FakeAnnotations(images), QUICK), QUICK
    )
    # Four standard errors around chance.
    assert (noise.filter(split="test")["accuracy"] - 1 / 3).abs().max() < 4 * math.sqrt(2 / 9 / 300)


def test_predictions_carry_names_in_spite_of_the_order_of_labels():
    images = made_images(train=60, test=60, names=("zebra", "ant", "mule"))
    found = measure(made_features(images, separation=5), FakeAnnotations(images), QUICK)
    assert (found["label"] == found["prediction"]).mean() > 0.99
    truth = dict(images.select("image_id", "label").iter_rows())
    assert all(
        truth[image] == label for image, label in found.select("image_id", "label").iter_rows()
    )
    assert found["probability"].mean() > 0.9


def test_features_and_labels_are_joined_by_image_not_by_row():
    images = made_images(train=60, test=60)
    features = made_features(images, separation=5)
    shuffled = images.sample(fraction=1, shuffle=True, seed=1)
    assert shuffled["image_id"].to_list() != images["image_id"].to_list()
    first = measure(features, FakeAnnotations(images), QUICK)
    assert parquet(measure(features, FakeAnnotations(shuffled), QUICK)) == parquet(first)
    features.grids = {
        position: dict(reversed(grids.items())) for position, grids in features.grids.items()
    }
    assert parquet(measure(features, FakeAnnotations(images), QUICK)) == parquet(first)


def test_a_rerun_gives_the_same_bytes_and_a_position_does_not_depend_on_the_others():
    images = made_images(train=300, test=60)
    features = made_features(images, separation=0.3)
    parameters = Parameters(epochs=5, seeds=(0, 1), bootstrap=50)
    first = measure(features, FakeAnnotations(images), parameters)
    assert parquet(measure(features, FakeAnnotations(images), parameters)) == parquet(first)
    features.grids = {"mid_block": features.grids["mid_block"]}
    alone = measure(features, FakeAnnotations(images), parameters)
    assert first.filter(position="mid_block").equals(alone)
    seeds = [alone.filter(probe_seed=seed)["probability"].to_list() for seed in (0, 1)]
    assert seeds[0] != seeds[1]


def test_order_of_training_images_is_drawn_for_each_position():
    images = made_images(train=300, test=20)
    features = made_features(images, separation=0.3)
    features.grids["mid_block"] = features.grids["conv_in"]
    found = measure(features, FakeAnnotations(images), Parameters(epochs=2, batch=32))
    first, second = (found.filter(position=position) for position in features.positions)
    assert first["probability"].to_list() != second["probability"].to_list()


def test_training_equals_adam_written_out():
    """One batch an epoch, so that the order of images does not matter: full-batch Adam in numpy."""
    images = made_images(train=20, test=10, names=("b", "a"))
    features = made_features(images, separation=0.5)
    parameters = Parameters(epochs=25, learning_rate=0.01, bootstrap=10)
    found = measure(features, FakeAnnotations(images), parameters).filter(position="mid_block")

    means = features.means("mid_block").astype(np.float64)
    train, test = means[:20], means[20:]
    inputs = np.column_stack([(train - train.mean(0)) / train.std(0), np.ones(20)])
    queries = np.column_stack([(test - train.mean(0)) / train.std(0), np.ones(10)])
    truth = np.array([[label == name for name in "ab"] for label in images["label"]], float)

    def softmax(scores: np.ndarray) -> np.ndarray:
        exponents = np.exp(scores)
        return exponents / exponents.sum(axis=1, keepdims=True)

    weight = np.zeros((17, 2))
    first, second = np.zeros_like(weight), np.zeros_like(weight)
    for step in range(1, 26):
        gradient = inputs.T @ (softmax(inputs @ weight) - truth[:20]) / 20
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        scaled = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        weight -= 0.01 * scaled
    expected = (softmax(queries @ weight) * truth[20:]).sum(axis=1)
    np.testing.assert_allclose(found["probability"], expected, atol=2e-4)


def test_every_scored_image_is_kept_once_for_each_position_and_seed():
    images = made_images(train=30, validation=7, test=11)
    parameters = Parameters(epochs=1, seeds=[3, 5], bootstrap=10)
    found = measure(made_features(images, separation=1), FakeAnnotations(images), parameters)
    counts = found.group_by("position", "probe_seed", "split").len().sort(pl.all())
    assert counts.rows() == [
        (position, seed, split, number)
        for position in ("conv_in", "mid_block")
        for seed in (3, 5)
        for split, number in (("test", 11), ("validation", 7))
    ]
    assert found.select("position", "probe_seed", "image_id").is_unique().all()


def test_accuracy_averages_over_probe_seeds_before_images_are_resampled():
    # Two probes that are right on opposite halves: each image scores 0.5, and nothing varies.
    found = pl.DataFrame(
        {
            "position": "mid_block",
            "probe_seed": [0, 0, 1, 1],
            "image_id": ["x", "y", "x", "y"],
            "split": "test",
            "label": "a",
            "prediction": ["a", "b", "b", "a"],
            "classes": 2,
        }
    )
    row = summarise(found, Parameters(seeds=(0, 1))).row(0, named=True)
    assert (row["accuracy"], row["low"], row["high"], row["images"]) == (0.5, 0.5, 0.5, 2)


def test_interval_brackets_the_accuracy():
    images = made_images(train=60, test=200)
    table = summarise(
        measure(made_features(images, separation=0.4), FakeAnnotations(images), QUICK), QUICK
    )
    for low, value, high in table.select("low", "accuracy", "high").iter_rows():
        assert low < value < high
        width = 2 * 1.96 * math.sqrt(value * (1 - value) / 200)
        assert high - low == pytest.approx(width, rel=0.3)


def test_standardised_probe_ignores_the_scale_of_channels_and_constant_ones():
    images = made_images(train=60, test=60)
    features = made_features(images, separation=1)
    scale = np.logspace(-3, 3, 16)
    scale[4] = 0
    scaled = FakeRepresentations(
        {p: {i: grid * scale for i, grid in grids.items()} for p, grids in features.grids.items()}
    )
    without = FakeRepresentations(
        {
            p: {i: np.delete(g, 4, 2) for i, g in grids.items()}
            for p, grids in features.grids.items()
        }
    )
    a, b = (measure(each, FakeAnnotations(images), QUICK) for each in (scaled, without))
    np.testing.assert_allclose(a["probability"], b["probability"], atol=1e-3)


def test_thesis_form_starts_from_random_weights_without_a_bias():
    # Features at the origin: without a bias the probe cannot prefer any class, whatever it learns.
    images = made_images(train=40, test=10, names=("a", "a", "a", "b"))
    zero = FakeRepresentations({"mid_block": {i: np.zeros((1, 1, 4)) for i in images["image_id"]}})
    thesis = Parameters(epochs=20, learning_rate=0.1, standardise=False, initialisation="normal")
    found = measure(zero, FakeAnnotations(images), thesis)
    np.testing.assert_array_equal(found["probability"], 0.5)
    usual = Parameters(epochs=20, learning_rate=0.1, standardise=False)
    found = measure(zero, FakeAnnotations(images), usual)
    assert set(found["prediction"]) == {"a"}
    assert found.filter(label="a")["probability"].min() > 0.6
    # Hardly trained, the weights are still those of a unit normal: unlike zeros, they prefer some.
    ones = FakeRepresentations({"mid_block": {i: np.ones((1, 1, 64)) for i in images["image_id"]}})
    start = {"epochs": 1, "learning_rate": 1e-9, "standardise": False}
    spread = {
        form: measure(ones, FakeAnnotations(images), Parameters(**start, initialisation=form))
        for form in ("zeros", "normal")
    }
    np.testing.assert_allclose(spread["zeros"]["probability"], 0.5, atol=1e-6)
    assert (spread["normal"]["probability"] - 0.5).abs().min() > 0.1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (pl.col("split").replace("test", "validation").alias("split"), "test split has no images"),
        (
            pl.col("split").replace("train", "validation").alias("split"),
            "train split has no images",
        ),
        (pl.lit("cat").alias("label"), "all training images have the label 'cat'"),
        (
            pl.when(pl.col("image_id") == "i0035").then(None).otherwise("label").alias("label"),
            "1 of 40 images have no label, the first is 'i0035'",
        ),
        (
            pl.when(pl.col("image_id") == "i0035")
            .then(pl.lit("yak"))
            .otherwise("label")
            .alias("label"),
            "label 'yak' of image 'i0035'",
        ),
    ],
)
def test_unusable_labels_and_splits_are_named(change, words):
    images = made_images(train=30, test=10)
    features = made_features(images, separation=1)
    with pytest.raises(UserError, match=words):
        measure(features, FakeAnnotations(images.with_columns(change)), QUICK)


def test_features_that_are_not_finite_are_named():
    images = made_images(train=30, test=10)
    features = made_features(images, separation=1)
    features.grids["mid_block"]["i0012"][0, 0, 0] = np.nan
    with pytest.raises(UserError, match="'i0012' at mid_block"):
        measure(features, FakeAnnotations(images), QUICK)


@pytest.mark.parametrize(
    "settings",
    [
        {"learning_rate": "1e-3"},
        {"learning_rate": 0},
        {"batch": 0},
        {"epochs": 1.5},
        {"seeds": ()},
        {"seeds": (1, 1)},
        {"initialisation": "xavier"},
        {"bootstrap": 0},
    ],
)
def test_unusable_settings_are_named(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        Parameters(**settings)


def test_defaults_are_those_of_the_thesis():
    defaults = Parameters()
    assert (defaults.learning_rate, defaults.batch, defaults.epochs) == (1e-3, 128, 80)
