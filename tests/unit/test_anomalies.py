import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from reprscope import anomalies, specs
from reprscope.anomalies import Detection
from reprscope.coordinates import Affine
from reprscope.errors import UserError
from reprscope.metrics import ratios
from reprscope.provenance import file_digest
from reprscope.store import Representations, writer
from reprscope.study import parse, read
from reprscope.tasks import anomalies as task
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
    with pytest.raises(UserError, match="bootstrap"):
        task.Parameters(bootstrap=0)


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


def test_the_digest_of_a_file_follows_its_bytes(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("a")
    first = file_digest(path)
    path.write_text("b")
    assert file_digest(path) != first
    path.write_text("a")
    assert file_digest(path) == first


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
    table = task.summarise(found, task.Parameters(bootstrap=100)).filter(group="anomalies")
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
    table = task.summarise(found, task.Parameters(bootstrap=50))
    none = table.filter(group="anomalies")
    assert none["patches"].unique().to_list() == [0]
    assert none["relative_norm"].null_count() == len(none)
    assert table.filter(group="highest norm")["relative_norm"].null_count() == 0
    said = task.findings(keyed(table)).sentences
    assert said[0].startswith("No token of toy in up[1] res[2] at t = 50")
    assert "in 4 images" in said[0]
    assert said[1].startswith("The token of the highest norm of each image of toy")


def keyed(table: pl.DataFrame) -> pl.DataFrame:
    keys = {"task": "t", "dataset": "d", "view": "identity", "model": "toy", "resolution": 64}
    keys |= {"prompt": "empty", "timestep": 50, "seed": 0, "protocol": "standard"}
    return table.select(*(pl.lit(v).alias(k) for k, v in keys.items()), pl.all())


def test_findings_say_how_many_and_where():
    found = task.measure(features(planted=PLANTED), NOTHING, task.Parameters())
    table = task.summarise(found, task.Parameters(bootstrap=50))
    result = task.findings(keyed(table))
    assert result.sentences[0].startswith("3 anomalous patches (1.56 %) in 2 of 4 images")
    assert result.table["position"][0].startswith("up_blocks.1")
    best = table.filter(group="anomalies")["relative_norm"].max()
    assert f"{best:.2f} [" in result.sentences[0]


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
    tables = [task.summarise(first, task.Parameters(bootstrap=50)) for _ in range(2)]
    assert written(tables[0]) == written(tables[1])


def test_features_that_are_not_finite_are_named():
    made = features()
    made.grids["conv_in"]["b"][1, 2, 3] = np.nan
    with pytest.raises(UserError, match="'b' at conv_in are not finite"):
        task.measure(made, NOTHING, task.Parameters())


# --- intervals ----------------------------------------------------------------------------------


def test_ratios_equal_resampling_written_out():
    rng = np.random.default_rng(5)
    numerator, denominator = rng.poisson(2, (30, 3)), rng.poisson(1, (30, 3))
    denominator[:, 2] = 0
    found = ratios(numerator, denominator, replicates=400, seed=3)
    drawn = np.random.default_rng(3).integers(30, size=(400, 30))
    for column in (0, 1):
        sums = [(numerator[d, column].sum(), denominator[d, column].sum()) for d in drawn]
        values = [top / bottom for top, bottom in sums if bottom]
        expected = np.quantile(values, [0.025, 0.975])
        np.testing.assert_allclose([found.low[column], found.high[column]], expected)
        total = numerator[:, column].sum() / denominator[:, column].sum()
        assert found.value[column] == pytest.approx(total)
    assert np.isnan([found.value[2], found.low[2], found.high[2]]).all()
