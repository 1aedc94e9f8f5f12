"""Digests of code: what is followed, and which edits re-run which stages."""

import ast
import json
import os
import shutil
from functools import cache
from pathlib import Path

import pytest
import yaml
from reprscope.plan import specs
from reprscope.plan.parse import parse
from reprscope.plan.read import read
from reprscope.runtime import code_digests
from reprscope.runtime.code_digests import code_digest, followed
from reprscope.runtime.errors import UserError

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "workflow_scripts"
GOLDEN = Path(__file__).with_name("followed.yaml")


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
    monkeypatch.setattr(code_digests, "PACKAGE", library)

    def digest(*modules):
        code_digests._facts.cache_clear()
        return code_digest(tmp_path / "script.py", modules)

    yield library, digest
    code_digests._facts.cache_clear()


def test_digest_follows_imports_and_ignores_comments(package):
    library, digest = package
    first = digest()
    (library / "used.py").write_text(
        '"""Another docstring."""\n# A comment.\nfrom reprscope import deep\n\n'
        'def f(x: int) -> int:\n    "Doc."\n    return deep.g( x )\n'
    )
    assert digest() == first
    (library / "other.py").write_text("def h(x):\n    return 2 * x\n")
    assert digest() == first
    assert digest("reprscope.other") != first
    (library / "deep.py").write_text("def g(x):\n    return x + 2\n")
    assert digest() != first


def test_only_definitions_that_are_used_count(package):
    library, digest = package
    first = digest()
    with (library / "deep.py").open("a") as file:
        file.write("\n\nUNUSED = 1\n\n\ndef unused(x):\n    return x\n")
    assert digest() == first
    with (library / "deep.py").open("a") as file:
        file.write("\n\ng = cached(g)\n")
    assert digest() != first


def test_a_definition_may_move_to_another_module(package):
    library, digest = package
    first = digest()
    (library / "deep.py").write_text("from reprscope.moved import g\n")
    (library / "moved.py").write_text("def g(x):\n    return x + 1\n")
    assert digest() == first
    (library / "moved.py").write_text("def g(x):\n    return x + 2\n")
    assert digest() != first


def test_two_definitions_that_change_places_count(package):
    """Of the same name, in two modules."""
    library, digest = package
    (library.parent / "script.py").write_text(
        "from reprscope import deep; from reprscope import other\nprint(deep.g(1) - other.g(1))\n"
    )
    (library / "other.py").write_text("def g(x):\n    return x + 3\n")
    first = digest()
    (library / "other.py").write_text("def g(x):\n    return x + 1\n")
    (library / "deep.py").write_text("def g(x):\n    return x + 3\n")
    assert digest() != first


@pytest.mark.parametrize(
    "use",
    [
        "def main():\n    from reprscope.other import h\n    return h(1)\n",
        "import reprscope.other\nreprscope.other.h(1)\n",
        "import reprscope.other as o\nprint(list(map(o.h, [1])))\n",
        "from reprscope import other\ngetattr(other, 'h')(1)\n",
        "from reprscope import other\nmodules = [other]\n",
        "from reprscope.other import A\nA().method()\n",
        "from reprscope.other import B\nB().method()\n",
        "from reprscope.other import C\nC['h'](1)\n",
        "from reprscope.other import D\nD(1)\n",
        "from reprscope.other import registered\nregistered['x'](1)\n",
        "from reprscope.other import E\nE()\n",
        "from reprscope import again\nagain.h(1)\n",
        "from reprscope.other import unpacked\nunpacked(1)\n",
        "from reprscope.other import conditional\nconditional(1)\n",
    ],
)
def test_however_a_definition_is_reached_it_counts(package, use):
    library, digest = package
    (library.parent / "script.py").write_text(use)
    text = """
import functools

def h(x):
    return {} * x

class A:
    def method(self):
        return h(1)

class B(A):
    pass

C = dict(h=h)
D = lambda x: h(x)
registered = {{}}

def register(function):
    registered["x"] = function
    return function

@register
def quiet(x):
    return h(x)

class E:
    rate: float = h(1)

unpacked, _ = h, None
if True:
    @functools.cache
    def conditional(x):
        return h(x)
else:
    conditional = None
"""
    (library / "again.py").write_text("from reprscope.other import h\n")
    (library / "other.py").write_text(text.format(1))
    first = digest()
    (library / "other.py").write_text(text.format(2))
    assert digest() != first


