import io
import json
from dataclasses import asdict

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from reprscope import tasks
from reprscope.data.canonical import encode_png
from reprscope.measures.similarity import MEASURES
from reprscope.representations.encoding import encode
from reprscope.representations.store import Representations, writer
from reprscope.representations.views import View
from reprscope.runtime.errors import UserError
from reprscope.tasks import _pictures, token_maps, token_similarity
from support.fakes import FakeAnnotations, FakeRepresentations

NOISE = {"amount": 0.3, "seed": 1}
RNG = np.random.default_rng(0)


def made_study() -> tuple[FakeRepresentations, FakeAnnotations]:
    rng = np.random.default_rng(1)
    names = ["d", "a", "c", "b", "e"]
    features = FakeRepresentations(
        {
            "conv_in": {name: rng.normal(size=(6, 8, 5)) for name in names},
            "mid_block": {name: rng.normal(size=(3, 4, 20)) for name in names},
        },
        dict.fromkeys(names, (64, 48)),
    )
    images = pl.DataFrame(
        {"image_id": names, "split": ["test", "test", "train", "test", "validation"]}
    )
    pictures = {name: rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for name in names}
    return features, FakeAnnotations(images, pictures=pictures)


def picture(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


# --- registry -----------------------------------------------------------------------------------


def test_all_tasks_are_found_and_complete():
    kinds = tasks.available()
    assert {"linear_probe", "correspondence", "token_similarity", "token_maps"} <= set(kinds)
    assert list(kinds) == sorted(kinds)
    assert not any(kind.startswith("_") for kind in kinds)
    for kind in kinds:
        task = tasks.load(kind)
        assert not task.NEEDS - {"labels", "captions", "pairs", "keypoints", "depth", "masks"}
        assert not task.STORES - {"tokens", "mean", tasks.LATENTS}
        assert task.STORES
        assert task.Parameters() == task.Parameters()
        assert callable(task.measure)
        assert callable(task.summarise)


def test_a_new_file_is_a_new_task(tmp_path, monkeypatch):
    (tmp_path / "made_up.py").write_text("NEEDS = frozenset()\n")
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path)])
    assert "made_up" in tasks.available()
    assert not tasks.load("made_up").NEEDS


@pytest.mark.parametrize("kind", ["linear_prob", "_pictures", "", "os", "..errors"])
def test_an_unknown_task_is_an_error_that_names_the_known_ones(kind):
    with pytest.raises(UserError, match=r"correspondence, .*linear_probe"):
        tasks.load(kind)


# --- token_similarity ---------------------------------------------------------------------------


def test_similarity_maps_equal_a_loop_over_tokens():
    features, annotations = made_study()
    parameters = token_similarity.Parameters(
        images=["e", "a"], reference=(0.99, 0.4), references={"a": (0.0, 1.0)}
    )
    found = token_similarity.measure(features, annotations, parameters)
    maps = found.filter(kind="map")
    assert len(maps) == 2 * (6 * 8 + 3 * 4)
    expected = {
        ("e", "conv_in"): (2, 7),
        ("e", "mid_block"): (1, 3),
        ("a", "conv_in"): (5, 0),
        ("a", "mid_block"): (2, 0),
    }
    for row in maps.iter_rows(named=True):
        place = expected[row["image_id"], row["position"]]
        assert (row["reference_row"], row["reference_col"]) == place
        grid = features.grids[row["position"]][row["image_id"]]
        token, reference = grid[row["row"], row["col"]], grid[place]
        value = token @ reference / np.linalg.norm(token) / np.linalg.norm(reference)
        assert row["similarity"] == pytest.approx(value, abs=1e-6)
    assert maps.select("image_id", "position", "row", "col").is_unique().all()
    assert found["image_id"].unique(maintain_order=True).to_list() == ["e", "a"]


@pytest.mark.parametrize("task", [token_similarity, token_maps])
def test_each_image_has_its_picture_once(task):
    features, annotations = made_study()
    found = task.measure(features, annotations, task.Parameters(images=("a", "e")))
    rows = found.filter(kind="image")
    assert rows.select("image_id", "position").rows() == [("a", "image"), ("e", "image")]
    for name, data in rows.select("image_id", "png").iter_rows():
        np.testing.assert_array_equal(picture(data), annotations.pictures[name])
    assert found.filter(kind="map")["png"].null_count() == len(found) - 2


def test_the_reference_is_kept_with_the_picture():
    features, annotations = made_study()
    parameters = token_similarity.Parameters(images=("a",), reference=(0.25, 1))
    found = token_similarity.measure(features, annotations, parameters)
    assert found.select("reference_x", "reference_y").unique().rows() == [(0.25, 1.0)]


@pytest.mark.parametrize("task", [token_similarity, token_maps])
def test_the_first_test_images_by_name_are_shown_by_default(task):
    features, annotations = made_study()
    found = task.measure(features, annotations, task.Parameters(count=2))
    assert found["image_id"].unique(maintain_order=True).to_list() == ["a", "b"]
    found = task.measure(features, annotations, task.Parameters(count=10))
    assert found["image_id"].unique(maintain_order=True).to_list() == ["a", "b", "d"]


