import polars as pl
import pytest
from reprscope.measures.statistics import FEWEST_TO_CHOOSE
from reprscope.report.findings import of_experiment
from reprscope.tasks import correspondence, linear_probe
from reprscope.tasks._findings import Findings, best, superlative
from support import tables

TABLE = pl.DataFrame(
    [
        # model, split, position, timestep, accuracy
        ("a", "validation", "mid_block", 0, 0.5),
        ("a", "validation", "up_blocks.1", 0, 0.6),
        ("a", "validation", "up_blocks.1", 50, 0.4),
        ("a", "test", "mid_block", 0, 0.9),
        ("a", "test", "up_blocks.1", 0, 0.55),
        ("a", "test", "up_blocks.1", 50, 0.8),
        ("b", "validation", "mid_block", 0, 0.3),
        ("b", "validation", "up_blocks.1", 0, 0.2),
        ("b", "test", "mid_block", 0, 0.1),
        ("b", "test", "up_blocks.1", 0, 0.7),
    ],
    schema=["model", "split", "position", "timestep", "accuracy"],
    orient="row",
).with_columns(images=pl.when(pl.col("split") == "test").then(300).otherwise(FEWEST_TO_CHOOSE))
CHOSEN = ["model", "position", "timestep", "accuracy", "chosen_from", "chosen_on", "firm"]


def probed(table: pl.DataFrame = TABLE) -> pl.DataFrame:
    """With the further columns of the linear probe."""
    return table.with_columns(
        dataset=pl.lit("digits"),
        classes=pl.lit(10),
        low=pl.col("accuracy") - 0.05,
        high=pl.col("accuracy") + 0.05,
        chance=pl.lit(0.1),
        majority=pl.lit(0.1),
        p_value=pl.lit(0.001),
        training_images=pl.lit(600),
        converged=pl.lit(True),
        over=pl.lit(None, pl.Float64),
        over_p=pl.lit(None, pl.Float64),
        added=pl.lit(None, pl.Float64),
    )


def test_the_best_block_is_chosen_on_validation_and_reported_on_test():
    assert best(TABLE, "accuracy").select(CHOSEN).rows() == [
        ("a", "up_blocks.1", 0, 0.55, 3, FEWEST_TO_CHOOSE, True),
        ("b", "mid_block", 0, 0.1, 2, FEWEST_TO_CHOOSE, True),
    ]
    lowest = best(TABLE, "accuracy", lowest=True)
    assert lowest.select("model", "position", "timestep", "accuracy").rows() == [
        ("a", "up_blocks.1", 50, 0.8),
        ("b", "up_blocks.1", 0, 0.7),
    ]


def test_what_too_few_or_no_validation_images_choose_is_described():
    few = TABLE.with_columns(
        images=pl.when(pl.col("split") == "test").then("images").otherwise(FEWEST_TO_CHOOSE - 1)
    )
    assert best(few, "accuracy").select(CHOSEN).rows() == [
        ("a", "mid_block", 0, 0.9, 3, FEWEST_TO_CHOOSE - 1, False),
        ("b", "up_blocks.1", 0, 0.7, 2, FEWEST_TO_CHOOSE - 1, False),
    ]
    alone = best(TABLE.filter(split="test"), "accuracy")
    assert alone.select(CHOSEN).row(0) == ("a", "mid_block", 0, 0.9, 3, 0, False)
    held = best(TABLE.filter(split="validation"), "accuracy")
    assert held.select("split", *CHOSEN).row(0) == (
        *("validation", "a", "up_blocks.1", 0, 0.6, 3, 0, False),
    )


def test_of_equal_values_the_first_in_the_network_counts_then_the_lowest_timestep():
    rows = [
        ("m", split, position, timestep, 0.5, 300)
        for split in ("test", "validation")
        for position in ("up_blocks.1", "mid_block", "down_blocks.0")
        for timestep in (200, 50)
    ]
    table = pl.DataFrame(rows, schema=TABLE.schema, orient="row")
    for each in (table, table.reverse(), table.filter(split="test")):
        (row,) = best(each, "accuracy").iter_rows(named=True)
        assert (row["position"], row["timestep"], row["tied"]) == ("down_blocks.0", 50, 5)


