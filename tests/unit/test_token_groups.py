import itertools

import numpy as np
import polars as pl
import pytest
from reprscope import tasks
from reprscope.measures.similarity import cosine
from reprscope.representations.coordinates import Affine
from reprscope.runtime.errors import UserError
from reprscope.tasks import token_groups
from reprscope.tasks.token_groups import NAMES, Parameters, measure, similarities, summarise
from scipy import stats
from support.fakes import FakeAnnotations, FakeRepresentations

NOTHING = FakeAnnotations(pl.DataFrame())
SIDE = 64
IMAGES = ["b", "a", "c"]


def crop(whole: FakeRepresentations, size: int, **changes) -> FakeRepresentations:
    """Independent features of the images cut by ``size`` pixels on each side."""
    rng = np.random.default_rng(size)
    grids = {
        position: {
            image: rng.normal(
                size=(*(round(n * (1 - 2 * size / SIDE)) for n in grid.shape[:2]), grid.shape[2])
            )
            for image, grid in images.items()
        }
        for position, images in whole.grids.items()
    }
    cut = FakeRepresentations(
        grids,
        dict.fromkeys(whole.image_ids, (SIDE - 2 * size, SIDE - 2 * size)),
        dict.fromkeys(whole.image_ids, Affine(2.0, -size, 2.0, -size)),
    )
    for name, value in changes.items():
        setattr(cut, name, value)
    return cut


@pytest.fixture
def whole() -> FakeRepresentations:
    """Tokens of 8 px in conv_in and of 16 px in mid_block; images enlarged by two."""
    rng = np.random.default_rng(0)
    return FakeRepresentations(
        {
            "conv_in": {image: rng.normal(size=(8, 8, 5)) + 0.5 for image in IMAGES},
            "mid_block": {image: rng.normal(size=(4, 4, 6)) + 0.5 for image in IMAGES},
        },
        dict.fromkeys(IMAGES, (SIDE, SIDE)),
        dict.fromkeys(IMAGES, Affine(2.0, 0.0, 2.0, 0.0)),
    )


def run(whole, **changes):
    cuts = {"eight": crop(whole, 8), "sixteen": crop(whole, 16)} | changes
    return measure(whole, NOTHING, Parameters(crops=tuple(cuts)), companions=cuts), cuts


def brute_force(tokens: np.ndarray, first: str, second: str) -> float:
    """Mean over ordered pairs of different tokens, one pair at a time."""
    rows, cols = tokens.shape[:2]
    found: dict[str, list[tuple[int, int]]] = {"corner": [], "border": [], "other": []}
    for row, col in itertools.product(range(rows), range(cols)):
        at_row, at_col = row in (0, rows - 1), col in (0, cols - 1)
        name = "corner" if at_row and at_col else "border" if at_row or at_col else "other"
        found[name].append((row, col))
    values = [
        tokens[a] @ tokens[b] / np.linalg.norm(tokens[a]) / np.linalg.norm(tokens[b])
        for a in found[first]
        for b in found[second]
        if a != b
    ]
    return float(np.mean(values)) if values else np.nan


@pytest.mark.parametrize("grid", [(6, 6), (3, 5), (2, 2), (2, 4), (1, 1), (1, 4), (7, 3)])
def test_group_similarities_equal_a_loop_over_pairs_of_tokens(grid):
    tokens = np.random.default_rng(1).normal(size=(*grid, 4)) + 1
    expected = []
    for name in NAMES:
        first, _, second = name.partition(" and ")
        expected.append(brute_force(tokens, first, second or first))
    np.testing.assert_allclose(similarities(tokens, counts="exact"), expected, atol=1e-6)


def test_the_published_form_divides_by_the_counts_of_the_grid_with_its_ring():
    tokens = np.random.default_rng(2).normal(size=(6, 6, 4)) + 1
    matrix = cosine(tokens.reshape(36, 4), tokens.reshape(36, 4)).astype(np.float64)
    group = token_groups.groups_of(6, 6).ravel()
    # An 8 x 8 grid has 24 border tokens and 36 others; without its ring there are 16 of each.
    numbers = {0: 4, 1: 24, 2: 36}
    expected = []
    for i, j in token_groups.PAIRS:
        total = matrix[np.ix_(group == i, group == j)].sum()
        own = numbers[i] if i == j else 0
        expected.append((total - own) / (numbers[i] * numbers[j] - own))
    published = similarities(tokens, counts="published")
    np.testing.assert_allclose(published, expected, atol=1e-6)
    exact = similarities(tokens, counts="exact")
    assert published[0] == pytest.approx(exact[0])
    assert abs(published[3] - exact[3]) > 0.1

    # Published for SD-1.5, second resnet of mid, whose grid is 8 x 8: border 1.074, other 0.803.
    # With the tokens that there are, the same sums give 1.059 and 0.871.
    def corrected(value: float, number: int) -> float:
        return (value * number * (number - 1) + number - 16) / (16 * 15)

    assert corrected(published[3], 24) == pytest.approx(exact[3])
    assert corrected(published[5], 36) == pytest.approx(exact[5])
    assert corrected(0.06114, 24) / corrected(0.056903, 24) == pytest.approx(1.059, abs=1e-3)
    assert corrected(0.024383, 36) / corrected(0.03037, 36) == pytest.approx(0.871, abs=1e-3)


