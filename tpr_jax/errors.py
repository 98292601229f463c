"""The exceptions for mistakes that a user can make and fix, and the messages for a full disk."""

import errno
import os


class UserError(Exception):
    """A one-line message that names the file, key or value at fault and the remedy.

    `tpr_jax.main` prints it without a traceback and exits with code 2.
    """


class ArgumentError(UserError, ValueError):
    """A mistake in a call of the Python API; the message names the argument."""


def shown(value) -> str:
    """Formats a value for a one-line message: truncates long values and quotes strings."""
    try:
        text = repr(value) if isinstance(value, str) else str(value)
    except ValueError:  # an int with more digits than Python converts
        return "a number of thousands of digits"
    text = " ".join(text.split())
    return text if len(text) <= 100 else f"{text[:97]}..."


# Message and remedy by errno, for a file or disk that cannot grow. TensorStore reports such an error as text.
_LIMITS = {
    errno.ENOSPC: (
        "no space left on the disk of {}",
        "free some space and rerun the same command to resume",
    ),
    errno.EDQUOT: (
        "the disk quota for {} is used up",
        "free some space and rerun the same command to resume",
    ),
    errno.EFBIG: (
        "a file of {} would exceed the size limit of this shell or disk",
        "raise it (ulimit -f) and rerun the same command to resume",
    ),
}


def describe_disk_limit(error: BaseException, path: object = None) -> str | None:
    """Describes a full disk, a used-up quota or a limit on file sizes in one line; None for other errors.

    Args:
      error: any exception.
      path: the file or folder to name; by default the one that the error names.
    """
    number = error.errno if isinstance(error, OSError) else None
    if number not in _LIMITS:
        matching = [known for known in _LIMITS if os.strerror(known) in str(error)]
        exhausted = "RESOURCE_EXHAUSTED" in str(error) and errno.ENOSPC
        number = matching[0] if matching else exhausted
    if not number:
        return None
    if path is None:
        path = error.filename if isinstance(error, OSError) and error.filename else "this run"
    message, remedy = _LIMITS[number]
    return f"{message.format(path)}: {remedy}"
