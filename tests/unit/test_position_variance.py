import numpy as np
import polars as pl
import pytest
from reprscope.measures import patches, place_variance
from reprscope.runtime.errors import UserError
from reprscope.tasks import position_variance
from reprscope.tasks.position_variance import Parameters, measure, summarise
from support.fakes import FakeAnnotations, FakeRepresentations

SHAPE = (4, 6)
QUICK = Parameters(draws=999)
NAMES = [f"i{number:02}" for number in range(12)]


def smooth(rng, images, channels):
    """Tokens that resemble their neighbours and differ by image, without any effect of place."""
    coarse = rng.normal(size=(images, 2, 3, channels))
    own = rng.normal(size=(images, 1, 1, channels))
    spread = coarse.repeat(2, axis=1).repeat(2, axis=2)
    return spread + 2 * own + 0.1 * rng.normal(size=(images, *SHAPE, channels))


def planted(rng, images=12, channels=5, *, rows=0.0, columns=0.0):
    effect = rows * np.linspace(-1, 1, SHAPE[0])[:, None, None]
    effect = effect + columns * np.sin(np.arange(SHAPE[1]))[None, :, None]
    return smooth(rng, images, channels) + effect * np.ones(channels)


def fakes(tokens, pictures=None):
    """Representations and annotations of tokens (n, h, w, channels)."""
    names = NAMES[: len(tokens)]
    rng = np.random.default_rng(9)
    if pictures is None:
        pictures = rng.integers(0, 256, (len(names), 8, 12, 3), dtype=np.uint8)
    annotations = FakeAnnotations(
        pl.DataFrame({"image_id": names}), pictures=dict(zip(names, pictures, strict=True))
    )
    grids = {"mid_block": dict(zip(names, tokens, strict=True))}
    return FakeRepresentations(grids, dict.fromkeys(names, (12, 8))), annotations


def shares(tokens, pictures=None, parameters=QUICK):
    table = summarise(measure(*fakes(tokens, pictures), parameters), parameters)
    return {(row["removed"], row["axis"]): row for row in table.iter_rows(named=True)}


def test_the_shares_are_those_of_an_analysis_of_variance():
    """Written out with loops: the variance component of place, images being blocks, by channel."""
    rng = np.random.default_rng(0)
    tokens = planted(rng, rows=0.5, columns=0.8)
    found = shares(tokens)
    n, (h, w), channels = len(tokens), SHAPE, tokens.shape[-1]
    components = dict.fromkeys(("row", "column", "place"), 0.0)
    total = 0.0
    for c in range(channels):
        maps = tokens[..., c]
        levels = {
            "row": maps.mean(axis=2),
            "column": maps.mean(axis=1),
            "place": maps.reshape(n, h * w),
        }
        for axis, table in levels.items():
            count = table.shape[1]
            grand, by_image, by_level = table.mean(), table.mean(axis=1), table.mean(axis=0)
            between = n * sum((m - grand) ** 2 for m in by_level) / (count - 1)
            rest = sum(
                (table[i, p] - by_image[i] - by_level[p] + grand) ** 2
                for i in range(n)
                for p in range(count)
            ) / ((n - 1) * (count - 1))
            # Variance over the places there are, not of places drawn from more.
            components[axis] += (between - rest) / n * (count - 1) / count
        means = maps.mean(axis=(1, 2))
        square_of_mean = means.mean() ** 2 - means.var(ddof=1) / n
        total += (maps**2).mean() - square_of_mean
    for axis, component in components.items():
        assert found["nothing", axis]["share"] == pytest.approx(component / total, rel=1e-5)


def test_planted_effects_are_found_with_their_size_and_nothing_where_there_is_none():
    rng = np.random.default_rng(1)
    effect = 2.0 * np.linspace(-1, 1, SHAPE[0])
    found = [shares(planted(rng, images=12, channels=40, rows=2.0)) for _ in range(5)]
    # Variance of a coarse cell, an image and a token: 1 + 4 + 0.01.
    truth = effect.var() / (effect.var() + 5.01)
    for axis, expected in (("row", truth), ("place", truth), ("column", 0.0)):
        values = [one["nothing", axis]["share"] for one in found]
        assert np.mean(values) == pytest.approx(expected, abs=0.02)
    for one in found:
        row = one["nothing", "row"]
        assert row["low"] < row["share"] < row["high"]
        assert row["p"] == 1 / 1000
        assert one["nothing", "row"]["images"] == 12


