"""Read-outs of correspondence against the published code's way, and against loops."""

import math

import numpy as np
import polars as pl
import pytest
import torch
from reprscope.base.protocol import Protocol
from reprscope.data.canonical import Annotations, write_dataset
from reprscope.data.sources import menagerie
from reprscope.representations.coordinates import Affine
from reprscope.representations.encoding import encode
from reprscope.representations.extraction import batches, extract
from reprscope.representations.prompts import Prompts
from reprscope.representations.store import Representations, writer
from reprscope.representations.views import View
from reprscope.runtime.errors import UserError
from reprscope.tasks import _matching, _readout, correspondence
from reprscope.tasks._readout import Blend, Raster, expected_place, lengths_between
from reprscope.tasks.correspondence import Parameters, measure, summarise
from support.fakes import FakeAnnotations, FakeRepresentations, pair

POSITIONS = ["mid_block", "up_blocks.1", "up_blocks.2"]
SIZES = {"a": (31, 24), "b": (40, 22), "c": (17, 29)}


@pytest.fixture(scope="module")
def real(tmp_path_factory, nano, unet, vae):
    """Creatures of 100 pixels in nano-sd, which sees 128, and their pairs."""
    from reprscope.models.families.unet import encode_prompts

    folder = tmp_path_factory.mktemp("real")
    settings = menagerie.Parameters(
        images=40, size=100, validation=0.0, test=1.0, pairs_validation=0,
        pairs_test=20, seed=8,
    )  # fmt: skip
    dataset = menagerie.build(settings, 1)
    write_dataset(dataset, folder / "data")
    with writer(folder / "latents.h5", spec="{}", provenance={}, dtype=np.float32) as store:
        encode(dataset.images, View(), vae, store, resolution=128, pixels="symmetric", batch_size=8)
    prompt = encode_prompts(nano, [""], device=torch.device("cpu"))["embedding"]
    protocol = Protocol()
    with (
        Representations([folder / "latents.h5"]) as latents,
        writer(folder / "f.h5", spec="{}", provenance={"positions": POSITIONS}) as store,
    ):
        prompts = Prompts({"embedding": prompt}, dict.fromkeys(latents.image_ids, 0))
        source = batches(
            latents, prompts, seed=0, protocol=protocol, scaling=1.0, shift=0.0, size=8
        )
        extract(
            unet, source, positions=POSITIONS, timestep=50, protocol=protocol,
            device=torch.device("cpu"), dtype=torch.float32, store=store,
        )  # fmt: skip
    with Representations([folder / "f.h5"]) as features:
        yield features, Annotations(folder / "data")


def enlarged(tokens, width, height):
    maps = torch.from_numpy(tokens).double().permute(2, 0, 1)[None]
    return torch.nn.functional.interpolate(maps, size=(height, width), mode="bilinear")[0]


def as_dift(features, position, row):
    """The pixel (x, y) that DIFT's evaluation predicts, and the map of similarities."""
    source, target = (
        enlarged(
            features.tokens(position, row[f"{side}_id"]),
            row[f"{side}_width"],
            row[f"{side}_height"],
        )
        for side in ("source", "target")
    )
    query = source[:, int(row["source_y"]), int(row["source_x"])]
    unit = torch.nn.functional.normalize
    similarity = torch.einsum("c,chw->hw", unit(query, dim=0), unit(target, dim=0))
    y, x = divmod(int(similarity.argmax()), similarity.shape[1])
    return (x, y), similarity


def with_sizes(found, annotations):
    sizes = annotations.images().select("image_id", "width", "height")
    for side in ("source", "target"):
        found = found.drop(f"{side}_width", f"{side}_height", strict=False).join(
            sizes.rename({name: f"{side}_{name}" for name in ("width", "height")}),
            left_on=f"{side}_id", right_on="image_id", maintain_order="left",
        )  # fmt: skip
    return found


