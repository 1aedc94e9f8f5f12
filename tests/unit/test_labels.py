import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reprscope.models.families.unet import positions as unet_positions
from reprscope.models.labels import (
    block_label,
    block_of,
    in_network_order,
    named,
    network_order,
    words,
)
from reprscope.models.positions import spell

SD15 = {
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "layers_per_block": 2,
}
SDXL = {
    "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
    "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
    "layers_per_block": 2,
    "transformer_layers_per_block": [1, 2, 10],
}


@pytest.mark.parametrize(
    ("position", "label"),
    [
        ("conv_in", "conv-in"),
        ("down_blocks.0", "down[0]"),
        ("mid_block", "mid"),
        ("up_blocks.1", "up[1]"),
        ("conv_out", "conv-out"),
        ("down_blocks.2.attentions.1", "down[2] attn[1]"),
        ("mid_block.resnets.0", "mid res[0]"),
        ("up_blocks.1.upsamplers.0", "up[1] upsample"),
        ("down_blocks.0.downsamplers.0", "down[0] downsample"),
        ("transformer_blocks.12", "block[12]"),
        ("single_transformer_blocks.3.attn", "single[3] attn"),
        ("time_embedding", "time_embedding"),
    ],
)
def test_labels(position, label):
    assert block_label(position) == label


@pytest.mark.parametrize("config", [SD15, SDXL], ids=["sd15", "sdxl"])
def test_labels_are_distinct_and_read_back_by_studies(config):
    positions = unet_positions(config)
    assert len({block_label(p) for p in positions}) == len(positions)
    blocks_and_layers = [p for p in positions if "transformer_blocks" not in p]
    assert len(blocks_and_layers) > 40
    for position in blocks_and_layers:
        assert spell(block_label(position)) == position


@pytest.mark.parametrize("config", [SD15, SDXL], ids=["sd15", "sdxl"])
@given(seed=st.integers(0, 2**32))
def test_order_is_that_of_the_forward_pass(config, seed):
    expected = unet_positions(config)
    shuffled = random.Random(seed).sample(expected, len(expected))
    assert in_network_order(shuffled * 2) == expected


def test_order_of_transformers_is_numeric():
    double = [f"transformer_blocks.{i}" for i in range(12)]
    single = [f"single_transformer_blocks.{i}" for i in range(12)]
    expected = ["x_embedder", *double, *single, "norm_out", "proj_out"]
    assert in_network_order(sorted(expected)) == expected


def test_unknown_names_are_ordered_last_and_never_fail():
    assert in_network_order(["zeta.3.eta", "conv_out", "alpha"]) == [
        "conv_out",
        "alpha",
        "zeta.3.eta",
    ]
    assert network_order("up_blocks.0") > network_order("up_blocks.0.resnets.2")


def test_block_of_a_layer():
    assert block_of("up_blocks.1.attentions.2.transformer_blocks.0.attn1") == "up_blocks.1"
    assert block_of("mid_block.resnets.0") == "mid_block"


def test_words():
    assert words("same_place_in_box") == "same place in box"


def test_numbers_say_what_they_are():
    assert named("timestep", 50) == "timestep 50"
    assert named("model", "nano-sd") == "nano-sd"
    assert words("pck") == "PCK"
