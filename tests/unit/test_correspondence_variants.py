"""Variants of the correspondence task, each against a plain loop or a plain match."""

import itertools
import math

import numpy as np
import polars as pl
import pytest
from reprscope.representations.coordinates import Affine
from reprscope.runtime.errors import UserError
from reprscope.tasks import companions as checked_companions
from reprscope.tasks.correspondence import (
    BASELINES,
    Parameters,
    companions,
    findings,
    measure,
    relate,
    summarise,
)
from scipy import stats
from sklearn.decomposition import PCA
from support.fakes import FakeAnnotations, FakeRepresentations, pair

SIZES = {"a": (120, 80), "b": (90, 90), "c": (60, 100)}
NAMES = list(SIZES)


def features(seed, grids, encoded, *, mirrored=False, shift=(0.0, 0.0)):
    """Random tokens of the three images, encoded at a size of their own."""
    rng = np.random.default_rng(seed)
    transforms = {}
    for name, (width, height) in SIZES.items():
        scale = encoded[0] / width, encoded[1] / height
        x = (-scale[0], encoded[0] + shift[0]) if mirrored else (scale[0], shift[0])
        transforms[name] = Affine(*x, scale[1], shift[1])
    return FakeRepresentations(
        {
            position: {name: rng.normal(size=shape) for name in NAMES}
            for position, shape in grids.items()
        },
        dict.fromkeys(NAMES, encoded),
        transforms,
    )


@pytest.fixture
def own():
    return features(1, {"up_blocks.0": (3, 4, 5), "up_blocks.1": (6, 8, 4)}, (64, 48))


@pytest.fixture
def annotations():
    rng = np.random.default_rng(2)
    rows = []
    for number, (source, target) in enumerate(itertools.permutations(NAMES, 2)):
        rows.append(
            pair(
                f"p{number}",
                source,
                target,
                keypoints=[f"k{i}" for i in range(6)],
                source_xy=(rng.random((6, 2)) * SIZES[source]).tolist(),
                target_xy=(rng.random((6, 2)) * SIZES[target]).tolist(),
                source_box=[1.0, 2.0, 50.0, 60.0],
                target_box=[0.0, 5.0, 40.0, 60.0],
            )
        )
    images = pl.DataFrame(
        {
            "image_id": NAMES,
            "width": [width for width, _ in SIZES.values()],
            "height": [height for _, height in SIZES.values()],
            "split": "test",
        }
    )
    return FakeAnnotations(images, pl.DataFrame(rows))


def of(found, estimator, position=None):
    rows = found.filter(pl.col("estimator") == estimator)
    return rows if position is None else rows.filter(pl.col("position") == position)


def same_predictions(variant, plain):
    columns = ["position", "pair_id", "keypoint", "predicted_x", "predicted_y"]
    left, right = variant.select(columns), plain.select(columns)
    for name in columns[:3]:
        assert left[name].equals(right[name])
    for name in columns[3:]:
        np.testing.assert_allclose(left[name], right[name], atol=1e-9)
    np.testing.assert_allclose(variant["similarity"], plain["similarity"], atol=2e-6)


def unit(tokens):
    return tokens / np.linalg.norm(tokens, axis=-1, keepdims=True)


def value_at(scores, u, v):
    """Linear interpolation between token centres at u, v in tokens, one place at a time."""
    h, w = scores.shape
    u, v = min(max(u - 0.5, 0), w - 1), min(max(v - 0.5, 0), h - 1)
    left, top = min(int(u), w - 2), min(int(v), h - 2)
    across = [
        scores[row, left] * (left + 1 - u) + scores[row, left + 1] * (u - left)
        for row in (top, top + 1)
    ]
    return across[0] * (top + 1 - v) + across[1] * (v - top)


def in_tokens(store, position, image, xy):
    h, w, _ = store.grids[position][image].shape
    x, y = store.transform(image).forward(xy)
    width, height = store.sizes[image]
    return x / width * w, y / height * h


