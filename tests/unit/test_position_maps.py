"""Dots of position maps stand where the table puts the tokens, in the colours of where they are."""

import numpy as np
import polars as pl
import pytest
from reprscope.figures.kinds.position_maps import MARGIN, TRUE, Options, dots
from reprscope.figures.kinds.transfer_maps import wheel
from reprscope.runtime.errors import UserError
from support import tables
from support.charts import draw, hover, image_at, marks

SHAPE = (4, 6)
GROUND = (228, 231, 235)


def pixel(rgb: np.ndarray, row: float, col: float, shape: tuple[int, int]) -> np.ndarray:
    """Colour of a picture at a place in tokens."""
    margin = MARGIN * max(shape)
    y = (row + 0.5 + margin) / (shape[0] + 2 * margin) * rgb.shape[0]
    x = (col + 0.5 + margin) / (shape[1] + 2 * margin) * rgb.shape[1]
    return rgb[int(y), int(x)].astype(int)


def painted(at, colours, shape=SHAPE) -> np.ndarray:
    return dots(
        np.array(at, float), np.array(colours, np.uint8), shape=shape, side=120, ground="#e4e7eb"
    )


def test_a_dot_is_where_it_is_put_and_nowhere_else():
    rgb = painted([[1, 2.5], [4, 0]], [[255, 0, 0], [0, 0, 255]])
    assert rgb.shape[1] >= 240
    margin = MARGIN * 6
    assert rgb.shape[0] / rgb.shape[1] == pytest.approx((4 + 2 * margin) / (6 + 2 * margin), 0.01)
    assert pixel(rgb, 1, 4, SHAPE).tolist() == [255, 0, 0]
    assert pixel(rgb, 2.5, 0, SHAPE).tolist() == [0, 0, 255]
    for row, col in ((1, 3), (1, 5), (0, 4), (2, 4), (4, 1), (2, 0.6), (2.5, 0.6)):
        there = pixel(rgb, row, col, SHAPE).tolist()
        assert there == list(GROUND) if row <= 3.5 else there == [255, 255, 255]
    # The map is grey, its margin white, and both have the sizes that MARGIN says.
    grey = (rgb == GROUND).all(axis=-1)
    across = np.flatnonzero(grey.any(axis=0))
    assert (across[-1] - across[0] + 1) / rgb.shape[1] == pytest.approx(6 / (6 + 2 * margin), 0.02)
    # A dot covers 0.7 tokens across.
    red = np.flatnonzero((rgb == [255, 0, 0]).all(axis=-1).any(axis=0))
    assert len(red) / rgb.shape[1] * (6 + 2 * margin) == pytest.approx(0.7, abs=0.06)


def test_tokens_at_one_place_have_the_mean_of_their_colours():
    rgb = painted([[1, 1, 1, 2], [4, 4, 4, 2]], [[255, 0, 0], [0, 0, 0], [0, 90, 0], [0, 200, 0]])
    assert pixel(rgb, 1, 4, SHAPE).tolist() == [85, 30, 0]
    assert pixel(rgb, 2, 2, SHAPE).tolist() == [0, 200, 0]


def test_dots_beyond_are_drawn_at_the_edge():
    rgb = painted([[-9, 1], [2, 99]], [[255, 0, 0], [0, 0, 255]])
    assert (rgb[3:6] == [255, 0, 0]).all(axis=-1).any()
    column = int((2.5 + MARGIN * 6) / (6 + 2 * MARGIN * 6) * rgb.shape[1])
    assert rgb[4, column].tolist() == [255, 0, 0]
    assert (rgb[:, -5] == [0, 0, 255]).all(axis=-1).any()


