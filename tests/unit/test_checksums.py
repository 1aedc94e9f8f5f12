"""A bit that flips in any file of the results is found, or changes no value."""

import json
import shutil

import altair as alt
import numpy as np
import polars as pl
import pytest
import report
from reprscope.data.canonical import Annotations, Dataset, read_images, write_dataset
from reprscope.figures.render import save
from reprscope.models.hub.fetch import write_manifest
from reprscope.representations import prompts
from reprscope.representations.coordinates import Affine
from reprscope.representations.store import Representations, writer
from reprscope.runtime import checksums
from reprscope.runtime.errors import UserError
from reprscope.runtime.frames import read_frame, write_frame
from reprscope.runtime.snapshot import verified
from support.pictures import image_frame

FLIPS = 20
NAMES = ["a", "b{é}", "c"]


def store(path, form):
    rng = np.random.default_rng(1)
    with writer(path, spec="{}", provenance={"positions": ["mid", "up"]}, form=form) as file:
        for name in NAMES:
            values = rng.normal(size=(1, 3, 4, 6)).astype(np.float32)
            place = Affine(*rng.normal(size=4))
            file.append([name], [(32, 24)], [place], {"up": values, "mid": values + 1})


def read_store(path):
    with Representations([path]) as found:
        yield found.image_ids, found.positions, found.provenance, found.origin
        for name in NAMES:
            yield found.pixels(name), found.transform(name)
        for position in found.positions:
            yield [found.grid(position, name) for name in NAMES]
            if "means" in path.name:
                yield found.means(position)
            else:
                yield [found.tokens(position, name) for name in NAMES]


def made_prompts(path):
    values = {"embedding": np.random.default_rng(2).normal(size=(2, 7, 5))}
    made = {"model": "m", "device": "cpu", "precision": "float32", "cut": {}}
    prompts.write(path, ["", "a photo"], values, spec="{}", provenance=made)


def read_prompts(path):
    yield prompts.read(path)
    yield prompts.origin(path)


def dataset(path):
    depth = {f"image-{i}": np.random.default_rng(i).random((9, 8), np.float32) for i in range(3)}
    boxes = {"source_box": [[1.0, 2.0, 3.0, 4.0]], "pair_id": ["p"]}
    images = image_frame([(20, 30), (9, 8), (50, 40)], label=["x", "y", None])
    table = pl.DataFrame({"source_id": ["image-0"], "target_id": ["image-1"], **boxes})
    points = pl.DataFrame({"image_id": ["image-0"], "x": [1.5]})
    whole = Dataset(images=images, depth=depth, keypoints=points, record=("One line.",))
    write_dataset(whole, path.parent, spec="{}")
    write_frame(table, path.parent / "pairs.parquet", spec="{}")


def read_images_table(path):
    yield Annotations(path.parent).images()
    yield [Annotations(path.parent).image(f"image-{number}") for number in range(3)]
    yield read_images(path, "1of2")


def figure(path):
    frame = pl.DataFrame({"x": [1, 2, 3], "y": [0.1, 0.5, 0.25]})
    save(
        alt.Chart(frame, name="v").mark_line().encode(x="x", y="y"), path.with_suffix(""), "C", "{}"
    )


def read_figure(path):
    found = report.figure(str(path.with_suffix("")))
    yield found.spec, found.svg, found.caption


def model(path):
    folder = path.parent / "snapshot" if path.name == "manifest.json" else path.parent
    folder.mkdir(exist_ok=True)
    for name in ("config.json", "weights.safetensors"):
        (folder / name).write_bytes(np.random.default_rng(3).bytes(5000))
    write_manifest(folder, folder.parent / "manifest.json", spec="{}")


def read_model(path):
    manifest = path if path.name == "manifest.json" else path.parents[1] / path.name
    manifest = manifest.with_name("manifest.json")
    folder = verified(manifest)
    yield [(folder / name).read_bytes() for name in ("config.json", "weights.safetensors")]
    yield checksums.read_json(manifest)