def source_token(store, position, image, xy):
    u, v = in_tokens(store, position, image, xy)
    h, w, _ = store.grids[position][image].shape
    inside = 0 <= u <= w and 0 <= v <= h
    return unit(
        store.grids[position][image][min(max(int(v), 0), h - 1), min(max(int(u), 0), w - 1)]
    ), inside


def by_hand(stores, rows, *, combine, across, subdivide):
    """Predictions of a loop over points and places."""
    found = []
    for row in rows.iter_rows(named=True):
        position, target = row["position"], row["target_id"]
        h, w, _ = stores[0].grids[position][target].shape
        sources = [
            source_token(s, position, row["source_id"], (row["source_x"], row["source_y"]))
            for s in stores
        ]
        width, height = stores[0].sizes[target]
        best = (-math.inf, None)
        for i, j in itertools.product(range(h * subdivide), range(w * subdivide)):
            place = (
                (j + 0.5) * width / w / subdivide,
                (i + 0.5) * height / h / subdivide,
            )
            place = stores[0].transform(target).back(place)
            values = []
            for a, b in itertools.product(range(len(stores)), repeat=2):
                if a != b and not across:
                    continue
                query, inside = sources[a]
                tokens = unit(stores[b].grids[position][target])
                u, v = in_tokens(stores[b], position, target, place)
                shown = -1e-9 <= u <= tokens.shape[1] + 1e-9
                shown &= -1e-9 <= v <= tokens.shape[0] + 1e-9
                if inside and shown:
                    values.append(value_at(tokens @ query, u, v))
            value = max(values) if combine == "max" else np.mean(values)
            if value > best[0] + 1e-7:
                best = (value, place)
        found.append((*best[1], best[0]))
    return np.array(found)


@pytest.mark.parametrize(
    ("combine", "across", "subdivide"),
    [("mean", False, 1), ("mean", True, 1), ("max", False, 2), ("max", True, 1)],
)
def test_combined_similarities_equal_a_loop_over_places(
    own, annotations, combine, across, subdivide
):
    others = {
        "1": features(3, {"up_blocks.0": (3, 4, 5), "up_blocks.1": (6, 8, 4)}, (64, 48),
                      mirrored=True),
        # Another resolution, and moved: some points and places lie outside of its picture.
        "2": features(4, {"up_blocks.0": (4, 5, 5), "up_blocks.1": (5, 4, 4)}, (80, 64),
                      shift=(-9.0, 5.0)),
    }  # fmt: skip
    parameters = Parameters(
        variants=({"view": "mirrored"}, {"resolution": 80}),
        combine=combine,
        across=across,
        subdivide=subdivide,
    )
    found = measure(own, annotations, parameters, companions=others)
    rows = of(found, "cosine")
    assert len(rows) == 2 * 6 * 6
    expected = by_hand(
        [own, *others.values()], rows, combine=combine, across=across, subdivide=subdivide
    )
    np.testing.assert_allclose(
        rows.select("predicted_x", "predicted_y").to_numpy(), expected[:, :2], atol=1e-9
    )
    np.testing.assert_allclose(rows["similarity"], expected[:, 2], atol=1e-5)


def test_the_plain_match_stands_beside_the_variant(own, annotations):
    plain = measure(own, annotations, Parameters())
    other = features(3, {"up_blocks.0": (3, 4, 5), "up_blocks.1": (6, 8, 4)}, (64, 48))
    found = measure(own, annotations, Parameters(variants=({"seed": 1},)), companions={"1": other})
    columns = [name for name in plain.columns if name != "estimator"]
    assert of(found, "plain").select(columns).equals(of(plain, "cosine").select(columns))
    assert not of(found, "cosine").select(columns).equals(of(plain, "cosine").select(columns))
    assert of(found, "random").equals(of(plain, "random"))


