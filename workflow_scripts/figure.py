"""Draw one figure of an experiment's table."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import altair as alt
from reprscope import figures, published
from reprscope.base.parameters import build
from reprscope.figures.render import save
from reprscope.figures.repeated import over, sentence
from reprscope.figures.theme import Theme
from reprscope.runtime.errors import UserError
from reprscope.runtime.frames import read_frame
from reprscope.runtime.job import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(table: Path, stem: Path, spec: str) -> None:
    """Write the figure as Vega-Lite JSON, HTML, SVG and PNG."""
    settings = json.loads(spec)
    kind = figures.load(settings["kind"])
    options = build(kind.Options, settings["options"], entry=settings["kind"])
    theme = build(Theme, settings["theme"], entry="theme")
    try:
        chart, caption = draw(table, kind, options, theme, settings)
    except UserError as error:
        raise UserError(f"experiments.{stem.parent.name}.figures.{stem.name}: {error}") from error
    save(chart, stem, caption, spec)


def draw(
    table: Path, kind: figures.Figure, options: Any, theme: Theme, settings: dict[str, Any]
) -> tuple[alt.TopLevelMixin, str]:
    """Draw the table's rows, and say what is seen."""
    found = [published.Match(**match) for match in settings["published"]["matches"]]
    frame = read_frame(table)
    repeated = settings["over"]
    frame = over(frame, repeated, options) if repeated else published.beside(frame, found)
    chart = kind.draw(frame, options, theme)
    if repeated:
        chart = chart.properties(usermeta={"found": sentence(frame, options)})
    return chart, kind.caption(frame, options)


if __name__ == "__main__":
    with job(
        snakemake.log[0], snakemake.threads, spec=snakemake.params.spec, files=snakemake.input
    ):
        main(
            table=Path(snakemake.input.table),
            stem=Path(snakemake.output.json).with_suffix(""),
            spec=snakemake.params.spec,
        )
