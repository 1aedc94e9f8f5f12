"""The pins of envs/ are those of the lock file, and cover what each stage imports."""

import ast
import re
import sys
from itertools import chain
from pathlib import Path

import pytest
import yaml
from reprscope.data import sources
from reprscope.models.denoiser import families
from reprscope.runtime.code_digests import imported, module_path

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = sorted((ROOT / "envs").glob("*.yaml"))
DISTRIBUTIONS = {
    "PIL": "pillow",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
DISTRIBUTIONS |= {"vl_convert": "vl-convert-python", "huggingface_hub": "huggingface-hub"}


def pins(path: Path) -> dict[str, str]:
    (pip,) = [e for e in yaml.safe_load(path.read_text())["dependencies"] if isinstance(e, dict)]
    return dict(pin.split("==") for pin in pip["pip"])


def lock() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pairs = (line.split("==") for line in lines if "==" in line)
    return {name.lower().replace("_", "-"): version for name, version in pairs}


def scripts_of(environment: str) -> dict[str, set[str]]:
    """Scripts that rules run in an environment, by the rules' own directives."""
    found = {}
    for path in (ROOT / "rules").glob("*.smk"):
        for rule in re.split(r"\n\s*rule ?\w*:\n", path.read_text())[1:]:
            if f"envs/{environment}.yaml" in rule:
                found |= {name: set() for name in re.findall(r"workflow_scripts/(\w+\.py)", rule)}
    return found


def third_party(script: Path, extra: list[str]) -> set[str]:
    """Distributions that a script and the reprscope modules it reaches import."""
    names, reached, queue = set(), set(), [script]
    modules = [*imported(script), *extra]
    while modules:
        name = modules.pop()
        path = module_path(name)
        if path is not None and path not in reached:
            reached.add(path)
            queue.append(path)
            modules.extend(imported(path))
    if "train_nano" in script.name:
        queue += (ROOT / "workflow_scripts" / "nano_sd").glob("*.py")
    for path in queue:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module.split(".")[0])
    names -= set(sys.stdlib_module_names) | {"reprscope", "nano_sd", "snakemake"}
    return {DISTRIBUTIONS.get(name, name) for name in names}


@pytest.mark.parametrize("path", ENVIRONMENTS, ids=lambda path: path.stem)
def test_pins_are_those_of_the_lock_file(path):
    locked = lock()
    for name, version in pins(path).items():
        assert locked[name] == version, name


@pytest.mark.parametrize("path", ENVIRONMENTS, ids=lambda path: path.stem)
def test_an_environment_has_what_its_scripts_import(path):
    extra = {
        "data": [f"reprscope.data.sources.{name}" for name in sources.available()],
        "models": [f"reprscope.models.families.{name}" for name in families()],
        "training": [],
        "tasks": ["reprscope.tasks.linear_probe", "reprscope.tasks.correspondence"],
        "figures": ["reprscope.figures.kinds.block_bars", "reprscope.figures.kinds.token_maps"],
    }[path.stem]
    scripts = scripts_of(path.stem)
    assert scripts
    for script in scripts:
        missing = third_party(ROOT / "workflow_scripts" / script, extra) - set(pins(path))
        assert not missing, (script, missing)


def test_the_lock_file_satisfies_the_ranges_of_the_project():
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = lock()
    extras = project["optional-dependencies"]
    for text in {*project["dependencies"], *chain(*extras.values())} - set(extras["all"]):
        requirement = Requirement(text)
        assert requirement.specifier.contains(locked[requirement.name.lower().replace("_", "-")])
    assert locked["torch"] == "2.13.0"
    (everything,) = extras["all"]
    assert Requirement(everything).extras == set(extras) - {"all", "dev"}
