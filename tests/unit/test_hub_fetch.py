"""Models of the hub, through the real client against a stand-in on 127.0.0.1.

The models are small, in exactly the layouts of the real repositories.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from huggingface_hub import constants
from reprscope.base.protocol import Protocol
from reprscope.models import registry
from reprscope.models.families import unet
from reprscope.models.hub import layout
from reprscope.plan import specs
from reprscope.plan.parse import parse
from reprscope.plan.read import read
from reprscope.runtime.errors import UserError
from safetensors.torch import load_file, save_file
from support import hub as stand_in

ROOT = Path(__file__).parents[2]
UNET = "unet/diffusion_pytorch_model"
SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
MIRRORED = "sd-2.1-base"
LARGE = f"{UNET}.safetensors"
TEXT = 64
"""Features of the embedded model's text encoder."""
PIECE = constants.DOWNLOAD_CHUNK_SIZE
FETCH = """
import sys
from pathlib import Path
from fetch_model import main
from reprscope.runtime.errors import UserError
out = Path(sys.argv[1])
try:
    main(out / "snapshot", out / "manifest.json", sys.argv[2])
except UserError as error:
    sys.exit(str(error))
"""


def small_unet(name: str, seed: int, width: int = 8) -> UNet2DConditionModel:
    """A U-Net with the blocks of a known model."""
    config = dict(registry.find(name).architecture.denoiser)
    blocks = len(config["down_block_types"])
    config |= {
        "block_out_channels": [width] * blocks,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
        "cross_attention_dim": TEXT,
    }
    if "addition_embed_type" in config:
        config |= {
            "cross_attention_dim": 2 * TEXT,
            "addition_time_embed_dim": 4,
            "projection_class_embeddings_input_dim": TEXT + 6 * 4,
        }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet2DConditionModel.from_config(config)


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def repository(folder: Path, name: str, seed: int, nano: Path) -> Path:
    """A model in diffusers' layout, with all that real repositories hold beside it."""
    shutil.copytree(nano, folder, ignore=shutil.ignore_patterns("unet", "*.md", "*.jpg", "*.png"))
    if registry.find(name).architecture.denoiser.get("addition_embed_type"):
        shutil.copytree(folder / "text_encoder", folder / "text_encoder_2")
        edit(folder / "text_encoder_2/config.json", architectures=["CLIPTextModelWithProjection"])
        shutil.copytree(folder / "tokenizer", folder / "tokenizer_2")
        path = folder / "text_encoder_2/model.safetensors"
        save_file({**load_file(path), "text_projection.weight": torch.eye(TEXT)}, path)
    network = small_unet(name, seed)
    network.save_pretrained(folder / "unet")
    network.half().save_pretrained(folder / "unet", variant="fp16")
    torch.save(network.state_dict(), folder / f"{UNET}.bin")
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "config.json").write_text("{}")
    (folder / "safety_checker" / "model.safetensors").write_bytes(b"unused")
    (folder / "v1-5-pruned.ckpt").write_bytes(b"pickle")
    (folder / "unet" / "unet_code.py").write_text("raise SystemExit('this ran')")
    (folder / "text_encoder" / "pytorch_model.bin").write_bytes(b"pickle")
    return folder


