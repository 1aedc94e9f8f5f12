import io
import math

import numpy as np
import polars as pl
import pytest
from reprscope.measures import logistic
from reprscope.measures.statistics import mean
from reprscope.runtime.errors import UserError
from reprscope.tasks.linear_probe import Parameters, findings, measure, minutes, relate, summarise
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from support.fakes import FakeAnnotations, FakeRepresentations

QUICK = Parameters()


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


@pytest.mark.parametrize("form", ["converged", "published"])
def test_a_rerun_gives_the_same_bytes_and_a_position_does_not_depend_on_the_others(form):
    images = made_images(train=150, test=60)
    features = made_features(images, separation=0.3)
    quick = {"epochs": 5} if form == "published" else {}
    parameters = Parameters(form=form, seeds=(0, 1), training_images=(60, "all"), **quick)
    first = measure(features, FakeAnnotations(images), parameters)
    assert parquet(measure(features, FakeAnnotations(images), parameters)) == parquet(first)
    features.grids = {"mid_block": features.grids["mid_block"]}
    alone = measure(features, FakeAnnotations(images), parameters)
    assert first.filter(position="mid_block").equals(alone)
    few = alone.filter(training_images=60)
    seeds = [few.filter(probe_seed=seed)["probability"].to_list() for seed in (0, 1)]
    assert seeds[0] != seeds[1]


def test_the_probe_is_scikit_learns_with_the_penalty_that_validation_images_prefer():
    images = made_images(train=90, validation=60, test=90)
    features = made_features(images, separation=0.3)
    found = measure(features, FakeAnnotations(images), Parameters()).filter(position="mid_block")
    means, labels = features.means("mid_block").astype(np.float64), images["label"].to_numpy()
    means = (means - means[:90].mean(0)) / means[:90].std(0)
    fits = {
        penalty: LogisticRegression(C=1 / (90 * penalty), tol=1e-9, max_iter=10_000).fit(
            means[:90], labels[:90]
        )
        for penalty in Parameters().penalties
    }
    held, true = means[90:150], labels[90:150]
    chosen = max(
        fits,
        key=lambda p: (fits[p].score(held, true), -log_loss(true, fits[p].predict_proba(held))),
    )
    assert set(found["penalty"]) == {chosen}
    fit = fits[chosen]
    assert found["train_accuracy"][0] == pytest.approx(fit.score(means[:90], labels[:90]))
    for rows, split in ((slice(90, 150), "validation"), (slice(150, 240), "test")):
        part = found.filter(split=split)
        assert part["prediction"].to_list() == fit.predict(means[rows]).tolist()
        expected = fit.predict_proba(means[rows])
        own = np.searchsorted(fit.classes_, labels[rows])
        np.testing.assert_allclose(
            part["probability"], expected[np.arange(len(own)), own], atol=1e-3
        )


@pytest.mark.parametrize("validation", [0, 19])
def test_without_enough_validation_images_a_fifth_of_the_training_images_chooses(validation):
    """What validation images there are must not matter, and the fit is on all training images."""
    images = made_images(train=100, validation=validation, test=60)
    features = made_features(images, separation=0.3)
    found = measure(features, FakeAnnotations(images), Parameters()).filter(position="mid_block")
    if validation:
        none = images.filter(pl.col("split") != "validation")
        other = measure(features, FakeAnnotations(none), Parameters()).filter(position="mid_block")
        assert found.filter(split="test").equals(other)
    (penalty,) = set(found["penalty"])
    means, labels = features.means("mid_block")[:100], images["label"].to_numpy()
    scaling = logistic.Scaling.of(means)
    fit = LogisticRegression(C=1 / (100 * penalty), tol=1e-9, max_iter=10_000)
    fit.fit(scaling(means), labels[:100])
    queries = scaling(features.means("mid_block")[100 + validation :])
    assert found.filter(split="test")["prediction"].to_list() == fit.predict(queries).tolist()


