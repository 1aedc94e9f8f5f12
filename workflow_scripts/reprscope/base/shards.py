"""Slices of a dataset that one job handles."""


def rows(shard: str, total: int) -> range:
    """Rows of a shard such as ``0of2``: contiguous slices that differ by at most one in length."""
    number, count = (int(part) for part in shard.split("of"))
    return range(total * number // count, total * (number + 1) // count)
