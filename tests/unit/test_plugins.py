"""What every plug-in keeps, whatever it does."""

from dataclasses import MISSING, asdict, fields

import pytest
from reprscope import figures, tasks
from reprscope.base.parameters import build
from reprscope.data import sources
from reprscope.models import denoiser
from reprscope.runtime.errors import UserError

NEEDED = {
    "path": "tests",
    "dataset": "owner/name",
    "splits": {"test": "test"},
    "columns": {"image": "image"},
}
SETTINGS = [
    *((sources, name, "Parameters") for name in sources.available()),
    *((tasks, name, "Parameters") for name in tasks.available()),
    *((figures, name, "Options") for name in figures.available()),
]


@pytest.mark.parametrize(("package", "name", "settings"), SETTINGS, ids=[s[1] for s in SETTINGS])
def test_a_study_may_write_every_default(package, name, settings):
    """Jobs read them back from their specs."""
    kind = getattr(package.load(name), settings)
    bare = [f for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    values = {field.name: NEEDED[field.name] for field in bare}
    found = build(kind, values, entry=name)
    assert build(kind, asdict(found), entry=name) == found


@pytest.mark.parametrize(
    ("get", "names", "what"),
    [
        (sources.load, sources.available, "dataset source"),
        (tasks.load, tasks.available, "task kind"),
        (figures.load, figures.available, "figure kind"),
        (denoiser.family, denoiser.families, "model family"),
    ],
)
def test_an_unknown_plug_in_is_answered_with_those_that_are_there(get, names, what):
    known = names()
    assert list(known) == sorted(known)
    assert not [name for name in known if name.startswith("_")]
    wrong = known[0] + "x"
    with pytest.raises(UserError) as caught:
        get(wrong)
    assert str(caught.value).startswith(f"There is no {what} {wrong!r}: use one of {known[0]}")
    assert str(caught.value).endswith(f"(perhaps {known[0]}).")
