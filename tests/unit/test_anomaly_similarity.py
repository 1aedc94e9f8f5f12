import numpy as np
import polars as pl
import pytest
from reprscope.measures.similarity import normalise
from reprscope.measures.statistics import dyadic_ratio
from reprscope.tasks import anomaly_similarity as task
from support.fakes import FakeAnnotations, FakeRepresentations

THIN, DOUBLE, COARSE = "up_blocks.1.resnets.2", "up_blocks.1.upsamplers.0", "up_blocks.0"
CHANNELS = 16
NOTHING = FakeAnnotations(pl.DataFrame())


def made(planted: dict[str, list[tuple[int, int]]], *, images: int, strength: float = 3.0, seed=0):
    """Gaussian maps; planted tokens have one direction, and one of their own for each corner."""
    rng = np.random.default_rng(seed)
    names = [f"i{number:02d}" for number in range(images)]
    common, corner = rng.normal(size=CHANNELS), rng.normal(size=(2, 2, CHANNELS))
    grids = {
        THIN: {name: rng.normal(size=(8, 6, CHANNELS)) for name in names},
        DOUBLE: {name: rng.normal(size=(16, 12, CHANNELS)) for name in names},
        COARSE: {name: rng.normal(size=(5, 4, CHANNELS)) for name in names},
    }
    for name, places in planted.items():
        for row, col in places:
            token = grids[THIN][name][row, col] + strength * common
            grids[THIN][name][row, col] = 30 * token / np.linalg.norm(token)
            patch = grids[DOUBLE][name][2 * row : 2 * row + 2, 2 * col : 2 * col + 2]
            patch += strength * (common + corner)
    return FakeRepresentations(grids)


PLANTED = {f"i{n:02d}": [(n % 8, n % 6)] + ([(7 - n % 8, 0)] if n % 3 else []) for n in range(12)}


def brute(representations, position, pairs):
    """Similarities of all pairs of tokens of different images, one by one."""
    grids = representations.grids[position]
    tokens = []
    for name, grid in grids.items():
        unit = normalise(grid.astype(np.float32)).astype(float)
        if pairs == "all tokens":
            tokens += [(name, 0, one) for one in unit.reshape(-1, CHANNELS)]
            continue
        for row, col in PLANTED.get(name, []):
            scale = grid.shape[0] // 8
            tokens += [
                (
                    name,
                    (y, x) if pairs == "same corner" else 0,
                    unit[row * scale + y, col * scale + x],
                )
                for y in range(scale)
                for x in range(scale)
            ]
    found = []
    for number, (name, corner, one) in enumerate(tokens):
        for other, other_corner, two in tokens[:number]:
            if name != other and corner == other_corner:
                found.append((name, other, one @ two))
    return found


@pytest.mark.parametrize("position", [THIN, DOUBLE])
@pytest.mark.parametrize("pairs", ["anomalies", "same corner"])
def test_means_and_errors_equal_those_of_all_pairs(position, pairs):
    representations = made(PLANTED, images=16)
    found = task.measure(representations, NOTHING, task.Parameters())
    table = task.summarise(found, task.Parameters())
    row = table.filter(position=position, compared=pairs).row(0, named=True)
    every = brute(representations, position, pairs)
    assert row["similarity"] == pytest.approx(np.mean([value for *_, value in every]), abs=1e-5)
    assert row["images"] == 12
    assert row["patches"] == sum(map(len, PLANTED.values()))
    # The dyadic error of the same pairs, which counts what a pair has of its own once, not twice.
    first, second, values = (np.array(column) for column in zip(*every, strict=True))
    by_image = (
        pl.DataFrame({"a": first, "b": second, "v": values})
        .group_by("a", "b")
        .agg(pl.col("v").sum(), n=pl.len())
    )
    estimate = dyadic_ratio(
        by_image["v"].to_numpy()[:, None],
        by_image["n"].to_numpy(),
        by_image["a"].to_numpy(),
        by_image["b"].to_numpy(),
    )
    half = float((estimate.interval().high - estimate.value)[0])
    assert row["high"] - row["similarity"] == pytest.approx(half, rel=0.25)


def test_all_tokens_are_compared_with_those_of_other_images():
    representations = made({}, images=4)
    found = task.measure(representations, NOTHING, task.Parameters())
    rows = found.filter(position=COARSE, compared="all tokens")
    every = brute(representations, COARSE, "all tokens")
    assert rows["count"].sum() == 2 * len(every)
    assert rows["similarity"].sum() == pytest.approx(2 * sum(v for *_, v in every), abs=1e-3)
    table = task.summarise(found, task.Parameters()).filter(compared="anomalies")
    assert table["similarity"].null_count() == len(table)
    assert table["patches"].to_list() == [0, 0, 0]


def keyed(table):
    keys = {"model": "toy", "dataset": "d", "timestep": 50}
    return table.with_columns(pl.lit(value).alias(key) for key, value in keys.items())


def test_a_direction_in_common_and_one_for_each_corner_are_found():
    representations = made(PLANTED, images=16)
    table = task.summarise(
        task.measure(representations, NOTHING, task.Parameters()), task.Parameters()
    )
    double = dict(table.filter(position=DOUBLE).select("compared", "similarity").rows())
    assert double["same corner"] > double["anomalies"] + 0.1 > double["all tokens"] + 0.3
    thin = dict(table.filter(position=THIN).select("compared", "similarity").rows())
    assert thin["same corner"] == thin["anomalies"]
    said = task.findings(keyed(table)).sentences
    assert said[0].startswith(
        "Anomalous tokens of different images resemble each other more than all tokens do in 2 of "
        "the 3 layers of toy (20 patches in 12 images of d, adjusted for 3 layers); the most of "
    )
    top = table.filter(compared="anomalies").sort("over_all")["position"][-1]
    assert ("at the same corner of a patch" in said[0]) == (top == DOUBLE)


def test_tokens_of_high_norm_without_a_direction_are_no_more_alike():
    wrong = 0
    for seed in range(40):
        representations = made(PLANTED, images=16, strength=0.0, seed=seed)
        table = task.summarise(
            task.measure(representations, NOTHING, task.Parameters()), task.Parameters()
        )
        assert table.filter(compared="anomalies")["patches"].to_list() == [20] * 3
        wrong += "in none of the 3 layers" not in task.findings(keyed(table)).sentences[0]
    # At most .07 of them; 7 of 40 are as likely as one in 100.
    assert wrong < 7


def test_few_anomalies_are_not_compared():
    representations = made({"i00": [(1, 1)], "i01": [(2, 2)]}, images=16)
    table = task.summarise(
        task.measure(representations, NOTHING, task.Parameters()), task.Parameters()
    )
    row = table.filter(position=THIN, compared="anomalies").row(0, named=True)
    assert row["similarity"] is not None
    assert row["low"] is row["p"] is None
    assert task.findings(keyed(table)).sentences == [
        "Anomalous tokens of toy are too few to compare: 2 patches in 2 images of d."
    ]


def test_neither_the_order_of_images_nor_other_positions_matter():
    representations = made(PLANTED, images=16)
    first = task.measure(representations, NOTHING, task.Parameters())
    representations.grids = {
        name: dict(reversed(images.items()))
        for name, images in representations.grids.items()
        if name != COARSE
    }
    second = task.measure(representations, NOTHING, task.Parameters())
    assert second.equals(first.filter(pl.col("position") != COARSE))
