"""Means over noise seeds, against numbers worked out by hand."""

import polars as pl
import pytest
from reprscope.figures.kinds import lines_by_timestep, similarity_maps
from reprscope.figures.repeated import over, sentence
from reprscope.figures.theme import Theme
from reprscope.runtime.errors import UserError
from support import tables


def repeated(values, **columns):
    """The rows of a task at one place, once for each seed."""
    return pl.DataFrame(
        {
            "model": "nano-sd",
            "position": "mid_block",
            "timestep": 50,
            "seed": list(range(len(values))),
            "estimator": "cosine",
            "alpha": 0.1,
            "pck": values,
            "low": 0.0,
            "high": 1.0,
            "points": 100,
            **columns,
        }
    )


def test_mean_and_interval_of_three_seeds():
    """Mean 0.4, standard deviation 0.2, and Student's t is 4.302653 for two degrees of freedom."""
    found = over(repeated([0.2, 0.4, 0.6]), "seed", lines_by_timestep.Options())
    assert len(found) == 1
    row = found.row(0, named=True)
    assert row["pck"] == pytest.approx(0.4)
    assert row["high"] - row["pck"] == pytest.approx(4.302653 * 0.2 / 3**0.5, rel=1e-6)
    assert row["pck"] - row["low"] == pytest.approx(row["high"] - row["pck"])
    assert (row["points"], row["timestep"], row["alpha"]) == (100, 50, 0.1)
    assert "seed" not in found.columns


def test_different_things_stay_apart_and_in_order():
    two = [repeated([0.2, 0.3], timestep=t, position=p) for t, p in ((50, "b"), (10, "a"))]
    found = over(pl.concat(two), "seed", lines_by_timestep.Options())
    assert found.select("timestep", "position").rows() == [(50, "b"), (10, "a")]
    same = over(repeated([0.5] * 4), "seed", lines_by_timestep.Options())
    assert same.select("low", "pck", "high").row(0) == (0.5, 0.5, 0.5)


def test_a_value_missing_for_all_seeds_stays_missing():
    found = over(
        repeated([None, None]).cast({"pck": pl.Float64}), "seed", lines_by_timestep.Options()
    )
    assert found.select("low", "pck", "high").row(0) == (None, None, None)


@pytest.mark.parametrize(
    "table",
    [
        repeated([0.1]),
        repeated([0.1, 0.2]).with_columns(position=pl.Series(["mid_block", "conv_in"])),
        pl.concat([repeated([0.1, 0.2]), repeated([0.3, 0.4])]),
    ],
)
def test_what_is_not_repeated_evenly_is_refused(table):
    with pytest.raises(UserError, match="every row once for each of at least two values of seed"):
        over(table, "seed", lines_by_timestep.Options())


def test_a_figure_without_intervals_is_refused():
    with pytest.raises(UserError, match="no interval: leave out `over: seed`"):
        over(repeated([0.1, 0.2]), "seed", similarity_maps.Options())


def test_the_caption_says_over_what():
    one = tables.correspondence()
    both = pl.concat([one, one.with_columns(seed=pl.col("seed") + 1, pck=pl.col("pck") * 0.9)])
    options = lines_by_timestep.Options()
    frame = over(both, "seed", options)
    said = "Values are means over 2 noise seeds; bands are their 95 % t intervals."
    assert said in lines_by_timestep.caption(frame, options)
    assert "95 % intervals" in lines_by_timestep.caption(one, options)
    lines_by_timestep.draw(frame, options, Theme())


def test_a_value_that_some_seeds_lack_has_the_interval_of_the_others():
    """Mean 0.4, standard deviation 0.2 / sqrt(2) of two values; t is 12.7062 for one degree."""
    table = repeated([0.3, None, 0.5])
    row = over(table, "seed", lines_by_timestep.Options()).row(0, named=True)
    assert row["pck"] == pytest.approx(0.4)
    assert row["high"] - row["pck"] == pytest.approx(12.7062 * 0.2 / 2, rel=1e-5)


def test_further_columns_have_intervals_over_seeds_too_and_stray_ends_are_left_out():
    table = repeated(
        [0.2, 0.4], change=[-0.1, -0.3], change_low=-1.0, change_high=0.0, gain_low=0.0, png=b"x"
    )
    row = over(table, "seed", lines_by_timestep.Options()).row(0, named=True)
    assert row["change"] == pytest.approx(-0.2)
    assert row["change_high"] - row["change"] == pytest.approx(12.7062 * 0.1, rel=1e-5)
    assert not {"gain_low", "png"} & set(row)


def test_rows_that_the_filter_leaves_out_need_not_be_repeated():
    table = pl.concat([repeated([0.2, 0.4]), repeated([0.9], estimator="plain")])
    found = over(table, "seed", lines_by_timestep.Options(filter={"estimator": "cosine"}))
    assert found["pck"].to_list() == [pytest.approx(0.3)]


def test_the_axis_is_not_averaged():
    parts = [repeated([0.2, 0.4], distance=d) for d in (8.0, 24.0)]
    found = over(pl.concat(parts), "seed", lines_by_timestep.Options(x="distance"))
    assert found["distance"].to_list() == [8.0, 24.0]


def test_the_sentence_gives_the_deviation_beside_the_interval_over_items():
    parts = [
        repeated([0.2, 0.2, 0.2], position="conv_in", pairs=50),
        repeated([0.2, 0.4, 0.6], pairs=50, low=0.1, high=0.5),
        repeated([0.2, 0.3, 0.4], position="up_blocks.1", pairs=50, low=0.1, high=0.5),
    ]
    blind = repeated([0.1, 0.1, 0.1], pairs=50, estimator="same_place_in_square")
    options = lines_by_timestep.Options()
    found = over(pl.concat([*parts, blind]), "seed", options)
    assert sentence(found, options) == (
        "Over 3 noise seeds, PCK has a standard deviation of 10.0 points in the median of 3 values "
        "and of 20.0 points at most, in mid at t = 50; its interval over pairs reaches 20.0 points "
        "to each side."
    )


def test_what_not_all_seeds_have_is_left_out_and_counted():
    table = pl.concat([repeated([0.1, 0.3]), repeated([0.3], position="conv_in")])
    found = over(table, "seed", lines_by_timestep.Options())
    assert found["position"].to_list() == ["mid_block"]
    said = "95 % t intervals. 1 that not all of these have are left out."
    assert said in lines_by_timestep.caption(found, lines_by_timestep.Options())
