import json

import numpy as np
import polars as pl
import summarise
from reprscope.runtime.frames import write_frame
from reprscope.tasks import norms
from support.fakes import FakeAnnotations, FakeRepresentations


def test_a_position_of_two_hook_sets_and_the_pictures_stand_once_in_the_table(tmp_path):
    rng = np.random.default_rng(0)
    grids = {p: {"a": rng.normal(size=(2, 2, 3))} for p in ("conv_in", "mid_block", "up_blocks.0")}
    annotations = FakeAnnotations(
        pl.DataFrame({"image_id": ["a"], "split": ["test"]}),
        pictures={"a": np.zeros((16, 16, 3), np.uint8)},
    )
    paths = []
    for name, left_out in (("layers", "up_blocks.0"), ("blocks", "mid_block")):
        held = {position: grid for position, grid in grids.items() if position != left_out}
        features = FakeRepresentations(held, {"a": (16, 16)})
        paths.append(tmp_path / f"{name}.parquet")
        frame = norms.measure(features, annotations, norms.Parameters())
        write_frame(frame, paths[-1], spec="{}")
    measurements = [
        {"task": "norms", "model": "m", "timestep": step} for step in (50, 200) for _ in paths
    ]
    spec = {
        "kind": "norms",
        "tasks": {"norms": {}},
        "positions": {"m": ["conv_in", "up_blocks.0", "mid_block"]},
        "measurements": measurements,
    }
    summarise.main(paths * 2, tmp_path / "table.parquet", json.dumps(spec))
    table = pl.read_parquet(tmp_path / "table.parquet")
    for step in (50, 200):
        rows = table.filter(timestep=step)
        assert len(rows.filter(kind="image")) == 1
        maps = rows.filter(kind="map")
        assert len(maps) == 3 * 4
        assert maps.select("position", "row", "col").is_unique().all()
