"""Scores of shorter vectors: cut, and rounded as an index stores them or to 8 bits."""

from collections.abc import Sequence

import numpy as np

from tpr_jax.errors import UserError
from tpr_jax.metrics import compress
from tpr_jax.metrics.retrieval import METRIC_KEYS, retrieval_metrics
from tpr_jax.train.evaluate import EncodedSplit
from tpr_jax.utils.markdown import table

TYPES = ("float32", "float16", "int8")


def score_vectors(encoded: EncodedSplit, sizes: Sequence[int]) -> list[dict]:
    """Scores the whole and the cut vectors of a split in each of `TYPES`.

    The images are stored in the type; queries are cut too, but stay float32, as in a search.

    Returns:
      A row for each size and type: `numbers`, `type`, `bytes` of an image's vector, and `t2i`, its metrics.

    Raises:
      UserError: a size is not below that of the features.
    """
    width = encoded.gallery_feats.shape[1]
    for size in sizes:
        if size >= width:
            raise UserError(f"--vectors {size}: the features have {width} numbers: give a smaller size")
    rows = []
    for size in (width, *sizes):
        queries, gallery = (
            compress.cut(feats, size) for feats in (encoded.query_feats, encoded.gallery_feats)
        )
        for name in TYPES:
            stored, num_bytes = _stored(gallery, name)
            metrics = retrieval_metrics(queries, stored, encoded.query_pids, encoded.gallery_pids)
            rows.append({"numbers": size, "type": name, "bytes": num_bytes, "t2i": metrics["t2i"]})
    return rows


def _stored(gallery: np.ndarray, name: str) -> tuple[np.ndarray, int]:
    """Returns (the vectors as they come back from a type, float32, and the bytes of one)."""
    if name == "int8":
        vectors = compress.quantize(gallery)
        return compress.dequantize(vectors), vectors.bytes_per_vector
    stored = gallery.astype(name)
    return stored.astype(np.float32), stored[:1].nbytes


def vectors_table(rows: Sequence[dict]) -> str:
    """Returns a table of the result of `score_vectors`."""
    cells = [
        [
            str(row["numbers"]),
            row["type"],
            str(row["bytes"]),
            *(f"{row['t2i'][key]:.2f}" for key in METRIC_KEYS),
        ]
        for row in rows
    ]
    return table(["numbers", "type", "bytes", *METRIC_KEYS], cells, align="rlrrrrrr", pad=True)