def agree(features, annotations, found, *, half):
    """Check predictions against DIFT's; return in how many the pixel is the same one.

    Beyond the outermost tokens' centres many pixels are equally similar, of which rounding
    chooses one.
    """
    same = 0
    for row in with_sizes(found, annotations).iter_rows(named=True):
        expected, similarity = as_dift(features, row["position"], row)
        x, y = (row[f"predicted_{axis}"] - half for axis in "xy")
        assert (x, y) == (int(x), int(y))
        assert float(similarity[int(y), int(x)]) >= float(similarity.max()) - 1e-7
        assert row["similarity"] == pytest.approx(float(similarity.max()), abs=1e-6)
        same += (x, y) == expected
    return same


def test_bilinear_in_nano_sd_is_what_dift_predicts(real):
    features, annotations = real
    parameters = Parameters(readout="bilinear")
    found = measure(features, annotations, parameters)
    rows = found.filter(pl.col("estimator") == "cosine")
    some = rows.gather_every(5)
    assert len(some) > 40 and some["position"].n_unique() == 3
    # The menagerie's points lie between pixels, so that the pixel's middle is predicted.
    assert agree(features, annotations, some, half=0.5) > 0.9 * len(some)
    moved = found.filter(pl.col("estimator") == "plain")
    assert not moved["predicted_x"].equals(rows["predicted_x"])
    gained = summarise(found, parameters).filter(pl.col("estimator") == "cosine")
    assert gained["gain"].null_count() == 0


def test_points_that_are_whole_are_numbers_of_pixels(real):
    features, annotations = real
    whole = pl.element().list.eval(pl.element().floor())
    pairs = annotations.pairs().with_columns(pl.col("source_xy", "target_xy").list.eval(whole))
    annotations = FakeAnnotations(annotations.images(), pairs)
    rows = measure(features, annotations, Parameters(readout="bilinear"))
    rows = rows.filter(estimator="cosine", position="up_blocks.2").gather_every(5)
    assert agree(features, annotations, rows, half=0) > 0.9 * len(rows)


def made(*, frames=None, sizes=None, seed=3):
    """Random features on grids that are not square, and pairs of all ordered images."""
    rng = np.random.default_rng(seed)
    grids = {
        "coarse": {name: rng.normal(size=(2 + i, 4 - i, 5)) for i, name in enumerate(SIZES)},
        "line": {name: rng.normal(size=(1, 6, 3)) for name in SIZES},
    }
    features = FakeRepresentations(grids, sizes or SIZES, frames or {})
    images = pl.DataFrame(
        {
            "image_id": list(SIZES),
            "width": [width for width, _ in SIZES.values()],
            "height": [height for _, height in SIZES.values()],
            "split": "test",
        }
    )
    rows = [
        pair(
            f"{a}{b}", a, b, keypoints=[f"k{i}" for i in range(6)],
            source_xy=(rng.random((6, 2)) * SIZES[a]).tolist(),
            target_xy=(rng.random((6, 2)) * SIZES[b]).tolist(),
        )
        for a in SIZES for b in SIZES if a != b
    ]  # fmt: skip
    return features, FakeAnnotations(images, pl.DataFrame(rows))


def at(tokens, u, v):
    """Token between tokens, at u, v in tokens, one place at a time."""
    h, w, _ = tokens.shape
    u, v = min(max(u - 0.5, 0), w - 1), min(max(v - 0.5, 0), h - 1)
    i, j = int(v), int(u)
    b, a = v - i, u - j
    below, right = min(i + 1, h - 1), min(j + 1, w - 1)
    return (1 - b) * ((1 - a) * tokens[i, j] + a * tokens[i, right]) + b * (
        (1 - a) * tokens[below, j] + a * tokens[below, right]
    )


FRAMES = {
    # Cropped, padded, and mirrored and squashed.
    "a": Affine(scale_x=2, offset_x=-14, scale_y=2, offset_y=-10),
    "b": Affine(scale_x=0.9, offset_x=3, scale_y=0.9, offset_y=8.5),
    "c": Affine(scale_x=-1.5, offset_x=26, scale_y=1.2),
}
ENCODED = {"a": (40, 30), "b": (42, 37), "c": (26, 36)}


