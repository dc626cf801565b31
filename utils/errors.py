"""The one exception that users are meant to see."""


class UserError(Exception):
    """A mistake in the user's input: one line that names the file, key or flag, and what to do.

    The programs in `bins/` print it without a traceback and exit with status 1.
    """


class MemoryExceededError(UserError):
    """Something does not fit into the memory; the line says what to lower."""


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type if it has no message."""
    return next(iter(str(error).splitlines()), type(error).__name__)