KINDS = {
    "tokens.h5": (lambda path: store(path, "tokens"), read_store),
    "means.h5": (lambda path: store(path, "mean"), read_store),
    "prompt.h5": (made_prompts, read_prompts),
    "depth.h5": (
        dataset,
        lambda path: iter([Annotations(path.parent).depth(f"image-{i}") for i in range(3)]),
    ),
    "images.parquet": (dataset, read_images_table),
    "pairs.parquet": (dataset, lambda path: iter([Annotations(path.parent).pairs()])),
    "keypoints.parquet": (dataset, lambda path: iter([Annotations(path.parent).keypoints()])),
    "table.parquet": (
        lambda path: write_frame(pl.DataFrame({"a": range(99), "b": "x"}), path, spec="{}"),
        lambda path: iter([read_frame(path)]),
    ),
    "offsets.json": (
        lambda path: checksums.write_json(path, {"offsets": {"mid": [0.25, -0.5]}}),
        lambda path: iter([checksums.read_json(path)]),
    ),
    "figure.json": (figure, read_figure),
    "figure.svg": (figure, read_figure),
    "manifest.json": (model, read_model),
    "snapshot/weights.safetensors": (model, read_model),
    "snapshot/config.json": (model, read_model),
}


def equal(one, other):
    if isinstance(one, pl.DataFrame | pl.Series):
        return one.equals(other)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    return one == other


@pytest.mark.parametrize("name", KINDS)
def test_a_flipped_bit_is_one_sentence_that_names_the_file_or_changes_nothing(name, tmp_path):
    make, read = KINDS[name]
    path = tmp_path / "made" / name
    path.parent.mkdir(parents=True)
    make(path)
    whole = list(read(path))
    data = path.read_bytes()
    found = 0
    for flip in np.random.default_rng(0).integers(0, 8 * len(data), FLIPS):
        changed = bytearray(data)
        changed[flip // 8] ^= 1 << flip % 8
        path.write_bytes(changed)
        try:
            assert equal(list(read(path)), whole), flip
        except UserError as error:
            assert str(path) in str(error), flip
            assert "run again" in str(error), flip
            found += 1
    assert found
    path.write_bytes(data)
    assert equal(list(read(path)), whole)


@pytest.mark.parametrize("name", KINDS)
def test_a_file_that_was_cut_off_is_one_sentence_that_names_it(name, tmp_path):
    make, read = KINDS[name]
    path = tmp_path / "made" / name
    path.parent.mkdir(parents=True)
    make(path)
    data = path.read_bytes()
    for end in (0, 1, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:end])
        with pytest.raises(UserError) as error:
            list(read(path))
        assert str(path) in str(error.value)


def test_what_looks_like_a_digest_is_content(tmp_path):
    text = checksums.PLACE.replace("0", "a")
    for content in ({"zz": text}, {"a": text}, {text: 1}):
        checksums.write_json(tmp_path / "a.json", content)
        assert checksums.read_json(tmp_path / "a.json") == content
        write_frame(pl.DataFrame({"x": [text]}), tmp_path / "a.parquet", spec=json.dumps(content))
        assert read_frame(tmp_path / "a.parquet")["x"].item() == text


def test_a_model_s_parts_are_verified_alone_and_a_file_that_was_added_is_named(tmp_path):
    folder = tmp_path / "snapshot"
    for part in ("unet", "vae"):
        (folder / part).mkdir(parents=True)
        (folder / part / "w.safetensors").write_bytes(part.encode())
    write_manifest(folder, tmp_path / "manifest.json", spec="{}")
    (folder / ".snakemake_timestamp").touch()  # as Snakemake does
    assert verified(tmp_path / "manifest.json") == folder
    (folder / "vae" / "w.safetensors").write_bytes(b"VAE")
    assert verified(tmp_path / "manifest.json", "unet", "scheduler") == folder
    for change in (lambda: None, (folder / "vae" / "w.safetensors").unlink):
        change()
        with pytest.raises(UserError, match=r"vae/w\.safetensors is not what was fetched: delete"):
            verified(tmp_path / "manifest.json", "vae")
    shutil.copy(folder / "unet" / "w.safetensors", folder / "unet" / "more.safetensors")
    with pytest.raises(UserError, match=r"unet/more\.safetensors is not what was fetched"):
        verified(tmp_path / "manifest.json", "unet")
