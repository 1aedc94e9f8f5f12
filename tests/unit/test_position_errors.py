import io
import math
from collections import Counter

import numpy as np
import polars as pl
import pytest
from reprscope.coordinates import Affine
from reprscope.data import cutouts
from reprscope.errors import UserError
from reprscope.tasks import _matching, correspondence, position_errors
from reprscope.tasks.position_errors import Parameters, extra_errors, measure, summarise
from support.fakes import FakeAnnotations, FakeRepresentations

# Every position of each of three cut-outs, each mirrored too: 2 x 27 pictures.
SET = {"size": 24, "cutout": 10, "grid": 3, "kinds": 3}
PAIRS = 1_000


@pytest.fixture(scope="module")
def dataset():
    return cutouts.build(cutouts.Parameters(**SET, pairs=PAIRS), 1)


@pytest.fixture(scope="module")
def annotations(dataset):
    """The same with all pairs listed, as they follow from the keypoints by the simplest loop."""
    keypoints = dataset.keypoints.rows(named=True)
    of = {}
    for point in keypoints:
        of.setdefault(point["image_id"], {})[point["keypoint"]] = point
    rows = []
    for source, ours in of.items():
        for target, theirs in of.items():
            names = [name for name in ours if name in theirs]
            mirrored = [name.endswith("-mirrored") for name in (source, target)]
            if source == target or mirrored[0] != mirrored[1] or not names:
                continue
            rows.append(
                {
                    "pair_id": f"{source}-to-{target}",
                    "split": "test",
                    "category": "x",
                    "source_id": source,
                    "target_id": target,
                    "keypoints": names,
                    "source_xy": [[ours[n]["x"], ours[n]["y"]] for n in names],
                    "target_xy": [[theirs[n]["x"], theirs[n]["y"]] for n in names],
                    "source_box": [0.0, 0.0, 9.0, 9.0],
                    "target_box": [1.0, 1.0, 10.0, 8.0],
                }
            )
    return FakeAnnotations(
        dataset.images.drop("image"), pl.DataFrame(rows), keypoint_frame=dataset.keypoints
    )


@pytest.fixture
def features(dataset):
    """Random tokens on two grids, in frames that are mirrored and scaled."""
    rng = np.random.default_rng(5)
    names = dataset.images["image_id"].to_list()
    grids = {
        "coarse": {name: rng.normal(size=(3, 4, 3)) for name in names},
        "fine": {name: rng.normal(size=(8, 8, 5)) for name in names},
    }
    return FakeRepresentations(
        grids,
        dict.fromkeys(names, (48, 36)),
        dict.fromkeys(names, Affine(scale_x=-2, offset_x=48, scale_y=1.5)),
    )


def by_hand(features, annotations, parameters):
    """Counts of points and errors from the predictions that correspondence stores."""
    rows = correspondence.measure(features, annotations, correspondence.Parameters())
    points, errors = Counter(), Counter()
    side = max(max(size) for size in features.sizes.values())
    for row in rows.filter(pl.col("estimator") == "cosine").iter_rows(named=True):
        frame = features.transform(row["target_id"])
        source = features.transform(row["source_id"]).forward((row["source_x"], row["source_y"]))
        target = frame.forward((row["target_x"], row["target_y"]))
        found = frame.forward((row["predicted_x"], row["predicted_y"]))
        h, w, _ = features.grids[row["position"]][row["target_id"]].shape
        width, height = features.sizes[row["target_id"]]
        off = (found - target) / (width / w, height / h)
        wrong = math.hypot(*off) >= parameters.tolerance
        if parameters.alpha is not None:
            reach = parameters.alpha * max(
                row["box_x1"] - row["box_x0"], row["box_y1"] - row["box_y0"]
            )
            off = row["predicted_x"] - row["target_x"], row["predicted_y"] - row["target_y"]
            wrong = math.hypot(*off) > reach
        for of, place in (("prediction", found), ("target", target)):
            dx, dy = place - source
            low = 0
            while (low + 1) ** 2 / parameters.bins**2 * side * math.sqrt(2) <= math.hypot(dx, dy):
                low += 1
            cell = side / parameters.cells
            keys = [
                (row["position"], of, "distance", row["source_id"], low),
                (row["position"], of, "offset", math.floor(dx / cell + 0.5) * cell,
                 math.floor(dy / cell + 0.5) * cell),
            ]  # fmt: skip
            for key in keys:
                points[key] += 1
                errors[key] += wrong
    return points, errors


