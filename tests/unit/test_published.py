"""Published values: every row is of a known model and place, and stands beside a study's own."""

import json
from pathlib import Path

import polars as pl
import pytest
from reprscope import published
from reprscope.models import registry
from reprscope.models.denoiser import family
from reprscope.plan import specs
from reprscope.plan.comparison import matches
from reprscope.plan.parse import parse
from reprscope.plan.read import read
from reprscope.published import beside, scorecard
from reprscope.runtime.errors import UserError

ROOT = Path(__file__).parents[2]
FOLDER = Path(published.__file__).parent / "values"
INDEX = published.index(FOLDER)
FILES = sorted(path.name for path in FOLDER.glob("*.csv"))


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("name", INDEX)
def test_every_value_is_of_a_known_model_and_place(name):
    entry = INDEX[name]
    rows = published.values(entry, FOLDER)
    assert rows["value"].is_finite().all()
    # A ratio of two similarities near zero may be anything.
    assert entry.metric == "relative" or rows["value"].is_between(-1, 10).all()
    assert (rows["tolerance"] > 0).all()
    keys = [c for c in rows.columns if c not in ("value", "tolerance")]
    assert not rows.select(keys).is_duplicated().any()
    for row in rows.iter_rows(named=True):
        if "model" not in row:
            assert entry.protocol is None
            continue
        architecture = registry.find(row["model"]).architecture
        positions = family(architecture.family).positions(architecture.denoiser)
        assert row["position"] in positions
        assert 0 <= row["timestep"] < architecture.scheduler["num_train_timesteps"]
        assert row["resolution"] % architecture.vae.factor == 0


@pytest.mark.parametrize("file", FILES)
def test_every_row_of_a_file_is_in_exactly_one_entry(file):
    taken = []
    for entry in INDEX.values():
        if entry.file == file:
            rows = pl.read_csv(FOLDER / file).with_row_index("row")
            for column, wanted in entry.rows.items():
                allowed = wanted if isinstance(wanted, list) else [wanted]
                rows = rows.filter(pl.col(column).is_in(allowed))
            taken += rows["row"].to_list()
    assert sorted(taken) == list(range(pl.read_csv(FOLDER / file).height))


def test_every_file_is_described():
    text = (FOLDER / "README.md").read_text()
    assert [file for file in FILES if f"| {file} |" not in text] == []
    assert {entry.file for entry in INDEX.values()} == set(FILES)


# Golden values, from the documents themselves: (entry, what to look up, value in percent).
GOLDEN = [
    ("pck-by-timestep", {"model": "sd-1.5", "position": "up_blocks.1", "timestep": 800}, 5.61),
    ("pck-by-timestep", {"model": "sd-1.5", "position": "up_blocks.1", "timestep": 75}, 47.58),
    (
        "pck-by-resolution",
        {"model": "sd-turbo", "position": "up_blocks.1", "resolution": 768},
        54.8,
    ),
    ("pck-by-resolution", {"model": "sdxl", "position": "up_blocks.0", "resolution": 1024}, 39.85),
    ("pck-by-resolution", {"model": "sd-2.1", "position": "mid_block", "resolution": 512}, 8.0),
    ("pck-baselines", {"estimator": "same_position"}, 5.49),
    ("table-2-cifar10", {"model": "sd-1.5", "position": "mid_block"}, 83.03),
    ("table-2-cifar100", {"model": "sdxl-turbo", "position": "down_blocks.2"}, 56.83),
    ("table-2-tiny-imagenet", {"model": "sd-turbo", "position": "up_blocks.1"}, 39.67),
    ("dense-bgr", {"view": "bgr-9", "position": "up_blocks.2"}, 78.9),
    ("dense-bgr", {"view": "bgr-0", "position": "conv_in"}, 80.5),
    ("dense-bgr-offset", {"view": "bgr-offset-0", "position": "up_blocks.1"}, 81.9),
    ("pck-degraded", {"view": "overlay-4", "position": "up_blocks.1"}, 21.55),
    ("depth-probe", {"region": "all", "position": "up_blocks.1.resnets.1"}, 61.9),
    ("position-sd-2.1", {"grid": 8, "position": "down_blocks.3.resnets.1"}, 98.0),
    ("position-sd-1.5", {"grid": 64, "position": "up_blocks.1.upsamplers.0"}, 57.9),
    ("position-sd-turbo", {"grid": 8, "position": "up_blocks.0.upsamplers.0"}, 99.1),
    ("groups-sd-1.5", {"groups": "corner", "position": "mid_block.resnets.1"}, 217.3),
    ("norms-sd-1.5", {"position": "up_blocks.1.upsamplers.0"}, 379),
]


