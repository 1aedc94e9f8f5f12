import ast
from pathlib import Path

import pytest
from reprscope import provenance, specs
from reprscope.errors import UserError
from reprscope.provenance import canonical_json, code_digest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of the same name with a script, a module it imports, and one it does not."""
    library = tmp_path / "reprscope"
    library.mkdir()
    (library / "__init__.py").write_text("")
    (library / "used.py").write_text(
        '"""Used."""\nfrom reprscope import deep\n\n\ndef f(x):\n    return deep.g(x)\n'
    )
    (library / "deep.py").write_text("def g(x):\n    return x + 1\n")
    (library / "other.py").write_text("def h(x):\n    return x\n")
    (tmp_path / "script.py").write_text(
        "import json\nfrom reprscope.used import f\n\nprint(f(1))\n"
    )
    monkeypatch.setattr(provenance, "PACKAGE", library)

    def digest(*modules):
        for function in (provenance._facts, provenance._tree):
            function.cache_clear()
        return code_digest(tmp_path / "script.py", modules)

    return library, digest


def test_digest_follows_imports_and_ignores_comments(package):
    library, digest = package
    first = digest()
    (library / "used.py").write_text(
        '"""Another docstring."""\n# A comment.\nfrom reprscope import deep\n\n'
        'def f(x):\n    "Doc."\n    return deep.g( x )\n'
    )
    assert digest() == first
    (library / "other.py").write_text("def h(x):\n    return 2 * x\n")
    assert digest() == first
    assert digest("reprscope.other") != first
    (library / "deep.py").write_text("def g(x):\n    return x + 2\n")
    assert digest() != first


def test_imports_inside_functions_count(package):
    library, digest = package
    (library.parent / "script.py").write_text(
        "def main():\n    from reprscope.other import h\n    return h(1)\n"
    )
    first = digest()
    (library / "other.py").write_text("def h(x):\n    return 3 * x\n")
    assert digest() != first


def test_no_module_uses_relative_imports_which_the_digest_would_miss():
    for path in (ROOT / "workflow_scripts").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.ImportFrom) and node.level), path


def test_scripts_do_not_import_the_study_which_changes_with_every_entry():
    for script in (ROOT / "workflow_scripts").glob("*.py"):
        reached, queue = set(), list(provenance._imports(script))
        while queue:
            name = queue.pop()
            path = provenance._module_path(name)
            if path is not None and name not in reached:
                reached.add(name)
                queue.extend(provenance._imports(path))
        assert not {"reprscope.study", "reprscope.specs"} & reached, script


def test_canonical_json_is_equal_for_equal_values():
    assert canonical_json({"b": 1, "a": [1, 2]}) == canonical_json({"a": [1, 2], "b": 1})
    assert canonical_json({"a": [1, 2]}) != canonical_json({"a": [2, 1]})


def test_every_rule_s_script_is_in_its_spec():
    """A script that no spec names could be edited without a re-run."""
    source = Path(specs.__file__).read_text()
    used = {
        line.split("workflow_scripts/")[1].strip().strip('"')
        for rules in (ROOT / "rules").glob("*.smk")
        for line in rules.read_text().splitlines()
        if "workflow_scripts/" in line and line.strip().startswith('"..')
    }
    assert used
    for script in used - {"train_nano.py"}:
        assert f'"{script}"' in source, script


def test_a_job_stops_if_its_code_was_edited_after_it_was_planned(package):
    library, digest = package
    planned = digest("reprscope.other")
    provenance.check_code(planned, "script.py", ["reprscope.other"])
    (library / "deep.py").write_text("# A comment.\ndef g(x):\n    return x + 1\n")
    digest()
    provenance.check_code(planned, "script.py", ["reprscope.other"])
    (library / "deep.py").write_text("def g(x):\n    return x + 2\n")
    digest()
    with pytest.raises(UserError, match=r"script\.py runs was edited after this run was planned"):
        provenance.check_code(planned, "script.py", ["reprscope.other"])
