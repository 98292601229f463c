"""Arbitrary conditions get a result or a one-line error; numbers are compared exactly."""

import math
import operator
import sqlite3
from datetime import UTC, datetime
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpr_jax.errors import UserError
from tpr_jax.search.query.where import KEYWORDS, MAX_LENGTH, matching

MOMENT = datetime(2024, 5, 1, 10)
TABLE = pa.table(
    {
        "whole": pa.array([1, None, 2**62, -(2**63)], pa.int64()),
        "small": pa.array([1, None, 2**31 - 1, -5], pa.int32()),
        "real": pa.array([0.5, None, 1e300, -math.inf], pa.float64()),
        "text": ["a", None, "it's\n", "\U0001f600"],
        "flag": [True, None, False, True],
        "seen": pa.array([MOMENT, None, MOMENT, MOMENT], pa.timestamp("us")),
        "zoned": pa.array([MOMENT.replace(tzinfo=UTC)] * 4, pa.timestamp("us", tz="UTC")),
        "empty": pa.nulls(4),
        "two\nlines`": pa.array([1, 2, 3, 4]),
    }
)
NUMBERS = st.one_of(
    st.integers().map(str),
    st.integers(1, 9000).map(lambda digits: "9" * digits),
    st.integers(-5000, 5000).map(lambda exponent: f"1e{exponent}"),
    st.floats().map(repr),
    st.sampled_from(
        ["-9223372036854775808", "9223372036854775808", "1e5000000000000000000000", "1_0", "0x1f", "-"]
    ),
)
WORDS = st.one_of(
    st.sampled_from([*TABLE.column_names, *KEYWORDS, "nan", "inf", "`two\nlines`"]),
    st.sampled_from(
        ["=", "==", "!=", "<>", "<", "<=", ">", ">=", "(", ")", ",", "(" * 60, "not " * 60, "'", '"', "`"]
    ),
    NUMBERS,
    st.text(st.characters(), max_size=5),
    st.text(st.characters(), max_size=20).map(lambda text: "'" + text.replace("'", "''") + "'"),
    st.sampled_from(
        ["'0001-01-01T00:00+14:00'", "'9999-12-31T23:59-14:00'", "'2024-02-30'", "'\ud800'", "'\0'"]
    ),
)


def ask(condition):
    try:
        found = matching(TABLE, condition)
    except UserError as error:
        line = str(error)
        assert line.startswith("--where: ") and line.isprintable() and len(line) < 700, line
    else:
        assert found.dtype == bool and found.shape == (4,)


@given(st.lists(WORDS, max_size=12).map(" ".join))
@settings(max_examples=400, deadline=None)
def test_tokens_in_any_order(condition):
    ask(condition)


@given(st.sampled_from(TABLE.column_names[:8]), st.sampled_from(["=", "<", ">=", "like", "in ("]), WORDS)
@settings(max_examples=400, deadline=None)
def test_a_column_compared_with_anything(column, sign, word):
    ask(f"{column} {sign} {word}{')' if '(' in sign else ''}")


@given(st.text(st.characters(), max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_text(condition):
    ask(condition)


@pytest.mark.parametrize(
    "condition",
    [
        "whole = " + "9" * 310,
        "real = " + "9" * 4400,
        "flag = " + "9" * 9000,
        "whole > -1e999",
        "empty = " + "9" * 4400,
        "text = '\ud800'",
        "`\ud800` = 1",
    ],
)
def test_rejects_what_no_column_can_hold(condition):
    with pytest.raises(UserError):
        matching(TABLE, condition)
    ask(condition)


@pytest.mark.parametrize(
    "condition",
    [
        " or ".join(["whole=1"] * 900),
        "whole in (" + ",".join(["1"] * 4000) + ")",
        "text like '" + "%_" * 4900 + "'",
        "not (" * 24 + "whole=1" + ")" * 24,
        "text = '" + "x" * (MAX_LENGTH - 9) + "'",
    ],
)
def test_accepts_long_conditions(condition):
    assert len(condition) <= MAX_LENGTH
    assert matching(TABLE, condition).shape == (4,)


SIGNS = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
AROUND = [2**53, 2**62, 2**63, 2**64, 0]
WHOLE = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-2, 2),
    st.sampled_from([n + d for n in AROUND[:2] for d in (-1, 0, 1)]),
)
LITERALS = st.one_of(
    st.integers(-(2**65), 2**65).map(str),
    st.sampled_from([str(sign * n + d) for n in AROUND for d in (-1, 0, 1) for sign in (1, -1)]),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.sampled_from(["0.5", "-0.5", "9007199254740992.0", "9.3e18", "-9.3e18", "1e308"]),
)


