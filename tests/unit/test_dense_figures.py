"""The figures of dense correspondence draw the numbers of their tables."""

import base64
import io

import altair as alt
import numpy as np
import polars as pl
import pytest
from PIL import Image
from reprscope.data.canonical import encode_png
from reprscope.figures import render
from reprscope.figures.kinds import degradation_lines, transfer_maps
from reprscope.figures.theme import Theme
from reprscope.runtime.errors import UserError

# --- lines ---------------------------------------------------------------------------------------

ACCURACY = {
    "identity": (1.0, 0.8),
    "blur-1": (0.9, 0.6),
    "blur-2": (0.8, 0.4),
    "blur-10": (0.5, 0.2),
    "far": (0.5, 0.4),
    "far-bgr-1": (0.25, 0.3),
}


def accuracies(**columns) -> pl.DataFrame:
    rows = [
        {"model": "m", "view": view, "position": position, "kind": "score", "images": 7}
        | {"accuracy": value, "low": value - 0.1, "high": value + 0.1}
        | columns
        for view, values in ACCURACY.items()
        for position, value in zip(["up_blocks.3", "mid_block"], values, strict=True)
    ]
    return pl.DataFrame(rows)


def specification(module, table, **settings) -> dict:
    options = module.Options(**settings)
    chart = module.draw(table, options, Theme())
    return render.specification(chart, caption=module.caption(table, options), provenance="p")


def drawn(spec: dict, panel: str, mark: str) -> list[dict]:
    """Data of the marks of one kind in a named panel."""
    found = []

    def walk(part, inside, data):
        data = part.get("data", data)
        inside = inside or part.get("name") == panel
        for key in ("layer", "hconcat", "vconcat"):
            for child in part.get(key, []):
                walk(child, inside, data)
        if inside and isinstance(part.get("mark"), dict) and part["mark"]["type"] == mark:
            found.extend(spec["datasets"][data["name"]])

    walk(spec, False, None)
    return found


def test_lines_are_the_values_over_the_steps_in_their_order():
    spec = specification(degradation_lines, accuracies(), degradations=["blur"])
    for column, expected in (("accuracy", [1, 0.9, 0.8, 0.5]), ("change", [0, -0.1, -0.2, -0.5])):
        rows = drawn(spec, f"{column}_0", "line")
        of = [row for row in rows if row["block"] == "up[3]"]
        # Steps by number, not by name: blur-10 is the last.
        assert [row["step"] for row in of] == [0, 0.1, 0.2, 1]
        np.testing.assert_allclose([row[column] for row in of], expected, atol=1e-12)
        assert [row["block"] for row in rows][:1] == ["mid"]
    assert (
        "Lowest and highest change of these blocks at the last step: blur -75 % in mid and "
        in spec["description"]
    )


def test_each_degradation_has_a_panel_and_its_own_start():
    degradations = ["blur", "far-bgr"]
    spec = specification(
        degradation_lines, accuracies(), degradations=degradations, labels={"far-bgr": "far off"}
    )
    rows = [row for row in drawn(spec, "change_1", "line") if row["block"] == "up[3]"]
    assert [(row["view"], row["change"]) for row in rows] == [("far", 0), ("far-bgr-1", -0.5)]
    titles = [panel["title"]["text"] for panel in spec["vconcat"][0]["hconcat"]]
    assert titles == ["blur", "far off"]


def changes(spec: dict) -> dict[str, set[float | None]]:
    """Different changes that are drawn of each block."""
    found: dict[str, set[float | None]] = {}
    for row in drawn(spec, "change_0", "line"):
        found.setdefault(row["block"], set()).add(row["change"])
    return found


def test_a_block_that_is_not_above_chance_has_no_change():
    # Undegraded, mid has 0.8 with an interval from 0.7.
    for chance, lost in ((0.69, False), (0.71, True)):
        table = accuracies(chance=chance)
        spec = specification(degradation_lines, table, degradations=["blur"])
        assert (changes(spec)["mid"] == {None}) == lost
        assert len(changes(spec)["up[3]"]) == 4
        assert ("without mid, not above chance at step 0" in spec["description"]) == lost
        assert ("mid" in spec["description"].split("last step")[1]) == (not lost)


