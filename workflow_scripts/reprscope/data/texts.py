"""Labels and captions as sources write them, and what stands for none."""

from __future__ import annotations

import math

NO_LABEL = "-1"
"""What stands for no label in many datasets, as a number or a text, beside a blank one."""


#: Floats up to here hold all whole numbers.
_EXACT = 1 << 53


def text_or_none(value: str | float | None) -> str | None:
    """Return a text as it is; None for null, for not a number, and for one that is blank.

    A whole number that is stored as a float, as pandas does where some are missing, is written as
    the whole number that it is.
    """
    if value is None:
        return None
    if isinstance(value, float):
        if math.isnan(value):
            return None
        value = int(value) if value.is_integer() and abs(value) < _EXACT else value
    text = str(value)
    return text if text.strip() else None


def label_text(value: str | float | None) -> str | None:
    """Return a label as text; None as for :func:`text_or_none`, and for -1."""
    text = text_or_none(value)
    return None if text is None or text.strip() == NO_LABEL else text
