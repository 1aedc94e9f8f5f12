import io
import math
import re

import numpy as np
import polars as pl
import pytest
from reprscope.representations.coordinates import Affine
from reprscope.runtime.errors import UserError
from reprscope.tasks import _matching, correspondence
from reprscope.tasks.correspondence import Parameters, findings, measure, relate, summarise
from support.fakes import FakeAnnotations, FakeRepresentations, pair

WIDE = {"left": (120, 80), "middle": (90, 90), "right": (60, 100)}
"""Original sizes of three images."""


def image_frame(sizes: dict[str, tuple[int, int]]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "image_id": list(sizes),
            "width": [width for width, _ in sizes.values()],
            "height": [height for _, height in sizes.values()],
            "split": "test",
        }
    )


ENCODED = {"left": (64, 64), "middle": (48, 32), "right": (16, 80)}
"""Their sizes as encoded, by a view that squashes each differently."""


def squashed() -> dict[str, Affine]:
    return {
        name: Affine(scale_x=ENCODED[name][0] / width, scale_y=ENCODED[name][1] / height)
        for name, (width, height) in WIDE.items()
    }


def made_study(*, points: int = 5) -> tuple[FakeRepresentations, FakeAnnotations]:
    """Random features on off-square grids, and pairs in both directions, in two splits."""
    rng = np.random.default_rng(4)
    grids = {
        "coarse": {name: rng.normal(size=(3, 4, 6)) for name in WIDE},
        "fine": {name: rng.normal(size=(5, 7, 4)) for name in WIDE},
    }
    features = FakeRepresentations(grids, ENCODED, squashed())
    rows = []
    for number, (source, target) in enumerate(
        [("left", "right"), ("right", "left"), ("left", "middle"), ("middle", "right")] * 2
    ):
        rows.append(
            pair(
                f"p{number}",
                source,
                target,
                split="validation" if number == 3 else "test",
                category="cat" if number % 3 else "dog",
                keypoints=[f"k{i}" for i in range(points)],
                source_xy=(rng.random((points, 2)) * WIDE[source]).tolist(),
                target_xy=(rng.random((points, 2)) * WIDE[target]).tolist(),
                source_box=[5.0, 10.0, 15.0 + number, 70.0],
                target_box=[0.0, 5.0, 40.0 + 2 * number, 60.0],
            )
        )
    return features, FakeAnnotations(image_frame(WIDE), pl.DataFrame(rows))


def one_pair(size=(100, 100), **changes) -> tuple[FakeRepresentations, FakeAnnotations]:
    sizes = dict.fromkeys("ab", size)
    grid = np.eye(100).reshape(10, 10, 100)
    features = FakeRepresentations({"mid_block": {"a": grid, "b": grid}}, sizes)
    return features, FakeAnnotations(
        image_frame(sizes), pl.DataFrame([pair("p", "a", "b", **changes)])
    )