@pytest.mark.parametrize("task", [token_similarity, token_maps])
def test_reruns_give_the_same_bytes_and_the_summary_changes_nothing(task):
    def written(frame: pl.DataFrame) -> bytes:
        buffer = io.BytesIO()
        frame.write_parquet(buffer)
        return buffer.getvalue()

    first, second = (task.measure(*made_study(), task.Parameters(count=2)) for _ in range(2))
    assert written(first) == written(second)
    assert task.summarise(first, task.Parameters()).equals(first)


@pytest.mark.parametrize("task", [token_similarity, token_maps])
def test_unusable_images_and_features_are_named(task):
    features, annotations = made_study()
    with pytest.raises(UserError, match="'nobody' has no features"):
        task.measure(features, annotations, task.Parameters(images=("a", "nobody")))
    features.grids["mid_block"]["a"][1, 2, 3] = np.inf
    with pytest.raises(UserError, match="'a' at mid_block are not finite"):
        task.measure(features, annotations, task.Parameters(images=("a",)))
    annotations.image_frame = annotations.image_frame.with_columns(split=pl.lit("train"))
    with pytest.raises(UserError, match="no test images"):
        task.measure(features, annotations, task.Parameters())


def test_a_reference_for_an_image_that_is_not_shown_is_an_error():
    parameters = token_similarity.Parameters(images=("a",), references={"b": (0.1, 0.1)})
    with pytest.raises(UserError, match="references names 'b'"):
        token_similarity.measure(*made_study(), parameters)


@pytest.mark.parametrize(
    ("task", "settings", "words"),
    [
        (token_similarity, {"count": 0}, "count"),
        (token_similarity, {"reference": (0.5, 1.1)}, "reference"),
        (token_similarity, {"reference": (0.5,)}, "reference"),
        (token_similarity, {"reference": ("a", "b")}, "reference"),
        (token_similarity, {"references": {"a": (-0.1, 0)}}, "reference"),
        (token_similarity, {"measure": "cosin"}, "measure"),
        (token_maps, {"count": 1.5}, "count"),
        (token_maps, {"clusters": 0}, "clusters"),
        (token_maps, {"seed": -1}, "seed"),
    ],
)
def test_unusable_settings_are_named(task, settings, words):
    with pytest.raises(UserError, match=words):
        task.Parameters(**settings)


def test_norms_stand_beside_the_similarities():
    features, annotations = made_study()
    found = token_similarity.measure(features, annotations, token_similarity.Parameters(count=2))
    for row in found.filter(kind="map").iter_rows(named=True):
        token = features.grids[row["position"]][row["image_id"]][row["row"], row["col"]]
        assert row["norm"] == pytest.approx(np.sqrt((token**2).sum()), rel=1e-6)


@pytest.mark.parametrize("measure", MEASURES)
def test_one_token_is_compared_across_images_by_any_measure(measure):
    features, annotations = made_study()
    parameters = token_similarity.Parameters(
        images=("e", "a", "b"), reference=(0, 0), across=True, measure=measure
    )
    found = token_similarity.measure(features, annotations, parameters)
    assert set(found["measure"]) == {measure}
    assert set(found["reference_image"]) == {"e"}
    for position, grids in features.grids.items():
        reference = grids["e"][0, 0]
        for image in "eab":
            both = [grids[name].reshape(-1, len(reference)).mean(axis=0) for name in ("e", image)]
            centre = np.mean(both, axis=0)
            rows = found.filter(kind="map", position=position, image_id=image)
            assert len(rows) == grids[image][..., 0].size
            for row in rows.iter_rows(named=True):
                token = grids[image][row["row"], row["col"]]
                expected = by_definition(measure, reference, token, centre)
                assert row["similarity"] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def by_definition(measure, a, b, centre):
    difference = a - b
    if measure == "centred_cosine":
        a, b = a - centre, b - centre
    lengths = np.linalg.norm(a), np.linalg.norm(b)
    return {
        "cosine": a @ b / lengths[0] / lengths[1],
        "centred_cosine": a @ b / lengths[0] / lengths[1],
        "dot": a @ b,
        "l1": np.abs(difference).sum(),
        "l2": np.linalg.norm(difference),
        "linf": np.abs(difference).max(),
        "relative_norm": lengths[1] / lengths[0] - 1,
    }[measure]


def test_a_token_planted_in_two_images_is_found_in_the_other():
    features, annotations = made_study()
    for grid in features.grids.values():
        grid["a"][-1, -1] = 3 * grid["b"][0, 0]
    parameters = token_similarity.Parameters(images=("b", "a"), reference=(0, 0), across=True)
    found = token_similarity.measure(features, annotations, parameters)
    for position, grid in features.grids.items():
        rows = found.filter(kind="map", position=position, image_id="a").sort("similarity")
        best = rows.row(-1, named=True)
        assert (best["row"] + 1, best["col"] + 1) == grid["a"].shape[:2]
        assert best["similarity"] == pytest.approx(1)
        assert (best["reference_row"], best["reference_col"]) == (0, 0)


# --- token_maps ---------------------------------------------------------------------------------


