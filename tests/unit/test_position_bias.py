import io
import math

import numpy as np
import polars as pl
import pytest
import scipy.stats
import torch
from reprscope.base.protocol import Protocol
from reprscope.data.canonical import decode
from reprscope.data.sources import menagerie
from reprscope.models.families.unet import encode_prompts
from reprscope.representations.coordinates import Affine
from reprscope.representations.encoding import encode
from reprscope.representations.extraction import batches, extract
from reprscope.representations.prompts import Prompts
from reprscope.representations.store import Representations, writer
from reprscope.representations.views import View
from reprscope.runtime.errors import UserError
from reprscope.tasks import position_bias
from reprscope.tasks.position_bias import AXES, Parameters, chosen_pairs, counts
from scipy import stats
from support.fakes import FakeAnnotations, FakeRepresentations

GRID = (6, 8)
NAMES = [f"image-{number:02}" for number in range(40)]
QUICK = Parameters(pairs=20)
SIZE = (16, 12)
NOISE = np.random.default_rng(7)
PICTURES = {name: NOISE.integers(0, 256, (12, 16, 3), dtype=np.uint8) for name in NAMES}
IMAGES = FakeAnnotations(pl.DataFrame(), pictures=PICTURES)


def planted(*, shared: bool, encodes_position: bool, channels: int = 24) -> FakeRepresentations:
    """Tokens of noise, the same for all images or each its own, with position added or not."""
    rng = np.random.default_rng(0)
    one = rng.normal(size=(*GRID, channels))
    places = 2 * rng.normal(size=(*GRID, channels))
    grids = {}
    for name in NAMES:
        noise = one if shared else rng.normal(size=(*GRID, channels))
        # A little of the image's own, so that no two maps are equal.
        own = 0.1 * rng.normal(size=(*GRID, channels))
        grids[name] = noise + own + (places if encodes_position else 0)
    return FakeRepresentations({"mid_block": grids}, dict.fromkeys(NAMES, SIZE))


def table(features, noise: str, parameters: Parameters = QUICK, images=IMAGES) -> pl.DataFrame:
    found = position_bias.measure(features, images, parameters, noise=noise)
    return position_bias.summarise(found, parameters)


def test_shared_noise_alone_looks_like_a_position_bias_and_noise_of_each_image_does_not():
    shared = table(planted(shared=True, encodes_position=False), "shared")
    assert shared["noise"].to_list() == ["shared"] * 6
    assert (shared["share"] > 0.99).all()
    alone = table(planted(shared=False, encodes_position=False), "per_image")
    assert alone["noise"].unique().to_list() == ["per_image"]
    for row in alone.iter_rows(named=True):
        # Four standard errors of as many independent tokens.
        error = 4 * math.sqrt(row["chance"] / (row["pairs"] * math.prod(GRID)))
        assert abs(row["share"] - row["chance"]) < error
        assert row["low"] - error / 2 < row["chance"] < row["high"] + error / 2
        assert row["p"] > 0.001


def test_position_that_is_encoded_is_found_whatever_the_noise():
    for shared, noise in ((True, "shared"), (False, "per_image")):
        found = table(planted(shared=shared, encodes_position=True), noise)
        assert (found["share"] > 0.9).all()
        assert (found["low"] > found["chance"] + 0.3).all()
        assert (found["p"] < 1e-6).all()
        assert (found["above_low"] > 0.2).all()


def test_matches_equal_a_loop_over_tokens():
    rng = np.random.default_rng(1)
    grids = {name: rng.normal(size=(3, 4, 2)) for name in NAMES[:6]}
    parameters = Parameters(pairs=3, within=(0, 1, 2))
    features = FakeRepresentations({"conv_in": grids}, dict.fromkeys(NAMES, SIZE))
    found = position_bias.measure(features, IMAGES, parameters, noise="none")
    assert len(found) == 27
    for row in found.iter_rows(named=True):
        source, target = grids[row["source_id"]], grids[row["target_id"]]
        matches = 0
        for y, x in np.ndindex(3, 4):
            best = max(
                np.ndindex(3, 4),
                key=lambda p: source[y, x] @ target[p] / np.linalg.norm(target[p]),
            )
            away = {"row": abs(best[0] - y), "column": abs(best[1] - x)}
            away["both"] = max(away.values())
            matches += away[row["axis"]] <= row["within"]
        assert row["matches"] == matches
        assert (row["tokens"], row["height"], row["width"], row["noise"]) == (12, 3, 4, "none")
    assert found.select("source_id", "target_id").unique().height == 3


