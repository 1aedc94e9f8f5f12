"""Every command and every snippet of the README and the docs is run."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from reprscope.plan.parse import parse
from reprscope.plan.read import read

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

SETUP = {
    "make bench": "takes a quarter of an hour; test_benchmarks.py runs it in small",
    "make check": "CI runs it before the tests",
    "make test": "this run",
    "pip install": "what the Makefile does, and CI with it",
    "python -m benchmarks.coverage": "takes minutes; test_coverage.py runs it in small",
    "snakemake train_nano": "takes hours; tests/unit/test_nano.py trains for a few steps",
}


def fenced(language: str) -> list[tuple[str, str]]:
    return [
        (page.name, block)
        for page in PAGES
        for block in re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S)
    ]


COMMANDS = sorted(
    {
        line.split("#")[0].strip()
        for _, block in fenced("bash")
        for line in block.splitlines()
        if line.split("#")[0].strip()
    }
)


def install_commands(folder: Path) -> None:
    """Write the project's own commands to a folder, as `pip install -e .` does."""
    folder.mkdir()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name, target in project["scripts"].items():
        module, function = target.split(":")
        path = folder / name
        lines = [
            f"#!{sys.executable}",
            "import sys",
            f"sys.path.insert(0, {str(ROOT / 'workflow_scripts')!r})",
            f"from {module} import {function}",
            f"sys.exit({function}())",
        ]
        path.write_text("\n".join(lines) + "\n")
        path.chmod(0o755)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_runs(command, finished, tmp_path):
    if any(command.startswith(known) for known in SETUP):
        return
    project = finished.copy(tmp_path / "project")
    shutil.copy2(ROOT / "Makefile", project.folder)
    shutil.copy2(ROOT / "requirements.lock", project.folder)
    environment = Path(sys.executable).parents[1]
    (project.folder / ".venv").symlink_to(environment)
    if command.startswith("make") and not (environment / "installed").exists():
        pytest.skip("this environment was not made by make")
    install_commands(tmp_path / "bin")
    done = subprocess.run(
        f'PATH="{environment / "bin"}:{tmp_path / "bin"}:$PATH"; {command}',
        shell=True,
        executable="/bin/bash",
        cwd=project.folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("page", "block"), fenced("yaml"))
def test_a_piece_of_a_study_is_valid(page, block, monkeypatch):
    monkeypatch.chdir(ROOT)
    study = read(ROOT / "tests/small.yaml")
    for key, value in yaml.safe_load(block).items():  # merged as Snakemake merges two files
        study[key] = study[key] | value if isinstance(study.get(key), dict) else value
    parse(study)


@pytest.mark.parametrize(("page", "block"), fenced("python"))
def test_a_snippet_runs(page, block, finished, monkeypatch):
    monkeypatch.chdir(finished.folder)
    small = block.replace("menagerie-pairs", "creatures").replace("128px", "64px")
    exec(compile(small, page, "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_project_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target
