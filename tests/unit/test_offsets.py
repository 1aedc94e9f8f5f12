"""Where tokens lie: analytic cases, and what tasks do with it."""

import numpy as np
import polars as pl
import pytest
import torch
from reprscope.plan import specs
from reprscope.plan.parse import parse
from reprscope.plan.read import read
from reprscope.representations.offsets import Fields, measure, offset, pictures
from reprscope.runtime.errors import UserError
from reprscope.tasks import correspondence, position_errors
from support.fakes import FakeAnnotations, FakeRepresentations
from support.project import ROOT


class Layers:
    """A denoiser of plain layers, whose outputs are their own maps."""

    clipping = ()

    def __init__(self, *layers: torch.nn.Module) -> None:
        self.module = torch.nn.Sequential(*layers).requires_grad_(False)

    def __call__(self, latents, timestep, prompt):
        return self.module(latents)

    @staticmethod
    def tokens(position, output, passed):
        return output.permute(0, 2, 3, 1)


def flat(stride: int) -> torch.nn.Conv2d:
    """3 x 3, one row of padding on each side, all inputs alike, as many channels as before."""
    layer = torch.nn.Conv2d(4, 4, 3, stride=stride, padding=1, bias=False)
    torch.nn.init.constant_(layer.weight, 1 / 36)
    return layer


def measured(*layers):
    names = [str(number) for number in range(len(layers))]
    maps = [torch.randn(4, 64, 64, generator=torch.Generator().manual_seed(n)) for n in (0, 1)]
    prompt = {"embedding": torch.zeros(1, 1, 1)}
    found = measure(
        Layers(*layers), names, lambda leaf, seed: leaf, maps, timestep=0, prompt=prompt
    )
    return [found[name] for name in names]


def test_a_flat_kernel_of_stride_two_lies_half_an_input_to_the_upper_left():
    """Each level halves the offset that it was given, in its own tokens, and adds a quarter."""
    found = measured(flat(1), flat(2), flat(2), flat(2))
    for one, expected in zip(found, (0.0, -0.25, -0.375, -0.4375), strict=True):
        assert one.x == pytest.approx(expected, abs=1e-5)
        assert one.y == pytest.approx(expected, abs=1e-5)
        assert (one.error_x, one.error_y) == pytest.approx((0, 0), abs=1e-5)


def test_upsampling_moves_nothing_and_padding_on_the_far_side_moves_the_other_way():
    up = torch.nn.Upsample(scale_factor=2, mode="nearest")
    far = torch.nn.Sequential(torch.nn.ZeroPad2d((0, 1, 0, 1)), torch.nn.Conv2d(4, 4, 3, 2))
    torch.nn.init.constant_(far[1].weight, 1.0)
    none, other = measured(up, far)
    assert (none.x, none.y) == pytest.approx((0, 0), abs=1e-5)
    far_alone = measured(far)[0]
    assert (far_alone.x, far_alone.y) == pytest.approx((0.25, 0.25), abs=1e-5)
    assert other.x > 0.1


@pytest.mark.parametrize("tail", [0.0, 0.3])
def test_the_peak_is_found_under_wide_tails(tail):
    """Gaussian energies of known middles; the tails are those of attention to the whole image."""
    rng = np.random.default_rng(0)
    side = np.array([8.0, 4.0])
    centre = (rng.integers(4, 12, (40, 2)) + 0.5) * side
    x = (np.arange(128) + 0.5 - centre[:, :1] - 0.3 * side[0]) / side[0]
    y = (np.arange(64) + 0.5 - centre[:, 1:] + 0.2 * side[1]) / side[1]
    energy = np.exp(-0.5 * (x / 0.5) ** 2)[:, None, :] * np.exp(-0.5 * (y / 0.6) ** 2)[:, :, None]
    energy /= energy.sum((1, 2), keepdims=True)
    energy = (1 - tail) * energy + tail / energy[0].size
    assert offset([Fields(energy, centre, side)]) == pytest.approx((0.3, -0.2), abs=0.02)


def test_pictures_are_the_same_every_time_and_fill_the_range():
    first, again = pictures(3, 64), pictures(3, 64)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    values = torch.stack(first)
    assert values.shape == (3, 3, 64, 64)
    assert -1 <= values.min() < -0.5 < 0.5 < values.max() <= 1
    # The power of photographs falls with the square of the frequency.
    power = np.abs(np.fft.fft2(values.numpy())).mean((0, 1)) ** 2
    assert 5 < np.median(power[0, 2:4]) / np.median(power[0, 6:12]) < 40


