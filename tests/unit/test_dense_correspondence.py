import dataclasses
import io
import itertools
import json

import numpy as np
import polars as pl
import pytest
from PIL import Image
from reprscope.base.parameters import build
from reprscope.base.provenance import canonical_json
from reprscope.data.canonical import Annotations
from reprscope.representations.coordinates import Affine
from reprscope.representations.views import View
from reprscope.runtime.errors import UserError
from reprscope.tasks import companions
from reprscope.tasks import dense_correspondence as dense
from reprscope.tasks.dense_correspondence import Frame, Match, Parameters
from scipy import stats
from support.fakes import FakeAnnotations, FakeRepresentations, pair

SIDE, TOKEN = 96, 16
GRID = SIDE // TOKEN
NAMES = ["b", "a", "c"]


def contents(names=NAMES, position="mid_block", channels=24, seed=0) -> dict[str, np.ndarray]:
    """A distinct vector for each 16 px cell of a 192 px world, by image: (12, 12, channels)."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(12, 12, channels)) for name in names}


def features(grids, transforms=None, pixels=(SIDE, SIDE), position="mid_block"):
    names = list(grids)
    return FakeRepresentations(
        {position: grids},
        dict.fromkeys(names, pixels),
        dict.fromkeys(names, transforms or Affine()),
    )


def annotations(names=NAMES, size=SIDE) -> FakeAnnotations:
    rng = np.random.default_rng(5)
    frame = pl.DataFrame({"image_id": names, "split": ["test"] * len(names)})
    pictures = {name: rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for name in names}
    return FakeAnnotations(frame, pictures=pictures)


def run(measured, found_in, **settings) -> pl.DataFrame:
    return dense.measure(
        measured, annotations(), Parameters(**settings), companions={"reference": found_in}
    )


def scores(found: pl.DataFrame) -> pl.DataFrame:
    return found.filter(kind="score")


def corner(world: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: grid[:GRID, :GRID] for name, grid in world.items()}


# --- planted structure ---------------------------------------------------------------------------


def test_an_image_finds_itself_whatever_the_length_of_its_tokens():
    world = corner(contents())
    lengths = np.random.default_rng(1).uniform(0.01, 1000, (GRID, GRID, 1))
    found = scores(run(features({k: v * lengths for k, v in world.items()}), features(world)))
    assert found["image_id"].to_list() == NAMES
    assert (
        found.select("tokens", "candidates", "correct", "within_one", "error").rows()
        == [(36, 36, 36, 36, 0.0)] * 3
    )


def test_a_mirrored_image_finds_itself_mirrored():
    world = corner(contents())
    flip = View(operations=({"hflip": {}},)).apply(
        np.zeros((SIDE, SIDE, 3), np.uint8), resolution=SIDE, multiple=8, image_id="a"
    )[1]
    mirrored = features({k: v[:, ::-1] for k, v in world.items()}, flip)
    assert scores(run(mirrored, features(world)))["correct"].to_list() == [36] * 3
    # Without the map of the view each token is expected at the place that it has now.
    unaware = scores(run(features({k: v[:, ::-1] for k, v in world.items()}), features(world)))
    assert unaware["correct"].to_list() == [0] * 3
    # Columns are 5, 3, 1, 1, 3, 5 tokens away.
    assert unaware["within_one"].to_list() == [12] * 3
    assert unaware["error"].to_list() == [3 * TOKEN] * 3


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (3, 0), (2, 5), (-1, -4)])
def test_offset_crops_are_compared_where_they_overlap(dx, dy):
    world = contents()
    start = (max(0, -dy), max(0, -dx))
    moved = (start[0] + dy, start[1] + dx)

    def cropped(at):
        grids = {k: v[at[0] : at[0] + GRID, at[1] : at[1] + GRID] for k, v in world.items()}
        return features(
            grids, Affine(offset_x=-TOKEN * float(at[1]), offset_y=-TOKEN * float(at[0]))
        )

    overlap = (GRID - abs(dx)) * (GRID - abs(dy))
    for candidates, number in (("all", 36), ("overlap", overlap)):
        found = scores(run(cropped(moved), cropped(start), candidates=candidates))
        assert (
            found.select("tokens", "candidates", "correct").rows()
            == [(overlap, number, overlap)] * 3
        )


def test_only_the_overlap_may_be_found_if_so_asked():
    # A copy of one token lies where the measured view does not look.
    rng = np.random.default_rng(2)
    grid = rng.normal(size=(8, 8, 5))
    grid[2, 1] = grid[2, 6]
    reference = features({"a": grid}, pixels=(64, 64))
    right = features({"a": grid[:, 4:]}, Affine(offset_x=-32.0), pixels=(32, 64))
    everywhere = scores(run(right, reference))
    inside = scores(run(right, reference, candidates="overlap"))
    # Of equal tokens the first is taken, five tokens off.
    assert everywhere.select("tokens", "candidates", "correct").row(0) == (32, 64, 31)
    assert everywhere["error"][0] == pytest.approx(5 * 8 / 32)
    assert inside.select("tokens", "candidates", "correct").row(0) == (32, 32, 32)


def test_a_planted_permutation_is_found_exactly():
    world = corner(contents(["a"]))
    order = np.random.default_rng(4).permutation(36)
    shuffled = world["a"].reshape(36, -1)[order].reshape(GRID, GRID, -1)
    found = run(features({"a": shuffled}), features(world), images=["a"]).filter(kind="map")
    place = found["source_row"].to_numpy() * GRID + found["source_col"].to_numpy()
    assert (place[found["row"].to_numpy() * GRID + found["col"].to_numpy()] == order).all()
    rows = np.stack([np.arange(36) // GRID - order // GRID, np.arange(36) % GRID - order % GRID])
    error = TOKEN * np.hypot(*rows)
    np.testing.assert_allclose(found["error"].to_numpy(), error, atol=1e-9)
    np.testing.assert_allclose(found["similarity"].to_numpy(), 1, atol=1e-6)


def test_another_resolution_is_compared_at_the_same_place():
    world = corner(contents())
    fine = {k: np.repeat(np.repeat(v, 2, 0), 2, 1) for k, v in world.items()}
    larger = features(fine, Affine(2.0, 0.0, 2.0, 0.0), pixels=(2 * SIDE, 2 * SIDE))
    found = scores(run(larger, features(world), reference={"resolution": SIDE}))
    # Four small tokens lie in each large one, their centres a quarter of its diagonal off.
    assert found.select("tokens", "correct").rows() == [(144, 144)] * 3
    np.testing.assert_allclose(found["error"].to_numpy(), np.hypot(4, 4))


# --- brute force -------------------------------------------------------------------------------


def brute(measured, reference, image, position):
    """Every quantity of a score by loops over tokens, without any function of the task."""
    own, other = measured.grids[position][image], reference.grids[position][image]
    (w, h), (wr, hr) = measured.sizes[image], reference.sizes[image]
    a, b = measured.transform(image), reference.transform(image)
    tokens = correct = near = 0
    errors = []
    for i, j in itertools.product(range(own.shape[0]), range(own.shape[1])):
        x, y = (j + 0.5) * w / own.shape[1], (i + 0.5) * h / own.shape[0]
        x, y = (x - a.offset_x) / a.scale_x, (y - a.offset_y) / a.scale_y
        x, y = x * b.scale_x + b.offset_x, y * b.scale_y + b.offset_y
        if not (0 <= x < wr and 0 <= y < hr):
            continue
        best, place = -2.0, (0, 0)
        for k, m in itertools.product(range(other.shape[0]), range(other.shape[1])):
            cosine = own[i, j] @ other[k, m]
            cosine /= np.linalg.norm(own[i, j]) * np.linalg.norm(other[k, m])
            if cosine > best:
                best, place = cosine, (k, m)
        sx, sy = wr / other.shape[1], hr / other.shape[0]
        tokens += 1
        off = (abs(place[0] - int(y // sy)), abs(place[1] - int(x // sx)))
        correct += off == (0, 0)
        near += max(off) <= 1
        errors.append(np.hypot((place[1] + 0.5) * sx - x, (place[0] + 0.5) * sy - y))
    return tokens, correct, near, np.mean(errors)


def test_scores_equal_a_loop_over_pairs_of_tokens():
    rng = np.random.default_rng(7)
    grids = {"conv_in": (5, 7, 4), "mid_block": (3, 4, 9)}
    measured = FakeRepresentations(
        {p: {n: rng.normal(size=shape) for n in NAMES} for p, shape in grids.items()},
        dict.fromkeys(NAMES, (70, 50)),
        dict.fromkeys(NAMES, Affine(-1.1, 66.0, 0.9, 2.5)),
    )
    shapes = {"conv_in": (6, 6, 4), "mid_block": (3, 3, 9)}
    reference = FakeRepresentations(
        {p: {n: rng.normal(size=shape) for n in NAMES} for p, shape in shapes.items()},
        dict.fromkeys(NAMES, (60, 60)),
        dict.fromkeys(NAMES, Affine(1.3, -4.0, 1.2, -7.0)),
    )
    found = scores(run(measured, reference))
    assert len(found) == 6
    for row in found.iter_rows(named=True):
        tokens, correct, near, error = brute(measured, reference, row["image_id"], row["position"])
        assert 0 < tokens < np.prod(grids[row["position"]][:2])
        assert (row["tokens"], row["correct"], row["within_one"]) == (tokens, correct, near)
        assert row["error"] == pytest.approx(error, abs=1e-5)
    assert found["correct"].sum() < found["within_one"].sum() < found["tokens"].sum()


# --- error percentiles ---------------------------------------------------------------------------


def test_percentiles_by_hand():
    # Two rows of three tokens of 10 px; the true place is the centre of the upper left one. The
    # distances to it are 0, 10, 20 above and 10, 14.1, 22.4 below.
    reference = Frame((30, 20), Affine(), (2, 3))
    place = np.array([[5.0, 5.0]] * 6)
    error = np.array([0, 10, 20, 10, 200**0.5, 500**0.5])
    expected = np.array([0, 1, 4, 1, 3, 5]) / 6
    np.testing.assert_array_equal(dense.percentiles(error, place, reference), expected)
    allowed = np.array([False, True, True, True, True, False])
    np.testing.assert_array_equal(
        dense.percentiles(error, place, reference, allowed), np.array([0, 0, 3, 0, 2, 4]) / 4
    )


def test_rounding_does_not_part_equal_distances():
    # 1/3 and 0.1 are no sums of powers of two; all four corners are equally far from the middle.
    reference = Frame((100, 100), Affine(), (3, 3))
    middle = np.array([[50.0 + 1e-9, 50.0 - 1e-9]])
    found = Match(np.array([2]), np.array([0]), np.array([1.0], np.float32))
    error = dense.distances(found, middle, reference)
    assert dense.percentiles(error, middle, reference).tolist() == [5 / 9]


def test_a_random_token_is_in_the_middle_of_the_percentiles_less_its_ties():
    reference = Frame((80, 80), Affine(), (8, 8))
    centres = reference.centres()
    every = np.array([np.hypot(*(centres - centre).T) for centre in centres])
    place = np.repeat(centres, 64, axis=0)
    found = dense.percentiles(every.ravel(), place, reference).reshape(64, 64)
    ties = np.array([[np.isclose(row, value).sum() for value in row] for row in every])
    np.testing.assert_allclose(found.mean(axis=1), ((64 - ties) / 2 / 64).mean(axis=1))


# --- examples ------------------------------------------------------------------------------------


def test_maps_and_pictures_of_examples():
    world = corner(contents())
    flip = Affine(scale_x=-1.0, offset_x=float(SIDE))
    mirrored = features({k: v[:, ::-1] for k, v in world.items()}, flip)
    mirrored.view = {"operations": [{"hflip": {}}]}
    found = run(mirrored, features(world), count=1, pairs=[["b", "c"]])
    maps = found.filter(kind="map")
    assert maps["image_id"].unique(maintain_order=True).to_list() == ["a", "b"]
    own, cross = maps.filter(image_id="a"), maps.filter(image_id="b")
    assert len(own) == len(cross) == 36
    assert (own["source_col"] == GRID - 1 - own["col"]).all()
    assert own["percentile"].to_list() == [0.0] * 36
    np.testing.assert_allclose(own["expected_x"], (GRID - 0.5 - own["col"]) / GRID)
    np.testing.assert_allclose(own["expected_y"], (own["row"] + 0.5) / GRID)
    # Of another image no place is the true one.
    for column in ("expected_x", "expected_y", "error", "percentile"):
        assert cross[column].null_count() == 36
    pictures = found.filter(kind="image")
    assert pictures.select("image_id", "source_id", "mirrored", "width", "height").rows() == [
        ("a", "a", True, SIDE, SIDE),
        ("b", "c", True, SIDE, SIDE),
    ]
    shown = annotations().pictures
    for name, source, png, source_png in pictures.select(
        "image_id", "source_id", "png", "source_png"
    ).iter_rows():
        opened = [np.asarray(Image.open(io.BytesIO(data))) for data in (png, source_png)]
        np.testing.assert_array_equal(opened[0], shown[name][:, ::-1])
        np.testing.assert_array_equal(opened[1], shown[source])
    assert len(scores(found)) == 3


def test_what_a_view_does_not_share_has_no_true_place():
    world = corner(contents(["a"]))
    right = {"a": world["a"][:, 2:]}
    reference = features(right, Affine(offset_x=-2.0 * TOKEN), pixels=(SIDE - 2 * TOKEN, SIDE))
    maps = run(features(world), reference, images=["a"]).filter(kind="map")
    outside = maps.filter(pl.col("col") < 2)
    assert outside["percentile"].null_count() == len(outside) == 12
    assert maps["percentile"].null_count() == 12
    assert maps["source_row"].null_count() == 0


def test_without_a_reference_only_pairs_are_compared():
    world = features(corner(contents()))
    found = run(world, world, reference={}, pairs=[["a", "b"]])
    assert found["kind"].unique().sort().to_list() == ["image", "map"]
    table = dense.summarise(found, Parameters(reference={}, pairs=[["a", "b"]]))
    assert len(table.filter(kind="map")) == 36
    other = run(world, world, reference={"dataset": "other"}, pairs=[["a", "b"]])
    assert other.filter(kind="image")["source_png"].null_count() == 1
    assert scores(other).is_empty()


def test_listed_categories_are_mapped_by_their_first_test_pair():
    world = features(corner(contents()))
    named = annotations()
    named.pair_frame = pl.DataFrame(
        [
            pair("p3", "a", "b"),
            pair("p2", "b", "c"),
            pair("p1", "c", "a", split="validation"),
            pair("p0", "c", "b", category="dog"),
        ]
    )
    settings = Parameters(reference={}, listed=["dog", "cat"])
    found = dense.measure(world, named, settings, companions={"reference": world})
    pictures = found.filter(kind="image")
    # The target is looked at, and takes tokens of the source.
    assert pictures.select("image_id", "source_id").rows() == [("b", "c"), ("c", "b")]
    maps = found.filter(kind="map", image_id="c")
    assert maps["source_id"].unique().to_list() == ["b"]
    assert maps["percentile"].null_count() == len(maps) == 36
    with pytest.raises(UserError, match="no test pair of category 'cow'; list some of: cat, dog"):
        dense.measure(
            world,
            named,
            Parameters(reference={}, listed=["cow"]),
            companions={"reference": world},
        )


def test_without_pairs_none_can_be_listed(tmp_path):
    world = features(corner(contents()))
    settings = Parameters(reference={}, listed=["cat"])
    with pytest.raises(UserError, match="the dataset has no pairs"):
        dense.measure(world, Annotations(tmp_path), settings, companions={"reference": world})


# --- summary -------------------------------------------------------------------------------------


def test_the_summary_is_the_mean_over_images_with_its_interval():
    rng = np.random.default_rng(3)
    measured = features({n: rng.normal(size=(4, 4, 3)) for n in map(str, range(30))})
    reference = features(
        {n: g + rng.normal(size=(4, 4, 3)) for n, g in measured.grids["mid_block"].items()}
    )
    found = run(measured, reference)
    table = dense.summarise(found, Parameters())
    (row,) = table.iter_rows(named=True)
    share = (found["correct"] / found["tokens"]).to_numpy()
    assert row["accuracy"] == pytest.approx(share.mean())
    # Student's t of 29 degrees of freedom; a quarter of an image is all right or all wrong.
    most = share.mean() * (1 - share.mean())
    variance = (29 * share.var(ddof=1) + 0.25 * most) / 29.25
    half = 2.04523 * (variance / len(share)) ** 0.5
    assert (row["high"] - row["low"]) / 2 == pytest.approx(half, rel=0.05)
    assert row["low"] < share.mean() < row["high"]
    near = (found["within_one"] / found["tokens"]).mean()
    assert row["within_one"] == pytest.approx(near)
    assert row["within_one_low"] < near < row["within_one_high"]
    assert row["error"] == pytest.approx(found["error"].mean())
    assert (row["images"], row["tokens"], row["chance"]) == (30, 480, 1 / 16)


def test_random_features_are_right_by_chance():
    rng = np.random.default_rng(8)
    names = [str(n) for n in range(60)]
    first, second = (features({n: rng.normal(size=(8, 8, 6)) for n in names}) for _ in range(2))
    (row,) = dense.summarise(run(first, second), Parameters()).iter_rows(named=True)
    assert row["low"] < row["chance"] == 1 / 64 < row["high"]
    # Corner, edge and inner tokens have 4, 6 and 9 tokens within one.
    assert row["within_one"] == pytest.approx((4 * 4 + 24 * 6 + 36 * 9) / 64**2, abs=0.01)


def test_reruns_and_the_order_of_images_give_the_same():
    world = corner(contents())
    noisy = {k: v + np.random.default_rng(1).normal(size=v.shape) for k, v in world.items()}

    def table(names):
        measured = features({name: noisy[name] for name in names})
        found = run(measured, features(world), images=["c"])
        buffer = io.BytesIO()
        dense.summarise(found, Parameters()).write_parquet(buffer)
        return found, buffer.getvalue()

    assert table(NAMES)[1] == table(NAMES)[1]
    first, other = table(NAMES)[0], table(NAMES[::-1])[0]
    assert first.sort("kind", "image_id", "row", "col").equals(
        other.sort("kind", "image_id", "row", "col")
    )


def table_of(*, spread: float = 0.0, **accuracies: tuple[float, ...]) -> pl.DataFrame:
    """Accuracies of 8 images by view and position, which differ from image to image."""
    positions = ["mid_block", "up_blocks.1", "up_blocks.3"][-max(map(len, accuracies.values())) :]
    positions[0] = "mid_block"
    rng = np.random.default_rng(2)
    rows = []
    for view, values in accuracies.items():
        for position, value in zip(positions, values, strict=True):
            own = rng.normal(size=8)
            shares = value + spread * (own - own.mean())
            rows.append(
                {
                    "task": "t", "dataset": "d", "model": "m", "view": view.replace("_", "-"),
                    "timestep": 50, "position": position, "kind": "score", "images": 8,
                    "tokens": 100, "accuracy": value, "low": value - 0.01, "high": value + 0.01,
                    "within_one": 1.0, "error": 1.0, "chance": 0.05, "shares": shares.tolist(),
                }
            )  # fmt: skip
    return dense.relate(pl.DataFrame(rows), {"t": Parameters()})


def test_a_change_is_of_the_same_images_and_has_their_interval():
    rng = np.random.default_rng(6)
    clean, grid = np.ones((3, 4, 8)), np.random.default_rng(0).normal(size=(3, 4, 8))
    names = [f"{number:02}" for number in range(40)]
    # Images differ far more from each other than each from its degraded self.
    noise = dict(zip(names, rng.uniform(0.2, 1.4, len(names)), strict=True))
    reference = features(dict.fromkeys(names, grid))

    def seen(extra: float, order: list[str]) -> FakeRepresentations:
        drawn = np.random.default_rng(1)
        each = {name: drawn.normal(size=clean.shape) for name in names}
        return features({n: grid + (noise[n] + extra) * each[n] for n in order})

    parts = []
    for view, extra in (("identity", 0.0), ("noise-1", 0.2)):
        order = names if view == "identity" else names[::-1]
        found = run(seen(extra, order), reference)
        summary = dense.summarise(found, Parameters())
        parts.append(summary.with_columns(pl.lit(view).alias("view"), task=pl.lit("t")))
    table = dense.relate(pl.concat(parts), {"t": Parameters()})
    assert "shares" not in table.columns
    first, last = table.iter_rows(named=True)
    assert [first[name] for name in ("change", "change_low", "change_high")] == [None] * 3
    change = last["accuracy"] / first["accuracy"] - 1
    assert last["change"] == pytest.approx(change)
    # By the delta method, whose variance of a ratio knows that both are of the same images.
    a, b = (np.array(part["shares"][0]) for part in parts)
    spread = (b - (1 + change) * a).std() / a.mean() / len(a) ** 0.5
    assert last["change_low"] == pytest.approx(change - 2.023 * spread, abs=0.1 * spread)
    assert last["change_high"] == pytest.approx(change + 2.023 * spread, abs=0.1 * spread)
    # Taken apart they would seem far less certain.
    apart = np.hypot(a.std(), b.std()) / a.mean() / len(a) ** 0.5
    assert spread < 0.7 * apart


def test_apart_is_the_worst_of_the_comparisons_by_a_paired_t_test():
    table = table_of(spread=0.1, identity=(0.5, 0.7, 0.9)).sort("accuracy")
    assert table["apart_p"].is_null().to_list() == [False, True, False]
    rng = np.random.default_rng(2)
    shares = [rng.normal(size=8) for _ in range(3)]
    shares = [v + 0.1 * (s - s.mean()) for v, s in zip((0.5, 0.7, 0.9), shares, strict=True)]
    expected = max(stats.ttest_rel(shares[2], shares[other]).pvalue for other in (0, 1))
    assert table["apart_p"][2] == pytest.approx(expected)
    expected = max(stats.ttest_rel(shares[0], shares[other]).pvalue for other in (1, 2))
    assert table["apart_p"][0] == pytest.approx(expected)


def test_without_the_undegraded_view_there_is_no_change():
    assert table_of(blur_1=(0.9, 0.6))["change"].null_count() == 2
    both = table_of(far=(0.5, 0.04), far_blur_1=(0.4, 0.04)).filter(view="far-blur-1")
    assert both["change"].to_list() == [pytest.approx(-0.2), None]


def test_findings_tell_the_last_step_of_each_degradation():
    found = dense.findings(
        table_of(
            identity=(1.0, 0.9, 0.8),
            blur_2=(0.9, 0.5, 0.2),
            blur_10=(0.8, 0.6, 0.4),
            hflip=(0.1, 0.3, 0.4),
        )
    )
    assert found.sentences == [
        "m, blur-10: of 3 blocks, mid finds most tokens again, 80.0 % [79.0, 81.0] of 100 tokens "
        "in 8 images (chance 5 %); of 3 blocks, up[3] keeps least of its undegraded accuracy, 50 % "
        "[50, 50], and mid most, 80 % [80, 80].",
        "m, hflip: of 3 blocks, up[3] finds most tokens again, 40.0 % [39.0, 41.0] of 100 tokens "
        "in 8 images (chance 5 %); of 3 blocks, mid keeps least of its undegraded accuracy, 10 % "
        "[10, 10], and up[3] most, 50 % [50, 50].",
        "m, identity: of 3 blocks, mid finds most tokens again, 100.0 % [99.0, 101.0] of 100 "
        "tokens in 8 images (chance 5 %).",
    ]
    assert found.table["view"].unique(maintain_order=True).to_list() == [
        "blur-10", "hflip", "identity",
    ]  # fmt: skip


def test_findings_do_not_conclude_from_differences_within_chance():
    (text, _) = dense.findings(
        table_of(spread=0.2, identity=(0.8, 0.8, 0.8), noise_1=(0.6, 0.61, 0.62))
    ).sentences
    assert text.startswith("m, noise-1: up[3] finds 62.0 % [61.0, 63.0] of 100 tokens in 8 images ")
    assert "(the highest of 3 blocks on these images, chance 5 %)" in text
    assert text.endswith("the lowest and highest of 3 blocks on these images.")
    assert "most" not in text and "least" not in text


def test_losses_are_relative_to_where_the_degradation_starts():
    found = dense.findings(table_of(identity=(1.0, 0.8), far=(0.5, 0.4), far_bgr_1=(0.4, 0.1)))
    (sentence,) = [text for text in found.sentences if "far-bgr-1" in text]
    assert "up[3] keeps less of its undegraded accuracy, 25 % [25, 25], than mid, 80 %" in sentence


def test_a_block_at_chance_has_nothing_to_lose():
    found = dense.findings(table_of(identity=(1.0, 0.055), blur_1=(0.9, 0.0)))
    assert "keeps" not in found.sentences[1]


# --- settings ------------------------------------------------------------------------------------


def test_the_reference_is_a_companion():
    parameters = Parameters(reference={"view": "identity", "seed": 0})
    assert companions("dense_correspondence", parameters) == {
        "reference": {"view": "identity", "seed": 0}
    }
    with pytest.raises(UserError, match="model cannot differ"):
        companions("dense_correspondence", Parameters(reference={"model": "m"}))


def test_settings_survive_the_spec_of_a_job():
    written = {"reference": {"view": "near", "seed": 3}, "pairs": [["a", "b"]], "images": ["c"]}
    written["listed"] = ["cat"]
    parameters = build(Parameters, written, entry="tasks.dense")
    assert parameters == Parameters(**written)
    again = json.loads(canonical_json(dataclasses.asdict(parameters)))
    assert build(Parameters, again, entry="tasks.dense") == parameters


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"reference": {}}, "reference is empty"),
        ({"candidates": "some"}, "candidates"),
        ({"count": -1}, "count"),
        ({"pairs": [["a"]]}, "pairs"),
    ],
)
def test_unusable_settings_are_named(settings, words):
    with pytest.raises(UserError, match=words):
        Parameters(**settings)


def test_unusable_features_are_named():
    world = corner(contents())
    few = features({k: v for k, v in world.items() if k != "c"})
    with pytest.raises(UserError, match="'c' has no features in the reference"):
        run(features(world), few)
    with pytest.raises(UserError, match="'nobody' has no features"):
        run(features(world), features(world), pairs=[["nobody", "a"]])
    far = features(world, Affine(offset_x=1000.0))
    with pytest.raises(UserError, match="'b' and that of its reference have no part in common"):
        run(features(world), far)
    world["a"][0, 0, 0] = np.nan
    with pytest.raises(UserError, match="'a' at mid_block are not finite"):
        run(features(world), features(corner(contents())))