def test_planted_matches_are_predicted_at_exact_token_centres():
    # Every token is a one-hot code; the target holds the same codes at permuted places.
    rng = np.random.default_rng(0)
    order = rng.permutation(12)
    codes = np.eye(12)
    source, target = codes.reshape(3, 4, 12), codes[order].reshape(2, 6, 12)
    sizes = {"s": (80, 60), "t": (300, 50)}
    transforms = {
        "s": Affine(),
        # Mirrored, scaled differently on each axis and moved.
        "t": Affine(scale_x=-0.5, offset_x=160.0, scale_y=2.0, offset_y=10.0),
    }
    features = FakeRepresentations(
        {"up_blocks.1": {"s": source, "t": target}}, {"s": (80, 60), "t": (170, 120)}, transforms
    )
    rows = [
        pair(
            f"p{code:02}",
            "s",
            "t",
            # The last float before the next token, on both axes.
            source_xy=[[(code % 4 + 1) * 20 - 1e-9, (code // 4 + 1) * 20 - 1e-9]],
            target_xy=[[10.0, 10.0]],
        )
        for code in range(12)
    ]
    found = measure(features, FakeAnnotations(image_frame(sizes), pl.DataFrame(rows)), Parameters())
    found = found.filter(pl.col("estimator") == "cosine")
    for code in range(12):
        place = order.tolist().index(code)
        x, y = (place % 6 + 0.5) * 170 / 6, (place // 6 + 0.5) * 60
        row = found.row(code, named=True)
        assert row["pair_id"] == f"p{code:02}"
        assert row["similarity"] == 1
        assert row["predicted_x"] == pytest.approx((x - 160) / -0.5, abs=1e-9)
        assert row["predicted_y"] == pytest.approx((y - 10) / 2, abs=1e-9)


def test_prediction_is_the_middle_of_a_token_not_its_corner():
    features, annotations = one_pair(source_xy=[[31.0, 78.0]])
    found = measure(features, annotations, Parameters()).row(0, named=True)
    assert (found["predicted_x"], found["predicted_y"]) == (35, 75)


def undegraded() -> FakeRepresentations:
    """The same images in another frame, on other grids, for the sources."""
    rng = np.random.default_rng(14)
    grids = {
        "coarse": {name: rng.normal(size=(4, 3, 6)) for name in WIDE},
        "fine": {name: rng.normal(size=(6, 5, 4)) for name in WIDE},
    }
    mirrored = {name: Affine(scale_x=-1, offset_x=width) for name, (width, _) in WIDE.items()}
    return FakeRepresentations(grids, WIDE, mirrored)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("kept", [_matching.KEPT, 0])
def test_predictions_equal_a_loop_over_points(apart, kept, monkeypatch):
    monkeypatch.setattr(_matching, "KEPT", kept)
    features, annotations = made_study()
    parameters, sources = Parameters(), features
    if apart:
        parameters, sources = Parameters(source={"view": "identity"}), undegraded()
    companions = dict.fromkeys(correspondence.companions(parameters), sources)
    found = measure(features, annotations, parameters, companions=companions)
    cosine = found.filter(pl.col("estimator") == "cosine")
    assert cosine["position"].unique(maintain_order=True).to_list() == ["coarse", "fine"]
    assert len(cosine) == 2 * 8 * 5
    for row in cosine.iter_rows(named=True):
        grids = features.grids[row["position"]]
        source = sources.grids[row["position"]][row["source_id"]]
        target = grids[row["target_id"]]
        h, w, _ = source.shape
        width, height = WIDE[row["source_id"]]
        x = width - row["source_x"] if apart else row["source_x"]
        token = source[int(row["source_y"] / height * h), int(x / width * w)]
        best, place = -2.0, None
        h, w, _ = target.shape
        for i in range(h):
            for j in range(w):
                other = target[i, j]
                value = token @ other / np.linalg.norm(token) / np.linalg.norm(other)
                if value > best:
                    best, place = value, (i, j)
        width, height = WIDE[row["target_id"]]
        assert row["predicted_x"] == pytest.approx((place[1] + 0.5) / w * width)
        assert row["predicted_y"] == pytest.approx((place[0] + 0.5) / h * height)
        assert row["similarity"] == pytest.approx(best, abs=1e-6)


def test_whole_pixels_of_a_source_are_those_of_its_own_frame():
    features, annotations = made_study()
    parameters = Parameters(source={"view": "identity"})
    found = measure(
        features,
        annotations,
        parameters,
        coordinates="integer",
        companions={"source": undegraded()},
    ).filter(estimator="cosine", position="fine")
    points = measure(features, annotations, Parameters()).filter(
        estimator="cosine", position="fine"
    )
    width = np.array([WIDE[name][0] for name in points["source_id"]])
    seen = np.trunc(width - points["source_x"].to_numpy())
    assert (found["source_x"].to_numpy() == seen).all()
    # Targets are smaller in the frame of the measurement.
    assert (found["target_x"].to_numpy() < points["target_x"].to_numpy()).all()


def test_a_source_without_features_is_named():
    features, annotations = made_study()
    lacking = FakeRepresentations({"fine": {"left": np.ones((2, 2, 4))}}, WIDE)
    with pytest.raises(UserError, match=r"'(middle|right)' of pair 'p\d' has no features"):
        measure(
            features,
            annotations,
            Parameters(source={"view": "identity"}),
            companions={"source": lacking},
        )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"source": {"dataset": "d"}}, "source is .*: view, resolution"),
        ({"source": {"view": "v"}, "smooth": 1.0}, "source goes only with the plain match"),
        ({"source": {"view": "v"}, "variants": [{"seed": 1}]}, "source goes only with the plain"),
    ],
)
def test_sources_that_cannot_be_are_named(settings, words):
    with pytest.raises(UserError, match=words):
        Parameters(**settings)