@pytest.mark.parametrize(("name", "keys", "percent"), GOLDEN)
def test_golden_values(name, keys, percent):
    rows = published.values(INDEX[name], FOLDER)
    for column, value in keys.items():
        rows = rows.filter(pl.col(column) == value)
    assert len(rows) == 1
    printed = len(str(percent).partition(".")[2])
    assert round(100 * rows["value"][0], printed) == percent


RAW = {
    "title": "t",
    "precision": "float16",
    "datasets": {
        "pairs": {"source": "spair", "shards": 3, "urls": ["/a/copy.tar.gz"]},
        "other": {"source": "menagerie", "images": 60},
        "cut": {"source": "spair", "counts": {"images": 5}},
    },
    "views": {"flipped": {"operations": [{"hflip": {}}]}},
    "models": {
        "a": {"known": "sd-1.5"},
        "own": {"path": "resources/models/nano-sd", "resolution": 64},
        "twin": {"untrained": "a"},
        "tuned": {"hub": "someone/tuned", "like": "sd-1.5"},
    },
    "hooksets": {"h": {"positions": ["mid", "up[*]"]}},
    "protocols": {
        "old": {
            "pixels": "unit",
            "posterior": "shared_sample",
            "noise": "shared",
            "rescaling": True,
            "added_conditioning": False,
            "coordinates": "integer",
        }
    },
    "prompts": {"cat": "a cat"},
    "tasks": {
        "m": {"kind": "correspondence"},
        "strict": {"kind": "correspondence", "strict": True},
    },
}
MINE = {
    "name": "mine",
    "tasks": ["m"],
    "datasets": ["pairs"],
    "models": ["a", "own"],
    "positions": ["mid", "up[1]"],
    "resolutions": [512],
    "timesteps": [50, 100],
    "seeds": [42, 43],
    "protocols": ["old", "standard"],
    "figures": [{"name": "f", "kind": "lines_by_timestep"}],
}


def study_with(**changes):
    """A study of one experiment that repeats a corner of figure 7, under names of its own."""
    return parse(RAW | {"experiments": [MINE | changes]})


def found(study):
    return matches(study, study.experiments["mine"])


def table_of(study):
    """What the experiment's table would hold: PCK of 0.1, 0.2, … in the order of the rows."""
    rows = [
        specs.keys(m)
        | {"position": position, "split": split, "estimator": "cosine", "alpha": 0.1}
        | {"average": "point"}
        for m in study.measurements(study.experiments["mine"])
        for position in ("mid_block", "up_blocks.1")
        for split in ("validation", "test")
    ]
    values = pl.Series([0.1 * number for number in range(1, len(rows) + 1)])
    return pl.DataFrame(rows).with_columns(pck=values, low=values - 0.01, high=values + 0.01)


def test_a_match_is_of_what_things_are_and_not_of_their_names():
    first, second = found(study_with())
    assert (first.entry, second.entry) == ("pck-by-timestep", "pck-by-resolution")
    assert first.names == {
        "task": ["m"],
        "dataset": ["pairs"],
        "prompt": ["empty"],
        "protocol": ["old"],
    }
    assert (first.models, first.views) == ({"sd-1.5": ["a"]}, {"identity": ["identity"]})
    assert [match.entry for match in found(study_with(tasks=["strict"]))] == ["pck-baselines"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("models", "own"),
        ("models", "twin"),
        ("models", "tuned"),
        ("datasets", "other"),
        ("datasets", "cut"),
        ("protocols", "standard"),
        ("prompts", "cat"),
        ("views", "flipped"),
        ("seeds", 0),
        ("timesteps", 51),
        ("resolutions", 320),
    ],
)
def test_anything_else_is_no_match(key, value):
    assert found(study_with(**{key: [value]})) == []


