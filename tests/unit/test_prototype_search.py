import io
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from reprscope.figures.kinds import lines_by_threshold as figure
from reprscope.figures.theme import Theme
from reprscope.runtime.errors import UserError
from reprscope.tasks import companions
from reprscope.tasks import prototype_search as task
from support.fakes import FakeAnnotations, FakeRepresentations

CHANNELS = 32
DIRECTION = np.zeros(CHANNELS)
DIRECTION[3] = 1.0
THIN = "up_blocks.1.resnets.2"
DOUBLE = "up_blocks.1.upsamplers.0"


def made(names, *, seed: int, planted, noise: float = 1.0) -> FakeRepresentations:
    """Gaussian maps; ``planted`` are (image, row, col) on the 8 x 6 grid, in one direction."""
    rng = np.random.default_rng(seed)
    grids = {
        THIN: {name: rng.normal(size=(8, 6, CHANNELS)) for name in names},
        DOUBLE: {name: rng.normal(size=(16, 12, CHANNELS)) for name in names},
    }
    for name, row, col in planted:
        grids[THIN][name][row, col] = 30 * DIRECTION + noise * rng.normal(size=CHANNELS)
        for place in np.ndindex(2, 2):
            token = 30 * DIRECTION + noise * rng.normal(size=CHANNELS)
            grids[DOUBLE][name][2 * row + place[0], 2 * col + place[1]] = token
    return FakeRepresentations(grids)


def images(**splits: str) -> FakeAnnotations:
    return FakeAnnotations(pl.DataFrame({"image_id": list(splits), "split": list(splits.values())}))


SPLITS = {
    "a": "train", "b": "train", "c": "validation", "d": "test", "e": "test", "f": "test"
}  # fmt: skip
PLANTED = [("a", 1, 1), ("b", 3, 4), ("c", 0, 0), ("d", 7, 5), ("d", 2, 2), ("e", 4, 0)]


def searched(**settings):
    source = made(list(SPLITS), seed=0, planted=PLANTED)
    parameters = task.Parameters(**settings)
    return source, task.measure(source, images(**SPLITS), parameters), parameters


def test_tokens_like_the_prototype_are_found_and_no_others():
    _, found, parameters = searched()
    assert sorted(found["image_id"].unique()) == ["c", "d", "e", "f"]
    assert found["patches"].unique().to_list() == [2]
    table = task.summarise(found, parameters)
    right = table.filter(position=THIN, split="test", threshold=0.8)
    assert dict(right.select("score", "value").rows()) == {"precision": 1, "recall": 1, "F1": 1}
    assert right["tokens"].unique().to_list() == [3]
    # Behind the upsampler each patch is 2 x 2 tokens.
    assert table.filter(position=DOUBLE, split="test")["tokens"].unique().to_list() == [12]
    assert table.filter(position=DOUBLE, split="test", threshold=0.8)["value"].to_list() == [1] * 3


def test_counts_equal_a_loop_over_tokens():
    source, found, _ = searched(thresholds=(0.1, 0.9, 0.985))
    model = np.mean([source.grids[THIN][n][r, c] for n, r, c in PLANTED[:2]], axis=0)
    for row in found.filter(position=THIN).iter_rows(named=True):
        counts = dict.fromkeys(task.COUNTS, 0)
        for place in np.ndindex(8, 6):
            token = source.grids[THIN][row["image_id"]][place]
            similar = token @ model / np.linalg.norm(token) / np.linalg.norm(model)
            hit, actual = similar >= row["threshold"], (row["image_id"], *place) in PLANTED
            if hit or actual:
                right = "true" if hit and actual else "false"
                counts[f"{right}_{'positives' if hit else 'negatives'}"] += 1
        assert {name: row[name] for name in counts} == counts
    assert found.filter(threshold=0.1)["false_positives"].sum() > 0
    assert found.filter(threshold=0.985)["false_negatives"].sum() > 0


