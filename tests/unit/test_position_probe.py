import io
import math

import numpy as np
import polars as pl
import pytest
from reprscope.errors import UserError
from reprscope.tasks import position_probe
from reprscope.tasks.position_probe import OWN, Parameters, cells, chance, measure, summarise
from support.fakes import FakeAnnotations, FakeRepresentations

SHAPE = (4, 6)
QUICK = Parameters(learning_rate=0.02, least_steps=300, batch=128, bootstrap=100, grids=(2, 8))
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
    assert found["accuracy"].to_list() == [1.0] * 6
    assert set(found["grid"]) == {OWN, 2, 8}
    regression = scores(table, estimator="regression", coordinates="each", grid=OWN)
    assert regression["accuracy"].item() > 0.9


def test_noise_is_read_at_chance():
    annotations = annotated(train=40, test=60)
    features = planted(annotations, signal=0, noise=1)
    table = summarise(measure(features, annotations, QUICK), QUICK)
    for row in scores(table, estimator="classification").iter_rows(named=True):
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
    found = scores(measure(features, annotations, QUICK), estimator="classification", grid=OWN)
    assert (found["right_rows"] == 24).all()
    assert found["right_columns"].mean() < 12
    assert (found["right_both"] == found["right_columns"]).all()
    assert found.select("height", "width").unique().rows() == [SHAPE]


def test_scores_are_those_of_the_predictions_that_are_kept():
    annotations = annotated(validation=2)
    features = planted(annotations, noise=1)
    parameters = Parameters(grids=(2, 3, 64), examples=2, least_steps=50, bootstrap=20)
    found = measure(features, annotations, parameters)
    maps = found.filter(kind="map")
    assert maps["image_id"].unique(maintain_order=True).to_list() == ["i014", "i015"]
    assert len(maps) == 2 * 2 * 24
    checked = 0
    for row in scores(found).iter_rows(named=True):
        of = maps.filter(image_id=row["image_id"], estimator=row["estimator"])
        if of.is_empty():
            continue
        right = {"rows": 0, "columns": 0, "both": 0}
        for token in of.iter_rows(named=True):
            hit = []
            for axis, length in zip(("row", "col"), SHAPE, strict=True):
                place = min(max(round(token[f"predicted_{axis}"]), 0), length - 1)
                grid = row["grid"] or length
                hit.append(place * grid // length == token[axis] * grid // length)
            right["rows"] += hit[0]
            right["columns"] += hit[1]
            right["both"] += all(hit)
        assert right == {name: row[f"right_{name}"] for name in right}
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
        of = scores(found, **{k: row[k] for k in ("split", "estimator", "grid", "position")})
        if row["coordinates"] == "both":
            expected = of["right_both"].sum() / (24 * len(of))
        else:
            expected = (of["right_rows"].sum() + of["right_columns"].sum()) / (48 * len(of))
        assert row["accuracy"] == pytest.approx(expected)
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


def test_cells_are_the_published_ones():
    assert cells(np.arange(16), 16, 8).tolist() == [i * 8 // 16 for i in range(16)]
    assert len(set(cells(np.arange(4), 4, 8).tolist())) == 4


@pytest.mark.parametrize("standardise", [True, False])
def test_training_equals_adam_written_out(standardise):
    """One batch an epoch, so that the order of tokens does not matter: full-batch Adam in numpy."""
    annotations = annotated(train=3, test=1)
    features = planted(annotations, signal=1, noise=0.5)
    if not standardise:
        for grids in features.grids.values():
            grids.update({name: grid / 50 for name, grid in grids.items()})
    parameters = Parameters(
        learning_rate=0.01, epochs=40, least_steps=0, batch=512, standardise=standardise, grids=()
    )
    found = measure(features, annotations, parameters).filter(kind="map", estimator="regression")
    grids = features.grids["mid_block"]
    stack = np.stack([grids[f"i00{i}"] for i in range(3)]).astype(np.float32).astype(np.float64)
    x = stack.reshape(72, -1)
    place = np.stack([np.indices(SHAPE).reshape(2, -1).T] * 3).reshape(72, 2).astype(float)
    query = grids["i003"].reshape(24, -1)
    middle, spread = np.zeros(2), np.ones(2)
    if standardise:
        centre, deviation = x.mean(axis=0), x.std(axis=0)
        x, query = (x - centre) / deviation, (query - centre) / deviation
        middle, spread = place.mean(axis=0), place.std(axis=0)
    inputs = np.concatenate([x, np.ones((72, 1))], axis=1)
    weight = np.zeros((inputs.shape[1], 2))
    first, second = np.zeros_like(weight), np.zeros_like(weight)
    for step in range(1, 41):
        error = inputs @ weight - (place - middle) / spread
        gradient = inputs.T @ error / len(inputs)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        rate = 0.01 * math.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        weight -= rate * first / (np.sqrt(second) + 1e-8 * math.sqrt(1 - 0.999**step))
    expected = (np.concatenate([query, np.ones((24, 1))], axis=1) @ weight) * spread + middle
    got = found.sort("row", "col").select("predicted_row", "predicted_col").to_numpy()
    np.testing.assert_allclose(got, expected, atol=2e-3)


def test_a_rerun_gives_the_same_bytes_in_any_order_of_images():
    annotations = annotated()
    features = planted(annotations, noise=1)
    parameters = Parameters(
        tokens_per_image=7, initialisation="uniform", least_steps=50, bootstrap=20
    )
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
    found = scores(table, estimator="classification", coordinates="each", grid=OWN)
    assert found["accuracy"].item() > 0.9


def test_fewer_tokens_an_image_are_enough_where_position_is_plain():
    annotations = annotated()
    parameters = Parameters(**vars(QUICK) | {"tokens_per_image": 8})
    table = summarise(measure(planted(annotations), annotations, parameters), parameters)
    found = scores(table, estimator="classification", coordinates="both", grid=OWN)
    assert found["accuracy"].item() > 0.95


def held_out_of(annotations: FakeAnnotations, **changes) -> list[str]:
    """Images that are scored."""
    parameters = Parameters(**vars(QUICK) | {"least_steps": 0, "epochs": 1} | changes)
    return measured_images(measure(planted(annotations), annotations, parameters))


def measured_images(found: pl.DataFrame) -> list[str]:
    images = scores(found)
    assert set(images["split"]) <= {"validation", "test"}
    return sorted(set(images.filter(pl.col("split") == "test")["image_id"]))


def test_a_share_of_the_only_split_is_held_out():
    annotations = annotated(train=0, test=40)
    found = measure(planted(annotations), annotations, QUICK)
    table = scores(summarise(found, QUICK), estimator="classification", coordinates="both")
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
        ({"epochs": 0}, "epochs is 0"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"initialisation": "ones"}, "zeros, uniform"),
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


def test_the_finding_is_chosen_on_validation_images():
    annotations = annotated(validation=20)
    features = planted(annotations)
    features.grids["conv_in"] = planted(annotations, signal=0).grids["mid_block"]
    table = summarise(measure(features, annotations, QUICK), QUICK).select(
        *(pl.lit(v).alias(k) for k, v in {"dataset": "d", "model": "m", "timestep": 50}.items()),
        pl.all(),
    )
    (sentence,) = position_probe.findings(table).sentences
    assert "mid at t = 50" in sentence and "100.0 %" in sentence and "chance is 4.2 %" in sentence
