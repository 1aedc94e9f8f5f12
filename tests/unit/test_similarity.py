import numpy as np
import pytest
from reprscope.similarity import cosine, nearest, normalise


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
    index, similarity = nearest(first, second, block=block)
    np.testing.assert_array_equal(index, whole.argmax(axis=1))
    np.testing.assert_allclose(similarity, whole.max(axis=1), atol=1e-6)


@pytest.mark.parametrize("block", [1, 2, 3, 4, 100])
def test_of_equal_keys_the_first_wins(block):
    # One-hot tokens: products are exactly 0 or 1, so that ties are exact.
    keys = np.eye(4, dtype=np.float32)[[3, 1, 0, 1, 0, 3]]
    index, similarity = nearest(np.eye(4, dtype=np.float32), keys, block=block)
    np.testing.assert_array_equal(index, [2, 1, 0, 0])
    np.testing.assert_array_equal(similarity, [1, 1, 0, 1])


def test_no_more_than_a_block_of_the_matrix_is_computed_at_a_time():
    shapes = []

    class Recorded(np.ndarray):
        def __matmul__(self, other):
            result = np.asarray(self) @ np.asarray(other)
            shapes.append(result.shape)
            return result

    queries = normalise(np.random.default_rng(1).normal(size=(10, 3))).view(Recorded)
    nearest(queries, np.asarray(queries), block=4)
    assert len(shapes) == 9
    assert max(max(shape) for shape in shapes) == 4


def test_searching_among_no_keys_is_an_error():
    with pytest.raises(ValueError, match="no key"):
        nearest(np.ones((1, 3), np.float32), np.ones((0, 3), np.float32))
