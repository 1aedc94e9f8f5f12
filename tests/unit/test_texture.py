from pathlib import Path

import numpy as np
from nano_sd.texture import sample
from PIL import Image
from reprscope.representations.views import View

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "resources/models/nano-sd"
STRIPES = ROOT / "resources/textures/stripes.png"


def test_a_texture_is_a_piece_of_what_the_seed_paints():
    whole = sample(MODEL, "spotted striped", steps=2, seed=1)
    assert whole.shape == (128, 128, 3)
    assert whole.std() > 5
    piece = sample(MODEL, "spotted striped", steps=2, seed=1, box=(36, 60, 108, 96))
    assert (piece == whole[60:96, 36:108]).all()
    assert (sample(MODEL, "spotted striped", steps=2, seed=2) != whole).mean() > 0.5


def test_the_stripes_of_the_embedded_model_can_be_laid_over_an_image():
    view = View(after=({"overlay": {"amount": 1.0, "texture": str(STRIPES)}},))
    laid, _ = view.apply(
        np.zeros((128, 128, 3), np.uint8), resolution=128, multiple=4, image_id="a"
    )
    stripes = np.asarray(Image.open(STRIPES))
    assert (laid[:36, :72] == stripes).all()
    assert (laid[36:72, 72:] == stripes[:, :56]).all()
    # Dark and light stand side by side in every row.
    assert (stripes.mean(axis=-1).std(axis=1) > 30).all()
