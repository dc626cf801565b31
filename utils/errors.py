"""The one exception that a user is meant to see."""


class UserError(Exception):
    """A mistake in what the user gave: one line that names the file, the key or the flag and what to do.

    The programs in `bins/` print it without a traceback and exit with status 1.
    """


def first_line(error: Exception) -> str:
    """What a library's error says, in one line; its type where it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)