def test_twice_the_iterations_move_no_accuracy():
    """On means of effective rank 8 of 64, as those of up[2] are, and with scales far apart."""
    names, classes = tuple("abcde"), 5
    images = made_images(train=300, validation=60, test=400, names=names)
    rng = np.random.default_rng(3)
    mixing = rng.normal(size=(64, 64)) * np.geomspace(1, 1e-3, 64)[:, None]
    means = rng.normal(size=(len(images), 64))
    means[:, :40] += 0.4 * rng.normal(size=(classes, 40))[np.arange(len(images)) % classes]
    means = (means @ mixing) * np.geomspace(1e-2, 1e2, 64)
    variance = np.linalg.eigvalsh(np.cov(means, rowvar=False))
    assert variance.sum() ** 2 / np.square(variance).sum() < 10
    features = FakeRepresentations(
        {"mid_block": {i: m[None, None] for i, m in zip(images["image_id"], means, strict=True)}}
    )
    once, twice = (
        summarise(measure(features, FakeAnnotations(images), each), each)
        for each in (Parameters(), Parameters(iterations=2 * Parameters().iterations))
    )
    assert once["converged"].all()
    assert (once["accuracy"] - twice["accuracy"]).abs().max() < 0.005
    assert once.filter(split="test")["accuracy"][0] > 2 / classes
    # The published recipe has not: ten times its epochs are another number.
    thesis = [
        summarise(measure(features, FakeAnnotations(images), each), each)["accuracy"][1]
        for each in (Parameters(form="published", epochs=e) for e in (80, 800))
    ]
    assert abs(thesis[0] - thesis[1]) > 0.02
    # A fit that is cut off says so.
    short = Parameters(iterations=1)
    assert not summarise(measure(features, FakeAnnotations(images), short), short)[
        "converged"
    ].any()


def test_smaller_numbers_of_training_images_are_nested_and_even():
    names = ("a", "a", "a", "b", "b", "c")  # 50, 33 and 17 %
    images = made_images(train=120, validation=30, test=60, names=names)
    features = made_features(images, separation=0.5)
    counts = (12, 60, 120)
    parameters = Parameters(training_images=(60, "all", 12), penalties=[0.01])
    found = measure(features, FakeAnnotations(images), parameters)
    assert found["training_images"].unique().to_list() == list(counts)
    # Which images were used is seen by moving one far away: only probes that hold it change.
    held = {number: set() for number in counts}
    for i, image in enumerate(images["image_id"][:120]):
        grid = features.grids["mid_block"][image]
        features.grids = {"mid_block": features.grids["mid_block"] | {image: grid + 10}}
        moved = measure(features, FakeAnnotations(images), parameters)
        features.grids["mid_block"][image] = grid
        for number in counts:
            one, other = (
                f.filter(position="mid_block", training_images=number)["probability"].to_numpy()
                for f in (found, moved)
            )
            if not np.array_equal(one, other):
                held[number].add(i)
        if i == 23:
            break
    assert held[12] < held[60] < held[120] == set(range(24))
    table = summarise(found, parameters).filter(split="test", position="mid_block")
    assert table["training_images"].to_list() == list(counts)
    assert table["added"].to_list()[0] is None
    right = [np.array(one) for one in table["right_of_image"]]
    for i in (1, 2):
        expected = mean((right[i] - right[i - 1])[:, None]).interval()
        got = table.select("added", "added_low", "added_high").row(i)
        np.testing.assert_allclose(got, np.ravel(expected))


def test_classes_keep_their_shares_in_a_smaller_number_of_training_images():
    from reprscope.tasks.linear_probe import _draws

    labels = np.repeat([0, 1, 2], [60, 30, 10])
    rng = np.random.default_rng(0)
    rng.shuffle(labels)
    chosen = _draws(labels, rng.integers(1 << 62, size=100), (10, 40, "all"))
    assert list(chosen) == [10, 40, 100]
    assert np.bincount(labels[chosen[10]]).tolist() == [6, 3, 1]
    assert np.bincount(labels[chosen[40]]).tolist() == [24, 12, 4]
    assert set(chosen[10]) < set(chosen[40])


