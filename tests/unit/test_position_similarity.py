"""Similarity to each of a grid of places, against planted features and brute force."""

import io

import numpy as np
import polars as pl
import pytest
from reprscope.runtime.errors import UserError
from reprscope.tasks.position_similarity import Parameters, measure, summarise
from support.fakes import FakeAnnotations, FakeRepresentations

SHAPE = (4, 6)
TOKENS = 24
NOBODY = FakeAnnotations(pl.DataFrame())


def features(maps: np.ndarray, position: str = "mid_block") -> FakeRepresentations:
    """Features of (images, h, w, channels)."""
    return FakeRepresentations({position: {f"i{n:03}": one for n, one in enumerate(maps)}})


def independent(images: int, channels: int = 32, *, shape=SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(images, *shape, channels))


def of_places(shape=SHAPE, channels: int = 64, seed: int = 1) -> np.ndarray:
    """A code of each place, (h, w, channels), orthogonal to those of the others."""
    square = np.random.default_rng(seed).normal(size=(channels, channels))
    basis = np.linalg.qr(square)[0]
    return basis[: shape[0] * shape[1]].reshape(*shape, channels)


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    lengths = np.sqrt((first**2).sum()) * np.sqrt((second**2).sum())
    return float((first * second).sum() / lengths)


def own(table: pl.DataFrame) -> pl.Expr:
    """Rows of a token compared with itself."""
    return (pl.col("row") == pl.col("reference_row")) & (pl.col("col") == pl.col("reference_col"))


def test_every_value_is_the_mean_cosine_over_the_images():
    maps = independent(5) + 0.5
    found = measure(features(maps), NOBODY, Parameters(references=8))
    # Fewer tokens than references along both axes: each token is one.
    assert len(found) == TOKENS**2
    for row in found.sample(60, seed=0).iter_rows(named=True):
        here, there = (row["row"], row["col"]), (row["reference_row"], row["reference_col"])
        values = [cosine(one[here], one[there]) for one in maps]
        assert row["similarity"] == pytest.approx(np.mean(values), abs=1e-6)
        assert row["deviation"] == pytest.approx(np.std(values), abs=1e-6)
        assert (row["images"], row["position"], row["noise"]) == (5, "mid_block", "per_image")
    assert found.filter(own(found))["similarity"].to_list() == pytest.approx([1] * TOKENS)


def test_a_map_is_not_transposed():
    """Each token resembles only those of its row."""
    rows = np.indices(SHAPE)[0]
    found = measure(features(np.eye(SHAPE[0])[rows][None]), NOBODY, Parameters())
    same = found["row"] == found["reference_row"]
    assert found.filter(same)["similarity"].to_list() == [1] * (SHAPE[1] ** 2 * SHAPE[0])
    assert set(found.filter(~same)["similarity"]) == {0}


def test_what_places_share_stays_in_the_mean_and_noise_does_not():
    """A code of the place beside noise of equal strength: own place 1, others 0, in the mean."""
    place = of_places()
    noise = independent(400, 64) / np.sqrt(64)
    found = measure(features(noise + place), NOBODY, Parameters())
    assert found.filter(own(found))["similarity"].to_list() == pytest.approx([1] * TOKENS)
    # Codes of two places are orthogonal, and so is noise in the mean: deviation 1 / sqrt(channels)
    # for each image, of which the mean is over 400.
    others = found.filter(~own(found))
    assert others["similarity"].abs().max() < 5 / np.sqrt(64 * 400)
    # A code that two places have in common is half of each token's square, and so their cosine.
    place[0, 0] = place[3, 5]
    found = measure(features(noise + place), NOBODY, Parameters())
    corners = found.filter(reference_row=0, reference_col=0, row=3, col=5)
    assert corners["similarity"].item() == pytest.approx(0.5, abs=5 / np.sqrt(64 * 400))


def test_independent_noise_has_no_pattern_however_long_the_tokens():
    """Norms that differ by place change nothing: only directions count."""
    maps = independent(400, 64) * np.geomspace(0.01, 1000, TOKENS).reshape(*SHAPE, 1)
    found = measure(features(maps), NOBODY, Parameters())
    others = found.filter(~own(found))
    assert others["similarity"].abs().max() < 5 / np.sqrt(64 * 400)
    assert others["deviation"].mean() == pytest.approx(1 / np.sqrt(64), rel=0.05)


def test_images_that_are_all_alike_keep_their_pattern():
    """Noise shared by all images is not averaged away, and the deviation tells."""
    one = independent(1, 16)
    alone = measure(features(one), NOBODY, Parameters())
    shared = measure(features(np.repeat(one, 30, axis=0)), NOBODY, Parameters(), noise="shared")
    assert shared["deviation"].to_list() == [0] * len(shared)
    assert shared["similarity"].to_list() == pytest.approx(alone["similarity"].to_list())
    assert shared.filter(~own(shared))["similarity"].abs().max() > 0.4
    assert shared["noise"].unique().to_list() == ["shared"]


@pytest.mark.parametrize(
    ("length", "references", "expected"),
    [
        (8, 8, [*range(8)]),
        (4, 8, [*range(4)]),
        (16, 8, [1, 3, 5, 7, 9, 11, 13, 15]),
        (9, 3, [1, 4, 7]),
        (5, 1, [2]),
    ],
)
def test_references_are_the_middles_of_equal_parts(length, references, expected):
    maps = independent(1, 3, shape=(length, 2))
    found = measure(features(maps), NOBODY, Parameters(references=references))
    assert sorted(found["reference_row"].unique()) == expected
    # In each of the equal parts there is one.
    parts = min(references, length)
    assert [int((row + 0.5) * parts / length) for row in expected] == [*range(parts)]
    assert len(found) == len(expected) * min(references, 2) * length * 2


def test_a_rerun_gives_the_same_bytes_in_any_order_of_images():
    def parquet(frame: pl.DataFrame) -> bytes:
        buffer = io.BytesIO()
        frame.write_parquet(buffer)
        return buffer.getvalue()

    there = features(independent(6))
    there.grids["conv_in"] = features(independent(6, 4, shape=(8, 12), seed=2)).grids["mid_block"]
    first = measure(there, NOBODY, Parameters())
    assert first["position"].unique(maintain_order=True).to_list() == ["mid_block", "conv_in"]
    there.grids = {p: dict(reversed(grids.items())) for p, grids in there.grids.items()}
    again = measure(there, NOBODY, Parameters())
    assert parquet(again) == parquet(first)
    assert summarise(first, Parameters()).equals(first)


def test_mistakes_are_sentences():
    with pytest.raises(UserError, match="references is 0"):
        Parameters(references=0)
    there = features(independent(3))
    there.grids["mid_block"]["i002"] = np.ones((6, 4, 32))
    with pytest.raises(UserError, match="'i002' has another token grid than 'i000'"):
        measure(there, NOBODY, Parameters())
    there.grids["mid_block"]["i002"] = np.full((*SHAPE, 32), np.nan)
    with pytest.raises(UserError, match="not finite"):
        measure(there, NOBODY, Parameters())
