"""A copy of the project in which a benchmark runs a study of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARTS = ("Snakefile", "rules", "workflow_scripts", "profiles", "envs")


def run(folder: Path, study: str, wanted: Sequence[str], *, cores: int) -> None:
    """Make files of a study in ``folder``, which is filled if it is not there."""
    if not folder.exists():
        folder.mkdir(parents=True)
        for name in PARTS:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name)
            else:
                shutil.copy2(source, folder / name)
        (folder / "resources").symlink_to(ROOT / "resources")
    (folder / "config.yaml").write_text(study, encoding="utf-8")
    snakemake = str(Path(sys.executable).with_name("snakemake"))
    subprocess.run([snakemake, "--cores", str(cores), *wanted], cwd=folder, check=True)
