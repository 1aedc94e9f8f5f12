"""Weights that are not exactly those that a part's class wants are an error that names them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import report
import torch
from reprscope.base import provenance
from reprscope.models import denoiser, text, vae
from reprscope.models.hub import fetch
from reprscope.models.parts import check_part, load_part
from reprscope.representations import prompts
from reprscope.runtime.errors import UserError
from safetensors.torch import load_file, save_file
from support import tiny_models, tiny_unets
from support.damage import KINDS, damages, left_out, rewrite

TENSORS = 2
"""Tensors of each part that the sweep damages."""

MODELS = {
    "sd-1": ("unet", lambda folder: tiny_unets.make("sd-1", folder)),
    "sd-2": ("unet", lambda folder: tiny_unets.make("sd-2", folder)),
    "sdxl": ("unet", lambda folder: tiny_unets.make("sdxl", folder)),
    "sd3": ("sd3", tiny_models.sd3),
    "sd3.5": ("sd3", lambda folder: tiny_models.sd3(folder, medium35=True)),
    "schnell": ("flux", tiny_models.flux),
    "dev": ("flux", lambda folder: tiny_models.flux(folder, guidance=True)),
}
PARTS = [
    (name, part)
    for name, (family, _) in MODELS.items()
    for part in denoiser.family(family).parts(
        {"unet": ["text_encoder_2"] * (name == "sdxl"), "sd3": ["text_encoder_3"]}.get(family, [])
    )
]
UNET = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder of a tiny model by name, made when it is first asked for; only to be read."""
    found: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in found:
            found[name] = MODELS[name][1](tmp_path_factory.mktemp("models") / name)
        return found[name]

    return make


@pytest.fixture
def model(made, tmp_path):
    """Copy of the tiny model like SDXL, to change."""
    shutil.copytree(made("sdxl"), tmp_path / "model")
    return tmp_path / "model"


def check(folder: Path, part: str, family: str = "unet"):
    files = {path.name: path for path in (folder / part).glob("*")}
    kind = denoiser.family(family).parts([path.name for path in folder.iterdir()])[part]
    return check_part(kind, files, where=part)


def get(folder: Path, out: Path, family: str = "unet") -> fetch.Fetched:
    return fetch.fetch_folder(folder, out, family=family)


def weights(folder: Path, part: str = "unet") -> Path:
    return next((folder / part).glob("*.safetensors"))


def sweep(folder: Path, part: str, family: str, count: int) -> tuple[int, list[str]]:
    """Number of damages to a part, and those that no error names."""
    tried, passed = 0, []
    for kind, name in damages(weights(folder, part), count):
        tried += 1
        # transformers tells it without the prefix under which older versions stored it.
        inner = name.removeprefix("text_model.")
        try:
            check(folder, part, family)
            passed.append(f"{kind} {name}")
        except UserError as error:
            says = {"left_out": "it lacks", "renamed": "it lacks", "reshaped": "in place of"}[kind]
            if inner not in str(error) or says not in str(error):
                passed.append(f"{kind} {name}: {error}")
    return tried, passed


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_a_tensor_that_is_left_out_renamed_or_reshaped_is_named(made, tmp_path, name, part):
    shutil.copytree(made(name), tmp_path / "model")
    check(tmp_path / "model", part, MODELS[name][0])
    tried, passed = sweep(tmp_path / "model", part, MODELS[name][0], TENSORS)
    assert tried == len(KINDS) * TENSORS
    assert passed == []


def test_a_model_that_lacks_a_tensor_is_neither_fetched_nor_loaded(model, tmp_path):
    path = rewrite(weights(model), lambda tensors: left_out(tensors, "conv_in.bias"))
    says = "does not hold the weights that its config.json says: it lacks conv_in.bias"
    with pytest.raises(UserError, match=f"{model}/unet {says}"):
        get(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=says):
        load_part("UNet2DConditionModel", model, "unet", dtype=torch.float32)
    rewrite(weights(model, "vae"), lambda tensors: left_out(tensors, "encoder.conv_in.bias"))
    with pytest.raises(UserError, match=r"it lacks encoder\.conv_in\.bias"):
        vae.load(model, device=torch.device("cpu"))
    assert path.is_file()