def test_panels_are_the_tables_places():
    table = tables.predicted_places()
    spec = draw("position_maps", table)
    ((_, pictures),) = marks(spec, "image")
    photo, *panels = pictures
    assert len(panels) == 2 * 3 and "block" not in photo
    assert photo["w"] / photo["h"] == 24 / 16
    for number, panel in enumerate(panels):
        position = {"mid": "mid_block", "up[0]": "up_blocks.0"}[panel["block"]]
        shape = (tables.GRIDS[position], tables.GRIDS[position] + 2)
        kind = (TRUE, "classification", "regression")[number % 3]
        of = table.filter(
            position=position,
            kind="map",
            estimator="classification" if kind == TRUE else kind,
        )
        rgb, hit = image_at(panel), 0
        put = {}
        for token in of.iter_rows(named=True):
            true = (token["row"], token["col"])
            at = true if kind == TRUE else (token["predicted_row"], token["predicted_col"])
            colour = wheel((true[1] + 0.5) / shape[1], (true[0] + 0.5) / shape[0])
            put.setdefault(at, []).append(colour.astype(float))
        for at, colours in put.items():
            found = pixel(rgb, *at, shape)
            hit += bool(np.abs(found - np.mean(colours, axis=0)).max() <= 1)
        # A regression's dots may cover each other.
        assert hit == len(put) if kind != "regression" else hit >= 0.6 * len(put)
    assert [p["block"] for p in panels] == ["mid"] * 3 + ["up[0]"] * 3


def test_tooltips_say_where_both_estimators_put_a_token():
    table = tables.predicted_places()
    found = hover(draw("position_maps", table))
    assert [one["block"] for one in found] == ["mid", "up[0]"]
    for one, position in zip(found, ("mid_block", "up_blocks.0"), strict=True):
        for estimator in ("classification", "regression"):
            of = table.filter(position=position, estimator=estimator).sort("row", "col")
            for axis in ("row", "col"):
                expected = of[f"predicted_{axis}"].round(4).to_list()
                assert one[f"{estimator}, {axis}"] == pytest.approx(expected)


def test_positions_wrap_beside_the_image_and_models_are_named():
    table = tables.predicted_places(tables.MODELS, ("up_blocks.0", "mid_block", "conv_in"))
    spec = draw("position_maps", table, columns=2, panels=["classification"])
    ((_, pictures),) = marks(spec, "image")
    assert [p.get("block") for p in pictures] == [None, "conv-in", "mid", "up[0]"] * 2
    lefts = [round(p["x"]) for p in pictures if "block" in p]
    assert lefts[0] == lefts[2] > lefts[1]
    tops = [p["y"] for p in pictures if "block" in p]
    assert tops == sorted(tops) and tops[0] < tops[1] == tops[2] < tops[3]
    texts = [row["text"] for _, rows in marks(spec, "text") for row in rows]
    assert texts.count("image") == 2 and texts.count("up[0]") == 2
    assert "nano-sd-untrained, menagerie-00000" in texts
    assert hover(spec) == []
    one = draw("position_maps", table, filter={"model": "nano-sd"}, positions=["mid_block"])
    assert [p.get("block") for p in marks(one, "image")[0][1]] == [None, "mid", "mid", "mid"]
    assert "1 position of 1 image and 1 model" in one["description"]


def test_mistakes_are_sentences():
    table = tables.predicted_places()
    with pytest.raises(UserError, match="true place, classification, regression"):
        Options(panels=["colour"])
    with pytest.raises(UserError, match="at least 2"):
        Options(columns=1)
    with pytest.raises(UserError, match="predicted_row"):
        draw("position_maps", table.drop("predicted_row"))
    with pytest.raises(UserError, match="No row is left for kind"):
        draw("position_maps", table.filter(kind="score"))
    twice = pl.concat([table, table.with_columns(timestep=pl.lit(200, pl.Int64))])
    with pytest.raises(UserError, match="differ in timestep"):
        draw("position_maps", twice)
    only = table.filter(pl.col("estimator").is_null() | (pl.col("estimator") == "regression"))
    with pytest.raises(UserError, match="estimator = 'classification'"):
        draw("position_maps", only)
