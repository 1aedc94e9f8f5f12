"""Fixtures shared by all tests: the embedded model, and small datasets in canonical form."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from project import Project, make

ROOT = Path(__file__).parents[1]
NANO = ROOT / "resources" / "models" / "nano-sd"


@pytest.fixture(scope="session")
def nano() -> Path:
    return NANO


def load_unet(folder: Path, *, dtype=None, upcast_attention: bool = False, **choices):
    """The U-Net of a model folder on the CPU, in float32 by default, under protocol choices."""
    import torch
    from reprscope.models.unet import load
    from reprscope.protocol import Protocol

    return load(
        folder,
        dtype=dtype or torch.float32,
        device=torch.device("cpu"),
        protocol=Protocol(**choices),
        upcast_attention=upcast_attention,
    )


@pytest.fixture(scope="session")
def unet(nano):
    return load_unet(nano)


@pytest.fixture(scope="session")
def vae(nano):
    import torch
    from reprscope.models.vae import load

    return load(nano, device=torch.device("cpu"))


def smooth_image(width: int, height: int, seed: int) -> np.ndarray:
    """A photograph-like random image: a few low frequencies per channel."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(width, height)
    waves = [
        sum(np.sin(2 * np.pi * (f * x + g * y) + p) for f, g, p in rng.uniform(-3, 3, (4, 3)))
        for _ in range(3)
    ]
    return np.clip(127.5 + 32 * np.stack(waves, axis=-1), 0, 255).astype(np.uint8)


def image_frame(sizes: list[tuple[int, int]], **columns) -> pl.DataFrame:
    """An ``images`` frame of smooth images of the given (width, height)."""
    from reprscope.data.canonical import IMAGES_SCHEMA, encode_png

    count = len(sizes)
    values = {
        "image_id": [f"image-{i}" for i in range(count)],
        "image": [encode_png(smooth_image(w, h, i)) for i, (w, h) in enumerate(sizes)],
        "width": [w for w, _ in sizes],
        "height": [h for _, h in sizes],
        "label": [None] * count,
        "caption": [None] * count,
        "split": ["test"] * count,
    }
    return pl.DataFrame(values | columns, schema=IMAGES_SCHEMA)


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Project:
    """The small study, run once."""
    project = make(tmp_path_factory.mktemp("workflow") / "finished")
    project.log = project.run("--verbose")
    return project


@pytest.fixture
def project(finished, tmp_path) -> Project:
    """A finished run to change."""
    return finished.copy(tmp_path / "project")


@pytest.fixture
def fresh(tmp_path) -> Project:
    """A project with nothing computed."""
    return make(tmp_path / "fresh")