def test_zero_tokens_are_similar_to_nothing():
    tokens = np.zeros((3, 3, 2))
    tokens[0, 0] = tokens[2, 2] = 1
    # Of the twelve ordered pairs of corners, two are equal and the rest zero.
    assert similarities(tokens, counts="exact")[0] == pytest.approx(2 / 12)


def test_every_layer_takes_the_cut_by_one_of_its_tokens(whole):
    found, cuts = run(whole)
    sizes = found.select("position", "token_size", "rows", "cols").unique(maintain_order=True)
    assert sizes.rows() == [("conv_in", 8, 6, 6), ("mid_block", 16, 2, 2)]
    for position, view in [("conv_in", "eight"), ("mid_block", "sixteen")]:
        for image in IMAGES:
            rows = found.filter(position=position, image_id=image)
            for column, tokens in [
                ("cropped_image", cuts[view].grids[position][image]),
                ("cropped_representation", whole.grids[position][image][1:-1, 1:-1]),
            ]:
                expected = [
                    None if np.isnan(v) else v for v in similarities(tokens, counts="exact")
                ]
                assert rows[column].to_list() == pytest.approx(expected, nan_ok=True)
    # Nothing is read of cuts that a layer does not need.
    assert {position for position, _ in cuts["sixteen"].reads} == {"mid_block"}
    assert len(found) == 2 * len(IMAGES) * 6
    assert (
        not found.filter(position="mid_block", groups="border")["cropped_image"].is_not_null().any()
    )


def test_corners_that_are_equal_only_after_the_cut_are_found(whole):
    cut = crop(whole, 8)
    same = np.random.default_rng(5).normal(size=5)
    for grid in cut.grids["conv_in"].values():
        grid[:: grid.shape[0] - 1, :: grid.shape[1] - 1] = same
    found, _ = run(whole, eight=cut)
    # Two more images like each, as fewer than six give no interval.
    more = [found.with_columns(image_id=pl.col("image_id") + str(number)) for number in range(3)]
    assert summarise(found, Parameters())["p"].is_null().all()
    found = pl.concat(more)
    table = summarise(found, Parameters())
    corner = table.row(
        by_predicate=(pl.col("groups") == "corner") & (pl.col("token_size") == 8), named=True
    )
    assert corner["cropped_image"] == pytest.approx(1)
    assert corner["relative"] == pytest.approx(1 / corner["cropped_representation"])
    assert 1 < corner["low"] <= corner["relative"] <= corner["high"]
    part = found.filter(position="conv_in").pivot(
        on="groups", index="image_id", values=["cropped_image", "cropped_representation"]
    )
    gains = (
        part["cropped_image_corner"]
        - part["cropped_representation_corner"]
        - part["cropped_image_other"]
        + part["cropped_representation_other"]
    ).to_numpy()
    test = stats.ttest_1samp(gains, 0, alternative="greater")
    both = stats.ttest_1samp(gains, 0).confidence_interval()
    assert corner["gain"] == pytest.approx(gains.mean())
    assert (corner["gain_low"], corner["gain_high"]) == pytest.approx((both.low, both.high))
    assert corner["p"] == pytest.approx(test.pvalue)
    told = token_groups.findings(table.with_columns(model=pl.lit("m"), timestep=pl.lit(50)))
    assert told.sentences == [
        "The corners of an image gain more similarity to each other from lying at its border than "
        "its inner tokens in 1 of one layer of m (paired over 9 images); the highest of these is "
        f"{corner['relative']:.2f} times as much as away from the border, in conv-in at t = 50."
    ]


def test_what_the_cut_changes_for_all_tokens_is_no_effect_of_corners():
    rng = np.random.default_rng(7)
    rows = []
    for position in ("conv_in", "mid_block", "conv_out"):
        for image in range(40):
            raised = 0.2 + 0.05 * rng.normal()
            for groups in ("corner", "border", "other"):
                level = 0.4 + 0.1 * rng.normal()
                added = raised + 0.05 * rng.normal() + (0.2 if groups == position else 0)
                rows.append((position, f"i{image}", groups, 8, 9, 9, level + added, level))
    frame = pl.DataFrame(rows, token_groups._SCHEMA, orient="row")
    table = summarise(frame, Parameters())
    # The ratio alone is above 1 everywhere.
    assert (table.filter(groups="corner")["low"] > 1).all()
    keyed = table.with_columns(model=pl.lit("m"), timestep=pl.lit(50))
    told = token_groups.findings(keyed)
    assert told.sentences == [
        "The corners of an image gain more similarity to each other from lying at its border than "
        "its inner tokens in none of the 3 layers of m (paired over 40 images, adjusted for 3 "
        "layers)."
    ]
    assert told.table.is_empty()
    raised = frame.with_columns(
        pl.when((pl.col("position") == "mid_block") & (pl.col("groups") == "corner"))
        .then(pl.col("cropped_image") + 0.2)
        .otherwise("cropped_image")
        .alias("cropped_image")
    )
    keyed = summarise(raised, Parameters()).with_columns(model=pl.lit("m"), timestep=pl.lit(50))
    assert "in 1 of the 3 layers of m" in token_groups.findings(keyed).sentences[0]