def test_summary_equals_a_loop_over_measurements():
    features, annotations = made_study()
    parameters = Parameters(alphas=(0.1, 0.5))
    measured = measure(features, annotations, parameters)
    table = summarise(measured, parameters)
    assert len(table) == 2 * 2 * 5 * 2 * 3  # positions, splits, estimators, alphas, averages
    values = set()
    for row in table.iter_rows(named=True):
        chosen = measured.filter(
            (pl.col("split") == row["split"]) & (pl.col("estimator") == row["estimator"])
        )
        if row["estimator"] == "cosine":
            chosen = chosen.filter(pl.col("position") == row["position"])
        by_pair, by_category, every = {}, {}, []
        for point in chosen.iter_rows(named=True):
            sides = point["box_x1"] - point["box_x0"], point["box_y1"] - point["box_y0"]
            reach = row["alpha"] * max(sides)
            if row["estimator"] == "random":
                width, height = point["target_width"], point["target_height"]
                x, y = np.meshgrid(
                    (np.arange(400) + 0.5) / 400 * width, (np.arange(400) + 0.5) / 400 * height
                )
                near = np.hypot(x - point["target_x"], y - point["target_y"]) <= reach
                score = near.mean()
            else:
                offset = (
                    point["predicted_x"] - point["target_x"],
                    point["predicted_y"] - point["target_y"],
                )
                score = float(math.hypot(*offset) <= reach)
            every.append(score)
            by_pair.setdefault(point["pair_id"], []).append(score)
            by_category.setdefault(point["category"], []).append(score)
        expected = {
            "point": np.mean(every),
            "pair": np.mean([np.mean(scores) for scores in by_pair.values()]),
            "category": np.mean([np.mean(scores) for scores in by_category.values()]),
        }[row["average"]]
        assert row["pck"] == pytest.approx(expected, abs=2e-3)
        # Three images are too few for an interval.
        assert (row["low"], row["high"]) == (None, None)
        assert row["points"] == len(every)
        assert row["pairs"] == len(by_pair)
        values.add(round(row["pck"], 6))
    assert len(values) > 10


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([0.0, 0.0, 40.0, 80.0], 1),  # 10 px <= 0.125 * 80
        ([0.0, 0.0, 80.0, 40.0], 1),
        ([20.0, 20.0, 99.0, 40.0], 0),  # 0.125 * 79 = 9.875
    ],
)
@pytest.mark.parametrize("source_box", [[0.0, 0.0, 8.0, 8.0], [0.0, 0.0, 100.0, 100.0]])
def test_threshold_is_the_longer_side_of_the_target_box(box, expected, source_box):
    # The source token's code is found around (35, 75), 10 px from the true point.
    features, annotations = one_pair(
        source_xy=[[31.0, 78.0]], target_xy=[[45.0, 75.0]], target_box=box, source_box=source_box
    )
    parameters = Parameters(alphas=(0.125,))
    table = summarise(measure(features, annotations, parameters), parameters)
    assert table.filter(pl.col("estimator") == "cosine")["pck"].to_list() == [expected] * 3


