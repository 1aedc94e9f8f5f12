import numpy as np
import pytest
from reprscope.data import sources
from reprscope.data.canonical import check, decode
from reprscope.data.sources import uniform
from reprscope.runtime.errors import UserError


def test_all_images_have_the_one_colour_and_names_of_their_own():
    settings = uniform.Parameters(images=7, size=(12, 8), colour=(250, 0, 3), test=1)
    dataset = uniform.build(settings, threads=1)
    check(dataset)
    images = dataset.images
    assert images["image_id"].n_unique() == 7
    assert images.select("width", "height").unique().rows() == [(12, 8)]
    for name, data in images.select("image_id", "image").iter_rows():
        expected = np.full((8, 12, 3), (250, 0, 3))
        np.testing.assert_array_equal(decode(data, name), expected)
    assert set(images["split"]) == {"test"}
    assert sources.load("uniform").provides(settings) == frozenset()


def test_black_squares_are_the_default():
    images = uniform.build(uniform.Parameters(), threads=1).images
    assert images.select("width", "height").unique().rows() == [(128, 128)]
    assert not decode(images["image"][0], "").any()
    assert len(images) == 100


def test_the_split_of_an_image_depends_on_its_name_alone():
    few, many = (
        uniform.build(uniform.Parameters(images=n, test=0.4, validation=0.1), 1).images
        for n in (50, 400)
    )
    assert many.head(50).equals(few)
    shares = dict(many["split"].value_counts(normalize=True).iter_rows())
    assert shares["test"] == pytest.approx(0.4, abs=0.08)
    assert shares["validation"] == pytest.approx(0.1, abs=0.05)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"images": 0}, "at least 1"),
        ({"size": (8, 0)}, "at least 1"),
        ({"colour": (0, 0, 256)}, "0 to 255"),
        ({"test": 2.0}, "between 0 and 1"),
    ],
)
def test_mistakes_are_sentences(wrong, said):
    with pytest.raises(UserError, match=said):
        uniform.Parameters(**wrong)