def test_chance_of_keypoints_is_the_estimator_of_the_same_place():
    table = accuracies().drop("kind").rename({"accuracy": "pck"})
    table = table.with_columns(estimator=pl.lit("cosine"), alpha=0.1, split=pl.lit("test"))
    blind = table.with_columns(
        estimator=pl.lit("same_place_in_square"),
        pck=pl.when(pl.col("position") == "mid_block").then(0.72).otherwise(0.1),
    )
    spec = specification(
        degradation_lines,
        pl.concat([blind, table]),
        metric="pck",
        degradations=["blur"],
    )
    assert changes(spec)["mid"] == {None}
    np.testing.assert_allclose(sorted(changes(spec)["up[3]"]), [-0.5, -0.2, -0.1, 0], atol=1e-12)
    rows = [row["pck"] for row in drawn(spec, "pck_0", "line") if row["block"] == "mid"]
    assert rows == [0.8, 0.6, 0.4, 0.2]
    assert "without mid, not above same place in square at step 0" in spec["description"]


def test_intervals_of_the_change_are_those_of_the_table():
    table = accuracies().with_columns(change_low=pl.lit(-0.9), change_high=pl.lit(0.1))
    spec = specification(degradation_lines, table, degradations=["blur"])
    bands = drawn(spec, "change_0", "area")
    first = [row for row in bands if row["step"] == 0]
    assert {(row["change_low"], row["change_high"]) for row in first} == {(0, 0)}
    later = [row for row in bands if row["step"] > 0]
    assert {(row["change_low"], row["change_high"]) for row in later} == {(-0.9, 0.1)}
    told = table.with_columns(change=pl.lit(-0.3))
    spec = specification(degradation_lines, told, degradations=["blur"])
    assert changes(spec)["up[3]"] == {0, -0.3}
    # They are of the accuracy, not of another metric.
    other = specification(
        degradation_lines, table.rename({"accuracy": "within_one"}), metric="within_one"
    )
    assert not drawn(other, "change_0", "area")


def test_published_values_are_open_circles_beside_the_values_alone():
    table = accuracies(published_accuracy_from="thesis, figure 16").with_columns(
        published_accuracy=pl.when(pl.col("view") == "blur-1").then(pl.col("accuracy") + 0.01)
    )
    spec = specification(degradation_lines, table, degradations=["blur"])
    assert "Open circles: published (thesis, figure 16)." in spec["description"]

    def circles(panel: str) -> list[dict]:
        found = [part for part in spec["vconcat"] for part in part["hconcat"]]
        (layers,) = (part["layer"] for part in found if part["name"] == panel)
        return [one for one in layers if one["mark"].get("filled") is False]

    (drawn_circles,) = circles("accuracy_0")
    assert drawn_circles["encoding"]["y"]["field"] == "published_accuracy"
    rows = drawn(spec, "accuracy_0", "point")
    values = {(r["block"], r["view"]): r["published_accuracy"] for r in rows}
    assert {key: value for key, value in values.items() if value is not None} == {
        ("mid", "blur-1"): 0.61,
        ("up[3]", "blur-1"): 0.91,
    }
    assert circles("change_0") == []


def test_degradations_and_where_they_start_are_found_by_their_names():
    spec = specification(degradation_lines, accuracies())
    titles = [panel["title"]["text"] for panel in spec["vconcat"][0]["hconcat"]]
    assert titles == ["blur", "far-bgr"]
    assert [row["view"] for row in drawn(spec, "change_1", "line")][:2] == ["far", "far-bgr-1"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"degradations": ["noise"]}, "no view noise-1"),
        ({"filter": {"view": ["far", "blur-1"]}}, "no view identity"),
        ({"filter": {"view": "identity"}}, "no view whose name ends in a step"),
    ],
)
def test_views_that_are_missing_are_named(settings, words):
    with pytest.raises(UserError, match=words):
        specification(degradation_lines, accuracies(), **settings)


# --- maps ----------------------------------------------------------------------------------------