@pytest.fixture(scope="module")
def tree(tmp_path_factory, nano) -> Path:
    """What the stand-in serves."""
    root = tmp_path_factory.mktemp("hub")
    models = root / "models"
    repository(models / SD15, "sd-1.5", 0, nano)
    for number, source in enumerate(registry.find(MIRRORED).sources):
        repository(models / source.repository, MIRRORED, 1 + number, nano)
    repository(models / SDXL, "sdxl", 3, nano)
    lightning = models / "ByteDance/SDXL-Lightning"
    lightning.mkdir(parents=True)
    weights = {k: v.half() for k, v in small_unet("sdxl", 4).state_dict().items()}
    save_file(weights, lightning / "sdxl_lightning_1step_unet_x0.safetensors")
    (lightning / "sdxl_lightning_4step_lora.safetensors").write_bytes(b"unused")

    large = models / "someone/large"  # larger than the pieces in which the client writes
    shutil.copytree(nano, large, ignore=shutil.ignore_patterns("unet"))
    small_unet("sd-1.5", 0, width=80).half().save_pretrained(large / "unet")

    pickled = models / "someone/pickled"
    shutil.copytree(models / SD15, pickled)
    for path in (pickled / "unet").glob("*.safetensors"):
        path.unlink()
    inpainting = models / "someone/inpainting"
    shutil.copytree(models / SD15, inpainting)
    edit(inpainting / "unet/config.json", in_channels=9)
    sharded = models / "someone/sharded"
    shutil.copytree(models / SD15, sharded)
    for path in (sharded / "unet").glob("*.safetensors"):
        path.unlink()
    network = small_unet("sd-1.5", 0)
    network.save_pretrained(sharded / "unet", max_shard_size="100KB")
    network.half().save_pretrained(sharded / "unet", max_shard_size="50KB", variant="fp16")
    return root


@pytest.fixture
def hub(tree):
    with stand_in.serve(tree) as running:
        for model in registry.models().values():
            for source in (*model.sources, *filter(None, [model.denoiser])):
                if source.revision != "main":
                    running.commits[source.repository] = source.revision
        yield running


@pytest.fixture
def fetch(hub, tmp_path, monkeypatch):
    """Fetch an entry of a study as its job does, in a process of its own.

    Gives the folder, or the sentence for the user.
    """
    monkeypatch.chdir(ROOT)
    config = read(ROOT / "tests/small.yaml")

    def run(entry, name="out", **environment):
        twin = {"twin": {"untrained": "it", "seed": 5}}
        study = parse({**config, "models": {**config["models"], "it": entry, **twin}})
        out = tmp_path / name
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        spec = specs.fetch_model(study, "twin" if name == "twin" else "it")
        done = subprocess.run(
            [sys.executable, "-c", FETCH, str(out), spec],
            capture_output=True,
            text=True,
            env={
                **os.environ,
                **hub.environment(tmp_path / "home"),
                "PYTHONPATH": str(ROOT / "workflow_scripts"),
                **environment,
            },
        )
        if done.returncode == 0:
            return out
        assert "Traceback" not in done.stderr, done.stderr
        sentence = done.stderr.strip().split("\n")[-1]
        assert sentence.endswith(".")
        return sentence

    return run


def origin(out: Path) -> list[str]:
    return [
        each["repository"] for each in json.loads((out / "manifest.json").read_text())["origin"]
    ]


def weights_of(out: Path) -> dict[str, torch.Tensor]:
    """Weights that the family loads from a fetched folder."""
    loaded = unet.load(
        out / "snapshot",
        dtype=torch.float16,
        device=torch.device("cpu"),
        protocol=Protocol(),
        upcast_attention=False,
    )
    return dict(loaded.module.state_dict())


def equal(found, expected) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(found[key], expected[key]) for key in expected
    )


def test_a_known_model_is_fetched_with_only_the_files_it_needs(hub, fetch, tree):
    out = fetch({"known": "sd-1.5"})
    manifest = json.loads((out / "manifest.json").read_text())
    commit = registry.find("sd-1.5").sources[0].revision
    assert manifest["origin"] == [{"repository": SD15, "commit": commit}]
    names = [path.split(f"/{commit}/")[1] for path in hub.downloads()]
    assert sorted(names) == sorted(
        [
            "model_index.json",
            "scheduler/scheduler_config.json",
            "text_encoder/config.json",
            "text_encoder/model.safetensors",
            "tokenizer/merges.txt",
            "tokenizer/special_tokens_map.json",
            "tokenizer/tokenizer_config.json",
            "tokenizer/vocab.json",
            "unet/config.json",
            f"{UNET}.fp16.safetensors",
            "vae/config.json",
            "vae/diffusion_pytorch_model.safetensors",
        ]
    )
    assert f"{UNET}.safetensors" in manifest["files"]
    assert equal(weights_of(out), load_file(tree / "models" / SD15 / f"{UNET}.fp16.safetensors"))


