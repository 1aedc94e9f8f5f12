"""Write the report: one page with everything that the study found."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from reprscope.base.provenance import digest, versions
from reprscope.data.canonical import read_record
from reprscope.published.scorecard import sentences, summary
from reprscope.report import run_times as benchmarks
from reprscope.report.findings import of_experiment
from reprscope.report.page import FigureEntry, Section, build, runtimes
from reprscope.representations import prompts
from reprscope.runtime import checksums
from reprscope.runtime.files import write_text
from reprscope.runtime.frames import read_frame
from reprscope.runtime.job import job
from reprscope.tasks._findings import of_blocks

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


INCOMPLETE = "This report is not complete, since a part of the last run failed; see below for what."


def section(entry: dict[str, Any], failed: Mapping[str, str]) -> Section:
    """Read one experiment's table and figures, and say which of them are missing."""
    drawn = [figure(stem) for stem in entry["figures"] if stem not in failed]
    moved = [f.spec["usermeta"]["found"] for f in drawn if "found" in f.spec["usermeta"]]
    there = entry["table"] not in failed
    found = of_experiment(entry["kind"], read_frame(Path(entry["table"]))) if there else None
    return Section(
        name=entry["name"],
        title=entry["title"],
        question=entry["question"],
        part=entry["part"],
        found=[*moved, *(found.sentences if found else [])],
        description=entry["description"],
        failed=[
            f"`{path}` is missing. {failed[path]}"
            for path in (entry["table"], *entry["figures"])
            if path in failed
        ],
        figures=drawn,
        table=found.table if found else None,
    )


def figure(stem: str) -> FigureEntry:
    """Read one figure."""
    spec = json.loads(checksums.read(Path(f"{stem}.json")))
    svg = checksums.read(Path(f"{stem}.svg")).decode()
    return FigureEntry(
        name=Path(stem).name, caption=spec["usermeta"]["caption"], spec=spec, svg=svg
    )


def sizes(path: str, failed: Mapping[str, str]) -> list[Section]:
    """Read the sizes of representations."""
    if path in failed:
        return []
    return [
        Section(
            name="sizes-of-representations",
            title="Sizes of representations",
            question="How many tokens and channels does each block put out?",
            description="Each model at the native size of its images.",
            table=of_blocks(read_frame(Path(path))),
        )
    ]


def scorecard(path: str, failed: Mapping[str, str]) -> list[Section]:
    """Read the comparison with published values; no section if the study measures none again."""
    if path in failed:
        return []
    card = read_frame(Path(path))
    if not card["ours"].count():
        return []
    return [
        Section(
            name="scorecard",
            title="Scorecard",
            question="Do the published numbers come out again?",
            found=sentences(card),
            description=f"Every number: `{path}`.",
            table=summary(card),
        )
    ]


def datasets(images: list[str]) -> list[Section]:
    """Read what sources did with their input; no section if none says anything."""
    said = [
        f"`{path.parent.name}`: {line}" for path in map(Path, images) for line in read_record(path)
    ]
    if not said:
        return []
    return [
        Section(
            name="datasets",
            title="Datasets",
            question="What was read, converted, left out and divided?",
            found=said,
        )
    ]


def models(manifests: list[str], texts: list[str]) -> list[Section]:
    """Read how the weights of models are stored, and which texts were cut; none says nothing."""
    said = []
    for path in map(Path, manifests):
        stored = json.loads(path.read_text(encoding="utf-8"))["stored"]
        parts = [
            f"{part} in {how['precision']}"
            + (f" (the variant {how['variant']})" if "variant" in how else "")
            for part, how in stored.items()
        ]
        if parts:
            said.append(f"`{path.parent.name}`: weights of {', '.join(parts)}.")
    for path in map(Path, texts):
        for encoder, how in prompts.origin(path)["cut"].items():
            if how["cut"]:
                said.append(
                    f"`{path.parent.name}`: {how['cut']} of {how['texts']} texts of the prompt "
                    f"{path.stem} are longer than the {how['length']} tokens that {encoder} reads, "
                    "and are cut."
                )
    if not said:
        return []
    return [
        Section(
            name="models",
            title="Models",
            question="In what precision are weights stored, and which texts are cut?",
            found=said,
        )
    ]


def main(
    manifests: list[str],
    images: list[str],
    texts: list[str],
    shapes: str,
    card: str,
    folder: Path,
    out: str,
    spec: str,
    failed: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write the page.

    After a run that failed, ``failed`` says of tables, figures (without a suffix) and other inputs
    that it did not make why; what an earlier run left of them is not read.
    """
    settings = json.loads(spec)
    revisions = {
        f"model {path.parent.name}": f"revision {checksums.read_json(path)['revision']}"
        for path in map(Path, manifests)
        if str(path) not in failed
    }
    sections = [section(entry, failed) for entry in settings["sections"]]
    if failed:
        settings["introduction"] = f"{INCOMPLETE}\n\n{settings['introduction']}"
    page = build(
        spec=digest(spec),
        title=settings["title"],
        introduction=settings["introduction"],
        sections=[
            *sections,
            *datasets([path for path in images if path not in failed]),
            *models(
                [path for path in manifests if path not in failed],
                [path for path in texts if path not in failed],
            ),
            *sizes(shapes, failed),
            *scorecard(card, failed),
        ],
        runtimes=runtimes(benchmarks.read(folder)),
        provenance={**versions(), **revisions, **settings["provenance"]},
    )
    write_text(out, page)


if __name__ == "__main__":
    with job(
        snakemake.log[0], snakemake.threads, spec=snakemake.params.spec, files=snakemake.input
    ):
        main(
            manifests=list(snakemake.input.manifests),
            images=list(snakemake.input.datasets),
            texts=list(snakemake.input.prompts),
            shapes=snakemake.input.shapes,
            card=snakemake.input.scorecard,
            folder=Path("results/benchmarks"),
            out=snakemake.output[0],
            spec=snakemake.params.spec,
        )