@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16"])
def test_values_of_another_precision_are_no_match(precision):
    study = parse(RAW | {"precision": precision, "experiments": [MINE]})
    assert found(study) == []
    # What no features stand behind has no precision.
    without = parse(RAW | {"precision": precision, "experiments": [MINE | {"tasks": ["strict"]}]})
    assert [match.entry for match in found(without)] == ["pck-baselines"]


# Settings of the other kinds: (what, changes of the task, of the experiment) and what is the same.
PROBE = {
    "kind": "position_probe",
    "form": "published",
    "tokens_per_image": 0,
    "held_out": "last",
}
GROUPS = {"kind": "token_groups", "crops": ["cut"], "counts": "published"}
DEPTH = {"kind": "depth_probe", "form": "published", "detect": "up[1] res[2]"}
NORMS = {"kind": "anomalies"}
POSITION, PAPER = ["position-sd-1.5"], {"positions": ["up[1] res[2]"]}
NORM = ["norms-sd-1.5", "images-with-anomalies"]
SAME_GROUPS = ["groups-sd-1.5", "groups-image-sd-1.5", "groups-representation-sd-1.5"]
ROOMS = PAPER | {"datasets": ["rooms"], "views": ["kept"], "resolutions": [640]}
SAME = [
    (PROBE, PAPER, POSITION),
    (PROBE | {"grids": [8], "examples": 3, "iterations": 10, "seed": 4}, PAPER, POSITION),
    (PROBE | {"held_out": "drawn"}, PAPER, []),
    (PROBE | {"test_share": 0.5}, PAPER, []),
    (PROBE | {"form": "converged"}, PAPER, []),
    (PROBE | {"tokens_per_image": 64}, PAPER, []),
    ({"kind": "position_probe"}, PAPER, []),
    (PROBE, PAPER | {"datasets": ["food"]}, []),
    (PROBE, PAPER | {"protocols": ["standard"]}, []),
    (GROUPS, PAPER, SAME_GROUPS),
    (GROUPS | {"counts": "exact"}, PAPER, []),
    (NORMS, PAPER, NORM),
    (NORMS | {"detect": "conv_in"}, PAPER, []),
    (NORMS | {"threshold": 9}, PAPER, []),
    (DEPTH, ROOMS, ["depth-probe"]),
    (DEPTH | {"positions": ["up_blocks.1.resnets.2"]}, ROOMS, ["depth-probe"]),
    (DEPTH | {"form": "ridge"}, ROOMS, []),
    (DEPTH | {"steps": 2000}, ROOMS, []),
    (DEPTH, ROOMS | {"views": ["identity"]}, []),
    (DEPTH, ROOMS | {"datasets": ["official"]}, []),
]
KINDS = {
    "title": "t",
    "precision": "float16",
    "datasets": {
        "photos": {"source": "imagenet_subset"},
        "food": {"source": "imagenet_subset", "dataset": "ethz/food101", "classes": ["pizza"]},
        "rooms": {"source": "nyu", "division": "thesis"},
        "official": {"source": "nyu"},
    },
    "views": {
        "cut": {"after": [{"crop": {"left": 16, "top": 16, "right": 16, "bottom": 16}}]},
        "kept": {"fit": "keep"},
    },
    "models": {"a": {"known": "sd-1.5"}},
    "hooksets": {"h": {"positions": ["up[*] res[*]", "up[*]", "conv_in"], "store": "tokens"}},
}


@pytest.mark.parametrize(("task", "changes", "expected"), SAME)
def test_only_the_same_quantity_matches(task, changes, expected):
    experiment = {
        "name": "mine",
        "tasks": ["t"],
        "datasets": ["photos"],
        "models": ["a"],
        "resolutions": [512],
        "timesteps": [50],
        "seeds": [42],
        "protocols": ["thesis"],
    }
    study = parse(KINDS | {"tasks": {"t": task}, "experiments": [experiment | changes]})
    assert [match.entry for match in found(study)] == expected


