import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reprscope.representations.coordinates import Affine, token_centre, token_index
from reprscope.representations.views import View
from reprscope.runtime.errors import UserError

sizes = st.integers(1, 700)
grids = st.tuples(st.integers(1, 64), st.integers(1, 64))


@given(pixels=st.tuples(sizes, sizes), grid=grids, data=st.data())
def test_a_token_s_centre_lies_in_that_token(pixels, grid, data):
    row = data.draw(st.integers(0, grid[0] - 1))
    col = data.draw(st.integers(0, grid[1] - 1))
    centre = token_centre(row, col, pixels, grid)
    found = token_index(centre, pixels, grid)
    assert (int(found[0]), int(found[1])) == (row, col)


@given(pixels=st.tuples(sizes, sizes), grid=grids, x=st.floats(0, 1), y=st.floats(0, 1))
def test_a_point_is_at_most_half_a_token_from_its_token_s_centre(pixels, grid, x, y):
    point = np.array([x * pixels[0], y * pixels[1]])
    centre = token_centre(*token_index(point, pixels, grid), pixels, grid)
    half = np.array([pixels[0] / grid[1], pixels[1] / grid[0]]) / 2
    assert (np.abs(point - centre) <= half + 1e-6 * half).all()


def test_half_pixel_centres_by_hand():
    # 12 x 8 pixels seen by 2 rows of 3 tokens: each token is 4 x 4 pixels.
    assert token_centre(0, 0, (12, 8), (2, 3)).tolist() == [2.0, 2.0]
    assert token_centre(1, 2, (12, 8), (2, 3)).tolist() == [10.0, 6.0]
    row, col = token_index(np.array([[3.99, 4.0], [4.0, 3.99], [12.0, 8.0]]), (12, 8), (2, 3))
    assert row.tolist() == [1, 0, 1]
    assert col.tolist() == [0, 1, 2]


finite = st.floats(-50, 50).filter(lambda value: abs(value) > 0.01)


@given(finite, finite, finite, finite, finite, finite)
def test_affine_maps_there_and_back(sx, ox, sy, oy, x, y):
    transform = Affine(sx, ox, sy, oy)
    there = transform.forward(np.array([x, y]))
    assert np.allclose(there, [sx * x + ox, sy * y + oy])
    assert np.allclose(transform.back(there), [x, y])
    twice = transform.then(Affine(2.0, 1.0, 3.0, -1.0)).forward(np.array([x, y]))
    assert np.allclose(twice, [2 * there[0] + 1, 3 * there[1] - 1])


def marked(width: int, height: int, x: int, y: int) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    image[y, x] = 255
    return image


@given(
    width=st.integers(20, 60),
    height=st.integers(20, 60),
    spot=st.tuples(st.integers(6, 13), st.integers(6, 13)),
    fit=st.sampled_from(["pad", "keep", "squash"]),
    operations=st.lists(
        st.sampled_from(
            [
                {"hflip": {}},
                {"crop": {"left": 2, "bottom": 1}},
                {"pad": {"left": 3, "top": 2}},
                {"shift": {"x": 1, "y": -1}},
            ]
        ),
        max_size=3,
        unique_by=lambda operation: next(iter(operation)),
    ),
    after=st.sampled_from([(), ({"crop": {"left": 5, "top": 3}},), ({"hflip": {}},)]),
)
def test_a_view_moves_a_bright_pixel_where_its_map_says(
    width, height, spot, fit, operations, after
):
    view = View(operations=tuple(operations), fit=fit, after=after)
    image = marked(width, height, *spot)
    viewed, transform = view.apply(
        image, resolution=4 * max(width, height), multiple=1, image_id="a"
    )
    expected = transform.forward(np.array(spot) + 0.5)
    weights = viewed[..., 0].astype(float)
    rows, cols = np.mgrid[: viewed.shape[0], : viewed.shape[1]] + 0.5
    found = [(weights * cols).sum() / weights.sum(), (weights * rows).sum() / weights.sum()]
    assert np.allclose(found, expected, atol=0.6)


def test_keep_rounds_to_multiples_and_its_map_stays_exact():
    viewed, transform = View(fit="keep").apply(
        np.zeros((333, 500, 3), np.uint8), resolution=512, multiple=64, image_id="a"
    )
    assert viewed.shape == (320, 512, 3)
    assert transform == Affine(scale_x=512 / 500, scale_y=320 / 333)


def test_a_crop_after_the_fit_is_not_scaled_up_again():
    view = View(fit="keep", after=({"crop": {"left": 16, "right": 16, "top": 16, "bottom": 16}},))
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    viewed, transform = view.apply(image, resolution=192, multiple=8, image_id="a")
    whole, _ = View(fit="keep").apply(image, resolution=192, multiple=8, image_id="a")
    assert (viewed == whole[16:-16, 16:-16]).all()
    assert transform == Affine(2.0, -16.0, 2.0, -16.0)


def test_sides_that_the_vae_cannot_encode_are_refused():
    view = View(fit="keep", after=({"crop": {"left": 4}},))
    with pytest.raises(UserError, match="92 x 64 pixels, which are not multiples of 8"):
        view.apply(np.zeros((64, 96, 3), np.uint8), resolution=96, multiple=8, image_id="a")
