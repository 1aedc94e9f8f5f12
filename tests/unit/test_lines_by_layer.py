import itertools
import json
import re

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reprscope.figures import render
from reprscope.figures.kinds import lines_by_layer
from reprscope.figures.kinds.lines_by_layer import NOTHING, Options, layer_label, log_ticks, placed
from reprscope.figures.theme import SCHEMES, Theme
from reprscope.models.labels import block_label
from reprscope.runtime.errors import UserError
from support import tables
from support.charts import draw, marks


def by_grid() -> pl.DataFrame:
    table = tables.layers().filter(pl.col("model") == "nano-sd")
    return pl.concat(
        table.with_columns(grid=grid, accuracy=pl.col("accuracy") / grid, chance=1 / grid)
        for grid in (16, 8, 64)
    )


def test_lines_are_the_tables_values_in_network_order():
    table = tables.layers()
    spec = draw("lines_by_layer", table)
    ((line, rows),) = marks(spec, "line")
    drawn = {(r["model"], r["order"]): (r["accuracy"], r["low"], r["high"]) for r in rows}
    assert len(drawn) == len(table) == 2 * len(tables.LAYERS)
    for row in table.iter_rows(named=True):
        key = (row["model"], tables.LAYERS.index(row["position"]))
        assert drawn[key] == (row["accuracy"], row["low"], row["high"])
    labels = json.loads(
        re.fullmatch(r"(\[.*\])\[datum.value\]", line["encoding"]["x"]["axis"]["labelExpr"])[1]
    )
    assert labels == [
        *["conv-in", *["res", "down"] * 4],
        *["res", "attn", "res", *["res", "attn"] * 4, "conv-out"],
    ]
    assert line["encoding"]["x"]["axis"]["values"] == list(range(len(labels)))


def test_blocks_have_a_strip_in_their_colours_and_names():
    spec = draw("lines_by_layer")
    strip = next(rows for part, rows in marks(spec, "rect") if "tooltip" in part["encoding"])
    assert [row["colour"] for row in strip] == list(SCHEMES["hourglass"])
    assert all(a["right"] == pytest.approx(b["left"]) for a, b in itertools.pairwise(strip))
    width = spec["vconcat"][0]["width"]
    step = width / len(tables.LAYERS)
    assert [round((r["right"] - r["left"]) / step) for r in strip] == [1, *[2] * 4, 3, *[2] * 4, 1]
    assert strip[-1]["right"] == pytest.approx(width)
    (names,) = (rows for _, rows in marks(spec, "text") if rows[0].get("text") == "down[0]")
    middles = {row["text"]: row["at"] for row in names}
    assert list(middles) == [*(f"down[{i}]" for i in range(4)), "mid"] + [
        f"up[{i}]" for i in range(4)
    ]
    assert middles["mid"] == pytest.approx(10.5 * step)


def test_names_of_narrow_blocks_are_shortened_together():
    text = render.svg(draw("lines_by_layer", theme=Theme(width=480)))
    assert ">d0<" in text and ">u3<" in text and ">mid<" in text
    assert "down[" not in re.sub(r"<(desc|metadata)>.*?</\1>|aria-label=\"[^\"]*\"", "", text)


@pytest.mark.parametrize(
    ("position", "label"),
    [
        ("conv_in", "conv-in"),
        ("up_blocks.1.resnets.2", "res"),
        ("up_blocks.1.upsamplers.0", "up"),
        ("up_blocks.1", "out"),
        ("down_blocks.0", "down[0]"),
    ],
)
def test_labels_are_short(position, label):
    order = [
        *["conv_in", "down_blocks.0", "up_blocks.1.resnets.2", "up_blocks.1.upsamplers.0"],
        "up_blocks.1",
    ]
    assert layer_label(position, order) == label