def test_the_order_of_images_does_not_matter(whole):
    first, cuts = run(whole)
    for features in (whole, *cuts.values()):
        for images in features.grids.values():
            images["b"] = images.pop("b")
    second, _ = run(whole, **cuts)
    assert second.equals(first)
    shuffled = summarise(first.sample(fraction=1, shuffle=True, seed=1), Parameters())
    keys = ["position", "groups"]
    assert shuffled.sort(keys).equals(summarise(first, Parameters()).sort(keys))


def rows_of(values: list[tuple[float | None, float | None]]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "position": "mid_block",
            "image_id": [f"i{n}" for n in range(len(values))],
            "groups": "corner",
            "token_size": 8,
            "cropped_image": [first for first, _ in values],
            "cropped_representation": [second for _, second in values],
        }
    )


def test_the_ratio_is_of_means_and_its_interval_of_resampled_images():
    rng = np.random.default_rng(3)
    noise = rng.normal(size=(400, 2)) * 0.1
    values = [(0.6 + a, 0.3 + b) for a, b in noise]
    row = summarise(rows_of(values), Parameters()).row(0, named=True)
    means = np.mean(values, axis=0)
    assert row["relative"] == pytest.approx(means[0] / means[1])
    assert row["images"] == 400
    # Delta method: the variance of a ratio of means of independent columns.
    error = row["relative"] * 0.1 / 20 * np.sqrt(1 / means[0] ** 2 + 1 / means[1] ** 2)
    assert row["low"] == pytest.approx(row["relative"] - 1.96 * error, abs=0.2 * error)
    assert row["high"] == pytest.approx(row["relative"] + 1.96 * error, abs=0.2 * error)


def test_ratios_to_what_is_not_positive_are_null():
    negative = summarise(rows_of([(0.5, -0.2), (0.5, 0.1)]), Parameters()).row(0, named=True)
    assert negative["cropped_representation"] == pytest.approx(-0.05)
    assert negative["relative"] is None
    assert negative["low"] is None
    uncertain = summarise(rows_of([(0.5, -0.1), (0.5, 0.2)]), Parameters()).row(0, named=True)
    assert uncertain["relative"] == pytest.approx(10)
    assert uncertain["low"] is None
    assert summarise(rows_of([(None, None)]), Parameters()).is_empty()


def test_the_views_are_the_companions():
    parameters = Parameters(crops=["a", "b"])
    assert tasks.companions("token_groups", parameters) == {"a": {"view": "a"}, "b": {"view": "b"}}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"crops": []}, "crops"),
        ({"crops": ["a", "a"]}, "crops"),
        ({"counts": "right"}, "counts"),
    ],
)
def test_unusable_settings_are_named(settings, words):
    with pytest.raises(UserError, match=words):
        Parameters(**settings)


def test_views_that_do_not_cut_alike_are_named(whole):
    def message(**changes):
        with pytest.raises(UserError) as error:
            run(whole, **changes)
        return str(error.value)

    scaled_up = crop(whole, 8, transforms=dict.fromkeys(IMAGES, Affine(2.7, -8, 2.7, -8)))
    assert "view eight does not cut" in message(eight=scaled_up)
    one_side = crop(whole, 8, sizes=dict.fromkeys(IMAGES, (48, 56)))
    assert "view eight does not cut" in message(eight=one_side)
    assert "view eight does not cut" in message(eight=whole)
    assert "two views in `crops` cut by 16 px" in message(again=crop(whole, 16))


def test_layers_that_do_not_fit_are_named(whole, caplog):
    with pytest.raises(UserError, match="no layer has tokens of 24 px"):
        measure(whole, NOTHING, Parameters(crops=("x",)), companions={"x": crop(whole, 24)})
    only = measure(whole, NOTHING, Parameters(crops=("x",)), companions={"x": crop(whole, 8)})
    assert only["position"].unique().to_list() == ["conv_in"]
    assert "16 px" in caplog.text
    rounded_up = crop(whole, 16)
    rounded_up.grids["mid_block"]["a"] = np.zeros((3, 3, 6))
    with pytest.raises(UserError, match=r"mid_block the cut image 'a' has 3 x 3 tokens.*2 x 2"):
        run(whole, sixteen=rounded_up)
    whole.grids["mid_block"]["c"] = np.zeros((4, 5, 6))
    with pytest.raises(UserError, match=r"mid_block the 4 x 5 tokens of image 'c' are not squares"):
        run(whole)
