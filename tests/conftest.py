"""Fixtures shared by all tests: the embedded model, and projects to run."""

import os
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings
from support.embedded import NANO, load_unet
from support.project import Project, make

# How long an example takes to draw or to run tells how busy the machine is, and not what is wrong.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

WORKER = os.environ.get("PYTEST_XDIST_WORKER")
if WORKER:
    # Workers share the cores; torch, which no test has imported yet, reads this when it starts.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Jobs of both may have more threads than there are cores; those that wait shall not spin.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


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
    """The small study, run once, also where several workers ask for it; only to be read."""
    shared = tmp_path_factory.getbasetemp()
    if WORKER:
        shared = shared.parent
    project = Project(shared / "finished")
    log = shared / "finished.log"
    with FileLock(shared / "finished.lock"):
        if not log.exists():
            assert not project.folder.exists(), "its run has failed, as the first to ask shows"
            make(project.folder)
            log.write_text(project.run("--verbose"))
    project.log = log.read_text()
    return project


@pytest.fixture
def project(finished, tmp_path) -> Project:
    """A finished run to change."""
    return finished.copy(tmp_path / "project")


@pytest.fixture
def fresh(tmp_path) -> Project:
    """A project with nothing computed."""
    return make(tmp_path / "fresh")