def test_values_that_are_missing_in_a_split_are_no_candidates():
    gone = (pl.col("model") == "a") & (pl.col("position") == "up_blocks.1")
    for value in (None, float("nan")):
        for split in ("validation", "test"):
            table = TABLE.with_columns(
                accuracy=pl.when(gone & (pl.col("split") == split))
                .then(pl.lit(value, pl.Float64))
                .otherwise("accuracy")
            )
            # One candidate is left, so that nothing is chosen.
            assert best(table, "accuracy").select(CHOSEN).row(0) == (
                *("a", "mid_block", 0, 0.9, 1, FEWEST_TO_CHOOSE, True),
            )
    assert best(TABLE.with_columns(accuracy=pl.lit(None, pl.Float64)), "accuracy").is_empty()
    assert best(TABLE.clear(), "accuracy").is_empty()


def test_two_values_for_one_candidate_are_a_mistake():
    with pytest.raises(ValueError, match="several values of accuracy"):
        best(pl.concat([TABLE, TABLE.head(1)]), "accuracy")


def test_models_keep_the_order_of_the_table_and_conditions_stay_apart():
    reverse = TABLE.reverse().with_columns(dataset=pl.lit("x"))
    both = pl.concat([reverse, reverse.with_columns(dataset=pl.lit("y"))])
    found = best(both, "accuracy")
    assert found["model"].to_list() == ["b", "b", "a", "a"]
    assert found["dataset"].to_list() == ["x", "y", "x", "y"]


def test_a_sentence_concludes_only_what_validation_chose():
    (row, _) = best(probed(), "accuracy").iter_rows(named=True)
    assert superlative(row, "Accuracy of a", "accuracy") == (
        "Accuracy of a is best in up[1] at t = 0 (chosen on 20 validation images from 3 "
        "candidates): 55.0 % [50.0, 60.0] on 300 test images"
    )
    (row, _) = best(probed().filter(split="test"), "accuracy").iter_rows(named=True)
    assert superlative(row, "Accuracy of a", "accuracy", of="9 points") == (
        "Accuracy of a is highest of 3 on these 300 test images in mid at t = 0: 90.0 % of 9 points"
    )
    few = {"chosen_on": 3, "tied": 2}
    assert superlative(row | few, "Error of a", "accuracy", lowest=True, form=rounded) == (
        "Error of a is lowest of 3 on these 300 test images in mid at t = 0, with 2 more at the "
        "same value: 0.90 (3 validation images, too few to choose on)"
    )
    one = superlative(row | {"chosen_on": 1, "images": 1}, "Accuracy of a", "accuracy")
    assert "on this 1 test image in mid" in one
    assert one.endswith("(1 validation image, too few to choose on)")
    alone = {"chosen_from": 1, "firm": True}
    assert superlative(row | alone, "Accuracy of a", "accuracy") == (
        "Accuracy of a is 90.0 % [85.0, 95.0] in mid at t = 0, on 300 test images"
    )
    without = alone | {"low": None, "high": None}
    assert "is 90.0 % in mid" in superlative(row | without, "Accuracy of a", "accuracy")


def rounded(value: float, low: float | None, high: float | None) -> str:
    return f"{value:.2f}" + (f" to {high:.2f}" if low is not None else "")


def test_sentences_state_the_numbers_of_the_chosen_row():
    first, second = linear_probe.findings(probed()).sentences
    assert first == (
        "Linear probe accuracy of a on digits is best in up[1] at t = 0 (chosen on 20 validation "
        "images from 3 candidates): 55.0 % [50.0, 60.0] on 300 test images, above chance (10.0 % "
        "for 10 classes)."
    )
    assert "accuracy of b" in second
    assert "mid at t = 0" in second