def test_a_variant_alone_is_compared_in_coordinates_of_its_own(own, annotations):
    exact = measure(own, annotations, Parameters())
    cut = measure(own, annotations, Parameters(), coordinates="integer")
    protocol = {"1": {"coordinates": "integer"}}
    alone = Parameters(variants=({"protocol": "whole-pixels"},), own=False)
    found = measure(own, annotations, alone, companions={"1": own}, companion_protocols=protocol)
    columns = [name for name in exact.columns if name not in ("estimator", "similarity")]
    assert of(found, "plain").select(columns).equals(of(exact, "cosine").select(columns))
    assert of(found, "cosine").select(columns).equals(of(cut, "cosine").select(columns))
    # The variant's images are encoded at another size: that one counts.
    other = features(4, {"up_blocks.0": (3, 4, 5), "up_blocks.1": (6, 8, 4)}, (96, 72))
    cut = measure(other, annotations, Parameters(), coordinates="integer")
    found = measure(own, annotations, alone, companions={"1": other}, companion_protocols=protocol)
    assert of(found, "cosine").select(columns).equals(of(cut, "cosine").select(columns))
    # Together with its own representation, that representation's coordinates count.
    both = Parameters(variants=({"protocol": "whole-pixels"},))
    found = measure(own, annotations, both, companions={"1": own}, companion_protocols=protocol)
    same_predictions(of(found, "cosine"), of(exact, "cosine"))


def mirror(store):
    """The same tokens as a mirrored view would give them."""
    grids = {
        position: {name: grid[:, ::-1] for name, grid in of_position.items()}
        for position, of_position in store.grids.items()
    }
    transforms = {
        name: store.transform(name).then(Affine(scale_x=-1, offset_x=store.sizes[name][0]))
        for name in NAMES
    }
    return FakeRepresentations(grids, store.sizes, transforms)


@pytest.mark.parametrize("combine", ["mean", "max", "nearest"])
def test_a_mirrored_copy_changes_nothing(own, annotations, combine):
    plain = of(measure(own, annotations, Parameters()), "cosine")
    parameters = Parameters(variants=({"view": "mirrored"},), combine=combine)
    found = measure(own, annotations, parameters, companions={"1": mirror(own)})
    same_predictions(of(found, "cosine"), plain)
    alone = Parameters(variants=({"view": "mirrored"},), own=False)
    found = measure(own, annotations, alone, companions={"1": mirror(own)})
    same_predictions(of(found, "cosine"), plain)


@pytest.mark.parametrize("coordinates", ["centred", "integer"])
def test_averaged_features_are_matched_like_stored_ones(own, annotations, coordinates):
    shapes = {"up_blocks.0": (3, 4, 5), "up_blocks.1": (6, 8, 4)}
    others = {str(n): features(10 + n, shapes, (64, 48)) for n in (1, 2)}
    mean = FakeRepresentations(
        {
            position: {
                name: np.mean(
                    [one.grids[position][name] for one in (own, *others.values())], axis=0
                )
                for name in NAMES
            }
            for position in shapes
        },
        own.sizes,
        own.transforms,
    )
    expected = measure(mean, annotations, Parameters(), coordinates=coordinates)
    parameters = Parameters(variants=({"seed": 1}, {"seed": 2}), combine="features")
    found = measure(own, annotations, parameters, companions=others, coordinates=coordinates)
    same_predictions(of(found, "cosine"), of(expected, "cosine"))
    others["1"].transforms = mirror(own).transforms
    with pytest.raises(UserError, match="need one view and resolution"):
        measure(own, annotations, parameters, companions=others)