def test_the_colour_wheel_by_hand():
    # Centre, right, below, left, above and the upper left corner.
    x = np.array([[0.5, 1.0, 0.5, 0.0, 0.5, 0.0, np.nan]])
    y = np.array([[0.5, 0.5, 1.0, 0.5, 0.0, 0.0, 0.5]])
    blue = round(255 * (1 - 0.5**0.5))
    low, half = round(255 * (0.5 - 0.5**1.5)), 128
    expected = [(half, 255, 255), (half, 255, blue), (255, half, blue), (half, 0, blue)]
    expected += [(0, half, blue), (low, low, 0), transfer_maps.UNKNOWN]
    assert np.abs(transfer_maps.wheel(x, y)[0].astype(int) - expected).max() <= 1


def source_of(rows: int, cols: int, tile: int) -> np.ndarray:
    """A picture whose pixels tell where they are."""
    y, x = np.indices((rows * tile, cols * tile))
    return np.stack([y, x, 0 * x], axis=-1).astype(np.uint8)


def test_tiles_are_copied_from_where_they_were_found():
    source = source_of(2, 3, 4)
    rows, cols = np.array([[0, 1], [1, 0], [0, 0]]), np.array([[2, 0], [1, 1], [0, 2]])
    for mirrored in (False, True):
        copied = transfer_maps.copy_tiles(
            source, rows, cols, shape=(2, 3), size=(12, 8), mirrored=mirrored
        )
        assert copied.shape == (12, 8, 3)
        for row, col in np.ndindex(3, 2):
            y, x = 4 * rows[row, col], 4 * cols[row, col]
            tile = source[y : y + 4, x : x + 4]
            found = copied[4 * row : 4 * row + 4, 4 * col : 4 * col + 4]
            assert (found == (tile[:, ::-1] if mirrored else tile)).all()


def test_what_finds_itself_is_copied_as_it_is():
    source = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    rows, cols = np.indices((6, 8))
    copied = transfer_maps.copy_tiles(source, rows, cols, shape=(6, 8), size=(48, 64))
    assert (copied == source).all()
    flipped = transfer_maps.copy_tiles(
        source, rows, cols[:, ::-1], shape=(6, 8), size=(48, 64), mirrored=True
    )
    assert (flipped == source[:, ::-1]).all()


def example(size=(64, 64), source=(64, 64), known=True, **columns) -> pl.DataFrame:
    """One target of 64 px tokens, with a map of two rows of four tokens at one block."""
    common = {"model": "m", "view": "v", "resolution": 64, "image_id": "a", "source_id": "a"}
    common |= columns
    picture = {"kind": "image", "position": "image", "mirrored": False}
    picture |= {"width": size[0], "height": size[1]}
    picture |= {"source_width": source[0], "source_height": source[1]}
    png = encode_png(source_of(2, 4, 16))
    rows = [common | picture | {"png": png, "source_png": png}]
    for row, col in np.ndindex(2, 4):
        token = {"kind": "map", "position": "mid_block", "row": row, "col": col}
        token |= {"source_row": 1 - row, "source_col": col, "source_rows": 2, "source_cols": 4}
        true = {"expected_x": (col + 0.5) / 4, "expected_y": (row + 0.5) / 2}
        true["percentile"] = (4 * row + col) / 8
        rows.append(common | token | {"similarity": 0.5} | (true if known else {}))
    table = pl.DataFrame(rows, infer_schema_length=None)
    lost = [c for c in ("expected_x", "expected_y", "percentile") if c not in table.columns]
    return table.with_columns(**{name: pl.lit(None, pl.Float64) for name in lost})


def images(spec: dict) -> list[dict]:
    return [row for rows in spec["datasets"].values() for row in rows if "url" in row]


