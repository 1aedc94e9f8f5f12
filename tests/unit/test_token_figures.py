import itertools
import re
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest
from reprscope.figures import render
from reprscope.figures.kinds import norm_maps
from reprscope.figures.theme import SCHEMES
from reprscope.models.labels import block_label
from reprscope.runtime.errors import UserError
from support import tables
from support.charts import draw, hover, image_at, marks

STOPS = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in SCHEMES["viridis"]], float)


def colour(fraction: float) -> np.ndarray:
    return np.array([np.interp(fraction * 10, range(11), STOPS[:, i]) for i in range(3)])


def pixel_of(picture: dict, row: int, col: int, shape: tuple[int, int]) -> np.ndarray:
    pixels = image_at(picture).astype(float)
    y = int((row + 0.5) * pixels.shape[0] / shape[0])
    return pixels[y, int((col + 0.5) * pixels.shape[1] / shape[1])]


# norm_maps


@pytest.mark.parametrize(("show", "kind"), [("images", "map"), ("mean", "mean")])
def test_norm_maps_are_the_tables_values_in_rows_and_columns(show, kind):
    table = tables.norms()
    spec = draw("norm_maps", table, show=show)
    rows = hover(spec)
    assert len(rows) == 2 * 3 * 2
    for row in rows:
        tokens = table.filter(
            pl.col("kind") == kind,
            pl.col("model") == row["model"],
            pl.col("timestep") == int(row["timestep"].removeprefix("t = ")),
            pl.col("position").map_elements(block_label, pl.String) == row["block"],
        )
        assert len(tokens) == len(row["norm"])
        for token in tokens.iter_rows(named=True):
            value = row["norm"][token["row"] * row["columns"] + token["col"]]
            assert value == pytest.approx(token["norm"], abs=1e-4)
    # Models in the table's order, blocks in the network's, timesteps side by side.
    placed = sorted(rows, key=lambda row: (row["y"], row["x"]))
    assert [(r["model"], r["block"], r["timestep"]) for r in placed] == list(
        itertools.product(tables.MODELS, ["conv-in", "mid", "up[1]"], ["t = 0", "t = 50"])
    )
    pictures = [p for p in marks(spec, "image")[0][1] if set(p) == {*"xywh", "url", "image_id"}]
    assert len(pictures) == (6 if kind == "map" else 0)
    if pictures:
        assert pictures[0]["h"] / pictures[0]["w"] == pytest.approx(16 / 20)


@pytest.mark.parametrize("shared", [True, False])
def test_norm_maps_are_coloured_by_row_or_each_for_itself(shared):
    table = tables.norms(models=["nano-sd"])
    spec = draw("norm_maps", table, positions=["mid_block"], shared=shared)
    maps = [p for p in marks(spec, "image")[0][1] if "block" in p and p["w"] > norm_maps.BAR]
    assert len(maps) == 2
    tokens = table.filter(kind="map", position="mid_block")
    for picture in maps:
        mine = tokens.filter(timestep=int(picture["timestep"].removeprefix("t = ")))
        scale = (tokens if shared else mine)["norm"]
        shape = mine["row"].max() + 1, mine["col"].max() + 1
        for token in mine.iter_rows(named=True):
            expected = colour((token["norm"] - scale.min()) / (scale.max() - scale.min()))
            found = pixel_of(picture, token["row"], token["col"], shape)
            assert np.abs(found - expected).max() < 2.5
    texts = [row["text"] for _, rows in marks(spec, "text") for row in rows]
    low, high = tokens["norm"].min(), tokens["norm"].max()
    assert (f"{high:.3g}" in texts) == (f"{low:.3g}" in texts) == shared
    assert sum(" to " in text for text in texts) == (0 if shared else 2)


def test_norm_maps_by_block_and_model():
    table = tables.norms(steps=(50,))
    spec = draw("norm_maps", table, show="mean", rows=["position"], column="model", shared=False)
    texts = [row["text"] for _, rows in marks(spec, "text") for row in rows]
    assert {"conv-in", "mid", "up[1]", *tables.MODELS} <= set(texts)
    assert "mean over 40 images" in spec["description"]
    across = draw("norm_maps", table, rows=["model"], column="position")
    assert len({row["x"] for row in hover(across)}) == 3
    # Rows without one of the columns leave its place empty.
    less = table.filter((pl.col("model") != "nano-sd") | (pl.col("position") != "mid_block"))
    assert len(hover(draw("norm_maps", less, rows=["model"], column="position"))) == 5


