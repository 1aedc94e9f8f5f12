import io
import math

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from reprscope.base.protocol import Protocol
from reprscope.base.seeds import item_seed
from reprscope.data.sources import menagerie
from reprscope.measures.logistic import PENALTIES
from reprscope.models.families.unet import encode_prompts
from reprscope.representations.encoding import encode
from reprscope.representations.extraction import batches, extract
from reprscope.representations.prompts import Prompts
from reprscope.representations.store import Representations, writer
from reprscope.representations.views import View
from reprscope.runtime.errors import UserError
from reprscope.tasks import position_probe
from reprscope.tasks.position_probe import (
    FEATURES,
    OWN,
    Parameters,
    cells,
    chance,
    measure,
    summarise,
)
from scipy import stats
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from support.fakes import FakeAnnotations, FakeRepresentations

SHAPE = (4, 6)
QUICK = Parameters(tokens_per_image=0, grids=(2, 8))
PUBLISHED = Parameters(form="published", tokens_per_image=0, grids=(2, 8))
RNG = np.random.default_rng(0)


def annotated(*, train: int = 12, validation: int = 0, test: int = 6) -> FakeAnnotations:
    splits = ["train"] * train + ["validation"] * validation + ["test"] * test
    names = [f"i{number:03}" for number in range(len(splits))]
    pictures = {n: RNG.integers(0, 256, (8, 12, 3), dtype=np.uint8) for n in names}
    return FakeAnnotations(pl.DataFrame({"image_id": names, "split": splits}), pictures=pictures)


def planted(annotations: FakeAnnotations, *, shape=SHAPE, signal: float = 1, noise: float = 0.05):
    """One hot row and column, mixed and scaled unevenly, and a linear code of the place."""
    rng = np.random.default_rng(1)
    height, width = shape
    rows, columns = np.indices(shape)
    hot = np.concatenate([np.eye(height)[rows], np.eye(width)[columns]], axis=-1)
    linear = np.stack([rows / height, columns / width], axis=-1)
    code = np.concatenate([hot, linear], axis=-1)
    mixing = rng.normal(size=(code.shape[-1], 20)) * np.geomspace(0.1, 100, 20)
    names = annotations.images()["image_id"]
    grids = {
        "mid_block": {
            name: (signal * code + noise * rng.normal(size=code.shape)) @ mixing for name in names
        }
    }
    return FakeRepresentations(grids, dict.fromkeys(names, (12, 8)))


def scores(table: pl.DataFrame, **wanted) -> pl.DataFrame:
    filters = [pl.col(name) == value for name, value in ({"kind": "score"} | wanted).items()]
    return table.filter(*filters)


def parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def test_position_that_is_encoded_is_read_without_a_mistake():
    annotations = annotated()
    table = summarise(measure(planted(annotations), annotations, QUICK), QUICK)
    found = scores(table, estimator="classification")
    assert found["accuracy"].to_list() == [1.0] * 24
    assert set(found["grid"]) == {OWN, 2, 8}
    assert (found["error"].drop_nulls() == 0).all()
    regression = scores(table, estimator="regression", coordinates="each", grid=OWN, split="test")
    assert regression["accuracy"].item() > 0.9


def test_noise_is_read_at_chance():
    annotations = annotated(train=40, test=60)
    features = planted(annotations, signal=0, noise=1)
    table = summarise(measure(features, annotations, QUICK), QUICK)
    rows = scores(table, estimator="classification", split="test")
    assert len(rows) == 12
    for row in rows.iter_rows(named=True):
        tokens = row["images"] * math.prod(SHAPE)
        # Rows and columns are independent, so that four errors of one coordinate are generous.
        error = 4 * math.sqrt(row["chance"] * (1 - row["chance"]) / tokens)
        assert row["accuracy"] == pytest.approx(row["chance"], abs=error)
        assert row["low"] <= row["accuracy"] <= row["high"]
        assert row["images"] == 60


