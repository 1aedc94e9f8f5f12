"""Texts of images from a template."""

import pytest
from reprscope.representations.prompts import texts
from reprscope.runtime.errors import UserError

ROWS = [
    {"image_id": "a.png", "label": "cat", "caption": None},
    {"image_id": "b.png", "label": None, "caption": "a bird"},
    {"image_id": "c\n.png", "label": None, "caption": "None"},
]


def test_texts_name_what_each_image_has():
    assert texts("a photo", ROWS) == ["a photo"] * 3
    assert texts("a photo of {caption}", ROWS[1:]) == ["a photo of a bird", "a photo of None"]
    assert texts("{label}: {label}", ROWS[:1]) == ["cat: cat"]


def test_an_image_without_what_the_prompt_names_is_one_sentence():
    with pytest.raises(UserError) as caught:
        texts("a photo of {caption}", ROWS)
    assert str(caught.value) == (
        "The prompt 'a photo of {caption}' names the caption of each image, but 1 of 3 have none "
        "(a.png): give them one in the dataset, or use another prompt."
    )
    with pytest.raises(UserError, match=r"the label .* 2 of 3 have none .b\.png, c\\n\.png.:"):
        texts("{label}", ROWS)
