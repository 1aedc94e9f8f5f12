"""PCK of parts of the pairs, against correspondence of these pairs alone."""

import numpy as np
import polars as pl
import pytest
from reprscope.plan.parse import parse
from reprscope.plan.read import read
from reprscope.runtime.errors import UserError
from reprscope.tasks import correspondence, needs
from reprscope.tasks.correspondence_groups import Parameters, findings, measure, summarise
from support.fakes import FakeAnnotations, FakeRepresentations, pair
from support.project import ROOT

BY = ("category", "viewpoint", "occlusion")


@pytest.fixture(scope="module")
def study():
    """Random tokens of 14 images, seven of a kind, and pairs of different difficulty."""
    rng = np.random.default_rng(2)
    names = [f"i{number:02}" for number in range(14)]
    grids = {
        position: {name: rng.normal(size=(h, h, 4)) for name in names}
        for position, h in (("mid_block", 3), ("up_blocks.1", 6))
    }
    features = FakeRepresentations(grids, dict.fromkeys(names, (100, 100)))
    rows = []
    for number in range(60):
        kind = number % 2
        source, target = rng.choice(7, 2, replace=False) + 7 * kind
        points = int(rng.integers(1, 5))
        rows.append(
            pair(
                f"p{number:02}", names[source], names[target],
                split="validation" if number < 10 else "test",
                category=("cat", "dog")[kind],
                keypoints=[f"k{i}" for i in range(points)],
                source_xy=rng.uniform(0, 100, (points, 2)).tolist(),
                target_xy=rng.uniform(0, 100, (points, 2)).tolist(),
            )
            | {"viewpoint_variation": int(rng.integers(0, 2)), "occlusion": int(rng.choice([0, 3]))}
        )  # fmt: skip
    images = pl.DataFrame({"image_id": names, "width": 100, "height": 100, "split": "test"})
    return features, FakeAnnotations(images, pl.DataFrame(rows))


@pytest.fixture(scope="module")
def table(study):
    parameters = Parameters(alphas=(0.1, 0.3), by=BY)
    return summarise(measure(*study, parameters), parameters)


def test_each_part_is_what_correspondence_finds_of_these_pairs_alone(study, table):
    features, annotations = study
    pairs = annotations.pairs()
    parts = {
        ("category", "cat"): pl.col("category") == "cat",
        ("viewpoint", "medium"): pl.col("viewpoint_variation") == 1,
        ("occlusion", "both"): pl.col("occlusion") == 3,
        ("viewpoint", "all"): pl.lit(True),
    }
    plain = correspondence.Parameters(alphas=(0.1, 0.3))
    for (by, value), chosen in parts.items():
        alone = FakeAnnotations(annotations.images(), pairs.filter(chosen))
        expected = correspondence.summarise(correspondence.measure(features, alone, plain), plain)
        own = table.filter(by=by, value=value)
        averages = ["point", "pair"] + ["category"] * (value == "all")
        columns = ["position", "split", "estimator", "alpha", "average"]
        numbers = ["points", "pairs", "pck", "low", "high"]
        expected = expected.filter(pl.col("average").is_in(averages)).sort(columns)
        assert len(own) == len(expected) == 2 * 2 * 5 * 2 * len(averages)
        own = own.sort(columns)
        assert own.select(columns).equals(expected.select(columns))
        for name in numbers:
            np.testing.assert_allclose(
                own[name].cast(float).to_numpy(), expected[name].cast(float).to_numpy(), atol=1e-12
            )
    assert table["low"].is_not_null().any()


