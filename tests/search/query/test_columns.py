"""What the page is told of the columns."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from tpr_jax.search.index.store import FILE, KEY, Index
from tpr_jax.search.query.columns import FEW, columns


def of(**given):
    count = len(next(iter(given.values())))
    fixed = {name: pa.nulls(count) for name in (*KEY, *FILE)}
    return columns(Index(Path(), {}, np.zeros((count, 1), np.float16), pa.table(fixed | given)))


def test_each_kind():
    moment = datetime(2024, 5, 1, 10, tzinfo=UTC)
    told = of(
        camera=pa.array([3, None, 1]),
        speed=pa.array([0.5, 0.25, None]),
        inside=pa.array([True, None, True]),
        seen=pa.array([moment, None, moment.replace(hour=9)], pa.timestamp("us", tz="UTC")),
        note=pa.array(["b", "a", "b"]),
        empty=pa.nulls(3, pa.string()),
    )
    assert told == [
        {"name": "camera", "kind": "number", "values": [1, 3], "least": 1, "most": 3},
        {"name": "speed", "kind": "number", "values": [0.25, 0.5], "least": 0.25, "most": 0.5},
        {"name": "inside", "kind": "flag", "values": [True], "least": None, "most": None},
        {
            "name": "seen",
            "kind": "time",
            "values": ["2024-05-01T09:00:00+00:00", "2024-05-01T10:00:00+00:00"],
            "least": "2024-05-01T09:00:00+00:00",
            "most": "2024-05-01T10:00:00+00:00",
        },
        {"name": "note", "kind": "text", "values": ["a", "b"], "least": None, "most": None},
        {"name": "empty", "kind": "text", "values": [], "least": None, "most": None},
    ]


def test_many_values_are_not_listed():
    (few,) = of(camera=pa.array(range(FEW)))
    (many,) = of(camera=pa.array(range(FEW + 1)))
    assert few["values"] == list(range(FEW)) and many["values"] is None and many["most"] == FEW


def test_a_name_that_no_condition_can_hold_is_left_out():
    assert [column["name"] for column in of(**{"a`b": pa.array([1]), "a b": pa.array([2])})] == ["a b"]
