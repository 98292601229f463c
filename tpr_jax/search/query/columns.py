"""What can be filtered by: the columns of an index, and what stands in them."""

import pyarrow as pa
import pyarrow.compute as pc

from tpr_jax.search.index.store import KEY, Index
from tpr_jax.search.query.search import plain, visible

FEW = 24  # different values that are listed


def columns(index: Index) -> list[dict]:
    """Each further column: `name`, `kind` ('text', 'number', 'time', 'flag'), `values` (all of them where
    there are few, else None), `least` and `most` (of numbers and times, else None)."""
    table = visible(index)
    # A condition cannot name a column with a backquote in its name.
    return [_column(name, table[name]) for name in table.column_names if name not in KEY and "`" not in name]


def _column(name: str, values: pa.ChunkedArray) -> dict:
    kind = _kind(values.type)
    different = pc.unique(values.drop_null())
    ordered = kind in ("number", "time") and len(different)
    least, most = (pc.min_max(values).as_py()[end] for end in ("min", "max")) if ordered else (None, None)
    few = sorted(different.to_pylist()) if len(different) <= FEW else None
    return {
        "name": name,
        "kind": kind,
        "values": None if few is None else [plain(value) for value in few],
        "least": plain(least),
        "most": plain(most),
    }


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_timestamp(kind):
        return "time"
    if pa.types.is_boolean(kind):
        return "flag"
    return "number" if pa.types.is_integer(kind) or pa.types.is_floating(kind) else "text"
