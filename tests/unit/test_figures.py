import io
import itertools
import json
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import altair as alt
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from reprscope import figures
from reprscope.figures import frames, render
from reprscope.figures.kinds import block_differences
from reprscope.figures.kinds.lines_by_timestep import apart, legible
from reprscope.figures.theme import SCHEMES, UNET_BLOCKS, Theme, register
from reprscope.models.labels import block_label
from reprscope.runtime.errors import UserError
from support import browser, tables
from support.charts import KINDS, draw, hover, image_at, marks

LABELS = [block_label(position) for position in tables.BLOCKS]


def test_every_module_of_the_package_is_a_kind():
    assert set(figures.available()) == set(KINDS)
    with pytest.raises(UserError, match=r"no_such.*block_bars"):
        figures.load("no_such")


def test_figures_do_not_import_torch():
    code = (
        "import sys; from reprscope import figures; from reprscope.report import page; "
        "[figures.load(k) for k in "
        "figures.available()]; sys.exit(any(m in sys.modules for m in ('torch', 'diffusers')))"
    )
    path = Path(figures.__path__[0]).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": path})


# Colours


def lab(rgb):
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    white = np.array([0.9505, 1.0, 1.089])
    t = xyz @ rgb / white
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def linear(colour):
    c = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


# Machado, Oliveira and Fernandes (2009), severity 1.
VISION = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.01182, 0.04294, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.3039],
    ],
}


@pytest.mark.parametrize("vision", VISION)
def test_blocks_can_be_told_apart(vision):
    seen = [lab(np.clip(VISION[vision] @ linear(c), 0, 1)) for c in SCHEMES["hourglass"]]
    for a, b in itertools.combinations(range(len(seen)), 2):
        assert np.linalg.norm(seen[a] - seen[b]) > 12, (UNET_BLOCKS[a], UNET_BLOCKS[b])


def test_lightness_falls_on_the_way_down_and_rises_on_the_way_up():
    lightness = [lab(linear(c))[0] for c in SCHEMES["hourglass"]]
    assert all(a > b for a, b in itertools.pairwise(lightness[:6]))
    assert all(a < b for a, b in itertools.pairwise(lightness[5:10]))


def test_a_block_has_one_colour_whatever_else_is_shown():
    theme = Theme()
    whole = theme.block_colours(tables.BLOCKS)
    assert list(whole) == tables.BLOCKS
    assert list(whole.values()) == list(SCHEMES["hourglass"])
    some = theme.block_colours(["up_blocks.1", "mid_block.resnets.0", "down_blocks.2"])
    assert some == {
        "down_blocks.2": whole["down_blocks.2"],
        "mid_block.resnets.0": whole["mid_block"],
        "up_blocks.1": whole["up_blocks.1"],
    }
    layers = [f"mid_block.resnets.{i}" for i in range(2)]
    shades = theme.block_colours([*layers, "mid_block"])
    assert shades["mid_block"] == whole["mid_block"]
    lightness = [lab(linear(c))[0] for c in shades.values()]
    assert lightness[0] > lightness[1] + 5 > lightness[2] + 10
    other = theme.block_colours(f"transformer_blocks.{i}" for i in range(24))
    assert len(set(other.values())) == 24
    assert other["transformer_blocks.0"] == SCHEMES["hourglass"][0]


def test_map_colours_follow_the_stops():
    theme = Theme(sequential=["#000000", "#ff0000", "#ffff00"])
    rgb = theme.map_colours([-1, 0, 1, 2, 3, 9], low=0, high=2)
    assert rgb[[0, 1, 3, 4, 5]].tolist() == [
        [0, 0, 0],
        [0, 0, 0],
        [255, 255, 0],
        [255, 255, 0],
        [255, 255, 0],
    ]
    assert np.abs(rgb[2].astype(int) - [255, 0, 0]).max() <= 2
    assert theme.map_colours(np.full((2, 2), 7.0), 7, 7).tolist() == np.zeros((2, 2, 3)).tolist()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("accent", "red"),
        ("blocks", "no-such-scheme"),
        ("blocks", ["#ffffff"]),
        ("sequential", ["#000000", "#12345"]),
        ("series", []),
        ("width", 100),
        ("width", 800.0),
        ("font_size", 3),
        ("font", "Arial; }"),
    ],
)
def test_a_bad_theme_is_named(key, value):
    with pytest.raises(UserError, match=f"^{key} "):
        Theme(**{key: value})