@pytest.mark.parametrize("coordinates", ["centred", "integer"])
def test_bilinear_equals_a_loop_over_pixels(coordinates):
    features, annotations = made(frames=FRAMES, sizes=ENCODED)
    found = measure(
        features, annotations, Parameters(readout="bilinear"), coordinates=coordinates
    ).filter(pl.col("estimator") == "cosine")
    assert 20 < len(found) < 72

    def in_tokens(name, x, y):
        if coordinates == "centred":
            x, y = FRAMES[name].forward(np.array([x, y]))
        return x / ENCODED[name][0], y / ENCODED[name][1]

    for row in found.iter_rows(named=True):
        grids = features.grids[row["position"]]
        source, target = grids[row["source_id"]], grids[row["target_id"]]
        query = at(source, *np.multiply(
            in_tokens(row["source_id"], *(
                math.floor(row[f"source_{axis}"]) + 0.5 for axis in "xy"
            )), source.shape[1::-1],
        ))  # fmt: skip
        size = (SIZES if coordinates == "centred" else ENCODED)[row["target_id"]]
        best = (-2.0, None)
        for y in range(size[1]):
            for x in range(size[0]):
                u, v = np.multiply(
                    in_tokens(row["target_id"], x + 0.5, y + 0.5), target.shape[1::-1]
                )
                if 0 <= u <= target.shape[1] and 0 <= v <= target.shape[0]:
                    other = at(target, u, v)
                    cosine = query @ other / np.linalg.norm(query) / np.linalg.norm(other)
                    best = max(best, (cosine, (-y, -x)))
        y, x = (-number for number in best[1])
        half = 0.5 if coordinates == "centred" else 0
        assert (row["predicted_x"], row["predicted_y"]) == (x + half, y + half)
        assert row["similarity"] == pytest.approx(best[0], abs=1e-6)


@pytest.mark.parametrize("readout", ["bilinear", "window"])
def test_read_outs_do_not_depend_on_how_much_is_handled_at_once(readout, monkeypatch):
    features, annotations = made(frames=FRAMES, sizes=ENCODED)
    parameters = Parameters(readout=readout)

    def read(annotations):
        return measure(features, annotations, parameters).filter(estimator="cosine")

    first = read(annotations)
    for name, value in (("KEPT", 0), ("GATHERED", 20), ("READ", 1)):
        monkeypatch.setattr(_matching, name, value)
    for name in ("_CACHED", "BLOCK"):
        monkeypatch.setattr(_readout, name, 1)
    assert read(annotations).equals(first)
    turned = FakeAnnotations(annotations.images(), annotations.pairs()[::-1])
    assert read(turned).equals(first)


def test_a_token_between_others_is_shorter_than_they():
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(4, 5, 7))
    rows, columns = (rng.random(n) * (side + 1) for n, side in ((9, 4), (11, 5)))
    found = lengths_between(tokens, Blend.at(rows, 4), Blend.at(columns, 5))
    expected = [[np.linalg.norm(at(tokens, u, v)) for u in columns] for v in rows]
    np.testing.assert_allclose(found, expected, rtol=1e-7)
    # Opposite neighbours cancel: no length, and a similarity of 0.
    opposite = np.stack([tokens[0, 0], -tokens[0, 0]])[None]
    middle = lengths_between(opposite, Blend.at(np.array([0.5]), 1), Blend.at(np.array([1.0]), 2))
    assert middle.item() == pytest.approx(0, abs=1e-7)


def test_a_sliver_without_the_middle_of_a_pixel_still_has_candidates():
    raster = Raster.of((4, 4), (2, 2), (0.5, 50.0), (0.0, -100.3))
    assert len(raster.x) == 4 and len(raster.y) == 4


