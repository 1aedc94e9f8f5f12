"""One page that tells a study: every figure, what was asked and found, and how it was made.

The page opens from disk without a network. Vega is embedded once; each figure stands as SVG and
becomes interactive where scripts run.
"""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import polars as pl

from reprscope.figures.render import EMBED, POLICY, inline_json, javascript, with_ids
from reprscope.models.labels import KEYS, block_label, words

PARTS: Final[Mapping[str, str]] = {
    "performance": "How good?",
    "position": "Where?",
    "texture": "Texture or meaning?",
    "anomalies": "Anomalies?",
    "protocol": "What did the protocol do?",
}
"""Questions that the experiments of a study belong to, in the order of the page."""

_COUNTS = frozenset({"images", "pairs", "points", "jobs", "values", "compared", "within"})
# What all rows of a table share is said once, above it.
_CONDITIONS = (*KEYS, "split", "estimator", "alpha", "average")
# What a sentence above the table says in words, see reprscope.tasks._findings.best.
_SAID = frozenset({"tied", "firm"})
_CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True, kw_only=True)
class FigureEntry:
    """A figure of the report: file stem, caption, Vega-Lite specification and SVG text."""

    name: str
    caption: str
    spec: dict[str, Any]
    svg: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """One experiment: what was asked, what was found, its figures and its key numbers.

    ``name`` becomes the section's anchor. Texts are plain; `` `code` `` is set as code.

    Attributes
    ----------
    part : str
        Key of :data:`PARTS`, or empty for a section that stands by itself.
    found : sequence of str
        Sentences computed from the tables; the first may open the part.
    description : str
        How it was measured.
    failed : sequence of str
        What is not there, and why.
    """

    name: str
    title: str
    question: str
    part: str = ""
    found: Sequence[str] = ()
    description: str = ""
    failed: Sequence[str] = ()
    figures: Sequence[FigureEntry] = field(default_factory=list)
    table: pl.DataFrame | None = None


def runtimes(benchmarks: pl.DataFrame) -> pl.DataFrame:
    """Run times per rule from the rows of Snakemake's benchmark files.

    Parameters
    ----------
    benchmarks : DataFrame
        One row per job: ``rule``, ``s`` (seconds) and ``max_rss`` (MB), null where Snakemake
        could not measure.

    Returns
    -------
    DataFrame
        ``rule``, ``jobs``, ``total_s``, ``max_s``, ``max_rss_mb``; the longest total first.
    """
    return (
        benchmarks.group_by("rule")
        .agg(
            jobs=pl.len(),
            # The sum over no measured job is unknown, not zero.
            total_s=pl.when(pl.col("s").count() > 0).then(pl.col("s").cast(float).sum()),
            max_s=pl.col("s").cast(float).max(),
            max_rss_mb=pl.col("max_rss").cast(float).max(),
        )
        .sort(["total_s", "rule"], descending=[True, False], nulls_last=True)
    )


def build(
    *,
    title: str,
    introduction: str,
    sections: Sequence[Section],
    runtimes: pl.DataFrame,
    provenance: Mapping[str, str],
    spec: str = "",
) -> str:
    """Text of the page.

    Parameters
    ----------
    title : str
    introduction : str
        Plain text; an empty line ends a paragraph.
    sections : sequence of Section
        Those of a part stand together, under its question and the first sentence found in it;
        those of none follow.
    runtimes : DataFrame
        As :func:`runtimes` gives it; may have no rows.
    provenance : mapping of str to str
        Versions, model revisions, settings; long values may have several lines.
    spec : str
        Digest of the study's part that the page shows, by which it is told from another's.
    """
    parts = [(name, [s for s in sections if s.part == name]) for name in (*PARTS, "")]
    parts = [(name, found) for name, found in parts if found]
    sections = [section for _, found in parts for section in found]
    # Figures are numbered through the whole report.
    numbers = itertools.accumulate((len(s.figures) for s in sections), initial=0)
    before = dict(zip((s.name for s in sections), numbers, strict=False))
    body = [_part(name, found, before) for name, found in parts]
    contents = "".join(_contents(name, found) for name, found in parts)
    specs = [figure.spec for section in sections for figure in section.figures]
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="spec" content="{spec}">
<title>{html.escape(title)}</title>
<link rel="icon" href="data:,">
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>{_text(title)}</h1>
{_paragraphs(introduction)}
</header>
{f'<nav aria-label="Contents"><ol>{contents}</ol></nav>' if len(sections) > 1 else ""}
<main>
{"".join(body)}
</main>
<footer>
{_runtimes(runtimes)}
{_provenance(provenance)}
</footer>
{_scripts(specs)}
</body>
</html>
"""


def _part(name: str, sections: Sequence[Section], before: Mapping[str, int]) -> str:
    level = 3 if name else 2
    body = "".join(_section(section, before[section.name], level) for section in sections)
    if not name:
        return body
    opening = next(
        (
            f'<p class="opening">{_text(section.found[0])} '
            f'(<a href="#{_anchor(section.name)}">{_text(section.title)}</a>)</p>'
            for section in sections
            if section.found
        ),
        "",
    )
    return f"""<section class="part" aria-labelledby="part-{name}">