def test_estimators_without_features():
    features, annotations = one_pair(
        source_xy=[[30.0, 60.0]],
        target_xy=[[50.0, 50.0]],
        source_box=[10.0, 20.0, 50.0, 100.0],
        target_box=[0.0, 80.0, 60.0, 90.0],
    )
    parameters = Parameters(alphas=(0.1, 0.5))
    measured = measure(features, annotations, parameters)
    rows = {row["estimator"]: row for row in measured.iter_rows(named=True)}
    assert (rows["same_position"]["predicted_x"], rows["same_position"]["predicted_y"]) == (30, 60)
    in_box = rows["same_place_in_box"]
    assert (in_box["predicted_x"], in_box["predicted_y"]) == (30, 85)
    # The picture is encoded as it is.
    in_square = rows["same_place_in_square"]
    assert (in_square["predicted_x"], in_square["predicted_y"]) == (30, 60)
    assert rows["random"]["predicted_x"] is None
    assert [rows[name]["position"] for name in correspondence.BASELINES] == [None] * 4
    table = summarise(measured, parameters).filter(pl.col("average") == "point")
    scores = {
        (estimator, alpha): value
        for estimator, alpha, value in table.select("estimator", "alpha", "pck").iter_rows()
    }
    assert scores["random", 0.1] == pytest.approx(math.pi * 6**2 / 100**2)
    assert scores["random", 0.5] == pytest.approx(math.pi * 30**2 / 100**2)
    assert (scores["same_position", 0.1], scores["same_position", 0.5]) == (0, 1)
    assert (scores["same_place_in_box", 0.1], scores["same_place_in_box", 0.5]) == (0, 0)


@pytest.mark.parametrize("apart", [False, True])
def test_the_same_place_in_the_square_is_that_of_the_encoded_picture(apart):
    # A wide source and a high target, each in the middle of a square of 100 pixels, the target's
    # mirrored; or the source in a frame of 50 pixels, upside down.
    wide = Affine(scale_x=0.5, scale_y=0.5, offset_y=25)
    high = Affine(scale_x=-0.5, offset_x=75, scale_y=0.5)
    grids = {"mid_block": dict.fromkeys("ab", np.eye(4).reshape(2, 2, 4))}
    sizes = {"a": (200, 100), "b": (100, 200)}
    squares = dict.fromkeys("ab", (100, 100))
    features = FakeRepresentations(grids, squares, {"a": wide, "b": high})
    points = {"source_xy": [[20.0, 30.0]], "target_xy": [[50.0, 50.0]]}
    annotations = FakeAnnotations(image_frame(sizes), pl.DataFrame([pair("p", "a", "b", **points)]))
    parameters, companions = Parameters(), {}
    # (20, 30) lies at (10, 40) of the square, which shows (130, 80) of the target there.
    expected = (130, 80)
    if apart:
        parameters = Parameters(source={"view": "small"})
        small = Affine(scale_x=0.25, scale_y=-0.25, offset_y=50)
        companions = {
            "source": FakeRepresentations(grids, dict.fromkeys("ab", (50, 50)), {"a": small})
        }
        # (5, 42.5) of 50 is (10, 85) of 100.
        expected = (130, 170)
    found = measure(features, annotations, parameters, companions=companions)
    row = found.row(by_predicate=pl.col("estimator") == "same_place_in_square", named=True)
    assert (row["predicted_x"], row["predicted_y"]) == pytest.approx(expected)


def test_baselines_are_repeated_at_every_position():
    features, annotations = made_study()
    parameters = Parameters()
    table = summarise(measure(features, annotations, parameters), parameters)
    at = {
        position: table.filter(
            (pl.col("position") == position) & (pl.col("estimator") != "cosine")
        ).drop("position")
        for position in ("coarse", "fine")
    }
    assert len(at["coarse"]) == 2 * 4 * 3 * 3
    assert at["coarse"].equals(at["fine"])


def test_training_pairs_are_not_scored():
    features, annotations = made_study()
    annotations.pair_frame = annotations.pair_frame.with_columns(
        split=pl.when(pl.col("pair_id") == "p0").then(pl.lit("train")).otherwise("split")
    )
    assert "p0" not in measure(features, annotations, Parameters())["pair_id"]


