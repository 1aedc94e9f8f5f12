import io
import math

import numpy as np
import polars as pl
import pytest
import torch
from reprscope.data import menagerie
from reprscope.encoding import encode
from reprscope.errors import UserError
from reprscope.extraction import batches, extract
from reprscope.models.unet import encode_prompts
from reprscope.prompts import Prompts
from reprscope.protocol import Protocol
from reprscope.store import Representations, writer
from reprscope.tasks import position_bias
from reprscope.tasks.position_bias import Parameters, chance, chosen_pairs
from reprscope.views import View
from support.fakes import FakeAnnotations, FakeRepresentations

GRID = (6, 8)
NAMES = [f"image-{number:02}" for number in range(40)]
QUICK = Parameters(pairs=20, bootstrap=200)
NO_IMAGES = FakeAnnotations(pl.DataFrame())


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
    return FakeRepresentations({"mid_block": grids})


def table(features, noise: str, parameters: Parameters = QUICK) -> pl.DataFrame:
    found = position_bias.measure(features, NO_IMAGES, parameters, noise=noise)
    return position_bias.summarise(found, parameters)


def test_shared_noise_alone_looks_like_a_position_bias_and_noise_of_each_image_does_not():
    shared = table(planted(shared=True, encodes_position=False), "shared")
    assert shared["noise"].to_list() == ["shared", "shared"]
    assert (shared["share"] > 0.99).all()
    alone = table(planted(shared=False, encodes_position=False), "per_image")
    assert alone["noise"].unique().to_list() == ["per_image"]
    for row in alone.iter_rows(named=True):
        assert row["low"] <= row["chance"] <= row["high"]
        # Four standard errors of as many independent tokens.
        error = math.sqrt(row["chance"] / (row["pairs"] * math.prod(GRID)))
        assert abs(row["share"] - row["chance"]) < 4 * error


def test_position_that_is_encoded_is_found_whatever_the_noise():
    for shared, noise in ((True, "shared"), (False, "per_image")):
        found = table(planted(shared=shared, encodes_position=True), noise)
        assert (found["share"] > 0.9).all()
        assert (found["low"] > 5 * found["chance"]).all()


def test_matches_equal_a_loop_over_tokens():
    rng = np.random.default_rng(1)
    grids = {name: rng.normal(size=(3, 4, 2)) for name in NAMES[:6]}
    parameters = Parameters(pairs=3, within=(0, 1, 2))
    found = position_bias.measure(
        FakeRepresentations({"conv_in": grids}), NO_IMAGES, parameters, noise="none"
    )
    assert len(found) == 9
    for row in found.iter_rows(named=True):
        source, target = grids[row["source_id"]], grids[row["target_id"]]
        matches = 0
        for y, x in np.ndindex(3, 4):
            best = max(
                np.ndindex(3, 4),
                key=lambda p: source[y, x] @ target[p] / np.linalg.norm(target[p]),
            )
            matches += max(abs(best[0] - y), abs(best[1] - x)) <= row["within"]
        assert row["matches"] == matches
        assert (row["tokens"], row["height"], row["width"], row["noise"]) == (12, 3, 4, "none")
    assert found.select("source_id", "target_id").unique().height == 3


@pytest.mark.parametrize("within", [0, 1, 2, 9])
def test_chance_is_that_of_a_uniformly_random_match(within):
    height, width = 3, 5
    close = [
        max(abs(a - c), abs(b - d)) <= within
        for a, b in np.ndindex(height, width)
        for c, d in np.ndindex(height, width)
    ]
    assert chance((height, width), within) == pytest.approx(np.mean(close))


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
    found = position_bias.measure(features, NO_IMAGES, QUICK)
    summary = position_bias.summarise(found, QUICK)
    assert summary.select("position", "within").rows() == [
        ("mid_block", 0),
        ("mid_block", 1),
        ("conv_in", 0),
        ("conv_in", 1),
    ]
    for row in summary.iter_rows(named=True):
        of = found.filter(
            (pl.col("position") == row["position"]) & (pl.col("within") == row["within"])
        )
        assert row["share"] == pytest.approx((of["matches"] / of["tokens"]).mean())
        assert row["low"] <= row["share"] <= row["high"]
        assert row["pairs"] == 20


