"""The one exception for what a user typed or supplied; entry points print it without a traceback."""


class InputError(ValueError):
    """Say what is wrong, what was expected, and what to do about it."""
