import numpy as np
import pytest
from reprscope.measures import similarity
from reprscope.measures.similarity import (
    DISTANCES,
    MEASURES,
    centre_of,
    compare,
    concatenate,
    cosine,
    nearest,
    normalise,
)
from scipy.spatial import distance


@pytest.fixture
def tokens() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(23, 7)), rng.normal(size=(31, 7))


def test_cosine_equals_its_definition_one_pair_at_a_time(tokens):
    first, second = tokens
    expected = [[a @ b / np.sqrt(a @ a) / np.sqrt(b @ b) for b in second] for a in first]
    np.testing.assert_allclose(cosine(first, second), expected, atol=1e-6)


def test_large_float16_tokens_do_not_overflow():
    # Squares of 1400 exceed float16's largest value, 65504.
    tokens = np.full((2, 1280), 1400, dtype=np.float16)
    tokens[1] *= -1
    np.testing.assert_allclose(cosine(tokens, tokens), [[1, -1], [-1, 1]], atol=1e-6)
    assert normalise(tokens).dtype == np.float32


def test_a_zero_token_has_cosine_zero_with_everything(tokens):
    first, _ = tokens
    assert (cosine(np.zeros((1, 7)), first) == 0).all()


def test_cosines_never_leave_their_range(tokens):
    first, _ = tokens
    assert cosine(first * 1e3, first).max() <= 1
    unit = normalise(first)
    assert nearest(unit, unit)[1].max() <= 1


@pytest.mark.parametrize("block", [1, 2, 5, 23, 31, 1000])
def test_blocked_search_equals_arg_max_of_the_whole_matrix(tokens, block):
    first, second = (normalise(each) for each in tokens)
    whole = first.astype(np.float64) @ second.astype(np.float64).T
    index, highest = nearest(first, second, block=block)
    np.testing.assert_array_equal(index, whole.argmax(axis=1))
    np.testing.assert_allclose(highest, whole.max(axis=1), atol=1e-6)


@pytest.mark.parametrize("block", [1, 2, 3, 4, 100])
def test_of_equal_keys_the_first_wins(block):
    # One-hot tokens: products are exactly 0 or 1, so that ties are exact.
    keys = np.eye(4, dtype=np.float32)[[3, 1, 0, 1, 0, 3]]
    index, highest = nearest(np.eye(4, dtype=np.float32), keys, block=block)
    np.testing.assert_array_equal(index, [2, 1, 0, 0])
    np.testing.assert_array_equal(highest, [1, 1, 0, 1])


@pytest.mark.parametrize("block", [1, 40, 64, 1000, 1 << 20])
@pytest.mark.parametrize("count", [3, 30])
def test_images_are_searched_each_for_itself(block, count, monkeypatch):
    # Three queries are fewer, thirty more than the channels.
    monkeypatch.setattr(similarity, "ROWS", 8)
    rng = np.random.default_rng(2)
    queries = normalise(rng.normal(size=(count, 5)))
    images = (rng.normal(size=(7, 9, 5)) * rng.uniform(1, 90, (7, 9, 1))).astype(np.float32)
    images[2, 3] = 0
    index, highest = nearest(queries, images, block=block)
    assert index.shape == highest.shape == (count, 7)
    for number, keys in enumerate(images):
        whole = queries.astype(np.float64) @ normalise(keys).astype(np.float64).T
        np.testing.assert_array_equal(index[:, number], whole.argmax(axis=1))
        np.testing.assert_allclose(highest[:, number], whole.max(axis=1), atol=1e-6)


def test_neighbours_in_rounding_are_told_apart_exactly():
    # Directions that differ by less than products in float32 tell; and equal ones, scaled by
    # powers of two, in places that the product's kernels handle differently.
    rng = np.random.default_rng(3)
    query = rng.normal(size=301).astype(np.float32)
    keys = np.tile(query, (67, 1)) * (2.0 ** rng.integers(-3, 4, (67, 1))).astype(np.float32)
    for wins, step in ((11, 3e-4), (45, 2e-4)):
        keys[:wins] += (step * rng.normal(size=(wins, 301)) * keys[:wins]).astype(np.float32)
        for queries in (normalise(query[None]), normalise(np.tile(query, (400, 1)))):
            for block in (67, 70, 67 * 400):
                index, highest = nearest(queries, keys.astype(np.float32), block=block)
                assert set(index.tolist()) == {wins}
                assert (highest == highest[0]).all()