def test_full_precision_is_fetched_on_demand(hub, fetch, tree):
    out = fetch({"known": "sd-1.5", "variant": "full"})
    assert not [path for path in hub.downloads() if "fp16" in path]
    stored = load_file(out / "snapshot" / f"{UNET}.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}


@pytest.mark.parametrize("variant", ["fp16", "full"])
def test_sharded_weights_load_under_their_canonical_names(hub, fetch, tree, variant):
    out = fetch({"hub": "someone/sharded", "like": "sd-1.5", "variant": variant})
    shards = [path for path in hub.downloads() if "-of-" in path]
    assert len(shards) > 2
    assert all((".fp16-" in path) == (variant == "fp16") for path in shards)
    expected = load_file(tree / "models" / SD15 / f"{UNET}.fp16.safetensors")
    assert equal(weights_of(out), expected)


def test_a_fetched_model_is_never_fetched_again(hub, fetch):
    first = fetch({"known": "sd-1.5"})
    hub.requests.clear()
    second = fetch({"known": "sd-1.5"}, "another-study")
    third = fetch({"known": "sd-1.5"}, "offline", HF_HUB_OFFLINE="1")
    assert hub.requests == []
    texts = [(out / "manifest.json").read_text() for out in (first, second, third)]
    assert texts[0] == texts[1] == texts[2]


def test_main_stays_at_the_commit_that_was_fetched_first(hub, fetch):
    entry = {"hub": "someone/sharded", "like": "sd-1.5"}
    first = fetch(entry)
    hub.commits["someone/sharded"] = "f" * 40
    hub.requests.clear()
    assert (fetch(entry, "again") / "manifest.json").read_text() == (
        first / "manifest.json"
    ).read_text()
    assert hub.requests == []


def test_offline_without_the_model_in_the_cache(fetch):
    assert "HF_HUB_OFFLINE forbids a download" in fetch({"known": "sd-1.5"}, HF_HUB_OFFLINE="1")


def test_a_gated_model_says_how_to_get_access(hub, fetch):
    hub.gated.add(SD15)
    sentence = fetch({"known": "sd-1.5"})
    assert (
        f"accept the terms on {hub.endpoint}/{SD15}, then log in with `hf auth login`" in sentence
    )
    assert not [path for path in hub.downloads() if path.endswith(".safetensors")]


def test_mirrors_are_tried_in_order(hub, fetch, tree, tmp_path):
    first, second = (source.repository for source in registry.find(MIRRORED).sources)
    assert origin(fetch({"known": MIRRORED})) == [first]
    hub.gated.add(first)
    out = fetch({"known": MIRRORED}, "mirror", HF_HOME=str(tmp_path / "second"))
    assert origin(out) == [second]
    assert equal(weights_of(out), load_file(tree / "models" / second / f"{UNET}.fp16.safetensors"))
    hub.gated.add(second)
    sentence = fetch({"known": MIRRORED}, "none", HF_HOME=str(tmp_path / "third"))
    assert f"{first} is gated" in sentence
    assert f"; {second} is gated" in sentence


def test_a_repository_or_revision_that_is_not_there(fetch):
    assert "someone/none does not exist" in fetch({"hub": "someone/none", "like": "sd-1.5"})
    entry = {"hub": "someone/sharded", "like": "sd-1.5", "revision": "v9"}
    assert fetch(entry) == "someone/sharded has no revision v9: name another."


def test_a_dropped_connection_goes_on_within_a_run(hub, fetch, tree):
    hub.dropped[LARGE] = [PIECE + 5000]
    out = fetch({"hub": "someone/large", "like": "sd-1.5"})
    assert hub.resumed == [LARGE]
    assert equal(weights_of(out), load_file(tree / "models/someone/large" / LARGE))


def test_after_a_lasting_break_the_next_run_fetches_only_what_is_missing(hub, fetch, tree):
    name = f"{UNET}.fp16.safetensors"
    hub.dropped[name] = [5000] * 20
    sentence = fetch({"known": "sd-1.5"})
    assert sentence.startswith(f"The download of {SD15} stopped (")
    assert sentence.endswith("): run again, the files that are complete are kept.")
    hub.dropped.clear()
    hub.requests.clear()
    out = fetch({"known": "sd-1.5"})
    fetched = hub.downloads()
    assert [path for path in fetched if not path.endswith(".safetensors")] == []
    assert [path for path in fetched if path.endswith(name)]
    assert equal(weights_of(out), load_file(tree / "models" / SD15 / name))


def test_a_short_file_is_one_sentence_and_the_next_run_mends_it(hub, fetch):
    hub.short.add(f"{UNET}.fp16.safetensors")
    assert "stopped (" in fetch({"known": "sd-1.5"})
    hub.short.clear()
    assert origin(fetch({"known": "sd-1.5"})) == [SD15]


@pytest.mark.parametrize("name", [f"{UNET}.fp16.safetensors", "unet/config.json"])
def test_a_corrupt_file_is_removed_and_fetched_anew(hub, fetch, tree, name):
    hub.corrupt.add(name)
    sentence = fetch({"known": "sd-1.5"})
    assert sentence == (
        f"{name.replace('.fp16', '')} of {SD15} is corrupt (its checksum is not the hub's), and "
        "was removed from the cache: run again to fetch it anew."
    )
    hub.corrupt.clear()
    hub.requests.clear()
    out = fetch({"known": "sd-1.5"})
    # A configuration is looked at before weights are fetched.
    wanted = {name} if name.endswith(".safetensors") else {name, ".safetensors"}
    assert all(path.endswith(tuple(wanted)) for path in hub.downloads())
    assert sum(path.endswith(name) for path in hub.downloads()) == 1
    expected = load_file(tree / "models" / SD15 / f"{UNET}.fp16.safetensors")
    assert equal(weights_of(out), expected)


def test_a_cache_that_went_bad_is_found(hub, fetch, tmp_path):
    fetch({"known": "sd-1.5"})
    [path] = (tmp_path / "home").rglob("diffusion_pytorch_model.fp16.safetensors")
    data = path.read_bytes()
    path.resolve().write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert "is corrupt" in fetch({"known": "sd-1.5"})
    assert origin(fetch({"known": "sd-1.5"})) == [SD15]


def test_pickles_are_refused(hub, fetch):
    sentence = fetch({"hub": "someone/pickled", "like": "sd-1.5"})
    assert sentence == (
        "someone/pickled has the weights of unet as a pickle only (diffusion_pytorch_model.bin), "
        "which can hold a program and is never loaded: use a model with .safetensors files."
    )
    assert hub.downloads() == []


def test_a_model_of_another_architecture_is_refused(fetch):
    sentence = fetch({"hub": SDXL, "like": "sd-1.5"})
    assert "does not have the positions or timesteps of its entry in the study" in sentence


def test_a_model_that_cannot_be_run_is_refused_before_weights_are_fetched(
    hub, fetch, tmp_path, monkeypatch
):
    entry = {"hub": "someone/inpainting", "like": "sd-1.5"}
    said = (
        "the parts do not fit together, since in_channels of the U-Net is 9 and latent_channels of "
        "the VAE is 4: use a model as released."
    )
    assert fetch(entry) == f"someone/inpainting: {said}"
    assert not [path for path in hub.downloads() if path.endswith(".safetensors")]
    # From now on it is known while a study is read.
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    config = read(ROOT / "tests/small.yaml")
    config["models"]["it"] = entry
    config["experiments"][0]["models"] = ["it"]
    hub.requests.clear()
    with pytest.raises(UserError, match=rf"^models\.it: someone/inpainting: {said}$"):
        parse(config)
    assert hub.requests == []


def test_the_twin_needs_no_weights(hub, fetch, tree):
    out = fetch({"known": "sd-1.5"}, "twin")
    assert sorted(path.split("/", 5)[5] for path in hub.downloads()) == [
        "scheduler/scheduler_config.json",
        "unet/config.json",
    ]
    trained = load_file(tree / "models" / SD15 / f"{UNET}.fp16.safetensors")
    found = weights_of(out)
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in trained.items()}
    assert not torch.equal(found["conv_in.weight"], trained["conv_in.weight"])


