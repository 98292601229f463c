"""The exported Parquet file has the columns and vectors, in types that databases support."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import search_galleries
from tpr_jax.errors import UserError
from tpr_jax.search.index.build import build
from tpr_jax.search.index.export import export
from tpr_jax.search.index.store import open_index


@pytest.fixture(scope="module")
def index(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    names = search_galleries.photos(folder / "photos", 5)
    lines = [{"image": name, "camera": i, "x": 0, "y": 0, "w": 9, "h": 9} for i, name in enumerate(names)]
    table = folder / "photos" / "photos.jsonl"
    table.write_text("\n".join(map(json.dumps, lines)))
    build(table, folder / "index", tiny["clip"])
    return open_index(folder / "index")


@pytest.mark.parametrize("half", [False, True])
def test_exports_columns_and_vectors(index, tmp_path, half):
    assert export(index, tmp_path / "people.parquet", half) == 5
    table = pq.read_table(tmp_path / "people.parquet")
    assert table.column_names == ["id", "path", "x", "y", "w", "h", "camera", "vector"]
    assert table["id"].to_pylist() == table["camera"].to_pylist() == [0, 1, 2, 3, 4]
    assert table["path"].to_pylist() == index.table["path"].to_pylist()
    assert table.schema.field("vector").type == pa.list_(pa.float16() if half else pa.float32(), 32)
    vectors = np.array(table["vector"].to_pylist(), np.float32)
    np.testing.assert_array_equal(vectors, index.vectors.astype(np.float32))
    assert index.info["model"]["sha256"].encode() in table.schema.metadata[b"tpr_jax"]


def test_does_not_overwrite_a_file(index, tmp_path):
    (tmp_path / "people.parquet").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        export(index, tmp_path / "people.parquet")
    assert (tmp_path / "people.parquet").read_text() == "mine"
    with pytest.raises(UserError, match="cannot be written"):
        export(index, tmp_path / "people.parquet" / "x.parquet")


def test_removes_what_a_killed_export_left(index, tmp_path):
    (tmp_path / ".a.parquet.abcd1234.tmp").write_text("x")
    (tmp_path / ".b.parquet.abcd1234.tmp").write_text("x")
    export(index, tmp_path / "a.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".b.parquet.abcd1234.tmp", "a.parquet"]