def test_no_more_than_a_block_of_the_matrix_is_computed_at_a_time(monkeypatch):
    shapes = []
    product = np.matmul

    def recorded(first, second, out):
        shapes.append(out.shape)
        return product(first, second, out=out)

    monkeypatch.setattr(similarity.np, "matmul", recorded)
    rng = np.random.default_rng(1)
    nearest(normalise(rng.normal(size=(10, 3))), rng.normal(size=(6, 4, 3)), block=24)
    assert all(rows * columns <= 24 for rows, columns in shapes)
    assert sum(rows * columns for rows, columns in shapes) == 10 * 6 * 4


def test_searching_among_no_keys_is_an_error():
    with pytest.raises(ValueError, match="no key"):
        nearest(np.ones((1, 3), np.float32), np.ones((0, 3), np.float32))


# --- measures -----------------------------------------------------------------------------------

ONE_PAIR = {
    "cosine": lambda a, b: a @ b / np.sqrt(a @ a) / np.sqrt(b @ b),
    "dot": lambda a, b: sum(x * y for x, y in zip(a, b, strict=True)),
    "l1": distance.cityblock,
    "l2": distance.euclidean,
    "linf": distance.chebyshev,
    "relative_norm": lambda a, b: np.sqrt(b @ b) / np.sqrt(a @ a) - 1,
}


@pytest.mark.parametrize("measure", ONE_PAIR)
def test_measures_equal_their_definition_one_pair_at_a_time(tokens, measure):
    first, second = tokens
    expected = [[ONE_PAIR[measure](a, b) for b in second] for a in first]
    found = compare(first, second, measure=measure)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_the_centred_cosine_is_the_cosine_of_differences_from_the_mean_of_both_means(tokens):
    first, second = tokens
    centre = (first.mean(axis=0) + second.mean(axis=0)) / 2
    expected = [[ONE_PAIR["cosine"](a - centre, b - centre) for b in second] for a in first]
    # The second set has more tokens, but no more say.
    np.testing.assert_allclose(centre_of([first, second]), centre, atol=1e-6)
    found = compare(first, second, measure="centred_cosine", centre=centre_of([first, second]))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    # A part that all tokens share hides what tells them apart from the cosine, but not from this.
    shared = np.full(7, 100.0)
    far = compare(
        first + shared,
        second + shared,
        measure="centred_cosine",
        centre=centre_of([first + shared, second + shared]),
    )
    np.testing.assert_allclose(far, found, atol=1e-4)
    assert compare(first + shared, second + shared, measure="cosine").min() > 0.999


def test_every_measure_is_offered_and_others_are_errors(tokens):
    assert set(MEASURES) == {*ONE_PAIR, "centred_cosine"}
    assert {"l1", "l2", "linf"} == DISTANCES
    with pytest.raises(ValueError, match="no measure hamming"):
        compare(*tokens, measure="hamming")
    with pytest.raises(ValueError, match="centre"):
        compare(*tokens, measure="centred_cosine")


def test_distances_of_long_tokens_that_are_almost_equal():
    first = np.full((1, 300), 1400, np.float16)
    second = first.copy()
    second[0, 7] += 1
    for measure in DISTANCES:
        assert compare(first, second, measure=measure) == 1


def test_norms_relative_to_a_zero_token_are_not_numbers():
    found = compare(np.zeros((1, 2)), np.ones((3, 2)), measure="relative_norm")
    assert np.isnan(found).all()


# --- concatenation ------------------------------------------------------------------------------


def test_joined_maps_take_the_nearest_token_of_every_position():
    rng = np.random.default_rng(2)
    maps = [rng.normal(size=size) for size in [(2, 3, 4), (6, 5, 2), (4, 5, 3)]]
    joined = concatenate(maps)
    assert joined.shape == (6, 5, 9)
    for row in range(6):
        for col in range(5):
            parts = []
            for one in maps:
                height, width = one.shape[:2]
                # Centre of the fine token as a share of the image, and the token that covers it.
                y, x = (row + 0.5) / 6, (col + 0.5) / 5
                token = one[int(y * height), int(x * width)]
                parts.append(token / np.linalg.norm(token))
            np.testing.assert_allclose(joined[row, col], np.concatenate(parts), atol=1e-6)


def test_the_cosine_of_joined_tokens_is_the_mean_of_the_cosines():
    rng = np.random.default_rng(3)
    maps = [rng.normal(size=(2, 2, channels)) * scale for channels, scale in [(3, 1), (9, 500)]]
    joined = concatenate(maps).reshape(4, -1)
    each = [cosine(one.reshape(4, -1), one.reshape(4, -1)) for one in maps]
    np.testing.assert_allclose(cosine(joined, joined), np.mean(each, axis=0), atol=1e-6)
    with pytest.raises(ValueError, match="no map"):
        concatenate([])