@pytest.mark.parametrize("within", [0, 1, 2, 9])
def test_chance_is_that_of_a_uniformly_random_match(within):
    height, width = 3, 5
    places = np.zeros((2, 15), dtype=int)
    found = {row["axis"]: row for row in counts(places, [places], None, (3, 5), within)}
    rows = [abs(a - c) <= within for a in range(height) for c in range(height)]
    columns = [abs(b - d) <= within for b in range(width) for d in range(width)]
    assert found["row"]["chance"] == pytest.approx(np.mean(rows))
    assert found["column"]["chance"] == pytest.approx(np.mean(columns))
    assert found["both"]["chance"] == pytest.approx(np.mean(rows) * np.mean(columns))


def mirrored_pair(*, place: float, content: float):
    """Images and their mirrored selves, whose tokens hold their content and their place."""
    rng = np.random.default_rng(5)
    code = place * rng.normal(size=(*GRID, 24))
    first, second = {}, {}
    for name in NAMES:
        held = content * rng.normal(size=(*GRID, 24))
        first[name] = held + code + 0.1 * rng.normal(size=(*GRID, 24))
        second[name] = held[:, ::-1] + code + 0.1 * rng.normal(size=(*GRID, 24))
    sizes = dict.fromkeys(NAMES, SIZE)
    view = {"operations": ({"hflip": {}},), "fit": "keep"}
    flip = dict.fromkeys(NAMES, Affine(scale_x=-1.0, offset_x=16.0))
    return (
        FakeRepresentations({"mid_block": first}, sizes),
        FakeRepresentations({"mid_block": second}, sizes, flip, view=view),
    )


@pytest.mark.parametrize(("place", "content"), [(3, 0.5), (0.5, 3), (0, 0)])
def test_the_mirrored_view_tells_place_from_content(place, content):
    features, other = mirrored_pair(place=place, content=content)
    parameters = Parameters(pairs=20, within=(0,), mirrored={"view": "mirrored", "seed": 1})
    assert position_bias.companions(parameters) == {"mirrored": parameters.mirrored}
    found = position_bias.measure(
        features, IMAGES, parameters, companions={"mirrored": other}, companion_protocols={}
    )
    of = found.filter(of="mirrored")
    # The content's row is the token's own. Of 8 columns the 3 outer ones of each side are 3 to 7
    # away from their content, at least a quarter of the map.
    assert set(of["axis"]) == {"column", "both"}
    assert set(of.filter(axis="column")["tokens"]) == {6 * 6}
    rows = position_bias.summarise(found, parameters).filter(of="mirrored", axis="both")
    row = rows.row(0, named=True)
    assert row["pairs"] == 40
    if place > content:
        assert row["share"] > 0.95 and row["correct"] < 0.05 and row["p"] < 1e-6
    elif content > place:
        assert row["share"] < 0.05 and row["correct"] > 0.95
    else:
        assert row["share"] == pytest.approx(1 / 48, abs=0.02) and row["p"] > 0.001
    # Colours find the mirrored content, never their own place.
    assert row["content_only"] < 0.05


def test_features_that_see_only_colours_are_not_said_to_know_their_place():
    """Sky above, ground below: they find their row more often than by chance, as colours do."""
    rng = np.random.default_rng(8)
    mixing = rng.normal(size=(3, 16))
    pictures, grids = {}, {}
    for name in NAMES:
        light = np.linspace(220, 40, GRID[0])[:, None, None] + rng.normal(scale=20, size=(*GRID, 3))
        light = np.clip(light, 0, 255).astype(np.uint8)
        pictures[name] = light.repeat(2, axis=0).repeat(2, axis=1)
        grids[name] = np.tanh((light / 128.0 - 1) @ mixing) + 0.3 * rng.normal(size=(*GRID, 16))
    features = FakeRepresentations({"mid_block": grids}, dict.fromkeys(NAMES, SIZE))
    images = FakeAnnotations(pl.DataFrame(), pictures=pictures)
    rows = table(features, "per_image", images=images).select(
        *(pl.lit(v).alias(k) for k, v in {"dataset": "d", "model": "m", "timestep": 50}.items()),
        pl.all(),
    )
    row = rows.filter(axis="row", within=0).row(0, named=True)
    assert row["low"] > 1.2 * row["chance"]
    (sentence,) = position_bias.findings(rows).sentences
    assert "the row in no block and the column in no block" in sentence
    planted_rows = table(planted(shared=False, encodes_position=True), "per_image").select(
        *(pl.lit(v).alias(k) for k, v in {"dataset": "d", "model": "m", "timestep": 50}.items()),
        pl.all(),
    )
    (sentence,) = position_bias.findings(planted_rows).sentences
    assert "the row in mid and the column in mid" in sentence
    assert "2 tests, Holm" in sentence


