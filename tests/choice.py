"""Which test files can hold a test that the marker expression (`-m`) chooses, told without importing them."""

import re
from pathlib import Path

import pytest

from tests import long

MARKERS = ("slow", "torch", "golden", "everywhere")
NAMED = re.compile(rf"\bmark\.({'|'.join(MARKERS)})\b")


def chooses_unmarked(expression: str) -> bool:
    """Returns whether tests without a marker are chosen; so is every test without an expression."""
    without_markers = re.sub(r"\b(?!(?:and|or|not)\b)\w+", "False", expression)
    return eval(without_markers or "True", {"__builtins__": {}})


def may_hold_tests(path: Path, expression: str) -> bool:
    """Returns whether a test of the file may be chosen: not if only marked ones are and it names none."""
    return chooses_unmarked(expression) or long.holds(path) or NAMED.search(path.read_text()) is not None


def check(items: list[pytest.Item]) -> None:
    """Raises an error for a test that has a marker from another file: `may_hold_tests` would not find it."""
    for path in {item.path for item in items if any(map(item.get_closest_marker, MARKERS))}:
        if not NAMED.search(path.read_text()):
            raise pytest.UsageError(
                f"{path} has marked tests but names none of {MARKERS} itself: write the marker there"
            )