def counted(measured, parameters, side):
    points, errors = Counter(), Counter()
    for row in measured.iter_rows(named=True):
        if row["kind"] == "distance":
            low = round(math.sqrt(row["near"] / side / math.sqrt(2)) * parameters.bins)
            assert row["far"] == pytest.approx(
                (low + 1) ** 2 / parameters.bins**2 * side * math.sqrt(2)
            )
            key = (row["position"], row["of"], "distance", row["source_id"], low)
        else:
            key = (row["position"], row["of"], "offset", row["x"], row["y"])
        assert row["split"] == "test"
        points[key] += row["points"]
        errors[key] += row["errors"]
    return points, errors


@pytest.mark.parametrize("alpha", [None, 0.5])
def test_counts_of_listed_pairs_equal_a_loop_over_stored_predictions(features, annotations, alpha):
    parameters = Parameters(tolerance=1.5, alpha=alpha, cells=6, bins=7)
    measured = measure(features, annotations, parameters)
    expected = by_hand(features, annotations, parameters)
    assert counted(measured, parameters, 48) == (
        expected[0],
        Counter({key: expected[1][key] for key in expected[0]}),
    )


def test_all_pairs_follow_from_the_keypoints(features, annotations):
    listed = measure(features, annotations, Parameters())
    annotations = FakeAnnotations(
        annotations.image_frame, None, keypoint_frame=annotations.keypoint_frame
    )
    together = measure(features, annotations, Parameters(pairs="all"))
    keys = ["position", "of", "kind", "source_id", "near", "x", "y"]
    assert len(listed) > 1000
    assert together.sort(keys).equals(listed.sort(keys))


@pytest.mark.parametrize("pairs", ["listed", "all"])
def test_result_does_not_depend_on_memory(features, annotations, pairs, monkeypatch):
    def written(frame):
        buffer = io.BytesIO()
        frame.write_parquet(buffer)
        return buffer.getvalue()

    once = measure(features, annotations, Parameters(pairs=pairs))
    reads = Counter(features.reads)
    assert set(reads.values()) == {1}
    features.reads.clear()
    for name, size in (("KEPT", 10_000), ("GATHERED", 500), ("READ", 2_000)):
        monkeypatch.setattr(_matching, name, size)
    assert written(measure(features, annotations, Parameters(pairs=pairs))) == written(once)
    assert max(Counter(features.reads).values()) > 2


@pytest.mark.parametrize("pairs", ["listed", "all"])
def test_features_that_encode_position_alone_find_the_source_place(annotations, dataset, pairs):
    names = dataset.images["image_id"].to_list()
    place = np.eye(64).reshape(8, 8, 64)
    features = FakeRepresentations(
        {"mid_block": dict.fromkeys(names, place)}, dict.fromkeys(names, (24, 24))
    )
    parameters = Parameters(pairs=pairs, bootstrap=200, cells=8)
    table = summarise(measure(features, annotations, parameters), parameters)
    found = table.filter(pl.col("of") == "prediction")
    # The centre of the source's own token is less than half a token away on each axis.
    assert found["far"].drop_nulls().max() < 0.5 * math.sqrt(2) * 3 * 1.6
    assert found.filter(pl.col("kind") == "offset").select(pl.col("x").abs().max()).item() <= 3
    # Every error follows from where source and target stand.
    target = table.filter((pl.col("of") == "target") & (pl.col("kind") == "distance"))
    points, errors = Counter(), Counter()
    for row in annotations.pair_frame.iter_rows(named=True):
        for source, truth in zip(row["source_xy"], row["target_xy"], strict=True):
            centre = [(math.floor(value / 3) + 0.5) * 3 for value in source]
            low = math.floor(27 * math.sqrt(math.dist(source, truth) / (24 * math.sqrt(2))))
            points[low] += 1
            errors[low] += math.dist(centre, truth) >= 3
    assert target["points"].to_list() == [points[low] for low in sorted(points)]
    assert target["error_rate"].to_list() == [errors[low] / points[low] for low in sorted(points)]
    assert 0 == target["error_rate"][0] < target["error_rate"][1] < target["error_rate"][-1] == 1