def test_messages_do_not_count_but_their_condition_does(package):
    library, digest = package
    text = (
        "import logging\nfrom reprscope.runtime.errors import UserError\n"
        "logger = logging.getLogger()\n\n\ndef g(x):\n"
        "    if x < {}:\n        logger.info('%s {}', x)\n        raise UserError('{}')\n"
        "    return x\n"
    )
    (library / "errors.py").write_text("class UserError(Exception):\n    pass\n")
    (library / "deep.py").write_text(text.format(0, "is", "Too small."))
    first = digest()
    (library / "deep.py").write_text(text.format(0, "was", "Much too small."))
    assert digest() == first
    (library / "deep.py").write_text(text.format(1, "is", "Too small."))
    assert digest() != first


def test_a_job_stops_if_its_code_was_edited_after_it_was_planned(package):
    library, digest = package
    planned = digest("reprscope.other")
    code_digests.check_code(planned, "script.py", ["reprscope.other"])
    (library / "deep.py").write_text("# A comment.\ndef g(x):\n    return x + 1\n")
    digest()
    code_digests.check_code(planned, "script.py", ["reprscope.other"])
    (library / "deep.py").write_text("def g(x):\n    return x + 2\n")
    digest()
    with pytest.raises(UserError, match=r"script\.py runs was edited after this run was planned"):
        code_digests.check_code(planned, "script.py", ["reprscope.other"])


def test_no_module_uses_what_the_digest_cannot_follow():
    """Relative imports, stars, and names that are looked up by their text."""
    # Of the rule that trains nano-sd, nothing follows the code.
    for path in set(SCRIPTS.rglob("*.py")) - {SCRIPTS / "train_nano.py"}:
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.ImportFrom) and node.level), path
            assert not (isinstance(node, ast.alias) and node.name == "*"), path
            assert not (isinstance(node, ast.Name) and node.id == "globals"), path
            assert not (isinstance(node, ast.Attribute) and node.attr == "__subclasses__"), path


def test_scripts_do_not_import_the_study_which_changes_with_every_entry():
    for script in SCRIPTS.glob("*.py"):
        assert not [name for name in followed(script) if name.startswith("reprscope.plan")], script