def test_rows_and_columns_are_not_mixed_up():
    """Only the row is encoded, on a map that is not square."""
    annotations = annotated()
    rows = np.indices(SHAPE)[0]
    rng = np.random.default_rng(2)
    grids = {
        name: np.eye(SHAPE[0])[rows] + 0.01 * rng.normal(size=(*SHAPE, SHAPE[0]))
        for name in annotations.images()["image_id"]
    }
    features = FakeRepresentations({"mid_block": grids}, dict.fromkeys(grids, (12, 8)))
    found = scores(
        measure(features, annotations, QUICK),
        estimator="classification",
        grid=OWN,
        features="tokens",
    )
    assert (found["right_rows"] == 24).all()
    assert found["right_columns"].mean() < 12
    assert (found["right_both"] == found["right_columns"]).all()
    assert found.select("height", "width").unique().rows() == [SHAPE]


def test_scores_are_those_of_the_predictions_that_are_kept():
    annotations = annotated(validation=2)
    features = planted(annotations, noise=1)
    parameters = Parameters(grids=(2, 3, 64), examples=2)
    found = measure(features, annotations, parameters)
    maps = found.filter(kind="map")
    assert maps["image_id"].unique(maintain_order=True).to_list() == ["i014", "i015"]
    assert len(maps) == 2 * 2 * 24
    checked = 0
    for row in scores(found, features="tokens").iter_rows(named=True):
        of = maps.filter(image_id=row["image_id"], estimator=row["estimator"])
        if of.is_empty():
            continue
        right = {"rows": 0, "columns": 0, "both": 0}
        away = []
        for token in of.iter_rows(named=True):
            hit = []
            for axis, length in zip(("row", "col"), SHAPE, strict=True):
                place = min(max(round(token[f"predicted_{axis}"]), 0), length - 1)
                away.append(place - token[axis])
                grid = row["grid"] or length
                hit.append(place * grid // length == token[axis] * grid // length)
            right["rows"] += hit[0]
            right["columns"] += hit[1]
            right["both"] += all(hit)
        assert right == {name: row[f"right_{name}"] for name in right}
        if row["grid"] == OWN:
            rows, columns = np.abs(away[::2]), np.abs(away[1::2])
            assert row["row_error"] == pytest.approx(rows.mean())
            assert row["column_error"] == pytest.approx(columns.mean())
            assert row["both_error"] == pytest.approx(np.hypot(rows, columns).mean())
        checked += 1
    assert checked == 2 * 2 * 4
    # A grid finer than the map is the map's own.
    wide = scores(found)
    pairs = [wide.filter(grid=grid).select(pl.col("^right_.*$")).rows() for grid in (OWN, 64)]
    assert pairs[0] == pairs[1]
    images = found.filter(kind="image")
    assert images["image_id"].to_list() == ["i014", "i015"]
    assert images["png"].null_count() == 0


def test_accuracy_is_the_share_of_tokens():
    annotations = annotated(validation=3)
    found = measure(planted(annotations, noise=1), annotations, QUICK)
    table = summarise(found, QUICK)
    assert set(table.filter(kind="score")["split"]) == {"validation", "test"}
    for row in table.filter(kind="score").iter_rows(named=True):
        keys = {k: row[k] for k in ("split", "estimator", "grid", "position")}
        shares = {}
        for features in FEATURES:
            of = scores(found, features=features, **keys)
            rows, columns = of["right_rows"] / 24, of["right_columns"] / 24
            shares[features] = {
                "row": rows,
                "column": columns,
                "each": (rows + columns) / 2,
                "both": of["right_both"] / 24,
            }[row["coordinates"]].to_numpy()
        assert row["accuracy"] == pytest.approx(shares["tokens"].mean())
        assert row["content_only"] == pytest.approx(shares["colours"].mean())
        assert row["above"] == pytest.approx(row["accuracy"] - row["content_only"])
        if row["images"] < 6:
            assert row["low"] is row["above_low"] is row["p"] is None
            continue
        assert row["low"] <= row["accuracy"] <= row["high"]
        differ = shares["tokens"] - shares["colours"]
        if differ.std() > 0:
            test = stats.ttest_1samp(differ, 0, alternative="greater")
            assert row["p"] == pytest.approx(test.pvalue)
            ends = stats.ttest_1samp(differ, 0).confidence_interval()
            assert (row["above_low"], row["above_high"]) == pytest.approx(tuple(ends))
    assert len(table.filter(kind="map")) == len(found.filter(kind="map"))
    assert table.columns == list(summarise(found, QUICK).columns)


@pytest.mark.parametrize("shape", [(4, 6), (5, 5), (16, 12)])
@pytest.mark.parametrize("grid", [OWN, 2, 3, 8, 100])
def test_chance_is_that_of_uniformly_random_places(shape, grid):
    axes = []
    for length in shape:
        side = grid or length
        same = [
            p * side // length == q * side // length for p in range(length) for q in range(length)
        ]
        axes.append(np.mean(same))
    assert chance(shape, grid, "each") == pytest.approx(np.mean(axes))
    assert chance(shape, grid, "both") == pytest.approx(np.prod(axes))
    assert [chance(shape, grid, axis) for axis in ("row", "column")] == pytest.approx(axes)


def test_cells_are_the_published_ones():
    assert cells(np.arange(16), 16, 8).tolist() == [i * 8 // 16 for i in range(16)]
    assert len(set(cells(np.arange(4), 4, 8).tolist())) == 4


def test_the_converged_form_has_the_minimum_and_the_best_penalty():
    """Against scikit-learn for each penalty, chosen on the validation images."""
    annotations = annotated(train=6, validation=4, test=2)
    features = planted(annotations, noise=0.8)
    found = measure(features, annotations, QUICK)
    grids = features.grids["mid_block"]

    def stacked(first, last):
        names = [f"i{number:03}" for number in range(first, last)]
        return np.concatenate([grids[n].reshape(24, -1) for n in names]).astype(np.float32)

    scaler = StandardScaler().fit(stacked(0, 6).astype(float))
    train, validation, test = (
        scaler.transform(stacked(*ends)) for ends in ((0, 6), (6, 10), (10, 11))
    )
    maps = found.filter(kind="map", image_id="i010").sort("estimator", "row", "col")
    fits = found.filter(kind="fit", features="tokens")
    for axis, (name, column) in enumerate((("row", "row"), ("column", "col"))):
        place = np.indices(SHAPE)[axis].ravel()
        classes, ridges = {}, {}
        for penalty in sorted(PENALTIES, reverse=True):
            one = LogisticRegression(C=1 / (penalty * 144), tol=1e-8, max_iter=20_000)
            one.fit(train, np.tile(place, 6))
            classes[penalty] = one, one.score(validation, np.tile(place, 4))
            other = Ridge(alpha=penalty * 144).fit(train, np.tile(place, 6))
            error = other.predict(validation) - np.tile(place, 4)
            ridges[penalty] = other, -np.square(error).mean()
        for estimator, tried in (("classification", classes), ("regression", ridges)):
            chosen = max(tried, key=lambda p: tried[p][1])
            fit = fits.filter(estimator=estimator, axis=name).row(0, named=True)
            got = maps.filter(estimator=estimator)[f"predicted_{column}"].to_numpy()
            if estimator == "regression":
                assert fit["penalty"] == chosen
                np.testing.assert_allclose(got, tried[chosen][0].predict(test), atol=1e-3)
            else:
                # Equal accuracies may be told apart by the last digits of either solver.
                assert tried[fit["penalty"]][1] == pytest.approx(tried[chosen][1], abs=0.02)
                assert (got == tried[fit["penalty"]][0].predict(test)).mean() > 0.95
                score = tried[fit["penalty"]][0].score(train, np.tile(place, 6))
                assert fit["train_accuracy"] == pytest.approx(score, abs=0.02)


def test_twice_the_iterations_move_no_accuracy_by_half_a_point(nano_tokens):
    """On tokens of nano-sd, of a block with few and of one with many, and of few images."""
    features, annotations = nano_tokens
    tables = [
        summarise(measure(features, annotations, parameters), parameters)
        for parameters in (QUICK, Parameters(**vars(QUICK) | {"iterations": 2 * QUICK.iterations}))
    ]
    first, second = (table.filter(kind="score")["accuracy"].to_numpy() for table in tables)
    assert np.abs(first - second).max() < 0.005
    # And it is not that nothing is learned.
    assert scores(tables[0], split="test", grid=OWN, coordinates="row")["above"].max() > 0.1


@pytest.fixture(scope="module")
def nano_tokens(tmp_path_factory, nano, unet, vae):
    """Representations of creatures in nano-sd, and their annotations."""
    folder = tmp_path_factory.mktemp("real")
    settings = menagerie.Parameters(images=24, size=64, pairs_validation=0, pairs_test=0, seed=5)
    creatures = menagerie.build(settings, 1).images
    with writer(folder / "latents.h5", spec="{}", provenance={}, dtype=np.float32) as store:
        encode(creatures, View(), vae, store, resolution=64, pixels="symmetric", batch_size=8)
    prompt = encode_prompts(nano, [""], device=torch.device("cpu"))["embedding"]
    wanted = ["mid_block", "up_blocks.2"]
    viewed = {"view": vars(View()), "resolution": 64, "multiple": 8}
    made = {"positions": wanted, "viewed": viewed}
    with (
        Representations([folder / "latents.h5"]) as latents,
        writer(folder / "tokens.h5", spec="{}", provenance=made, dtype=np.float32) as store,
    ):
        prompts = Prompts({"embedding": prompt}, dict.fromkeys(latents.image_ids, 0))
        source = batches(
            latents, prompts, seed=0, protocol=Protocol(), scaling=1.0, shift=0.0, size=8
        )
        extract(
            unet,
            source,
            positions=wanted,
            timestep=50,
            protocol=Protocol(),
            device=torch.device("cpu"),
            dtype=torch.float32,
            store=store,
        )
        names = sorted(latents.image_ids)
    frame = pl.DataFrame(
        {"image_id": names, "split": ["train"] * 12 + ["validation"] * 4 + ["test"] * 8}
    )
    pictures = {
        name: np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
        for name, png in creatures.select("image_id", "image").iter_rows()
    }
    return Representations([folder / "tokens.h5"]), FakeAnnotations(frame, pictures=pictures)


def test_published_training_equals_adam_written_out():
    """One batch an epoch, so that the order of tokens does not matter: full-batch Adam in numpy."""
    annotations = annotated(train=3, test=1)
    features = planted(annotations, signal=1, noise=0.5)
    found = measure(features, annotations, PUBLISHED).filter(kind="map", estimator="regression")
    grids = features.grids["mid_block"]
    stack = np.stack([grids[f"i00{i}"] for i in range(3)]).astype(np.float32).astype(np.float64)
    place = np.stack([np.indices(SHAPE).reshape(2, -1).T] * 3).reshape(72, 2).astype(float)
    inputs = np.concatenate([stack.reshape(72, -1), np.ones((72, 1))], axis=1)
    generator = torch.Generator().manual_seed(item_seed(PUBLISHED.seed, "mid_block"))
    start = [
        torch.empty(shape).uniform_(-1 / math.sqrt(20), 1 / math.sqrt(20), generator=generator)
        for shape in ((20, 12), (12,))
    ]
    weight = np.concatenate([start[0].numpy(), start[1].numpy()[None]])[:, 10:].astype(float)
    first, second = np.zeros_like(weight), np.zeros_like(weight)
    for step in range(1, 6):
        gradient = inputs.T @ (inputs @ weight - place) / len(inputs)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        rate = 1e-3 * math.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        weight -= rate * first / (np.sqrt(second) + 1e-8 * math.sqrt(1 - 0.999**step))
    query = np.concatenate([grids["i003"].reshape(24, -1), np.ones((24, 1))], axis=1)
    got = found.sort("row", "col").select("predicted_row", "predicted_col").to_numpy()
    np.testing.assert_allclose(got, query @ weight, atol=2e-3)
    fits = measure(features, annotations, PUBLISHED).filter(kind="fit")
    assert set(fits["iterations"]) == {5} and fits["penalty"].null_count() == len(fits)


@pytest.mark.parametrize("form", [QUICK, PUBLISHED])
def test_a_rerun_gives_the_same_bytes_in_any_order_of_images(form):
    annotations = annotated()
    features = planted(annotations, noise=1)
    parameters = Parameters(**vars(form) | {"tokens_per_image": 7})
    first = measure(features, annotations, parameters)
    features.grids["mid_block"] = dict(reversed(features.grids["mid_block"].items()))
    again = measure(features, annotations, parameters)
    assert parquet(again) == parquet(first)
    assert parquet(summarise(again, parameters)) == parquet(summarise(first, parameters))
    other = Parameters(**vars(parameters) | {"seed": 1})
    assert parquet(measure(features, annotations, other)) != parquet(first)


def test_large_values_are_trained_on_as_they_are():
    """Values beyond half precision; the place is in what half precision would drop."""
    annotations = annotated()
    features = planted(annotations)
    for grids in features.grids.values():
        grids.update({name: 1e5 + grid for name, grid in grids.items()})
    table = summarise(measure(features, annotations, QUICK), QUICK)
    found = scores(table, estimator="classification", coordinates="each", grid=OWN, split="test")
    assert found["accuracy"].item() > 0.9


def test_fewer_tokens_an_image_are_enough_where_position_is_plain():
    annotations = annotated()
    parameters = Parameters(**vars(QUICK) | {"tokens_per_image": 8})
    table = summarise(measure(planted(annotations), annotations, parameters), parameters)
    found = scores(table, estimator="classification", coordinates="both", grid=OWN, split="test")
    assert found["accuracy"].item() > 0.95


def held_out_of(annotations: FakeAnnotations, **changes) -> list[str]:
    """Images that are scored."""
    parameters = Parameters(**vars(PUBLISHED) | changes)
    return measured_images(measure(planted(annotations), annotations, parameters))


def measured_images(found: pl.DataFrame) -> list[str]:
    images = scores(found)
    assert set(images["split"]) <= {"validation", "test"}
    return sorted(set(images.filter(pl.col("split") == "test")["image_id"]))


def test_a_share_of_the_only_split_is_held_out():
    annotations = annotated(train=0, test=40)
    found = measure(planted(annotations), annotations, QUICK)
    table = scores(
        summarise(found, QUICK), estimator="classification", coordinates="both", split="test"
    )
    assert table["accuracy"].to_list() == [1.0] * 3
    held = measured_images(found)
    assert table["images"].to_list() == [len(held)] * 3
    # A fifth of 40, drawn: all but one in ten thousand draws are between 1 and 18.
    assert 1 <= len(held) <= 18
    # It does not matter which split is the only one.
    assert held_out_of(annotated(train=40, test=0)) == held
    # Every image is drawn for itself: without the others it is where it was.
    fewer = annotated(train=0, test=40)
    fewer.image_frame = fewer.image_frame.gather_every(2)
    names = fewer.image_frame["image_id"].to_list()
    assert held_out_of(fewer) == [name for name in held if name in names]
    assert held_out_of(annotated(train=0, test=40), seed=1) != held


@pytest.mark.parametrize(("share", "number"), [(0.2, 8), (0.5, 20), (0.01, 0)])
def test_the_last_images_can_be_held_out_as_published(share, number):
    annotations = annotated(train=0, test=40)
    annotations.image_frame = annotations.image_frame.sample(fraction=1, shuffle=True, seed=0)
    if not number:
        with pytest.raises(UserError, match="test split has no images"):
            held_out_of(annotations, test_share=share, held_out="last")
        return
    last = [f"i{n:03}" for n in range(40 - number, 40)]
    assert held_out_of(annotations, test_share=share, held_out="last") == last


def test_a_datasets_own_splits_are_kept():
    annotations = annotated(train=6, test=4)
    for held_out in ("drawn", "last"):
        assert held_out_of(annotations, test_share=0.9, held_out=held_out) == [
            f"i{n:03}" for n in range(6, 10)
        ]


def test_mistakes_are_sentences():
    for wrong, said in (
        ({"form": "adam"}, "converged, published"),
        ({"iterations": 0}, "iterations is 0"),
        ({"tokens_per_image": -1}, "tokens_per_image is -1"),
        ({"validation_share": 0}, "validation_share is 0"),
        ({"grids": (8, 8)}, "only once"),
        ({"test_share": 1}, "share between 0 and 1"),
        ({"held_out": "first"}, "drawn, last"),
    ):
        with pytest.raises(UserError, match=said):
            Parameters(**wrong)
    annotations = annotated(validation=2, test=0)
    with pytest.raises(UserError, match="test split has no images"):
        measure(planted(annotations), annotations, QUICK)
    annotations = annotated()
    features = planted(annotations)
    features.grids["mid_block"]["i005"] = np.ones((3, 6, 20))
    with pytest.raises(UserError, match=r"'i005' has 3 x 6 tokens.*4 x 6"):
        measure(features, annotations, QUICK)
    features.grids["mid_block"]["i005"] = np.full((*SHAPE, 20), np.inf)
    with pytest.raises(UserError, match="not finite"):
        measure(features, annotations, QUICK)


def experiment(annotations: FakeAnnotations, features: FakeRepresentations) -> pl.DataFrame:
    """Table of an experiment."""
    keys = {"dataset": "d", "model": "m", "timestep": 50}
    return summarise(measure(features, annotations, QUICK), QUICK).select(
        *(pl.lit(v).alias(k) for k, v in keys.items()), pl.all()
    )


def test_the_finding_is_chosen_on_validation_images():
    annotations = annotated(train=6, validation=20, test=8)
    features = planted(annotations)
    features.grids["conv_in"] = planted(annotations, signal=0).grids["mid_block"]
    best, beyond = position_probe.findings(experiment(annotations, features)).sentences
    assert "best in mid at t = 50 (chosen on 20 validation images from 2 candidates)" in best
    assert "100.0 %" in best and "chance 4.2 %" in best
    assert "rows in 1 of 2 layers and columns in 1 of 2 layers" in beyond
    assert "4 one-sided t-tests over 8 test images, Holm" in beyond
    few = annotated(validation=4)
    best = position_probe.findings(experiment(few, planted(few))).sentences[0]
    assert "in mid at t = 50, on 6 test images" in best


def test_tokens_that_see_only_colours_are_not_said_to_hold_their_place():
    """Sky above, ground below: the row is read from colours far above chance, and so from tokens.

    The tokens are curved functions of the colours with noise of their own.
    """
    annotations = annotated(train=16, validation=6, test=12)
    rng = np.random.default_rng(3)
    mixing = rng.normal(size=(3, 16))
    grids = {}
    for name in annotations.images()["image_id"]:
        light = np.linspace(200, 60, SHAPE[0])[:, None, None] + rng.normal(
            scale=15, size=(*SHAPE, 3)
        )
        picture = np.repeat(np.repeat(light, 2, axis=0), 2, axis=1)
        annotations.pictures[name] = np.clip(picture, 0, 255).astype(np.uint8)
        grids[name] = np.tanh((light / 100 - 1.3) @ mixing) + 0.1 * rng.normal(size=(*SHAPE, 16))
    features = FakeRepresentations({"mid_block": grids}, dict.fromkeys(grids, (12, 8)))
    table = experiment(annotations, features)
    row = scores(table, split="test", estimator="classification", grid=OWN, coordinates="row")
    assert row["low"].item() > 2 * row["chance"].item()
    assert (
        "in no layer is a row or a column read better"
        in position_probe.findings(table).sentences[1]
    )


def test_without_validation_images_some_of_the_training_images_choose():
    """The paper's set has one split: it is divided in three, and the best layer has a sentence."""
    for annotations in (annotated(train=0, test=60), annotated(train=30, test=30)):
        table = experiment(annotations, planted(annotations))
        counts = dict(scores(table).select("split", "images").unique().rows())
        assert set(counts) == {"validation", "test"}
        assert len(position_probe.findings(table).sentences) == 2
    assert counts == {"validation": 6, "test": 30}
    published = summarise(measure(planted(annotations), annotations, PUBLISHED), PUBLISHED)
    assert set(scores(published)["split"]) == {"test"}
