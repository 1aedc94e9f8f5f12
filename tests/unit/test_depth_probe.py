import io

import numpy as np
import polars as pl
import pytest
from reprscope import tasks
from reprscope.measures.anomalies import PATCHES
from reprscope.measures.depth import Frame, Moments, aligned, grid_map, huber, ridge
from reprscope.representations.coordinates import Affine
from reprscope.representations.views import View
from reprscope.runtime.errors import UserError
from reprscope.tasks import depth_probe as task
from scipy import stats
from support.fakes import FakeAnnotations, FakeRepresentations

LAYER = "up_blocks.1.resnets.2"


def made(
    *, images: int = 12, size: int = 24, grid: int = 6, channels: int = 5, linear=(LAYER,), seed=0
):
    """Depth maps, and features whose channels hold each token's mean depth where ``linear``."""
    rng = np.random.default_rng(seed)
    names = [f"i{number:02d}" for number in range(images)]
    splits = ["train", "train", "validation", "test"] * (images // 4)
    direction, offset = rng.normal(size=channels), rng.normal(size=channels)
    depths, grids = {}, {"conv_in": {}, LAYER: {}}
    for name in names:
        # A plane, which bilinear interpolation between tokens keeps.
        a, b, c = rng.uniform(0.2, 1, 3)
        y, x = (np.mgrid[:size, :size] + 0.5) / size
        depths[name] = (1 + a * x + b * y + c).astype(np.float32)
        step = size // grid
        means = depths[name].astype(np.float64).reshape(grid, step, grid, step).mean(axis=(1, 3))
        for position, maps in grids.items():
            maps[name] = rng.normal(size=(grid, grid, channels))
            if position in linear:
                maps[name] = means[..., None] * direction + offset
    frame = pl.DataFrame({"image_id": names, "split": splits})
    features = FakeRepresentations(grids, dict.fromkeys(names, (size, size)))
    return features, FakeAnnotations(frame, depths=depths)


def written(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


# --- the way between depth maps and tokens --------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "grid"), [((24, 32), (6, 8)), ((24, 32), (5, 3)), ((6, 8), (1, 1))]
)
def test_upsampling_equals_torch(size, grid):
    import torch
    from torch.nn import functional

    values = np.random.default_rng(0).normal(size=grid)
    expected = functional.interpolate(
        torch.from_numpy(values)[None, None], size=size, mode="bilinear", align_corners=False
    )[0, 0].numpy()
    down, across = Frame(size, Affine(), (size[1], size[0])).upsample(grid)
    np.testing.assert_allclose(down @ values @ across.T, expected, atol=1e-12)


@pytest.mark.parametrize("fit", ["pad", "squash", "keep"])
@pytest.mark.parametrize(
    "operations", [(), ({"hflip": {}},), ({"crop": {"left": 7, "bottom": 3}}, {"hflip": {}})]
)
def test_depth_follows_the_view_pixel_by_pixel(fit, operations):
    image = np.zeros((30, 40, 3), dtype=np.uint8)
    encoded, transform = View(operations=operations, fit=fit).apply(
        image, resolution=64, multiple=8, image_id="a"
    )
    pixels = (encoded.shape[1], encoded.shape[0])
    grid = (encoded.shape[0] // 8, encoded.shape[1] // 8)
    place = Frame((30, 40), transform, pixels)
    row, col = place.token(grid)
    sums = np.zeros(grid)
    values = np.random.default_rng(1).normal(size=(30, 40))
    for y, x in np.ndindex(30, 40):
        at = transform.forward(np.array([x + 0.5, y + 0.5]))
        inside = 0 <= at[0] < pixels[0] and 0 <= at[1] < pixels[1]
        assert place.shown[y, x] == inside
        if inside:
            assert (row[y], col[x]) == (int(at[1] // 8), int(at[0] // 8))
            sums[int(at[1] // 8), int(at[0] // 8)] += values[y, x]
    shown = np.where(place.shown, values, 0)
    np.testing.assert_allclose(place.gather(shown, grid), sums, atol=1e-9)


def test_upsampling_follows_a_mirrored_view():
    transform = Affine(scale_x=-2.0, offset_x=16.0, scale_y=2.0)
    down, across = Frame((4, 8), transform, (16, 8)).upsample((2, 4))
    values = np.arange(8.0).reshape(2, 4)
    # Pixel 0 lies at 15, in the last token beyond its centre; pixel 7 at 1, in the first.
    assert (down @ values @ across.T)[0, 0] == values[0, 3]
    assert (down @ values @ across.T)[0, 7] == values[0, 0]


# --- fits ---------------------------------------------------------------------------------------


def test_ridge_equals_the_solution_written_out():
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(60, 4)) * [1, 10, 0.1, 1] + [0, 5, 1, 0]
    tokens[:, 3] = 2.0
    target, weight = rng.normal(size=60), rng.uniform(0, 1, 60)
    weight[:7] = 0
    target[:7] = np.nan
    moments = Moments(4)
    for part in (slice(0, 25), slice(25, 60)):
        moments.add(tokens[part], target[part], weight[part])
    used = weight > 0
    x, t, w = tokens[used], target[used], weight[used] / weight.sum()
    mean, level = w @ x, w @ t
    scale = np.sqrt(w @ (x - mean) ** 2)[:3]
    z = (x - mean)[:, :3] / scale
    for strength, (found, bias) in zip((1e-3, 0.5), ridge(moments, (1e-3, 0.5)), strict=True):
        expected = np.linalg.solve(z.T @ (w[:, None] * z) + strength * np.eye(3), z.T @ (w * t))
        np.testing.assert_allclose(found[:3], expected / scale, rtol=1e-8)
        assert found[3] == 0
        assert bias == pytest.approx(level - mean @ found)
        error = w @ (x @ found + bias - t) ** 2
        assert moments.error(found, bias) == pytest.approx(error, rel=1e-9)


def test_moments_add_up():
    rng = np.random.default_rng(0)
    tokens, target, weight = rng.normal(size=(30, 3)), rng.normal(size=30), np.ones(30)
    whole, first, second = Moments(3), Moments(3), Moments(3)
    whole.add(tokens, target, weight)
    first.add(tokens[:11], target[:11], weight[:11])
    second.add(tokens[11:], target[11:], weight[11:])
    total = first + second
    for name, value in vars(whole).items():
        np.testing.assert_allclose(getattr(total, name), value)
    assert first.weight == 11


def test_the_published_training_equals_torch():
    import torch
    from torch.nn import functional

    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(6, 3, 4, 5)).astype(np.float32)
    depth = rng.uniform(0, 6, size=(6, 12, 16)).astype(np.float32)
    valid = rng.uniform(size=depth.shape) > 0.2
    batches = [np.sort(rng.choice(6, 4, replace=False)) for _ in range(30)]
    place = Frame((12, 16), Affine(), (16, 12))
    found, bias = huber(
        lambda n: tokens[n],
        lambda n: (depth[n], valid[n]),
        lambda n: place,
        batches,
        learning_rate=0.05,
        rng=np.random.default_rng(7),
    )
    start = np.random.default_rng(7).uniform(-1 / np.sqrt(5), 1 / np.sqrt(5), 6)
    layer = torch.nn.Linear(5, 1, dtype=torch.float64)
    with torch.no_grad():
        layer.weight[:] = torch.from_numpy(start[:-1])
        layer.bias[:] = start[-1]
    optimiser = torch.optim.AdamW(layer.parameters(), lr=0.05)
    for batch in batches:
        maps = layer(torch.from_numpy(tokens[batch].astype(np.float64)))[..., 0]
        large = functional.interpolate(
            maps[:, None], size=(12, 16), mode="bilinear", align_corners=False
        )[:, 0]
        mask = torch.from_numpy(valid[batch])
        target = torch.from_numpy(depth[batch].astype(np.float64))
        loss = functional.huber_loss(large[mask], target[mask], delta=1.0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    np.testing.assert_allclose(found, layer.weight[0].detach().numpy(), atol=1e-9)
    assert bias == pytest.approx(layer.bias.item(), abs=1e-9)


# --- regions ------------------------------------------------------------------------------------


def test_regions_by_hand_on_a_small_grid():
    place = Frame((6, 8), Affine(), (8, 6))
    patches = pl.DataFrame([("a", 1, 0, 2, 2, None)], PATCHES, orient="row")
    regions = task._regions(place, (3, 4), patches)
    drawn = np.full((6, 8), ".")
    for name in ("corner", "border"):
        assert not (regions[name] & (drawn != ".")).any()
        drawn[regions[name]] = name[0]
    assert ["".join(row) for row in drawn] == [
        "ccbbbbcc",
        "ccbbbbcc",
        "bb....bb",
        "bb....bb",
        "ccbbbbcc",
        "ccbbbbcc",
    ]
    # The patch is the lower left quarter of the image, whatever the grid of the layer.
    expected = np.zeros((6, 8), dtype=bool)
    expected[3:, :4] = True
    np.testing.assert_array_equal(regions["anomalous"], expected)
    assert regions["all"].all()
    assert "anomalous" not in task._regions(place, (3, 4), None)


def test_regions_follow_a_padded_view():
    image = np.zeros((4, 8, 3), dtype=np.uint8)
    encoded, transform = View(fit="pad").apply(image, resolution=16, multiple=8, image_id="a")
    place = Frame((4, 8), transform, (16, 16))
    assert encoded.shape == (16, 16, 3)
    # The upper and lower quarter of the square are padding: no corner token has a pixel of its own.
    regions = task._regions(place, (4, 4), None)
    assert not regions["corner"].any()
    assert np.flatnonzero(regions["border"][0]).tolist() == [0, 1, 6, 7]


# --- the task -----------------------------------------------------------------------------------


def test_a_planted_plane_is_read_and_noise_gives_the_mean():
    features, annotations = made(images=40)
    found = task.measure(features, annotations, task.Parameters())
    table = task.summarise(found, task.Parameters()).filter(split="test")
    planted = table.filter(position=LAYER)
    # Bilinear maps are flat beyond the outermost centres: half a token of the plane is lost there.
    assert planted.filter(region="all")["rmse"][0] < 0.1 * planted["mean_rmse"].min()
    noise = table.filter(position="conv_in", region="all").row(0, named=True)
    assert noise["rmse"] == pytest.approx(noise["mean_rmse"], rel=0.1)
    assert noise["low"] <= noise["rmse"] <= noise["high"]


def test_depth_of_one_value_per_image_is_read_exactly():
    features, annotations = made(images=40)
    for name, depth in annotations.depths.items():
        depth[:] = depth.mean()
        features.grids[LAYER][name][:] = depth.mean() * np.arange(1.0, 6) + 3
    table = task.summarise(
        task.measure(features, annotations, task.Parameters()), task.Parameters()
    ).filter(position=LAYER)
    assert table["rmse"].max() < 1e-4
    assert table["mean_rmse"].min() > 0.1


def brute(features, annotations, parameters, position):
    """Squared errors of the test images, with loops, from the probe fitted by least squares."""
    frame = annotations.images()
    rows, targets = [], []
    for name in frame.filter(split="train")["image_id"]:
        grid, depth = features.grids[position][name], annotations.depths[name]
        step = len(depth) // len(grid)
        for row, col in np.ndindex(grid.shape[:2]):
            cell = depth[row * step : (row + 1) * step, col * step : (col + 1) * step]
            rows.append(np.append(grid[row, col].astype(np.float32), 1))
            targets.append(cell.mean(dtype=np.float64))
    weights = np.linalg.lstsq(np.array(rows), np.array(targets), rcond=None)[0]
    errors = {}
    for name in frame.filter(split="test")["image_id"]:
        grid, depth = features.grids[position][name].astype(np.float32), annotations.depths[name]
        size, tokens = len(depth), len(grid)
        values = grid @ weights[:-1] + weights[-1]
        error = np.zeros(depth.shape)
        for y, x in np.ndindex(depth.shape):
            at = [min(max((i + 0.5) * tokens / size - 0.5, 0), tokens - 1) for i in (y, x)]
            low = [int(i) for i in at]
            high = [min(i + 1, tokens - 1) for i in low]
            share = [a - b for a, b in zip(at, low, strict=True)]
            value = (1 - share[0]) * (1 - share[1]) * values[low[0], low[1]]
            value += (1 - share[0]) * share[1] * values[low[0], high[1]]
            value += share[0] * (1 - share[1]) * values[high[0], low[1]]
            value += share[0] * share[1] * values[high[0], high[1]]
            error[y, x] = (value - depth[y, x]) ** 2
        errors[name] = error
    return errors


def test_errors_equal_loops_over_pixels(monkeypatch):
    monkeypatch.setattr(task, "STRENGTHS", (0.0,))
    features, annotations = made(images=40)
    # An anomaly that two test images have, in token (2, 3).
    for name in ("i03", "i07"):
        features.grids["conv_in"][name][2, 3] *= 50
    parameters = task.Parameters(detect="conv_in")
    found = task.measure(features, annotations, parameters)
    errors = brute(features, annotations, parameters, "conv_in")
    of_layer = found.filter(position="conv_in", split="test")
    corners = np.ix_([*range(4), *range(20, 24)], [*range(4), *range(20, 24)])
    for row in of_layer.iter_rows(named=True):
        error = errors[row["image_id"]]
        part = {
            "all": error,
            "corner": error[corners],
            "anomalous": error[8:12, 12:16],
        }.get(row["region"])
        if row["region"] == "border":
            ring = np.ones(error.shape, dtype=bool)
            ring[4:-4, 4:-4] = False
            ring[corners] = False
            part = error[ring]
        assert row["pixels"] == part.size
        assert row["squared_error"] == pytest.approx(part.sum(), rel=1e-6)
    anomalous = of_layer.filter(region="anomalous")
    assert anomalous["image_id"].to_list() == ["i03", "i07"]
    table = task.summarise(found, parameters).filter(position="conv_in", split="test")
    total = sum(error.sum() for error in errors.values()) / (len(errors) * 24 * 24)
    assert table.filter(region="all")["rmse"][0] == pytest.approx(np.sqrt(total), rel=1e-6)
    train = [annotations.depths[f"i{n:02d}"] for n in range(40) if n % 4 < 2]
    tests = [annotations.depths[name] for name in errors]
    expected = np.sqrt(np.mean(np.square(np.array(tests, dtype=float) - np.mean(train))))
    assert table.filter(region="all")["mean_rmse"][0] == pytest.approx(expected, rel=1e-6)
    assert table["images"].to_list() == [10, 10, 10, 2]
    relative = table["rmse"] / table["mean_rmse"]
    np.testing.assert_allclose(table["relative_rmse"], relative)
    assert (table["relative_low"] <= relative + 1e-12).all()
    assert (table["relative_high"] >= relative - 1e-12).all()


def test_pixels_without_depth_count_nowhere():
    features, annotations = made(images=12)
    first = task.measure(features, annotations, task.Parameters())
    for depth in annotations.depths.values():
        depth[0, :5], depth[1, 3], depth[2, 2], depth[3, 1] = 0, np.inf, np.nan, 99
    found = task.measure(features, annotations, task.Parameters(far=50))
    pixels = found.filter(region="all")["pixels"].unique().to_list()
    assert pixels == [24 * 24 - 8]
    errors = found.filter(position=LAYER, region="all")["squared_error"]
    before = first.filter(position=LAYER, region="all")["squared_error"]
    assert errors.is_finite().all()
    assert errors.sum() < 3 * before.sum()


def test_without_validation_images_a_part_of_the_training_images_chooses():
    features, annotations = made(images=40)
    annotations.image_frame = annotations.image_frame.with_columns(
        pl.col("split").replace("validation", "train")
    )
    found = task.measure(features, annotations, task.Parameters())
    assert found["split"].unique().to_list() == ["test"]
    table = task.summarise(found, task.Parameters())
    row = table.filter(position=LAYER, region="all").row(0, named=True)
    assert row["rmse"] < 0.1 * row["mean_rmse"]
    said = task.findings(keyed(table)).sentences
    assert said[0].startswith(
        "The RMSE of depth read from single tokens of toy on d is lowest of 2"
    )
    assert "tell" not in said[0]


def keyed(table: pl.DataFrame) -> pl.DataFrame:
    keys = {"task": "t", "dataset": "d", "view": "identity", "model": "toy", "resolution": 64}
    keys |= {"prompt": "empty", "timestep": 50, "seed": 0, "protocol": "standard"}
    return table.select(*(pl.lit(v).alias(k) for k, v in keys.items()), pl.all())


def test_findings_name_the_layer_that_is_best_on_validation_images():
    features, annotations = made(images=80)
    table = task.summarise(
        task.measure(features, annotations, task.Parameters()), task.Parameters()
    )
    # Make another layer the best of the test images.
    worse = (pl.col("position") == "conv_in") & (pl.col("split") == "test")
    table = table.with_columns(pl.when(worse).then(0.0).otherwise("rmse").alias("rmse"))
    said = task.findings(keyed(table))
    row = table.filter(position=LAYER, region="all", split="test").row(0, named=True)
    assert said.sentences == [
        "The RMSE of depth read from single tokens of toy on d is best in up[1] res[2] at t = 50 "
        f"(chosen on 20 validation images from 2 candidates): {row['rmse']:.2f} [{row['low']:.2f}, "
        f"{row['high']:.2f}] on 20 test images. The true means of its tokens have "
        f"{row['grid_rmse']:.2f}, the mean depth of the training images {row['mean_rmse']:.2f}; "
        f"tokens tell more than the mean, with {row['relative_rmse']:.2f} "
        f"[{row['relative_low']:.2f}, {row['relative_high']:.2f}] of its error."
    ]
    assert said.table["position"].unique().to_list() == [LAYER]
    assert said.table["region"].to_list() == ["all", "corner", "border"]


def test_noise_tells_no_more_than_the_mean_depth():
    features, annotations = made(images=80, linear=())
    table = task.summarise(
        task.measure(features, annotations, task.Parameters()), task.Parameters()
    )
    said = task.findings(keyed(table)).sentences[0]
    assert "tokens cannot be told from it, with 1.0" in said
    assert table.filter(region="all")["p"].min() > 0.05


def test_intervals_are_over_scenes():
    features, annotations = made(images=80)
    names = annotations.image_frame["image_id"]
    rng = np.random.default_rng(3)
    offsets = rng.uniform(0, 2, 20)
    for number, name in enumerate(names):
        annotations.depths[name] += np.float32(offsets[number // 4])
    found = task.measure(features, annotations, task.Parameters())
    assert found["scene"].equals(found["image_id"])
    alone = task.summarise(found, task.Parameters()).filter(region="all", split="test")
    # Every scene shows twice among the test images.
    twice = found.with_columns(
        scene=pl.col("image_id").str.slice(1).cast(pl.Int32).floordiv(8).cast(pl.String)
    )
    table = task.summarise(twice, task.Parameters()).filter(region="all", split="test")
    assert table["scenes"].to_list() == [10, 10]
    assert table["images"].to_list() == [20, 20]
    assert table["rmse"].to_list() == pytest.approx(alone["rmse"].to_list())
    row = twice.filter(region="all", split="test", position="conv_in")
    by_scene = row.group_by("scene").agg(pl.col("squared_error", "pixels").sum())
    error, pixels = by_scene["squared_error"].to_numpy(), by_scene["pixels"].to_numpy()
    value = error.sum() / pixels.sum()
    # Scenes of equal size: the jackknife and the delta method agree to first order.
    spread = np.sqrt(np.square(error - value * pixels).sum() * 10 / 9) / pixels.sum()
    half = stats.t.ppf(0.975, 9) * spread / value / 2
    first = table.filter(position="conv_in").row(0, named=True)
    assert np.log(first["high"] / first["rmse"]) == pytest.approx(half, rel=0.05)
    assert np.log(first["rmse"] / first["low"]) == pytest.approx(half, rel=0.05)
    left = [np.log(np.delete(error, k).sum() / np.delete(pixels, k).sum()) for k in range(10)]
    jackknife = np.sqrt(9 / 10 * np.square(left - np.mean(left)).sum())
    exact = stats.t.ppf(0.975, 9) * jackknife / 2
    assert np.log(first["high"] / first["rmse"]) == pytest.approx(exact)


def test_scenes_of_unequal_size_are_fewer():
    rng = np.random.default_rng(0)
    scene = np.repeat(np.arange(8), [40, 1, 1, 1, 1, 1, 1, 1])
    error, pixels = rng.uniform(1, 2, len(scene)), np.ones(len(scene))
    found = task.logarithm(error, pixels, scene)
    assert found.units == 8
    # One scene has most of the images.
    assert found.freedom == 1
    assert task.logarithm(error, pixels, np.arange(len(scene))).freedom == len(scene) - 1
    assert np.isnan(task.logarithm(error, np.zeros(len(scene)), scene).interval().low).all()


def test_scenes_come_from_the_dataset():
    features, annotations = made(images=12)
    annotations.image_frame = annotations.image_frame.with_columns(
        scene=pl.Series([None, *["kitchen"] * 11])
    )
    found = task.measure(features, annotations, task.Parameters())
    assert found["scene"].unique().to_list() == ["kitchen"]
    table = task.summarise(found, task.Parameters())
    assert table["low"].null_count() == table["p"].null_count() == len(table)


def test_the_errors_of_a_prediction_equal_loops(monkeypatch):
    monkeypatch.setattr(task, "STRENGTHS", (0.0,))
    rng = np.random.default_rng(5)
    truth = rng.uniform(1, 5, (6, 8))
    valid = rng.uniform(size=truth.shape) > 0.3
    truth[~valid] = 0
    predicted = truth * rng.uniform(0.5, 1.5, truth.shape) + rng.normal(size=truth.shape)
    predicted[valid.nonzero()[0][0], valid.nonzero()[1][0]] = -1
    error, fitted, relative, close = task._errors(predicted, truth, valid)
    design = np.stack([predicted[valid], np.ones(valid.sum())], axis=1)
    scale = np.linalg.lstsq(design, truth[valid], rcond=None)[0]
    for place in np.ndindex(truth.shape):
        told, true = predicted[place], truth[place]
        if not valid[place]:
            assert (error[place], fitted[place], relative[place], close[place]) == (0, 0, 0, False)
            continue
        assert error[place] == pytest.approx((told - true) ** 2)
        assert fitted[place] == pytest.approx((told * scale[0] + scale[1] - true) ** 2)
        assert relative[place] == pytest.approx(abs(told - true) / true)
        assert close[place] == (told > 0 and max(told / true, true / told) < 1.25)
    assert 0 < close.sum() < valid.sum()
    np.testing.assert_allclose(aligned(np.full(3, 7.0), np.array([1.0, 2.0, 6.0])), 3.0)


def test_the_grids_own_error_is_that_of_token_means():
    rng = np.random.default_rng(6)
    truth = rng.uniform(1, 5, (24, 32))
    everywhere = np.ones(truth.shape, dtype=bool)
    place = Frame((24, 32), Affine(), (32, 24))
    means = truth.reshape(6, 4, 8, 4).mean(axis=(1, 3))
    down, across = place.upsample((6, 8))
    np.testing.assert_allclose(
        grid_map(truth, everywhere, place, (6, 8)), down @ means @ across.T, atol=1e-12
    )
    # One token for each pixel is right everywhere, one for all is their mean.
    np.testing.assert_allclose(grid_map(truth, everywhere, place, (24, 32)), truth)
    np.testing.assert_allclose(grid_map(truth, everywhere, place, (1, 1)), truth.mean())
    # A token without a pixel that counts leaves its neighbours as they are.
    flat, valid = np.full((24, 32), 2.5), everywhere.copy()
    valid[:8, :12] = False
    np.testing.assert_allclose(grid_map(np.where(valid, flat, 0), valid, place, (6, 8)), 2.5)


def test_finer_grids_are_allowed_less_error():
    features, annotations = made(images=12, size=24, grid=6)
    features.grids["mid_block"] = {
        name: tokens[::3, ::3] for name, tokens in features.grids["conv_in"].items()
    }
    table = task.summarise(
        task.measure(features, annotations, task.Parameters()), task.Parameters()
    ).filter(region="all", split="test")
    grids = dict(table.select("position", "grid_rmse").rows())
    assert 0 < grids["conv_in"] == grids[LAYER] < grids["mid_block"]
    # The planted layer is as good as its grid allows.
    assert table.filter(position=LAYER)["rmse"][0] == pytest.approx(grids[LAYER], rel=0.05)


def test_the_ridge_map_has_converged():
    features, annotations = made(images=40, linear=())
    parameters = task.Parameters()
    images = task._images(features, annotations, parameters)
    fits = task._fit_ridge(features, ["conv_in"], images)
    (weights, bias), strength = fits["conv_in"]
    total = Moments(5)
    for name in images.train:
        target, valid, place = images.depth(name)
        counted = place.gather(valid, (6, 6))
        target = place.gather(np.where(valid, target, 0), (6, 6)) / counted
        tokens = features.tokens("conv_in", name).reshape(36, 5)
        total.add(tokens, target.ravel(), np.ones(36))
    scale = np.diag(total.gram) / total.weight - np.square(total.tokens / total.weight)

    def objective(w, b):
        return total.error(w, b) + strength * np.sum(np.square(w) * scale)

    least = objective(weights, bias)
    for step in np.eye(5) * 1e-3:
        assert objective(weights + step, bias) > least
        assert objective(weights - step, bias) > least
    slope = [
        (objective(weights + step, bias) - objective(weights - step, bias)) / 2e-6
        for step in np.eye(5) * 1e-6
    ]
    np.testing.assert_allclose(slope, 0, atol=1e-8)


def test_the_published_form_learns_the_plane():
    features, annotations = made(images=40)
    parameters = task.Parameters(form="published", steps=400, batch=8, learning_rate=0.03)
    table = task.summarise(task.measure(features, annotations, parameters), parameters)
    row = table.filter(position=LAYER, region="all", split="test").row(0, named=True)
    assert row["rmse"] < 0.3 * row["mean_rmse"]
    assert row["strength"] is None


@pytest.mark.parametrize("form", ["ridge", "published"])
def test_reruns_give_the_same_bytes_and_neither_order_nor_other_positions_matter(form):
    features, annotations = made(images=12)
    parameters = task.Parameters(form=form, steps=20, batch=4)
    first = task.measure(features, annotations, parameters)
    assert written(task.measure(features, annotations, parameters)) == written(first)
    chosen = task.Parameters(form=form, steps=20, batch=4, positions=["up[1] res[2]"])
    only = task.measure(features, annotations, chosen)
    assert written(only) == written(first.filter(position=LAYER))
    features.grids = {LAYER: dict(reversed(features.grids[LAYER].items()))}
    annotations.image_frame = annotations.image_frame.reverse()
    alone = task.measure(features, annotations, parameters)
    assert written(alone) == written(first.filter(position=LAYER))
    tables = [task.summarise(first, parameters) for _ in range(2)]
    assert written(tables[0]) == written(tables[1])


@pytest.mark.parametrize(
    ("settings", "minutes"),
    [
        ({}, 0),
        ({"form": "published"}, 46 * 60),
        ({"form": "published", "positions": ("conv_in", "mid")}, 2 * 60),
    ],
)
def test_the_published_form_asks_for_an_hour_a_position(settings, minutes):
    assert tasks.minutes("depth_probe", task.Parameters(**settings), 46) == minutes
    assert tasks.minutes("norms", tasks.load("norms").Parameters(), 46) == 0


def test_mistakes_are_named():
    features, annotations = made(images=12)
    for settings, words in (
        ({"form": "lasso"}, "form"),
        ({"far": 0}, "far"),
        ({"steps": 0}, "steps"),
        ({"batch": 1.5}, "batch"),
    ):
        with pytest.raises(UserError, match=words):
            task.Parameters(**settings)
    with pytest.raises(UserError, match="no pixel of the training images has a depth"):
        task.measure(features, annotations, task.Parameters(far=0.01))
    with pytest.raises(UserError, match="detected at mid_block, which is not"):
        task.measure(features, annotations, task.Parameters(detect="mid"))
    with pytest.raises(UserError, match="position mid_block is not in the hook set"):
        task.measure(features, annotations, task.Parameters(positions=("mid",)))
    features.grids["conv_in"]["i00"][0, 0, 0] = np.inf
    with pytest.raises(UserError, match="'i00' at conv_in are not finite"):
        task.measure(features, annotations, task.Parameters())
    annotations.image_frame = annotations.image_frame.with_columns(split=pl.lit("train"))
    with pytest.raises(UserError, match="test split has no images"):
        task.measure(features, annotations, task.Parameters())