def test_scores_are_shares_of_all_tokens_and_the_threshold_is_chosen_on_validation():
    # Position, image, split, patches, threshold, true and false positives, false negatives.
    rows = [
        *(("mid_block", f"v{n}", "validation", 4, 0.7, 4, 4, 0) for n in range(20)),
        *(("mid_block", f"v{n}", "validation", 4, 0.8, 3, 0, 1) for n in range(20)),
        ("mid_block", "t", "test", 4, 0.7, 5, 1, 0),
        ("mid_block", "t", "test", 4, 0.8, 1, 1, 4),
        ("mid_block", "u", "test", 4, 0.7, 0, 3, 1),
        ("mid_block", "u", "test", 4, 0.8, 0, 0, 1),
    ]
    frame = pl.DataFrame(rows, task._SCHEMA, orient="row")
    table = task.summarise(frame, task.Parameters(thresholds=(0.7, 0.8)))
    test = {(r["threshold"], r["score"]): r for r in table.filter(split="test").to_dicts()}
    assert test[0.7, "precision"]["value"] == pytest.approx(5 / 9)
    assert test[0.7, "recall"]["value"] == pytest.approx(5 / 6)
    assert test[0.7, "F1"]["value"] == pytest.approx(2 * 5 / (2 * 5 + 4 + 1))
    assert test[0.8, "recall"]["value"] == pytest.approx(1 / 6)
    # 0.7 is better on test images, 0.8 on validation images.
    assert {key[0] for key, row in test.items() if row["chosen"]} == {0.8}
    assert {row["tokens"] for row in test.values()} == {6}
    said = task.findings(keyed(table))
    assert said.sentences == [
        "F1 of a search of toy on d for 6 anomalous tokens by the mean of 4 anomalous patches, "
        "from a cosine of 0.8 on (chosen with it), is 25.0 % in mid at t = 50, on 2 test images; "
        "precision 50.0 %, recall 16.7 %."
    ]
    assert said.table["threshold"].unique().to_list() == [0.8]


def test_few_validation_images_choose_nothing_and_training_images_never_do():
    rows = [
        ("mid_block", f"{split}{n}", split, 4, threshold, hits, 1, 1)
        for split, images in (("train", 50), ("validation", 19), ("test", 30))
        for n in range(images)
        # Best at 0.7 on training and validation images, at 0.8 on test images.
        for threshold, hits in ((0.7, 4 if split != "test" else 1), (0.8, 2))
    ]
    frame = pl.DataFrame(rows, task._SCHEMA, orient="row")
    table = task.summarise(frame, task.Parameters(thresholds=(0.7, 0.8)))
    assert not table["chosen"].any()
    said = task.findings(keyed(table)).sentences[0]
    assert "0.8 on (the highest of 2 on them), is 66.7 % in mid" in said
    assert "[" not in said
    enough = pl.concat(
        [frame, frame.filter(image_id="validation0").with_columns(image_id=pl.lit("one more"))]
    )
    table = task.summarise(enough, task.Parameters(thresholds=(0.7, 0.8)))
    assert table.filter("chosen")["threshold"].unique().to_list() == [0.7]
    assert "0.7 on (chosen with it), is 50.0 % [32.5," in task.findings(keyed(table)).sentences[0]


def test_positions_are_chosen_on_validation_images_alone():
    rows = [
        (position, f"{split}{n}", split, 4, 0.7, hits[split], 1, 1)
        for position, hits in (
            ("conv_in", {"train": 9, "validation": 1, "test": 9}),
            ("mid_block", {"train": 1, "validation": 3, "test": 2}),
        )
        for split in ("train", "validation", "test")
        for n in range(25)
    ]
    frame = pl.DataFrame(rows, task._SCHEMA, orient="row")
    table = task.summarise(frame, task.Parameters(thresholds=(0.7,)))
    said = task.findings(keyed(table))
    assert said.table["position"].to_list() == ["mid_block"]
    assert "is best in mid at t = 50 (chosen on 25 validation images from 2" in said.sentences[0]