<h2 id="part-{name}">{PARTS[name]}</h2>
{opening}
{body}</section>
"""


def _contents(name: str, sections: Sequence[Section]) -> str:
    links = "".join(
        f'<li><a href="#{_anchor(s.name)}">{html.escape(s.title)}</a></li>' for s in sections
    )
    if not name:
        return links
    return f'<li><a href="#part-{name}">{PARTS[name]}</a><ol>{links}</ol></li>'


def _section(section: Section, before: int, level: int) -> str:
    said = [*section.found, *filter(None, [section.description])]
    found = "".join(f"<li>{_text(sentence)}</li>" for sentence in said)
    figures = "".join(
        _figure(figure, before + number) for number, figure in enumerate(section.figures, 1)
    )
    table = ""
    if section.table is not None and len(section.table):
        table = _table(section.table, label=f"Numbers of {section.title}")
    failed = "".join(f'<p class="failed">{_text(sentence)}</p>\n' for sentence in section.failed)
    anchor = _anchor(section.name)
    return f"""<section id="{anchor}" aria-labelledby="{anchor}-title">
<h{level} id="{anchor}-title">{_text(section.title)}</h{level}>
<p class="question">{_text(section.question)}</p>
{f'<ul class="found">{found}</ul>' if found else ""}
{failed}{figures}
{table}
</section>
"""


def _figure(figure: FigureEntry, number: int) -> str:
    drawing = with_ids(figure.svg[figure.svg.index("<svg") :], f"figure-{number}")
    return f"""<figure id="figure-{number}">
<div class="chart" role="group" aria-labelledby="caption-{number}" data-figure="{number}">
<div class="still">{drawing.strip()}</div></div>
<figcaption id="caption-{number}"><b>Figure {number}.</b> {_text(figure.caption)}</figcaption>
</figure>
"""


def _table(table: pl.DataFrame, *, label: str) -> str:
    # A column without a value says nothing.
    table = table.select(c for c in table if not c.is_null().all() and not _without_number(c))
    same = [c for c in _CONDITIONS if c in table.columns and table[c].n_unique() == 1]
    shared = ", ".join(f"{words(c)} {_cell(c, table[c][0])}" for c in same)
    hidden = {*same, *_SAID}
    columns = [c for c in table.columns if not _unprintable(table.schema[c]) and c not in hidden]
    kinds = {c: ' class="number"' if table.schema[c].is_numeric() else "" for c in columns}
    head = "".join(f'<th scope="col"{kinds[c]}>{html.escape(words(c))}</th>' for c in columns)
    rows = "".join(
        "<tr>" + "".join(f"<td{kinds[c]}>{_cell(c, row[c])}</td>" for c in columns) + "</tr>\n"
        for row in table.iter_rows(named=True)
    )
    return f"""{f'<p class="shared">All rows: {shared}.</p>' if shared else ""}
