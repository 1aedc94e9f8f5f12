"""docs/experiments.md names what is there, and every figure and table of both documents."""

import re

import pytest
from reprscope import figures, tasks
from reprscope.plan.read import read
from support.project import ROOT

NONE = {"–", ""}


def rows() -> list[list[str]]:
    text = (ROOT / "docs/experiments.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def names(*studies: str) -> dict[str, list[str]]:
    found = {}
    for study in studies:
        content = read(ROOT / f"studies/{study}.yaml")
        for entry in content["experiments"]:
            found[entry["name"]] = [content["tasks"][task]["kind"] for task in entry["tasks"]]
    return found


EMBEDDED, PUBLISHED = names("embedded"), names("thesis", "paper")


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_what_a_row_names_is_there(row):
    _, _, *cells = row
    embedded, published, measured, kinds = (set(cell.split(", ")) - NONE for cell in cells)
    assert measured <= set(tasks.available())
    assert kinds <= set(figures.available())
    for found, study in ((embedded, EMBEDDED), (published, PUBLISHED)):
        for name in found if measured else ():
            assert measured & set(study[name]), name


def test_every_figure_and_table_is_listed_once_and_every_experiment_is_named():
    def numbers(document: str, what: str) -> list[int]:
        first = [row[0] for row in rows() if row[0].startswith(f"{document}, {what}")]
        return sorted({int(n) for cell in first for n in re.findall(r"\d+", cell)})

    assert numbers("thesis", "table") == [1, 2]
    # Figures 1 and 3 of the thesis are a drawing of a U-Net and a screenshot.
    assert numbers("thesis", "figure") == [2, *range(4, 41)]
    assert numbers("paper", "figure") == [1, 2, 3, 4, 5]
    text = (ROOT / "docs/experiments.md").read_text(encoding="utf-8")
    missing = [name for name in EMBEDDED if name not in text]
    assert not missing
