import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from reprscope.measures import anomalies
from reprscope.measures.anomalies import Detection
from reprscope.plan import specs
from reprscope.plan.parse import parse
from reprscope.plan.read import read
from reprscope.representations.coordinates import Affine
from reprscope.representations.store import Representations, writer
from reprscope.runtime.errors import UserError
from reprscope.tasks import anomalies as task
from scipy import stats
from support.fakes import FakeAnnotations, FakeRepresentations

ROOT = Path(__file__).parents[2]
NAMES = ("c", "a", "b", "d")


def features(*, seed: int = 0, planted=(), channels: int = 24) -> FakeRepresentations:
    """Gaussian maps of four layers; ``planted`` are (image, row, col, factor) on the 8 x 6 grid.

    The anomalies arise in the first layer of up[1] and double behind its upsampler; they are
    absent in conv_in, and half of their factor remains in mid_block.
    """
    rng = np.random.default_rng(seed)
    grids = {
        "conv_in": (32, 24),
        "mid_block": (4, 3),
        "up_blocks.1.resnets.2": (8, 6),
        "up_blocks.1.upsamplers.0": (16, 12),
    }
    made = {
        position: {name: rng.normal(size=(*grid, channels)) for name in NAMES}
        for position, grid in grids.items()
    }
    for name, row, col, factor in planted:
        made["up_blocks.1.resnets.2"][name][row, col] *= factor
        made["up_blocks.1.upsamplers.0"][name][2 * row : 2 * row + 2, 2 * col : 2 * col + 2] *= (
            factor
        )
    return FakeRepresentations(made)


# --- detection ----------------------------------------------------------------------------------


def test_planted_anomalies_are_found_exactly_and_in_order():
    planted = [("a", 7, 5, 4.0), ("a", 0, 3, 4.0), ("d", 2, 2, 3.0)]
    found = anomalies.find(features(planted=planted), Detection(), NAMES, kind="anomalies")
    assert found.schema == anomalies.PATCHES
    assert found.select("image_id", "row", "col").rows() == [("a", 0, 3), ("a", 7, 5), ("d", 2, 2)]
    assert found.select("height", "width").unique().rows() == [(8, 6)]
    assert (found["score"] > 6).all()


def test_patches_behind_the_upsampler_are_found_on_pooled_norms():
    planted = [("a", 7, 5, 4.0), ("d", 2, 2, 3.0)]
    behind = Detection(detect="up[1] upsample", pool=2)
    found = anomalies.find(features(planted=planted), behind, NAMES, kind="anomalies")
    assert found.select("image_id", "row", "col", "height", "width").rows() == [
        ("a", 7, 5, 8, 6),
        ("d", 2, 2, 8, 6),
    ]
    with pytest.raises(UserError, match="3 x 4 tokens cannot be pooled by 2"):
        anomalies.find(features(), Detection(detect="mid", pool=2), NAMES, kind="anomalies")


@pytest.mark.parametrize("channels", [4, 32, 320])
@pytest.mark.parametrize("grid", [(8, 8), (16, 16)])
def test_gaussian_features_hold_no_anomalies(channels, grid):
    rng = np.random.default_rng(channels + grid[0])
    squares = rng.chisquare(channels, size=(10_000, *grid))
    found = [anomalies.anomalous(norms, threshold=6, ratio=1.5) for norms in np.sqrt(squares)]
    assert np.sum(found) <= 1


def test_scores_are_robust_deviations_of_logarithms():
    norms = np.exp([[0.0, 1.0, 2.0], [3.0, 40.0, 1.5]])
    # Median 1.75; deviations 1.75, 0.75, 0.25, 1.25, 38.25, 0.25, of which the median is 1.
    expected = (np.log(norms) - 1.75) / 1.4826
    np.testing.assert_allclose(anomalies.scores(norms), expected)
    np.testing.assert_allclose(anomalies.scores(norms * 1000), expected)


def test_both_conditions_must_hold():
    rng = np.random.default_rng(0)
    even = 1 + 1e-3 * rng.normal(size=(16, 16))
    even[3, 4] = 1.06
    assert anomalies.scores(even)[3, 4] > 30
    assert not anomalies.anomalous(even, threshold=6, ratio=1.5).any()
    assert anomalies.anomalous(even, threshold=6, ratio=1.05).sum() == 1
    uneven = np.exp(rng.normal(size=(16, 16)))
    assert (uneven > 1.5).any()
    assert not anomalies.anomalous(uneven, threshold=6, ratio=1.5).any()
    for flat in (np.zeros((4, 4)), np.full((4, 4), 7.0)):
        assert not anomalies.anomalous(flat, threshold=6, ratio=1.0).any()
    flat[1, 1] = 14
    assert np.argwhere(anomalies.anomalous(flat, threshold=6, ratio=1.5)).tolist() == [[1, 1]]


