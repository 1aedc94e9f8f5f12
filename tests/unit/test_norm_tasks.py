import io
import itertools

import numpy as np
import polars as pl
import pytest
from reprscope.runtime.errors import UserError
from reprscope.tasks import _samples, match_norms, norm_similarity, norms
from scipy import stats
from support.fakes import FakeAnnotations, FakeRepresentations

NAMES = ["d", "a", "c", "b"]
PLACE = (1, 2)
"""Where the images but for ``d`` have a token of a high norm, all in one direction."""


def made_study() -> tuple[FakeRepresentations, FakeAnnotations]:
    rng = np.random.default_rng(1)
    grids = {
        "conv_in": {name: rng.normal(size=(4, 6, 5)) for name in NAMES},
        "mid_block": {name: rng.normal(size=(2, 3, 9)) for name in NAMES},
    }
    anomaly = rng.normal(size=5)
    for name in "abc":
        grids["conv_in"][name][PLACE] = 50 * anomaly
    features = FakeRepresentations(grids, dict.fromkeys(NAMES, (48, 32)))
    images = pl.DataFrame({"image_id": NAMES, "split": ["train", "test", "test", "test"]})
    pictures = {name: rng.integers(0, 256, (32, 48, 3), dtype=np.uint8) for name in NAMES}
    return features, FakeAnnotations(images, pictures=pictures)


def reordered(features: FakeRepresentations) -> FakeRepresentations:
    grids = {p: dict(sorted(images.items())) for p, images in features.grids.items()}
    return FakeRepresentations(grids, features.sizes)


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        (norms, {"images": ("a",)}),
        (norm_similarity, {"tokens": 20, "bins": 7}),
        (match_norms, {"tokens": 20, "bins": 7}),
    ],
)
def test_results_are_the_same_bytes_whatever_the_order_of_images(task, settings):
    features, annotations = made_study()
    parameters = task.Parameters(**settings)

    def written(features: FakeRepresentations) -> bytes:
        buffer = io.BytesIO()
        frame = task.summarise(task.measure(features, annotations, parameters), parameters)
        frame.write_parquet(buffer)
        return buffer.getvalue()

    assert written(features) == written(reordered(features)) == written(features)


# --- norms --------------------------------------------------------------------------------------


def test_maps_means_and_statistics_of_norms_equal_loops():
    features, annotations = made_study()
    parameters = norms.Parameters(images=("c", "a"))
    found = norms.measure(features, annotations, parameters)
    for position, grids in features.grids.items():
        length = {name: np.sqrt((grid**2).sum(axis=-1)) for name, grid in grids.items()}
        rows = found.filter(position=position)
        for kind, image, expected in [
            ("map", "c", length["c"]),
            ("map", "a", length["a"]),
            ("mean", None, sum(length.values()) / 4),
        ]:
            chosen = rows.filter(pl.col("image_id").eq_missing(image), kind=kind)
            assert len(chosen) == expected.size
            for row, col, norm in chosen.select("row", "col", "norm").iter_rows():
                assert norm == pytest.approx(expected[row, col], rel=1e-6)
        for image, value in length.items():
            mine = rows.filter(image_id=image, kind="statistics")
            values = dict(mine.select("statistic", "value").iter_rows())
            assert values == pytest.approx(
                {
                    "mean": value.mean(),
                    "deviation": value.std() / value.mean(),
                    "highest": value.max() / value.mean(),
                }
            )
    assert found.filter(kind="mean")["images"].unique().to_list() == [4]
    pictures = found.filter(kind="image")
    assert pictures.select("image_id", "position").rows() == [("c", "image"), ("a", "image")]


def test_summary_of_norms_and_its_sentence():
    features, annotations = made_study()
    parameters = norms.Parameters(images=("a",))
    measured = norms.measure(features, annotations, parameters)
    table = norms.summarise(measured, parameters)
    kept = measured.filter(pl.col("kind") != "statistics")
    assert table.filter(pl.col("kind") != "statistics").equals(kept)
    values = measured.filter(position="conv_in", statistic="highest")["value"].to_numpy()
    row = table.row(
        by_predicate=(pl.col("position") == "conv_in") & (pl.col("statistic") == "highest"),
        named=True,
    )
    assert row["value"] == pytest.approx(values.mean())
    assert row["images"] == 4
    # Four images are too few for an interval.
    assert row["low"] is row["high"] is None
    more = [
        measured.filter(kind="statistics").with_columns(image_id=pl.col("image_id") + str(number))
        for number in range(2)
    ]
    row = norms.summarise(pl.concat(more), parameters).row(
        by_predicate=(pl.col("position") == "conv_in") & (pl.col("statistic") == "highest"),
        named=True,
    )
    expected = stats.ttest_1samp(np.tile(values, 2), 0).confidence_interval()
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high))
    told = norms.findings(table.with_columns(model=pl.lit("m"), timestep=pl.lit(50)))
    # The planted anomaly is the only token that stands out.
    assert told.sentences == [
        "m: the highest norm of a map, in units of its mean, is highest of 2 on these images in "
        f"conv-in at t = 50: {row['value']:.1f} on average over 4 images."
    ]


