"""A copy of the project with a study of its own, to run and to change."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from support import planner

ROOT = Path(__file__).parents[2]
SMALL = ROOT / "tests" / "small.yaml"
SNAKEMAKE = str(Path(sys.executable).with_name("snakemake"))
PARTS = ("Snakefile", "rules", "workflow_scripts", "profiles", "envs")


def environment() -> dict[str, str]:
    """Variables for Snakemake: as they are, but for those that lead Python to this library."""
    return {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}


def jobs(text: str) -> dict[str, int]:
    """Jobs by rule, as a dry run counts them."""
    stats = re.search(r"^Job stats:\njob +count\n-+ +-+\n(.*?)\n\n", text, re.M | re.S)
    rows = dict(line.split() for line in stats[1].splitlines()) if stats else {}
    return {rule: int(n) for rule, n in rows.items() if rule not in ("all", "total")}


class Project:
    """A copy of the project with a study of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = ""  # of the run that finished it

    def snakemake(self, *arguments: str, **kwargs) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [SNAKEMAKE, "--cores", "2", *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            env=environment(),
            **kwargs,
        )

    def run(self, *arguments: str) -> str:
        done = self.snakemake(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def planned(self, *arguments: str) -> dict[str, int]:
        """Jobs of a dry run by rule."""
        done = planner.snakemake(
            ["--cores", "2", "--dry-run", *arguments], self.folder, environment()
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return jobs(done.stdout + done.stderr)

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.folder / name
        text = path.read_text()
        assert old in text, f"{old!r} is not in {name}"
        path.write_text(text.replace(old, new))

    def copy(self, folder: Path) -> "Project":
        shutil.copytree(self.folder, folder, symlinks=True)
        return Project(folder)


def make(folder: Path, study: Path = SMALL) -> Project:
    """A fresh project with a study and nothing computed."""
    folder.mkdir()
    for name in PARTS:
        if (ROOT / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, ignore=ignore)
        else:
            shutil.copy2(ROOT / name, folder / name)
    (folder / "resources").symlink_to(ROOT / "resources")
    shutil.copy2(study, folder / "config.yaml")
    return Project(folder)