def test_values_stand_beside_their_rows_and_no_others():
    study = study_with()
    table = table_of(study)
    both = beside(table, found(study))
    assert both.drop("published_pck", "published_pck_from").equals(table)
    has = both.filter(pl.col("published_pck").is_not_null())
    # Of one model, one protocol, one seed and one split: two timesteps and two positions.
    assert has.select("model", "protocol", "seed", "split").unique().rows() == [
        ("a", "old", 42, "test")
    ]
    values = {(row["position"], row["timestep"]): row["published_pck"] for row in has.to_dicts()}
    csv = pl.read_csv(FOLDER / "pck_by_timestep.csv").filter(
        pl.col("model") == "sd-1.5",
        pl.col("position").is_in(["mid_block", "up_blocks.1"]),
        pl.col("timestep").is_in([50, 100]),
    )
    assert values == {(p, t): v for _, p, t, v in csv.rows()}
    # Figure 8 has two of the four as well; figure 7 has all, so that a line is of one source.
    assert has["published_pck_from"].to_list() == ["thesis, figure 7"] * 4
    assert beside(table, []).equals(table)


def test_a_table_that_lacks_a_key_is_named():
    study = study_with()
    with pytest.raises(UserError, match=r"pck-by-timestep.*estimator"):
        beside(table_of(study).drop("estimator"), found(study))


def test_figures_depend_on_the_index_and_read_only_the_files_that_match():
    study = study_with()
    spec = json.loads(specs.figure(study, "mine", "f"))
    assert [m["entry"] for m in spec["published"]["matches"]] == [m.entry for m in found(study)]
    assert spec["published"]["index"]["pck-by-timestep"]["item"] == "figure 7"
    assert published.files(["pck-by-timestep"]) == [str(FOLDER / "pck_by_timestep.csv")]
    assert published.files([]) == []
    nothing = json.loads(specs.figure(study_with(models=["own"]), "mine", "f"))
    assert nothing["published"] == {"matches": [], "index": {}, "values": {}}


def test_the_scorecard_has_every_number_and_ours_beside_those_that_are_measured():
    study = study_with()
    table = table_of(study)
    card = scorecard.scorecard([("mine", table, found(study))])
    assert len(card) == sum(len(pl.read_csv(FOLDER / file)) for file in FILES)
    ours = card.filter(pl.col("ours").is_not_null())
    assert ours["experiment"].unique().to_list() == ["mine"]
    counts = ours.group_by("item").len().sort("item").rows()
    assert counts == [("figure 7", 4), ("figure 8", 2)]
    for row in ours.iter_rows(named=True):
        here = table.filter(
            pl.col("model") == "a",
            pl.col("protocol") == "old",
            pl.col("seed") == 42,
            pl.col("split") == "test",
            pl.col("timestep") == row["timestep"],
            pl.col("position") == row["position"],
        )
        assert here["pck"].to_list() == [row["ours"]]
        assert row["low"] == row["ours"] - 0.01 and row["high"] == row["ours"] + 0.01
        assert row["difference"] == row["ours"] - row["published"]
        assert row["within"] is (abs(row["difference"]) <= 0.003)
    missing = card.filter(pl.col("ours").is_null())
    assert missing["difference"].null_count() == missing["within"].null_count() == len(missing)
    seven = missing.filter(pl.col("item") == "figure 7")
    assert seven["experiment"].unique().to_list() == ["studies/thesis.yaml: figure-7"]


def test_agreement_counts_up_to_the_tolerance_and_no_further():
    study = study_with()
    csv = pl.read_csv(FOLDER / "pck_by_timestep.csv").filter(
        pl.col("model") == "sd-1.5", pl.col("position") == "mid_block", pl.col("timestep") == 50
    )
    for off, within in ((0.0, True), (0.0029, True), (-0.003, True), (0.0031, False)):
        value = csv["value"][0] + off
        table = table_of(study).with_columns(pck=pl.lit(value))
        card = scorecard.scorecard([("mine", table, found(study))])
        row = card.filter(
            pl.col("item") == "figure 7",
            pl.col("ours").is_not_null(),
            pl.col("position") == "mid_block",
            pl.col("timestep") == 50,
        )
        assert row["within"].to_list() == [within]


