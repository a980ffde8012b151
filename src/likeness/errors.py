"""What entry points print without a traceback: the error for what a user typed or supplied, and a Ctrl-C."""


class InputError(ValueError):
    """Say what is wrong, what was expected, and what to do about it."""


class Stopped(KeyboardInterrupt):
    """A Ctrl-C, with how far the work was and what the same command does next."""
