"""Divisions into splits: exact, even over labels, and stable."""

import itertools
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from reprscope.data.record import Record
from reprscope.data.shares import check_shares, divide, say_division
from reprscope.runtime.errors import UserError

SHARES = [(0.2, 0.3), (0.1, 0.1), (0.0, 0.5), (0.33, 0.33), (0.05, 0.0), (0.5, 0.5), (0.7, 0.3)]


def names(count):
    return [f"{number:04d}.png" for number in range(count)]


def counts(splits, labels, label):
    return Counter(s for s, mine in zip(splits, labels, strict=True) if mine == label)


def test_sixty_images_of_three_classes_have_twelve_for_validation_and_four_of_each_class():
    labels = ["cat", "dog", "owl"] * 20
    splits = divide(0, names(60), labels, 0.2, 0.3)
    assert Counter(splits) == {"train": 30, "validation": 12, "test": 18}
    for label in ("cat", "dog", "owl"):
        assert counts(splits, labels, label) == {"train": 10, "validation": 4, "test": 6}


def test_two_classes_of_three_images_have_one_of_each_for_testing():
    labels = ["cat"] * 3 + ["dog"] * 3
    for seed in range(20):
        splits = divide(seed, names(6), labels, 0.2, 0.3)
        assert Counter(splits) == {"train": 3, "validation": 1, "test": 2}
        assert all(counts(splits, labels, label)["test"] == 1 for label in ("cat", "dog"))
        assert all(counts(splits, labels, label)["train"] >= 1 for label in ("cat", "dog"))


@pytest.mark.parametrize("shares", SHARES)
def test_all_splits_have_their_exact_share_and_those_of_each_label_are_rounded(shares):
    validation, test = shares
    quota = {"validation": Fraction(str(validation)), "test": Fraction(str(test))}
    rng = np.random.default_rng(0)
    for trial in range(60):
        labels = [f"c{n}" for n in rng.integers(0, rng.integers(1, 9), rng.integers(1, 90))]
        splits = divide(trial, names(len(labels)), labels, validation, test)
        found = Counter(splits)
        for split, share in quota.items():
            assert abs(found[split] - share * len(labels)) < 1
        for label, size in Counter(labels).items():
            # A label's images may run out before both splits could be rounded up.
            for split, share in quota.items():
                own = counts(splits, labels, label)[split]
                spare = size - sum(-(-size * s // 1) for s in quota.values())
                assert own <= -(-size * share // 1) + (spare < 0)
                assert own >= size * share // 1 - (spare < 0)


def test_largest_remainder_against_all_possible_roundings():
    """The rounded numbers are the nearest whole ones with the same sum."""
    for total, (validation, test) in itertools.product(range(1, 41), SHARES):
        found = Counter(divide(0, names(total), [None] * total, validation, test))
        quotas = np.array([1 - validation - test, validation, test]) * total
        mine = np.array([found[split] for split in ("train", "validation", "test")])
        best = min(
            np.abs(np.array([total - v - t, v, t]) - quotas).sum()
            for v in range(total + 1)
            for t in range(total + 1 - v)
        )
        assert np.abs(mine - quotas).sum() <= best + 1e-9


def test_one_image_more_moves_few_others():
    labels = [f"c{number % 7}" for number in range(300)]
    before = divide(3, names(300), labels, 0.2, 0.3)
    moved = []
    for label in ("c0", "c5", "new"):
        after = divide(3, [*names(300), "one more.png"], [*labels, label], 0.2, 0.3)
        moved.append(sum(a != b for a, b in zip(before, after, strict=False)))
    assert max(moved) <= 6
    # Nothing depends on the order in which images come.
    order = np.random.default_rng(1).permutation(300)
    shuffled = divide(3, [names(300)[i] for i in order], [labels[i] for i in order], 0.2, 0.3)
    assert [before[i] for i in order] == shuffled
    assert divide(4, names(300), labels, 0.2, 0.3) != before


def test_a_hundred_classes_of_two_keep_one_image_each_to_train_on():
    labels = [f"c{number // 2}" for number in range(200)]
    splits = divide(0, names(200), labels, 0.2, 0.3)
    assert Counter(splits) == {"train": 100, "validation": 40, "test": 60}
    assert all(counts(splits, labels, f"c{n}")["train"] == 1 for n in range(100))


def test_images_without_a_label_are_one_stratum():
    labels = [None] * 20 + ["cat"] * 20
    splits = divide(0, names(40), labels, 0.25, 0.25)
    assert counts(splits, labels, None) == {"train": 10, "validation": 5, "test": 5}


@pytest.mark.parametrize("count", [0, 1, 2])
def test_sets_of_a_few_images(count):
    splits = divide(0, names(count), [None] * count, 0.2, 0.3)
    assert sorted(splits) == [["train"], ["test", "train"]][count - 1] if count else not splits


def test_the_record_says_what_is_missing_where():
    record = Record()
    say_division(
        record, ["train", "train", "test", "test"], ["cat", "dog", "cat", None], "drawn, seed 0"
    )
    assert record.lines() == (
        "splits (drawn, seed 0): train 2, test 2",
        "2 classes: cat 2, dog 1",
        "no image in test of dog",
    )


@pytest.mark.parametrize("share", [float("nan"), float("inf"), -0.1, 1.1])
def test_a_share_is_between_none_and_all(share):
    with pytest.raises(UserError, match="validation and test are shares"):
        check_shares(validation=share, seed=0)
    check_shares(validation=0.1, test=0.9, seed=0)