def test_of_many_tensors_the_first_few_are_named_and_all_are_counted(model):
    rewrite(
        weights(model),
        lambda tensors: {
            **{key: value for key, value in tensors.items() if not key.startswith("mid_block.")},
            **{f"lora.{i}": torch.zeros(1) for i in range(5)},
        },
    )
    with pytest.raises(UserError) as caught:
        check(model, "unet")
    sentence = str(caught.value)
    assert sentence.count("mid_block.") == 3
    assert "it has lora.0, lora.1, lora.2 and 2 more, which UNet2DConditionModel does not" in (
        sentence
    )
    assert sentence.endswith("of one model, complete.")


# What libraries accept is accepted, and gives the same weights.


def test_old_names_of_the_vaes_attention_are_read(made, model):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def change(tensors):
        found = {}
        for key, value in tensors.items():
            for now, before in old.items():
                key = key.replace(f".{now}.", f".{before}.")
            found[key] = value
        assert any("query" in key for key in found)
        return found

    rewrite(weights(model, "vae"), change)
    check(model, "vae")
    loaded = load_part("AutoencoderKL", model, "vae", dtype=torch.float32).state_dict()
    expected = load_file(weights(made("sdxl"), "vae"))
    assert all(torch.equal(loaded[key], value) for key, value in expected.items())
    name = "encoder.mid_block.attentions.0.query.weight"
    rewrite(weights(model, "vae"), lambda tensors: left_out(tensors, name))
    with pytest.raises(UserError, match=r"lacks encoder\.mid_block\.attentions\.0\.to_q\.weight"):
        check(model, "vae")


def test_position_ids_of_older_text_encoders_are_no_weights(model):
    name = "text_model.embeddings.position_ids"
    path = rewrite(
        weights(model, "text_encoder"),
        lambda tensors: {**tensors, name: torch.arange(16)[None]},
    )
    assert check(model, "text_encoder").precision == "float32"
    rewrite(path, lambda tensors: {**left_out(tensors, name), "other_ids": tensors[name]})
    with pytest.raises(UserError, match="has the tensor other_ids in I64, which is not supported"):
        check(model, "text_encoder")


def test_a_text_encoder_saved_without_its_outer_name_is_read(model):
    rewrite(
        weights(model, "text_encoder"),
        lambda tensors: {key.removeprefix("text_model."): value for key, value in tensors.items()},
    )
    check(model, "text_encoder")


@pytest.mark.parametrize("kept", ["shared.weight", "encoder.embed_tokens.weight", "both"])
def test_words_of_t5_are_stored_under_either_name_or_both(made, tmp_path, kept):
    shutil.copytree(made("schnell"), tmp_path / "model")
    path = weights(tmp_path / "model", "text_encoder_2")

    def change(tensors):
        words = tensors.pop("shared.weight")
        names = ["shared.weight", "encoder.embed_tokens.weight"] if kept == "both" else [kept]
        return tensors | {name: words.clone() for name in names}

    expected = load_file(path)["shared.weight"]
    rewrite(path, change)
    check(tmp_path / "model", "text_encoder_2", "flux")
    loaded = load_part("T5EncoderModel", tmp_path / "model", "text_encoder_2", dtype=torch.float32)
    assert torch.equal(loaded.get_input_embeddings().weight, expected)


def test_a_whole_t5_gives_its_encoder_but_for_what_is_unknown(made, tmp_path):
    shutil.copytree(made("schnell"), tmp_path / "model")
    path = weights(tmp_path / "model", "text_encoder_2")
    rewrite(path, lambda tensors: {**tensors, "decoder.block.0.layer.0.x": torch.zeros(2)})
    check(tmp_path / "model", "text_encoder_2", "flux")
    rewrite(path, lambda tensors: {**tensors, "lm_head.weight": torch.zeros(2)})
    with pytest.raises(UserError, match=r"has lm_head\.weight, which T5EncoderModel does not know"):
        check(tmp_path / "model", "text_encoder_2", "flux")