def softmax_in_window(scores, window, temperature):
    h, w = scores.shape
    row, column = np.unravel_index(scores.argmax(), scores.shape)
    kept = np.zeros_like(scores)
    for i in range(h):
        for j in range(w):
            if max(abs(i - row), abs(j - column)) <= window:
                kept[i, j] = scores[i, j]
    weights = np.exp((kept - kept.max()) / temperature)
    weights /= weights.sum()
    y, x = ((weights * (axis + 0.5)).sum() for axis in np.mgrid[:h, :w])
    return x, y


@pytest.mark.parametrize(("window", "temperature"), [(1, 0.02), (2, 0.3), (5, 0.02)])
def test_window_equals_a_loop_over_tokens(window, temperature):
    features, annotations = made()
    found = measure(
        features, annotations,
        Parameters(readout="window", window=window, temperature=temperature),
    ).filter(pl.col("estimator") == "cosine")  # fmt: skip
    for row in found.iter_rows(named=True):
        source, target = (
            features.grids[row["position"]][row[f"{side}_id"]] for side in ("source", "target")
        )
        width, height = SIZES[row["source_id"]]
        h, w, _ = source.shape
        query = source[int(row["source_y"] / height * h), int(row["source_x"] / width * w)]
        h, w, _ = target.shape
        norms = np.linalg.norm(query) * np.linalg.norm(target, axis=-1)
        scores = target @ query / norms
        x, y = softmax_in_window(scores, window, temperature)
        width, height = SIZES[row["target_id"]]
        assert row["predicted_x"] == pytest.approx(x / w * width, rel=1e-4)
        assert row["predicted_y"] == pytest.approx(y / h * height, rel=1e-4)
        assert row["similarity"] == pytest.approx(scores.max(), abs=1e-6)


def test_a_cold_softmax_is_the_most_similar_token_and_a_hot_one_the_middle():
    scores = np.random.default_rng(1).random((3, 4, 6)).astype(np.float32)
    row, column = np.divmod(scores.reshape(3, -1).argmax(axis=1), 6)
    cold = expected_place(scores, window=2, temperature=1e-4)
    np.testing.assert_allclose(cold, np.stack([column, row], axis=1) + 0.5, atol=1e-6)
    hot = expected_place(scores, window=2, temperature=1e6)
    np.testing.assert_allclose(hot, np.tile([3.0, 2.0], (3, 1)), atol=1e-4)


def test_a_window_goes_with_several_representations():
    own, annotations = made(seed=3)
    other, _ = made(seed=4)
    settings = {"variants": ({"seed": 1},), "smooth": 0.4}
    cold = Parameters(readout="window", temperature=1e-6, **settings)
    token = Parameters(**settings)
    both = [
        measure(own, annotations, one, companions={"1": other}).filter(estimator="cosine")
        for one in (cold, token)
    ]
    for axis in "xy":
        np.testing.assert_allclose(*(one[f"predicted_{axis}"] for one in both), atol=1e-6)
    wide = Parameters(readout="window", temperature=0.5, **settings)
    wide = measure(own, annotations, wide, companions={"1": other}).filter(estimator="cosine")
    assert not np.allclose(wide["predicted_x"], both[1]["predicted_x"], atol=0.5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"window": 3}, "go only with `readout: window`"),
        ({"temperature": 0.1, "readout": "bilinear"}, "go only with `readout: window`"),
        ({"readout": "window", "window": 0}, "window is 0"),
        ({"readout": "window", "temperature": 0}, "temperature is 0; write a number above 0"),
        ({"readout": "bilinear", "smooth": 1.0}, "features of one representation"),
        ({"readout": "bilinear", "subdivide": 2}, "features of one representation"),
        ({"readout": "bilinear", "variants": [{"seed": 1}]}, "features of one representation"),
        ({"readout": "bilinear", "source": {"view": "v"}}, "source goes only with the plain"),
    ],
)
def test_read_outs_that_cannot_be_are_named(settings, words):
    with pytest.raises(UserError, match=words):
        Parameters(**settings)
    several = {"variants": ({"seed": 1},), "combine": "features"}
    assert not Parameters(readout="bilinear", **several).plain
    assert correspondence.companions(Parameters(readout="bilinear")) == {}