def test_lightning_is_sdxl_with_its_own_denoiser(hub, fetch, tree):
    out = fetch({"known": "sdxl-lightning-1-step"})
    assert origin(out) == [SDXL, "ByteDance/SDXL-Lightning"]
    own = tree / "models/ByteDance/SDXL-Lightning/sdxl_lightning_1step_unet_x0.safetensors"
    assert equal(weights_of(out), load_file(own))
    weights = [path for path in hub.downloads() if path.endswith(".safetensors")]
    assert not [path for path in weights if "/unet/" in path]
    schedule = json.loads((out / "snapshot/scheduler/scheduler_config.json").read_text())
    assert schedule["prediction_type"] == "sample"
    assert schedule["timestep_spacing"] == "trailing"


# Files of the real repositories, by name: what is chosen of them.
SD3_FILES = [
    "model_index.json",
    "sd3_medium.safetensors",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/model.safetensors",
    "text_encoder_3/config.json",
    "text_encoder_3/model-00001-of-00002.safetensors",
    "text_encoder_3/model-00002-of-00002.safetensors",
    "text_encoder_3/model.fp16-00001-of-00002.safetensors",
    "text_encoder_3/model.fp16-00002-of-00002.safetensors",
    "text_encoder_3/model.safetensors.index.fp16.json",
    "text_encoder_3/model.safetensors.index.json",
    "tokenizer_3/spiece.model",
    "tokenizer_3/tokenizer.json",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "README.md",
]