def test_result_does_not_depend_on_the_order_of_pairs_or_on_memory(monkeypatch):
    def written(frame: pl.DataFrame) -> bytes:
        buffer = io.BytesIO()
        frame.write_parquet(buffer)
        return buffer.getvalue()

    features, annotations = made_study()
    parameters = Parameters()
    first = measure(features, annotations, parameters)
    assert len(features.reads) == len(set(features.reads)) == 6
    annotations.pair_frame = annotations.pair_frame.reverse()
    monkeypatch.setattr(_matching, "KEPT", 0)
    features.reads.clear()
    second = measure(features, annotations, parameters)
    assert max(features.reads.count(read) for read in features.reads) == 2
    assert written(first) == written(second)
    assert written(summarise(first, parameters)) == written(summarise(second, parameters))


def test_a_position_does_not_depend_on_the_others():
    features, annotations = made_study()
    parameters = Parameters()
    both = summarise(measure(features, annotations, parameters), parameters)
    features.grids = {"fine": features.grids["fine"]}
    alone = summarise(measure(features, annotations, parameters), parameters)
    assert both.filter(pl.col("position") == "fine").equals(alone)


def test_points_that_a_crop_removes_are_left_out_for_every_estimator():
    features, annotations = one_pair(
        keypoints=["ear", "nose", "tail"],
        source_xy=[[50.0, 50.0], [50.0, 50.0], [5.0, 50.0]],
        target_xy=[[50.0, 50.0], [50.0, 99.0], [50.0, 50.0]],
    )
    features.sizes = dict.fromkeys("ab", (80, 80))
    features.transforms = dict.fromkeys("ab", Affine(offset_x=-10, offset_y=-10))
    found = measure(features, annotations, Parameters())
    assert found["keypoint"].to_list() == ["ear"] * (1 + len(correspondence.BASELINES))
    features.transforms = dict.fromkeys("ab", Affine(offset_x=-90))
    with pytest.raises(UserError, match="moves every keypoint"):
        measure(features, annotations, Parameters())


def test_a_point_on_the_far_border_belongs_to_the_last_token():
    features, annotations = one_pair(source_xy=[[100.0, 100.0]], target_xy=[[0.0, 100.0]])
    # A scale at which the border does not come out exactly.
    features.sizes = dict.fromkeys("ab", (49, 49))
    features.transforms = dict.fromkeys("ab", Affine(scale_x=0.1 * 4.9, scale_y=0.7 * 0.7))
    found = measure(features, annotations, Parameters()).row(0, named=True)
    assert (found["predicted_x"], found["predicted_y"]) == pytest.approx((95, 95))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source_xy": [[100.5, 50.0]]}, ["nose", "'p'", "outside image 'a'"]),
        ({"target_xy": [[50.0, -0.5]]}, ["nose", "'p'", "outside image 'b'"]),
        ({"target_id": "c"}, ["'c'", "'p'", "no features"]),
        ({"source_box": [10.0, 10.0, 10.0, 20.0]}, ["source box", "'p'"]),
        ({"target_box": [10.0, 10.0, 20.0, 5.0]}, ["target box", "'p'"]),
        ({"split": "train"}, ["no keypoints"]),
        ({"keypoints": [], "source_xy": [], "target_xy": []}, ["no keypoints"]),
    ],
)
def test_unusable_pairs_are_named(changes, words):
    features, annotations = one_pair()
    rows = pl.concat(
        [annotations.pair_frame, pl.DataFrame([pair("p", "a", "b", **changes)])],
        how="vertical_relaxed",
    )
    annotations.pair_frame = rows.tail(1)
    with pytest.raises(UserError) as error:
        measure(features, annotations, Parameters())
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("image", ["a", "b"])
def test_features_that_are_not_finite_are_named(value, image):
    features, annotations = one_pair()
    broken = features.grids["mid_block"][image].copy()
    broken[9, 9, 3] = value
    features.grids["mid_block"][image] = broken
    with pytest.raises(UserError, match=f"'{image}' at mid_block"):
        measure(features, annotations, Parameters())