def test_the_theme_is_altairs_after_registration():
    before = alt.theme.active
    try:
        register(Theme(font="Inter"))
        spec = alt.Chart(alt.InlineData(values=[{"a": 1}])).mark_point().to_dict()
        assert spec["config"]["font"] == "Inter"
    finally:
        alt.theme.enable(before)


@pytest.mark.parametrize("kind", KINDS)
def test_theme_settings_reach_the_figure(kind):
    theme = Theme(font="Inter, sans-serif", accent="#123456", width=640, sequential="magma")
    spec = draw(kind, theme=theme)
    assert spec["config"]["font"] == "Inter, sans-serif"
    text = json.dumps(spec)
    if kind == "block_bars":
        assert "#123456" in text
    if kind in ("similarity_maps", "block_table"):
        assert SCHEMES["magma"][5] in text
    size = re.search(r'width="([\d.]+)"', render.svg(spec))
    assert float(size[1]) <= 640 + 40


# Values


def test_bars_are_the_tables_values():
    table = tables.probe()
    spec = draw("block_bars", table)
    ((bars, rows),) = marks(spec, "bar")
    expected = table.filter(pl.col("split") == "test")
    assert len(rows) == len(expected) == 22
    drawn = {(r["model"], r["block"]): (r["accuracy"], r["low"], r["high"]) for r in rows}
    for row in expected.iter_rows(named=True):
        key = (row["model"], block_label(row["position"]))
        assert drawn[key] == (row["accuracy"], row["low"], row["high"])
    assert bars["encoding"]["x"]["sort"] == LABELS
    assert bars["encoding"]["color"]["scale"]["domain"] == tables.MODELS
    rule = [rows for part, rows in marks(spec, "rule") if "y2" not in part["encoding"]]
    assert rule == [[{"reference": 0.1}]]


def test_the_highest_bar_of_every_model_is_labelled():
    table = tables.probe()
    (_, rows) = marks(draw("block_bars", table), "bar")[0]
    labelled = {(r["model"], r["block"], r["label"]) for r in rows if r["best"]}
    expected = set()
    for model in tables.MODELS:
        of = table.filter((pl.col("model") == model) & (pl.col("split") == "test"))
        values = of["accuracy"].to_list()
        where = values.index(max(values))
        label = f"{100 * max(values):.1f}"
        expected.add((model, block_label(of["position"][where]), label))
    assert labelled == expected


def test_bars_that_are_equally_high_are_all_labelled_and_a_table_without_intervals_has_none():
    alike = pl.col("position").is_in(["mid_block", "up_blocks.1"])
    table = tables.probe().with_columns(
        accuracy=pl.when(alike).then(0.95).otherwise("accuracy"),
        low=pl.lit(None, pl.Float64),
        high=pl.lit(None, pl.Float64),
    )
    spec = draw("block_bars", table)
    ((_, rows),) = marks(spec, "bar")
    assert {(r["block"], r["above"]) for r in rows if r["best"]} == {("mid", 0.95), ("up[1]", 0.95)}
    assert f"{tables.MODELS[0]} mid and up[1] (95.0 %)" in spec["description"]
    assert "Error bars" not in spec["description"]
    assert all("y2" not in part["encoding"] for part, _ in marks(spec, "rule"))


def test_bars_in_panels_per_dataset_share_one_axis_and_the_studys_order():
    table = tables.probe()
    other = table.with_columns(dataset=pl.lit("digits"), accuracy=pl.col("accuracy") / 2)
    spec = draw("block_bars", pl.concat([table, other]))
    assert [panel["title"]["text"] for panel in spec["vconcat"]] == ["menagerie", "digits"]
    domains = [bars["encoding"]["y"]["scale"]["domain"] for bars, _ in marks(spec, "bar")]
    assert domains[0] == domains[1]
    assert "nano-sd, menagerie: " in spec["description"].split("nano-sd, digits: ")[0]