# Files: shards, variants, damage.


def sharded(folder: Path, part: str, *, variant: str | None = None) -> list[Path]:
    """Save a part anew in shards."""
    kind = {"unet": "UNet2DConditionModel", "text_encoder_2": "CLIPTextModelWithProjection"}[part]
    loaded = load_part(kind, folder, part, dtype=torch.float32)
    weights(folder, part).unlink()
    loaded.save_pretrained(folder / part, max_shard_size="40KB", variant=variant)
    found = sorted((folder / part).glob("*.safetensors"))
    assert len(found) > 2
    return found


@pytest.mark.parametrize("part", ["unet", "text_encoder_2"])
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_are_one_part(made, model, tmp_path, part, variant):
    sharded(model, part, variant=variant)
    found = get(model, tmp_path / "out")
    assert found.stored[part].get("variant") == variant
    kind = denoiser.family("unet").parts(["text_encoder_2"])[part]
    loaded = load_part(kind, tmp_path / "out", part, dtype=torch.float32).state_dict()
    expected = load_part(kind, made("sdxl"), part, dtype=torch.float32).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in expected.items())


@pytest.mark.parametrize("part", ["unet", "text_encoder_2"])
def test_the_index_and_the_shards_are_compared(model, tmp_path, part):
    shards = sharded(model, part)
    [index] = (model / part).glob("*.index.json")
    content = json.loads(index.read_text())
    before = shards[1].read_bytes()
    name = next(iter(load_file(shards[1])))
    rewrite(shards[1], lambda tensors: left_out(tensors, name) | {"more": torch.zeros(1)})
    with pytest.raises(UserError, match=rf"{shards[1].name} lacks {name} by {index.name}"):
        get(model, tmp_path / "out")
    shards[1].write_bytes(before)
    rewrite(shards[1], lambda tensors: tensors | {"more": torch.zeros(1)})
    with pytest.raises(UserError, match=rf"{shards[1].name} has also more by {index.name}"):
        get(model, tmp_path / "out")
    shards[1].write_bytes(before)
    other = {**content, "weight_map": {**content["weight_map"], name: "model-9.safetensors"}}
    index.write_text(json.dumps(other))
    with pytest.raises(UserError, match=rf"no model-9\.safetensors, which its {index.name} names"):
        get(model, tmp_path / "out")
    for content in ("", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'):
        index.write_text(content)
        with pytest.raises(UserError, match=rf"{index.name} is no index of weights|has no 3"):
            get(model, tmp_path / "out")
    index.unlink()
    with pytest.raises(UserError, match=rf"weights in {part} \(their index is missing\)"):
        get(model, tmp_path / "out")
    index.write_text(json.dumps(content))
    shards[1].unlink()
    with pytest.raises(UserError, match=rf"in {part} \(shard 2 of {len(shards)} is missing\)"):
        get(model, tmp_path / "out")


def halve(folder: Path, part: str, name: str, dtype: torch.dtype = torch.float16) -> None:
    path = weights(folder, part)
    save_file(
        {key: value.to(dtype) for key, value in load_file(path).items()},
        path.with_name(name),
        metadata={"format": "pt"},
    )


def test_a_folder_of_fp16_files_alone_is_read_and_said(made, model, tmp_path, caplog):
    for part in ("unet", "vae"):
        halve(model, part, UNET.replace(".s", ".fp16.s"))
        (model / part / UNET).unlink()
    with caplog.at_level("INFO"):
        found = get(model, tmp_path / "out")
    assert found.stored["unet"] == {"precision": "float16", "variant": "fp16"}
    assert found.stored["text_encoder"] == {"precision": "float32"}
    assert "unet: weights in float16, the variant fp16" in caplog.text
    loaded = load_part("UNet2DConditionModel", tmp_path / "out", "unet", dtype=torch.float32)
    expected = load_file(weights(made("sdxl")))
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in expected.items())
    fetch.write_manifest(tmp_path / "out", tmp_path / "manifest.json", spec="{}", fetched=found)
    assert json.loads((tmp_path / "manifest.json").read_text())["stored"] == found.stored