def test_accuracy_is_above_chance_only_if_validation_chose_and_the_test_says_so():
    uneven = probed().with_columns(majority=pl.lit(0.3))
    for p_value, words in ((0.03, "not told from"), (0.02, "above")):  # twice that, by Holm
        (said, _) = linear_probe.findings(uneven.with_columns(p_value=pl.lit(p_value))).sentences
        assert said.endswith(
            f"{words} chance (10.0 % for 10 classes) and the commonest class alone (30.0 %)."
        )
    (said, _) = linear_probe.findings(uneven.filter(split="test")).sentences
    assert "above" not in said
    assert said.endswith("; chance is 10.0 % for 10 classes, the commonest class alone 30.0 %.")


def test_every_condition_has_a_sentence_that_names_it():
    base = probed().with_columns(protocol=pl.lit("standard"), resolution=pl.lit(64))
    thesis = base.with_columns(protocol=pl.lit("thesis"), accuracy=1 - pl.col("accuracy"))
    table = pl.concat([base.with_columns(protocol=pl.lit("standard")), thesis])
    said = list(linear_probe.findings(table).sentences)
    assert len(said) == 4
    # Each protocol has its own best block: the worst of one is the best of the other.
    of_a = [sentence for sentence in said if "accuracy of a " in sentence]
    assert "up[1] at t = 0 (" in of_a[0] and "on digits (protocol standard) is" in of_a[0]
    assert "up[1] at t = 50 (" in of_a[1] and "on digits (protocol thesis) is" in of_a[1]
    sizes = pl.concat([base, base.with_columns(resolution=pl.lit(128))])
    said = " ".join(linear_probe.findings(sizes).sentences)
    assert "(64 px)" in said and "(128 px)" in said and "protocol" not in said


def test_correspondence_states_the_estimators_at_the_alpha_nearest_a_tenth():
    rows = [
        ("a", split, position, 50, estimator, alpha, "point", 40, score * (alpha / 0.1))
        for split in ("validation", "test")
        for position, cosine in (("mid_block", 0.2), ("up_blocks.2", 0.3))
        for estimator, score in (("cosine", cosine), ("same_position", 0.06))
        for alpha in (0.05, 0.1)
    ]
    schema = ["model", "split", "position", "timestep", "estimator", "alpha", "average", "points"]
    table = pl.DataFrame(rows, schema=[*schema, "pck"], orient="row").with_columns(
        dataset=pl.lit("menagerie"), low=pl.col("pck"), high=pl.col("pck"), pairs=pl.lit(30)
    )
    found = correspondence.findings(table)
    assert list(found.sentences) == [
        "PCK@0.1 of a on menagerie is best in up[2] at t = 50 (chosen on 30 validation pairs from "
        "2 candidates): 30.0 % [30.0, 30.0] of 40 keypoints on 30 test pairs.",
        "Baselines that see no features: same position 6.0 % [6.0, 6.0].",
    ]
    assert found.table["position"].to_list() == ["up_blocks.2"]
    variant = table.with_columns(
        task=pl.lit("flipped"),
        gain=pl.lit(0.012),
        gain_low=pl.lit(-0.001),
        gain_high=pl.lit(0.03),
        gain_p_holm=pl.lit(0.2),
        gains_tried=pl.lit(3),
    )
    assert (
        correspondence.findings(variant)
        .sentences[0]
        .endswith(
            "; as flipped +1.2 points [-0.1, +3.0] against the plain match, within chance for 3 "
            "gains tried."
        )
    )


def test_of_several_noise_seeds_the_first_is_told():
    one = tables.correspondence()
    both = pl.concat([one, one.with_columns(seed=pl.col("seed") + 1, pck=pl.col("pck") * 0.9)])
    alone, found = (of_experiment("correspondence", table) for table in (one, both))
    seed = one["seed"][0]
    assert found.sentences == [f"With noise seed {seed}: {text}" for text in alone.sentences]
    assert found.table.equals(alone.table)
    assert of_experiment("token_maps", one) == Findings((), None)
