"""The one exception whose text is meant for the user."""


class UserError(Exception):
    """A mistake that the user can mend.

    The message is one sentence: what is wrong, in which entry or file, and what to do.
    """