def test_half_precision_shards_of_sd_3_get_plain_names():
    chosen = layout.select(SD3_FILES, "transformer", variants=layout.HALF_FIRST, where="x/y")
    text = {key: value for key, value in chosen.items() if key.startswith("text_encoder_3/model")}
    assert text == {
        "text_encoder_3/model.safetensors.index.json": (
            "text_encoder_3/model.safetensors.index.fp16.json"
        ),
        "text_encoder_3/model-00001-of-00002.safetensors": (
            "text_encoder_3/model.fp16-00001-of-00002.safetensors"
        ),
        "text_encoder_3/model-00002-of-00002.safetensors": (
            "text_encoder_3/model.fp16-00002-of-00002.safetensors"
        ),
    }
    assert chosen["text_encoder/model.safetensors"] == "text_encoder/model.fp16.safetensors"
    assert "sd3_medium.safetensors" not in chosen


def test_a_missing_shard_is_noticed():
    files = [name for name in SD3_FILES if "00002-of" not in name]
    with pytest.raises(UserError, match=r"no complete \.safetensors weights in text_encoder_3"):
        layout.select(files, "transformer", variants=layout.HALF_FIRST, where="x/y")


def test_full_precision_is_never_half_without_a_word():
    """Of SD-3, whose T5 is left in half precision alone."""
    plain = re.compile(r"text_encoder_3/model(-|\.safetensors\.index\.json)")
    files = [name for name in SD3_FILES if not plain.match(name)]
    sentence = r"weights of text_encoder_3 in half precision only \(model\.fp16-00001-of-00002"
    with pytest.raises(UserError, match=f"{sentence}.*, and `variant: full` asks for all of it"):
        layout.select(files, "transformer", variants=layout.FULL, where="x/y")
    for variants in (layout.FULL_FIRST, layout.HALF_FIRST):
        chosen = layout.select(files, "transformer", variants=variants, where="x/y")
        name = "text_encoder_3/model-00001-of-00002.safetensors"
        assert layout.variant(chosen[name]) == "fp16"
        encoder = layout.variant(chosen["text_encoder/model.safetensors"])
        assert encoder == ("" if variants == layout.FULL_FIRST else "fp16")
