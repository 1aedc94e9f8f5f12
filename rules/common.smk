# Input functions and resources; the thinking is in workflow_scripts/reprscope.
import atexit
import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir) / "workflow_scripts"))

from snakemake.iocontainers import Wildcards

from reprscope.runtime import disk, failures
from reprscope.plan import jobs
from reprscope.base import paths
from reprscope.plan import specs
from reprscope.plan import stale
from reprscope import tasks
from reprscope.data.canonical import FILES
from reprscope.runtime.device import count_gpus
from reprscope.runtime.errors import UserError
from reprscope.plan.parse import load
from reprscope.plan.read import read

jobs.import_from(Path(workflow.basedir) / "workflow_scripts")
if {"{", "}"} & set(str(workflow.basedir)):
    sys.exit(
        f"Snakemake takes braces in {workflow.basedir} for a pattern: give the folder another name."
    )
# A study of one's own stands in the folder in which Snakemake runs, the default one beside the
# Snakefile. Of a file that is not YAML Snakemake itself would say neither its name nor the line.
STUDY = (
    "config.yaml" if Path("config.yaml").exists() else f"{workflow.basedir}/config.yaml"
)
try:
    read(Path(STUDY))
except UserError as error:
    sys.exit(f"The study is not usable. {error}")


configfile: STUDY


try:
    study = load(paths.located(config), [Path(path) for path in workflow.configfiles])
except UserError as error:
    sys.exit(f"The study is not usable. {error}")
if workflow.is_main_process:
    try:
        disk.check_temporary_files()
    except UserError as error:
        sys.exit(str(error))

# What is extracted together is decided once, by the process that plans all jobs.
TOGETHER = (
    jobs.together(study, lambda path: Path(path).exists())
    if workflow.is_main_process
    else jobs.remembered()
)
if workflow.is_main_process:
    stale.watch()
GPU = (
    {"gpu": 1}
    if study.device == "cuda" or (study.device == "auto" and count_gpus())
    else {}
)


wildcard_constraints:
    dataset=r"[^/]+",
    view=r"[^/_]+",
    model=r"[^/_]+",
    vae=r"[^/_]+",
    text_encoder=r"[^/_]+",
    prompt=r"[^/_]+",
    protocol=r"[^/_]+",
    hookset=rf"(?!{tasks.LATENTS}\.)[^/_]+",
    task=r"[^/_]+",
    experiment=r"(?!scorecard\.)[^/_]+",
    figure=r"[^/_]+",
    resolution=r"\d+",
    pixels=r"[^/_]+",
    timestep=r"\d+",
    seed=r"\d+",
    shard=r"\d+of\d+",


def model_memory(wildcards, attempt):
    """Memory of a job that runs a model: another try gets more, and not another batch."""
    return 8000 * attempt


def dataset_files(dataset):
    """Outputs of a dataset by name: its images and the annotations that it provides."""
    folder = paths.DATASET.format(dataset=dataset)
    provided = study.datasets[dataset].provides
    annotations = {name: file for name, file in FILES.items() if name in provided}
    return {
        name: f"{folder}/{file}"
        for name, file in {"images": "images.parquet", **annotations}.items()
    }


def prompt_inputs(wildcards):
    """The text encoder, and the images if the prompt names their label or caption."""
    inputs = {"text_encoder": paths.MANIFEST.format(model=wildcards.text_encoder)}
    prompt, _, dataset = wildcards.prompt.partition("@")
    if dataset:
        inputs["images"] = paths.IMAGES.format(dataset=dataset)
    return inputs


def extract_inputs(wildcards):
    """What one extraction reads."""
    shared = study.models[wildcards.model].shared_with
    prompt = study.prompt_key(wildcards.prompt, wildcards.dataset)
    pixels = study.protocols[wildcards.protocol].pixels
    return {
        "latents": paths.LATENTS.format(
            **{**wildcards, "vae": shared, "pixels": pixels}
        ),
        "prompt": paths.PROMPTS.format(text_encoder=shared, prompt=prompt),
        "images": paths.IMAGES.format(dataset=wildcards.dataset),
        "model": paths.MANIFEST.format(model=wildcards.model),
        "vae": paths.MANIFEST.format(model=shared),
    }