def test_a_panel_of_a_timestep_says_so():
    table = tables.probe()
    both = pl.concat([table.with_columns(timestep=pl.lit(t, pl.Int32)) for t in (50, 200)])
    spec = json.dumps(draw("block_bars", both, panel="timestep"))
    assert '"timestep 50"' in spec and '"timestep 200"' in spec


@pytest.mark.parametrize("position", ["mid_block.resnets.0", "up_blocks.2.attentions.1"])
def test_layers_inside_blocks_keep_their_place(position):
    table = tables.probe()
    layer = table.filter(pl.col("position") == "conv_in").with_columns(position=pl.lit(position))
    (bars, _) = marks(draw("block_bars", pl.concat([layer, table])), "bar")[0]
    order = bars["encoding"]["x"]["sort"]
    block = block_label(position).split(" ")[0]
    assert order.index(block_label(position)) == order.index(block) - 1


def test_cells_of_the_table_are_the_tables_values():
    table = tables.probe().filter(pl.col("split") == "test")
    spec = draw("block_table", table)
    rows = marks(spec, "rect")[0][1]
    drawn = {(r["model"], r["block"]): (r["accuracy"], r["label"]) for r in rows}
    assert len(drawn) == 22
    for row in table.iter_rows(named=True):
        value, label = drawn[row["model"], block_label(row["position"])]
        assert value == row["accuracy"]
        assert label == f"{100 * row['accuracy']:.1f}"
    framed = {(r["model"], r["accuracy"]) for r in rows if r["best"]}
    assert framed == set(table.group_by("model").agg(pl.col("accuracy").max()).rows())


def test_lines_are_the_tables_values():
    table = tables.correspondence()
    spec = draw("lines_by_timestep", table)
    lines = marks(spec, "line")
    assert len(lines) == 2
    expected = table.filter(
        (pl.col("estimator") == "cosine")
        & (pl.col("alpha") == 0.1)
        & (pl.col("average") == "point")
    )
    drawn = {
        (r["model"], r["block"], r["timestep"]): (r["pck"], r["low"], r["high"])
        for _, rows in lines
        for r in rows
    }
    assert len(drawn) == len(expected) == 2 * 11 * 6
    for row in expected.iter_rows(named=True):
        key = (row["model"], block_label(row["position"]), row["timestep"])
        assert drawn[key] == (row["pck"], row["low"], row["high"])
    scale = lines[0][0]["encoding"]["color"]["scale"]
    assert scale["domain"] == LABELS
    assert scale["range"] == list(SCHEMES["hourglass"])


def test_other_rows_can_be_chosen_with_the_filter():
    table = tables.correspondence()
    spec = draw("lines_by_timestep", table, filter={"alpha": 0.05, "average": "pair"})
    rows = marks(spec, "line")[0][1]
    chosen = table.filter(
        (pl.col("alpha") == 0.05)
        & (pl.col("average") == "pair")
        & (pl.col("estimator") == "cosine")
        & (pl.col("model") == "nano-sd")
    )
    assert sorted(r["pck"] for r in rows) == sorted(chosen["pck"])
    assert "alpha 0.05, mean over pairs" in spec["description"]


def test_baselines_are_labelled_rules():
    spec = draw("lines_by_timestep")
    rules = marks(spec, "rule")
    assert len(rules) == 2
    for _, rows in rules:
        assert {r["baseline"]: r["value"] for r in rows} == {
            "random": 0.02,
            "same position": 0.055,
            "same place in square": 0.06,
            "same place in box": 0.21,
        }
    labels = [part for part, rows in marks(spec, "text") if rows == rules[0][1]]
    assert len(labels) == 1
    assert {r["label"] for r in rules[0][1]} >= {"random 2.0 %", "same place in box 21.0 %"}


def test_a_baseline_that_is_not_constant_is_an_error():
    table = tables.correspondence().with_columns(
        pck=pl.when((pl.col("estimator") == "random") & (pl.col("timestep") == 800))
        .then(0.5)
        .otherwise("pck")
    )
    with pytest.raises(UserError, match="random has several values"):
        draw("lines_by_timestep", table)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6).map(sorted), st.floats(0.001, 0.2))
