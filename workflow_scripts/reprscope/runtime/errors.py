"""The one exception whose text is meant for the user."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+")


class UserError(Exception):
    """A mistake that the user can mend.

    The message is one sentence: what is wrong, in which entry or file, and what to do. What it
    quotes may have line breaks, or signs that turn the line around; they become blanks.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_BREAKS.sub(" ", message))


def perhaps(wrong: object, known: Iterable[object]) -> str:
    """What was probably meant, as an end of a sentence: `` (perhaps device)``; empty if nothing."""
    names = {str(name).casefold(): str(name) for name in known}
    close = get_close_matches(str(wrong).casefold(), names, n=1)
    return f" (perhaps {names[close[0]]})" if close else ""