<div class="wide" role="region" tabindex="0" aria-label="{html.escape(label)}">
<table>
<thead><tr>{head}</tr></thead>
<tbody>
{rows}</tbody>
</table>
</div>
"""


def _without_number(column: pl.Series) -> bool:
    return column.dtype.is_float() and not column.is_finite().any()


def _unprintable(kind: pl.DataType) -> bool:
    return kind == pl.Binary or kind.is_nested()


def _cell(column: str, value: Any) -> str:
    if value is None or value != value:
        return "–"
    if column == "position":
        return html.escape(block_label(str(value)))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if column in _COUNTS else str(value)
    if isinstance(value, float) and column == "alpha":
        return f"{value:g}"
    if isinstance(value, float) and 0 < abs(value) < 0.0005:
        return f"{value:.1e}"  # such as penalties and p-values
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"
    return html.escape(str(value))


def _runtimes(table: pl.DataFrame) -> str:
    if table.is_empty():
        return ""
    total = float(table["total_s"].sum()) or 1.0
    rows = "".join(
        f'<tr><td>{html.escape(words(row["rule"]))}</td><td class="number">{row["jobs"]:,}</td>'
        f'<td class="number">{_seconds(row["total_s"])}'
        f'<span class="bar" style="--share:{100 * (row["total_s"] or 0) / total:.1f}%"></span></td>'
        f'<td class="number">{_seconds(row["max_s"])}</td>'
        f'<td class="number">{_memory(row["max_rss_mb"])}</td></tr>\n'
        for row in table.iter_rows(named=True)
    )
    return f"""<section aria-labelledby="runtimes">
<h2 id="runtimes">Run times</h2>
<p>{int(table["jobs"].sum()):,} jobs took {_seconds(float(table["total_s"].sum()))} in all,
counted one after the other.</p>
<div class="wide" role="region" tabindex="0" aria-label="Run times per rule">
<table>
<thead><tr><th scope="col">rule</th><th scope="col" class="number">jobs</th>
<th scope="col" class="number">all jobs</th><th scope="col" class="number">longest job</th>
<th scope="col" class="number">peak memory</th></tr></thead>
<tbody>
{rows}</tbody>
</table>
</div>
</section>
"""


def _seconds(value: float | None) -> str:
    if value is None:
        return "–"
    if value < 9.95:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def _memory(megabytes: float | None) -> str:
    if megabytes is None:
        return "–"
    return f"{megabytes:.0f} MB" if megabytes < 1000 else f"{megabytes / 1024:.1f} GB"


def _provenance(provenance: Mapping[str, str]) -> str:
    if not provenance:
        return ""
    entries = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd>\n"
        for name, value in provenance.items()
    )
    return f"""<section aria-labelledby="provenance">
<h2 id="provenance">Provenance</h2>
<details><summary>Versions, model revisions and settings behind every number</summary>
<dl>
{entries}</dl>
</details>
</section>
"""


def _scripts(specs: Sequence[dict[str, Any]]) -> str:
    if not specs:
        return ""
    data = "\n".join(
        f'<script type="application/json" id="spec-{number}">{inline_json(spec)}</script>'
        for number, spec in enumerate(specs, 1)
    )
    return f"""<script>{javascript()}</script>
{data}
<script>
(async () => {{
  for (const chart of document.querySelectorAll(".chart")) {{
    const still = chart.querySelector(".still");
    const live = document.createElement("div");
    live.className = "live";
    try {{
      const spec = document.getElementById("spec-" + chart.dataset.figure).textContent;
      await vegaEmbed(live, JSON.parse(spec), {EMBED});
      still.replaceWith(live);
    }} catch (error) {{
      console.error("Figure " + chart.dataset.figure + " stays a picture:", error);
    }}
  }}
  document.documentElement.dataset.charts = "ready";
}})();
</script>"""


def _paragraphs(text: str) -> str:
    parts = [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
    return "\n".join(f"<p>{_text(part)}</p>" for part in parts)


def _text(text: str) -> str:
    return _CODE.sub(r"<code>\1</code>", html.escape(text))


def _anchor(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "section"


_STYLE = """
:root { --ink: #1d2329; --muted: #5d6670; --line: #d9dde2; --accent: #1f5fa8;
  --sans: "Helvetica Neue", "Liberation Sans", Arial, system-ui, sans-serif; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0 auto; max-width: 60rem; padding: 2.5rem 1.25rem 4rem; color: var(--ink);
  background: #fff; font: 1.0625rem/1.6 Charter, "Bitstream Charter", "Iowan Old Style",
  "Source Serif Pro", Georgia, "Liberation Serif", serif; }