def test_images_of_different_grids_have_no_mean_map(caplog):
    features, annotations = made_study()
    features.grids["mid_block"]["d"] = np.ones((3, 3, 9))
    found = norms.measure(features, annotations, norms.Parameters())
    assert found.filter(kind="mean")["position"].unique().to_list() == ["conv_in"]
    assert "mid_block" in caplog.text


def test_a_map_of_zeros_has_no_relative_norms():
    features, annotations = made_study()
    features.grids = {"mid_block": {"a": np.zeros((2, 2, 3)), "b": np.ones((2, 2, 3))}}
    parameters = norms.Parameters()
    table = norms.summarise(norms.measure(features, annotations, parameters), parameters)
    highest = table.filter(statistic="highest").row(0, named=True)
    assert (highest["value"], highest["images"]) == (1.0, 1)


# --- samples ------------------------------------------------------------------------------------


def test_tokens_are_drawn_evenly_and_without_repetition():
    features, _ = made_study()
    samples = _samples.draw(features, "conv_in", NAMES, number=30, seed=0, kind="test")
    assert [sample.image for sample in samples] == NAMES
    for sample in samples:
        places = list(zip(sample.rows, sample.cols, strict=True))
        assert len(places) == len(set(places)) == 8
        grid = features.grids["conv_in"][sample.image]
        np.testing.assert_allclose(sample.tokens, [grid[place] for place in places], rtol=1e-6)
        np.testing.assert_allclose(
            sample.norms, [np.linalg.norm(grid[place]) for place in places], rtol=1e-6
        )
        assert sample.largest == pytest.approx(np.linalg.norm(grid, axis=-1).max(), rel=1e-6)
    alone = _samples.draw(features, "conv_in", ["c"], number=8, seed=0, kind="test")[0]
    np.testing.assert_array_equal(alone.tokens, samples[2].tokens)
    other = _samples.draw(features, "conv_in", ["c"], number=8, seed=1, kind="test")[0]
    assert not np.array_equal(other.tokens, alone.tokens)
    every = _samples.draw(features, "mid_block", ["a"], number=100, seed=0, kind="test")[0]
    assert len(every.norms) == 6


def test_the_histogram_equals_numpys_and_keeps_what_lies_beyond():
    rng = np.random.default_rng(2)
    x, y = rng.uniform(-1, 1, 500), rng.uniform(2, 9, 500)
    edges = np.linspace(-1, 1, 6), np.linspace(2, 9, 4)
    expected = np.histogram2d(y, x, bins=(edges[1], edges[0]))[0]
    found = _samples.histogram(x, y, x_edges=edges[0], y_edges=edges[1])
    np.testing.assert_array_equal(found, expected)
    beyond = _samples.histogram(
        np.array([-3.0, 3.0, 1.0]), np.full(3, 9.0), x_edges=edges[0], y_edges=edges[1]
    )
    assert beyond[-1].tolist() == [1, 0, 0, 0, 2]


# --- norm_similarity ----------------------------------------------------------------------------


def test_pairs_of_different_images_are_counted_with_their_own_norms():
    features, annotations = made_study()
    # All tokens of the small grid are drawn.
    parameters = norm_similarity.Parameters(tokens=24, bins=8)
    found = norm_similarity.measure(features, annotations, parameters).filter(position="mid_block")
    tokens = [
        (name, token)
        for name, grid in features.grids["mid_block"].items()
        for token in grid.reshape(-1, 9)
    ]
    similarity, mean_norm = [], []
    for (first, a), (second, b) in itertools.combinations(tokens, 2):
        if first != second:
            lengths = np.linalg.norm(a), np.linalg.norm(b)
            similarity.append(a @ b / lengths[0] / lengths[1])
            mean_norm.append(sum(lengths) / 2)
    norm = [np.linalg.norm(token) for _, token in tokens]
    counts, _, _ = np.histogram2d(
        similarity, mean_norm, bins=8, range=[(-1, 1), (min(norm), max(norm))]
    )
    width = (max(norm) - min(norm)) / 8
    cells = found.select(
        (pl.col("similarity") + 1) * 4, (pl.col("norm") - min(norm)) / width, "pairs"
    ).iter_rows()
    assert {(round(i), round(j)): pairs for i, j, pairs in cells} == {
        place: n for place, n in np.ndenumerate(counts) if n
    }
    assert found["pairs"].sum() == 6 * 6 * 6
    assert found["share"].sum() == pytest.approx(1)
    np.testing.assert_allclose(found["similarity_end"] - found["similarity"], 0.25)