def pixels(row: dict) -> np.ndarray:
    data = base64.b64decode(row["url"].split(",", 1)[1])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_errors_and_wheels_are_those_of_the_tokens():
    theme = Theme()
    spec = specification(transfer_maps, example(), panels=["wheel", "error"])
    maps = [row for row in images(spec) if row.get("block") == "mid"]
    wheel, error = (pixels(row)[:: -(-pixels(row).shape[0] // 2)] for row in maps)
    step = pixels(maps[1]).shape[1] // 4
    closer = np.arange(8).reshape(2, 4) / 8
    assert (error[:, ::step] == theme.map_colours(closer, 0, 1)).all()
    x, y = (np.arange(4) + 0.5) / 4, (np.array([1, 0]) + 0.5) / 2
    assert (wheel[:, ::step] == transfer_maps.wheel(*np.meshgrid(x, y))).all()
    # The target's own wheel is the true one.
    given = next(row for row in images(spec) if row["x"] == min(m["x"] for m in maps) - 144)
    true = transfer_maps.wheel(*np.meshgrid(x, y[::-1]))
    height, width = pixels(given).shape[:2]
    assert (pixels(given)[:: height // 2, :: width // 4] == true).all()


def test_pictures_are_drawn_on_one_scale():
    wide, small = example((128, 64)), example((64, 64), image_id="b", source_id="b")
    spec = specification(transfer_maps, pl.concat([wide, small]), panels=["wheel"])
    of = {(row["target"], row.get("block")): row for row in images(spec)}
    assert of["a", "mid"]["w"] == 2 * of["a", "mid"]["h"] == 2 * of["b", "mid"]["w"]
    assert of["b", "mid"]["w"] == of["b", "mid"]["h"]


def test_without_true_places_no_errors_are_drawn():
    table = example(known=False, source_id="b")
    spec = specification(transfer_maps, table)
    assert "closer" not in spec["description"]
    # Source and target picture, the source's wheel, and two maps.
    assert len(images(spec)) == 5
    with pytest.raises(UserError, match=r"nothing is known of image a: add `wheel`"):
        specification(transfer_maps, table, panels=["error"])


def test_places_that_the_source_does_not_show_are_grey():
    table = example().with_columns(
        percentile=pl.when(pl.col("col") > 0).then("percentile"),
        expected_x=pl.when(pl.col("col") > 0).then("expected_x"),
    )
    spec = specification(transfer_maps, table, panels=["error"])
    (error,) = (pixels(row) for row in images(spec) if row.get("block"))
    step = error.shape[1] // 4
    assert (error[:, :step] == transfer_maps.UNKNOWN).all()
    assert (error[:, step:] != transfer_maps.UNKNOWN).any(axis=-1).all()
    assert "Grey: what the source does not show." in spec["description"]


def test_headings_name_what_differs():
    tables = [example(), example(view="bgr-5"), example(source_id="b")]
    text = str(specification(transfer_maps, pl.concat(tables), max_examples=3, panels=["wheel"]))
    for heading in ("'v'", "'bgr-5'", "'v, from b'"):
        assert f"'text': {heading}" in text
    text = str(
        specification(
            transfer_maps,
            pl.concat(tables),
            max_examples=3,
            panels=["wheel"],
            labels={"bgr-5": "colours permuted", "b": "another"},
        )
    )
    for heading in ("'v'", "'colours permuted'", "'v, from another'"):
        assert f"'text': {heading}" in text


def test_photographs_are_framed_and_maps_are_not():
    spec = specification(transfer_maps, example())
    shown = [(row["x"], row["y"], row["w"], row["h"]) for row in images(spec)]
    framed = [
        (row["x"], row["y"], row["x2"] - row["x"], row["y2"] - row["y"])
        for rows in spec["datasets"].values()
        for row in rows
        if "x2" in row and "url" not in row
    ]
    top = min(y for _, y, _, _ in shown)
    # Source, target and the copied tiles of one block, all in the first line.
    assert sorted(framed) == sorted(place for place in shown if place[1] == top)
    assert len(framed) == 3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"panels": ["picture"]}, "panels is"),
        ({"panels": []}, "panels is"),
        ({"columns": 2}, "columns is 2"),
    ],
)
def test_unusable_options_are_named(settings, words):
    with pytest.raises(UserError, match=words):
        transfer_maps.Options(**settings)


def test_a_table_without_maps_is_named():
    table = example().filter(pl.col("kind") == "map")
    with pytest.raises(UserError, match="The table has no maps: set the task's `count`"):
        specification(transfer_maps, table)


def test_charts_are_whole():
    assert isinstance(
        transfer_maps.draw(example(), transfer_maps.Options(), Theme()), alt.LayerChart
    )