def test_the_published_form_equals_adam_written_out():
    """One batch an epoch, so that the order of images does not matter: full-batch Adam in numpy."""
    import torch
    from reprscope.base.seeds import item_seed

    images = made_images(train=20, test=10, names=("b", "a"))
    features = made_features(images, separation=0.5)
    parameters = Parameters(form="published", epochs=25, learning_rate=0.01)
    found = measure(features, FakeAnnotations(images), parameters).filter(position="mid_block")

    means = features.means("mid_block").astype(np.float64)
    inputs, queries = means[:20], means[20:]
    truth = np.array([[label == name for name in "ab"] for label in images["label"]], float)

    def softmax(scores: np.ndarray) -> np.ndarray:
        exponents = np.exp(scores)
        return exponents / exponents.sum(axis=1, keepdims=True)

    generator = torch.Generator().manual_seed(item_seed(0, "mid_block"))
    weight = torch.randn((16, 2), generator=generator).numpy().astype(np.float64)
    first, second = np.zeros_like(weight), np.zeros_like(weight)
    for step in range(1, 26):
        gradient = inputs.T @ (softmax(inputs @ weight) - truth[:20]) / 20
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        scaled = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        weight -= 0.01 * scaled
    expected = (softmax(queries @ weight) * truth[20:]).sum(axis=1)
    np.testing.assert_allclose(found["probability"], expected, atol=2e-4)
    assert set(found["iterations"]) == {25}
    assert found["penalty"].null_count() == found["converged"].null_count() == len(found)


def test_every_scored_image_is_kept_once_for_each_position_and_seed():
    images = made_images(train=30, validation=7, test=11)
    parameters = Parameters(seeds=[3, 5])
    found = measure(made_features(images, separation=1), FakeAnnotations(images), parameters)
    counts = found.group_by("position", "probe_seed", "split").len().sort(pl.all())
    assert counts.rows() == [
        (position, seed, split, number)
        for position in ("conv_in", "mid_block")
        for seed in (3, 5)
        for split, number in (("test", 11), ("validation", 7))
    ]
    assert found.select("position", "probe_seed", "image_id").is_unique().all()


def scored(right: dict[int, list[float]], *, classes: int = 2, split: str = "test"):
    """Measurements of one position, for each probe seed which images are right."""
    rows = [
        ("mid_block", 10, seed, f"{i:03}", split, "a", "a" if one else "b", classes, "b")
        for seed, scores in right.items()
        for i, one in enumerate(scores)
    ]
    schema = [
        *("position", "training_images", "probe_seed", "image_id", "split", "label", "prediction"),
        *("classes", "commonest"),
    ]
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(
        penalty=pl.lit(0.1), train_accuracy=pl.lit(1.0), iterations=pl.lit(9), converged=True
    )


def test_accuracy_averages_over_probe_seeds_before_the_interval_over_images():
    # Two probes that are right on opposite halves: each image scores 0.5, and nothing varies.
    found = scored({0: [1, 0] * 5, 1: [0, 1] * 5})
    row = summarise(found, Parameters(seeds=(0, 1))).row(0, named=True)
    assert (row["accuracy"], row["images"]) == (0.5, 10)
    assert row["right_of_image"] == [0.5] * 10


def test_the_interval_is_wilsons_and_none_is_given_for_five_images():
    row = summarise(scored({0: [1] * 30 + [0] * 70}), QUICK).row(0, named=True)
    # Wilson's with Student's t of 99 degrees and n - 1 in the variance, by hand.
    z, n, p = 1.98422, 99, 0.3
    centre, half = p + z * z / 2 / n, z * math.sqrt(p * (1 - p) / n + z * z / 4 / n / n)
    bounds = [(centre + sign * half) / (1 + z * z / n) for sign in (-1, 1)]
    assert [row["low"], row["high"]] == pytest.approx(bounds, abs=1e-5)
    assert row["p_value"] > 0.5  # of two classes
    row = summarise(scored({0: [1] * 5}), QUICK).row(0, named=True)
    assert (row["accuracy"], row["low"], row["high"], row["p_value"]) == (1.0, None, None, None)