def test_parts_are_named_as_in_spair_and_only_those_that_there_are(table):
    found = table.select("by", "value").unique(maintain_order=True).rows()
    assert found == [
        ("category", "all"), ("category", "cat"), ("category", "dog"),
        ("viewpoint", "all"), ("viewpoint", "easy"), ("viewpoint", "medium"),
        ("occlusion", "all"), ("occlusion", "none"), ("occlusion", "both"),
    ]  # fmt: skip
    one = table.filter(position="mid_block", split="test", estimator="cosine", alpha=0.3)
    total = one.filter(value="all", by="viewpoint", average="point")["points"].item()
    parts = one.filter(pl.col("value") != "all", by="viewpoint", average="point")
    assert parts["points"].sum() == total
    weighted = (parts["points"] * parts["pck"]).sum() / total
    assert weighted == pytest.approx(
        one.filter(value="all", by="viewpoint", average="point")["pck"].item()
    )
    assert (table.filter(value="cat", split="test")["images"] <= 7).all()


def test_a_part_of_few_images_has_no_interval(study):
    features, annotations = study
    pairs = annotations.pairs().with_columns(
        viewpoint_variation=pl.when(pl.col("pair_id") == "p11").then(2).otherwise(0)
    )
    parameters = Parameters(by=("viewpoint",))
    found = summarise(
        measure(features, FakeAnnotations(annotations.images(), pairs), parameters), parameters
    )
    hard = found.filter(value="hard")
    assert (hard["images"] == 2).all() and (hard["pairs"] == 1).all()
    assert hard["low"].is_null().all() and hard["pck"].is_not_null().all()


def test_sentences_describe_the_best_block(table):
    named = table.with_columns(
        model=pl.lit("m"), dataset=pl.lit("d"), timestep=pl.lit(50), task=pl.lit("t")
    )
    (said,) = findings(named).sentences
    assert said.startswith("PCK@0.1 of m on d in ")
    assert "test pairs: of 2 categories from " in said
    assert "; by viewpoint easy " in said and ", medium " in said
    assert "; by occlusion none " in said and ", both " in said
    row = named.filter(value="all", by="category", average="point", alpha=0.1, estimator="cosine",
                       split="test").sort("pck").row(-1, named=True)  # fmt: skip
    assert {"mid_block": "mid at", "up_blocks.1": "up[1] at"}[row["position"]] in said


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"by": ()}, r"by is \[\]"),
        ({"by": ("colour",)}, "category, viewpoint, scale, truncation, occlusion"),
        ({"by": ("scale", "scale")}, "each once"),
        ({"alphas": ()}, "alphas"),
    ],
)
def test_unusable_settings_are_named(settings, words):
    with pytest.raises(UserError, match=words):
        Parameters(**settings)


def test_a_difficulty_without_a_meaning_is_named(study):
    features, annotations = study
    odd = annotations.pairs().with_columns(occlusion=pl.lit(4))
    with pytest.raises(UserError, match=r"occlusion of pair 'p00' is 4, which is none of 0 to 3"):
        measure(features, FakeAnnotations(annotations.images(), odd), Parameters(by=("occlusion",)))


def test_difficulties_are_offered_only_where_pairs_have_them(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert needs("correspondence_groups", Parameters()) == {"pairs"}
    content = read(ROOT / "studies/embedded.yaml")
    entry = {"name": "e", "datasets": ["menagerie-pairs"], "models": ["nano-sd"],
             "positions": ["mid_block"], "timesteps": [50], "tasks": ["groups"]}  # fmt: skip
    task = {"kind": "correspondence_groups"}
    parse(content | {"tasks": {"groups": task}, "experiments": [entry]})
    task |= {"by": ["category", "viewpoint"]}
    with pytest.raises(UserError, match="menagerie-pairs has no difficulties, which"):
        parse(content | {"tasks": {"groups": task}, "experiments": [entry]})


def test_the_mean_over_categories_is_that_of_the_categories(table):
    one = table.filter(
        position="up_blocks.1", split="test", estimator="cosine", alpha=0.3, by="category"
    )
    of = dict(one.filter(average="point").select("value", "pck").iter_rows())
    mean = one.filter(average="category")
    assert mean["value"].to_list() == ["all"]
    assert mean["pck"].item() == pytest.approx((of["cat"] + of["dog"]) / 2)