def test_joined_positions_are_matched_like_joined_tokens(own, annotations):
    joined = {
        name: np.concatenate(
            [
                np.kron(unit(own.grids["up_blocks.0"][name]), np.ones((2, 2, 1))),
                unit(own.grids["up_blocks.1"][name]),
            ],
            axis=2,
        )
        for name in NAMES
    }
    store = FakeRepresentations({"both": joined}, own.sizes, own.transforms)
    expected = of(measure(store, annotations, Parameters()), "cosine")
    found = of(
        measure(own, annotations, Parameters(concatenate=("up[1]",))), "cosine", "up_blocks.0"
    )
    same_predictions(found, expected.with_columns(position=pl.lit("up_blocks.0")))
    # A position is not joined with itself.
    again = measure(own, annotations, Parameters(concatenate=("up[1]",)))
    same_predictions(of(again, "cosine", "up_blocks.1"), of(again, "plain", "up_blocks.1"))
    with pytest.raises(UserError, match=r"mid_block in `concatenate` is not in the hook set"):
        measure(own, annotations, Parameters(concatenate=("mid",)))


def test_what_empty_images_hold_is_removed(own, annotations):
    rng = np.random.default_rng(7)
    place = {
        position: 30 * rng.normal(size=grid["a"].shape) for position, grid in own.grids.items()
    }
    shifted = FakeRepresentations(
        {
            position: {name: grid + place[position] for name, grid in grids.items()}
            for position, grids in own.grids.items()
        },
        own.sizes,
        own.transforms,
    )
    noise = {position: rng.normal(size=code.shape) for position, code in place.items()}
    empty = FakeRepresentations(
        {
            position: {"e0": code + noise[position], "e1": code - noise[position]}
            for position, code in place.items()
        },
        dict.fromkeys(("e0", "e1"), (64, 48)),
    )
    parameters = Parameters(subtract={"dataset": "empty"})
    found = measure(shifted, annotations, parameters, companions={"empty 0": empty})
    expected = of(measure(own, annotations, Parameters()), "cosine")
    columns = ["predicted_x", "predicted_y"]
    assert of(found, "cosine").select(columns).equals(expected.select(columns))
    assert not of(found, "plain").select(columns).equals(expected.select(columns))
    empty.grids = {position: {"e0": np.zeros((2, 2, grid["a"].shape[2]))}
                   for position, grid in own.grids.items()}  # fmt: skip
    with pytest.raises(UserError, match="no empty image has as many"):
        measure(shifted, annotations, parameters, companions={"empty 0": empty})


def test_principal_components_are_those_of_scikit_learn(own, annotations):
    everything = {
        position: np.concatenate([unit(grids[name]).reshape(-1, grids[name].shape[2])
                                  for name in NAMES])
        for position, grids in own.grids.items()
    }  # fmt: skip
    grids = {}
    for position, tokens in everything.items():
        fitted = PCA(3).fit(tokens)
        grids[position] = {
            name: fitted.transform(unit(grid).reshape(-1, grid.shape[2])).reshape(
                *grid.shape[:2], 3
            )
            for name, grid in own.grids[position].items()
        }
    store = FakeRepresentations(grids, own.sizes, own.transforms)
    expected = of(measure(store, annotations, Parameters()), "cosine")
    found = measure(own, annotations, Parameters(pca=3))
    same_predictions(of(found, "cosine"), expected)
    # A position of fewer channels has no more components than channels.
    many, all_four = (measure(own, annotations, Parameters(pca=count)) for count in (9, 4))
    same_predictions(of(many, "cosine", "up_blocks.1"), of(all_four, "cosine", "up_blocks.1"))


def test_several_representations_are_compared_in_one_basis(own, annotations):
    # A second copy with other signs of its own components would spoil comparisons across.
    parameters = Parameters(variants=({"view": "mirrored"},), combine="max", across=True, pca=3)
    found = measure(own, annotations, parameters, companions={"1": mirror(own)})
    alone = measure(own, annotations, Parameters(pca=3))
    same_predictions(of(found, "cosine"), of(alone, "cosine"))