def test_pairs_are_drawn_by_name_and_share_no_image():
    pairs = chosen_pairs(NAMES, Parameters(pairs=8))
    assert pairs == chosen_pairs(NAMES[::-1], Parameters(pairs=8))
    assert pairs == chosen_pairs(NAMES, Parameters(pairs=99))[:8]
    assert pairs != chosen_pairs(NAMES, Parameters(pairs=8, seed=1))
    drawn = [name for pair in chosen_pairs(NAMES, Parameters(pairs=99)) for name in pair]
    assert sorted(drawn) == NAMES


def test_the_share_is_the_mean_over_pairs_and_lies_in_its_interval():
    features = planted(shared=False, encodes_position=True)
    features.grids["conv_in"] = planted(shared=False, encodes_position=False).grids["mid_block"]
    found = position_bias.measure(features, IMAGES, QUICK)
    summary = position_bias.summarise(found, QUICK)
    assert set(summary.select("position", "axis", "within").rows()) == {
        (position, axis, within)
        for position in ("mid_block", "conv_in")
        for axis in AXES
        for within in (0, 1)
    }
    for row in summary.iter_rows(named=True):
        of = found.filter(position=row["position"], within=row["within"], axis=row["axis"])
        assert row["share"] == pytest.approx((of["matches"] / of["tokens"]).mean())
        assert row["low"] <= row["share"] <= row["high"]
        assert row["pairs"] == 20
        differ = (of["matches"] - of["colours"]) / of["tokens"]
        assert row["above"] == pytest.approx(differ.mean())
        tests = [
            stats.ttest_1samp(one.to_numpy(), 0, alternative="greater").pvalue
            for one in (differ, of["matches"] / of["tokens"] - of["chance"])
        ]
        assert row["p"] == pytest.approx(max(tests))


def test_a_rerun_gives_the_same_bytes_in_any_order_of_images():
    features = planted(shared=False, encodes_position=True)
    reverse = FakeRepresentations(
        {"mid_block": dict(reversed(features.grids["mid_block"].items()))},
        dict.fromkeys(NAMES, SIZE),
    )
    texts = []
    for one in (features, features, reverse):
        buffer = io.BytesIO()
        found = position_bias.measure(one, IMAGES, QUICK)
        found.write_parquet(buffer)
        position_bias.summarise(found, QUICK).write_parquet(buffer)
        texts.append(buffer.getvalue())
    assert texts[0] == texts[1] == texts[2]


def test_mistakes_are_sentences():
    with pytest.raises(UserError, match="pairs is 0"):
        Parameters(pairs=0)
    with pytest.raises(UserError, match="within is"):
        Parameters(within=())
    with pytest.raises(UserError, match="only one"):
        chosen_pairs(["a"], QUICK)
    sizes = {"a": SIZE, "b": SIZE}
    uneven = FakeRepresentations(
        {"conv_in": {"a": np.ones((2, 2, 3)), "b": np.ones((2, 3, 3))}}, sizes
    )
    with pytest.raises(UserError, match="unequal token grids"):
        position_bias.measure(uneven, IMAGES, QUICK)
    broken = FakeRepresentations(
        {"conv_in": {"a": np.full((2, 2, 3), np.nan), "b": np.ones((2, 2, 3))}}, sizes
    )
    with pytest.raises(UserError, match="not finite"):
        position_bias.measure(broken, IMAGES, QUICK)


def test_findings_describe_what_shared_noise_makes():
    rows = []
    values = {  # position, timestep: shared, alone
        ("mid_block", 50): (0.30, 0.28),
        ("up_blocks.3", 50): (0.40, 0.004),
        ("up_blocks.3", 800): (0.98, 0.002),
    }
    for (position, timestep), shares in values.items():
        for axis in AXES:
            for noise, share in zip(("shared", "per_image"), shares, strict=True):
                rows.append(
                    {"dataset": "d", "model": "m", "timestep": timestep, "protocol": noise}
                    | {"position": position, "of": "pairs", "axis": axis, "noise": noise}
                    | {"within": 0, "pairs": 9, "chance": 0.004, "share": share}
                    | {"low": share * 0.9, "high": share * 1.1, "p": 1e-9 if share > 0.1 else 0.4}
                )
    found = position_bias.findings(pl.DataFrame(rows))
    first, second = found.sentences
    assert "t = 800" in first and "up[3]" in first
    assert "98.0 %" in first and "0.2 %" in first
    assert "the largest difference of 3 on these 9 pairs" in first
    assert "the row in mid and the column in mid" in second and "6 tests" in second
    one = pl.DataFrame(rows).filter(pl.col("noise") == "shared")
    assert not position_bias.findings(one).sentences