def test_unusable_norm_maps_are_errors():
    with pytest.raises(UserError, match="timestep is one of the rows"):
        norm_maps.Options(rows=("timestep",))
    with pytest.raises(UserError, match="one condition"):
        draw("norm_maps", rows=["position"])
    with pytest.raises(UserError, match="other_block"):
        draw("norm_maps", positions=["other_block"])


# histograms


def test_histograms_are_pictures_of_the_tables_cells_in_their_place():
    table = tables.histograms()
    spec = draw("histograms", table)
    pictures = [(part, rows[0]) for part, rows in marks(spec, "image")]
    assert [(row["block"], row["timestep"]) for _, row in pictures] == list(
        itertools.product(["conv-in", "mid", "up[1]"], ["t = 0", "t = 50"])
    )
    low, high = np.log(table["share"].min()), np.log(table["share"].max())
    for part, row in pictures:
        step = int(row["timestep"].removeprefix("t = "))
        of_row = table.filter(
            pl.col("position").map_elements(block_label, pl.String) == row["block"]
        )
        cells = of_row.filter(timestep=step)
        assert row["x"] == cells["similarity"].min()
        assert row["y"] == cells["norm_end"].max()
        domain = part["encoding"]["y"]["scale"]["domain"]
        assert domain == [of_row["norm"].min(), of_row["norm_end"].max()]
        shown = cells["norm_end"].max() - cells["norm"].min()
        assert part["mark"]["height"] == pytest.approx(shown / (domain[1] - domain[0]) * 88)
        size = cells["norm_end"][0] - cells["norm"][0]
        shape = round(shown / size), 10
        drawn = np.full((*shape, 3), 255.0)
        for cell in cells.iter_rows(named=True):
            # Rows go down and norms up.
            place = round((row["y"] - cell["norm_end"]) / size), round((cell["similarity"] + 1) * 5)
            drawn[place] = colour(1 - (np.log(cell["share"]) - low) / (high - low))
        for place in np.ndindex(shape):
            assert np.abs(pixel_of(row, *place, shape) - drawn[place]).max() < 2.5