def test_published_norms_are_those_of_the_transposed_pair():
    features, annotations = made_study()
    parameters = norm_similarity.Parameters(tokens=24, bins=8, norms="published")
    found = norm_similarity.measure(features, annotations, parameters).filter(position="mid_block")
    maps = [features.grids["mid_block"][name].reshape(-1, 9) for name in sorted(NAMES)]
    lengths = [np.linalg.norm(tokens, axis=1) for tokens in maps]
    similarity, mean_norm = [], []
    for a, b in itertools.combinations(range(4), 2):
        unit = maps[a] / lengths[a][:, None], maps[b] / lengths[b][:, None]
        similarity.append((unit[0] @ unit[1].T).ravel())
        # As the published code adds them: the transposed of what belongs to the similarities.
        mean_norm.append(((lengths[a][None, :] + lengths[b][:, None]) / 2).ravel())
    low, high = np.min(lengths), np.max(lengths)
    counts, _, _ = np.histogram2d(
        np.concatenate(similarity), np.concatenate(mean_norm), bins=8, range=[(-1, 1), (low, high)]
    )
    cells = found.select(
        (pl.col("similarity") + 1) * 4, (pl.col("norm") - low) / (high - low) * 8, "pairs"
    ).iter_rows()
    assert {(round(i), round(j)): pairs for i, j, pairs in cells} == {
        place: n for place, n in np.ndenumerate(counts) if n
    }


def test_transposed_pairs_need_images_of_one_size():
    features, annotations = made_study()
    features.grids["mid_block"]["a"] = features.grids["mid_block"]["a"][:1]
    parameters = norm_similarity.Parameters(tokens=24, norms="published")
    with pytest.raises(UserError, match="different numbers of tokens"):
        norm_similarity.measure(features, annotations, parameters)
    with pytest.raises(UserError, match="norms is 'both'"):
        norm_similarity.Parameters(norms="both")


@pytest.mark.parametrize("kind", ["own", "published"])
def test_blocks_of_the_pair_histogram_make_no_difference(monkeypatch, kind):
    features, annotations = made_study()
    parameters = norm_similarity.Parameters(tokens=40, bins=9, norms=kind)
    whole = norm_similarity.measure(features, annotations, parameters)
    monkeypatch.setattr(norm_similarity, "BLOCK", 7)
    assert norm_similarity.measure(features, annotations, parameters).equals(whole)


# --- match_norms --------------------------------------------------------------------------------


def test_matches_equal_a_search_through_all_other_images():
    features, annotations = made_study()
    found = match_norms.measure(features, annotations, match_norms.Parameters(tokens=20))
    assert found.filter(position="conv_in", sample="random").height == 20
    for row in found.iter_rows(named=True):
        grids = features.grids[row["position"]]
        token = grids[row["image_id"]][row["row"], row["col"]]
        others = {
            (name, *place): token
            @ grid[place]
            / np.linalg.norm(token)
            / np.linalg.norm(grid[place])
            for name, grid in grids.items()
            if name != row["image_id"]
            for place in np.ndindex(grid.shape[:2])
        }
        best = max(others.values())
        assert row["similarity"] == pytest.approx(best, abs=1e-6)
        # Several if it is one of the planted tokens, which are equally similar to all others.
        matches = [place for place, value in others.items() if value > best - 1e-6]
        assert (row["match_image_id"], row["match_row"], row["match_col"]) in matches
        for prefix in ("", "match_"):
            grid = grids[row[f"{prefix}image_id"]]
            length = np.linalg.norm(grid, axis=-1)
            expected = length[row[f"{prefix}row"], row[f"{prefix}col"]] / length.max()
            assert row[f"{prefix}norm"] == pytest.approx(expected, rel=1e-6)


