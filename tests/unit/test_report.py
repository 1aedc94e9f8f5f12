import html
import html.parser
import json
import re
import runpy
from pathlib import Path

import polars as pl
import pytest
from reprscope import figures
from reprscope.data.canonical import Dataset, write_dataset
from reprscope.figures import render
from reprscope.figures.theme import Theme
from reprscope.report import page as report
from reprscope.tasks._findings import best
from support import browser, tables
from support.pictures import image_frame

VOID = {"meta", "link", "br", "hr", "img", "input", "image", "use", "path", "rect", "line"}


class Reader(html.parser.HTMLParser):
    """Checks nesting and collects what a page refers to and says."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.references, self.loads, self.text = [], [], [], [], []
        self.counts = {}

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.counts[tag] = self.counts.get(tag, 0) + 1
        if tag not in VOID:
            self.open.append(tag)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        self.references += (attributes.get("aria-labelledby") or "").split()
        self.references += [v[1:] for k, v in attrs if k == "href" and v.startswith("#")]
        self.references += re.findall(r"url\(#([^)]+)\)", " ".join(str(v) for _, v in attrs))
        self.loads += [v for k, v in attrs if k in ("src", "href", "xlink:href", "srcset")]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if "script" not in self.open and "style" not in self.open:
            self.text.append(data)


def entry(kind, table):
    module = figures.load(kind)
    options = module.Options()
    caption = module.caption(table, options)
    chart = module.draw(table, options, Theme())
    spec = render.specification(chart, caption=caption, provenance="p")
    return report.FigureEntry(name=kind, caption=caption, spec=spec, svg=render.svg(spec))


@pytest.fixture(scope="module")
def entries():
    return {
        "block_bars": entry("block_bars", tables.probe()),
        "block_table": entry("block_table", tables.probe()),
        "lines_by_timestep": entry("lines_by_timestep", tables.correspondence()),
        "similarity_maps": entry("similarity_maps", tables.similarity(images=1)),
        "token_maps": entry("token_maps", tables.tokens()),
    }


BENCHMARKS = pl.DataFrame(
    {
        "rule": ["probe", "extract", "probe", "fetch_model"],
        "s": [3.25, 125.0, 1.5, None],
        "max_rss": [400.0, 2048.0, None, None],
    }
)


def page(entries, **changes):
    table = tables.probe().filter(pl.col("split") == "test").head(3)
    found = ["`nano-sd` is best at mid.", "Chance < 11 % & the twin is near it."]
    sections = [
        report.Section(
            name="probe/1",
            title="Which block knows?",
            question="Can a linear classifier <read> it?",
            found=found,
            figures=[entries["block_bars"], entries["block_table"]],
            table=table,
        ),
        report.Section(
            name="maps",
            title="Maps",
            question="Where?",
            figures=[entries[k] for k in ("lines_by_timestep", "similarity_maps", "token_maps")],
        ),
    ]
    arguments = {
        "title": "What <nano-sd> represents",
        "introduction": "First & foremost.\n\nThen `mid`.",
        "sections": sections,
        "runtimes": report.runtimes(BENCHMARKS),
        "provenance": {"torch": "2.13", "spec": '{"a": "<b>"}'},
    }
    return report.build(**(arguments | changes))


def read(text):
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def test_the_page_is_well_formed_and_complete(entries):
    text = page(entries)
    reader = read(text)
    assert reader.counts["figure"] == reader.counts["figcaption"] == 5
    assert reader.counts["svg"] == 5
    assert reader.counts["h1"] == 1
    assert len(reader.ids) == len(set(reader.ids))
    assert set(reader.references) <= set(reader.ids)
    assert reader.references
    said = " ".join(" ".join(reader.text).split())
    for words in (
        "What <nano-sd> represents",
        "First & foremost.",
        "Can a linear classifier <read> it?",
        "Chance < 11 % & the twin is near it.",
        '{"a": "<b>"}',
        *(figure.caption for figure in entries.values()),
    ):
        assert words in said
    assert [f"Figure {i}." in said for i in range(1, 7)] == [True] * 5 + [False]
    assert "<code>mid</code>" in text and "`" not in said


def test_vega_is_embedded_once_and_nothing_is_loaded(entries):
    text = page(entries)
    assert text.count(render.javascript()) == 1
    loads = [url for url in read(text).loads if not url.startswith(("#", "data:"))]
    assert loads == []
    assert not re.search(r"@import|url\(\s*[\"']?http", text.replace(render.javascript(), ""))


def test_specifications_survive_embedding(entries):
    text = page(entries)
    embedded = re.findall(
        r'<script type="application/json" id="spec-\d">(.*?)</script>', text, re.S
    )
    assert [json.loads(s) for s in embedded] == [figure.spec for figure in entries.values()]


def test_key_rows_are_printed_once_with_what_they_share(entries):
    reader = read(page(entries))
    said = " ".join(" ".join(reader.text).split())
    shared = "All rows: dataset menagerie, view identity, model nano-sd, resolution 128, prompt "
    assert shared + "empty, timestep 50, seed 42, protocol standard, split test." in said
    for row in tables.probe().filter(pl.col("split") == "test").head(3).iter_rows(named=True):
        assert f"{row['accuracy']:.3f}" in said
    assert "position" in said and "conv-out" in said


def test_columns_without_a_value_are_left_out(entries):
    table = tables.probe().with_columns(
        gain=pl.lit(None, pl.Float64), change=pl.lit(float("nan")), known=pl.lit(0.0)
    )
    table = best(table, "accuracy")
    section = report.Section(name="s", title="t", question="q", table=table)
    text = page(entries, sections=[section])
    assert ">known</th>" in text
    assert ">gain</th>" not in text and ">change</th>" not in text
    # How a row was chosen is in the sentence; of how many, and on how many, is in the table, too.
    assert ">chosen from</th>" in text and ">firm</th>" not in text and ">tied</th>" not in text


def test_cells():
    table = pl.DataFrame(
        {
            "position": ["up_blocks.1", "mid_block"],
            "images": [12000, None],
            "timestep": [50, 1000],
            "alpha": [0.05, 0.1],
            "loss": [float("nan"), 12345.6],
            "png": [b"\x89", b"\x89"],
        }
    )
    text = report._table(table, label="x")
    cells = re.findall(r"<td[^>]*>(.*?)</td>", text)
    assert cells == [
        *("up[1]", "12,000", "50", "0.05", "–"),
        *("mid", "–", "1000", "0.1", "12,346"),
    ]


def test_parts_open_with_what_was_found_first(entries):
    """Sections of a part stand together, in the order of the questions, and figures follow."""

    def section(name, part, found=(), figures=()):
        return report.Section(
            name=name,
            title=f"Title of {name}",
            question="q",
            part=part,
            found=found,
            figures=figures,
        )

    sections = [
        section("sizes", "", figures=[entries["block_table"]]),
        section("shared", "protocol", found=["Half of it is the noise."]),
        section("maps", "performance"),
        section("probe", "performance", ["mid is best.", "up is not."], [entries["block_bars"]]),
    ]
    text = page(entries, sections=sections)
    reader = read(text)
    assert set(reader.references) <= set(reader.ids)
    assert len(reader.ids) == len(set(reader.ids))
    headings = re.findall(r"<h([23]) id=\"[^\"]*\">([^<]*)</h", text.split("<footer>")[0])
    assert headings == [
        ("2", "How good?"),
        ("3", "Title of maps"),
        ("3", "Title of probe"),
        ("2", "What did the protocol do?"),
        ("3", "Title of shared"),
        ("2", "Title of sizes"),
    ]
    opening = re.findall(r'class="opening">(.*?) \(<a href="#(.*?)">', text)
    assert opening == [("mid is best.", "probe"), ("Half of it is the noise.", "shared")]
    captions = re.findall(r"<b>Figure (\d).</b> ([^<]*)<", text)
    assert captions == [
        ("1", html.escape(entries["block_bars"].caption)),
        ("2", html.escape(entries["block_table"].caption)),
    ]


def test_a_study_can_name_every_part():
    schema = json.loads(
        Path("workflow_scripts/reprscope/plan/study.schema.json").read_text(encoding="utf-8")
    )
    entry = schema["properties"]["experiments"]["items"]["properties"]["part"]
    assert entry["enum"] == [*report.PARTS]


def test_run_times_per_rule():
    times = report.runtimes(BENCHMARKS)
    assert times.rows() == [
        ("extract", 1, 125.0, 125.0, 2048.0),
        ("probe", 2, 4.75, 3.25, 400.0),
        ("fetch_model", 1, None, None, None),
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599.6, "1 h 00 min"),
        (7380, "2 h 03 min"),
    ],
)
def test_seconds_in_words(seconds, text):
    assert report._seconds(seconds) == text


def test_run_times_are_printed(entries):
    said = " ".join(" ".join(read(page(entries)).text).split())
    assert "4 jobs took 2 min 10 s in all" in said
    assert "extract 1 2 min 05 s 2 min 05 s 2.0 GB" in said
    assert "fetch model 1 – – –" in said


def test_a_page_without_figures_or_benchmarks():
    nothing = report.runtimes(BENCHMARKS.clear())
    text = report.build(
        title="Empty", introduction="", sections=[], runtimes=nothing, provenance={}
    )
    reader = read(text)
    assert "Run times" not in text and "script" not in reader.counts


def test_the_same_text_every_time(entries):
    assert page(entries) == page(entries)


needs_chromium = pytest.mark.skipif(
    browser.executable() is None, reason=f"no Chromium on the path ({', '.join(browser.NAMES)})"
)


@needs_chromium
def test_all_figures_become_interactive_offline(entries, tmp_path):
    path = tmp_path / "index.html"
    path.write_text(page(entries), encoding="utf-8")
    visit = browser.open_page(path, script="document.querySelectorAll('.still').length")
    assert visit.errors == []
    assert visit.requests == []
    assert (visit.charts, visit.value) == (5, 0)


@needs_chromium
def test_a_figure_that_fails_stays_a_picture(entries, tmp_path):
    good = entries["block_bars"]
    bad = report.FigureEntry(name="bad", caption="c", spec={"mark": "no such"}, svg=good.svg)
    section = report.Section(name="s", title="t", question="q", figures=[bad, good])
    path = tmp_path / "index.html"
    path.write_text(page(entries, sections=[section]), encoding="utf-8")
    pictures = "[...document.querySelectorAll('figure')].map(f => !!f.querySelector('.still svg'))"
    visit = browser.open_page(path, script=pictures)
    assert visit.value == [True, False]
    assert any("Figure 1 stays a picture" in error for error in visit.errors)


@needs_chromium
def test_the_browser_helper_sees_errors_and_requests(tmp_path):
    path = tmp_path / "bad.html"
    path.write_text(
        "<!DOCTYPE html><html><head><link rel='icon' href='data:,'></head><body>"
        "<img src='missing.png'><script>console.error('seen', 1); window.done = true; "
        "setTimeout(() => { throw new Error('thrown'); });</script></body></html>"
    )
    visit = browser.open_page(path, ready="window.done && document.readyState === 'complete'")
    assert any("seen 1" in error for error in visit.errors)
    assert any("thrown" in error for error in visit.errors)
    assert visit.requests == [(tmp_path / "missing.png").as_uri()]
    assert visit.charts == 0


def test_what_sources_say_of_their_datasets_stands_in_the_report(tmp_path):
    script = runpy.run_path(str(Path(report.__file__).parents[2] / "report.py"))
    quiet = write(tmp_path / "menagerie", ())
    assert script["datasets"]([quiet]) == []
    said = ("2 images in the folder", "images with grey read as RGB: 1 (<a>.png)")
    (section,) = script["datasets"]([quiet, write(tmp_path / "mine", said)])
    assert section.found == [f"`mine`: {line}" for line in said]
    text = report.build(
        title="t",
        introduction="",
        sections=[section],
        runtimes=report.runtimes(BENCHMARKS),
        provenance={},
    )
    assert "<code>mine</code>: images with grey read as RGB: 1 (&lt;a&gt;.png)" in text


def write(folder, record):
    folder.mkdir()
    write_dataset(Dataset(images=image_frame([(8, 8)]), record=record), folder)
    return str(folder / "images.parquet")
