"""Fixtures shared by all tests: the embedded model, and projects to run."""

from pathlib import Path

import pytest
from support.embedded import NANO, load_unet
from support.project import Project, make


@pytest.fixture(scope="session")
def nano() -> Path:
    return NANO


@pytest.fixture(scope="session")
def unet(nano):
    return load_unet(nano)


@pytest.fixture(scope="session")
def vae(nano):
    import torch
    from reprscope.models.vae import load

    return load(nano, device=torch.device("cpu"))


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
