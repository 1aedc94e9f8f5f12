"""A study of every family and every dataset, from a hub to tables, with no real host in reach."""

import os
import shutil

import polars as pl
import pytest
import yaml
from reprscope.models import registry
from safetensors.torch import load_file, save_file
from support import hub, miniatures, tiny_models, tiny_unets
from support.project import make

#: Known models and how their miniature is made, with as many layers as the real ones.
MODELS = {
    "sd-1.5": lambda folder: tiny_unets.make("sd-1", folder, deep=True),
    "sd-2.1": lambda folder: tiny_unets.make("sd-2", folder, deep=True),
    "sd-turbo": lambda folder: tiny_unets.make("sd-turbo", folder, deep=True),
    "sdxl": lambda folder: tiny_unets.make("sdxl", folder, deep=True),
    "sd-3-medium": lambda folder: tiny_models.sd3(folder, layers=24),
    "flux-schnell": lambda folder: tiny_models.flux(folder, layers=(19, 38)),
}
LIGHTNING = "sdxl-lightning-4-step"
POSITIONS = ["mid", "up[1]", "block[7]", "single[3]"]
STUDY = {
    "title": "Every family and every dataset",
    "device": "cpu",
    "precision": "float32",
    "batch_size": 4,
    "hooksets": {"some": {"positions": POSITIONS}},
    "tasks": {
        "probe": {"kind": "linear_probe", "form": "published", "epochs": 2},
        "matching": {"kind": "correspondence"},
        "maps": {"kind": "token_maps", "count": 1, "clusters": 2},
    },
}


def experiment(name: str, task: str, datasets: list[str], models: list[str], **more) -> dict:
    return {
        "name": name,
        "tasks": [task],
        "datasets": datasets,
        "models": models,
        "positions": POSITIONS if len(models) > 1 else POSITIONS[:2],
        "timesteps": [50],
        "resolutions": [64],
        **more,
    }


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """The study, run once, and the hub that it was run against."""
    project = make(tmp_path_factory.mktemp("families") / "project")
    served = project.folder / "hub"
    miniatures.hub(served / "datasets")
    datasets = miniatures.entries(project.folder / "files")
    commits = {}
    for name, build in MODELS.items():
        source = registry.find(name).sources[0]
        build(served / "models" / source.repository)
        commits[source.repository] = source.revision
    own = registry.find(LIGHTNING).denoiser
    weights = load_file(
        served
        / "models"
        / registry.find("sdxl").sources[0].repository
        / "unet"
        / "diffusion_pytorch_model.safetensors"
    )
    path = served / "models" / own.repository / own.file
    path.parent.mkdir(parents=True)
    save_file({key: -values for key, values in weights.items()}, path)
    commits[own.repository] = own.revision

    models = [*MODELS, LIGHTNING]
    others = [name for name in datasets if name != "spair"]
    study = STUDY | {
        "datasets": datasets,
        "models": {name: {"known": name} for name in models},
        "experiments": [
            experiment("correspondence", "matching", ["spair"], models),
            experiment("as-published", "matching", ["spair"], ["sd-turbo"], protocols=["thesis"]),
            experiment("classification", "probe", ["cifar10"], ["sd-1.5"]),
            experiment("maps", "maps", others, ["sd-1.5"]),
        ],
    }
    (project.folder / "config.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    with hub.serve(served) as running, pytest.MonkeyPatch.context() as patch:
        running.commits.update({k: v for k, v in commits.items() if v != "main"})
        environment = running.environment(project.folder / "home")
        del environment["HF_HUB_OFFLINE"]
        for name, value in environment.items():
            patch.setitem(os.environ, name, value)
        project.run()
        asked = list(running.requests)
        # Another study finds everything in the cache.
        shutil.rmtree(project.folder / "results" / "models")
        project.run(*(f"results/models/{name}/manifest.json" for name in models))
        again = [path for method, path in running.requests[len(asked) :] if "/resolve/" in path]
    return project, models, again


def table(project, name: str) -> pl.DataFrame:
    return pl.read_parquet(project.folder / "results" / "tables" / f"{name}.parquet")


def test_every_family_runs_from_fetch_to_tables(computed):
    project, models, _ = computed
    found = table(project, "correspondence")
    assert set(found["model"]) == set(models)
    cosine = found.filter(pl.col("estimator") == "cosine")
    transformers = cosine.filter(pl.col("model").is_in(["sd-3-medium", "flux-schnell"]))
    assert set(transformers["position"]) == {"transformer_blocks.7", "single_transformer_blocks.3"}
    assert set(cosine.filter(pl.col("model") == "sdxl")["position"]) == {
        "mid_block",
        "up_blocks.1",
    }
    assert cosine["pck"].is_between(0, 1).all()


def test_the_thesis_protocol_gives_other_numbers(computed):
    project, _, _ = computed
    published = table(project, "as-published").filter(pl.col("estimator") == "cosine")
    standard = table(project, "correspondence").filter(
        (pl.col("estimator") == "cosine") & (pl.col("model") == "sd-turbo")
    )
    assert set(published["protocol"]) == {"thesis"}
    keys = ["position", "split", "average", "alpha"]
    assert len(published) == len(standard)
    assert published.sort(keys)["pck"].to_list() != standard.sort(keys)["pck"].to_list()


def test_lightning_has_weights_of_its_own(computed):
    project, _, _ = computed
    cosine = table(project, "correspondence").filter(pl.col("estimator") == "cosine")
    scores = [
        cosine.filter(pl.col("model") == name).sort(pl.all())["pck"].to_list()
        for name in ("sdxl", LIGHTNING)
    ]
    assert len(scores[0]) == len(scores[1]) and scores[0] != scores[1]


def test_every_dataset_reaches_a_table(computed):
    project, _, _ = computed
    assert set(table(project, "classification")["dataset"]) == {"cifar10"}
    assert set(table(project, "maps")["dataset"]) == {
        "cifar10",
        "cifar100",
        "tiny-imagenet",
        "imagenet-subset",
        "captioned",
        "photos",
        "nyu",
    }


def test_the_miniature_of_every_source_is_fetched(computed):
    project, _, _ = computed
    folder = project.folder / "results/datasets"
    counts = {
        path.parent.name: pl.scan_parquet(path).select(pl.len()).collect().item()
        for path in folder.glob("*/images.parquet")
    }
    assert counts == {
        "cifar10": 30,
        "cifar100": 20,
        "tiny-imagenet": 18,
        "imagenet-subset": 10,
        "captioned": 6,
        "photos": 6,
        "spair": 9,
        "nyu": 5,
    }
    assert (folder / "nyu" / "depth.h5").is_file()
    assert project.planned(*(f"results/datasets/{name}/images.parquet" for name in counts)) == {}


def test_a_model_that_was_fetched_once_is_not_fetched_again(computed):
    assert computed[2] == []