h1, h2, h3, figcaption, nav, table, summary, dl { font-family: var(--sans); }
h1 { font-size: 2.1rem; line-height: 1.15; letter-spacing: -.015em; margin: 0 0 1rem; }
h2 { font-size: 1.35rem; line-height: 1.25; letter-spacing: -.01em; margin: 0 0 .35rem; }
h3 { font-size: 1.15rem; line-height: 1.25; letter-spacing: -.01em; margin: 0 0 .35rem; }
.part > h2 { font-size: 1.65rem; border-top: 2px solid var(--ink); padding-top: .9rem; }
.part > section { margin-top: 2.4rem; scroll-margin-top: 1rem; }
.opening { font-size: 1.15rem; }
.opening a { white-space: nowrap; font-size: .88em; }
.failed { padding-left: .8rem; border-left: .25rem solid currentColor; }
p, ul.found { max-width: 42rem; margin: 0 0 .9rem; }
a { color: var(--accent); text-decoration-thickness: 1px; text-underline-offset: .15em; }
code { font: .88em/1 ui-monospace, "Liberation Mono", Menlo, Consolas, monospace;
  background: #f2f4f6; padding: .1em .3em; border-radius: 3px; }
nav { margin: 1.5rem 0 0; padding: .8rem 0; border-block: 1px solid var(--line);
  font-size: .93rem; }
nav ol { margin: 0; padding-left: 1.4rem; }
nav > ol { columns: 2 18rem; column-gap: 2rem; }
main > section, footer > section { margin-top: 3rem; scroll-margin-top: 1rem; }
.question { color: var(--muted); font-style: italic; }
ul.found { padding-left: 1.15rem; }
ul.found li { margin-bottom: .3rem; }
figure { margin: 1.5rem 0 2rem; }
.chart, .wide { overflow-x: auto; }
.still svg { display: block; max-width: 100%; height: auto; }
.live { display: inline-block; vertical-align: top; }
.live svg.marks, .live canvas.marks { display: block; }
figcaption { max-width: 46rem; margin-top: .6rem; color: var(--muted); font-size: .875rem;
  line-height: 1.5; }
figcaption b { color: var(--ink); }
table { border-collapse: collapse; font-size: .85rem; line-height: 1.35;
  font-variant-numeric: tabular-nums; margin: .5rem 0 1rem; }
th, td { padding: .38rem .7rem; text-align: left; vertical-align: baseline;
  border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; color: var(--muted); border-bottom: 1.5px solid var(--ink); }
.number { text-align: right; }
th:first-child, td:first-child { padding-left: 0; }
.shared { font-family: var(--sans); font-size: .85rem; color: var(--muted); margin-bottom: .2rem; }
.bar { display: block; height: 3px; margin-top: 3px;
  background: linear-gradient(to left, var(--accent) var(--share), var(--line) 0); }
details summary { cursor: pointer; color: var(--accent); font-size: .93rem; }
dl { display: grid; grid-template-columns: minmax(8rem, max-content) 1fr; gap: .35rem 1.25rem;
  font-size: .85rem; }
dt { color: var(--muted); }
dd { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  body { padding: 1.5rem 1rem 3rem; font-size: 1rem; }
  h1 { font-size: 1.65rem; }
  dl { grid-template-columns: 1fr; gap: .1rem; }
  dd { margin-bottom: .6rem; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10.5pt; }
  nav, .vega-embed details { display: none; }
  figure, table { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .chart, .wide { overflow: visible; }
  .live svg, .live canvas { max-width: 100% !important; height: auto !important; }
}
"""