def test_without_an_effect_shares_are_0_on_average_and_the_test_is_wrong_one_time_in_twenty():
    """Although tokens resemble their neighbours."""
    values, wrong = [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        tokens = smooth(rng, 12, 3).astype(np.float32)
        found = place_variance.products(tokens)
        gram = found.axes["place"]
        estimate = place_variance.share(
            place_variance.others(gram), found.square, place_variance.others(found.mean)
        )
        values.append(estimate.value[0])
        wrong.append(place_variance.sign_flip_p(gram, draws=199, rng=rng) <= 0.05)
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(200)
    # 200 draws of 1 in 20: 17 or fewer in all but one of a hundred cases.
    assert sum(wrong) <= 17


def test_the_interval_is_the_jackknife_over_images():
    tokens = planted(np.random.default_rng(2), rows=1.0).astype(np.float32)
    found = shares(tokens)["nothing", "place"]
    left_out = np.array(
        [shares(np.delete(tokens, one, axis=0))["nothing", "place"]["share"] for one in range(12)]
    )
    error = np.sqrt(11 / 12 * np.square(left_out - left_out.mean()).sum())
    from scipy import stats

    assert found["high"] - found["share"] == pytest.approx(stats.t.ppf(0.975, 11) * error, rel=1e-4)


def test_what_colours_explain_is_removed():
    """Light falls from above: the tokens are a curve of the colours, and rows explain most."""
    rng = np.random.default_rng(3)
    light = np.linspace(200, 60, SHAPE[0])[:, None, None] + rng.normal(
        scale=20, size=(12, *SHAPE, 3)
    )
    pictures = np.clip(light, 0, 255).astype(np.uint8).repeat(2, axis=1).repeat(2, axis=2)
    seen = np.clip(light, 0, 255).astype(np.uint8) / 255
    mixed = np.concatenate([seen, seen[..., :2] * seen[..., 1:]], axis=-1)
    tokens = mixed @ rng.normal(size=(5, 8)) + 0.05 * rng.normal(size=(12, *SHAPE, 8))
    found = shares(tokens, pictures)
    assert found["nothing", "row"]["share"] > 0.3 and found["nothing", "row"]["p"] < 0.01
    assert abs(found["colours", "row"]["share"]) < 0.02
    # What is encoded beside it remains.
    rows = np.array([1, -1, 1, -1])[:, None, None] * np.ones(8)
    more = shares(tokens + rows, pictures)
    assert more["colours", "row"]["share"] > 0.3 and more["colours", "row"]["p"] < 0.01


def test_colours_of_patches_equal_loops():
    rng = np.random.default_rng(4)
    picture = rng.integers(0, 256, (9, 14, 3), dtype=np.uint8)
    found = patches.colours(picture, (3, 4))
    assert found.shape == (3, 4, patches.CHANNELS)
    for row in range(3):
        for col in range(4):
            part = picture[3 * row : 3 * row + 3, col * 14 // 4 : (col + 1) * 14 // 4] / 255
            single = np.concatenate([part.mean(axis=(0, 1)), part.std(axis=(0, 1))])
            products = [single[i] * single[j] for i in range(6) for j in range(i, 6)]
            np.testing.assert_allclose(found[row, col], [*single, *products], atol=1e-6)
    # More tokens than pixels: each has the pixel that it lies in.
    assert np.isfinite(patches.colours(picture[:2], (8, 4))).all()


def test_large_values_and_the_order_of_images_change_nothing():
    tokens = planted(np.random.default_rng(5), rows=1.0)
    first = measure(*fakes(tokens), QUICK)
    representations, annotations = fakes(tokens)
    grids = representations.grids["mid_block"]
    representations.grids["mid_block"] = dict(reversed(grids.items()))
    assert measure(representations, annotations, QUICK).equals(first)
    moved = shares(tokens + 1000)
    for key, row in shares(tokens).items():
        assert moved[key]["share"] == pytest.approx(row["share"], abs=1e-3)


def experiment(tokens, pictures=None):
    table = summarise(measure(*fakes(tokens, pictures), QUICK), QUICK)
    keys = {"dataset": "d", "model": "m", "timestep": 50}
    return table.select(*(pl.lit(v).alias(k) for k, v in keys.items()), pl.all())


def test_findings_describe_the_highest_and_count_effects():
    tokens = planted(np.random.default_rng(6), channels=12, rows=1.5)
    highest, known = position_variance.findings(experiment(tokens)).sentences
    assert "mid at t = 50, the highest of 1 on these 12 images" in highest
    assert "rows in 1 of 1 layers and columns in 0 of 1 layers" in known
    nothing = smooth(np.random.default_rng(7), 12, 12)
    assert "rows in 0 of 1 layers" in position_variance.findings(experiment(nothing)).sentences[1]
    few = experiment(tokens[:4])
    assert few["low"].null_count() == len(few)
    assert len(position_variance.findings(few).sentences) == 1


def test_mistakes_are_sentences():
    with pytest.raises(UserError, match="draws is 0"):
        Parameters(draws=0)
    tokens = planted(np.random.default_rng(8))
    with pytest.raises(UserError, match="2 images cannot"):
        measure(*fakes(tokens[:2]), QUICK)
    assert set(measure(*fakes(tokens), Parameters(draws=9, count=5))["image_id"].unique()) < set(
        NAMES
    )
    representations, annotations = fakes(tokens)
    representations.grids["mid_block"]["i03"] = np.ones((3, 6, 5))
    with pytest.raises(UserError, match=r"'i03' has 3 x 6 tokens.*4 x 6"):
        measure(representations, annotations, QUICK)