def test_labels_are_moved_apart(values, gap):
    moved = apart(values, gap)
    assert all(b - a >= gap * (1 - 1e-9) for a, b in itertools.pairwise(moved))
    assert all(m >= v for m, v in zip(moved, values, strict=True))
    if all(b - a >= gap for a, b in itertools.pairwise(values)):
        assert moved == values


@given(st.sets(st.integers(0, 1000), min_size=2, max_size=12).map(sorted), st.integers(120, 900))
def test_ticks_have_room(values, width):
    kept = legible(values, width, gap=28)
    scale = width / (values[-1] - values[0])
    assert kept[0] == values[0] and kept[-1] == values[-1]
    assert set(kept) <= set(values)
    if len(kept) > 2:
        assert all((b - a) * scale >= 28 for a, b in itertools.pairwise(kept))
    # None that is left out would have had room.
    for value in set(values) - set(kept):
        assert any(abs(value - other) * scale < 28 for other in kept)


def test_similarity_maps_hold_the_tables_values():
    table = tables.similarity()
    spec = draw("similarity_maps", table)
    maps = hover(spec)
    assert len(maps) == 2 * 2 * 11
    for row in maps:
        tokens = table.filter(
            (pl.col("model") == row["model"])
            & (pl.col("image_id") == row["image_id"])
            & (
                pl.col("position").replace_strict(
                    dict(zip(tables.BLOCKS, LABELS, strict=True)), default=""
                )
                == row["block"]
            )
        )
        assert len(tokens) == len(row["similarity"])
        for token in tokens.iter_rows(named=True):
            value = row["similarity"][token["row"] * row["columns"] + token["col"]]
            assert value == pytest.approx(token["similarity"], abs=1e-4)


def test_similarity_maps_are_coloured_and_placed_right():
    table = tables.similarity(models=["nano-sd"], images=1)
    spec = draw("similarity_maps", table)
    ((_, pictures),) = marks(spec, "image")
    assert [p.get("block") for p in pictures] == [None, *LABELS]
    assert all(a["x"] + a["w"] < b["x"] for a, b in itertools.pairwise(pictures))
    stops = np.array(
        [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in SCHEMES["viridis"]], float
    )
    for picture in pictures[1:]:
        pixels = image_at(picture).astype(float)
        position = tables.BLOCKS[LABELS.index(picture["block"])]
        tokens = table.filter(pl.col("position") == position)
        height, width = tokens["row"].max() + 1, tokens["col"].max() + 1
        for token in tokens.iter_rows(named=True):
            y = int((token["row"] + 0.5) * pixels.shape[0] / height)
            x = int((token["col"] + 0.5) * pixels.shape[1] / width)
            # The scale runs from -0.4, the lowest value rounded down to a tenth, to 1.
            where = (token["similarity"] + 0.4) / 1.4 * 10
            expected = [np.interp(where, range(11), stops[:, i]) for i in range(3)]
            assert np.abs(pixels[y, x] - expected).max() < 2.5


def test_the_reference_is_marked_in_the_image():
    spec = draw("similarity_maps", tables.similarity(models=["nano-sd"]))
    pictures = [p for p in marks(spec, "image")[0][1] if "block" not in p]
    rings = marks(spec, "point")[0][1]
    for picture, ring, x in zip(pictures, rings, (0.3, 0.5), strict=True):
        assert ring["x"] == pytest.approx(picture["x"] + x * picture["w"])
        assert ring["y"] == pytest.approx(picture["y"] + 0.7 * picture["h"])
        assert picture["h"] / picture["w"] == pytest.approx(16 / 24)
    corner = tables.similarity(models=["nano-sd"]).with_columns(
        pl.col("reference_x", "reference_y") * 0
    )
    (layer, rings) = marks(draw("similarity_maps", corner), "point")[0]
    radius = (layer["mark"]["size"] / np.pi) ** 0.5
    for picture, ring in zip(pictures, rings, strict=True):
        assert ring["x"] - radius > picture["x"] and ring["y"] - radius > picture["y"]


