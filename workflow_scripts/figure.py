"""Draw one figure of an experiment's table."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
from reprscope import figures, published
from reprscope.figures.render import save
from reprscope.figures.repeated import over, sentence
from reprscope.figures.theme import Theme
from reprscope.job import job
from reprscope.parameters import build

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(table: Path, stem: Path, spec: str) -> None:
    """Write the figure as Vega-Lite JSON, HTML, SVG and PNG."""
    settings = json.loads(spec)
    kind = figures.load(settings["kind"])
    options = build(kind.Options, settings["options"], entry=settings["kind"])
    theme = build(Theme, settings["theme"], entry="theme")
    found = [published.Match(**match) for match in settings["published"]["matches"]]
    frame = pl.read_parquet(table)
    repeated = settings["over"]
    frame = over(frame, repeated, options) if repeated else published.beside(frame, found)
    chart = kind.draw(frame, options, theme)
    if repeated:
        chart = chart.properties(usermeta={"found": sentence(frame, options)})
    save(chart, stem, kind.caption(frame, options), spec)


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads, files=snakemake.input):
        main(
            table=Path(snakemake.input.table),
            stem=Path(snakemake.output.json).with_suffix(""),
            spec=snakemake.params.spec,
        )
