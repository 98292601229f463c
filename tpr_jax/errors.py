"""The one exception for mistakes that a user can make and mend, and the words for a disk that is full."""

import errno
import os


class UserError(Exception):
    """A one-line message that names the file, key or value at fault and the remedy.

    `tpr_jax.main` prints it without a traceback and exits with code 2.
    """


class ArgumentError(UserError, ValueError):
    """A mistake in a call of the Python API; the message names the argument."""


def shown(value) -> str:
    """Returns a value as an error's one line shows it: cut where it is long, texts with quotes."""
    try:
        found = repr(value) if isinstance(value, str) else str(value)
    except ValueError:  # an int of more digits than Python writes out
        return "a number of thousands of digits"
    found = " ".join(found.split())
    return found if len(found) <= 100 else f"{found[:97]}..."


# What the system says where a file or disk may not grow, as a number or in TensorStore's words; what it is
# called here, and the remedy.
_LIMITS = {
    errno.ENOSPC: ("no space left on the disk of {}", "free some and run the same command to go on"),
    errno.EDQUOT: ("the disk quota for {} is used up", "free some and run the same command to go on"),
    errno.EFBIG: (
        "a file of {} would be larger than the limit of this shell or disk",
        "raise it (ulimit -f) and run the same command to go on",
    ),
}


def describe_disk_limit(error: BaseException, place: object = None) -> str | None:
    """Returns one line on a full disk, a quota or a limit to the size of files; None for any other error.

    `place` is the file or folder to name, by default the one that the error names.
    """
    number = error.errno if isinstance(error, OSError) else None
    if number not in _LIMITS:
        found = [known for known in _LIMITS if os.strerror(known) in str(error)]
        exhausted = "RESOURCE_EXHAUSTED" in str(error) and errno.ENOSPC
        number = found[0] if found else exhausted
    if not number:
        return None
    if place is None:
        place = error.filename if isinstance(error, OSError) and error.filename else "this run"
    what, remedy = _LIMITS[number]
    return f"{what.format(place)}: {remedy}"