def test_shares_are_over_the_images_that_have_a_part_in_them():
    counts = pl.DataFrame(
        [("mid_block", f"i{n:03d}", "test", 1, 0.5, int(n < 8), int(n < 2), 0) for n in range(300)],
        task._SCHEMA,
        orient="row",
    )
    table = task.summarise(counts, task.Parameters(thresholds=(0.5,)))
    few = task.summarise(counts[:8], task.Parameters(thresholds=(0.5,)))
    for score in ("precision", "recall", "F1"):
        columns = ["value", "low", "high"]
        many, alone = (t.filter(score=score).select(columns).row(0) for t in (table, few))
        assert many == pytest.approx(alone)
    assert task.summarise(counts[:5], task.Parameters(thresholds=(0.5,)))["low"].null_count() == 3


def keyed(table: pl.DataFrame, model: str = "toy") -> pl.DataFrame:
    keys = {"task": "t", "dataset": "d", "view": "identity", "model": model, "resolution": 64}
    keys |= {"prompt": "empty", "timestep": 50, "seed": 0, "protocol": "standard"}
    return table.select(*(pl.lit(v).alias(k) for k, v in keys.items()), pl.all())


def test_another_dataset_makes_the_prototype_and_all_splits_are_searched():
    source = made(list(SPLITS), seed=0, planted=PLANTED)
    other = made(["x", "y"], seed=1, planted=[("y", 5, 5)])
    parameters = task.Parameters(prototype={"dataset": "others", "resolution": 64})
    assert companions("prototype_search", parameters) == {
        "prototype": {"dataset": "others", "resolution": 64}
    }
    assert companions("prototype_search", task.Parameters()) == {}
    found = task.measure(source, images(**SPLITS), parameters, companions={"prototype": other})
    assert sorted(found["image_id"].unique()) == sorted(SPLITS)
    assert found["patches"].unique().to_list() == [1]
    table = task.summarise(found, parameters).filter(position=THIN, threshold=0.8)
    assert table["value"].to_list() == [1.0] * 9
    assert table["split"].unique(maintain_order=True).to_list() == ["train", "validation", "test"]


def test_labels_of_either_dataset_are_files_of_the_task(tmp_path):
    paths = [str(tmp_path / name) for name in ("a.csv", "b.csv")]
    for path, name in zip(paths, ("d", "x"), strict=True):
        pl.DataFrame(
            {"image_id": name, "x": 2, "y": 3, "grid": "6x8", "provenance": "0123456789abcdef"}
        ).write_csv(path)
    parameters = task.Parameters(
        prototype={"dataset": "others", "resolution": 64},
        labels=paths[0],
        prototype_labels=paths[1],
    )
    assert parameters.files == paths
    source, other = (made(n, seed=2, planted=[]) for n in (list(SPLITS), ["x"]))
    found = task.measure(source, images(**SPLITS), parameters, companions={"prototype": other})
    assert found["patches"].unique().to_list() == [1]
    wanted = found.filter(position=THIN, threshold=0.98).filter(pl.col("false_negatives") > 0)
    assert wanted["image_id"].to_list() == ["d"]
    for settings in ({"prototype_labels": paths[1]}, {"prototype": {"resolution": 64}}):
        with pytest.raises(UserError, match="prototype has no dataset"):
            task.Parameters(**settings)


def test_without_anomalies_nothing_is_found_and_the_report_says_so():
    source = made(list(SPLITS), seed=0, planted=[])
    parameters = task.Parameters()
    found = task.measure(source, images(**SPLITS), parameters)
    assert found.select(task.COUNTS).sum().row(0) == (0, 0, 0)
    table = keyed(task.summarise(found, parameters))
    assert table["value"].null_count() == len(table)
    assert (
        "the prototype has 0 anomalous patches, and 0 anomalous"
        in task.findings(table).sentences[0]
    )
    chart = figure.draw(table.filter(position=THIN), figure.Options(), Theme())
    assert figure.NOTHING in str(chart.to_dict())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"thresholds": ()}, "thresholds"),
        ({"thresholds": (0.7, 0.7)}, "thresholds"),
        ({"thresholds": (1.2,)}, "thresholds"),
    ],
)
def test_unusable_settings_are_named(settings, words):
    with pytest.raises(UserError, match=words):
        task.Parameters(**settings)