@pytest.mark.parametrize(
    "settings",
    [
        {"alphas": ()},
        {"alphas": [0.1, 0.1]},
        {"alphas": [-0.1]},
        {"alphas": ["0.1"]},
        {"subdivide": 0},
        {"strict": 1},
    ],
)
def test_unusable_settings_are_named(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        Parameters(**settings)


def test_a_list_of_alphas_is_accepted():
    assert Parameters(alphas=[0.1]) == Parameters(alphas=(0.1,))


def degraded(views, *, images=None, position="mid_block"):
    """The table of an experiment from which pairs each view finds: (pairs, 4) of 0 and 1.

    ``images`` are the two of each pair; by default no two pairs share one.
    """
    parts = []
    for view, hits in views.items():
        rows = []
        for number, found in enumerate(hits):
            source, target = images[number] if images is not None else (number, -number - 1)
            rows += [
                {
                    "estimator": estimator, "position": place, "split": "test",
                    "pair_id": f"p{number:03}", "category": "cat", "keypoint": f"k{point}",
                    "source_id": f"{source}", "target_id": f"{target}",
                    "target_x": 50.0, "target_y": 50.0, "target_width": 100, "target_height": 100,
                    "box_x0": 0.0, "box_y0": 0.0, "box_x1": 100.0, "box_y1": 100.0,
                    "predicted_x": None if random else (50.0 if hit and not blind else 90.0),
                    "predicted_y": None if random else 50.0,
                }
                for point, hit in enumerate(found)
                for estimator, place in (
                    ("cosine", position), *((name, None) for name in correspondence.BASELINES)
                )
                for random, blind in [(estimator == "random", estimator != "cosine")]
            ]  # fmt: skip
        summary = summarise(pl.DataFrame(rows), Parameters())
        parts.append(summary.with_columns(view=pl.lit(view), task=pl.lit("t")))
    return pl.concat(parts)


def related(*tables):
    return relate(pl.concat(tables), {"t": Parameters()})


def test_a_change_is_of_the_same_pairs_and_has_their_interval():
    rng = np.random.default_rng(3)
    # Pairs differ far more from each other than each from its degraded self.
    clean = rng.random((150, 4)) < rng.choice([0.1, 0.95], (150, 1))
    noised = clean & (rng.random(clean.shape) < 0.8)
    table = related(degraded({"identity": clean, "noise-1": noised}))
    assert not [name for name in table.columns if name.endswith("of_pair")]
    told = table.filter(pl.col("change").is_not_null())
    # Of the undegraded view itself there is none.
    assert told.select("estimator", "average", "view").unique().rows() == [
        ("cosine", "point", "noise-1")
    ]
    (last,) = told.filter(alpha=0.1).iter_rows(named=True)
    a, b = clean.sum(axis=1), noised.sum(axis=1)
    change = b.sum() / a.sum() - 1
    assert last["change"] == pytest.approx(change)
    # By the delta method, whose variance of a ratio knows that both are of the same pairs.
    spread = (b - (1 + change) * a).std() / a.mean() / len(a) ** 0.5
    assert last["change_low"] == pytest.approx(change - 1.96 * spread, abs=0.1 * spread)
    assert last["change_high"] == pytest.approx(change + 1.96 * spread, abs=0.1 * spread)
    assert spread < 0.7 * np.hypot(a.std(), b.std()) / a.mean() / len(a) ** 0.5


def test_a_change_knows_that_pairs_share_images():
    # What a picture loses is its own, whatever it is paired with.
    images = [(i, j) for i in range(20) for j in range(20) if i != j]
    weak = np.arange(20) < 7
    clean = np.ones((len(images), 4), bool)
    noised = np.array([[not weak[i], not weak[j]] * 2 for i, j in images])
    table = related(degraded({"identity": clean, "noise-1": noised}, images=images))
    (row,) = table.filter(pl.col("change").is_not_null(), alpha=0.1).iter_rows(named=True)
    assert row["change"] == pytest.approx(-7 / 20)
    # As a mean over 20 images: Student's t of 19 degrees of freedom.
    half = 2.093 * (0.35 * 0.65 / 19) ** 0.5
    assert row["change_high"] - row["change"] == pytest.approx(half, rel=0.06)


def several(losses, *, pairs=200):
    """Positions that lose shares of what they find, all of other points."""
    rng = np.random.default_rng(4)
    clean = np.ones((pairs, 4), bool)
    places = ["down_blocks.0", "mid_block", "up_blocks.1", "up_blocks.2"][: len(losses)]
    tables = [
        degraded({"identity": clean, "noise-1": rng.random(clean.shape) >= loss}, position=place)
        for place, loss in zip(places, losses, strict=True)
    ]
    return related(*tables).with_columns(
        model=pl.lit("m"), dataset=pl.lit("d"), timestep=pl.lit(50)
    )


def test_extremes_stand_apart_by_their_worst_comparison():
    table = several((0.2, 0.5, 0.53, 0.8)).filter(pl.col("change").is_not_null(), alpha=0.1)
    least, second, _, most = table.iter_rows(named=True)
    assert second["change_apart_p"] is None
    assert max(least["change_apart_p"], most["change_apart_p"]) < 1e-6
    close = several((0.2, 0.5, 0.79, 0.8)).filter(pl.col("change").is_not_null(), alpha=0.1)
    assert close["change_apart_p"].drop_nulls().max() > 0.05


def test_least_is_said_only_of_what_keeps_less_than_every_other():
    def first(losses):
        return findings(several(losses)).sentences[0].replace("m, noise-1: ", "")

    number = r"\d+ % \[\d+, \d+\]"
    assert re.fullmatch(
        f"of 4 blocks, up\\[2\\] keeps least of its undegraded PCK, {number}, "
        f"and down\\[0\\] most, {number}.",
        first((0.2, 0.5, 0.53, 0.8)),
    )
    assert re.fullmatch(
        f"down\\[0\\] keeps most of its undegraded PCK, {number}; up\\[.\\] {number}, "
        "the lowest of 4 blocks on these pairs.",
        first((0.2, 0.5, 0.79, 0.8)),
    )
    assert re.fullmatch(
        f"up\\[2\\] keeps least of its undegraded PCK, {number}; (mid|down\\[0\\]) {number}, "
        "the highest of 4 blocks on these pairs.",
        first((0.4, 0.4, 0.6, 0.8)),
    )
    assert re.fullmatch(
        rf"(\S+) keeps {number} of its undegraded PCK and (\S+) {number}, the lowest and highest "
        "of 4 blocks on these pairs.",
        first((0.5, 0.5, 0.5, 0.5)),
    )
    assert re.fullmatch(
        f"mid keeps less of its undegraded PCK, {number}, than down\\[0\\], {number}.",
        first((0.2, 0.5)),
    )


def test_findings_tell_the_last_step_and_the_baselines():
    table = several((0.2, 0.5))
    found = findings(table)
    assert "change_apart_p" not in found.table.columns
    assert not [text for text in found.sentences if "identity: " in text]
    assert len([text for text in found.sentences if "undegraded" in text]) == 1
    unseen = found.sentences[-1]
    assert unseen.startswith("Baselines that see no features: random point 3.1 % [")
    assert "same position 0.0 % [" in unseen


def test_there_is_no_change_without_the_undegraded_pairs_or_above_nothing():
    found = np.ones((6, 4), bool)
    some = related(degraded({"identity": found, "noise-1": found[:5], "blur-1": found}))
    told = some.filter(pl.col("change").is_not_null())
    assert set(told["view"]) == {"blur-1"}
    lost = related(degraded({"identity": ~found, "noise-1": ~found}))
    assert lost["change"].null_count() == len(lost)