def test_many_positions_wrap():
    spec = draw("similarity_maps", tables.similarity(images=1), columns=4)
    lines = {p["y"] for p in marks(spec, "image")[0][1]}
    assert len(lines) == 2 * 3


def test_token_maps_hold_the_tables_values():
    table = tables.tokens()
    spec = draw("token_maps", table)
    rows = hover(spec)
    assert len(rows) == 2 * 2 * 3
    for row in rows:
        of = table.filter(
            (pl.col("model") == row["model"])
            & (pl.col("kind") == "map")
            & (pl.col("position") == {"up[0]": "up_blocks.0", "up[1]": "up_blocks.1"}[row["block"]])
        ).sort("row", "col")
        names = [n for n in ("cluster", "norm", "red", "green", "blue") if n in row]
        assert names in (["cluster"], ["norm"], ["red", "green", "blue"])
        for name in names:
            assert row[name] == pytest.approx(of[name].to_list(), abs=1e-4)


def test_components_are_drawn_as_they_are():
    table = tables.tokens(positions=["up_blocks.0"], models=["nano-sd"])
    spec = draw("token_maps", table)
    pixels = image_at(marks(spec, "image")[0][1][3])
    for token in table.filter(pl.col("kind") == "map").iter_rows(named=True):
        y, x = (int((token[k] + 0.5) * pixels.shape[0] / 4) for k in ("row", "col"))
        expected = [round(255 * token[c]) for c in ("red", "green", "blue")]
        assert np.abs(pixels[y, x].astype(int) - expected).max() <= 1


def test_more_than_three_positions_become_columns():
    rows = marks(draw("token_maps"), "image")[0][1]
    assert len({p["x"] for p in rows}) == 4
    spec = draw("token_maps", tables.tokens(positions=tables.BLOCKS[4:9], models=["nano-sd"]))
    pictures = marks(spec, "image")[0][1]
    assert len({p["x"] for p in pictures}) == 6
    assert len({p["y"] for p in pictures}) == 3


# Errors


def test_ambiguous_rows_are_an_error_that_names_the_column():
    table = tables.probe()
    twice = pl.concat([table, table.with_columns(timestep=pl.lit(100, pl.Int64))])
    with pytest.raises(UserError, match=r"differ in timestep.*filter"):
        draw("block_bars", twice)
    draw("block_bars", twice, filter={"timestep": 100})
    maps = tables.similarity(images=1)
    twice = pl.concat([maps, maps.with_columns(seed=pl.lit(1, pl.Int64))])
    with pytest.raises(UserError, match="differ in seed"):
        draw("similarity_maps", twice)


def test_rows_are_told_apart_by_columns_without_values_too():
    table = pl.DataFrame({"prompt": [None, None], "timestep": [0, 50]})
    with pytest.raises(UserError, match="differ in timestep"):
        frames.one_row_per(table, ["prompt"])
    frames.one_row_per(table, ["prompt", "timestep"])


def test_missing_columns_and_values_are_errors():
    with pytest.raises(UserError, match="'accurcy'"):
        draw("block_bars", metric="accurcy")
    with pytest.raises(UserError, match=r"model = 'sdxl'.*nano-sd"):
        draw("block_bars", filter={"model": "sdxl"})
    with pytest.raises(UserError, match="no rows"):
        draw("block_bars", tables.probe().clear())
    broken = tables.similarity(models=["nano-sd"], images=1).filter(
        ~((pl.col("row") == 1) & (pl.col("col") == 0)).fill_null(False)
    )
    with pytest.raises(UserError, match=r"tokens has \d+ rows"):
        draw("similarity_maps", broken)


def test_a_filter_takes_lists():
    chosen = frames.select(tables.probe(), {"position": ["mid_block", "conv_in"]}, [])
    assert set(chosen["position"]) == {"mid_block", "conv_in"}
    assert set(chosen["split"]) == {"test"}


