"""Explains why a condition matches nothing, or compares times as text."""

from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute

from tpr_jax.errors import shown
from tpr_jax.search.index.table import parse_time
from tpr_jax.search.query.where import KEYWORDS, TOKEN, Value, matching, translate
from tpr_jax.utils.escape import escape_unprintable
from tpr_jax.utils.lookalikes import describe_lookalike
from tpr_jax.utils.suggest import nearest

pc: Any = pyarrow.compute  # creates its functions when it is imported

MAX_NOTES = 3
MAX_LISTED = 24  # distinct values that a note may list
MANY_VALUES = 10_000  # from which only capitals and surrounding blanks are compared, which Arrow does
_TIME = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}($|[ T][0-9]{2}:)"


class _Comparison(NamedTuple):
    """A comparison of a column with a constant."""

    name: str
    sign: str
    value: Value


class _Recorder:
    """Collects the comparisons of a condition; see `where.Backend`."""

    def __init__(self, schema: pa.Schema):
        self.schema = schema
        self.comparisons: list[_Comparison] = []

    def compare(self, name: str, sign: str, value: Value) -> None:
        """Records a comparison."""
        self.comparisons.append(_Comparison(name, sign, value))

    def unknown(self) -> None:
        """Ignores a column without values."""

    def is_null(self, name: str) -> None:
        """Ignores a test for missing values."""

    def like(self, name: str, pattern: str) -> None:
        """Ignores a pattern."""

    def join(self, word: Literal["and", "or"], left: None, right: None) -> None:
        """Joins two conditions."""

    def invert(self, value: None) -> None:
        """Negates a condition."""


def describe_condition(table: pa.Table, condition: str, count: int) -> list[str]:
    """Returns notes about a condition that `where.matching` accepts.

    They say which times are compared as text, and if no row matches, which values the columns do not have.

    Args:
      table: the columns.
      condition: see `where`.
      count: the number of rows that match.
    """
    recorder = _Recorder(table.schema)
    translate(recorder, condition)
    notes = [_time_as_text(table, comparison) for comparison in recorder.comparisons]
    if not count:
        notes += [_missing_value(table, comparison) for comparison in recorder.comparisons]
    distinct = dict.fromkeys(note for note in notes if note)
    return [escape_unprintable(note) for note in distinct][:MAX_NOTES]


def _time_as_text(table: pa.Table, comparison: _Comparison) -> str:
    """Returns a note if times are ordered as text, which is wrong where their forms differ; '' otherwise."""
    name, sign, value = comparison
    if not isinstance(value, str) or sign not in ("<", "<=", ">", ">="):
        return ""
    try:
        parse_time(value)
    except ValueError:
        return ""
    if not pc.any(pc.match_substring_regex(table[name], _TIME)).as_py():
        return ""
    return (
        f"column '{name}' holds text, so {shown(value)} is compared letter by letter, not as a time: fix the "
        "cells that are not times, and index again"
    )


def _missing_value(table: pa.Table, comparison: _Comparison) -> str:
    """Returns a note if no row has the value that a column is to be equal to; '' otherwise."""
    name, sign, value = comparison
    if sign not in ("=", "=="):
        return ""
    if isinstance(value, datetime):
        return _whole_span(table, name, value)
    return _other_text(table[name], name, value) if isinstance(value, str) else ""


def _other_text(values: pa.ChunkedArray, name: str, wanted: str) -> str:
    distinct = pc.unique(values.drop_null())
    if pc.any(pc.equal(distinct, wanted)).as_py():
        return ""
    missing = f"no {name} is {shown(wanted)}"
    if len(distinct) > MANY_VALUES:
        folded = pc.utf8_lower(pc.utf8_trim_whitespace(distinct))
        distinct = distinct.filter(pc.equal(folded, wanted.strip().lower()))
    found = distinct.to_pylist()
    hint = describe_lookalike(wanted, found).removeprefix(", but ")
    if not hint and 0 < len(found) <= MAX_LISTED:
        hint = nearest(wanted, found)
    return f"{missing}: {hint}" if hint else missing


def _whole_span(table: pa.Table, name: str, time: datetime) -> str:
    """Returns a note if rows have times within the day, minute or second that a time begins; '' otherwise."""
    time = time.replace(tzinfo=None)  # UTC, as a condition without a time zone means
    if time.microsecond:
        return ""
    if not time.second and not time.minute and not time.hour:
        span, length, meant = timedelta(days=1), len("2024-05-01"), "00:00"
    elif not time.second:
        span, length, meant = timedelta(minutes=1), len("2024-05-01 10:00"), f"{time:%H:%M:%S}"
    else:
        span, length, meant = timedelta(seconds=1), len("2024-05-01 10:00:00"), f"{time:%H:%M:%S}.000"
    try:
        start, end = (str(moment)[:length] for moment in (time, time + span))
    except OverflowError:  # the last day of the year 9999
        return ""
    column = _as_written(name)
    whole = f"{column}>='{start}' and {column}<'{end}'"
    return f"'{start}' means {meant}: write {whole}" if matching(table, whole).any() else ""


def _as_written(name: str) -> str:
    """Returns the name of a column as a condition has it, in backquotes unless it is a single word."""
    match = TOKEN.fullmatch(name)
    is_word = match is not None and match["word"] == name and name.lower() not in KEYWORDS
    return name if is_word else f"`{name}`"
