"""Approximate search of large galleries with FAISS' inverted lists.

Each vector is stored in the list of its nearest centroid, and a query scans the lists of the centroids
nearest to it. The number of lists to scan is measured when the index is built: the smallest number that finds
`RECALL` of the exact top 10, over typical sentences and over photos.
"""

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from jaxtyping import Bool, Float, Float16, Int

from tpr_jax.errors import UserError
from tpr_jax.search.query.exact import rescore
from tpr_jax.utils.files import write_whole

MAX_EXACT = 1_000_000  # vectors up to which the exact search is fast enough
RECALL, RECALL_AT = 0.99, 10
_BLOCK, _TRAIN_PER_LIST = 16384, 64
# FAISS replaces methods of the classes that SWIG generated.
_swig: Any = faiss


def sentences() -> list[str]:
    """Returns 192 typical queries, to measure recall with."""
    colors = ("black", "white", "red", "blue", "grey", "green", "pink", "yellow")
    tops = ("jacket", "t-shirt", "long coat", "striped shirt")
    rest = ("blue jeans and a backpack", "dark trousers", "a short skirt and a handbag")
    people = itertools.cycle(("A man", "A woman", "A person with a cap", "A girl with long hair"))
    clothes = itertools.product(colors, tops, rest)
    listed = [f"{next(people)} in a {color} {top} and {other}" for color, top, other in clothes]
    return [*listed, *(text.lower().replace(" in a ", " wearing a ") for text in listed)]


def build_lists(
    vectors: Float16[np.ndarray, "n e"],
    queries: Float[np.ndarray, "q e"],
    exact: Callable,
    path: Path,
    num_lists: int | None = None,
    seed: int = 0,
) -> dict:
    """Builds the inverted lists, measures how many of them a query has to scan, and writes them.

    Args:
      vectors: the gallery.
      queries: L2-normalized queries to measure recall with.
      exact: (query, k) -> (scores, rows) of the exact search.
      path: the file to write.
      num_lists: number of lists; by default min(4 sqrt(n), n / 40).
      seed: the seed of the sample that the centroids are trained on.

    Returns:
      `lists` (their number), `probes` (lists that a query scans), `recall` (of the exact top 10, the mean
      over the queries) and `queries` (their number).

    Raises:
      UserError: the file cannot be written.
    """
    count, width = vectors.shape
    num_lists = num_lists or max(1, min(int(4 * count**0.5), count // 40))
    rng = np.random.default_rng(seed)
    sample = np.sort(rng.choice(count, min(count, num_lists * _TRAIN_PER_LIST), replace=False))
    quantizer = faiss.IndexFlatIP(width)
    code = faiss.ScalarQuantizer.QT_8bit
    index = faiss.IndexIVFScalarQuantizer(quantizer, width, num_lists, code, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.min_points_per_centroid = int(seed), 1
    index.train(vectors[sample].astype(np.float32))
    for start in range(0, count, _BLOCK):
        index.add(vectors[start : start + _BLOCK].astype(np.float32))
    expected = [set(exact(query, RECALL_AT)[1].tolist()) for query in queries]
    probes, recall = 1, 0.0
    while True:
        index.nprobe = probes
        approximate = [set(lists_top_k(index, vectors, query, RECALL_AT)[1].tolist()) for query in queries]
        recall = float(np.mean([len(e & f) / len(e) for e, f in zip(expected, approximate, strict=True)]))
        if recall >= RECALL or probes >= num_lists:
            break
        probes = min(num_lists, -(-probes * 3 // 2))
    write_whole(path, lambda temporary: faiss.write_index(index, temporary))
    return {"lists": num_lists, "probes": probes, "recall": recall, "queries": len(queries)}


def open_lists(path: Path) -> faiss.IndexIVF:
    """Memory-maps inverted lists; the file stores how many of them a query scans.

    Raises:
      UserError: the file is missing or damaged.
    """
    try:
        return _swig.read_index(os.fspath(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[-200:]
        raise UserError(f"{path}: damaged ({reason}); index the photos into a new folder") from error


def lists_top_k(
    lists: faiss.IndexIVF,
    vectors: Float16[np.ndarray, "n e"],
    query: Float[np.ndarray, " e"],
    k: int,
    allowed: Bool[np.ndarray, " n"] | None = None,
) -> tuple[Float[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """Approximates `exact.exact_top_k`: some rows may be missing, and there may be fewer than k."""
    parameters, bits = _swig.IVFSearchParameters(nprobe=lists.nprobe), None
    if allowed is not None:
        bits = np.packbits(allowed, bitorder="little")  # FAISS does not keep it alive
        parameters = _swig.IVFSearchParameters(nprobe=lists.nprobe, sel=_swig.IDSelectorBitmap(bits))
    # FAISS scores quantized vectors: take more candidates than needed, and rescore them.
    num_candidates = min(len(vectors), max(4 * k, 100))
    _, rows = lists.search(query[None].astype(np.float32), num_candidates, params=parameters)
    rows = rows[0][rows[0] >= 0]
    scores = rescore(vectors, query, rows)
    best = np.lexsort((rows, -scores))[:k]
    return scores[best], rows[best]
