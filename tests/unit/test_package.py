"""The package outside the checkout: what a wheel holds, and what reading results needs."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import reprscope
from reprscope.representations.coordinates import Affine
from reprscope.representations.store import writer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel's content in a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    # Built from a copy: setuptools writes beside what it builds.
    source = folder / "source"
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(["cp", "-r", ROOT / "workflow_scripts", source / "workflow_scripts"], check=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", folder, source], check=True, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def python(installed: Path, code: str) -> str:
    """Run code outside the checkout with the installed package first."""
    environment = os.environ | {"PYTHONPATH": str(installed), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=installed.parent,
        env=environment,
    ).stdout


def test_the_command_line_works_outside_the_checkout(installed):
    code = "import sys; sys.argv = ['reprscope', 'shapes', 'sd-1.5']\n"
    code += "import reprscope; print(reprscope.__file__)\nfrom reprscope.cli import main; main()"
    said = python(installed, code)
    assert said.startswith(str(installed))
    assert "up[2]          640  64 x 64" in said


def test_a_store_is_read_without_torch(installed, tmp_path):
    path = tmp_path / "0of1.h5"
    tokens = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    with writer(path, spec="{}", provenance={"positions": ["mid_block"]}, form="tokens") as store:
        store.append(["a"], [(64, 96)], [Affine()], {"mid_block": tokens})
    code = f"""
import sys
for name in ("torch", "diffusers", "transformers", "snakemake", "altair", "scipy", "datasets"):
    sys.modules[name] = None
from reprscope.representations.store import Representations
with Representations([{str(path)!r}]) as found:
    print(found.tokens("mid_block", "a").sum())
from reprscope import published
print(len(published.index()))
"""
    total, entries = python(installed, code).split()
    assert float(total) == tokens.sum()
    assert int(entries) > 10


def test_the_version_is_said_in_one_place():
    assert f"version: {reprscope.__version__}" in (ROOT / "CITATION.cff").read_text()
    assert f"## {reprscope.__version__}" in (ROOT / "CHANGELOG.md").read_text()