def test_full_precision_is_taken_where_both_are_there(model, tmp_path):
    halve(model, "unet", UNET.replace(".s", ".fp16.s"))
    assert get(model, tmp_path / "out").stored["unet"] == {"precision": "float32"}


def test_a_part_or_a_tensor_of_another_precision_is_said(model, tmp_path):
    halve(model, "vae", UNET, torch.bfloat16)
    rewrite(
        weights(model),
        lambda tensors: {**tensors, "conv_in.bias": tensors["conv_in.bias"].half()},
    )
    found = get(model, tmp_path / "out").stored
    assert found["vae"]["precision"] == "bfloat16"
    assert found["unet"]["precision"] == "float32 and float16"


def test_weights_in_eight_bits_are_refused(model, tmp_path):
    halve(model, "unet", UNET, torch.float8_e4m3fn)
    with pytest.raises(UserError, match=r"unet has the tensor .* in F8_E4M3, which is not"):
        get(model, tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        (b"PK\3\4 and so on", "is a pickle by another name"),
        (b"\x80\4 and so on", "is a pickle by another name"),
        (b"<html>not found</html>", "is damaged"),
        (b"\xff" * 64, "is damaged"),
        (b"\2\0\0\0\0\0\0\0{}", "it lacks"),
    ],
)
@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_a_file_that_holds_no_weights_is_one_sentence(model, tmp_path, part, content, says):
    weights(model, part).write_bytes(content)
    with pytest.raises(UserError, match=f"{model}/{part}.*{says}"):
        get(model, tmp_path / "out")


@pytest.mark.parametrize("end", [1000, -1])
def test_a_truncated_file_is_one_sentence(model, tmp_path, end):
    path = weights(model)
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(UserError, match=r"unet: .* is damaged \(.*\): fetch or copy it again\.$"):
        get(model, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("diffusion_pytorch_model.bin", r"weights of unet as a pickle only"),
        ("diffusion_pytorch_model.non_ema.safetensors", r"non_ema.safetensors is not named"),
        ("model.safetensors", r"model.safetensors is not named diffusion_pytorch_model"),
        ("diffusion_pytorch_model.gguf", r"no complete \.safetensors weights in unet"),
    ],
)
def test_weights_by_another_name_are_refused_before_anything_is_copied(model, tmp_path, name, says):
    weights(model).rename(model / "unet" / name)
    with pytest.raises(UserError, match=says):
        get(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Parts that do not belong to the model.


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "text_encoder_2"])
def test_weights_of_another_model_are_refused(made, model, tmp_path, part):
    other = "sd-1" if part == "unet" else "sd3"
    source = weights(made(other), part) if part != "text_encoder" else weights(model, "vae")
    shutil.copyfile(source, weights(model, part))
    if part == "text_encoder_2":
        rewrite(weights(model, part), lambda tensors: left_out(tensors, "text_projection.weight"))
    with pytest.raises(UserError, match=f"{part} does not hold the weights"):
        get(model, tmp_path / "out")


def test_a_config_that_says_another_width_is_refused(model, tmp_path):
    path = model / "text_encoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intermediate_size": 40}))
    with pytest.raises(UserError, match=r"fc1\.bias of 32 in place of 40"):
        get(model, tmp_path / "out")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "text_encoder_2"])
@pytest.mark.parametrize("content", [None, "", "{", "[1]", "3", "[" * 100000])
def test_a_config_that_cannot_be_read_is_named(model, part, content):
    path = model / part / "config.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=rf"{part}/config\.json"):
        check(model, part)


# Tokenizers.


@pytest.mark.parametrize("part", ["tokenizer", "tokenizer_2"])
def test_a_damaged_or_foreign_tokenizer_is_one_sentence(model, tmp_path, part):
    folder = model / part
    whole = (folder / "tokenizer.json").read_text()
    for content in ("", "{", "{}", whole[: len(whole) // 2]):
        (folder / "tokenizer.json").write_text(content)
        with pytest.raises(UserError, match=rf"{part}.* cannot be (read|loaded) \("):
            get(model, tmp_path / "out")
    (folder / "tokenizer.json").write_text(whole)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps(settings | {"tokenizer_class": "BertTokenizer"})
    )
    with pytest.raises(UserError, match=rf"{part}/.* of the class BertTokenizer, which is not"):
        get(model, tmp_path / "out")


def test_a_tokenizer_that_knows_more_words_than_its_encoder_is_refused(model, tmp_path):
    path = model / "tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"]["something"] = 400
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="knows 401 words and its text encoder 221"):
        get(model, tmp_path / "out")


