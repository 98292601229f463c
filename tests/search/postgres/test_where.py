"""Conditions in SQL, on a real server, against their evaluation in memory."""

import math
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tpr_jax.errors import UserError
from tpr_jax.search.postgres.stored import table_columns
from tpr_jax.search.postgres.where import where_sql
from tpr_jax.search.query.where import matching

MOMENT = datetime(2024, 5, 1, 10, 0, 0, 250_000)
TEXTS = ["a", "it's", "100%", "a\\b", "A_", "", "\U0001f600é", "line\nbreak", "%s", "ab", None]
COUNT = len(TEXTS)
TIMES_THERE = [MOMENT, None, datetime(1, 1, 1), datetime(9999, 12, 31)] + [MOMENT] * 7
TABLE = pa.table(
    {
        "whole": pa.array([1, None, 2**62, -(2**63), 2**63 - 1, 0, -1, 2**53, 2**53 + 1, 7, 7], pa.int64()),
        "small": pa.array([1, None, 2**31 - 1, -5, -(2**31), 0, 3, 4, 5, 6, 7], pa.int32()),
        "real": pa.array([0.5, None, 1e300, -1e-300, 0.0, -0.0, 2.0**53, 3, 1, 7, 0.1], pa.float64()),
        "text": TEXTS,
        "flag": pa.array([True, None, False] * 3 + [True, False]),
        "seen": pa.array(TIMES_THERE, pa.timestamp("us")),
        "zoned": pa.array([MOMENT.replace(tzinfo=UTC), None] * 5 + [None], pa.timestamp("us", tz="UTC")),
        "empty": pa.nulls(COUNT),
        "two words; drop table --": pa.array(range(COUNT)),
        'quote"d': pa.array(range(COUNT)),
        "id": pa.array(range(COUNT)),
        "ünicode": pa.array(range(COUNT)),
        "x" * 80: pa.array(range(COUNT)),
    }
)  # fmt: skip
NUMBERS = st.one_of(
    st.integers(-3, 8).map(str),
    st.integers().map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.sampled_from(
        ["9223372036854775808", "-9223372036854775809", "9007199254740993", "0.5", "1e400", "1e300"]
    ),
)
QUOTED = st.one_of(
    st.sampled_from([text for text in TEXTS if text is not None] + ["%a%", "a\0b", "_", "%\\%", "a\0", "__"]),
    st.text(max_size=4),
).map(lambda text: "'" + text.replace("'", "''") + "'")
TIMES = st.sampled_from(
    [
        "'2024-05-01'",
        "'2024-05-01 10:00:00.25'",
        "'2024-05-01T12:00:00.25+02:00'",
        "'0001-01-01'",
        "'9999-12-31T23:59Z'",
    ]
)
VALUES = st.one_of(NUMBERS, QUOTED, TIMES, st.sampled_from(["true", "false"]))
COLUMNS = st.sampled_from([f"`{name}`" for name in TABLE.column_names])
SIGNS = st.sampled_from(["=", "==", "!=", "<>", "<", "<=", ">", ">="])
COMPARISONS = st.one_of(
    st.tuples(COLUMNS, SIGNS, VALUES).map(" ".join),
    st.tuples(st.sampled_from(["whole", "small", "real"]), SIGNS, NUMBERS).map(" ".join),
    st.tuples(st.just("`text`"), SIGNS, QUOTED).map(" ".join),
    st.tuples(st.sampled_from(["`seen`", "`zoned`"]), SIGNS, TIMES).map(" ".join),
    st.tuples(st.just("`text`"), st.sampled_from(["like", "not like"]), QUOTED).map(" ".join),
    st.tuples(COLUMNS, st.sampled_from(["is null", "is not null"])).map(" ".join),
    st.tuples(st.sampled_from(["whole", "small", "real"]), st.sampled_from(["in", "not in"]),
              st.lists(NUMBERS, min_size=1, max_size=3).map(lambda v: f"({', '.join(v)})")).map(" ".join),
)  # fmt: skip
CONDITIONS = st.recursive(
    COMPARISONS,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from([" and ", " or "]), inner).map("".join),
        inner.map(lambda one: f"not {one}"),
        inner.map(lambda one: f"({one})"),
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def ask(server):
    """Returns a function: condition -> the matching rows by SQL."""
    import psycopg

    columns = table_columns(TABLE.schema)
    names = {name: column for name, (column, _) in columns.items()}
    with psycopg.connect(server, autocommit=True) as connection:
        fields = ", ".join(f'"{column}" {dtype}' for column, dtype in columns.values())
        connection.execute(f"create temporary table conditions (row_number integer, {fields})")
        marks = ", ".join(["%s"] * (1 + len(columns)))
        for number, record in enumerate(TABLE.to_pylist()):
            connection.execute(f"insert into conditions values ({marks})", [number, *record.values()])

        def rows(condition: str) -> list[int]:
            text, values = where_sql(TABLE.schema, names, condition)
            query = f"select row_number from conditions where {text} order by row_number"
            return [row for (row,) in connection.execute(query, values).fetchall()]

        yield rows


@given(CONDITIONS)
@example("text < 'a\0b' or text >= 'a\0'")
@example("text like 'a\0'  or text like '%\\%' or text like '_'")
@example("whole = 9007199254740993 or whole <= 9223372036854775808")
@example("`two words; drop table --` > 3 and `" + "x" * 80 + "` < 7 and id >= 5")
@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_same_rows_or_the_same_error(ask, condition):
    try:
        expected = np.flatnonzero(matching(TABLE, condition)).tolist()
    except UserError as error:
        with pytest.raises(UserError) as found:
            ask(condition)
        assert str(found.value) == str(error)
        return
    assert ask(condition) == expected


@pytest.mark.parametrize("condition", [" or ".join(["whole=1"] * 900), "(" * 50 + "flag=true" + ")" * 50])
def test_long_conditions(ask, condition):
    assert ask(condition) == np.flatnonzero(matching(TABLE, condition)).tolist()


def test_texts_compare_by_their_bytes():
    """Databases of this server do anyway; those of others sort by a language."""
    assert table_columns(TABLE.schema)["text"][1].endswith('collate "C"')


def test_constants_are_never_part_of_the_statement():
    names = {name: column for name, (column, _) in table_columns(TABLE.schema).items()}
    text, values = where_sql(TABLE.schema, names, "text = 'x''; drop table y' or whole in (12345, 0.5)")
    assert values[:2] == ("x'; drop table y", 12345)
    assert "drop" not in text and "12345" not in text
    assert all(name.isidentifier() and name.isascii() for name in names.values())
    assert len(set(names.values())) == len(names) and math.isclose(len(names), len(TABLE.column_names))