def test_accuracy_is_held_against_the_commonest_class_as_well_as_chance():
    """Of 100 images 80 are of the commonest class, and the probe always says it."""
    found = scored({0: [1] * 80 + [0] * 20}).with_columns(
        label=pl.when(pl.col("image_id") < "080").then(pl.lit("b")).otherwise(pl.lit("a")),
        prediction=pl.lit("b"),
    )
    row = summarise(found, QUICK).row(0, named=True)
    assert (row["accuracy"], row["chance"], row["majority"]) == (0.8, 0.5, 0.8)
    assert row["p_value"] >= 0.5
    better = found.with_columns(
        prediction=pl.when(pl.col("image_id") < "090").then("prediction").otherwise("label")
    )
    assert summarise(better, QUICK)["p_value"][0] < 0.01


def test_a_model_is_compared_with_the_best_place_of_another_on_the_same_images():
    rng = np.random.default_rng(0)
    rows = []
    for model, positions in {"m": (0.8, 0.5), "twin": (0.2, 0.4)}.items():
        for position, share in zip(("conv_in", "mid_block"), positions, strict=True):
            for split in ("validation", "test"):
                right = {0: list(rng.random(80) < share)}
                one = summarise(scored(right, split=split), QUICK)
                rows.append(
                    one.with_columns(
                        **{k: pl.lit(v) for k, v in {"task": "probe", "dataset": "d"}.items()},
                        model=pl.lit(model),
                        timestep=pl.lit(50),
                        position=pl.lit(position),
                    )
                )
    table = pl.concat(rows)
    found = relate(table, {"probe": Parameters(against="twin")})
    assert "right_of_image" not in found.columns and len(found) == len(table)
    assert found.filter(model="twin")["over"].null_count() == 4
    score = {
        (r["model"], r["position"]): np.array(r["right_of_image"])
        for r in table.filter(split="test").iter_rows(named=True)
    }
    (row,) = found.filter(model="m", position="conv_in", split="test").iter_rows(named=True)
    difference = score["m", "conv_in"] - score["twin", "mid_block"]
    half = 1.99045 * difference.std(ddof=1) / math.sqrt(80)
    assert row["over"] == pytest.approx(difference.mean())
    assert [row["over_low"], row["over_high"]] == pytest.approx(
        [row["over"] - half, row["over"] + half], abs=1e-5
    )
    first, second, third = findings(found).sentences
    assert first.startswith("Linear probe accuracy of m on d is best in conv-in at t = 50")
    assert first.endswith(", above chance (50.0 % for 2 classes).")
    points = [f"{100 * row[name]:.1f}" for name in ("over", "over_low", "over_high")]
    assert second == (
        f"That is {points[0]} points [{points[1]}, {points[2]}] more than twin at its own best "
        "place."
    )
    # The other way round it is as many fewer; a model is never told from one just like it.
    turned = found.with_columns(
        over=-pl.col("over"), over_low=-pl.col("over_high"), over_high=-pl.col("over_low")
    )
    assert findings(turned).sentences[1] == second.replace("more", "fewer")
    unsure = found.with_columns(over_p=pl.lit(0.3))
    assert "points" in findings(unsure).sentences[1]
    assert "within chance" in findings(unsure).sentences[1]
    assert "accuracy of twin" in third and third.endswith(
        "not told from chance (50.0 % for 2 classes)."
    )
    alone = relate(table, {"probe": Parameters()})
    assert alone["over"].null_count() == len(alone)
    assert len(findings(alone).sentences) == 2


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
    one = Parameters(penalties=(0.01,))
    a, b = (measure(each, FakeAnnotations(images), one) for each in (scaled, without))
    np.testing.assert_allclose(a["probability"], b["probability"], atol=1e-3)


