"""Index folders of random vectors, for tests of the copy in PostgreSQL."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tpr_jax.search.index.store import FORMAT_VERSION, read_info
from tpr_jax.utils.files import write_json


def mixture(count: int, width: int, seed: int = 0, groups: int = 500) -> np.ndarray:
    """Returns float16 vectors of length 1 [count, width] around `groups` centers, like photos of people."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(groups, width)).astype(np.float32)
    vectors = centers[rng.integers(groups, size=count)] + 0.7 * rng.normal(size=(count, width)).astype(
        np.float32
    )
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def write_folder(
    folder: Path, vectors: np.ndarray, columns: dict, *, paths=None, sha256: str = "ab" * 32
) -> Path:
    """Writes an index, or the next version of it."""
    folder.mkdir(exist_ok=True, parents=True)
    old = read_info(folder) or {}
    number, count = old.get("number", 0) + 1, len(vectors)
    paths = paths or [f"{i:07d}.jpg" for i in range(count)]
    fixed = {"path": pa.array(paths, pa.string())} | {name: pa.nulls(count, pa.int32()) for name in "xywh"}
    stamps = {"file_size": pa.nulls(count, pa.int64()), "file_mtime_ns": pa.nulls(count, pa.int64())}
    stamps["file_sha256"] = pa.nulls(count, pa.binary(32))
    np.save(folder / f"vectors-{number}.npy", vectors)
    pq.write_table(pa.table(fixed | columns | stamps), folder / f"photos-{number}.parquet")
    model = {"name": "none", "sha256": sha256, "image_size": [8, 8], "dtype": "float32"}
    info = {
        "format_version": FORMAT_VERSION,
        "model": model | {"embed_dim": vectors.shape[1]},
        "photos": str(folder),
        "count": count,
        "number": number,
        "approximate": None,
        "files": {"vectors": f"vectors-{number}.npy", "photos": f"photos-{number}.parquet"},
    }
    store = {"store": old["store"]} if "store" in old else {}
    write_json(folder / "index.json", info | store)
    return folder
