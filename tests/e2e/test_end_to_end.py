"""What a user finds after a run of the reduced default study."""

import json

import h5py
import polars as pl
import pytest
from reprscope.representations.store import Representations
from support.browser import executable, open_page

needs_browser = pytest.mark.skipif(executable() is None, reason="no Chromium on this machine")


def table(project, name: str) -> pl.DataFrame:
    return pl.read_parquet(project.folder / "results" / "tables" / f"{name}.parquet")


def test_nothing_is_to_be_done_after_a_run(project):
    assert project.planned() == {}
    assert "Nothing to be done" in project.run()


@needs_browser
def test_the_report_opens_offline_and_shows_every_figure(finished):
    visit = open_page(finished.folder / "results" / "report" / "index.html")
    assert visit.errors == []
    assert visit.requests == []
    assert visit.charts == 4


@needs_browser
def test_every_figure_opens_offline(finished):
    pages = sorted((finished.folder / "results" / "figures").rglob("*.html"))
    assert len(pages) == 4
    for path in pages:
        visit = open_page(path)
        assert (visit.errors, visit.requests, visit.charts) == ([], [], 1), path.name


def test_the_report_says_what_the_tables_say(finished):
    text = (finished.folder / "results" / "report" / "index.html").read_text()
    found = table(finished, "classification")
    # Too few validation images choose nothing: the highest on the test images is described.
    highest = found.filter(pl.col("model") == "nano-sd", pl.col("split") == "test")[
        "accuracy"
    ].max()
    assert f"{100 * highest:.1f} %" in text


def test_the_sizes_are_those_of_the_stored_representations(finished):
    """And the report prints them; an untrained twin has those of its original."""
    sizes = pl.read_parquet(finished.folder / "results" / "shapes.parquet")
    assert sizes["model"].unique().to_list() == ["nano-sd"]
    rows = {row["position"]: row for row in sizes.iter_rows(named=True)}
    path = (
        "results/representations/creatures/identity/nano-sd/64px_empty_t50_seed0_standard/blocks/"
        "0of1.h5"
    )
    with Representations([finished.folder / path]) as stored:
        assert stored.positions
        for position in stored.positions:
            tokens = stored.tokens(position, stored.image_ids[0])
            row = rows[position]
            assert (row["height"], row["width"], row["channels"]) == tokens.shape
    text = (finished.folder / "results/report/index.html").read_text()
    section = text[text.index('<section id="sizes-of-representations"') :]
    assert section.index("<td>conv-in</td>") < section.index("<td>mid</td>")
    assert "attn[" not in section[: section.index("</section>")]


def test_accuracy_in_the_table_is_the_share_of_right_predictions(finished):
    """The table against a recount of the stored predictions."""
    found = table(finished, "classification").filter(pl.col("split") == "test")
    assert found["model"].unique(maintain_order=True).to_list() == ["nano-sd", "nano-sd-untrained"]
    for row in found.iter_rows(named=True):
        folder = finished.folder / "results/measurements/probe/creatures/identity" / row["model"]
        predictions = pl.read_parquet(folder / "64px_empty_t50_seed0_standard/means.parquet")
        of_row = predictions.filter(
            (pl.col("split") == "test") & (pl.col("position") == row["position"])
        )
        right = sum(a == b for a, b in zip(of_row["label"], of_row["prediction"], strict=True))
        assert row["accuracy"] == pytest.approx(right / len(of_row))
        assert row["images"] == len(of_row) == 24


def test_pck_in_the_table_is_a_recount_of_the_stored_predictions(finished):
    found = table(finished, "correspondence").filter(
        (pl.col("split") == "test")
        & (pl.col("estimator") == "cosine")
        & (pl.col("average") == "point")
        & (pl.col("alpha") == 0.1)
    )
    assert found["timestep"].unique().sort().to_list() == [50, 200]
    for row in found.iter_rows(named=True):
        path = (
            "results/measurements/matching/creatures/identity/nano-sd/"
            f"64px_empty_t{row['timestep']}_seed0_standard/blocks.parquet"
        )
        right = total = 0
        for point in pl.read_parquet(finished.folder / path).iter_rows(named=True):
            if point["position"] == row["position"] and point["split"] == "test":
                box = max(point["box_x1"] - point["box_x0"], point["box_y1"] - point["box_y0"])
                distance = (
                    (point["predicted_x"] - point["target_x"]) ** 2
                    + (point["predicted_y"] - point["target_y"]) ** 2
                ) ** 0.5
                total += 1
                right += distance <= 0.1 * box
        assert row["points"] == total
        assert row["pck"] == pytest.approx(right / total)


def test_every_file_of_features_says_what_it_was_made_from(finished):
    paths = sorted((finished.folder / "results" / "representations").rglob("*.h5"))
    assert len(paths) == 4
    for path in paths:
        with h5py.File(path) as file:
            spec = json.loads(file.attrs["spec"])
            origin = json.loads(file.attrs["provenance"])
        assert origin["timestep"] == int(path.parts[-3].split("_t")[1].split("_")[0])
        assert spec["protocol"] == {
            "pixels": "symmetric",
            "posterior": "mode",
            "noise": "per_image",
            "rescaling": False,
            "added_conditioning": True,
        }
        assert origin["precision"] == "float32"
        assert origin["positions"] == ["mid_block", *(f"up_blocks.{i}" for i in range(4))]
        assert {"torch", "diffusers", "h5py"} <= set(origin["versions"])
        manifest = finished.folder / "results/models" / path.parts[-4] / "manifest.json"
        assert origin["revision"] == json.loads(manifest.read_text())["revision"]


def test_images_load_with_the_datasets_library(finished, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    path = finished.folder / "results/datasets/creatures/images.parquet"
    loaded = datasets.load_dataset("parquet", data_files=str(path), cache_dir=str(tmp_path))[
        "train"
    ]
    ours = pl.read_parquet(path)
    assert loaded["image_id"] == ours["image_id"].to_list()
    assert loaded[0]["image"] == ours["image"][0]


def test_no_temporary_file_is_left(finished):
    left = [path for path in (finished.folder / "results").rglob("*") if ".part-" in path.name]
    assert left == []


def test_every_job_has_a_log_and_a_benchmark(finished):
    results = finished.folder / "results"
    logs = {
        p.relative_to(results / "logs").with_suffix("") for p in (results / "logs").rglob("*.log")
    }
    timed = results / "benchmarks"
    benchmarks = {p.relative_to(timed).with_suffix("") for p in timed.rglob("*.tsv")}
    assert logs == benchmarks
    assert len(benchmarks) == 26