def test_a_dataset_without_training_images_needs_another():
    source = made(["d", "e"], seed=0, planted=[])
    with pytest.raises(UserError, match="no training images"):
        task.measure(source, images(d="test", e="test"), task.Parameters())


def test_reruns_give_the_same_bytes():
    def written(frame: pl.DataFrame) -> bytes:
        buffer = io.BytesIO()
        frame.write_parquet(buffer)
        return buffer.getvalue()

    (_, first, parameters), (_, second, _) = searched(), searched()
    assert written(first) == written(second)
    tables = [task.summarise(found, parameters) for found in (first, second)]
    assert written(tables[0]) == written(tables[1])


# --- the figure ---------------------------------------------------------------------------------


def drawn(**options):
    _, found, parameters = searched()
    more = [
        found.filter(image_id="c").with_columns(image_id=pl.lit(f"c{number}"))
        for number in range(20)
    ]
    found = pl.concat([found, *more])
    table = pl.concat([keyed(task.summarise(found, parameters), model) for model in "pq"])
    settings = figure.Options(filter={"position": THIN} | options.pop("filter", {}), **options)
    return SimpleNamespace(
        spec=figure.draw(table, settings, Theme()).to_dict(),
        caption=figure.caption(table, settings),
        table=table,
    )


def test_lines_hold_the_test_scores_and_the_rule_the_chosen_threshold():
    result = drawn()
    panels = result.spec["vconcat"][0]["hconcat"]
    held = [
        [result.spec["datasets"][layer["data"]["name"]] for layer in panel["layer"]]
        for panel in panels
    ]
    assert [one[-1] for one in held] == [[{"heading": "p"}], [{"heading": "q"}]]
    values = held[0]
    points = values[2]
    expected = result.table.filter(model="p", position=THIN, split="test")
    assert sorted((p["series"], p["x"], p["value"]) for p in points) == sorted(
        expected.select("score", "threshold", "value").rows()
    )
    assert values[3] == [{"x": expected.filter("chosen")["threshold"][0]}]
    places = [end["at"] for end in values[-2]]
    assert np.diff(sorted(places)).min() >= 13 - 1e-9
    assert 0 <= min(places) <= max(places) <= 200


def test_the_caption_says_what_there_was_to_find():
    text = drawn().caption
    assert "test split" in text
    assert "p, up[1] res[2]: 3 anomalous tokens in 3 images, prototype of 2 patches" in text
    assert "dashed at the threshold 0." in text


def test_bars_are_the_published_counts():
    result = drawn(form="counts", y_title="tokens")
    panel = result.spec["vconcat"][0]["hconcat"][0]
    held = [result.spec["datasets"][layer["data"]["name"]] for layer in panel["layer"]]
    bars = {(bar["x"], bar["series"]): (bar["from"], bar["value"]) for bar in held[0]}
    rows = result.table.filter(model="p", position=THIN, split="test", score="F1")
    assert len(bars) == 3 * len(rows)
    for threshold, true, false, missed in rows.select("threshold", *task.COUNTS).rows():
        assert bars[threshold, "true positives"] == (0, true)
        assert bars[threshold, "false positives"] == (true, true + false)
        assert bars[threshold, "false negatives"] == (0, -missed)
        assert true + missed == 3
    assert "in the form of figure 23" in result.caption


def test_several_positions_on_one_line_are_an_error():
    with pytest.raises(UserError, match="position"):
        drawn(filter={"position": [THIN, DOUBLE]})