def offsets_inputs(wildcards):
    """What measuring a model's offsets reads: the model, its VAE and the empty prompt."""
    shared = study.models[wildcards.model].shared_with
    return {
        "model": paths.MANIFEST.format(model=wildcards.model),
        "vae": paths.MANIFEST.format(model=shared),
        "prompt": paths.PROMPTS.format(text_encoder=shared, prompt="empty"),
    }


def representations(wildcards, **changes):
    """All shards of the representations under a measurement's keys, some of them changed."""
    keys = {**wildcards, **changes}
    shards = study.datasets[keys["dataset"]].shard_names
    return [paths.REPRESENTATIONS.format(**keys, shard=shard) for shard in shards]


def evaluate_inputs(wildcards):
    """What a task reads: representations, those of its companions, offsets, and the dataset."""
    measured = specs.measured(study, wildcards)
    task = study.tasks[wildcards.task]
    return {
        "offsets": [paths.OFFSETS.format(**wildcards)] if measured else [],
        "representations": representations(wildcards),
        "companions": [
            path
            for changes in study.companions(wildcards.task).values()
            for path in representations(wildcards, **changes)
        ],
        "images": paths.IMAGES.format(dataset=wildcards.dataset),
        "annotations": [
            file
            for name, file in dataset_files(wildcards.dataset).items()
            if name in tasks.needs(task.kind, task.parameters)
        ],
    }


def decode_inputs(wildcards):
    """What decoding noised latents reads: all shards of latents, the schedule and the VAE."""
    shared = study.models[wildcards.model].shared_with
    pixels = study.protocols[wildcards.protocol].pixels
    keys = {**wildcards, "vae": shared, "pixels": pixels}
    shards = study.datasets[wildcards.dataset].shard_names
    return {
        "latents": [paths.LATENTS.format(**keys, shard=shard) for shard in shards],
        "images": paths.IMAGES.format(dataset=wildcards.dataset),
        "model": paths.MANIFEST.format(model=wildcards.model),
        "vae": paths.MANIFEST.format(model=shared),
    }


def evaluate_minutes(wildcards, input, attempt):
    """Two hours, a minute for each GB that is read, and what the task says; then twice that."""
    task = study.tasks[wildcards.task]
    held = study.hooksets[wildcards.hookset].resolve(study.models[wildcards.model])
    own = tasks.minutes(task.kind, task.parameters, len(held))
    return attempt * (120 + round(input.size_mb / 1000) + own)


def tabulate_inputs(wildcards):
    """All measurements of an experiment."""
    experiment = study.experiments[wildcards.experiment]
    return [
        paths.MEASUREMENT.format(**m.wildcards())
        for m in study.measurements(experiment)
    ]


def scorecard_inputs():
    """Tables of experiments that measure published values again."""
    return {
        "tables": [
            paths.TABLE.format(experiment=name) for name in specs.compared(study)
        ],
    }


def report_inputs():
    """Tables, figures, sizes, and records of models, datasets and prompts, for the report."""
    experiments = study.experiments.values()
    stems = [
        paths.FIGURE.format(experiment=e.name, figure=f.name)
        for e in experiments
        for f in e.figures
    ]
    return {
        "tables": [paths.TABLE.format(experiment=e.name) for e in experiments],
        "figures": [
            f"{stem}.{suffix}" for stem in stems for suffix in paths.FIGURE_FORMATS
        ],
        "shapes": paths.SHAPES,
        "scorecard": paths.SCORECARD,
        "manifests": [paths.MANIFEST.format(model=name) for name in study.models_used],
        "datasets": [paths.IMAGES.format(dataset=name) for name in study.datasets_used],
        "prompts": [
            paths.PROMPTS.format(text_encoder=model, prompt=prompt)
            for model, prompt in study.prompts_used
        ],
    }


def report_anyway():
    """After a run that failed: a page with what there is, which says what failed.

    It is not the report: that one would then count as made.
    """
    left = list(workflow.dag.needrun_jobs())
    failed = failures.unmade(workflow.scheduler.failed, left)
    inputs = report_inputs()
    if paths.REPORT not in failed or all(table in failed for table in inputs["tables"]):
        return
    import_module("report").main(
        manifests=inputs["manifests"],
        images=inputs["datasets"],
        texts=inputs["prompts"],
        shapes=paths.SHAPES,
        card=paths.SCORECARD,
        folder=Path("results/benchmarks"),
        out=paths.INCOMPLETE,
        spec=specs.report(study, workflow.configfiles),
        failed=failed,
    )