def study(shift):
    """Random maps, and pairs whose points are moved by ``shift`` encoded pixels."""
    rng = np.random.default_rng(3)
    names = [f"i{number}" for number in range(4)]
    grids = {"mid_block": {name: rng.normal(size=(5, 6, 8)) for name in names}}
    features = FakeRepresentations(grids, dict.fromkeys(names, (96, 80)))
    points = {name: rng.uniform(20, 60, (3, 2)) + shift for name in names}
    pairs = [
        {
            "pair_id": f"{source}-{target}",
            "source_id": source,
            "target_id": target,
            "split": "test",
            "category": "x",
            "keypoints": ["a", "b", "c"],
            "source_xy": points[source].tolist(),
            "target_xy": points[target].tolist(),
            "source_box": [0.0, 0.0, 96.0, 80.0],
            "target_box": [0.0, 0.0, 96.0, 80.0],
        }
        for source in names
        for target in names
        if source != target
    ]
    keypoints = [
        {"image_id": name, "group": 0, "keypoint": part, "x": x, "y": y, "visible": True}
        for name in names
        for part, (x, y) in zip("abc", points[name], strict=True)
    ]
    images = pl.DataFrame(
        {"image_id": names, "split": "test", "label": "x", "width": [96] * 4, "height": [80] * 4}
    )
    return features, FakeAnnotations(
        images, pl.DataFrame(pairs), keypoint_frame=pl.DataFrame(keypoints)
    )


def test_measured_places_move_sources_and_predictions_together():
    """Points and tokens moved by one vector match as before, and are found moved by it."""
    offset = (-0.375, 0.25)
    moved = np.array(offset) * 16
    results = []
    for shift, coordinates in (((0, 0), "centred"), (moved, "measured")):
        features, annotations = study(shift)
        features.offsets = {"mid_block": offset}
        found = correspondence.measure(
            features, annotations, correspondence.Parameters(), coordinates=coordinates
        )
        results.append(found.filter(estimator="cosine"))
    plain, shifted = results
    assert np.array_equal(plain["similarity"], shifted["similarity"])
    for axis, by in zip("xy", moved, strict=True):
        assert np.allclose(shifted[f"predicted_{axis}"] - plain[f"predicted_{axis}"], by)
        assert np.allclose(shifted[f"source_{axis}"] - plain[f"source_{axis}"], by)
    features, annotations = study(moved)
    unmoved = correspondence.measure(features, annotations, correspondence.Parameters())
    assert not np.array_equal(unmoved["similarity"], shifted["similarity"])


@pytest.mark.parametrize("pairs", ["listed", "all"])
def test_measured_places_leave_the_errors_of_moved_points(pairs):
    """Each error is as large as before, so that as many are wrong, at the same distances."""
    offset = (-0.375, 0.25)
    counts = []
    for shift, coordinates in (((0, 0), "centred"), (np.array(offset) * 16, "measured")):
        features, annotations = study(shift)
        features.offsets = {"mid_block": offset}
        found = position_errors.measure(
            features,
            annotations,
            position_errors.Parameters(pairs=pairs, border=1e-3),
            coordinates=coordinates,
        )
        counts.append(found.select(pl.exclude(pl.String, pl.List(pl.String))))
    assert counts[0].equals(counts[1])
    features, annotations = study(np.array(offset) * 16)
    unmoved = position_errors.measure(
        features, annotations, position_errors.Parameters(pairs=pairs, border=1e-3)
    )
    assert not unmoved.select(counts[0].columns).equals(counts[0])


def test_a_variant_of_another_resolution_does_not_take_measured_places():
    features, annotations = study((0, 0))
    parameters = correspondence.Parameters(variants=({"resolution": 96},))
    with pytest.raises(UserError, match="coordinates: centred"):
        correspondence.measure(features, annotations, parameters, coordinates="measured")


def test_only_tasks_that_read_coordinates_under_that_protocol_read_offsets(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = read(ROOT / "tests/small.yaml") | {
        "protocols": {"placed": {"coordinates": "measured"}}
    }
    found = parse(config)
    assert specs.measured(found, {"task": "matching", "protocol": "placed"})
    assert not specs.measured(found, {"task": "matching", "protocol": "standard"})
    assert not specs.measured(found, {"task": "maps", "protocol": "placed"})


def test_the_architecture_of_sd_1_5_with_flat_kernels_lies_as_its_strides_say():
    """Away from the border; at the border the padding's zeros weigh."""
    from benchmarks.offsets import flat_offsets

    found = flat_offsets(wanted="down", tokens=4)
    for level in (1, 2, 3):
        block, expected = found[f"down_blocks.{level - 1}"], -(1 - 2.0**-level) / 2
        assert (block.x, block.y) == pytest.approx((expected, expected), abs=0.005)


def test_effects_of_rounding_are_in_widths_of_intervals():
    from benchmarks.precision import effects

    exact = pl.DataFrame(
        {
            "position": ["a", "b", "c"],
            "pck": [0.5, 0.2, 0.1],
            "low": [0.4, 0.1, None],
            "high": [0.6, 0.3, None],
            "gain_low": [0.0, 0.1, 0.2],
            "gain_high": [0.1, 0.3, 0.2],
        }
    )
    rounded = exact.with_columns(pl.col("low") + 0.02, pl.col("high") + 0.02)
    # Another order of rows, as where rows are sorted by what was measured.
    found = effects(exact, rounded.reverse())
    assert found["name"].to_list() == ["value", "value", "gain", "gain"]
    assert found["effect"].to_list() == pytest.approx([0.1, 0.1, 0, 0])
