"""`make bench`, measuring next to nothing: no speed is asserted, only that all of it works."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import polars as pl
import pytest
from reprscope.runtime.errors import UserError

from benchmarks import matching, result, run, storage, tables

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/speed.md", "docs/storage.md")


def bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.run", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": "workflow_scripts"},
    )


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A folder with the pages of the project, after a reduced run."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "docs").mkdir()
    for page in PAGES:
        shutil.copy2(ROOT / page, folder / page)
    done = bench("--reduced", "--output", folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def results(measured):
    return json.loads((measured / run.RESULTS).read_text())


def records(results, name) -> pl.DataFrame:
    return pl.DataFrame(results["measurements"][name]["records"], infer_schema_length=None)


def test_every_measurement_gives_its_times_and_ratios(results):
    assert list(results["measurements"]) == list(run.MEASUREMENTS)
    for name, one in results["measurements"].items():
        assert one["settings"], name
        assert one["ratios"], name
        assert all(ratio["value"] > 0 for ratio in one["ratios"]), name
        times = [
            value
            for row in one["records"]
            for key, value in row.items()
            if key == "seconds" or key.endswith(("_seconds", "_mb"))
        ]
        assert times, name
        assert all(np.min(value) > 0 for value in times), name


def test_bare_and_extraction_are_timed_equally_often(results):
    rows = records(results, "engine")
    assert set(rows["what"]) == {"bare", "extraction"}
    assert rows["seconds"].list.len().unique().to_list() == [2]


def test_both_sides_extract_both_sets_of_positions(results):
    rows = records(results, "peer").filter(pl.col("precision") == "float32")
    sides = rows.select("who", "positions").unique().sort("who", "positions").rows()
    assert sides == [(w, p) for w in ("reprscope", "sdhelper") for p in ("all blocks", "mid_block")]
    per = rows.filter(pl.col("who") == "reprscope")
    assert per["timesteps"].unique().to_list() == [3]
    each = (per["seconds"] / per["images"] / 3 - per["seconds_per_image_and_timestep"]).abs()
    assert each.max() < 1e-9


def test_every_block_is_a_place_to_stop(results):
    rows = records(results, "early_exit")
    assert rows["position"][0] == "whole"
    assert rows["position"][[1, 5, 6, -1]].to_list() == [
        "conv_in",
        "down_blocks.3",
        "mid_block",
        "conv_out",
    ]
    assert rows["share"][0] == 1


def test_memory_is_of_a_process_of_its_own(results):
    rows = records(results, "memory")
    assert rows["images"].to_list() == [4, 12]
    assert (rows["peak_mb"] >= rows["started_mb"]).all()
    # Twelve images are three times as many bytes as four.
    assert rows["stored_mb"][1] / rows["stored_mb"][0] == pytest.approx(3, rel=0.1)


def test_every_layout_is_measured_and_float32_is_twice_as_large(results):
    rows = records(results, "storage")
    assert len(rows) == 1 + len(storage.LAYOUTS)
    size = {tables._layout(row): row["mb_per_image"] for row in rows.iter_rows(named=True)}
    plain = "chunk of an image, {}, not compressed"
    assert size[plain.format("float32")] / size[plain.format("float16")] == pytest.approx(
        2, rel=0.1
    )
    assert size["reprscope's store"] == pytest.approx(size[plain.format("float16")], rel=0.1)


@pytest.mark.parametrize("layout", storage.LAYOUTS, ids=str)
def test_a_layout_is_what_it_says_and_loses_nothing(layout, tmp_path):
    rng = np.random.default_rng(0)
    features = {"mid_block": rng.integers(-9, 9, (3, 4, 5, 6)).astype(np.float32)}
    runs = storage._through_h5py(tmp_path / "x.h5", features, layout)
    for call in runs.values():
        call()
    with h5py.File(tmp_path / "x.h5") as file:
        table = file["mid_block"]
        assert np.array_equal(table[:], features["mid_block"].reshape(-1, 6))
        assert table.dtype == layout.dtype
        assert table.fletcher32 == layout.checksum
        assert table.shuffle == layout.shuffle
        kind, _, level = layout.compression.partition(" ")
        assert (table.compression or "") == kind
        assert table.compression_opts == (int(level) if level else None)
        rows = {"image": 20, "contiguous": None}.get(layout.chunk, layout.chunk)
        assert (table.chunks or (None,))[0] == (rows and min(rows, 60))


def test_the_loop_over_pairs_is_compared_keypoint_by_keypoint(results):
    rows = records(results, "matching").filter(pl.col("what") == "loop")
    assert len(rows) == 2
    assert (rows["points"] >= rows["pairs"]).all()


def predictions() -> tuple[pl.DataFrame, pl.DataFrame]:
    keys = {"position": ["mid_block"] * 2, "pair_id": ["a", "b"], "keypoint": ["nose"] * 2}
    task = pl.DataFrame(
        keys
        | {
            "estimator": ["cosine"] * 2,
            "predicted_x": [4.0, 8.0],
            "predicted_y": [4.0, 4.0],
            "similarity": [0.5, 0.9],
        }
    )
    loop = pl.DataFrame(
        keys | {"x": [4.0, 8.0], "y": [4.0, 4.0], "cosine": [0.5, 0.9], "second": [0.4, 0.9]}
    )
    return task, loop


def test_a_prediction_that_differs_stops_the_benchmark():
    task, loop = predictions()
    assert matching.compare(task, loop) == (2, 0)
    other = [pl.Series("predicted_x", x) for x in ([4.0, 4.0], [8.0, 8.0])]
    assert matching.compare(task.with_columns(other[0]), loop) == (2, 1)  # equally similar
    with pytest.raises(RuntimeError, match="1 of 2 predictions differ"):
        matching.compare(task.with_columns(other[1]), loop)
    with pytest.raises(RuntimeError, match="1 of 2 predictions differ"):
        matching.compare(task, loop.with_columns(pl.Series("cosine", [0.5, 0.91])))
    with pytest.raises(RuntimeError, match="1 keypoints of the loop have no prediction"):
        matching.compare(task.head(1), loop)


def test_runs_take_turns_and_every_other_round_goes_backwards():
    order: list[str] = []
    runs = {name: lambda name=name: order.append(name) for name in "abc"}
    taken = result.interleaved(runs, 3)
    assert "".join(order) == "abccbaabc"
    assert {name: len(values) for name, values in taken.items()} == {"a": 3, "b": 3, "c": 3}


def test_the_pages_and_the_figure_are_made(measured, results):
    for page in PAGES:
        text = (measured / page).read_text()
        assert text == tables.fill((ROOT / page).read_text(), results)
    assert "| up[1] |" in (measured / "docs/speed.md").read_text()
    assert (measured / run.FIGURE).read_text() == run.drawn(results)


def test_the_pages_of_the_project_agree_with_its_results():
    published = json.loads((ROOT / run.RESULTS).read_text())
    for page in PAGES:
        text = (ROOT / page).read_text()
        assert text == tables.fill(text, published), f"{page}: run `make bench`"
    figure = ROOT / run.FIGURE
    assert figure.exists() == run.drawable(published)
    if figure.exists():
        assert figure.read_text() == run.drawn(published)


def test_one_part_is_repeated_and_the_others_are_kept(measured, results):
    done = bench("--reduced", "--output", measured, "--only", "early_exit")
    assert done.returncode == 0, done.stderr
    again = json.loads((measured / run.RESULTS).read_text())["measurements"]
    before = results["measurements"]
    assert again.pop("early_exit") != before["early_exit"]
    assert again == {name: one for name, one in before.items() if name != "early_exit"}


def test_results_of_another_machine_are_not_mixed_in(results, tmp_path):
    path = tmp_path / "results.json"
    other = results | {"machine": {"processor": "another"}}
    path.write_text(json.dumps(other))
    with pytest.raises(UserError, match="run all measurements"):
        run.start(path, ["memory"])
    anew = run.start(path, run.MEASUREMENTS)
    assert anew["measurements"] == {}
    assert anew["machine"]["processor"] == results["machine"]["processor"]
    assert run.start(path, []) == other  # to write the pages anew


def test_a_reduced_run_does_not_become_the_result():
    done = bench("--reduced")
    assert done.returncode == 1
    assert done.stderr.strip().endswith("name another folder with --output.")


def test_a_page_that_asks_for_an_unknown_section_is_refused(results):
    with pytest.raises(UserError, match="no section seconds"):
        tables.fill("<!-- bench: seconds -->\n<!-- end -->", results)