def test_few_series_are_named_at_their_ends_and_many_in_a_legend():
    few = draw("lines_by_layer", by_grid(), series="grid")
    ends = [rows for _, rows in marks(few, "text") if "grid" in rows[0]]
    assert [[r["grid"] for r in rows] for rows in ends] == [["grid 8", "grid 16", "grid 64"]]
    # The highest line has the highest label.
    assert [r["at"] for r in ends[0]] == sorted(r["at"] for r in ends[0])
    colour = marks(few, "line")[0][0]["encoding"]["color"]
    assert colour["legend"] is None
    assert colour["scale"]["domain"] == ["grid 8", "grid 16", "grid 64"]
    lightness = [sum(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in colour["scale"]["range"]]
    assert lightness == sorted(lightness, reverse=True)
    table = tables.layers()
    many = pl.concat([table.with_columns(seed=pl.lit(seed, pl.Int64)) for seed in range(4)])
    many = many.with_columns(model=pl.concat_str("model", "seed", separator=" "))
    spec = draw("lines_by_layer", many)
    assert not [rows for _, rows in marks(spec, "text") if "model" in rows[0]]
    assert marks(spec, "line")[0][0]["encoding"]["color"]["legend"]["orient"] == "top"
    assert spec["params"][0]["bind"] == "legend"


def test_a_number_as_rule_is_a_dashed_rule_within_the_axis():
    spec = draw("lines_by_layer", rule=1.4, percent=False)
    ((_, rows),) = marks(spec, "rule")
    assert rows == [{"rule": 1.4}]
    domain = marks(spec, "line")[0][0]["encoding"]["y"]["scale"]["domain"]
    assert domain[0] == 0 and domain[1] > 1.4
    assert "dashed rule is 1.4" in spec["description"]


def test_a_column_as_rule_is_one_grey_line_or_one_for_each_series():
    one = draw("lines_by_layer", rule="chance")
    dashed = [(p, rows) for p, rows in marks(one, "line") if "strokeDash" in p["mark"]]
    ((part, rows),) = dashed
    assert "color" not in part["encoding"]
    assert [(r["order"], r["chance"]) for r in rows] == [
        (number, 0.125) for number in range(len(tables.LAYERS))
    ]
    each = draw("lines_by_layer", by_grid(), series="grid", rule="chance")
    dashed = [(p, rows) for p, rows in marks(each, "line") if "strokeDash" in p["mark"]]
    ((part, rows),) = dashed
    assert part["encoding"]["color"]["field"] == "grid"
    assert {(r["grid"], r["chance"]) for r in rows} == {
        (f"grid {grid}", 1 / grid) for grid in (8, 16, 64)
    }


def test_panels_share_their_axes_and_only_the_last_has_layers():
    table = tables.layers()
    both = pl.concat(
        [table, table.with_columns(timestep=pl.lit(200, pl.Int64), accuracy=pl.lit(0.9))]
    )
    spec = draw("lines_by_layer", both, panel="timestep")
    assert [panel["title"]["text"] for panel in spec["vconcat"]] == ["timestep 50", "timestep 200"]
    lines = [part["encoding"] for part, _ in marks(spec, "line")]
    assert lines[0]["y"]["scale"] == lines[1]["y"]["scale"]
    assert lines[0]["x"]["axis"] is None and lines[1]["x"]["axis"]["values"]
    values = [{r["accuracy"] for r in rows} for _, rows in marks(spec, "line")]
    assert values[1] == {0.9} and len(values[0]) == len(table)


def test_values_that_cannot_be_drawn_leave_gaps_and_are_counted():
    table = tables.layers().with_columns(
        accuracy=pl.when(pl.col("position") == "conv_out").then(-0.2).otherwise("accuracy")
    )
    spec = draw("lines_by_layer", table, log=True)
    rows = marks(spec, "line")[0][1]
    missing = {(r["accuracy"], r["low"], r["high"]) for r in rows if r["layer"] == "conv-out"}
    assert missing == {(None, None, None)}
    assert "2 values not positive" in spec["description"]
    low, high = marks(spec, "line")[0][0]["encoding"]["y"]["scale"]["domain"]
    kept = table.filter(pl.col("accuracy") > 0)
    assert 0 < low < kept["accuracy"].min() and high > kept["high"].max()
    linear = draw("lines_by_layer", table)
    assert marks(linear, "line")[0][0]["encoding"]["y"]["scale"]["domain"][0] < -0.2


@pytest.mark.parametrize("value", [None, -1.0, float("nan")])
@pytest.mark.parametrize("rule", ["", 1.0, "chance", "low"])
def test_no_value_at_all_is_an_empty_chart_that_says_so(value, rule):
    """Nothing found is a finding, as in a model without anomalies, and no mistake."""
    table = tables.layers().with_columns(
        pl.lit(value, pl.Float64).alias(name) for name in ("accuracy", "low", "high")
    )
    spec = draw("lines_by_layer", table, log=True, rule=rule, panel="model", series="seed")
    texts = [row["text"] for _, rows in marks(spec, "text") for row in rows if "text" in row]
    assert texts.count(NOTHING) == 2
    drawn = [
        r["accuracy"] for p, rows in marks(spec, "line") if "accuracy" in rows[0] for r in rows
    ]
    assert set(drawn) == {None}
    low, high = marks(spec, "point")[0][0]["encoding"]["y"]["scale"]["domain"]
    assert 0 < low < high
    assert f"{len(table)} values not positive" in spec["description"]
    assert "Lowest" not in spec["description"]
    assert "<svg" in render.svg(spec)


def test_only_a_panel_without_a_value_says_so():
    table = tables.layers().with_columns(
        accuracy=pl.when(pl.col("model") == "nano-sd").then("accuracy")
    )
    spec = draw("lines_by_layer", table, panel="model", series="seed")
    texts = [row["text"] for _, rows in marks(spec, "text") for row in rows if "text" in row]
    assert texts.count(NOTHING) == 1
    assert f"{len(tables.LAYERS)} values not finite" in spec["description"]


def published(values: dict[str, float | None]) -> pl.DataFrame:
    """The table of layers with published values of one model."""
    table = tables.layers()
    names = [
        values.get(position) if model == "nano-sd" else None
        for model, position in table.select("model", "position").iter_rows()
    ]
    return table.with_columns(
        published_accuracy=pl.Series(names, dtype=pl.Float64),
        published_accuracy_from=pl.lit("paper, figure 2"),
    )


def circles(spec: dict) -> list[dict]:
    """Rows of the marks of published values that are drawn."""
    found = [
        (part, rows)
        for part, rows in marks(spec, "point")
        if part["encoding"]["y"]["field"] == "published_accuracy"
    ]
    assert all("isValid" in part["transform"][0]["filter"] for part, _ in found)
    return [r for _, rows in found for r in rows if r["published_accuracy"] is not None]


def test_published_values_are_circles_in_the_colour_of_their_line():
    values = {position: 0.01 * (n + 1) for n, position in enumerate(tables.LAYERS[:5])}
    spec = draw("lines_by_layer", published(values))
    drawn = circles(spec)
    assert {(r["order"], r["published_accuracy"]) for r in drawn} == {
        (n, 0.01 * (n + 1)) for n in range(5)
    }
    assert {r["model"] for r in drawn} == {"nano-sd"}
    point = marks(spec, "point")[-1][0]
    line = marks(spec, "line")[0][0]
    assert point["encoding"]["color"]["scale"] == line["encoding"]["color"]["scale"]
    assert point["mark"]["filled"] is False
    assert {t["field"]: t.get("title") for t in point["encoding"]["tooltip"]} == {
        "layer": None,
        "model": "model",
        "published_accuracy": "published",
        "published_accuracy_from": "in",
    }
    assert "Open circles: published (paper, figure 2)." in spec["description"]


@pytest.mark.parametrize("log", [False, True])
def test_published_values_are_within_the_axis_and_only_where_they_can_be_drawn(log):
    values = {"conv_in": 7.0, "conv_out": -0.5, "mid_block.resnets.0": None}
    spec = draw("lines_by_layer", published(values), log=log)
    low, high = marks(spec, "line")[0][0]["encoding"]["y"]["scale"]["domain"]
    assert high > 7 and (low > 0 if log else low < -0.5)
    expected = {7.0} if log else {7.0, -0.5}
    assert {r["published_accuracy"] for r in circles(spec)} == expected


def test_a_table_without_published_values_has_no_circles():
    for table in (tables.layers(), published({})):
        spec = draw("lines_by_layer", table)
        assert circles(spec) == [] and "published" not in spec["description"]


def test_the_paper_has_these_ticks():
    assert log_ticks(0.4, 2.4) == [0.5, 1, 2]
    assert log_ticks(0.45, 5.6) == [0.5, 1, 2, 4]
    assert log_ticks(0.001, 3.0) == [0.001, 0.01, 0.1, 1]


@given(st.floats(1e-4, 1e4), st.floats(1.02, 1e4))
def test_ticks_are_round_few_and_on_the_axis(low, ratio):
    high = low * ratio
    ticks = log_ticks(low, high)
    assert 3 <= len(ticks) <= 12
    assert all(low * (1 - 1e-9) <= tick <= high * (1 + 1e-9) for tick in ticks)
    assert all(a < b for a, b in itertools.pairwise(ticks))
    assert all(len(f"{tick:g}".replace(".", "").strip("0")) <= 6 for tick in ticks)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=6), st.floats(1, 15))
