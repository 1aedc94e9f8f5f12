import itertools

import numpy as np
import pytest
from reprscope.tasks._matching import component_order, to_float32


def test_every_finite_float16_becomes_its_float32():
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    out = np.empty(halves.shape, np.float32)
    to_float32(halves, out)
    np.testing.assert_array_equal(out, halves.astype(np.float32))
    assert (np.signbit(out) == np.signbit(halves)).all()
    many = np.tile(halves, 3).reshape(-1, 3)
    out = np.empty(many.shape, np.float32)
    to_float32(many, out)
    np.testing.assert_array_equal(out, many.astype(np.float32))


@pytest.mark.parametrize("seed", range(5))
def test_components_are_those_of_a_search_through_the_pairs(seed):
    rng = np.random.default_rng(seed)
    source, target = rng.integers(0, 40, (2, 24))
    order, component = component_order(source, target, 40)
    assert sorted(order) == list(range(40))
    assert (np.diff(component) >= 0).all()
    label = list(range(40))
    for _ in range(40):
        for a, b in zip(source, target, strict=True):
            label[a] = label[b] = min(label[a], label[b])
    of = dict(zip(order.tolist(), component.tolist(), strict=True))
    pairs = {(label[image], of[image]) for image in range(40)}
    assert len(pairs) == len(set(label)) == len(set(component.tolist()))
    # Components by their first image, images ascending within one.
    assert [label[image] for image in order] == sorted(label)
    assert all(a < b for a, b in itertools.pairwise(order) if label[a] == label[b])
