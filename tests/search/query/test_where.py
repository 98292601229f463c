"""Conditions on columns agree with SQLite; invalid ones are rejected."""

import sqlite3
import unicodedata
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpr_jax.errors import UserError
from tpr_jax.search.query.where import matching

ROWS = [
    # camera, name, speed, seen
    (3, "gate", 0.5, "2024-05-01"),
    (3, "Gate", None, "2024-04-30"),
    (4, "it's", -1.0, None),
    (None, "", 2.0, "2024-05-02"),
    (7, None, 1e3, "2023-12-31"),
    (-2, "a_b%c", 0.0, "2024-05-01"),
]
NAMES = ("camera", "name", "speed", "seen")


@pytest.fixture(scope="module")
def both():
    """Returns (table, condition -> the rows that SQLite finds)."""
    table = pa.table({name: [row[i] for row in ROWS] for i, name in enumerate(NAMES)})
    base = sqlite3.connect(":memory:")
    base.execute("PRAGMA case_sensitive_like = ON")
    base.execute("CREATE TABLE photos (camera INTEGER, name TEXT, speed REAL, seen TEXT)")
    base.executemany("INSERT INTO photos VALUES (?, ?, ?, ?)", ROWS)
    return table, lambda condition: [
        n - 1 for (n,) in base.execute(f"SELECT rowid FROM photos WHERE {condition} ORDER BY rowid")
    ]


def texts(column, values):
    quoted = st.sampled_from(values).map(lambda text: "'" + text.replace("'", "''") + "'")
    signs = st.sampled_from(["=", "==", "!=", "<>", "<", "<=", ">", ">="])
    several = st.lists(quoted, min_size=1, max_size=3).map(", ".join)
    no = st.sampled_from(["", "not "])
    pattern = st.sampled_from(["'%a%'", "'_ate'", "'it''s'", "'%'", "''", "'2024%'"])
    return st.one_of(
        st.tuples(signs, quoted).map(lambda t: f"{column} {t[0]} {t[1]}"),
        st.tuples(no, several).map(lambda t: f"{column} {t[0]}in ({t[1]})"),
        st.tuples(no, pattern).map(lambda t: f"{column} {t[0]}like {t[1]}"),
        no.map(lambda n: f"{column} is {n}null"),
    )


def numbers(column):
    number = st.sampled_from(["3", "-2", "+4", "0.5", "1e3", ".5", "2.", "-1.0", "100000000000"])
    signs = st.sampled_from(["=", "<>", "<", "<=", ">", ">="])
    return st.one_of(
        st.tuples(signs, number).map(lambda t: f"{column}{t[0]}{t[1]}"),
        st.lists(number, min_size=1, max_size=3).map(lambda found: f"{column} IN ({','.join(found)})"),
        st.sampled_from(["", "NOT "]).map(lambda n: f"{column} IS {n}NULL"),
    )


LEAVES = st.one_of(
    numbers("camera"),
    numbers("speed"),
    texts("name", ["gate", "Gate", "it's", "", "zzz"]),
    texts("seen", ["2024-05-01", "2024"]),
)
CONDITIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from([" and ", " OR ", " or "]), inner).map("".join),
        inner.map(lambda text: f"not ({text})"),
        inner.map(lambda text: f"NOT {text}"),
        inner.map(lambda text: f"( {text} )"),
    ),
    max_leaves=8,
)


@given(CONDITIONS)
@settings(max_examples=100, deadline=None)
def test_agrees_with_sqlite(both, condition):
    table, ask = both
    assert np.flatnonzero(matching(table, condition)).tolist() == ask(condition)


def test_double_quotes_and_backquotes():
    table = pa.table({"camera no": ["a", 'b"c']})
    assert matching(table, '`camera no` = "b""c"').tolist() == [False, True]


def test_times_with_and_without_a_time_zone():
    plain = [datetime(2024, 5, 1, 10), datetime(2024, 5, 2), None]
    zoned = [None if t is None else t.replace(tzinfo=UTC) for t in plain]
    table = pa.table({"plain": plain, "zoned": pa.array(zoned, pa.timestamp("us", tz="UTC"))})
    assert matching(table, "plain > '2024-05-01 10:00'").tolist() == [False, True, False]
    assert matching(table, "plain >= '2024-05-01T10:00:00'").tolist() == [True, True, False]
    assert matching(table, "zoned = '2024-05-01 12:00+02:00'").tolist() == [True, False, False]
    assert matching(table, "zoned < '2024-05-02'").tolist() == [True, False, False]
    with pytest.raises(UserError, match="without a time zone"):
        matching(table, "plain > '2024-05-01 10:00Z'")


def test_booleans_and_columns_without_values():
    table = pa.table({"night": [True, False, None], "empty": pa.nulls(3)})
    assert matching(table, "night = true").tolist() == [True, False, False]
    assert matching(table, "night != true or empty = 3").tolist() == [False, True, False]
    assert matching(table, "empty is null").tolist() == [True, True, True]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("camrea=3", "did you mean 'camera'?"),
        ("camera=", "expected a value for 'camera' but found the end"),
        ("camera", "found the end after 'camera'"),
        ("camera=3 name='gate'", "unexpected 'name'"),
        ("camera=3)", "unexpected ')'"),
        ("(camera=3", "expected ')' but found"),
        ("camera='3'", "the column holds numbers, not text"),
        ("name=3", "write the value in quotes"),
        ("name=gate", "'gate'"),
        ("name='gate", "cannot read"),
        ("camera=3; drop table photos", "cannot read"),
        ("__import__('os').system('true')", "cannot read"),
        ("camera=true", "holds numbers"),
        ("camera like '3%'", "needs a text column"),
        ("3=camera", "expected a column name but found 3"),
        ("camera in (3", "expected ')' but found"),
        ("camera in ()", "expected a value for 'camera' but found )"),
        ("camera is 3", "expected 'null' but found 3"),
        ("(" * 60 + "camera=3" + ")" * 60, "more than 50"),
        ("not " * 5000, "too many"),
        ("not " * 60 + "camera=3", "more than 50"),
    ],
)
def test_rejects_invalid_conditions(both, condition, message):
    with pytest.raises(UserError) as error:
        matching(both[0], condition)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_rejects_invalid_times():
    table = pa.table({"seen": [datetime(2024, 5, 1)]})
    for wrong in ("seen > 3", "seen > 'yesterday'", "seen > '2024-13-01'"):
        with pytest.raises(UserError, match="seen holds times"):
            matching(table, wrong)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_column_in_the_other_form_of_accents(form):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    table = pa.table({unicodedata.normalize(form, "größe"): [1, 2], "Große": [2, 1]})
    assert matching(table, unicodedata.normalize(other, "größe = 1")).tolist() == [True, False]
    with pytest.raises(
        UserError, match=r"'gr\u043eße' is unknown: 'Große' is there, which differs: .*U\+006F \(o\) for"
    ):
        matching(table, "gr\u043e\u00dfe = 1")
