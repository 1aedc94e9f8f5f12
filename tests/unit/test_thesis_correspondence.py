"""The thesis' way of scoring correspondence, written out, on annotations of SPair-71k's form."""

import math

import numpy as np
import polars as pl
import pytest
from reprscope.representations.views import View
from reprscope.tasks.correspondence import Parameters, measure, summarise
from support.fakes import FakeAnnotations, FakeRepresentations

RESOLUTION = 512
GRID = 16


def annotation(source, target, src_imsize, trg_imsize, **values):
    """What a file of PairAnnotation says of a pair."""
    return {
        "src_imname": source,
        "trg_imname": target,
        "src_imsize": [*src_imsize, 3],
        "trg_imsize": [*trg_imsize, 3],
        "src_bndbox": [0, 0, *src_imsize],
        "category": "cat",
    } | values


BY_HAND = [
    # The radius at 0.1 is 10 px: two predictions lie exactly on it, one is off by 1 px, one far.
    annotation(
        "a",
        "b",
        (200, 100),
        (200, 100),
        trg_bndbox=[50, 20, 150, 80],
        src_kps=[[60, 50], [100, 50], [120, 60], [0, 0]],
        trg_kps=[[70, 50], [106, 58], [121, 60], [150, 80]],
    ),
    # The radius is 5 px: one prediction lies exactly on it; the true points on a corner and a side.
    annotation(
        "b",
        "c",
        (200, 100),
        (100, 100),
        trg_bndbox=[0, 0, 40, 50],
        src_kps=[[3, 4], [50, 6]],
        trg_kps=[[0, 0], [50, 0]],
    ),
]
PHOTOS = [
    annotation(
        "p",
        "q",
        (500, 375),
        (333, 500),
        trg_bndbox=[31, 77, 301, 431],
        src_kps=[[17, 3], [401, 333], [250, 188], [499, 374]],
        trg_kps=[[35, 80], [207, 401], [160, 250], [332, 499]],
    ),
    annotation(
        "q",
        "r",
        (333, 500),
        (640, 427),
        trg_bndbox=[101, 53, 555, 401],
        src_kps=[[101, 203], [44, 81]],
        trg_kps=[[333, 251], [187, 99]],
    ),
    annotation(
        "r",
        "p",
        (640, 427),
        (500, 375),
        trg_bndbox=[11, 13, 488, 360],
        src_kps=[[613, 400], [331, 7], [55, 205]],
        trg_kps=[[480, 350], [251, 12], [39, 181]],
    ),
]


def made(pairs) -> tuple[FakeRepresentations, FakeAnnotations]:
    """Random features under the default view, and the pairs in the canonical form."""
    sizes = {p[f"{side}_imname"]: p[f"{side}_imsize"][:2] for p in pairs for side in ("src", "trg")}
    rng = np.random.default_rng(8)
    transforms, pixels = {}, {}
    for name, (width, height) in sizes.items():
        blank = np.zeros((height, width, 3), np.uint8)
        image, transforms[name] = View().apply(
            blank, resolution=RESOLUTION, multiple=8, image_id="a"
        )
        pixels[name] = (image.shape[1], image.shape[0])
    grids = {"mid_block": {name: rng.normal(size=(GRID, GRID, 12)) for name in sizes}}
    images = pl.DataFrame(
        {
            "image_id": list(sizes),
            "width": [width for width, _ in sizes.values()],
            "height": [height for _, height in sizes.values()],
        }
    )
    rows = [
        {
            "pair_id": f"{number:06d}",
            "split": "test",
            "category": p["category"],
            "source_id": p["src_imname"],
            "target_id": p["trg_imname"],
            "keypoints": [str(i) for i in range(len(p["src_kps"]))],
            "source_xy": [[float(v) for v in xy] for xy in p["src_kps"]],
            "target_xy": [[float(v) for v in xy] for xy in p["trg_kps"]],
            "source_box": [float(v) for v in p["src_bndbox"]],
            "target_box": [float(v) for v in p["trg_bndbox"]],
        }
        for number, p in enumerate(pairs)
    ]
    return FakeRepresentations(grids, pixels, transforms), FakeAnnotations(
        images, pl.DataFrame(rows)
    )


def score(measured, estimator, **settings):
    parameters = Parameters(alphas=(0.1,), **settings)
    table = summarise(measured, parameters)
    chosen = table.filter((pl.col("estimator") == estimator) & (pl.col("average") == "point"))
    return chosen["pck"].item()


@pytest.mark.parametrize(("strict", "expected"), [(False, 4 / 6), (True, 1 / 6)])
@pytest.mark.parametrize("coordinates", ["centred", "integer"])
def test_same_position_by_hand(strict, expected, coordinates):
    """Raw pixels of the source image are the prediction; figure 9 compares with `<`."""
    measured = measure(*made(BY_HAND), Parameters(), coordinates=coordinates)
    assert score(measured, "same_position", strict=strict) == pytest.approx(expected)