def test_labels_at_the_ends_have_room_and_keep_their_order(heights, gap):
    found = placed(heights, gap, 100)
    pairs = sorted(zip(heights, found, strict=True))
    assert all(b - a >= gap - 1e-6 for (_, a), (_, b) in itertools.pairwise(pairs))
    assert all(-1e-6 <= at <= 100 + 1e-6 for at in found)
    ordered = sorted(heights)
    if all(b - a >= gap for a, b in itertools.pairwise(ordered)):
        assert found == pytest.approx(heights)


def test_mistakes_are_sentences():
    with pytest.raises(UserError, match="differ in timestep"):
        table = tables.layers()
        draw("lines_by_layer", pl.concat([table, table.with_columns(timestep=pl.lit(9, pl.Int64))]))
    with pytest.raises(UserError, match="'accurcy'"):
        draw("lines_by_layer", metric="accurcy")
    with pytest.raises(UserError, match="ascending"):
        Options(domain=[1, 0])
    with pytest.raises(UserError, match="above 0"):
        Options(rule=0.0, log=True)


def test_captions_say_from_where_to_where():
    table = tables.layers()
    text = lines_by_layer.caption(table, Options())
    assert "100 images" in text and "95 % intervals" in text
    of = table.filter(pl.col("model") == "nano-sd")
    low, high = of["accuracy"].min(), of["accuracy"].max()
    assert f"nano-sd: {100 * low:.1f} % (" in text and f"to {100 * high:.1f} % (" in text


def test_a_line_breaks_where_a_layer_has_no_value():
    """As border tokens have none on small maps: nothing is drawn across the gap."""
    table = tables.layers()
    position, model = table["position"][1], table["model"][0]
    gap = (pl.col("position") == position) & (pl.col("model") == model)
    spec = draw("lines_by_layer", table.filter(~gap), series="model")
    for kind in ("line", "point"):
        drawn = [rows for mark, rows in marks(spec, kind) if rows and "layer" in rows[0]]
        assert drawn
        for rows in drawn:
            here = [row for row in rows if row["model"] == model]
            assert len(here) == len(tables.LAYERS)
            missing = [row for row in here if row["layer"] == block_label(position)]
            assert [row["accuracy"] for row in missing] == [None]