def test_the_summary_counts_and_names_the_worst():
    study = study_with()
    table = table_of(study)
    card = scorecard.scorecard([("mine", table, found(study))])
    summary = scorecard.summary(card)
    assert summary["values"].sum() == card["experiment"].count()
    row = summary.filter(pl.col("item") == "figure 7").row(0, named=True)
    ours = card.filter(pl.col("item") == "figure 7", pl.col("ours").is_not_null())
    worst = max(ours["difference"].to_list(), key=abs)
    assert (row["values"], row["compared"], row["worst_difference"]) == (561, 4, worst)
    assert row["within"] == ours["within"].sum()
    assert row["missing_from"] == "studies/thesis.yaml: figure-7"
    assert scorecard.sentences(card)[1].startswith("This study measures 6 of them; ")


def test_what_nothing_measures_is_not_counted():
    card = scorecard.scorecard([])
    without = [entry for entry in INDEX.values() if not entry.experiment]
    lost = sum(len(published.values(entry, FOLDER)) for entry in without)
    assert card["experiment"].null_count() == lost > 1000
    assert scorecard.summary(card)["values"].sum() == len(card) - lost
    assert f"report {len(card) - lost:,} numbers" in scorecard.sentences(card)[0]
    assert "figure 18" not in scorecard.summary(card)["item"]


def test_one_for_every_norm_agrees_with_at_most_a_handful():
    paper = read(ROOT / "studies/paper.yaml")
    study = parse(paper)
    experiment = study.experiments["figures-2-4-and-5-anomalies"]
    rows = pl.concat(
        [
            published.renamed(published.values(INDEX[match.entry]), match)
            for match in matches(study, experiment)
            if match.entry.startswith("norms-")
        ],
        how="diagonal_relaxed",
    )
    assert len(rows) == 135
    # Within the tolerance of 1 itself lie 29: of layers whose anomalies have the norm of others.
    table = rows.drop("value", "tolerance").with_columns(relative_norm=pl.lit(1.0))
    norms = [match for match in matches(study, experiment) if match.entry.startswith("norms-")]
    card = scorecard.scorecard([("mine", table, norms)])
    ours = card.filter(pl.col("ours").is_not_null())
    assert len(ours) == 135
    assert (~ours["telling"]).sum() == 29
    assert ours["within"].sum() == 0
    right = rows.select(pl.exclude("value", "tolerance"), relative_norm="value")
    card = scorecard.scorecard([("mine", right, norms)])
    assert card["within"].sum() == 106
    said = scorecard.sentences(card)[1]
    assert said.startswith("This study measures 135 of them; 29 are too close to what no effect")
    assert said.endswith("of the other 106, 106 agree within the tolerance.")


def test_the_tolerance_of_norms_is_three_standard_errors_over_images():
    rows = pl.read_csv(FOLDER / "anomaly_norm.csv")
    # Images with at least one of the labels, of 500.
    assert dict(rows.group_by("model").agg(pl.col("images").first()).rows()) == {
        "sd-1.5": 144,
        "sd-2.1": 76,
        "sd-turbo": 438,
    }
    expected = 3 * rows["deviation"] / rows["images"].sqrt()
    assert (rows["tolerance"] - expected).abs().max() < 1e-6


def test_tolerances_of_pck_grow_with_the_noise():
    rows = published.values(INDEX["pck-by-timestep"], FOLDER)
    named = INDEX["pck-by-timestep"].tolerance_at
    for timestep, tolerance in rows.select("timestep", "tolerance").unique().rows():
        last = max((first for first in named if first <= timestep), default=None)
        assert tolerance == (0.003 if last is None else named[last])
    assert min(named) == 300
    assert sorted(named.values()) == list(named.values())


STUDIES = {name: read(ROOT / f"studies/{name}.yaml") for name in ("thesis", "paper")}


@pytest.mark.parametrize("name", [name for name, entry in INDEX.items() if entry.experiment])
def test_the_experiment_that_is_named_measures_every_value(name):
    entry = INDEX[name]
    study = parse(STUDIES[entry.study])
    experiment = study.experiments[entry.experiment]
    match = next(m for m in matches(study, experiment) if m.entry == name)
    rows = published.renamed(published.values(entry), match)
    assert len(rows) >= len(published.values(entry))
    measured = pl.DataFrame(
        [
            m.wildcards() | {"position": position}
            for m in study.measurements(experiment)
            for position in study.positions(experiment, m.model)
        ]
    )
    keys = [column for column in rows.columns if column in measured.columns]
    assert rows.join(measured, on=keys, how="anti").is_empty()
