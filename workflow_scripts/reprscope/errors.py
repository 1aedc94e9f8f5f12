"""The one exception whose text is meant for the user."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake that the user can mend.

    The message is one sentence: what is wrong, in which entry or file, and what to do.
    """


def perhaps(wrong: object, known: Iterable[object]) -> str:
    """What was probably meant, as an end of a sentence: `` (perhaps device)``; empty if nothing."""
    names = {str(name).casefold(): str(name) for name in known}
    close = get_close_matches(str(wrong).casefold(), names, n=1)
    return f" (perhaps {names[close[0]]})" if close else ""
