"""Notes to the user about what was assumed or ignored."""

import functools
import sys


@functools.cache
def print_once(line: str) -> None:
    """Prints a note to stderr, at most once per process. Some commands write JSON to stdout."""
    print(f"note: {line}", file=sys.stderr)