def test_shifts_of_a_third_of_a_token_find_places_between_tokens():
    # A line of 24 codes, 10 px each, in another order in the target. A token covers three and sees
    # the one in its middle.
    codes = np.eye(24)
    order = np.random.default_rng(8).permutation(24)
    lines = {"s": codes, "t": codes[order]}

    def store(shift):
        grids = {
            name: np.stack([line[np.clip(3 * i + 1 - shift, 0, 23)] for i in range(8)])[None]
            for name, line in lines.items()
        }
        return FakeRepresentations(
            {"conv_in": grids},
            {"s": (240, 20), "t": (240, 20)},
            dict.fromkeys("st", Affine(offset_x=10.0 * shift)),
        )

    images = pl.DataFrame({"image_id": ["s", "t"], "width": 240, "height": 20, "split": "test"})
    rows = [
        pair(
            f"p{code:02}",
            "s",
            "t",
            source_xy=[[10.0 * code + 5, 10.0]],
            target_xy=[[10.0, 10.0]],
            source_box=[0.0, 0.0, 240.0, 20.0],
            target_box=[0.0, 0.0, 240.0, 20.0],
        )
        for code in range(24)
    ]
    annotations = FakeAnnotations(images, pl.DataFrame(rows))
    parameters = Parameters(
        variants=({"view": "right"}, {"view": "left"}), combine="nearest", subdivide=3
    )
    others = {"1": store(1), "2": store(-1)}
    found = measure(store(0), annotations, parameters, companions=others)
    places = [10.0 * order.tolist().index(code) + 5 for code in range(24)]
    assert of(found, "cosine")["predicted_x"].to_list() == pytest.approx(places)
    # Alone, it knows the middle codes only.
    known = [
        row == pytest.approx(place)
        for row, place in zip(of(found, "plain")["predicted_x"], places, strict=True)
    ]
    assert sum(known) <= 8


def test_smoothing_equals_a_weighted_sum(own, annotations):
    found = of(measure(own, annotations, Parameters(smooth=0.8)), "cosine", "up_blocks.1")
    for row in found.iter_rows(named=True):
        xy = (row["source_x"], row["source_y"])
        query, _ = source_token(own, "up_blocks.1", row["source_id"], xy)
        scores = unit(own.grids["up_blocks.1"][row["target_id"]]) @ query
        smooth = np.zeros_like(scores)
        for i, j in np.ndindex(scores.shape):
            weights = np.array(
                [
                    [math.exp(-((i - k) ** 2 + (j - m) ** 2) / 2 / 0.8**2) for m in range(8)]
                    for k in range(6)
                ]
            )
            smooth[i, j] = (weights * scores).sum() / weights.sum()
        i, j = np.unravel_index(smooth.argmax(), smooth.shape)
        width, height = SIZES[row["target_id"]]
        assert row["predicted_x"] == pytest.approx((j + 0.5) / 8 * width)
        assert row["predicted_y"] == pytest.approx((i + 0.5) / 6 * height)
        assert row["similarity"] == pytest.approx(smooth.max(), abs=1e-5)


def test_gain_is_the_difference_on_the_same_pairs(own, annotations):
    other = features(3, {"up_blocks.0": (3, 4, 5), "up_blocks.1": (6, 8, 4)}, (64, 48))
    parameters = Parameters(variants=({"seed": 1},), alphas=(0.1, 0.5))
    table = summarise(measure(own, annotations, parameters, companions={"1": other}), parameters)
    keys = ["position", "split", "alpha", "average"]
    both = of(table, "cosine").join(of(table, "plain"), on=keys, suffix="_plain")
    assert len(both) == 2 * 2 * 3
    gains = both["pck"] - both["pck_plain"]
    np.testing.assert_allclose(both["gain"], gains, atol=1e-12)
    others = table.filter(pl.col("estimator") != "cosine")
    assert others["gain"].null_count() == len(others)
    # Three images are too few for an interval.
    assert both["gain_low"].null_count() == both["gain_p"].null_count() == len(both)
    plain = summarise(measure(own, annotations, Parameters()), Parameters())
    assert plain["gain"].null_count() == len(plain)


