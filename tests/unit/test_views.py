import numpy as np
import PIL.Image
import polars as pl
import pytest
import skimage.data
import torch
from reprscope.data.canonical import encode_png
from reprscope.representations.coordinates import Affine
from reprscope.representations.encoding import encode
from reprscope.representations.views import View, channel_mix, overlay, pixel_noise
from reprscope.runtime.errors import UserError


def picture(height=6, width=9, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def texture(tmp_path, pixels) -> str:
    path = tmp_path / "texture.png"
    PIL.Image.fromarray(np.asarray(pixels, np.uint8)).save(path)
    return str(path)


def test_channels_are_mixed_by_hand():
    image = np.array([[[200, 10, 100]]], np.uint8)
    for amount, expected in ((0, [200, 10, 100]), (0.25, [175, 10, 125]), (1, [100, 10, 200])):
        mixed, transform = channel_mix(image, amount=amount)
        assert mixed.tolist() == [[expected]]
        assert mixed.dtype == np.uint8
        assert transform == Affine()


def test_a_texture_is_blended_and_repeated_by_hand(tmp_path):
    image = np.full((3, 5, 3), 100, np.uint8)
    red, blue = [200, 0, 0], [0, 0, 40]
    path = texture(tmp_path, [[red, blue]])
    mixed, transform = overlay(image, amount=0.25, texture=path)
    # 0.75 x 100 and a quarter of the texture, from the left: red, blue, red, blue, red.
    assert mixed.tolist() == [[[125, 75, 75], [75, 75, 85]] * 2 + [[125, 75, 75]]] * 3
    assert transform == Affine()
    whole, _ = overlay(image, amount=1, texture=path)
    assert whole[1, :2].tolist() == [red, blue]
    nothing, _ = overlay(image, amount=0, texture=path)
    assert (nothing == image).all()


@pytest.mark.parametrize("name", ["grass", "gravel", "brick"])
def test_named_textures_are_those_of_scikit_image(name):
    image = picture(40, 600)
    whole, _ = overlay(image, amount=1.0, texture=name)
    grey = getattr(skimage.data, name)()
    assert (whole[:, :512] == grey[:40, :, None]).all()
    assert (whole[:, 512:] == grey[:40, :88, None]).all()
    half, _ = overlay(image, amount=0.5, texture=name)
    expected = (image.astype(float) + whole) / 2
    assert np.abs(half - expected).max() <= 0.5


def test_noise_is_uniform_and_its_amount_a_blend():
    image = np.full((200, 200, 3), 80, np.uint8)
    noise, transform = pixel_noise(image, amount=1.0, image_id="a")
    assert transform == Affine()
    counts = np.bincount(noise.ravel(), minlength=256)
    # 120,000 draws: 469 of each value, with a standard deviation of 22.
    assert counts.min() > 469 - 5 * 22 and counts.max() < 469 + 5 * 22
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.03
    some, _ = pixel_noise(image, amount=0.25, image_id="a")
    assert np.abs(some - (0.75 * 80 + 0.25 * noise.astype(float))).max() <= 0.5
    none, _ = pixel_noise(image, amount=0.0, image_id="a")
    assert (none == image).all()


def test_noise_depends_on_the_name_and_the_seed_alone():
    first, _ = pixel_noise(picture(), amount=1.0, image_id="a")
    again, _ = pixel_noise(picture(seed=1), amount=1.0, image_id="a")
    assert (first == again).all()
    for change in ({"image_id": "b"}, {"image_id": "a", "seed": 1}):
        other, _ = pixel_noise(picture(), amount=1.0, **change)
        assert (first != other).mean() > 0.9


class Recorder:
    """Stands where the VAE and the store do, and keeps what the VAE is given."""

    factor = 1
    device = torch.device("cpu")

    def __init__(self):
        self.seen = {}

    def encode(self, stack, *, pixels):
        self.last = stack
        return stack, stack

    def append(self, names, sizes, transforms, tables):
        self.seen |= dict(zip(names, self.last, strict=True))


def test_an_image_has_the_same_noise_in_every_batch_and_shard():
    names = list("abcde")
    frame = pl.DataFrame(
        {"image_id": names, "image": [encode_png(picture())] * 5, "width": [9] * 5, "height": 6}
    )
    view = View(fit="keep", after=({"pixel_noise": {"amount": 0.5}},))

    def seen(frame, size):
        recorder = Recorder()
        encode(frame, view, recorder, recorder, resolution=9, pixels="symmetric", batch_size=size)
        return recorder.seen

    whole = seen(frame, 5)
    parts = seen(frame[3:], 2) | seen(frame[:3].reverse(), 1)
    for name in names:
        assert (whole[name] == parts[name]).all()
    assert (whole["a"] != whole["b"]).any()


def test_operations_are_applied_before_or_after_the_fit(tmp_path):
    path = texture(tmp_path, [[[0, 0, 0], [255, 255, 255]]])
    image = np.full((4, 4, 3), 128, np.uint8)
    stripes = {"overlay": {"amount": 1.0, "texture": path}}
    after, _ = View(after=(stripes,)).apply(image, resolution=8, multiple=1, image_id="a")
    assert after[0, :, 0].tolist() == [0, 255] * 4
    before, _ = View(operations=(stripes,)).apply(image, resolution=8, multiple=1, image_id="a")
    # Stripes of one original pixel are two pixels wide when fitted.
    assert before[0, 2:4, 0].min() > before[0, 0:2, 0].max()


def test_a_view_names_the_files_that_it_reads(tmp_path):
    path = texture(tmp_path, [[[0, 0, 0]]])
    overlays = [{"overlay": {"amount": 0.5, "texture": name}} for name in ("grass", path, path)]
    view = View(operations=overlays[:2], after=overlays[2:])
    assert view.files == [path]
    assert View(operations=({"hflip": {}},)).files == []


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        ({"overlay": {"amount": 0.5}}, "overlay: missing a required argument: 'texture'"),
        ({"overlay": {"amount": 0.5, "texture": "moss"}}, "there is no texture moss: use grass"),
        ({"overlay": {"amount": 1.5, "texture": "grass"}}, "amount is 1.5; use a number from 0 to"),
        ({"channel_mix": {"amount": -0.1}}, "amount is -0.1"),
        ({"pixel_noise": {"amount": "much"}}, "amount is much"),
        ({"pixel_noise": {"amount": 0.5, "image_id": "a"}}, "pixel_noise: .*'image_id'"),
        ({"blur": {"radius": -1}}, "radius is -1; use a number from 0"),
        ({"smudge": {}}, "not known: write one of hflip, .*overlay.*pixel_noise"),
    ],
)
def test_unusable_operations_are_named(operation, words):
    for place in ("operations", "after"):
        with pytest.raises(UserError, match=words):
            View(**{place: (operation,)})


def test_a_texture_that_is_no_picture_is_named(tmp_path):
    path = tmp_path / "texture.png"
    path.write_bytes(b"not a picture")
    view = View(after=({"overlay": {"amount": 0.5, "texture": str(path)}},))
    with pytest.raises(UserError, match=r"texture\.png cannot be decoded"):
        view.apply(picture(), resolution=9, multiple=1, image_id="a")