def test_a_rerun_gives_the_same_bytes_in_any_order_of_images():
    features = planted(shared=False, encodes_position=True)
    reverse = FakeRepresentations(
        {"mid_block": dict(reversed(features.grids["mid_block"].items()))}
    )
    texts = []
    for one in (features, features, reverse):
        buffer = io.BytesIO()
        found = position_bias.measure(one, NO_IMAGES, QUICK)
        pl.concat([found, position_bias.summarise(found, QUICK)], how="diagonal").write_parquet(
            buffer
        )
        texts.append(buffer.getvalue())
    assert texts[0] == texts[1] == texts[2]


def test_mistakes_are_sentences():
    with pytest.raises(UserError, match="pairs is 0"):
        Parameters(pairs=0)
    with pytest.raises(UserError, match="within is"):
        Parameters(within=())
    with pytest.raises(UserError, match="only one"):
        chosen_pairs(["a"], QUICK)
    uneven = FakeRepresentations({"conv_in": {"a": np.ones((2, 2, 3)), "b": np.ones((2, 3, 3))}})
    with pytest.raises(UserError, match="unequal token grids"):
        position_bias.measure(uneven, NO_IMAGES, QUICK)
    broken = FakeRepresentations(
        {"conv_in": {"a": np.full((2, 2, 3), np.nan), "b": np.ones((2, 2, 3))}}
    )
    with pytest.raises(UserError, match="not finite"):
        position_bias.measure(broken, NO_IMAGES, QUICK)


def test_findings_name_the_block_that_shared_noise_changes_most():
    rows = []
    values = {  # position, timestep: shared, alone
        ("mid_block", 50): (0.30, 0.28),
        ("up_blocks.3", 50): (0.40, 0.004),
        ("up_blocks.3", 800): (0.98, 0.002),
    }
    for (position, timestep), shares in values.items():
        for noise, share in zip(("shared", "per_image"), shares, strict=True):
            rows.append(
                {"dataset": "d", "model": "m", "timestep": timestep, "protocol": noise}
                | {"position": position, "noise": noise, "within": 0, "pairs": 9, "chance": 0.004}
                | {"share": share, "low": share * 0.9, "high": share * 1.1}
            )
    found = position_bias.findings(pl.DataFrame(rows))
    first, second = found.sentences
    assert "t = 800" in first and "up[3]" in first
    assert "98.0 %" in first and "0.2 %" in first
    assert "mid" in second and "up[3]" not in second
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

    def run(noise: str, timestep: int) -> Representations:
        path = folder / f"{noise}-{timestep}.h5"
        protocol = Protocol(noise=noise)
        with (
            Representations([folder / "latents.h5"]) as latents,
            writer(path, spec="{}", provenance={"positions": wanted}, dtype=np.float32) as store,
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

    return run


def test_in_a_real_model_shared_noise_makes_the_bias_of_the_first_layer(real):
    """conv_in sees 3 x 3 latents and cannot know its place: all of its bias is the noise's."""
    shares = {}
    for noise in ("shared", "per_image"):
        with real(noise, 900) as features:
            rows = table(features, noise, Parameters(bootstrap=200)).filter(pl.col("within") == 0)
        shares[noise] = {row["position"]: row for row in rows.iter_rows(named=True)}
    assert shares["shared"]["conv_in"]["share"] > 0.95
    assert shares["per_image"]["conv_in"]["share"] < 0.02
    assert shares["per_image"]["conv_in"]["chance"] == 1 / 256
    assert shares["shared"]["mid_block"]["share"] > shares["per_image"]["mid_block"]["share"]
