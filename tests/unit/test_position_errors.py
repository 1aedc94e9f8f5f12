import io
import math
from collections import Counter

import numpy as np
import polars as pl
import pytest
import scipy.stats
from reprscope.data.sources import cutouts
from reprscope.representations.coordinates import Affine
from reprscope.runtime.errors import UserError
from reprscope.tasks import _matching, correspondence, position_errors
from reprscope.tasks._nearness import KINDS, Counts, Matches, Places, Subjects
from reprscope.tasks.position_errors import Parameters, measure, published_extra_errors, summarise
from support.fakes import FakeAnnotations, FakeRepresentations

# Every position of each of three cut-outs, each mirrored too: 2 x 27 pictures.
SET = {"size": 24, "cutout": 10, "grid": 3, "kinds": 3}
PAIRS = 1_000


@pytest.fixture(scope="module")
def dataset():
    return cutouts.build(cutouts.Parameters(**SET, pairs=PAIRS), 1)


def with_all_pairs(annotations):
    """The same with all pairs listed, as they follow from the keypoints by the simplest loop."""
    of = {}
    for point in annotations.keypoint_frame.iter_rows(named=True):
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
        annotations.image_frame, pl.DataFrame(rows), keypoint_frame=annotations.keypoint_frame
    )


@pytest.fixture(scope="module")
def annotations(dataset):
    return with_all_pairs(
        FakeAnnotations(dataset.images.drop("image"), keypoint_frame=dataset.keypoints)
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
    points, errors, expected = Counter(), Counter(), Counter()
    side = max(max(size) for size in features.sizes.values())
    subject = dict(annotations.image_frame.select("image_id", "scene").iter_rows())
    kin = {
        row["image_id"]: (row["label"], row["image_id"].endswith("-mirrored"))
        for row in annotations.image_frame.iter_rows(named=True)
    }
    stands = {
        (row["image_id"], row["keypoint"]): features.transform(row["image_id"]).forward(
            (row["x"], row["y"])
        )
        for row in annotations.keypoint_frame.iter_rows(named=True)
    }
    for row in rows.filter(pl.col("estimator") == "cosine").iter_rows(named=True):
        ids = row["source_id"], row["target_id"]
        frame = features.transform(row["target_id"])
        source = features.transform(row["source_id"]).forward((row["source_x"], row["source_y"]))
        target = frame.forward((row["target_x"], row["target_y"]))
        found = frame.forward((row["predicted_x"], row["predicted_y"]))
        h, w, _ = features.grids[row["position"]][row["target_id"]].shape
        width, height = features.sizes[row["target_id"]]
        token = np.array((width / w, height / h))
        wrong = math.hypot(*((found - target) / token)) >= parameters.tolerance
        if parameters.alpha is not None:
            reach = parameters.alpha * max(
                row["box_x1"] - row["box_x0"], row["box_y1"] - row["box_y0"]
            )
            off = row["predicted_x"] - row["target_x"], row["predicted_y"] - row["target_y"]
            wrong = math.hypot(*off) > reach
        pair = row["position"], *(subject[name] for name in ids)
        for of, place in (("prediction", found), ("target", target)):
            dx, dy = place - source
            low = 0
            while (low + 1) ** 2 / parameters.bins**2 * side * math.sqrt(2) <= math.hypot(dx, dy):
                low += 1
            cell = side / parameters.cells
            keys = [
                (*pair, "distance", of, low),
                (row["position"], "offset", of, pair[1] == pair[2],
                 math.floor(dx / cell + 0.5) * cell, math.floor(dy / cell + 0.5) * cell),
            ]  # fmt: skip
            for key in keys:
                points[key] += 1
                errors[key] += wrong
        away = math.hypot(*((found - source) / token))
        size = annotations.image_frame.filter(image_id=row["source_id"]).row(0, named=True)
        x, y = row["source_x"], row["source_y"]
        edge = min(x, y, size["width"] - x, size["height"] - y)
        kinds = ["border" if edge <= parameters.border else "inside"]
        kinds += ["near"] * (away <= 1) + ["beyond"] * (2 <= away <= 4)
        for kind in kinds:
            points[*pair, kind, "prediction", None] += 1
            errors[*pair, kind, "prediction", None] += wrong
        # The places of the same keypoint in all other images that are alike.
        others = [
            place
            for (name, keypoint), place in stands.items()
            if keypoint == row["keypoint"] and name not in ids and kin[name] == kin[ids[0]]
        ]
        key = (*pair, "drawn", "prediction", None)
        points[key] += 1
        errors[key] += wrong and away <= 1
        expected[key] += wrong * np.mean([math.hypot(*((found - p) / token)) <= 1 for p in others])
    return points, errors, expected


def counted(measured, parameters, side):
    points, errors, expected = Counter(), Counter(), Counter()
    for row in measured.iter_rows(named=True):
        assert row["split"] == "test"
        if row["kind"] == "offset":
            key = row["position"], "offset", row["of"], row["same"], row["x"], row["y"]
        else:
            assert row["same"] == (row["source"] == row["target"])
            low = None
            if row["kind"] == "distance":
                low = round(math.sqrt(row["near"] / side / math.sqrt(2)) * parameters.bins)
                assert row["far"] == pytest.approx(
                    (low + 1) ** 2 / parameters.bins**2 * side * math.sqrt(2)
                )
            pair = row["position"], row["source"], row["target"]
            key = (*pair, row["kind"], row["of"], low)
        assert key not in points
        points[key] += row["points"]
        errors[key] += row["errors"]
        if row["kind"] == "drawn":
            expected[key] = row["expected"]
    return points, errors, expected


@pytest.mark.parametrize("alpha", [None, 0.5])
def test_counts_of_listed_pairs_equal_a_loop_over_stored_predictions(features, annotations, alpha):
    parameters = Parameters(tolerance=1.5, alpha=alpha, cells=6, bins=7, border=3)
    points, errors, chance = counted(measure(features, annotations, parameters), parameters, 48)
    expected = by_hand(features, annotations, parameters)
    assert points == expected[0]
    assert errors == {key: expected[1][key] for key in points}
    assert chance.keys() == expected[2].keys()
    for key, value in chance.items():
        assert value == pytest.approx(expected[2][key])
    assert sum(chance.values()) > 0


def test_all_pairs_follow_from_the_keypoints(features, annotations):
    listed = measure(features, annotations, Parameters())
    annotations = FakeAnnotations(
        annotations.image_frame, None, keypoint_frame=annotations.keypoint_frame
    )
    together = measure(features, annotations, Parameters(pairs="all"))
    keys = ["position", "of", "kind", "source", "target", "same", "near", "x", "y"]
    assert len(listed) > 1000
    rounded = pl.col("expected").round(9)
    listed, together = (one.sort(keys).with_columns(rounded) for one in (listed, together))
    assert together.equals(listed)


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
    parameters = Parameters(pairs=pairs, cells=8)
    table = summarise(measure(features, annotations, parameters), parameters)
    table = table.filter(same="all")
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
    rates = [errors[low] / points[low] for low in sorted(points)]
    np.testing.assert_allclose(target["error_rate"], rates)
    assert 0 == rates[0] < rates[1] < rates[-1] == 1


def summed(measured, **where):
    rows = measured.filter(**where)
    return rows["errors"].sum(), rows["points"].sum()


@pytest.mark.parametrize("same", ["exclude", "only", "all"])
def test_rates_are_those_of_the_counts(features, annotations, same):
    parameters = Parameters(tolerance=2, border=3, cells=4, bins=5)
    measured = measure(features, annotations, parameters)
    table = summarise(measured, parameters).filter(same=same)
    chosen = measured if same == "all" else measured.filter(same=same == "only")
    assert set(table["position"]) == {"coarse", "fine"}
    for row in table.filter(kind="whole").iter_rows(named=True):
        counts = chosen.filter(position=row["position"])
        errors, points = summed(counts, kind="distance", of="prediction")
        assert (row["error_rate"], row["points"]) == (pytest.approx(errors / points), points)
        at_place, known = summed(counts, kind="drawn")
        assert row["at_place"] == pytest.approx(at_place / known)
        expected = counts["expected"].sum() / known
        assert row["expected"] == pytest.approx(expected)
        assert row["drawn"] == pytest.approx(at_place / known - expected)
        rates = {kind: np.divide(*summed(counts, kind=kind)) for kind in KINDS}
        assert row["contrast"] == pytest.approx(rates["near"] - rates["beyond"])
        # Of right matches, so that the border's loss is negative.
        assert row["border"] == pytest.approx(rates["inside"] - rates["border"])
        assert row["border_points"] == summed(counts, kind="border")[1]
        # Three cut-outs are three animals: what they have in common cannot be known.
        assert row["subjects"] == 3
        bounds = [c for c in row if c.endswith(("low", "high", "_p"))]
        assert len(bounds) == 10
        assert all(row[name] is None for name in bounds)
    for row in table.filter(kind="distance").iter_rows(named=True):
        keys = ("position", "of", "near")
        errors, points = summed(chosen, kind="distance", **{key: row[key] for key in keys})
        assert (row["points"], row["error_rate"]) == (points, pytest.approx(errors / points))
    for row in table.filter(kind="offset").iter_rows(named=True):
        keys = ("position", "of", "x", "y")
        errors, points = summed(chosen, kind="offset", **{key: row[key] for key in keys})
        assert (row["points"], row["error_rate"]) == (points, pytest.approx(errors / points))
    bins = table.filter(kind="distance")
    assert bins["points"].sum() == table.filter(kind="offset")["points"].sum()


def without_scenes(annotations):
    return FakeAnnotations(
        annotations.image_frame.drop("scene"),
        annotations.pair_frame,
        keypoint_frame=annotations.keypoint_frame,
    )


def test_intervals_are_those_of_pairs_that_share_images(features, annotations):
    parameters = Parameters(tolerance=2, border=3)
    measured = measure(features, without_scenes(annotations), parameters)
    table = summarise(measured, parameters)
    # No two pictures show one subject.
    assert table["same"].unique().to_list() == ["exclude"]
    for row in table.filter(kind="whole").iter_rows(named=True):
        counts = measured.filter(position=row["position"], of="prediction")
        units = row["subjects"]
        assert units == 54
        r = Counter()
        rates = {kind: np.divide(*summed(counts, kind=kind)) for kind in ("near", "beyond")}
        for one in counts.iter_rows(named=True):
            if one["kind"] in rates:
                sign = 1 if one["kind"] == "near" else -1
                of_all = summed(counts, kind=one["kind"])[1]
                off = one["errors"] - rates[one["kind"]] * one["points"]
                r["contrast", one["source"], one["target"]] += sign * off / of_all
            if one["kind"] == "drawn":
                off = one["errors"] - one["expected"] - row["drawn"] * one["points"]
                r["drawn", one["source"], one["target"]] += off / row["points"]
        for name in ("contrast", "drawn"):
            # By the double sum over pairs of pairs: those that share an image count.
            of_pair = {key[1:]: value for key, value in r.items() if key[0] == name}
            image = np.array(list(of_pair))
            shared = (image[:, None, :, None] == image[None, :, None, :]).sum(axis=(2, 3))
            value = np.array(list(of_pair.values()))
            variance = max(value @ (shared >= least) @ value for least in (1, 2))
            scale = units * (units - 1) / ((units - 2) * (units - 3))
            error = math.sqrt(variance * scale)
            reach = scipy.stats.t.ppf(0.975, units - 1) * error
            assert row[f"{name}_high"] - row[name] == pytest.approx(reach)
            assert row[name] - row[f"{name}_low"] == pytest.approx(reach)
        t = row["drawn"] / (row["drawn_high"] - row["drawn"]) * scipy.stats.t.ppf(0.975, units - 1)
        assert row["drawn_p"] == pytest.approx(scipy.stats.t.sf(t, units - 1))
    bins = table.filter(kind="distance")
    assert (bins["low"] <= bins["error_rate"]).all()
    assert (bins["error_rate"] <= bins["high"]).all()


def test_what_is_expected_is_the_mean_over_shuffled_places(features, annotations):
    """Sources' places permuted among the images of a label, as long as these show the keypoint."""
    annotations = without_scenes(annotations)
    # Only the keypoints that all pictures of a label show, so that all may be permuted.
    rows = annotations.keypoint_frame.join(
        annotations.image_frame.select("image_id", "label"), on="image_id"
    )
    every = pl.len().over("label", "keypoint", "group") == pl.col("image_id").n_unique().over(
        "label", "group"
    )
    kept = rows.filter(every, pl.col("group") == 0)
    assert len(kept) > 40
    annotations = FakeAnnotations(annotations.image_frame, None, keypoint_frame=kept.drop("label"))
    parameters = Parameters(pairs="all", tolerance=2)
    table = summarise(measure(features, annotations, parameters), parameters)
    matches = correspondence.measure(
        features, with_all_pairs(annotations), correspondence.Parameters()
    ).filter(estimator="cosine", position="fine")
    label = dict(annotations.image_frame.select("image_id", "label").iter_rows())
    stands = {
        (r["image_id"], r["keypoint"]): features.transform(r["image_id"]).forward((r["x"], r["y"]))
        for r in kept.iter_rows(named=True)
    }
    names = sorted({image for image, _ in stands})
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(60):
        moved = {}
        for of in {label[name] for name in names}:
            there = [name for name in names if label[name] == of]
            moved |= dict(zip(there, rng.permutation(there), strict=True))
        at_place = total = 0
        for row in matches.iter_rows(named=True):
            source, target = moved[row["source_id"]], row["target_id"]
            if source in (row["source_id"], target):
                continue
            forward = features.transform(target).forward
            found = forward((row["predicted_x"], row["predicted_y"]))
            token = np.array((48 / 8, 36 / 8))
            off = (found - forward((row["target_x"], row["target_y"]))) / token
            near = (found - stands[source, row["keypoint"]]) / token
            at_place += math.hypot(*off) >= 2 and math.hypot(*near) <= 1
            total += 1
        shares.append(at_place / total)
    expected = table.filter(kind="whole", position="fine")["expected"].item()
    assert np.mean(shares) == pytest.approx(expected, abs=4 * np.std(shares) / math.sqrt(60))
    assert np.std(shares) / math.sqrt(60) < 0.1 * expected


def test_without_a_position_bias_pairs_of_different_cut_outs_give_a_flat_curve():
    """Matches of one cut-out are right more often, and none depends on where anything stands."""
    built = cutouts.build(cutouts.Parameters(size=48, cutout=12, grid=6, kinds=4, pairs=1), 1)
    names = built.images["image_id"].to_list()
    subjects = Subjects.read(
        FakeAnnotations(built.images.drop("image"), keypoint_frame=built.keypoints), names
    )
    points = built.keypoints.filter(pl.col("group") == 0)
    image = points["image_id"].replace_strict(names, range(len(names))).to_numpy()
    keypoint = points["keypoint"].rank("dense").cast(pl.Int64).to_numpy()
    xy = points.select("x", "y").to_numpy()
    a, b = np.nonzero((keypoint[:, None] == keypoint) & (image[:, None] != image))
    rng = np.random.default_rng(0)
    alike = subjects.of[image[a]] == subjects.of[image[b]]
    wrong = rng.random(len(a)) < np.where(alike, 0.15, 0.36)
    stratum = subjects.kin[image] * (keypoint.max() + 1) + keypoint
    counts = Counts(subjects, 48.0, cells=12, bins=9)
    counts.add(
        Matches(
            source=image[a],
            target=image[b],
            start=xy[a],
            found=np.where(wrong[:, None], rng.uniform(0, 48, (len(a), 2)), xy[b]),
            truth=xy[b],
            token=np.full((len(a), 2), 6.0),
            where=np.arange(len(a)),
            stratum=stratum[a],
            target_stratum=stratum[b],
            wrong=wrong,
            border=np.zeros(len(a), dtype=bool),
        ),
        Places.of(stratum, image, xy),
    )
    table = summarise(counts.table("mid_block"), Parameters(pairs="all", bins=9, cells=12))

    def off(same):
        """Rates by distance of the target, less the mean one, in standard errors."""
        rows = table.filter(pl.col("points") > 200, kind="distance", of="target", same=same)
        whole = table.filter(kind="whole", same=same)["error_rate"].item()
        error = (whole * (1 - whole) / rows["points"]).sqrt()
        return ((rows["error_rate"] - whole) / error).to_numpy()

    assert len(off("exclude")) == 7
    assert np.abs(off("exclude")).max() < 3
    # As published: many errors where only different cut-outs meet, though nothing depends on place.
    assert off("all")[0] > 4
    whole = table.filter(kind="whole", same="exclude").row(0, named=True)
    assert abs(whole["drawn"]) < 0.003 < whole["at_place"]


def test_published_extra_errors_by_hand():
    errors = np.array([9.0, 15, 8, 12, 1])
    points = np.array([10.0, 30, 40, 20, 1])
    # Lowest at 0.2, behind 0.9 and 0.5.
    expected = (10 * (0.9 - 0.2) + 30 * (0.5 - 0.2)) / 101
    assert published_extra_errors(errors, points) == pytest.approx(expected)
    assert published_extra_errors(errors[2:], points[2:]) == 0


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


def told(**changes):
    row = {
        "task": "errors",
        "model": "m",
        "dataset": "d",
        "timestep": 50,
        "split": "test",
        "same": "exclude",
        "kind": "whole",
        "subjects": 40,
        "points": 5000,
        "at_place": 0.07,
        "expected": 0.02,
        "drawn": 0.05,
        "drawn_low": 0.04,
        "drawn_high": 0.06,
        "drawn_p": 0.02,
        "border_px": 16.0,
        "border_points": 1234,
        "border": -0.08,
        "border_low": -0.1,
        "border_high": -0.06,
        "border_p": 0.001,
    }
    return row | changes


def test_a_sentence_says_what_is_left_after_the_correction():
    rows = [told(position="up_blocks.0"), told(position="up_blocks.1", drawn_p=0.4, border_p=0.9)]
    found = position_errors.findings(pl.DataFrame(rows))
    assert found.sentences == [
        "m on d: wrong matches stand at the source's own place more often than at the places of "
        "the same keypoint in other images in 1 of 2 tests (after Holm's correction); as shares "
        "of all points: up[0] at t = 50 by 5.0 % [4.0, 6.0].",
        "m on d: of 5,000 keypoints of pairs, the 1,234 whose source lies within 16 px of the "
        "border are found less often in 1 of 2 tests (after Holm's correction), in up[0] at t = 50 "
        "by \N{MINUS SIGN}8.0 points [\N{MINUS SIGN}10.0, \N{MINUS SIGN}6.0].",
    ]
    # 0.02 is not small among three.
    third = told(position="up_blocks.2", drawn_p=0.4)
    first, _ = position_errors.findings(pl.DataFrame([*rows, third])).sentences
    assert "no more often" in first
    assert "as far as 3 tests tell (lowest p 0.06" in first


def test_few_subjects_are_described_only():
    none = dict.fromkeys(("drawn_p", "border_p", "drawn_low", "drawn_high"))
    rows = [told(position=f"up_blocks.{i}", drawn=i / 10, subjects=4, **none) for i in (0, 1)]
    (sentence,) = position_errors.findings(pl.DataFrame(rows)).sentences
    assert "7.0 % of all points" in sentence and "largest excess of 2 measured" in sentence
    assert "4 subjects are too few for an interval" in sentence
    assert "more often" not in sentence


@pytest.mark.parametrize(
    "settings",
    [
        {"pairs": "some"},
        {"tolerance": 0},
        {"alpha": -0.1},
        {"alpha": 0.1, "pairs": "all"},
        {"cells": 0},
        {"bins": 0},
        {"border": 0},
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
