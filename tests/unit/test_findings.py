import polars as pl
from reprscope.findings import Findings, chosen_on_validation, of_experiment
from reprscope.tasks import correspondence, linear_probe
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
)


def test_the_best_block_is_chosen_on_validation_and_reported_on_test():
    found = chosen_on_validation(TABLE, "accuracy")
    assert found.select("model", "position", "timestep", "accuracy").rows() == [
        ("a", "up_blocks.1", 0, 0.55),
        ("b", "mid_block", 0, 0.1),
    ]


def test_models_keep_the_order_of_the_table_and_conditions_stay_apart():
    reverse = TABLE.reverse().with_columns(dataset=pl.lit("x"))
    both = pl.concat([reverse, reverse.with_columns(dataset=pl.lit("y"))])
    found = chosen_on_validation(both, "accuracy")
    assert found["model"].to_list() == ["b", "b", "a", "a"]
    assert found["dataset"].to_list() == ["x", "y", "x", "y"]


def test_sentences_state_the_numbers_of_the_chosen_row():
    table = TABLE.with_columns(
        dataset=pl.lit("digits"),
        classes=pl.lit(10),
        images=pl.lit(300),
        low=pl.col("accuracy") - 0.05,
        high=pl.col("accuracy") + 0.05,
        chance=pl.lit(0.1),
    )
    first, second = linear_probe.findings(table).sentences
    assert first == (
        "a tells 10 classes apart best in up[1] at t = 0: 55.0 % [50.0, 60.0] of 300 test images "
        "of digits (chance 10.0 %)."
    )
    assert "b tells" in second
    assert "mid at t = 0" in second


def test_every_condition_has_a_sentence_that_names_it():
    base = TABLE.with_columns(
        dataset=pl.lit("digits"),
        classes=pl.lit(10),
        images=pl.lit(300),
        low=pl.col("accuracy"),
        high=pl.col("accuracy"),
        chance=pl.lit(0.1),
        resolution=pl.lit(64),
    )
    thesis = base.with_columns(protocol=pl.lit("thesis"), accuracy=1 - pl.col("accuracy"))
    table = pl.concat([base.with_columns(protocol=pl.lit("standard")), thesis])
    said = list(linear_probe.findings(table).sentences)
    assert len(said) == 4
    # Each protocol has its own best block: the worst of one is the best of the other.
    of_a = [sentence for sentence in said if sentence.startswith("a ")]
    assert "up[1] at t = 0: 55.0 %" in of_a[0] and "of digits (protocol standard) (" in of_a[0]
    assert "up[1] at t = 50: 20.0 %" in of_a[1] and "of digits (protocol thesis) (" in of_a[1]
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
        dataset=pl.lit("menagerie"), low=pl.col("pck"), high=pl.col("pck")
    )
    found = correspondence.findings(table)
    assert list(found.sentences) == [
        "a finds 30.0 % [30.0, 30.0] of 40 test keypoints of menagerie within 0.1 of the target "
        "box in up[2] at t = 50.",
        "Without looking, the same position estimator reaches 6.0 % [6.0, 6.0] of them.",
    ]
    assert found.table["position"].to_list() == ["up_blocks.2"]
    variant = table.with_columns(
        task=pl.lit("flipped"), gain=pl.lit(0.012), gain_low=pl.lit(-0.001), gain_high=pl.lit(0.03)
    )
    assert (
        correspondence.findings(variant)
        .sentences[0]
        .endswith(
            "box in up[2] at t = 50 as flipped: +1.2 points [-0.1, +3.0] over the plain match."
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
