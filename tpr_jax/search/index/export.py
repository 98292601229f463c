"""An index as one Parquet file: `vector` (float32 list of fixed size, length 1) beside the columns."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tpr_jax.errors import UserError
from tpr_jax.search.index.store import FILE, Index
from tpr_jax.utils.files import write_whole

_ROWS = 16384  # of a row group: what is held at once


def export(index: Index, path: str | os.PathLike, half: bool = False) -> int:
    """Writes `id` (int64, the row), the table's columns and `vector`; returns the number of rows.

    With `half` the vectors are float16, as the index has them, which not every database reads. The model's
    name and SHA-256 stand in the file's metadata, under `tpr_jax`.

    Raises:
      UserError: the file exists already, or cannot be written.
    """
    path = Path(path)
    if path.exists():
        raise UserError(f"--out {path}: exists already; name another file, or remove it")
    count, width = index.vectors.shape
    kind = pa.list_(pa.float16() if half else pa.float32(), width)
    table = index.table.drop_columns(list(FILE))
    fields = [pa.field("id", pa.int64()), *table.schema.remove_metadata(), pa.field("vector", kind)]
    made = index.info["model"]
    about = {"tpr_jax": f"model {made['name']} sha256 {made['sha256']}"}
    schema = pa.schema(fields, metadata=about)

    def write(temporary: str) -> None:
        with pq.ParquetWriter(temporary, schema) as writer:
            for start in range(0, count, _ROWS):
                part = table.slice(start, _ROWS)
                vectors = np.asarray(index.vectors[start : start + _ROWS]).astype("f2" if half else "f4")
                values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), width)
                ids = pa.array(np.arange(start, start + len(vectors)))
                columns = [ids, *part.columns, values]
                writer.write_table(pa.table(columns, schema=schema))

    write_whole(path, write)
    return count