@given(
    st.lists(st.one_of(st.none(), WHOLE), min_size=1, max_size=6),
    st.lists(st.one_of(st.none(), st.floats(allow_nan=False)), min_size=1, max_size=6),
    LITERALS,
    st.sampled_from(list(SIGNS)),
)
@settings(max_examples=300, deadline=None)
def test_numbers_are_compared_exactly(whole, real, literal, sign):
    """Compares fractions: a literal with a point or an exponent is the float that Python parses."""
    number = Fraction(float(literal)) if any(c in literal for c in ".en") else Fraction(int(literal))

    def holds(value):
        if value is None:
            return False
        exact = value if isinstance(value, float) and math.isinf(value) else Fraction(value)
        return SIGNS[sign](exact, number)

    for values, kind in ((whole, pa.int64()), (real, pa.float64())):
        table = pa.table({"n": pa.array(values, kind)})
        assert matching(table, f"n {sign} {literal}").tolist() == [holds(value) for value in values]
        inverted = matching(table, f"not n {sign} {literal}").tolist()
        assert inverted == [value is not None and not holds(value) for value in values]


@pytest.mark.parametrize(
    ("kind", "values", "literal", "equal", "less"),
    [
        (pa.int64(), [0, 1, None], "0.5", [], [0]),
        (pa.int64(), [-1, 0, None], "-0.5", [], [-1]),
        (pa.int64(), [2**53, 2**53 + 1], "9007199254740992.0", [2**53], []),
        (pa.int64(), [2**63 - 1, -(2**63)], "9223372036854775808", [], [2**63 - 1, -(2**63)]),
        (pa.int64(), [2**63 - 1, -(2**63)], "-9223372036854775809", [], []),
        (pa.float64(), [2.0**53, 2.0**53 + 2, None], "9007199254740993", [], [2.0**53]),
        (pa.int32(), [2**31 - 1, -5], "2147483648", [], [2**31 - 1, -5]),
    ],
)
def test_numbers_that_the_column_cannot_hold(kind, values, literal, equal, less):
    table = pa.table({"n": pa.array(values, kind)})
    present = [value for value in values if value is not None]

    def found(condition):
        rows = zip(values, matching(table, condition).tolist(), strict=True)
        return [value for value, holds in rows if holds]

    assert found(f"n = {literal}") == equal and found(f"n < {literal}") == less
    assert found(f"n <= {literal}") == [value for value in present if value in less + equal]
    assert found(f"n > {literal}") == [value for value in present if value not in less + equal]
    assert found(f"n >= {literal}") == [value for value in present if value not in less]
    assert found(f"n != {literal}") == [value for value in present if value not in equal]


TEXTS = st.text("ab\\%_\n.*", max_size=5)


@given(TEXTS, TEXTS)
@settings(max_examples=400, deadline=None)
def test_like_agrees_with_sqlite(value, pattern):
    base = sqlite3.connect(":memory:")
    base.execute("PRAGMA case_sensitive_like = ON")
    ((wanted,),) = base.execute("SELECT ? LIKE ?", (value, pattern)).fetchall()
    assert matching(pa.table({"s": [value]}), f"s like '{pattern}'").tolist() == [bool(wanted)]


def test_ids_with_more_digits_than_a_float_holds():
    ids = np.array([1700000000000000001, 1700000000000000002], np.int64)
    table = pa.table({"id": ids})
    assert matching(table, "id = 1700000000000000002").tolist() == [False, True]
    assert matching(table, "id > 1.5").tolist() == [True, True]
    assert matching(table, "id < 1e300").tolist() == [True, True]