@pytest.fixture(scope="module")
def real(tmp_path_factory, nano, unet, vae):
    """Function of noise and timestep: representations of creatures in nano-sd."""
    folder = tmp_path_factory.mktemp("real")
    size = 64
    settings = menagerie.Parameters(images=24, size=size, pairs_validation=0, pairs_test=0, seed=5)
    with writer(folder / "latents.h5", spec="{}", provenance={}, dtype=np.float32) as store:
        images = menagerie.build(settings, 1).images
        encode(images, View(), vae, store, resolution=size, pixels="symmetric", batch_size=8)
    prompt = encode_prompts(nano, [""], device=torch.device("cpu"))["embedding"]
    wanted = ["conv_in", "mid_block"]
    made = {
        "positions": wanted,
        "viewed": {"view": vars(View()), "resolution": size, "multiple": 8},
    }
    pictures = {
        name: decode(png, name) for name, png in images.select("image_id", "image").iter_rows()
    }

    def run(noise: str, timestep: int) -> Representations:
        path = folder / f"{noise}-{timestep}.h5"
        protocol = Protocol(noise=noise)
        with (
            Representations([folder / "latents.h5"]) as latents,
            writer(path, spec="{}", provenance=made, dtype=np.float32) as store,
        ):
            prompts = Prompts({"embedding": prompt}, dict.fromkeys(latents.image_ids, 0))
            source = batches(
                latents, prompts, seed=0, protocol=protocol, scaling=1.0, shift=0.0, size=8
            )
            extract(
                unet,
                source,
                positions=wanted,
                timestep=timestep,
                protocol=protocol,
                device=torch.device("cpu"),
                dtype=torch.float32,
                store=store,
            )
        return Representations([path])

    return run, FakeAnnotations(pl.DataFrame(), pictures=pictures)


def test_in_a_real_model_shared_noise_makes_the_bias_of_the_first_layer(real):
    """conv_in sees 3 x 3 latents and cannot know its place: all of its bias is the noise's."""
    run, images = real
    shares = {}
    for noise in ("shared", "per_image"):
        with run(noise, 900) as features:
            rows = table(features, noise, Parameters(), images).filter(within=0, axis="both")
        shares[noise] = {row["position"]: row for row in rows.iter_rows(named=True)}
    assert shares["shared"]["conv_in"]["share"] > 0.95
    assert shares["per_image"]["conv_in"]["share"] < 0.02
    assert shares["per_image"]["conv_in"]["chance"] == 1 / 256
    assert shares["shared"]["mid_block"]["share"] > shares["per_image"]["mid_block"]["share"]


def test_what_shared_noise_changes_is_told_on_the_same_pairs():
    """Pairs differ by far more than the protocols do on each."""
    rng = np.random.default_rng(3)
    alone = rng.uniform(0.1, 0.8, 40)
    moved = alone + 0.05 + rng.normal(0, 0.01, 40)
    rows = [
        {"protocol": protocol, "noise": noise, "position": "mid_block", "timestep": timestep}
        | {"of": "pairs", "axis": "both", "within": 0, "of_pair": shares.tolist()}
        for timestep in (50, 200)
        for protocol, noise, shares in (
            ("standard", "per_image", alone),
            ("shared-noise", "shared", moved if timestep == 50 else alone[:20]),
        )
    ]
    related = position_bias.relate(pl.DataFrame(rows), {})
    assert "of_pair" not in related.columns
    row = related.filter(timestep=50, noise="shared").row(0, named=True)
    paired = scipy.stats.ttest_rel(moved, alone).confidence_interval(0.95)
    assert row["difference"] == pytest.approx(np.mean(moved - alone))
    assert (row["difference_low"], row["difference_high"]) == pytest.approx(tuple(paired))
    # Nothing for the rows that are compared with, nor of other pairs.
    assert related["difference"].null_count() == 3
    # Without a counterpart, or with two of them, there is no difference.
    lone = position_bias.relate(pl.DataFrame(rows[1:2]), {})
    twice = position_bias.relate(pl.DataFrame([*rows, rows[0] | {"protocol": "unit-pixels"}]), {})
    assert lone["difference"].null_count() == 1
    assert twice["difference"].null_count() == 5
