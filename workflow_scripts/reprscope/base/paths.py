"""Where every file of ``results/`` is; the wildcards are the study's own names.

``results/`` is in the folder in which Snakemake runs; what belongs to the project is found beside
its Snakefile, wherever that is.
"""

import re
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[3]
DATASET = "results/datasets/{dataset}"
IMAGES = DATASET + "/images.parquet"
MODEL = "results/models/{model}"
MANIFEST = MODEL + "/manifest.json"
SNAPSHOT = MODEL + "/snapshot"
OFFSETS = MODEL + "/offsets.json"
LATENTS = "results/latents/{dataset}/{view}/{vae}/{resolution}px_{pixels}/{shard}.h5"
PROMPTS = "results/prompts/{text_encoder}/{prompt}.h5"
CONDITION = "{resolution}px_{prompt}_t{timestep}_seed{seed}_{protocol}"
REPRESENTATIONS = (
    "results/representations/{dataset}/{view}/{model}/" + CONDITION + "/{hookset}/{shard}.h5"
)
MEASUREMENT = (
    "results/measurements/{task}/{dataset}/{view}/{model}/" + CONDITION + "/{hookset}.parquet"
)
DECODED = MEASUREMENT.replace("{hookset}", "latents")
"""Measurements of the denoiser's input; ``latents`` is :data:`reprscope.tasks.LATENTS`."""

TABLE = "results/tables/{experiment}.parquet"
SCORECARD = "results/tables/scorecard.parquet"
SHAPES = "results/shapes.parquet"
FIGURE = "results/figures/{experiment}/{figure}"
FIGURE_FORMATS = ("json", "html", "svg", "png")
REPORT = "results/report/index.html"
INCOMPLETE = "results/incomplete/index.html"


def located(value: Any) -> Any:
    """A study whose ``resources/…`` are those of the project where its own folder has none.

    All other paths of a study are relative to the folder in which Snakemake runs.
    """
    if isinstance(value, dict):
        return {key: located(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [located(entry) for entry in value]
    if isinstance(value, str) and value.startswith("resources/") and not Path(value).exists():
        shipped = PROJECT / value
        return str(shipped) if shipped.exists() else value
    return value


def shown(path: str | Path) -> str:
    """Path as a reader knows it: relative to where Snakemake runs, or to the project, if inside."""
    absolute = Path(path).absolute()
    for folder in (Path.cwd(), PROJECT):
        if absolute.is_relative_to(folder):
            return str(absolute.relative_to(folder))
    return str(absolute)


def timestep(path: str | Path) -> int:
    """Timestep of a file of representations, as its path says."""
    found = re.search(r"_t(\d+)_seed", str(path))
    if found is None:
        raise ValueError(f"{path} names no timestep")
    return int(found[1])


def job_file(kind: str, rule: str, output: str, suffix: str) -> str:
    """Path of the log or benchmark of the job that makes ``output``: the same, elsewhere."""
    _, _, rest = output.removeprefix("results/").partition("/")
    return f"results/{kind}/{rule}/{rest.rsplit('.', 1)[0]}{suffix}"