def test_a_narrower_axis_leaves_out_what_lies_beyond_it():
    table = tables.histograms()
    spec = draw("histograms", table, x_domain=[-0.4, 0.6])
    for part, (row,) in marks(spec, "image"):
        cells = table.filter(
            pl.col("position").map_elements(block_label, pl.String) == row["block"],
            timestep=int(row["timestep"].removeprefix("t = ")),
        ).filter((pl.col("similarity") > -0.5) & (pl.col("similarity") < 0.5))
        assert part["encoding"]["x"]["scale"]["domain"] == [-0.4, 0.6]
        assert row["x"] == cells["similarity"].min()
        drawn = (image_at(row) < 250).any(axis=2)
        columns = round((cells["similarity_end"].max() - row["x"]) / 0.2)
        across = drawn.shape[1] // columns
        rows = round((row["y"] - cells["norm"].min()) / (cells["norm_end"] - cells["norm"])[0])
        down = drawn.shape[0] // rows
        # As many cells have a colour as there are in the table between the ends.
        assert drawn[down // 2 :: down, across // 2 :: across].sum() == len(cells)
    # A panel whose cells all lie beyond is as empty as one without cells.
    assert len(marks(draw("histograms", table, x_domain=[1.5, 2]), "image")) == 0


def test_the_diagonal_ends_where_either_axis_does():
    table = tables.histograms().filter(position="mid_block", timestep=0)
    square = table.with_columns(norm=pl.col("similarity") + 0.4, norm_end="similarity_end")
    square = square.with_columns(norm_end=pl.col("norm") + 0.2)
    spec = draw("histograms", square.unique(["similarity", "norm"]), diagonal=True)
    ((_, ends),) = marks(spec, "line")
    assert [end["x"] for end in ends] == [end["y"] for end in ends]
    assert ends[0]["x"] == pytest.approx(max(square["similarity"].min(), square["norm"].min()))
    assert ends[1]["x"] == pytest.approx(
        min(square["similarity_end"].max(), square["norm_end"].max())
    )


@pytest.mark.parametrize(
    ("kind", "headings"),
    [("histograms", ["t = 0", "t = 50"]), ("lines_by_threshold", tables.MODELS)],
)
def test_headings_of_panels_stand_on_one_line(kind, headings):
    svg = render.svg(draw(kind))
    heights = {}
    for text in headings:
        # Where a text stands is the sum of the moves of the groups around it.
        (element,) = [e for e in walk(ElementTree.fromstring(svg)) if e[0].text == text]
        heights[text] = element[1]
    assert len(set(heights.values())) == 1, heights


def walk(element, above=0.0):
    """All elements with text, and their vertical place."""
    moved = re.match(r"translate\([-\d.]+,([-\d.]+)\)", element.get("transform", ""))
    here = above + float(moved[1] if moved else 0)
    if element.text and element.text.strip():
        yield element, here
    for child in element:
        yield from walk(child, here)


def test_only_outer_panels_have_axes():
    spec = draw("histograms", diagonal=True)
    for number, line in enumerate(spec["vconcat"]):
        for place, panel in enumerate(line["hconcat"]):
            encoding = next(
                layer["encoding"] for layer in panel["layer"] if layer["mark"]["type"] == "image"
            )
            assert (encoding["y"]["axis"] is not None) == (place == 0)
            assert ("title" in encoding["x"]["axis"]) and (
                encoding["x"]["axis"]["title"] is not None
            ) == (number == 2)
    assert len(marks(spec, "line")) == 6


def test_two_conditions_in_one_panel_are_an_error():
    twice = tables.histograms()
    twice = pl.concat([twice, twice.with_columns(seed=pl.lit(1, pl.Int64))])
    with pytest.raises(UserError, match="differ in seed"):
        draw("histograms", twice)
    draw("histograms", twice, filter={"seed": 1})


# at_a_glance


def test_a_glance_shows_both_similarities_and_the_norm_of_every_block():
    table = tables.glance()
    chosen = ["down_blocks.1", "up_blocks.1"]
    spec = draw("at_a_glance", table, positions=chosen)
    rows = sorted(hover(spec), key=lambda row: (row["y"], row["x"]))
    assert [(row["block"], row.get("task")) for row in rows] == [
        (block_label(position), task) for position in chosen for task in ("corner", "middle", None)
    ]
    for row in rows:
        metric = "norm" if "norm" in row else "similarity"
        position = chosen[[block_label(p) for p in chosen].index(row["block"])]
        mine = table.filter(kind="map", position=position, task=row.get("task", "corner"))
        for token in mine.iter_rows(named=True):
            value = row[metric][token["row"] * row["columns"] + token["col"]]
            assert value == pytest.approx(token[metric], abs=1e-4)


def test_a_glance_has_one_scale_of_similarities_and_one_of_each_norm():
    table = tables.glance()
    spec = draw("at_a_glance", table, positions=["mid_block", "up_blocks.1"])
    maps = table.filter(pl.col("kind") == "map")
    maps = maps.filter(pl.col("position").is_in(["mid_block", "up_blocks.1"]))
    low = np.floor(maps["similarity"].min() * 10) / 10
    texts = [row["text"] for _, rows in marks(spec, "text") for row in rows if "text" in row]
    pictures = [p for p in marks(spec, "image")[0][1] if "block" in p]
    assert len(pictures) == 2 * 3
    for picture in pictures:
        metric = "similarity" if "task" in picture else "norm"
        tokens = maps.filter(
            pl.col("position").map_elements(block_label, pl.String) == picture["block"],
            pl.col("task") == picture.get("task", "corner"),
        )
        ends = (low, 1.0)
        if metric == "norm":
            ends = tokens["norm"].min(), tokens["norm"].max()
            assert f"{ends[0]:.3g} to {ends[1]:.3g}" in texts
        shape = tokens["row"].max() + 1, tokens["col"].max() + 1
        for token in tokens.iter_rows(named=True):
            expected = colour((token[metric] - ends[0]) / (ends[1] - ends[0]))
            found = pixel_of(picture, token["row"], token["col"], shape)
            assert np.abs(found - expected).max() < 2.5


def test_a_glance_marks_both_tokens_with_letters():
    spec = draw("at_a_glance", positions=["mid_block"])
    picture = next(p for p in marks(spec, "image")[0][1] if "block" not in p)
    rings = marks(spec, "point")[0][1]
    assert [ring["letter"] for ring in rings] == ["A", "B"]
    # The ring of the corner token is moved in, so that none of it is cut off.
    assert 0 < rings[0]["x"] < 12
    assert rings[1]["x"] == pytest.approx(picture["w"] / 2)
    assert rings[1]["y"] == pytest.approx(picture["y"] + picture["h"] / 2)
    texts = [row["text"] for _, rows in marks(spec, "text") for row in rows if "text" in row]
    assert {"similarity to A", "similarity to B", "norm", "mid", "image"} <= set(texts)


def test_a_glance_needs_one_condition():
    twice = tables.glance()
    twice = pl.concat([twice, twice.with_columns(timestep=pl.lit(0, pl.Int64))])
    with pytest.raises(UserError, match="differ in timestep"):
        draw("at_a_glance", twice)
    with pytest.raises(UserError, match="no_block"):
        draw("at_a_glance", positions=["no_block"])


# similarity_maps of other measures, and across images


def measured(measure: str, low: float, high: float) -> pl.DataFrame:
    table = tables.similarity(models=["nano-sd"])
    span = table["similarity"].max() - table["similarity"].min()
    scaled = (pl.col("similarity") - pl.col("similarity").min()) / span * (high - low) + low
    return table.with_columns(similarity=scaled, measure=pl.lit(measure))


@pytest.mark.parametrize(
    ("measure", "ends", "domain"),
    [
        ("cosine", (-0.35, 0.9), (-0.4, 1)),
        ("centred_cosine", (-0.35, 0.9), (-0.4, 1)),
        ("l2", (0, 70), (70, 0)),
        ("dot", (-20, 90), (-20, 90)),
        ("relative_norm", (-0.5, 3), (-0.5, 3)),
    ],
)
def test_the_most_similar_token_is_bright_in_every_measure(measure, ends, domain):
    table = measured(measure, *ends)
    spec = draw("similarity_maps", table)
    for picture in [p for p in marks(spec, "image")[0][1] if "block" in p][:3]:
        tokens = table.filter(
            (pl.col("kind") == "map") & (pl.col("image_id") == picture["image_id"]),
            pl.col("position").map_elements(block_label, pl.String) == picture["block"],
        )
        shape = tokens["row"].max() + 1, tokens["col"].max() + 1
        for token in tokens.iter_rows(named=True):
            fraction = (token["similarity"] - domain[0]) / (domain[1] - domain[0])
            found = pixel_of(picture, token["row"], token["col"], shape)
            assert np.abs(found - colour(fraction)).max() < 2.5
    legend = next(
        part["encoding"]["color"]
        for part, _ in marks(spec, "point")
        if "color" in part.get("encoding", {})
    )
    assert legend["legend"]["title"] == (similarity_title(measure) + " to the marked token")
    ends_of_scale = legend["scale"]["domain"][0], legend["scale"]["domain"][-1]
    assert ends_of_scale == pytest.approx((min(domain), max(domain)))
    bright = legend["scale"]["range"][0 if domain[0] > domain[1] else -1]
    assert bright == SCHEMES["viridis"][-1]


def similarity_title(measure: str) -> str:
    from reprscope.figures.kinds.similarity_maps import MEASURES

    return MEASURES[measure]


def test_several_measures_have_no_common_scale():
    both = pl.concat(
        [measured("l2", 0, 9), measured("cosine", 0, 1).with_columns(timestep=pl.lit(0, pl.Int64))]
    )
    with pytest.raises(UserError, match="l2 and cosine"):
        draw(
            "similarity_maps",
            both.filter(pl.col("kind") == "map").vstack(both.filter(kind="image", timestep=50)),
        )


def test_only_the_image_of_the_reference_token_has_a_ring():
    table = tables.similarity(models=["nano-sd"], images=2)
    first = table["image_id"][0]
    across = table.with_columns(reference_image=pl.lit(first), reference_x=0.0, reference_y=0.0)
    spec = draw("similarity_maps", across)
    pictures = [p for p in marks(spec, "image")[0][1] if "block" not in p]
    ((ring,),) = [rows for part, rows in marks(spec, "point")][:1]
    assert len(pictures) == 2
    # In the corner of the first, but whole.
    for at, side in (("x", "w"), ("y", "h")):
        assert pictures[0][at] < ring[at] < pictures[0][at] + 0.2 * pictures[0][side]
    assert "ringed in the first image" in spec["description"]
    own = table.with_columns(reference_image=pl.col("image_id"))
    assert len(marks(draw("similarity_maps", own), "point")[0][1]) == 2


def test_names_of_values():
    assert norm_maps.name("position", "up_blocks.1.attentions.0") == "up[1] attn[0]"
    assert norm_maps.name("position", "transformer_blocks.7") == "block[7]"
    assert norm_maps.name("resolution", 512) == "512 px"
    assert norm_maps.name("seed", 3) == "seed 3"
    assert norm_maps.name("sample", "random") == "random"
