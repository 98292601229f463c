"""The one exception for mistakes that a user can make and mend."""


class UserError(Exception):
    """A one-line message that names the file, key or value at fault and the remedy.

    `tpr_jax.main` prints it without a traceback and exits with code 2.
    """


def shown(value) -> str:
    """Returns a value as an error's one line shows it: cut where it is long, texts with quotes."""
    try:
        found = repr(value) if isinstance(value, str) else str(value)
    except ValueError:  # an int of more digits than Python writes out
        return "a number of thousands of digits"
    found = " ".join(found.split())
    return found if len(found) <= 100 else f"{found[:97]}..."