def test_the_published_form_starts_from_random_weights_without_a_bias():
    # Features at the origin: without a bias the probe cannot prefer any class, whatever it learns.
    images = made_images(train=40, test=10, names=("a", "a", "a", "b"))
    zero = FakeRepresentations({"mid_block": {i: np.zeros((1, 1, 4)) for i in images["image_id"]}})
    published = Parameters(form="published", epochs=20, learning_rate=0.1)
    found = measure(zero, FakeAnnotations(images), published)
    np.testing.assert_array_equal(found["probability"], 0.5)
    # The converged form has one: it learns how common the classes are.
    found = measure(zero, FakeAnnotations(images), Parameters())
    assert set(found["prediction"]) == {"a"}
    np.testing.assert_allclose(found.filter(label="a")["probability"], 0.75, atol=1e-3)
    # Hardly trained, the weights are still those of a unit normal and prefer some class.
    ones = FakeRepresentations({"mid_block": {i: np.ones((1, 1, 64)) for i in images["image_id"]}})
    start = Parameters(form="published", epochs=1, learning_rate=1e-9)
    found = measure(ones, FakeAnnotations(images), start)
    assert (found["probability"] - 0.5).abs().min() > 0.1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (pl.col("split").replace("test", "validation").alias("split"), "test split has no images"),
        (
            pl.col("split").replace("train", "validation").alias("split"),
            "train split has no images",
        ),
        (pl.lit("cat").alias("label"), "all training images have the label 'cat'"),
        *(
            (
                pl.when(pl.col("image_id") == "i0035")
                .then(pl.lit(blank, pl.String))
                .otherwise("label")
                .alias("label"),
                r"1 of 40 images have no label \(.*\), the first is 'i0035'",
            )
            for blank in (None, "", "  ", "-1")
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
    ("train", "settings", "words"),
    [
        (9, {}, "9 training images are too few to hold a fifth"),
        (30, {"training_images": (6,)}, "6 training images are too few to hold a fifth"),
        (
            30,
            {"training_images": (31,)},
            "asks for 31, but there are 30 training images of 3 classes",
        ),
        (30, {"training_images": (2,)}, "ask for 3 to 30"),
    ],
)
def test_too_few_training_images_are_one_sentence(train, settings, words):
    images = made_images(train=train, test=10)
    with pytest.raises(UserError, match=words):
        measure(
            made_features(images, separation=1), FakeAnnotations(images), Parameters(**settings)
        )


def test_one_penalty_needs_nothing_to_choose_on():
    images = made_images(train=3, test=10)
    parameters = Parameters(penalties=(0.1,))
    found = measure(made_features(images, separation=9), FakeAnnotations(images), parameters)
    assert set(found["penalty"]) == {0.1} and set(found["train_accuracy"]) == {1.0}


@pytest.mark.parametrize(
    "settings",
    [
        {"learning_rate": "1e-3", "form": "published"},
        {"learning_rate": 0, "form": "published"},
        {"batch": 0, "form": "published"},
        {"epochs": 1.5, "form": "published"},
        {"epochs": 100},
        {"penalties": (0.1,), "form": "published"},
        {"penalties": ()},
        {"penalties": (0.1, 0)},
        {"iterations": 0},
        {"training_images": ()},
        {"training_images": ("some",)},
        {"training_images": (100, 100)},
        {"seeds": ()},
        {"seeds": (1, 1)},
        {"form": "adam"},
    ],
)
def test_unusable_settings_are_named(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        Parameters(**settings)


def test_the_published_settings_are_those_of_the_thesis():
    published = Parameters(form="published")
    assert (published.learning_rate, published.batch, published.epochs) == (1e-3, 128, 80)


def test_time_is_asked_for_by_the_number_of_converged_fits():
    learning = Parameters(training_images=(50, "all"), seeds=(0, 1, 2))
    assert (
        minutes(learning, 11) == 6 * minutes(Parameters(), 11) == 6 * 11 * minutes(Parameters(), 1)
    )
    assert minutes(Parameters(form="published"), 11) == 0
