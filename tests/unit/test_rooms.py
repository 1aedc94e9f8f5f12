"""The library's rooms: in the order of the data's way, and no import against it."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import reprscope
from reprscope.runtime.code_digests import imported, module_path

LIBRARY = Path(reprscope.__file__).parent
ROOMS = (
    "runtime",
    "base",
    "data",
    "models",
    "representations",
    "measures",
    "tasks",
    "published",
    "figures",
    "report",
    "plan",
)


def modules() -> dict[str, Path]:
    """Dotted names of all modules below ``reprscope``, with their files."""
    return {
        ".".join(path.relative_to(LIBRARY).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(LIBRARY.rglob("*.py"))
    }


def test_there_are_few_rooms_and_each_says_what_it_is_for():
    packages = [path.parent for path in LIBRARY.rglob("__init__.py")]
    top = [folder for folder in packages if len(folder.relative_to(LIBRARY).parts) <= 2]
    assert len(top) == len(packages) <= 30
    assert {folder.name for folder in packages if folder.parent == LIBRARY} == set(ROOMS)
    assert {path.stem for path in LIBRARY.glob("*.py")} == {"__init__", "cli"}
    for folder in packages:
        assert (folder / "__init__.py").read_text().startswith('"""'), folder


def test_no_module_imports_upwards():
    """``cli`` stands above all rooms; only rules and scripts import ``plan``."""
    for name, path in modules().items():
        room = name.split(".")[0]
        if room in ROOMS:
            for target in imported(path):
                other = target.removeprefix("reprscope.").split(".")[0]
                if other in ROOMS:
                    assert ROOMS.index(other) <= ROOMS.index(room), (name, target)


def test_no_modules_import_each_other_in_a_circle():
    """When they are loaded; annotations may name each other's classes."""
    graph = {}
    for name, path in modules().items():
        targets = set()
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("reprscope"):
                inner = [f"{node.module}.{alias.name}" for alias in node.names]
                targets |= {one if module_path(one) else node.module for one in inner}
        graph[name] = {target.removeprefix("reprscope.") for target in targets} - {name}
    list(TopologicalSorter(graph).static_order())
