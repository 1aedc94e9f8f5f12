"""Stable Diffusion 1.5 at its full width and size, with random weights, on an ordinary machine."""

import shutil

import polars as pl
import pytest
from reprscope.representations.store import Representations
from support.project import make

from benchmarks.workshop import save_stable_diffusion

STUDY = """
title: Stable Diffusion 1.5 at full width
device: cpu
precision: float32
batch_size: 1
datasets:
  photos: {{source: photos, shards: 6}}
models:
  sd-1.5: {{path: {model}, family: unet, resolution: 512}}
hooksets:
  blocks: {{positions: [conv-in, "down[*]", mid, "up[*]", conv-out], store: tokens}}
tasks:
  maps: {{kind: token_maps, count: 1}}
experiments:
  - name: maps
    tasks: [maps]
    datasets: [photos]
    models: [sd-1.5]
    positions: ["up[1]"]
    timesteps: [50]
"""
SHARD = "photos/identity/sd-1.5/512px_empty_t50_seed0_standard/blocks/0of6"
TABLE_1 = {
    "conv_in": (64, 64, 320),
    "down_blocks.0": (32, 32, 320),
    "down_blocks.1": (16, 16, 640),
    "down_blocks.2": (8, 8, 1280),
    "down_blocks.3": (8, 8, 1280),
    "mid_block": (8, 8, 1280),
    "up_blocks.0": (16, 16, 1280),
    "up_blocks.1": (32, 32, 1280),
    "up_blocks.2": (64, 64, 640),
    "up_blocks.3": (64, 64, 320),
    "conv_out": (64, 64, 4),
}
"""Height, width and channels at 512 px; thesis, table 1."""


@pytest.fixture
def folder(tmp_path):
    """A folder that is cleared at once: the weights take 4 GB."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def test_stable_diffusion_runs_at_full_width_with_the_shapes_of_the_thesis(folder):
    """Fetch, encode and extract one image at 512 px, within the memory that the rules ask for."""
    parameters = save_stable_diffusion(folder / "model")
    assert parameters == 859_520_964
    (folder / "study.yaml").write_text(STUDY.format(model=folder / "model"))
    project = make(folder / "project", folder / "study.yaml")
    project.run(f"results/representations/{SHARD}.h5")
    with Representations([project.folder / f"results/representations/{SHARD}.h5"]) as found:
        assert found.image_ids == ["astronaut"]
        shapes = {p: found.tokens(p, "astronaut").shape for p in found.positions}
    assert shapes == TABLE_1
    peaks = [
        pl.read_csv(path, separator="\t", null_values=["NA", "-"])["max_rss"].max()
        for path in (project.folder / "results/benchmarks").rglob("*.tsv")
    ]
    assert max(peak for peak in peaks if peak is not None) < 8000  # MB; short jobs have no sample