def test_values_that_are_not_finite_become_null():
    table = tables.probe().with_columns(
        accuracy=pl.when(pl.col("position") == "conv_out").then(float("nan")).otherwise("accuracy")
    )
    rows = marks(draw("block_bars", table), "bar")[0][1]
    assert {r["accuracy"] for r in rows if r["block"] == "conv-out"} == {None}
    assert not any(r["best"] for r in rows if r["block"] == "conv-out")


# Captions


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("block_bars", ["menagerie, test split, timestep 50", "360 images", "chance"]),
        ("block_table", ["360 images", "network order"]),
        (
            "lines_by_timestep",
            ["300 pairs, 2,711 points", "random", "alpha 0.1", "mean over points"],
        ),
        ("gains", ["menagerie, test split", "300 pairs, 2,711 points", "highest plain score"]),
        ("offset_maps", ["of the match from", "nano-sd, menagerie, test split", "2,120 points"]),
        ("at_a_glance", ["A: corner, B: middle", "conv-in and", "nano-sd", "timestep 50"]),
        ("histograms", ["2,000 tokens of 40 images", "cosine similarity and mean norm"]),
        ("noise_levels", ["decoded by its VAE, for 2 images and 1 model (menagerie, 128 px"]),
        ("norm_maps", ["every token of 1 image, in conv-in, mid, up[1]", "share one colour"]),
        ("position_maps", ["2 positions of 1 image and 1 model (menagerie, test split, timestep"]),
        ("similarity_maps", ["11 blocks", "2 images and 2 models"]),
        ("token_maps", ["up[0], up[1]", "6 k-means clusters", "1 image and 2 models"]),
    ],
)
def test_captions_count(kind, said):
    caption = draw(kind)["description"]
    for words in said:
        assert words in caption


def test_a_caption_of_uneven_counts_says_so():
    table = tables.probe().with_columns(
        images=pl.when(pl.col("position") == "conv_in").then(1200).otherwise("images")
    )
    assert "360 to 1,200 images" in draw("block_bars", table)["description"]


# Files

SUFFIXES = (".json", ".html", ".svg", ".png")


def save_all(folder):
    for kind, table in KINDS.items():
        module = figures.load(kind)
        frame, options = table(), module.Options()
        chart = module.draw(frame, options, Theme())
        render.save(chart, Path(folder) / f"{kind}.v1", module.caption(frame, options), "p <1>")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    save_all(folder)
    return folder


def test_the_same_bytes_in_another_process_and_order(saved, tmp_path):
    code = "import sys, test_figures as t; t.KINDS = dict(reversed(t.KINDS.items())); "
    code += "t.draw('token_maps'); t.save_all(sys.argv[1])"
    here = Path(__file__).parent
    path = [Path(figures.__path__[0]).parents[1], here, here.parent]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "PYTHONHASHSEED": "7",
    }
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True, env=environment)
    names = {f"{kind}.v1{suffix}" for kind in KINDS for suffix in SUFFIXES}
    assert {p.name for p in saved.iterdir()} == {p.name for p in tmp_path.iterdir()} == names
    for name in names:
        assert (saved / name).read_bytes() == (tmp_path / name).read_bytes(), name


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_tells_what_it_is(saved, kind):
    spec = json.loads((saved / f"{kind}.v1.json").read_text())
    caption = spec["description"]
    assert spec["usermeta"]["caption"] == caption
    assert spec["usermeta"]["provenance"] == "p <1>"
    svg = (saved / f"{kind}.v1.svg").read_text()
    assert "<metadata>p &lt;1&gt;</metadata>" in svg and "<desc>" in svg
    image = (saved / f"{kind}.v1.png").read_bytes()
    with Image.open(io.BytesIO(image)) as opened:
        opened.load()
        assert opened.text == {"Description": caption, "Source": "p <1>"}
        width = float(re.search(r'width="([\d.]+)"', svg)[1])
        assert opened.width == pytest.approx(render.PNG_SCALE * width, abs=2)
    # All chunks are intact, also those that were added.
    at = 8
    while at < len(image):
        (length,) = struct.unpack(">I", image[at : at + 4])
        body = image[at + 4 : at + 8 + length]
        assert struct.unpack(">I", image[at + 8 + length : at + 12 + length])[0] == zlib.crc32(body)
        at += 12 + length


