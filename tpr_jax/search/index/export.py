"""Exports an index as a Parquet file: its columns, and `vector`, a list of float32 of length 1."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tpr_jax.errors import UserError
from tpr_jax.search.index.store import Index, public_table, read_vectors
from tpr_jax.utils.files import remove_leftovers, write_whole

_ROW_GROUP = 16384  # rows in memory at once


def export(index: Index, path: str | os.PathLike, half: bool = False) -> int:
    """Writes `id` (int64, the row), the columns of the index, and `vector`.

    The file's metadata has the model's name and SHA-256 under the key `tpr_jax`.

    Args:
      index: the index.
      path: the file to write; it must not exist.
      half: write float16 vectors, as the index stores them; not every database can read these.

    Returns:
      The number of rows.

    Raises:
      UserError: the file exists, or cannot be written; or a vector of the index is damaged.
    """
    path = Path(path)
    if path.exists():
        raise UserError(f"--out {path}: exists already; name another file, or remove it")
    count, width = index.vectors.shape
    dtype = pa.list_(pa.float16() if half else pa.float32(), width)
    table = public_table(index)
    fields = [pa.field("id", pa.int64()), *table.schema.remove_metadata(), pa.field("vector", dtype)]
    model = index.info["model"]
    metadata = {"tpr_jax": f"model {model['name']} sha256 {model['sha256']}"}
    schema = pa.schema(fields, metadata=metadata)

    def write(temporary: str) -> None:
        with pq.ParquetWriter(temporary, schema) as writer:
            for start in range(0, count, _ROW_GROUP):
                rows = table.slice(start, _ROW_GROUP)
                vectors = read_vectors(index, slice(start, start + _ROW_GROUP))
                vectors = vectors.astype(np.float16) if half else vectors  # exactly those of the index
                values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), width)
                ids = pa.array(np.arange(start, start + len(vectors)))
                columns = [ids, *rows.columns, values]
                writer.write_table(pa.table(columns, schema=schema))

    remove_leftovers(path.parent, [path.name])
    write_whole(path, write)
    return count
