"""Ranges by hand, as RFC 9110 defines them."""

import pytest

from tpr_jax.search.server.ranges import MAX_OPEN_PART, Part, Unsatisfiable, parse_range


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-9", (0, 10)),
        ("bytes=90-200", (90, 100)),
        ("bytes=99-99", (99, 100)),
        ("Bytes= 5-6 ", (5, 7)),
        ("bytes=40-", (40, 100)),
        ("bytes=-10", (90, 100)),
        ("bytes=-500", (0, 100)),
        (None, None),
        ("", None),
        ("bytes=9-3", None),  # not valid, so it does not count
        ("bytes=-", None),
        ("bytes=0-1,5-6", None),
        ("items=0-9", None),
        ("bytes=a-b", None),
        ("bytes=-1-2", None),
        ("bytes=" + "9" * 5000 + "-", None),
    ],
)
def test_parses_one_range(header, expected):
    assert parse_range(header, 100) == (expected and Part(*expected))


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_a_range_outside_of_the_file(header):
    with pytest.raises(Unsatisfiable):
        parse_range(header, 100)


def test_an_open_range_is_answered_in_parts():
    size = 3 * MAX_OPEN_PART
    assert parse_range("bytes=7-", size) == Part(7, 7 + MAX_OPEN_PART)
    assert parse_range(f"bytes=7-{size - 1}", size) == Part(7, size)
    assert parse_range("bytes=0-", 0 + 5) == Part(0, 5)
    with pytest.raises(Unsatisfiable):
        parse_range("bytes=-5", 0)
