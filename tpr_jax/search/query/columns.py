"""Describes the columns of an index that a query can filter by."""

from typing import Any

import pyarrow as pa
import pyarrow.compute

from tpr_jax.search.index.store import KEY_COLUMNS, Index, public_table
from tpr_jax.search.query.search import to_json_value

pc: Any = pyarrow.compute  # creates its functions when it is imported

MAX_LISTED = 24  # distinct values


def describe_columns(index: Index) -> list[dict]:
    """Describes the columns that the user's table added to an index.

    Returns:
      One dict per column: `name`, `kind` ('text', 'number', 'time' or 'flag'), `values` (all distinct values,
      None if there are more than `MAX_LISTED`), `least` and `most` (of numbers and times, else None), and
      `resolution` (of times, see `_resolution`, else None).
    """
    table = public_table(index)
    # A condition cannot name a column whose name contains a backquote.
    names = [name for name in table.column_names if name not in KEY_COLUMNS and "`" not in name]
    return [_describe(name, table[name]) for name in names]


def _describe(name: str, values: pa.ChunkedArray) -> dict:
    kind = _kind(values.type)
    distinct = pc.unique(values.drop_null())
    ordered = kind in ("number", "time") and len(distinct)
    minimum, maximum = (
        (pc.min_max(values).as_py()[end] for end in ("min", "max")) if ordered else (None, None)
    )
    listed = sorted(distinct.to_pylist()) if len(distinct) <= MAX_LISTED else None
    return {
        "name": name,
        "kind": kind,
        "values": None if listed is None else [to_json_value(value) for value in listed],
        "least": to_json_value(minimum),
        "most": to_json_value(maximum),
        "resolution": _resolution(distinct) if kind == "time" else None,
    }


def _resolution(times: pa.Array) -> str:
    """Returns the coarsest of 'day', 'minute' and 'second' that all times are multiples of, or 'fraction'."""
    for unit in ("day", "minute", "second"):
        if pc.all(pc.equal(pc.floor_temporal(times, unit=unit), times), min_count=0).as_py():
            return unit
    return "fraction"


def _kind(dtype: pa.DataType) -> str:
    if pa.types.is_timestamp(dtype):
        return "time"
    if pa.types.is_boolean(dtype):
        return "flag"
    return "number" if pa.types.is_integer(dtype) or pa.types.is_floating(dtype) else "text"