LOADS = re.compile(
    r"""(?:\bsrc|\bhref|xlink:href|srcset|\baction|\bdata)\s*=\s*["']?\s*(?:https?:)?//"""
    r"""|@import|url\(\s*["']?(?:https?:)?//""",
    re.IGNORECASE,
)


@pytest.mark.parametrize("kind", KINDS)
def test_pages_load_nothing(saved, kind):
    page = (saved / f"{kind}.v1.html").read_text()
    shell = page.replace(render.javascript(), "")
    assert len(shell) < len(page) - 500_000
    assert not LOADS.search(shell)
    assert "default-src 'none'" in shell


@pytest.mark.parametrize("kind", ["similarity_maps", "token_maps"])
def test_maps_at_full_size_stay_light(kind, tmp_path):
    table = tables.similarity(images=1, scale=4) if kind == "similarity_maps" else tables.tokens()
    spec = draw(kind, table)
    svg = render.svg(spec)
    assert len(json.dumps(spec)) < 2_000_000
    assert len(svg) < 2_000_000
    # Marks that only serve tooltips are not in the picture.
    assert svg.count("<path") < 200


def test_ids_are_distinct_and_references_follow():
    text = '<svg><clipPath id="clip7"/><g clip-path="url(#clip7)"/><use href="#gradient_2"/>'
    text += '<linearGradient id="gradient_2"/></svg>'
    assert render.with_ids(text, "a") == (
        '<svg><clipPath id="a-0"/><g clip-path="url(#a-0)"/><use href="#a-1"/>'
        '<linearGradient id="a-1"/></svg>'
    )


def test_json_cannot_close_its_script_element():
    value = {"a": "</script><!-- \u2028"}
    text = render.inline_json(value)
    assert "<" not in text and "\u2028" not in text
    assert json.loads(text) == value


needs_chromium = pytest.mark.skipif(
    browser.executable() is None, reason=f"no Chromium on the path ({', '.join(browser.NAMES)})"
)


@needs_chromium
def test_a_map_is_interactive_offline(saved):
    table = tables.similarity()
    spec = draw("similarity_maps", table)
    row = next(r for r in hover(spec) if r["model"] == "nano-sd" and r["block"] == "up[1]")
    where = "JSON.stringify(document.querySelector('canvas.marks').getBoundingClientRect())"
    with browser.browse(saved / "similarity_maps.v1.html") as page:
        page.wait(browser.READY)
        box = json.loads(page.evaluate(where))
        assert page.evaluate(browser.CHARTS) == 1
        # Third row, sixth column; 8 is the padding of the figure.
        for shift in (0.4, 0.5):
            page.move(
                box["x"] + 8 + row["x"] + (5 + shift) * row["w"],
                box["y"] + 8 + row["y"] + (2 + shift) * row["h"],
            )
        page.wait("!!document.querySelector('#vg-tooltip-element.visible')")
        text = page.evaluate("document.querySelector('#vg-tooltip-element').innerText")
        assert page.errors() == []
        assert page.requests() == [(saved / "similarity_maps.v1.html").as_uri()]
    words = text.split()
    shown = dict(zip(words[::2], words[1::2], strict=True))
    (value,) = table.filter(
        (pl.col("model") == "nano-sd")
        & (pl.col("image_id") == row["image_id"])
        & (pl.col("position") == "up_blocks.1")
        & (pl.col("row") == 2)
        & (pl.col("col") == 5)
    )["similarity"]
    assert shown["block"] == "up[1]"
    assert (shown["row"], shown["col"]) == ("2", "5")
    assert shown["similarity"].replace("−", "-") == f"{value:.3f}"


# Lines over alpha


