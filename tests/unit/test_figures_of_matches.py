"""Figures of the correspondence tasks: maps of errors by offset, and gains of variants."""

import numpy as np
import polars as pl
import pytest
from reprscope.figures.theme import Theme
from reprscope.models.labels import block_label
from reprscope.runtime.errors import UserError
from support import tables
from support.charts import draw, hover, image_at, marks

TWO = ("up_blocks.0", "up_blocks.1")


def cells(table, **where):
    rows = table.filter(pl.col("kind") == "offset")
    for column, value in where.items():
        rows = rows.filter(pl.col(column) == value)
    grid = np.full((5, 5), np.nan)
    for row in rows.iter_rows(named=True):
        if row["points"] >= 30:
            grid[int(row["y"] / 8) + 2, int(row["x"] / 8) + 2] = row["error_rate"]
    return grid


@pytest.mark.parametrize("of", ["prediction", "target"])
def test_maps_of_offsets_have_right_and_down_where_they_belong(of):
    table = tables.offsets(positions=TWO)
    spec = draw("offset_maps", table, of=of)
    ((_, pictures),) = marks(spec, "image")
    assert len(pictures) == 4
    for row in pictures:
        position = TWO[[block_label(p) for p in TWO].index(row["block"])]
        expected = cells(table, of=of, position=position, timestep=int(row["timestep"]))
        block = [cells(table, of=of, position=position, timestep=step) for step in (50, 200)]
        pixels = image_at(row)
        side = len(pixels) // 5
        seen = pixels[side // 2 :: side, side // 2 :: side]
        colours = Theme().map_colours(np.nan_to_num(expected), np.nanmin(block), np.nanmax(block))
        colours[np.isnan(expected)] = 255
        np.testing.assert_array_equal(seen, colours)
    by_map = {(row["block"], row["timestep"]): row for row in hover(spec)}
    found = by_map["up[1]", "200"]
    expected = cells(table, of=of, position="up_blocks.1", timestep=200)
    np.testing.assert_allclose(found["error_rate"], np.nan_to_num(expected).ravel(), atol=1e-4)
    assert found["points"][:2] == [5, 100]
    # One timestep: blocks side by side, in network order.
    ((_, pictures),) = marks(draw("offset_maps", table, filter={"timestep": 50}), "image")
    assert [row["block"] for row in pictures] == ["up[0]", "up[1]"]
    assert pictures[0]["y"] == pictures[1]["y"]


def test_the_ends_of_the_colours_are_printed():
    table = tables.offsets(positions=TWO)
    texts = {row["text"] for _, rows in marks(draw("offset_maps", table), "text") for row in rows}
    for position in TWO:
        block = [cells(table, of="prediction", position=position, timestep=t) for t in (50, 200)]
        assert f"{100 * np.nanmin(block):.1f} to {100 * np.nanmax(block):.1f} %" in texts


def test_pairs_of_different_subjects_are_drawn_unless_others_are_asked_for():
    """As the table of a dataset whose pictures show few subjects has them."""
    plain = tables.offsets(positions=TWO)
    moved = {"exclude": 0.0, "only": -0.1, "all": -0.05}
    table = pl.concat(
        plain.with_columns(same=pl.lit(same), error_rate=pl.col("error_rate") + shift)
        for same, shift in moved.items()
    )
    said = {}
    for same, filters in (("exclude", {}), ("only", {"same": "only"}), ("all", {"same": "all"})):
        spec = draw("offset_maps", table, filter=filters)
        expected = cells(plain, of="prediction", position="up_blocks.1", timestep=50)
        found = {(row["block"], row["timestep"]): row for row in hover(spec)}["up[1]", "50"]
        known = np.isfinite(expected.ravel())
        np.testing.assert_allclose(
            np.array(found["error_rate"])[known], expected.ravel()[known] + moved[same], atol=1e-4
        )
        said[same] = spec["description"]
    assert "pairs of different subjects" in said["exclude"]
    assert "pairs of one subject" in said["only"]
    assert "all pairs" in said["all"]
    # Where there are no others, nothing need be said.
    assert "subject" not in draw("offset_maps", plain)["description"]


def test_maps_without_enough_points_or_of_two_models_are_refused():
    with pytest.raises(UserError, match="set a smaller `least`"):
        draw("offset_maps", tables.offsets(positions=TWO), least=101)
    with pytest.raises(UserError, match="differ in model"):
        draw("offset_maps", tables.offsets(positions=TWO, models=tables.MODELS))


def test_gains_are_those_of_the_block_that_is_best_on_the_validation_split():
    table = tables.gains()
    spec = draw("gains", table)
    panels = marks(spec, "point")
    assert [panel["title"]["text"] for panel in spec["vconcat"]] == [
        f"{model}, up[1]" for model in tables.MODELS
    ]
    for model, (_, rows) in zip(tables.MODELS, panels, strict=True):
        assert [row["variant"] for row in rows] == list(tables.VARIANTS)
        for row in rows:
            expected = table.filter(
                (pl.col("model") == model)
                & (pl.col("task") == row["variant"])
                & (pl.col("position") == "up_blocks.1")
                & (pl.col("split") == "test")
                & (pl.col("estimator") == "cosine")
            ).row(0, named=True)
            assert row["value"] == pytest.approx(100 * expected["gain"])
            assert row["from"] == pytest.approx(100 * expected["gain_low"])
            assert row["to"] == pytest.approx(100 * expected["gain_high"])
            sign = "+" if expected["gain"] >= 0 else "\N{MINUS SIGN}"
            assert row["label"] == f"{sign}{abs(100 * expected['gain']):.1f}"


def test_no_gain_has_no_sign():
    table = tables.gains().with_columns(gain=pl.col("gain") * 1e-3)
    _, rows = marks(draw("gains", table), "point")[0]
    assert {row["label"] for row in rows} == {"0.0"}


def test_several_blocks_have_their_own_colours():
    spec = draw("gains", tables.gains(), positions=TWO, filter={"model": "nano-sd"})
    ((part, rows),) = marks(spec, "point")
    assert len(rows) == 6
    scale = part["encoding"]["color"]["scale"]
    colours = Theme().block_colours(TWO)
    assert dict(zip(scale["domain"], scale["range"], strict=True)) == {
        block_label(position): colour for position, colour in colours.items()
    }


@pytest.mark.parametrize("holds", [True, False])
def test_only_gains_that_hold_after_the_correction_are_filled_and_named(holds):
    table = tables.gains().filter((pl.col("model") == "nano-sd") & (pl.col("task") != "plain"))
    sure = pl.col("task") == "flipped"
    # The interval of one excludes 0, which is not enough among many.
    values = {"gain": (0.03, 0), "gain_low": (0.02, -1), "gain_high": (0.04, 1)}
    values["gain_p_holm"] = (0.04 if holds else 0.06, 1)
    table = table.with_columns(
        pl.when(pl.col("gain").is_null())
        .then(None)
        .when(sure)
        .then(one)
        .otherwise(other)
        .alias(name)
        for name, (one, other) in values.items()
    )
    spec = draw("gains", table)
    _, rows = marks(spec, "point")[0]
    assert {row["variant"]: row["holds"] for row in rows} == {
        "class-prompt": False, "flipped": holds, "seeds-averaged": False,
    }  # fmt: skip
    named = "After Holm's correction for 18 gains tried, these hold: flipped +3.0 (nano-sd, up[1])."
    none = "Dots are open: nothing holds after Holm's correction for 18 gains tried."
    assert (named in spec["description"], none in spec["description"]) == (holds, not holds)
    # Means over noise seeds have no such p values.
    spec = draw("gains", table.drop("gain_p_holm"))
    assert "1 of 3 intervals exclude 0; without any gain, 0.15 would" in spec["description"]
    assert {row["holds"] for row in marks(spec, "point")[0][1]} == {None}


def test_a_table_without_variants_has_no_gains():
    with pytest.raises(UserError, match="No row of the table has a gain"):
        draw("gains", tables.gains().filter(pl.col("task") == "plain"))
