"""The one exception that a user is meant to see."""


class UserError(Exception):
    """A mistake in what the user gave: one line that names the file, the key or the flag and what to do.

    The programs in `bins/` print it without a traceback and exit with status 1.
    """