def test_lines_over_alpha_are_the_rows_of_blocks_and_estimators():
    table = tables.over_alphas().with_columns(
        published_pck=pl.when(estimator="random", alpha=0.1).then(0.0202),
        published_pck_from=pl.when(estimator="random", alpha=0.1).then(pl.lit("thesis, figure 9")),
    )
    spec = draw("lines_by_alpha", table)
    lines = [rows for part, rows in marks(spec, "line") if "strokeDash" not in part["mark"]]
    assert len(lines) == len(tables.MODELS)
    for model, rows in zip(tables.MODELS, lines, strict=True):
        own = table.filter(model=model, estimator="cosine")
        assert {(r["block"], r["alpha"], r["pck"]) for r in rows} == {
            (block_label(p), a, v) for p, a, v in own.select("position", "alpha", "pck").rows()
        }
    dashed = [rows for part, rows in marks(spec, "line") if "strokeDash" in part["mark"]]
    for rows in dashed:
        # Once, although the table has them at every block.
        assert len(rows) == 4 * 4
        assert {r["pck"] for r in rows if r["estimator"] == "same_position"} == set(
            table.filter(estimator="same_position")["pck"]
        )
    said = spec["description"]
    assert (
        "Dashed, without features: same place in box, same place in square, same position" in said
    )
    assert "Open circles: published (thesis, figure 9)." in said
    assert "alpha 0" not in said


def test_baselines_that_differ_between_blocks_are_an_error():
    table = tables.over_alphas().with_columns(
        pck=pl.when(estimator="random", position=tables.BLOCKS[0]).then(0.9).otherwise("pck")
    )
    with pytest.raises(UserError, match="Several rows fall on one mark"):
        draw("lines_by_alpha", table)


# Parts of the pairs


def test_cells_of_parts_are_the_rows_of_the_table():
    spec = draw("group_table", by=["category"])
    table = tables.groups().filter(by="category", model="nano-sd")
    cells = marks(spec, "rect")[0][1]
    baselines = ["same place in box", "same place in square"]
    assert len(cells) == 4 * (len(tables.BLOCKS) + 2)
    for position in tables.BLOCKS:
        own = table.filter(position=position, estimator="cosine")
        assert {c["row"]: c["pck"] for c in cells if c["column"] == block_label(position)} == {
            "all pairs" if value == "all" else value: pck
            for value, pck in own.select("value", "pck").iter_rows()
        }
    assert [c["column"] for c in cells if c["row"] == "cow"] == [*LABELS, *baselines]
    best = table.filter(estimator="cosine", value="cow").sort("pck")["position"][-1]
    assert [c["column"] for c in cells if c["row"] == "cow" and c["best"]] == [block_label(best)]


def test_rows_of_several_kinds_of_parts_say_which_and_all_pairs_stand_once():
    spec = draw("group_table")
    cells = marks(spec, "rect")[0][1]
    assert {c["row"] for c in cells} == {
        *(f"category: {name}" for name in ("cat", "cow", "giraffe")),
        *(f"viewpoint: {name}" for name in ("easy", "medium", "hard")),
        "all pairs",
    }
    assert "each part has 40 pairs" in spec["description"]


def test_differences_are_those_of_the_task_and_bold_where_their_interval_leaves_out_0():
    table = tables.differences()
    low, high = pl.col("difference") - 0.5, pl.col("difference") + 0.5
    unsure = (pl.col("timestep") == 50) & (pl.col("position") == "mid_block")
    table = table.with_columns(
        difference_low=pl.when(unsure).then(low).otherwise("difference_low"),
        difference_high=pl.when(unsure).then(high).otherwise("difference_high"),
    )
    rows = {
        (row["timestep"], row["position"]): row
        for row in table.filter(noise="shared").iter_rows(named=True)
    }

    found = block_differences._rows(table, block_differences.Options())
    assert len(found) == len(rows)
    for row in found.iter_rows(named=True):
        position = next(p for _, p in rows if block_label(p) == row["block"])
        expected = rows[row["timestep"], position]
        assert row["difference"] == expected["difference"]
        sure = not expected["difference_low"] <= 0 <= expected["difference_high"]
        assert row["clear"] is sure
    assert not found["clear"].all()
    caption = block_differences.caption(table, block_differences.Options())
    assert f"Largest of {len(rows)}: " in caption
    with pytest.raises(UserError, match="'difference'"):
        block_differences.draw(table.drop("difference"), block_differences.Options(), Theme())
