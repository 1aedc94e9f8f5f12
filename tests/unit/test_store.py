import json

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reprscope.representations.coordinates import Affine
from reprscope.representations.store import Representations, writer
from reprscope.runtime.errors import UserError


def fill(path, images, *, form="tokens", dtype=np.float16, positions=("conv_in", "mid_block")):
    with writer(
        path, spec="{}", provenance={"positions": list(positions)}, form=form, dtype=dtype
    ) as store:
        for name, values in images.items():
            size = (values.shape[1] * 8, values.shape[0] * 8)
            transform = Affine(2.0, 1.0, 0.5, -3.0)
            store.append([name], [size], [transform], dict.fromkeys(positions, values[None]))


@settings(max_examples=20, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=6),
    seed=st.integers(0, 99),
)
def test_round_trip_with_ragged_shapes(tmp_path_factory, shapes, seed):
    rng = np.random.default_rng(seed)
    images = {
        f"image-{i}": rng.normal(size=(*s, 5)).astype(np.float32) for i, s in enumerate(shapes)
    }
    path = tmp_path_factory.mktemp("store") / "a.h5"
    fill(path, images)
    with Representations([path]) as found:
        assert found.image_ids == list(images)
        assert found.positions == ["conv_in", "mid_block"]
        for name, values in images.items():
            read = found.tokens("mid_block", name)
            assert read.dtype == np.float32
            assert np.array_equal(read, values.astype(np.float16).astype(np.float32))
            assert found.grid("mid_block", name) == values.shape[:2]
            assert found.pixels(name) == (values.shape[1] * 8, values.shape[0] * 8)
            assert found.transform(name) == Affine(2.0, 1.0, 0.5, -3.0)
        means = np.stack(
            [v.astype(np.float16).astype(np.float32).mean((0, 1)) for v in images.values()]
        )
        assert np.allclose(found.means("conv_in"), means, atol=1e-6)


def test_many_images_are_read_into_memory_that_is_there(tmp_path):
    rng = np.random.default_rng(6)
    images = {
        name: rng.normal(size=(h, w, 5)).astype(np.float32)
        for name, h, w in (("a", 2, 3), ("b", 4, 1), ("c", 3, 3), ("d", 1, 2))
    }
    # The second shard has a value that makes it float32.
    images["d"][0, 1, 2] = 1e5
    fill(tmp_path / "0.h5", {name: images[name] for name in "abc"})
    fill(tmp_path / "1.h5", {"d": images["d"]})
    with Representations([tmp_path / "0.h5", tmp_path / "1.h5"]) as found:
        assert found.layout("mid_block") == (5, np.float32)
        for wanted in ("abcd", "ca", "adb", "b"):
            out = np.empty((sum(images[name].size // 5 for name in wanted), 5), np.float32)
            found.read_tokens("mid_block", list(wanted), out)
            expected = [found.tokens("mid_block", name).reshape(-1, 5) for name in wanted]
            np.testing.assert_array_equal(out, np.concatenate(expected))
    with Representations([tmp_path / "0.h5"]) as found:
        assert found.layout("mid_block") == (5, np.float16)


def test_shards_read_as_one(tmp_path):
    images = {name: np.full((2, 3, 4), i, np.float32) for i, name in enumerate("abc")}
    fill(tmp_path / "0.h5", {"a": images["a"]})
    fill(tmp_path / "1.h5", {"b": images["b"], "c": images["c"]})
    with Representations([tmp_path / "0.h5", tmp_path / "1.h5"]) as found:
        assert found.image_ids == ["a", "b", "c"]
        assert found.tokens("conv_in", "c").mean() == 2.0
        assert found.means("conv_in")[:, 0].tolist() == [0.0, 1.0, 2.0]


def test_an_image_in_two_shards_is_an_error(tmp_path):
    for name in ("0.h5", "1.h5"):
        fill(tmp_path / name, {"a": np.ones((2, 2, 2), np.float32)})
    with pytest.raises(UserError, match="Image a is in two shards"):
        Representations([tmp_path / "0.h5", tmp_path / "1.h5"])


def test_a_value_that_overflows_float16_turns_the_table_into_float32(tmp_path):
    small, large = np.full((2, 2, 3), 0.1, np.float32), np.full((2, 2, 3), 1e6, np.float32)
    fill(tmp_path / "a.h5", {"small": small, "large": large})
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["tables/conv_in/tokens"].dtype == np.float32
    with Representations([tmp_path / "a.h5"]) as found:
        assert np.array_equal(found.tokens("conv_in", "large"), large)
        assert np.allclose(found.tokens("conv_in", "small"), small, rtol=1e-3)


def test_mean_form_keeps_only_the_spatial_mean(tmp_path):
    values = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
    fill(tmp_path / "a.h5", {"a": values}, form="mean")
    with Representations([tmp_path / "a.h5"]) as found:
        assert np.allclose(found.means("mid_block")[0], values.mean((0, 1)), atol=1e-6)
        with pytest.raises(UserError, match="holds only spatial means of mid_block"):
            found.tokens("mid_block", "a")


def test_nan_names_position_and_image_and_leaves_no_file(tmp_path):
    bad = np.ones((2, 2, 3), np.float32)
    bad[1, 0, 2] = np.nan
    with pytest.raises(UserError, match="Position conv_in of image bad has values"):
        fill(tmp_path / "a.h5", {"good": np.ones((2, 2, 3), np.float32), "bad": bad})
    assert list(tmp_path.iterdir()) == []


def test_a_flipped_byte_is_found_by_the_checksum(tmp_path):
    values = np.full((4, 4, 8), 0.3333, np.float32)
    fill(tmp_path / "a.h5", {"a": values}, positions=("conv_in",))
    data = bytearray((tmp_path / "a.h5").read_bytes())
    pattern = np.full(16, 0.3333, np.float16).tobytes()
    data[data.index(pattern) + 3] ^= 0xFF
    (tmp_path / "a.h5").write_bytes(data)
    with Representations([tmp_path / "a.h5"]) as found, pytest.raises(UserError, match="damaged"):
        found.tokens("conv_in", "a")


def test_truncated_file_is_named(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"not an HDF5 file")
    with pytest.raises(UserError, match=r"a\.h5 is damaged .*: delete it"):
        Representations([tmp_path / "a.h5"])


def test_chunks_follow_images_and_spec_is_stored(tmp_path):
    fill(tmp_path / "a.h5", {name: np.ones((4, 6, 8), np.float32) for name in "ab"})
    with h5py.File(tmp_path / "a.h5") as file:
        table = file["tables/conv_in/tokens"]
        assert table.chunks == (24, 8)
        assert table.fletcher32
        assert file.attrs["spec"] == b"{}"
        assert json.loads(file.attrs["provenance"])["positions"] == ["conv_in", "mid_block"]


def test_a_store_may_have_as_many_images_as_there_are(tmp_path):
    """HDF5 2.0 cannot read again what it writes of so many names of variable length."""
    count = 120_000
    names = [f"{number}-{'ä' * 20}" for number in range(count)]
    values = np.ones((count, 1, 1, 1), np.float32)
    with writer(tmp_path / "a.h5", spec="{}", provenance={}, form="mean") as store:
        store.append(names, [(8, 8)] * count, [Affine()] * count, {"mid_block": values})
    with Representations([tmp_path / "a.h5"]) as found:
        assert found.image_ids == names