@pytest.mark.parametrize("length", [0, -1, "16", True, [16]])
def test_a_length_that_is_no_number_of_tokens_is_refused(model, tmp_path, length):
    path = model / "tokenizer" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": length}))
    with pytest.raises(UserError, match=r"model_max_length: .*, which is no number of tokens"):
        get(model, tmp_path / "out")


@pytest.mark.parametrize("length", ["left out", None, 1e30, 77, 16])
def test_texts_are_cut_at_what_tokenizer_and_encoder_know(model, length, caplog):
    """Also without ``model_max_length``, with which no text is too long for the tokenizer."""
    path = model / "tokenizer" / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | {"model_max_length": length}
    if length == "left out":
        del settings["model_max_length"]
    path.write_text(json.dumps(settings))
    readers = denoiser.family("unet").readers(model)
    assert readers["CLIP 1"].length == 16
    long, short = "cat " * 40, "a cat"
    found = text.count_cut(readers, ["", long, short])
    assert found["CLIP 1"] == {"length": 16, "texts": 3, "cut": 1}
    assert "1 of 3 texts are longer than the 16 tokens that the text encoder CLIP 1" in caplog.text
    texts = ["", long, short]
    embedded = text.clip_text(model, texts, hidden="last", device=torch.device("cpu"))
    assert embedded.hidden.shape[:2] == (3, 16)


def test_a_text_that_just_fits_is_not_cut(model):
    reader = text.clip_reader(model)
    words = next(n for n in range(40) if reader.cut(["a " * n])) - 1
    assert reader.cut(["a " * words]) == []
    tokens = reader.read(["a " * words, "a " * (words + 1)])
    assert tokens.shape == (2, reader.length)
    assert tokens[0, -1] == tokens[1, -1] == reader.tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("unet", "act_fn", "nope"),
        ("vae", "act_fn", "nope"),
        ("text_encoder", "hidden_act", "nope"),
        ("text_encoder", "num_attention_heads", 3),
    ],
)
def test_a_config_that_makes_no_part_is_one_sentence(model, tmp_path, part, field, value):
    path = model / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(UserError, match=rf"{part}/config\.json (makes no \w+ \(|has {field}: )"):
        get(model, tmp_path / "out")


def test_the_report_says_how_weights_are_stored_and_which_texts_are_cut(model, tmp_path):
    halve(model, "vae", UNET.replace(".s", ".fp16.s"))
    (model / "vae" / UNET).unlink()
    manifest = tmp_path / "tiny" / "manifest.json"
    found = get(model, tmp_path / "tiny" / "snapshot")
    fetch.write_manifest(manifest.parent / "snapshot", manifest, spec="{}", fetched=found)
    texts = ["", "cat " * 40]
    made = provenance.origin(
        model=manifest,
        device="cpu",
        precision="float32",
        cut=text.count_cut(denoiser.family("unet").readers(model), texts),
    )
    assert made["stored"]["vae"] == {"precision": "float16", "variant": "fp16"}
    path = tmp_path / "tiny" / "captions@d.h5"
    embeddings = {"embedding": np.zeros((2, 16, 8), np.float32)}
    prompts.write(path, texts, embeddings, spec="{}", provenance=made)
    [section] = report.models([str(manifest)], [str(path)])
    assert section.found == [
        "`tiny`: weights of text_encoder in float32, text_encoder_2 in float32, unet in float32, "
        "vae in float16 (the variant fp16).",
        *(
            f"`tiny`: 1 of 2 texts of the prompt captions@d are longer than the 16 tokens that "
            f"CLIP {number} reads, and are cut."
            for number in (1, 2)
        ),
    ]
