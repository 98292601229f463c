"""The one exception for mistakes that a user can make and mend."""


class UserError(Exception):
    """A one-line message that names the file, key or value at fault and the remedy.

    `tpr_jax.main` prints it without a traceback and exits with code 2.
    """


class ArgumentError(UserError, ValueError):
    """A mistake in a call of the Python API; the message names the argument."""