def test_a_position_that_is_not_stored_is_named():
    with pytest.raises(UserError, match=r"detected at up_blocks\.2, which is not in the same"):
        anomalies.find(features(), Detection(detect="up[2]"), NAMES, kind="anomalies")
    with pytest.raises(UserError, match="set `detect`"):
        anomalies.find(features(), Detection(detect=None), NAMES, kind="anomalies")


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"pool": 0}, "pool"), ({"threshold": 0}, "threshold"), ({"ratio": -1}, "ratio")],
)
def test_unusable_settings_are_named(settings, words):
    with pytest.raises(UserError, match=words):
        Detection(**settings)
    for thresholds in ((0.0,), (3.0, 3.0), ("a",)):
        with pytest.raises(UserError, match="thresholds"):
            task.Parameters(thresholds=thresholds)


# --- patches on other grids ---------------------------------------------------------------------


@pytest.mark.parametrize(("count", "grid"), [(8, 16), (8, 8), (8, 4), (15, 8), (7, 64), (5, 1)])
def test_overlap_equals_counting_fine_pixels(count, grid):
    fine = count * grid
    cells = np.arange(fine) * grid // fine
    for index in range(count):
        inside = cells[np.arange(fine) * count // fine == index]
        expected = np.bincount(inside, minlength=grid) / len(inside)
        np.testing.assert_allclose(
            anomalies.overlap(np.array([index]), count, grid)[0], expected, atol=1e-12
        )


@pytest.mark.parametrize("grid", [(8, 6), (16, 12), (4, 3), (5, 7)])
def test_means_of_patches_equal_a_loop_over_fine_pixels(grid):
    values = np.random.default_rng(0).normal(size=(*grid, 3))
    patches = pl.DataFrame(
        [("a", 2, 5, 8, 6, None), ("a", 7, 0, 8, 6, None)], anomalies.PATCHES, orient="row"
    )
    rows, cols = 8 * grid[0], 6 * grid[1]
    fine = values.repeat(rows // grid[0], axis=0).repeat(cols // grid[1], axis=1)
    blocks = fine.reshape(8, grid[0], 6, grid[1], 3).mean(axis=(1, 3))
    np.testing.assert_allclose(
        anomalies.patch_means(values, patches), [blocks[2, 5], blocks[7, 0]], atol=1e-12
    )


def test_covered_tokens_by_hand():
    patches = pl.DataFrame([("a", 1, 2, 4, 4, None)], anomalies.PATCHES, orient="row")
    assert np.argwhere(anomalies.covered(patches, (4, 4))).tolist() == [[1, 2]]
    assert np.argwhere(anomalies.covered(patches, (8, 8))).tolist() == [
        [2, 4],
        [2, 5],
        [3, 4],
        [3, 5],
    ]
    assert np.argwhere(anomalies.covered(patches, (2, 2))).tolist() == [[0, 1]]
    # Patch rows 1/4 to 1/2, tokens of a third: it has 1/12 in the first and 1/6 in the second.
    assert np.argwhere(anomalies.covered(patches, (3, 4))).tolist() == [[1, 2]]


# --- labels -------------------------------------------------------------------------------------


def write_labels(path, rows, *, provenance="0123456789abcdef", grid="6x8"):
    frame = pl.DataFrame(
        [(name, x, y, grid, provenance) for name, x, y in rows],
        schema=["image_id", "x", "y", "grid", "provenance"],
        orient="row",
    )
    frame.write_parquet(path) if path.suffix == ".parquet" else frame.write_csv(path)
    return str(path)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_labels_take_the_place_of_detection(tmp_path, suffix):
    path = write_labels(tmp_path / f"labels.{suffix}", [("b", 5, 7), ("a", 1, 0), ("b", 0, 2)])
    found = anomalies.find(features(), Detection(labels=path), ["b", "a"], kind="anomalies")
    assert found.schema == anomalies.PATCHES
    assert found.select("image_id", "col", "row", "height", "width").rows() == [
        ("b", 0, 2, 8, 6),
        ("b", 5, 7, 8, 6),
        ("a", 1, 0, 8, 6),
    ]
    assert found["score"].null_count() == 3
    assert Detection(labels=path).files == [path]


def test_a_provenance_of_digits_stays_text(tmp_path):
    path = write_labels(tmp_path / "labels.csv", [("b", 5, 7)], provenance="0000000000000012")
    made = features()
    made.origin = "0000000000000012"
    assert len(anomalies.find(made, Detection(labels=path), NAMES, kind="anomalies")) == 1


def test_labels_made_under_other_settings_are_refused(tmp_path):
    path = write_labels(tmp_path / "labels.csv", [("b", 5, 7)], provenance="feedfeedfeedfeed")
    with pytest.raises(UserError, match=r"labels representations feed.*, but these are 0123"):
        anomalies.find(features(), Detection(labels=path), NAMES, kind="anomalies")


@pytest.mark.parametrize(
    ("row", "grid", "words"),
    [
        (("nobody", 0, 0), "6x8", "'nobody', which has no features"),
        (("a", 6, 0), "6x8", "image 'a' that is not a token"),
        (("a", 0, -1), "6x8", "image 'a' that is not a token"),
        (("a", 0, 0), "6", "that is not a token"),
    ],
)
def test_labels_of_tokens_that_are_not_there_are_named(tmp_path, row, grid, words):
    path = write_labels(tmp_path / "labels.csv", [("b", 1, 1), row], grid=grid)
    with pytest.raises(UserError, match=words):
        anomalies.find(features(), Detection(labels=path), NAMES, kind="anomalies")


def test_unreadable_labels_are_named(tmp_path):
    bad = tmp_path / "labels.csv"
    bad.write_text("image_id,x,y\na,1,2\n")
    for path, words in ((bad, "has no column grid"), (tmp_path / "none.csv", "cannot be read")):
        with pytest.raises(UserError, match=words):
            anomalies.find(features(), Detection(labels=str(path)), NAMES, kind="anomalies")
    two = pl.concat(
        [
            pl.read_csv(write_labels(tmp_path / f"{grid}.csv", [("a", 1, 1)], grid=grid))
            for grid in ("6x8", "12x16")
        ]
    )
    two.write_csv(bad)
    with pytest.raises(UserError, match="image 'a' on two grids"):
        anomalies.find(features(), Detection(labels=str(bad)), NAMES, kind="anomalies")


def test_origin_follows_what_values_depend_on_and_nothing_else(tmp_path):
    def origin(number: int, spec: dict, provenance: dict) -> str:
        import json

        with writer(
            tmp_path / f"{number}.h5", spec=json.dumps(spec), provenance=provenance
        ) as store:
            store.append(["a"], [(8, 8)], [Affine()], {"mid_block": np.ones((1, 2, 2, 3))})
        with Representations([tmp_path / f"{number}.h5"]) as opened:
            return opened.origin

    spec = {"code": "1", "positions": ["mid"], "store": "tokens", "timestep": 50, "seed": 0}
    made = {
        "model": "m",
        "device": "cuda:0",
        "precision": "float16",
        "latents": "l",
        "versions": {"torch": "2", "polars": "1"},
    }
    first = origin(0, spec, made)
    same = (
        (spec | {"code": "2", "positions": ["up"], "store": "mean", "shard": "1of2"}, made),
        (spec, made | {"device": "cuda:1", "positions": ["up"]}),
        (spec, made | {"versions": {"torch": "2", "polars": "2"}}),
    )
    other = (
        (spec | {"timestep": 51}, made),
        (spec | {"seed": 1}, made),
        (spec, made | {"model": "n"}),
        (spec, made | {"device": "cpu"}),
        (spec, made | {"precision": "float32"}),
        (spec, made | {"latents": "k"}),
        (spec, made | {"versions": {"torch": "3", "polars": "1"}}),
    )
    assert all(origin(1 + n, *case) == first for n, case in enumerate(same))
    found = {origin(10 + n, *case) for n, case in enumerate(other)}
    assert len(found) == len(other)
    assert first not in found


def test_a_measurement_follows_what_its_label_file_holds(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    path = tmp_path / "labels.csv"
    config = read(ROOT / "tests/small.yaml")
    config["tasks"]["norms"] = {"kind": "anomalies", "detect": "up[1]", "labels": str(path)}
    config["experiments"] = [
        config["experiments"][1] | {"tasks": ["norms"], "figures": [], "timesteps": [50]}
    ]
    with pytest.raises(UserError, match=r"tasks\.norms: there is no file .*labels\.csv"):
        parse(config)
    wildcards = {"task": "norms", "dataset": "creatures", "protocol": "standard"}
    made = []
    for text in ("a", "b", "a"):
        path.write_text(text)
        made.append(specs.evaluate(parse(config), wildcards))
    assert made[0] == made[2] != made[1]


def test_positions_that_are_compared_come_from_one_hook_set(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = read(ROOT / "tests/small.yaml")
    config["hooksets"]["layers"] = {"positions": ["mid", "up[*]", "up[1] res[*]"]}
    config["tasks"]["norms"] = {"kind": "anomalies"}
    experiment = config["experiments"][1] | {"figures": [], "tasks": ["norms"]}
    found = []
    for positions in (["mid"], ["mid", "up[1] res[2]"], ["up[1] res[2]"]):
        study = parse(config | {"experiments": [experiment | {"positions": positions}]})
        found.append(study.hooksets_of(next(iter(study.experiments.values())), "nano-sd"))
    assert found == [["blocks"], ["layers"], ["layers"]]


# --- the task -----------------------------------------------------------------------------------

PLANTED = [("a", 7, 5, 4.0), ("a", 0, 3, 4.0), ("d", 2, 2, 3.0)]
NOTHING = FakeAnnotations(pl.DataFrame())


def loop(made, position, image, row, col) -> float:
    """Relative norm of an 8 x 6 patch, token by token."""
    tokens = made.grids[position][image]
    norms = np.linalg.norm(tokens, axis=-1)
    height, width = norms.shape
    if height >= 8:
        step = height // 8
        inside = norms[row * step : (row + 1) * step, col * step : (col + 1) * step]
    else:
        inside = norms[row * height // 8, col * width // 6]
    return float(np.mean(inside) / norms.mean())


def test_relative_norms_equal_a_loop_and_peak_where_planted():
    made = features(planted=PLANTED)
    found = task.measure(made, NOTHING, task.Parameters())
    rows = found.filter(group="anomalies")
    assert len(rows) == len(made.positions) * len(PLANTED)
    for row in rows.iter_rows(named=True):
        expected = loop(made, row["position"], row["image_id"], row["row"], row["col"])
        assert row["relative_norm"] == pytest.approx(expected, rel=1e-6)
    table = task.summarise(found, task.Parameters()).filter(group="anomalies")
    assert table["position"].to_list() == made.positions
    means = dict(table.select("position", "relative_norm").iter_rows())
    assert means["conv_in"] == pytest.approx(1, abs=0.2)
    assert means["up_blocks.1.resnets.2"] > 2.5
    for position in made.positions:
        expected = np.mean([loop(made, position, *patch[:3]) for patch in PLANTED])
        assert means[position] == pytest.approx(expected, rel=1e-6)
    counts = table.row(0, named=True)
    assert (counts["images"], counts["all_images"], counts["patches"]) == (2, 4, 3)
    assert counts["image_share"] == 0.5
    assert counts["patch_share"] == pytest.approx(3 / (4 * 48))
    assert counts["detected"] == "up_blocks.1.resnets.2"


def test_the_token_of_the_highest_norm_stands_beside_the_anomalies():
    made = features(planted=PLANTED)
    found = task.measure(made, NOTHING, task.Parameters())
    rows = found.filter(group="highest norm", position="up_blocks.1.resnets.2")
    assert sorted(rows["image_id"]) == sorted(NAMES)
    for row in rows.iter_rows(named=True):
        norms = np.linalg.norm(made.grids[row["position"]][row["image_id"]], axis=-1)
        assert norms[row["row"], row["col"]] == norms.max()
        assert row["relative_norm"] == pytest.approx(norms.max() / norms.mean(), rel=1e-6)


def test_a_model_without_anomalies_is_reported_as_found():
    found = task.measure(features(), NOTHING, task.Parameters())
    table = task.summarise(found, task.Parameters())
    none = table.filter(group="anomalies")
    assert none["patches"].unique().to_list() == [0]
    assert none["relative_norm"].null_count() == len(none)
    assert table.filter(group="highest norm")["relative_norm"].null_count() == 0
    said = task.findings(keyed(table)).sentences
    assert said[0] == "No token of toy at t = 50 (d) stands out in up[1] res[2], in 4 images."
    assert said[1].startswith(
        "The mean norm of the token of the highest norm of each image is high"
    )


def keyed(table: pl.DataFrame) -> pl.DataFrame:
    keys = {"task": "t", "dataset": "d", "view": "identity", "model": "toy", "resolution": 64}
    keys |= {"prompt": "empty", "timestep": 50, "seed": 0, "protocol": "standard"}
    return table.select(*(pl.lit(v).alias(k) for k, v in keys.items()), pl.all())


def many(*, planted: int, images: int = 30, seed: int = 0, spread: float = 0.0):
    """Maps of one layer with tokens of four times the norm in the first ``planted`` images."""
    rng = np.random.default_rng(seed)
    names = [f"i{number:02d}" for number in range(images)]
    maps = {name: rng.normal(size=(8, 8, 24)) for name in names}
    for number, name in enumerate(names):
        # Norms that scatter alike in both directions.
        maps[name] *= np.exp(spread * rng.normal(size=(8, 8, 1)))
        if number < planted:
            maps[name][number % 8, 3] *= 4
    return FakeRepresentations({"up_blocks.1.resnets.2": maps, "conv_in": maps})


def told(made, **settings):
    parameters = task.Parameters(**settings)
    table = task.summarise(task.measure(made, NOTHING, parameters), parameters)
    return keyed(table), task.findings(keyed(table)).sentences


def test_findings_claim_anomalies_where_noise_does_not_explain_them():
    table, said = told(many(planted=9))
    row = table.filter(kind="share", chosen=True, score="above the median").row(0, named=True)
    assert row["value"] == pytest.approx(9 / (30 * 64))
    assert row["p"] == pytest.approx(0.5**9)
    assert said[0] == (
        "In up[1] res[2] of toy at t = 50 (d) 9 tokens "
        f"(0.469 % [{100 * row['low']:.3f}, {100 * row['high']:.3f}] of tokens) in 9 of 30 images "
        "stand out above the others of their map, 0 as far below: more than noise about a smooth "
        "map explains (sign test p = 0.002)."
    )
    assert said[1].startswith("Their mean norm is highest of 2 layers on these images in ")
    _, few = told(many(planted=4))
    assert few[0].endswith("noise about a smooth map may explain them (sign test p = 0.062).")
    assert not few[1].startswith("Their")


def test_what_scatters_alike_in_both_directions_is_no_anomaly():
    table, said = told(many(planted=0, spread=0.6, images=60), threshold=2.0)
    share = {
        row["score"]: row["value"] for row in table.filter(kind="share", chosen=True).to_dicts()
    }
    assert share["above the median"] > 0.01
    assert share["below the median"] == pytest.approx(share["above the median"], rel=0.3)
    assert "noise about a smooth map may explain them" in said[0]


def test_several_models_are_not_compared():
    table, said = told(many(planted=9))
    assert task.UNCALIBRATED not in said
    both = pl.concat([table, table.with_columns(model=pl.lit("other"))])
    assert task.findings(both).sentences[-1] == task.UNCALIBRATED
    # Nine images above and none below, tested twice.
    assert "sign test p = 0.004" in task.findings(both).sentences[0]


def test_standing_out_is_the_rule_and_its_mirror_image():
    rng = np.random.default_rng(0)
    norms = np.exp(rng.normal(size=(16, 16)))
    norms[0, 0] = 0
    levels = (0.5, 1.0, 2.0)
    above, _ = anomalies.standing_out(norms, levels, ratio=1.5)
    for number, level in enumerate(levels):
        assert above[number] == anomalies.anomalous(norms, threshold=level, ratio=1.5).sum()
    assert above[0] > above[2] > 0
    inverse = anomalies.standing_out(1 / norms[1:], levels, ratio=1.5)
    same = anomalies.standing_out(norms[1:], levels, ratio=1.5)
    np.testing.assert_array_equal(inverse, same[::-1])
    assert (anomalies.standing_out(np.zeros((3, 3)), levels, ratio=1.5) == 0).all()


def test_curves_fall_with_the_threshold_and_hold_the_rules_own():
    table, _ = told(many(planted=9), threshold=7)
    above = table.filter(kind="share", score="above the median").sort("threshold")
    assert above["threshold"].to_list() == [2, 3, 4, 5, 6, 7, 8, 10, 12, 16]
    assert above["value"].is_sorted(descending=True)
    assert above.filter("chosen")["threshold"].to_list() == [7]


def kappa_of(found, actual):
    """Cohen's kappa from its definition."""
    agree = np.mean(found == actual)
    chance = found.mean() * actual.mean() + (1 - found.mean()) * (1 - actual.mean())
    return (agree - chance) / (1 - chance)


def test_agreement_equals_its_definitions_token_by_token():
    rng = np.random.default_rng(1)
    actual = rng.random((40, 6, 6)) < 0.2
    found = np.where(rng.random(actual.shape) < 0.3, rng.random(actual.shape) < 0.3, actual)
    counts = np.array([anomalies.outcomes(f, a) for f, a in zip(found, actual, strict=True)])
    assert (counts.sum(axis=1) == 36).all()
    value, low, high = anomalies.agreement(counts)
    hits = (found & actual).sum()
    expected = [
        hits / found.sum(),
        hits / actual.sum(),
        hits / (found | actual).sum(),
        kappa_of(found, actual),
    ]
    np.testing.assert_allclose(value, expected)
    # The jackknife over images gives the same error of kappa.
    left = [
        kappa_of(np.delete(found, number, axis=0), np.delete(actual, number, axis=0))
        for number in range(40)
    ]
    error = np.sqrt(39 / 40 * np.square(left - np.mean(left)).sum())
    half = stats.t.ppf(0.975, 39) * error
    assert high[3] - value[3] == pytest.approx(half, rel=0.05)
    assert value[3] - low[3] == pytest.approx(half, rel=0.05)
    # Without any anomaly nothing can be told.
    assert np.isnan(anomalies.agreement(np.array([[0, 0, 0, 36]] * 8))).all()


def test_the_rules_agreement_with_labels_is_told(tmp_path):
    made = many(planted=9)
    # Two of the nine that stand out have no label, and one label is of another token.
    rows = [(f"i{number:02d}", 3, number % 8) for number in range(7)] + [("i20", 0, 0)]
    path = write_labels(tmp_path / "labels.csv", rows, grid="8x8")
    table, said = told(made, labels=path)
    row = {one["score"]: one for one in table.filter(kind="agreement", chosen=True).to_dicts()}
    assert row["precision"]["value"] == pytest.approx(7 / 9)
    assert row["recall"]["value"] == pytest.approx(7 / 8)
    assert row["IoU"]["value"] == pytest.approx(7 / 10)
    assert row["kappa"]["low"] < row["kappa"]["value"] < row["kappa"]["high"]
    assert said[0] == "8 anomalous patches were labelled in 8 of 30 images of toy at t = 50 (d)."
    assert said[1].startswith(
        "At the threshold 6 the rule agrees with these labels by precision 77.8 %"
    )
    assert f"kappa {row['kappa']['value']:.2f} [" in said[1]
    assert "noise" not in " ".join(said)


@pytest.mark.parametrize(
    ("differences", "p"),
    [([1] * 5 + [0] * 5, 1 / 32), ([1] * 4 + [-2] * 2 + [0], 22 / 64), ([0] * 9, 1.0)],
)
def test_the_sign_test_counts_images_that_differ(differences, p):
    assert task.sign_test(differences) == pytest.approx(p)
    assert task.sign_test([1] * 5) is None


def test_labelled_patches_are_followed(tmp_path):
    path = write_labels(tmp_path / "labels.csv", [("b", 5, 7)])
    made = features()
    found = task.measure(made, NOTHING, task.Parameters(labels=path))
    rows = found.filter(group="anomalies")
    assert rows["detected"].unique().to_list() == ["labels"]
    for row in rows.iter_rows(named=True):
        expected = loop(made, row["position"], "b", 7, 5)
        assert row["relative_norm"] == pytest.approx(expected, rel=1e-6)
    assert found["provenance"].unique().to_list() == [made.origin]


def test_reruns_give_the_same_bytes_and_the_order_of_images_does_not_matter():
    def written(frame: pl.DataFrame) -> bytes:
        buffer = io.BytesIO()
        frame.write_parquet(buffer)
        return buffer.getvalue()

    made = features(planted=PLANTED)
    first = task.measure(made, NOTHING, task.Parameters())
    made.grids = {p: dict(reversed(grids.items())) for p, grids in made.grids.items()}
    assert written(task.measure(made, NOTHING, task.Parameters())) == written(first)
    tables = [task.summarise(first, task.Parameters()) for _ in range(2)]
    assert written(tables[0]) == written(tables[1])


def test_features_that_are_not_finite_are_named():
    made = features()
    made.grids["conv_in"]["b"][1, 2, 3] = np.nan
    with pytest.raises(UserError, match="'b' at conv_in are not finite"):
        task.measure(made, NOTHING, task.Parameters())
