"""Divisions of images into splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction

from reprscope.base.seeds import item_seed
from reprscope.data.record import Record, listed
from reprscope.runtime.errors import UserError

_SPLITS = ("train", "validation", "test")


def check_shares(*, validation: float, test: float = 0.0, seed: int) -> None:
    """Check shares of images and the seed of a division.

    Raises
    ------
    UserError
        If a share is outside [0, 1], or both together are.
    """
    inside = 0 <= validation <= 1 and 0 <= test <= 1
    if not inside or _exact(validation) + _exact(test) > 1:
        raise UserError(
            "validation and test are shares of the images: set them between 0 and 1, together at "
            "most 1."
        )
    if seed < 0:
        raise UserError("seed must not be negative.")


def drawn_split(seed: int, image_id: str, validation: float, test: float = 0.0) -> str:
    """Split of an image: ``test`` and ``validation`` with these probabilities, or ``train``.

    For images without labels whose number is the study's own choice; see :func:`divide`.
    """
    position = _position(seed, image_id)
    if position < test:
        return "test"
    return "validation" if position < test + validation else "train"


def divide(
    seed: int,
    image_ids: Sequence[str],
    labels: Sequence[str | None],
    validation: float,
    test: float = 0.0,
) -> list[str]:
    """Split of each image: exact shares of all images, and as near as can be of each label's.

    Numbers of all splits are rounded together (largest remainder).  Of each label a split has its
    share rounded down or up, as far as images are left.  Within a label every image has its own
    place in the order of drawing, so that one image more moves few others.

    Parameters
    ----------
    seed : int
    image_ids : sequence of str
        Unique names.
    labels : sequence of str or None
        Label of each; those without one count as one more label.
    validation, test : float
        Shares of the images in these splits; the rest is for training.
    """
    of_label: dict[str | None, list[int]] = {}
    for number, label in enumerate(labels):
        of_label.setdefault(label, []).append(number)
    names = sorted(of_label, key=lambda label: item_seed(seed, "label", label or ""))
    sizes = {label: len(of_label[label]) for label in names}
    shares = {"validation": _exact(validation), "test": _exact(test)}
    wanted = _rounded(len(image_ids), shares)
    quotas = {split: {n: share * sizes[n] for n in names} for split, share in shares.items()}
    tested = _spread(wanted["test"], quotas["test"], sizes, quotas["test"])
    left = {label: sizes[label] - tested[label] for label in names}
    # What a label lacks in the test split it gets here, so that training has its share as well.
    lacks = {n: quotas["validation"][n] + quotas["test"][n] - tested[n] for n in names}
    validated = _spread(wanted["validation"], quotas["validation"], left, lacks)
    found = ["train"] * len(image_ids)
    for label in names:
        order = sorted(of_label[label], key=lambda row: _position(seed, image_ids[row]))
        first = tested[label]
        for rank, row in enumerate(order[: first + validated[label]]):
            found[row] = "test" if rank < first else "validation"
    return found


def say_division(
    record: Record, splits: Sequence[str], labels: Sequence[str | None], how: str
) -> None:
    """Say how many images and classes each split has, and what is missing where.

    Parameters
    ----------
    record : Record
    splits, labels : sequence
        Split, and label or None, of each image.
    how : str
        Who divided them, in words.
    """
    counts = Counter(splits)
    said = ", ".join(f"{split} {counts[split]}" for split in _SPLITS if counts[split])
    record.say(f"splits ({how}): {said}")
    known = Counter(label for label in labels if label is not None)
    if not known:
        return
    shown = [f"{label} {count}" for label, count in sorted(known.items())]
    record.say(f"{len(known)} classes: {listed(shown, len(shown), 10)}")
    in_split = {split: set[str]() for split in counts}
    for split, label in zip(splits, labels, strict=True):
        if label is not None:
            in_split[split].add(label)
    for split in (split for split in _SPLITS if in_split.get(split)):
        lacks = sorted(known.keys() - in_split[split])
        if lacks:
            record.say(f"no image in {split} of {listed(lacks, len(lacks))}")


def _position(seed: int, image_id: str) -> float:
    """Place of an image in the order of drawing, in [0, 1)."""
    return item_seed(seed, "split", image_id) / 2**63


def _exact(share: float) -> Fraction:
    """Return a share as it is written: 0.1 is a tenth."""
    return Fraction(str(float(share)))


def _rounded(total: int, shares: Mapping[str, Fraction]) -> dict[str, int]:
    """Whole numbers of images of each split, by largest remainder; the rest is for training."""
    quotas = {"train": total * (1 - sum(shares.values()))}
    quotas |= {split: total * share for split, share in shares.items()}
    numbers = {split: int(quota) for split, quota in quotas.items()}
    order = sorted(quotas, key=lambda split: (numbers[split] - quotas[split], split != "train"))
    for split in order[: total - sum(numbers.values())]:
        numbers[split] += 1
    return numbers


def _spread(
    wanted: int,
    quotas: Mapping[str | None, Fraction],
    most: Mapping[str | None, int],
    urgency: Mapping[str | None, Fraction],
) -> dict[str | None, int]:
    """Whole numbers with a given sum: quotas rounded down, or up where it is most urgent.

    None is above ``most``; where that leaves too few, others are one more above their quota.
    """
    numbers = {label: min(int(quota), most[label]) for label, quota in quotas.items()}
    while missing := wanted - sum(numbers.values()):
        below = [n for n in numbers if numbers[n] < most[n]]
        near = [n for n in below if numbers[n] < quotas[n]]
        chosen = sorted(near or below, key=lambda label: numbers[label] - urgency[label])
        for label in chosen[:missing]:
            numbers[label] += 1
    return numbers