def measured(hits: dict[str, np.ndarray], images: list[tuple[int, int]]) -> pl.DataFrame:
    """What a measurement holds, from (pairs, 3) of 0 and 1 of each estimator in mid_block."""
    rows = []
    for name, found in (hits | dict.fromkeys(BASELINES, np.zeros((len(images), 3)))).items():
        for (source, target), points in zip(images, found, strict=True):
            rows += [
                {
                    "estimator": name, "position": "mid_block" if name in hits else None,
                    "split": "test", "pair_id": f"{source:03} {target:03}", "category": "cat",
                    "source_id": f"{source:03}", "target_id": f"{target:03}", "keypoint": f"{k}",
                    "target_x": 50.0, "target_y": 50.0, "target_width": 100, "target_height": 100,
                    "box_x0": 0.0, "box_y0": 0.0, "box_x1": 100.0, "box_y1": 100.0,
                    "predicted_x": None if name == "random" else 50.0 if hit else 90.0,
                    "predicted_y": None if name == "random" else 50.0,
                }
                for k, hit in enumerate(points)
            ]  # fmt: skip
    return pl.DataFrame(rows)


def test_a_gain_has_the_error_of_pairs_that_share_images():
    rng = np.random.default_rng(0)
    images = [(i, j) for i in range(12) for j in range(12) if i != j]
    # Images differ in what the variant finds in them, so that its gain has an effect of images.
    ease = rng.choice([0.0, 0.5], 12)
    share = {"cosine": np.array([ease[i] + ease[j] for i, j in images]), "plain": 0.5}
    hits = {n: (rng.random((3, len(images))) < share[n]).T for n in ("cosine", "plain")}
    table = summarise(measured(hits, images), Parameters(alphas=(0.1,)))
    row = table.filter(estimator="cosine", average="point").row(0, named=True)
    difference = hits["cosine"].sum(axis=1).astype(float) - hits["plain"].sum(axis=1)
    residual = difference - difference.mean()
    variance = (
        sum(
            residual[p] * residual[q]
            for p, one in enumerate(images)
            for q, other in enumerate(images)
            if set(one) & set(other)
        )
        / (3 * len(images)) ** 2
    )
    scale = ((row["gain_high"] - row["gain_low"]) / 2 / stats.t.ppf(0.975, 11)) ** 2 / variance
    assert 1 < scale < 1.6
    assert row["gain"] == pytest.approx(difference.sum() / 3 / len(images))
    t = row["gain"] / (scale * variance) ** 0.5
    assert row["gain_p"] == pytest.approx(2 * stats.t.sf(abs(t), 11))
    # A variant that changes nothing gains nothing.
    alike = summarise(measured(dict.fromkeys(hits, hits["plain"]), images), Parameters())
    same = alike.filter(estimator="cosine")
    assert same.select("gain", "gain_low", "gain_high", "gain_p").unique().rows() == [(0, 0, 0, 1)]


def gains(p_values: list[float], gain: float = 0.02, models: str = "m") -> pl.DataFrame:
    """An experiment with a variant for each p value, which it has in both splits."""
    images = [(i, j) for i in range(12) for j in range(12) if i != j]
    hits = np.ones((len(images), 3))
    table = summarise(measured({"cosine": hits, "plain": hits}, images), Parameters(alphas=(0.1,)))
    given = pl.when(pl.col("gain").is_not_null())
    tables = [
        table.with_columns(
            task=pl.lit(f"variant-{number}"),
            gain_p=given.then(pl.lit(p)),
            gain=given.then(pl.lit(gain)),
            gain_low=given.then(pl.lit(gain - 0.01)),
            gain_high=given.then(pl.lit(gain + 0.01)),
            view=pl.lit("identity"),
            model=pl.lit(model),
            dataset=pl.lit(dataset),
            timestep=pl.lit(timestep),
            split=pl.lit(split),
        )
        for number, p in enumerate(p_values)
        for split in ("test", "validation")
        for model in models
        for dataset, timestep in (("d", 50), ("d", 400), ("e", 50))
    ]
    return relate(pl.concat(tables), {})