@pytest.mark.parametrize("strict", [False, True])
def test_random_by_hand(strict):
    """Whole disks of 10 px in 200 x 100 px; a quarter and a half of 5 px in 100 x 100 px."""
    expected = (4 * math.pi * 10**2 / 20_000 + math.pi * 5**2 * (1 / 4 + 1 / 2) / 10_000) / 6
    measured = measure(*made(BY_HAND), Parameters())
    assert score(measured, "random", strict=strict) == pytest.approx(expected)


def test_random_is_what_the_thesis_draws():
    """1000 uniform points inside each target image for each keypoint, within four deviations."""
    rng = np.random.default_rng(42)
    shares = []
    for p in [*BY_HAND, *PHOTOS]:
        width, height, _ = p["trg_imsize"]
        x0, y0, x1, y1 = p["trg_bndbox"]
        for xy in p["trg_kps"]:
            drawn = rng.random((1000, 2)) * (width, height)
            distance = np.linalg.norm(drawn - xy, axis=1)
            shares.append((distance < 0.1 * max(x1 - x0, y1 - y0)).mean())
    found = score(measure(*made([*BY_HAND, *PHOTOS]), Parameters()), "random")
    deviation = math.sqrt(found * (1 - found) / (1000 * len(shares)))
    assert abs(np.mean(shares) - found) < 4 * deviation


def test_whole_pixels_equal_the_thesis_written_out():
    """Pad to a square, resize, cut points and boxes to integers, and compare there."""
    features, annotations = made(PHOTOS)
    measured = measure(features, annotations, Parameters(), coordinates="integer")
    rows = iter(measured.filter(pl.col("estimator") == "cosine").iter_rows(named=True))
    expected_hits = []

    def to_encoded(values, size):
        width, height = size[:2]
        side = max(width, height)
        padding = ((side - width) // 2, (side - height) // 2)
        return [int((v + padding[i % 2]) * RESOLUTION / side) for i, v in enumerate(values)]

    token = RESOLUTION / GRID
    for p in PHOTOS:
        box = to_encoded(p["trg_bndbox"], p["trg_imsize"])
        for source, target in zip(p["src_kps"], p["trg_kps"], strict=True):
            row = next(rows)
            sx, sy = to_encoded(source, p["src_imsize"])
            tx, ty = to_encoded(target, p["trg_imsize"])
            grids = features.grids["mid_block"]
            query = grids[p["src_imname"]][int(sy / token), int(sx / token)]
            found = grids[p["trg_imname"]]
            cosine = found @ query / np.linalg.norm(found, axis=2)
            y, x = np.unravel_index(cosine.argmax(), cosine.shape)
            px, py = (x + 0.5) * token, (y + 0.5) * token
            assert (row["source_x"], row["source_y"]) == (sx, sy)
            assert (row["target_x"], row["target_y"]) == (tx, ty)
            assert [row[f"box_{corner}"] for corner in ("x0", "y0", "x1", "y1")] == box
            assert (row["predicted_x"], row["predicted_y"]) == (px, py)
            assert (row["target_width"], row["target_height"]) == (RESOLUTION, RESOLUTION)
            reach = 0.4 * max(box[2] - box[0], box[3] - box[1])
            expected_hits.append(math.hypot(px - tx, py - ty) <= reach)
    parameters = Parameters(alphas=(0.4,))
    table = summarise(measured, parameters)
    chosen = table.filter((pl.col("estimator") == "cosine") & (pl.col("average") == "point"))
    assert 0 < sum(expected_hits) < len(expected_hits)
    assert chosen["pck"].item() == pytest.approx(np.mean(expected_hits))


def test_estimators_without_features_do_not_depend_on_the_coordinates():
    centred = measure(*made(PHOTOS), Parameters(), coordinates="centred")
    whole = measure(*made(PHOTOS), Parameters(), coordinates="integer")
    blind = pl.col("estimator") != "cosine"
    assert centred.filter(blind).equals(whole.filter(blind))
    assert not centred.equals(whole)


def test_a_mirrored_view_keeps_the_sides_of_a_box_in_order():
    features, annotations = made(PHOTOS)
    blank = np.zeros((500, 333, 3), np.uint8)
    mirrored = View(operations=({"hflip": {}},))
    _, features.transforms["q"] = mirrored.apply(
        blank, resolution=RESOLUTION, multiple=8, image_id="a"
    )
    measured = measure(features, annotations, Parameters(), coordinates="integer")
    row = measured.filter((pl.col("estimator") == "cosine") & (pl.col("target_id") == "q"))
    # 301 px from the left are 32 px from the right; 83 px of padding; 512 px of 500.
    assert row["box_x0"][0] == int((333 - 301 + 83) * 512 / 500)
    assert row["box_x1"][0] == int((333 - 31 + 83) * 512 / 500)
