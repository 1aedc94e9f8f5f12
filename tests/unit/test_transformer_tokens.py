"""Tasks on single tokens, and their figures, on the token grids of a diffusion transformer."""

import json

import numpy as np
import polars as pl
import pytest
import torch
from reprscope.base.protocol import Protocol
from reprscope.models.families import sd3
from reprscope.representations.coordinates import Affine
from reprscope.representations.extraction import Capture
from reprscope.tasks import match_norms, norm_similarity, norms, token_groups, token_similarity
from support import tables, tiny_models
from support.charts import draw, hover
from support.fakes import FakeAnnotations, FakeRepresentations

IMAGES = ["a", "b"]
LATENT, TOKEN = 8, 16
"""Pixels along a side; a token covers two latents."""


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """Block outputs on images of 128 px, and of the same cut by a token on each side."""
    folder = tiny_models.sd3(tmp_path_factory.mktemp("model") / "sd3", layers=9)
    denoiser = sd3.load(
        folder, dtype=torch.float32, device=torch.device("cpu"), protocol=Protocol()
    )
    config = json.loads((folder / "transformer" / "config.json").read_text())
    blocks = [p for p in sd3.positions(config) if p.count(".") == 1 and "blocks" in p][::4]
    embeddings = sd3.encode_prompts(folder, [""], device=torch.device("cpu"))
    prompt = {key: torch.from_numpy(values) for key, values in embeddings.items()}
    latents = torch.randn((2, 16, 16, 16), generator=torch.Generator().manual_seed(0))

    def captured(cut: int) -> FakeRepresentations:
        edge = cut // LATENT
        inside = latents[:, :, edge : 16 - edge, edge : 16 - edge]
        both = {key: values.expand(2, *values.shape[1:]) for key, values in prompt.items()}
        with Capture(denoiser, blocks) as capture:
            found = capture(inside, 50, both)
        side = 128 - 2 * cut
        return FakeRepresentations(
            {p: dict(zip(IMAGES, found[p].float().numpy(), strict=True)) for p in blocks},
            dict.fromkeys(IMAGES, (side, side)),
            dict.fromkeys(IMAGES, Affine(offset_x=-cut, offset_y=-cut)),
        )

    return captured(0), captured(TOKEN)


@pytest.fixture
def annotations():
    images = pl.DataFrame({"image_id": IMAGES, "split": "test"})
    return FakeAnnotations(images, pictures={i: np.zeros((128, 128, 3), np.uint8) for i in IMAGES})


def tabulated(task, features, annotations, parameters, name="task", **companions) -> pl.DataFrame:
    measured = task.measure(features, annotations, parameters, **companions)
    summary = task.summarise(measured, parameters)
    keys = tables.keys("sd-3", 50, "") | {"task": name}
    del keys["position"]
    return summary.with_columns(**{key: pl.lit(value) for key, value in keys.items()})


def test_similarities_and_norms_are_drawn_on_the_grid_of_tokens(features, annotations):
    whole, _ = features
    parts = [
        tabulated(
            token_similarity,
            whole,
            annotations,
            token_similarity.Parameters(reference=(x, x)),
            name=name,
        )
        for name, x in (("corner", 0), ("middle", 0.5))
    ]
    table = pl.concat(parts)
    blocks = ["block[0]", "block[4]", "block[8]"]
    spec = draw("similarity_maps", table, filter={"task": "corner"})
    assert [row["block"] for row in hover(spec)] == blocks * 2
    assert {len(row["similarity"]) for row in hover(spec)} == {8 * 8}
    glance = draw("at_a_glance", table, positions=["transformer_blocks.4", "transformer_blocks.8"])
    assert {row["block"] for row in hover(glance)} == set(blocks[1:])
    for show in ("images", "mean"):
        found = tabulated(norms, whole, annotations, norms.Parameters())
        spec = draw("norm_maps", found, show=show, rows=["model"], column="position")
        assert [row["position"] for row in hover(spec)] == blocks
        assert {row["columns"] for row in hover(spec)} == {8}
    pairs = tabulated(norm_similarity, whole, annotations, norm_similarity.Parameters())
    assert "block[8]" in json.dumps(draw("histograms", pairs))
    matches = tabulated(match_norms, whole, annotations, match_norms.Parameters())
    named = {"x": "norm", "y": "match_norm", "column": "sample", "diagonal": True}
    assert "block[4]" in json.dumps(draw("histograms", matches, **named))


def test_a_cut_by_one_token_takes_off_one_ring(features, annotations):
    whole, cut = features
    parameters = token_groups.Parameters(crops=("crop-16",))
    table = tabulated(token_groups, whole, annotations, parameters, companions={"crop-16": cut})
    assert set(table["token_size"]) == {TOKEN}
    assert table["position"].unique(maintain_order=True).to_list() == whole.positions
    assert set(table["groups"]) == set(token_groups.NAMES)