def test_gains_are_corrected_for_all_of_a_dataset_and_timestep():
    table = gains([0.01, 0.02, 0.5]).filter(split="test", average="point", estimator="cosine")
    # Other datasets and timesteps are no further tries, other models are.
    np.testing.assert_allclose(table["gain_p_holm"], [0.03] * 3 + [0.04] * 3 + [0.5] * 3)
    assert table["gains_tried"].to_list() == [3] * 9
    assert gains([0.01], models="mno")["gain_p_holm"].drop_nulls().unique().to_list() == [0.03]


def test_a_gain_is_claimed_only_if_it_holds_after_the_correction():
    said = findings(gains([0.001, 0.03, 0.6]).filter(dataset="d", timestep=50)).sentences
    told = [text.partition("; ")[2] for text in said]
    assert told[0].startswith("variant-0 gains 2.0 points [1.0, 3.0] against the plain match (p")
    assert "p = 0.003 after Holm, 3 gains tried" in told[0]
    for number in (1, 2):
        assert told[number].startswith(f"as variant-{number} +2.0 points")
        assert "within chance for 3 gains tried" in told[number]
    assert not [text for text in told[1:] if " gains 2" in text or "loses" in text]
    lost = findings(gains([0.001], -0.02)).sentences[0]
    assert "variant-0 loses 2.0 points [1.0, 3.0]" in lost


def test_companions_are_the_variants_and_empty_images_for_each():
    parameters = Parameters(
        variants=({"view": "mirrored", "seed": 3}, {"resolution": 256, "prompt": "class"}),
        subtract={"dataset": "empty", "timestep": 999},
    )
    empty = {"dataset": "empty", "timestep": 999}
    assert companions(parameters) == {
        "1": {"view": "mirrored", "seed": 3},
        "2": {"resolution": 256, "prompt": "class"},
        "empty 0": empty,
        "empty 1": empty,
        "empty 2": {"resolution": 256, "prompt": "class"} | empty,
    }
    assert companions(Parameters()) == {}
    assert "empty 0" not in companions(
        Parameters(variants=({"seed": 1},), own=False, subtract={"dataset": "empty"})
    )
    assert checked_companions("correspondence", parameters) == companions(parameters)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"variants": ({"dataset": "x"},)}, "variants"),
        ({"variants": ({},)}, "variants"),
        ({"variants": ({"model": "x"},)}, "variants"),
        ({"subtract": {"timestep": 1}}, "subtract"),
        ({"subtract": {"dataset": "e", "model": 1}}, "subtract"),
        ({"own": False}, "own"),
        ({"pca": 0}, "pca"),
        ({"subdivide": 0}, "subdivide"),
        ({"smooth": -1.0}, "smooth"),
    ],
)
def test_unusable_settings_are_named(settings, named):
    with pytest.raises(UserError, match=named):
        Parameters(**settings)


def test_a_variant_without_an_image_is_an_error(own, annotations):
    other = features(3, {"up_blocks.0": (3, 4, 5), "up_blocks.1": (6, 8, 4)}, (64, 48))
    for grids in other.grids.values():
        del grids["b"]
    with pytest.raises(UserError, match="no features of image 'b'"):
        measure(own, annotations, Parameters(variants=({"seed": 1},)), companions={"1": other})