@cache
def codes():
    """Stages of the default study: what each job's script loads by name, once each."""
    study = parse(read(ROOT / "config.yaml"))
    experiments = study.experiments.values()
    measurements = [m for e in experiments for m in study.measurements(e)]
    wildcards = [m.wildcards() for m in measurements]
    stores = [r for m in measurements for r in study.representations(m)]

    def latents(one):
        return {"vae": one["model"], "pixels": "symmetric", "shard": "0of1"}

    texts = [
        *(specs.fetch_dataset(study, name) for name in study.datasets),
        *(specs.fetch_model(study, name) for name in study.models_used),
        *(specs.offsets(study, name) for name in study.models_used),
        *(specs.encode_images(study, one | latents(one)) for one in stores),
        *(specs.encode_prompts(study, one | {"text_encoder": one["model"]}) for one in stores),
        *(specs.extract(study, one) for one in stores),
        *(specs.evaluate(study, one) for one in wildcards),
        *(specs.tabulate(study, e.name) for e in experiments),
        *(specs.figure(study, e.name, f.name) for e in experiments for f in e.figures),
        specs.shapes(study),
        specs.scorecard(study),
        specs.report(study, ["config.yaml"]),
    ]
    found = {json.dumps(json.loads(text)["code"] | {"digest": ""}) for text in texts}
    return sorted(
        (json.loads(one) for one in found), key=lambda one: (one["script"], one["modules"])
    )


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A copy of scripts and library, to be edited."""
    folder = tmp_path_factory.mktemp("code") / "workflow_scripts"
    shutil.copytree(SCRIPTS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def digests(folder):
    """Of every stage and what it loads by name."""
    code_digests._facts.cache_clear()
    return {
        (code["script"], *code["modules"]): code_digest(folder / code["script"], code["modules"])
        for code in codes()
    }


def changed(library, monkeypatch, file, old, new):
    """Scripts whose digest an edit changes."""
    monkeypatch.setattr(code_digests, "PACKAGE", library / "reprscope")
    before = digests(library)
    path = library / "reprscope" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    try:
        after = digests(library)
    finally:
        path.write_text(text)
        code_digests._facts.cache_clear()
    return {key[0] for key in before if before[key] != after[key]}


WORDS = [
    ("base/paths.py", "\nIMAGES = ", '\nNEW = "results/new"\nIMAGES = ', set()),
    ("runtime/job.py", "the traceback is in", "see the traceback in", set()),
    ("runtime/files.py", "free some space", "make room", set()),
    (
        "representations/store.py",
        "has values that are not finite",
        "has values that are not numbers",
        set(),
    ),
    ("runtime/device.py", "time.sleep(0.5)", "time.sleep(2)", set()),
    ("models/families/unet.py", "do not fit the model", "do not suit the model", set()),
    ("tasks/correspondence.py", "of {row['model']} on", "of {row['model']} for", {"report.py"}),
    ("report/findings.py", "With noise seed", "For noise seed", {"report.py"}),
    (
        "models/labels.py",
        '"conv_in": "conv-in"',
        '"conv_in": "conv in"',
        {"figure.py", "report.py"},
    ),
    ("representations/extraction.py", '    """All positions', '    """All the positions', set()),
]


@pytest.mark.parametrize(("file", "old", "new", "stages"), WORDS, ids=[one[0] for one in WORDS])
def test_words_re_run_nothing_but_what_says_them(library, monkeypatch, file, old, new, stages):
    assert changed(library, monkeypatch, file, old, new) == stages


# They ask other things of a family than its definitions by name.
WHOLE = {"fetch_model.py", "shapes.py"}
ENCODED = {"encode_images.py", "measure_offsets.py"}
NUMBERS = [
    ("base/paths.py", "return int(", "return 1 + int(", {"extract.py"}),
    (
        "representations/store.py",
        "FLOAT16_MAX = ",
        "FLOAT16_MAX = 0.5 * ",
        {"extract.py", "encode_images.py"},
    ),
    ("models/vae.py", "def to_range(", "@torch.compile\ndef to_range(", ENCODED),
    (
        "models/families/unet.py",
        "    def tokens(",
        "    @cache\n    def tokens(",
        {"extract.py", "measure_offsets.py", *WHOLE},
    ),
    (
        "models/families/unet.py",
        "def text_precision(",
        "@cache\ndef text_precision(",
        {"encode_prompts.py", *WHOLE},
    ),
    ("measures/similarity.py", "BLOCK: Final = ", "BLOCK: Final = 2 * ", {"evaluate.py"}),
    (
        "measures/statistics.py",
        "FEWEST_UNITS: Final = 6",
        "FEWEST_UNITS: Final = 8",
        {"summarise.py"},
    ),
    ("figures/kinds/block_bars.py", "def draw(", "@cache\ndef draw(", {"figure.py"}),
    ("data/sources/menagerie.py", "SCALE = (1.5", "SCALE = (1.6", {"fetch_dataset.py"}),
    (
        "tasks/_findings.py",
        ">= FEWEST_TO_CHOOSE",
        "> FEWEST_TO_CHOOSE",
        {"report.py", "summarise.py"},
    ),
]


@pytest.mark.parametrize(("file", "old", "new", "stages"), NUMBERS, ids=[n[0] for n in NUMBERS])
def test_what_changes_a_number_re_runs_the_stages_that_use_it(
    library, monkeypatch, file, old, new, stages
):
    assert changed(library, monkeypatch, file, old, new) == stages


def test_what_stages_follow_is_known():
    """A stage that comes to follow another module shows in this file's difference.

    ``REPRSCOPE_GOLDEN=write`` writes it.
    """
    found = {}
    for code in codes():
        names = found.setdefault(code["script"], set())
        names.update(followed(SCRIPTS / code["script"], code["modules"]))
    kept = {script: sorted(names) for script, names in found.items()}
    if os.environ.get("REPRSCOPE_GOLDEN") == "write":
        GOLDEN.write_text(yaml.safe_dump(kept, width=100))
    assert kept == yaml.safe_load(GOLDEN.read_text())


PLUGINS = {"task": "tasks", "kind": "models", "family": "models"}


def test_a_spec_names_what_its_script_asks_of_what_it_loads_by_name():
    """Where single definitions are named; else the whole module counts."""
    checked = set()
    for code in codes():
        named = {entry.split(":")[1] for entry in code["modules"] if ":" in entry}
        if not named:
            continue
        tree = ast.parse((SCRIPTS / code["script"]).read_text())
        asked = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and (
                (isinstance(node.value, ast.Name) and node.value.id in PLUGINS)
                or (
                    isinstance(node.value, ast.Call)
                    and getattr(node.value.func, "id", "") in PLUGINS
                )
            )
        }
        if code["script"] == "summarise.py":
            asked.add("relate")
        assert asked <= named, (code["script"], asked - named)
        checked |= {(code["script"], name) for name in asked}
    assert {("evaluate.py", "measure"), ("extract.py", "load")} <= checked


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
