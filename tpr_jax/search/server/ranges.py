"""Byte ranges of a file: one `Range` of a request (RFC 9110, section 14), and reading it piece by piece."""

import re
from typing import NamedTuple

MAX_OPEN_PART = 4 * 2**20  # bytes
_ONE_RANGE = re.compile(r"bytes=[ \t]*(?:([0-9]+)-([0-9]*)|-([0-9]+))[ \t]*", re.IGNORECASE)


class Unsatisfiable(Exception):
    """The range has no byte of the file: status 416."""


class Part(NamedTuple):
    """The bytes of a file from `start` to before `end`."""

    start: int
    end: int


def parse_range(header: str | None, size: int) -> Part | None:
    """Returns the part of a file that a `Range` header asks for, None for the whole file.

    A header that is malformed, of another unit, or of several ranges is ignored, as the RFC allows: players
    ask for one. Of a range without an end, at most `MAX_OPEN_PART` bytes are sent, so that a player that
    pauses does not hold the connection; it asks for the next part when it needs it.

    Args:
      header: the value of the header.
      size: bytes of the file.

    Raises:
      Unsatisfiable: the range begins after the end of the file, or is empty.
    """
    found = _ONE_RANGE.fullmatch(header or "")
    if not found or max(map(len, filter(None, found.groups()))) > 20:
        return None
    first, last, suffix = found.groups()
    if suffix is not None:
        if not int(suffix) or not size:
            raise Unsatisfiable
        return Part(max(size - int(suffix), 0), size)
    start = int(first)
    if last and int(last) < start:
        return None
    if start >= size:
        raise Unsatisfiable
    return Part(start, min(int(last) + 1 if last else start + MAX_OPEN_PART, size))
