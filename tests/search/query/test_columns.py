"""Descriptions of the columns of an index."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tpr_jax.search.index.store import FILE_COLUMNS, KEY_COLUMNS, Index
from tpr_jax.search.query.columns import MAX_LISTED, describe_columns


def describe(**given):
    count = len(next(iter(given.values())))
    fixed = {name: pa.nulls(count) for name in (*KEY_COLUMNS, *FILE_COLUMNS)}
    return describe_columns(Index(Path(), {}, np.zeros((count, 1), np.float16), pa.table(fixed | given)))


def test_describes_each_kind_of_column():
    moment = datetime(2024, 5, 1, 10, tzinfo=UTC)
    described = describe(
        camera=pa.array([3, None, 1]),
        speed=pa.array([0.5, 0.25, None]),
        inside=pa.array([True, None, True]),
        seen=pa.array([moment, None, moment.replace(hour=9)], pa.timestamp("us", tz="UTC")),
        note=pa.array(["b", "a", "b"]),
        empty=pa.nulls(3, pa.string()),
    )
    assert described == [
        {"name": "camera", "kind": "number", "values": [1, 3], "least": 1, "most": 3, "resolution": None},
        {
            "name": "speed",
            "kind": "number",
            "values": [0.25, 0.5],
            "least": 0.25,
            "most": 0.5,
            "resolution": None,
        },
        {"name": "inside", "kind": "flag", "values": [True], "least": None, "most": None, "resolution": None},
        {
            "name": "seen",
            "kind": "time",
            "values": ["2024-05-01T09:00:00+00:00", "2024-05-01T10:00:00+00:00"],
            "least": "2024-05-01T09:00:00+00:00",
            "most": "2024-05-01T10:00:00+00:00",
            "resolution": "minute",
        },
        {
            "name": "note",
            "kind": "text",
            "values": ["a", "b"],
            "least": None,
            "most": None,
            "resolution": None,
        },
        {"name": "empty", "kind": "text", "values": [], "least": None, "most": None, "resolution": None},
    ]


def test_does_not_list_many_values():
    (few,) = describe(camera=pa.array(range(MAX_LISTED)))
    (many,) = describe(camera=pa.array(range(MAX_LISTED + 1)))
    assert few["values"] == list(range(MAX_LISTED)) and many["values"] is None and many["most"] == MAX_LISTED


def test_omits_a_column_that_no_condition_can_name():
    assert [column["name"] for column in describe(**{"a`b": pa.array([1]), "a b": pa.array([2])})] == ["a b"]


@pytest.mark.parametrize(
    ("times", "resolution"),
    [
        (["2024-05-01", "2024-05-02"], "day"),
        (["2024-05-01", "2024-05-02T10:01"], "minute"),
        (["2024-05-01T10:01", "2024-05-02T10:01:01"], "second"),
        (["2024-05-01T10:01", "2024-05-02T10:01:01.5"], "fraction"),
        ([None], "day"),
    ],
)
def test_describes_the_resolution_of_times(times, resolution):
    values = [time and datetime.fromisoformat(time) for time in times]
    (column,) = describe(seen=pa.array(values, pa.timestamp("us")))
    assert column["resolution"] == resolution