def test_planted_clusters_are_found_and_numbered_as_they_appear():
    truth = np.array([[3, 3, 0, 1], [0, 1, 2, 2], [2, 3, 1, 0]])
    centres = RNG.normal(size=(4, 10)) * 20
    features, annotations = made_study()
    features.grids = {"mid_block": {"a": centres[truth] + RNG.normal(size=(3, 4, 10))}}
    found = token_maps.measure(
        features, annotations, token_maps.Parameters(images=("a",), clusters=4)
    ).filter(kind="map")
    # 3 appears first, then 0, 1, 2.
    expected = np.array([1, 2, 3, 0])[truth]
    for row, col, cluster in found.select("row", "col", "cluster").iter_rows():
        assert cluster == expected[row, col]


def test_norms_are_the_lengths_of_tokens():
    features, annotations = made_study()
    found = token_maps.measure(features, annotations, token_maps.Parameters(images=("a",)))
    for position, row, col, norm in (
        found.filter(kind="map").select("position", "row", "col", "norm").iter_rows()
    ):
        token = features.grids[position]["a"][row, col]
        assert norm == pytest.approx(np.sqrt((token**2).sum()), rel=1e-6)


@pytest.mark.parametrize("shape", [(60, 7), (7, 60), (12, 12), (2, 5), (5, 2), (1, 4)])
def test_colours_are_the_principal_components_in_one_range(shape):
    tokens = RNG.normal(size=shape).astype(np.float32)
    centred = tokens - tokens.mean(axis=0)
    _, _, loadings = np.linalg.svd(centred)
    scores = np.zeros((len(tokens), 3))
    # n tokens span n - 1 dimensions.
    for i in range(min(3, len(tokens) - 1, shape[1])):
        loading = loadings[i] * np.sign(loadings[i][np.abs(loadings[i]).argmax()])
        scores[:, i] = centred @ loading
    expected = (scores - scores.min()) / (np.ptp(scores) or 1)
    np.testing.assert_allclose(token_maps.component_colours(tokens), expected, atol=1e-4)


def test_signs_of_components_do_not_depend_on_the_order_of_tokens():
    tokens = RNG.normal(size=(40, 9)).astype(np.float32)
    order = RNG.permutation(40)
    np.testing.assert_allclose(
        token_maps.component_colours(tokens)[order],
        token_maps.component_colours(tokens[order]),
        atol=1e-5,
    )


def test_a_uniform_map_has_no_colours_and_a_small_one_fewer_clusters():
    same = np.full((9, 5), 0.1, dtype=np.float32) * np.arange(1, 6, dtype=np.float32)
    assert (token_maps.component_colours(same) == 0).all()
    few = RNG.normal(size=(2, 5)).astype(np.float32)
    assert token_maps.clusters(few, number=6, seed=0).tolist() == [0, 1]


# --- pictures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (32, 32)])
@pytest.mark.parametrize("fit", ["pad", "squash", "keep"])
@pytest.mark.parametrize(
    "view",
    [
        {},
        {"operations": [{"pad": {"left": 9, "bottom": 4}}, {"hflip": {}}]},
        {"operations": [{"channel_mix": {"amount": 1.0}}], "after": [{"pixel_noise": NOISE}]},
        {"after": [{"overlay": {"amount": 0.5, "texture": "grass"}}, {"crop": {"left": 8}}]},
    ],
)
def test_pictures_are_exactly_what_was_encoded(size, fit, view, tmp_path):
    names = ["a", "b"]
    images = dict.fromkeys(names, smooth_picture(size))
    table = pl.DataFrame(
        {"image_id": names, "image": [encode_png(images[name]) for name in names]}
    ).with_columns(width=size[0], height=size[1])
    settings = json.loads(json.dumps(asdict(View(fit=fit, **view))))
    viewed = {"view": settings, "resolution": 64, "multiple": 8}
    vae = SeeingVAE()
    with writer(tmp_path / "l.h5", spec="{}", provenance={"viewed": viewed}) as store:
        encode(
            table,
            View(**settings),
            vae,
            store,
            resolution=64,
            pixels="symmetric",
            batch_size=2,
        )
    with Representations([tmp_path / "l.h5"]) as found:
        for name, encoded in zip(names, vae.seen, strict=True):
            shown = picture(
                _pictures.encoded_png(found, FakeAnnotations(pl.DataFrame(), pictures=images), name)
            )
            assert (shown == encoded).all()
    # Noise is drawn for each image, and nothing else here is random.
    assert (vae.seen[0] == vae.seen[1]).all() == ("pixel_noise" not in str(view))


class SeeingVAE:
    """Keeps what it is given to encode."""

    factor, device = 8, torch.device("cpu")

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def encode(self, images: np.ndarray, *, pixels: str) -> tuple[np.ndarray, np.ndarray]:
        self.seen += list(images)
        latents = np.zeros((len(images), images.shape[1] // 8, images.shape[2] // 8, 4), np.float32)
        return latents, latents


def smooth_picture(size: tuple[int, int]) -> np.ndarray:
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    waves = [np.sin(x / 9), np.cos(y / 9), np.sin((x + y) / 11)]
    return np.round(127.5 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)