def test_planted_tokens_of_a_high_norm_match_each_other():
    features, annotations = made_study()
    found = match_norms.measure(features, annotations, match_norms.Parameters())
    highest = found.filter(position="conv_in", sample="highest").filter(pl.col("image_id") != "d")
    columns = ["image_id", "row", "col", "norm", "match_image_id", "match_row", "match_col"]
    assert highest.select(columns).rows() == [
        ("a", *PLACE, 1.0, "b", *PLACE),
        ("b", *PLACE, 1.0, "a", *PLACE),
        ("c", *PLACE, 1.0, "a", *PLACE),
    ]
    np.testing.assert_allclose(highest["match_norm"], 1)
    np.testing.assert_allclose(highest["similarity"], 1, atol=1e-6)


def test_matches_are_counted_by_both_norms_and_correlated():
    rng = np.random.default_rng(4)
    x = rng.uniform(0, 1, 300)
    y = np.clip(x + rng.normal(size=300) * 0.2, 0, 1)
    matches = pl.DataFrame(
        {
            "position": "mid_block",
            "sample": "random",
            "image_id": [f"i{n % 30:02}" for n in range(300)],
            "match_image_id": [f"i{(n + 1 + n // 30) % 30:02}" for n in range(300)],
            "norm": x,
            "match_norm": y,
        }
    )
    parameters = match_norms.Parameters(bins=5)
    table = match_norms.summarise(matches, parameters)
    counts = np.histogram2d(x, y, bins=5, range=[(0, 1), (0, 1)])[0]
    cells = table.select("norm", "match_norm", "pairs").iter_rows()
    assert {(round(a * 5), round(b * 5)): n for a, b, n in cells} == {
        place: n for place, n in np.ndenumerate(counts) if n
    }
    row = table.row(0, named=True)
    expected = np.corrcoef(x, y)[0, 1]
    assert row["correlation"] == pytest.approx(expected)
    # Fisher's interval, for independent tokens.
    low, high = np.tanh(np.arctanh(expected) + np.array([-1.96, 1.96]) / np.sqrt(297))
    assert row["low"] == pytest.approx(low, abs=0.02)
    assert row["high"] == pytest.approx(high, abs=0.02)
    assert row["mean_match_norm"] == pytest.approx(y.mean())
    # Student's test of a correlation, for independent tokens.
    t = expected * np.sqrt(298 / (1 - expected**2))
    assert row["p"] < 1e-10 and t > 10
    keys = {"model": "m", "dataset": "d", "timestep": 0}
    table = table.with_columns(pl.lit(value).alias(key) for key, value in keys.items())
    (told,) = match_norms.findings(table).sentences
    assert "goes with that of its best match in another image in 1 of 1 tests" in told
    assert f"is {expected:.2f} [{row['low']:.2f}, {row['high']:.2f}], in mid at t = 0" in told
    # The test of 11 blocks of which this one has 0.01 does not find it.
    others = [table.with_columns(position=pl.lit(f"up_blocks.{i}"), p=0.5) for i in range(10)]
    table = pl.concat([table.with_columns(p=pl.lit(0.01)), *others])
    (told,) = match_norms.findings(table).sentences
    assert "shown in none of 11 tests" in told
    few = table.with_columns(pl.lit(None, pl.Float64).alias(name) for name in ("low", "high", "p"))
    (told,) = match_norms.findings(few).sentences
    assert "the highest of 11; 30 images are too few for an interval" in told
    same = matches.with_columns(sample=pl.lit("highest"), norm=pl.lit(1.0))
    assert match_norms.summarise(same, parameters)["correlation"].null_count() == len(
        match_norms.summarise(same, parameters)
    )
    flat = matches.with_columns(norm=pl.lit(0.3))
    assert match_norms.correlation(flat) is None


# --- settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "settings", "words"),
    [
        (norms, {"count": 0}, "count"),
        (norm_similarity, {"tokens": 1}, "tokens"),
        (norm_similarity, {"bins": 1.5}, "bins"),
        (match_norms, {"tokens": 0}, "tokens"),
        (match_norms, {"bins": 1}, "bins"),
    ],
)
def test_unusable_settings_are_named(task, settings, words):
    with pytest.raises(UserError, match=words):
        task.Parameters(**settings)


@pytest.mark.parametrize("task", [norm_similarity, match_norms])
def test_one_image_alone_is_an_error(task):
    features, annotations = made_study()
    features.grids = {"mid_block": {"a": np.ones((2, 2, 3))}}
    with pytest.raises(UserError, match="two or more"):
        task.measure(features, annotations, task.Parameters())


@pytest.mark.parametrize("task", [norms, norm_similarity, match_norms])
def test_features_that_are_not_finite_are_named(task):
    features, annotations = made_study()
    features.grids["mid_block"]["a"][1, 2, 3] = np.inf
    with pytest.raises(UserError, match="'a' at mid_block are not finite"):
        task.measure(features, annotations, task.Parameters())
