"""Notes about conditions that match nothing, or compare times as text."""

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from tpr_jax.search.query import where_hints
from tpr_jax.search.query.where import matching
from tpr_jax.search.query.where_hints import describe_condition

TIMES = [datetime(2024, 5, 5, 10), datetime(2024, 5, 5, 11, 0, 30), datetime(2024, 5, 5, 12, 0, 1, 5), None]
TABLE = pa.table(
    {
        "color": ["Red", "dark blue ", "caf\u00e9", None],
        "time": pa.array(TIMES, pa.timestamp("us")),
        "seen at": pa.array(TIMES, pa.timestamp("us", "UTC")),
        "camera": [1, 2, 3, None],
        "mixed": ["2024-05-01T10:00", "2024-05-01 11:00", "5/6/2024 10:00", None],
        "path": ["2024-05-01/a.jpg", "2024-05-02/a.jpg", "b\n.jpg", "c.jpg"],
        "empty": pa.nulls(4),
    }
)


def notes(condition, table=TABLE):
    return describe_condition(table, condition, int(matching(table, condition).sum()))


@pytest.mark.parametrize(
    ("condition", "note"),
    [
        ("color='red'", "no color is 'red': 'Red' is there, with other capitals"),
        ("color in ('red')", "no color is 'red': 'Red' is there, with other capitals"),
        ("camera=1 and (color == 'red')", "no color is 'red': 'Red' is there, with other capitals"),
        (
            "color='dark blue'",
            "no color is 'dark blue': 'dark blue ' is there, which differs: it also has U+0020 at position "
            "10",
        ),
        (
            "color='cafe\u0301'",
            "no color is 'cafe\u0301': 'caf\u00e9' is there, which differs: it has U+00E9 (\u00e9) "
            "for U+0065 U+0301 (\u00e9) at position 4",
        ),
        ("color='Rde'", "no color is 'Rde': did you mean 'Red'?"),
        ("path='B\n.jpg'", r"no path is 'B\n.jpg': 'b\n.jpg' is there, with other capitals"),
        ("time='2024-05-05'", "'2024-05-05' means 00:00: write time>='2024-05-05' and time<'2024-05-06'"),
        (
            "`seen at`='2024-05-05'",
            "'2024-05-05' means 00:00: write `seen at`>='2024-05-05' and `seen at`<'2024-05-06'",
        ),
        (
            "time='2024-05-05T11:00'",
            "'2024-05-05 11:00' means 11:00:00: write time>='2024-05-05 11:00' and time<'2024-05-05 11:01'",
        ),
        (
            "time='2024-05-05 12:00:01'",
            "'2024-05-05 12:00:01' means 12:00:01.000: write time>='2024-05-05 12:00:01' and "
            "time<'2024-05-05 12:00:02'",
        ),
    ],
)
def test_explains_why_nothing_matches(condition, note):
    assert notes(condition) == [note]
    remedy = note.partition(": write ")[2]
    assert not remedy or matching(TABLE, remedy).any()


@pytest.mark.parametrize(
    "condition",
    [
        "color='Red' and camera=2",  # each is there, but not together
        "camera=9",
        "color!='red' and camera=9",
        "color like 'red' or color is null and empty='x'",
        "time='2024-05-06'",
        "time='9999-12-31'",
        "time='2024-05-05 10:00:00.5'",
        "color in ('red', 'Red')",  # which matches
    ],
)
def test_has_nothing_to_say(condition):
    assert notes(condition) == []


def test_notes_are_few_and_said_once():
    condition = "color='red' and color='red' and (color in ('RED', 'rEd', 'reD', 'ReD'))"
    assert [note.partition(":")[0] for note in notes(condition)] == [
        "no color is 'red'",
        "no color is 'RED'",
        "no color is 'rEd'",
    ]


def test_many_values_are_compared_by_arrow(monkeypatch):
    monkeypatch.setattr(where_hints, "MANY_VALUES", 2)
    assert notes("color=' red'") == [
        "no color is ' red': 'Red' is there, which differs: it has U+0052 (R) for U+0020 U+0072 ( r) at "
        "position 1"
    ]
    assert notes("color='green'") == ["no color is 'green'"]


@pytest.mark.parametrize("sign", ["<", "<=", ">", ">="])
def test_times_that_are_compared_as_text(sign):
    """Whatever matches: 10:00 is not after 10:30, but 'T' is after ' '."""
    condition = f"mixed{sign}'2024-05-01 10:30'"
    assert "T" in ("".join(TABLE.filter(matching(TABLE, "mixed>='2024-05-01 10:30'"))["mixed"].to_pylist()))
    assert notes(condition) == [
        "column 'mixed' holds text, so '2024-05-01 10:30' is compared letter by letter, not as a time: "
        "fix the cells that are not times, and index again"
    ]


@pytest.mark.parametrize(
    "condition",
    ["mixed>='b'", "mixed!='2024-05-01'", "time>'2024-05-01'", "path>='2024-05-02'", "color<'2024-05-01'"],
)
def test_other_comparisons_of_text(condition):
    """Names of files may begin with a date on purpose."""
    assert describe_condition(TABLE, condition, 1) == []


def test_words_of_conditions_are_written_in_backquotes():
    table = pa.table({"in": pa.array([datetime(2024, 5, 5, 10, tzinfo=UTC)], pa.timestamp("us", "UTC"))})
    (note,) = notes("`in`='2024-05-05'", table)
    assert note.endswith("write `in`>='2024-05-05' and `in`<'2024-05-06'")