BESIDE = (-0.4, 0.3)
"""By how much tokens lie beside their squares, x and y in tokens."""


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"source": {"view": "other"}},
        {"readout": "window"},
        {"readout": "bilinear"},
        {"subdivide": 3},
        {"pca": 3},
        {"concatenate": ("mid_block",)},
        {"variants": ({"seed": 1},)},
        {"variants": ({"seed": 1},), "combine": "nearest", "subdivide": 2},
        {"variants": ({"seed": 1},), "combine": "features"},
    ],
)
def test_measured_places_are_those_of_pictures_that_are_moved(settings):
    # Tokens beside their squares see what tokens in their squares see of a picture moved back.
    grid, size = (6, 5), (100, 90)
    step = size[0] / grid[1], size[1] / grid[0]
    rng = np.random.default_rng(12)
    rows = [
        pair(
            f"{a}{b}", a, b, keypoints=[f"k{i}" for i in range(8)],
            source_xy=rng.uniform(25, 65, (8, 2)).tolist(),
            target_xy=rng.uniform(25, 65, (8, 2)).tolist(),
        )
        for a in "abc" for b in "abc" if a != b
    ]  # fmt: skip
    images = {"image_id": list("abc"), "width": size[0], "height": size[1], "split": "test"}
    annotations = FakeAnnotations(pl.DataFrame(images), pl.DataFrame(rows))

    def made(seed, moved):
        rng = np.random.default_rng(seed)
        grids = {
            "up_blocks.1": {name: rng.normal(size=(*grid, 6)) for name in "abc"},
            "mid_block": {name: rng.normal(size=(3, 5, 6)) for name in "abc"},
        }
        shift = [-o * s for o, s in zip(BESIDE, step, strict=True)] if moved else (0.0, 0.0)
        return FakeRepresentations(
            grids,
            dict.fromkeys("abc", size),
            dict.fromkeys("abc", Affine(offset_x=shift[0], offset_y=shift[1])),
            # The coarser one, whose tokens are repeated when joined, must not say where they are.
            offsets={"up_blocks.1": BESIDE, "mid_block": (9.0, 9.0)},
        )

    parameters = Parameters(**settings)
    found = []
    for moved, coordinates in ((False, "measured"), (True, "centred")):
        further = {name: made(5, moved) for name in companions(parameters)}
        found.append(
            measure(made(4, moved), annotations, parameters, coordinates=coordinates,
                    companions=further).filter(estimator="cosine", position="up_blocks.1")
        )  # fmt: skip
    kept = np.ones(len(found[0]), dtype=bool)
    if parameters.readout == "bilinear" or parameters.subdivide > 1:
        # Other pixels and places are candidates at the border.
        for axis, side, s in zip("xy", size, step, strict=True):
            place = found[0][f"predicted_{axis}"].to_numpy()
            kept &= (place > s) & (place < side - s)
    assert kept.sum() > 10
    for axis in "xy":
        first, second = (one[f"predicted_{axis}"].to_numpy()[kept] for one in found)
        np.testing.assert_allclose(first, second, atol=1e-9)
    centred = measure(
        made(4, False), annotations, parameters,
        companions={name: made(5, False) for name in companions(parameters)},
    ).filter(estimator="cosine", position="up_blocks.1")  # fmt: skip
    assert not np.allclose(centred["predicted_x"], found[0]["predicted_x"])


def test_measured_places_by_hand():
    # Tokens of 20 px that lie 8 px to the left and 6 px down of their squares' middles.
    codes = np.eye(30).reshape(6, 5, 30)
    features = FakeRepresentations(
        {"mid_block": dict.fromkeys("ab", codes)},
        dict.fromkeys("ab", (100, 120)),
        offsets={"mid_block": BESIDE},
    )
    images = pl.DataFrame({"image_id": ["a", "b"], "width": 100, "height": 120, "split": "test"})
    row = pair("p", "a", "b", source_xy=[[33.0, 45.0]])
    found = measure(
        features, FakeAnnotations(images, pl.DataFrame([row])), Parameters(),
        coordinates="measured",
    ).row(0, named=True)  # fmt: skip
    # Squares moved by (-8, 6) put the point into column 2 (32 to 52) and row 1 (26 to 46).
    assert (found["predicted_x"], found["predicted_y"]) == pytest.approx((42, 36))
