"""Lines that tell a user what was assumed or left aside."""

import functools
import sys


@functools.cache
def say_once(line: str) -> None:
    """Prints a line to stderr, the first time that it is said in this process.

    To stderr, because some commands write JSON to stdout.
    """
    print(f"note: {line}", file=sys.stderr)