def test_whole_rate_and_intervals(features, annotations):
    parameters = Parameters(bootstrap=400, tolerance=2)
    measured = measure(features, annotations, parameters)
    table = summarise(measured, parameters)
    for row in table.filter(pl.col("kind") == "whole").iter_rows(named=True):
        counts = measured.filter(
            (pl.col("position") == row["position"])
            & (pl.col("of") == row["of"])
            & (pl.col("kind") == "distance")
        )
        assert row["points"] == counts["points"].sum()
        assert row["error_rate"] == pytest.approx(counts["errors"].sum() / row["points"])
        # Sources with r_i errors of n_i points: the deviation of a ratio by the delta method.
        sources = counts.group_by("source_id").agg(pl.col("points", "errors").sum())
        off = sources["errors"] - row["error_rate"] * sources["points"]
        deviation = math.sqrt((off**2).sum()) / row["points"]
        assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * deviation, rel=0.2)
        assert row["extra_low"] <= row["extra_high"]
    bins = table.filter(pl.col("kind") == "distance")
    assert (bins["low"] <= bins["error_rate"]).all()
    assert (bins["error_rate"] <= bins["high"]).all()
    assert bins["points"].sum() == table.filter(pl.col("kind") == "offset")["points"].sum()


def test_extra_errors_by_hand():
    rate = np.array([[0.9, 0.5, np.nan, 0.2, 0.6, 0.0], [0.1, 0.5, 0.5, 0.5, 0.5, 0.5]])
    share = np.array([[0.1, 0.3, 0.0, 0.4, 0.195, 0.005], [0.2, 0.2, 0.2, 0.2, 0.1, 0.1]])
    # The last bin has too few points; the second case has its lowest rate first.
    expected = [0.1 * (0.9 - 0.2) + 0.3 * (0.5 - 0.2), 0]
    np.testing.assert_allclose(extra_errors(rate, share, 0.01), expected)
    np.testing.assert_allclose(
        extra_errors(rate[:1], share[:1], 0), 0.1 * 0.9 + 0.3 * 0.5 + 0.4 * 0.2 + 0.195 * 0.6
    )


def test_whole_pixels_are_those_of_the_protocol(features, annotations):
    exact = measure(features, annotations, Parameters())
    whole = measure(features, annotations, Parameters(), coordinates="integer")
    assert not whole.equals(exact)
    # Points that are whole pixels already stay as they are.
    features.transforms = {}
    features.sizes = dict.fromkeys(features.sizes, (24, 24))
    cut = annotations.keypoint_frame.with_columns(pl.col("x", "y").floor())
    annotations = FakeAnnotations(annotations.image_frame, None, keypoint_frame=cut)
    everything = Parameters(pairs="all")
    assert measure(features, annotations, everything, coordinates="integer").equals(
        measure(features, annotations, everything)
    )


def test_findings_name_the_block_where_position_costs_most():
    rows = [
        {
            "task": "errors",
            "model": "m",
            "dataset": "d",
            "timestep": 50,
            "position": position,
            "split": "test",
            "of": of,
            "kind": "whole",
            "extra_errors": extra,
            "extra_low": extra - 0.01,
            "extra_high": extra + 0.01,
        }
        for position, of, extra in (
            ("up_blocks.0", "prediction", 0.05),
            ("up_blocks.1", "prediction", 0.02),
            ("up_blocks.1", "target", 0.9),
        )
    ]
    found = position_errors.findings(pl.DataFrame(rows))
    assert found.table["position"].to_list() == ["up_blocks.0"]
    assert "5.0 % [4.0, 6.0] of all points wrong in up[0] at t = 50" in found.sentences[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"pairs": "some"},
        {"tolerance": 0},
        {"alpha": -0.1},
        {"alpha": 0.1, "pairs": "all"},
        {"cells": 0},
        {"bins": 0},
        {"bootstrap": 0},
        {"least": 1.0},
    ],
)
def test_unusable_settings_are_named(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        Parameters(**settings)


def test_images_that_cannot_be_compared_are_an_error(features, annotations):
    alone = annotations.keypoint_frame.with_columns(group=pl.col("image_id").rank("dense"))
    everything = Parameters(pairs="all")
    with pytest.raises(UserError, match="no two images of one group"):
        measure(
            features, FakeAnnotations(annotations.image_frame, keypoint_frame=alone), everything
        )
    hidden = annotations.keypoint_frame.with_columns(visible=False)
    with pytest.raises(UserError, match="no visible keypoints"):
        measure(
            features, FakeAnnotations(annotations.image_frame, keypoint_frame=hidden), everything
        )
    for grids in features.grids.values():
        del grids["bear-r00-c00" if "bear-r00-c00" in grids else next(iter(grids))]
    with pytest.raises(UserError, match="has no features"):
        measure(features, annotations, everything)
