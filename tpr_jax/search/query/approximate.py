"""Approximate search of large galleries: FAISS' inverted lists, with as many of them read as a recall needs.

Vectors are put into lists by their nearest center; a query reads the lists of the centers nearest to it. How
many is measured when the index is made: the fewest that find `RECALL` of the exact first ten, of sentences as
people ask them and of photos.
"""

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
from jaxtyping import Float, Float16, Int

from tpr_jax.errors import UserError
from tpr_jax.search.query.exact import rescore
from tpr_jax.utils.files import write_whole

FROM = 1_000_000  # photos: up to there the exact search is quick
RECALL, AT = 0.99, 10
_BLOCK, _TRAIN_PER_LIST = 16384, 64


def sentences() -> list[str]:
    """Queries of the kind that people ask, to measure recall with: 192 of them."""
    colors = ("black", "white", "red", "blue", "grey", "green", "pink", "yellow")
    tops = ("jacket", "t-shirt", "long coat", "striped shirt")
    rest = ("blue jeans and a backpack", "dark trousers", "a short skirt and a handbag")
    people = itertools.cycle(("A man", "A woman", "A person with a cap", "A girl with long hair"))
    wears = itertools.product(colors, tops, rest)
    listed = [f"{next(people)} in a {color} {top} and {other}" for color, top, other in wears]
    return [*listed, *(text.lower().replace(" in a ", " wearing a ") for text in listed)]


def build_lists(
    vectors: Float16[np.ndarray, "n e"],
    queries: Float[np.ndarray, "q e"],
    exact: Callable,
    path: Path,
    lists: int | None = None,
    seed: int = 0,
) -> dict:
    """Writes the lists, with the number to read; `exact(query, k)` gives (scores, rows) to compare with.

    Returns `lists`, `probes` (lists that a query reads), `recall` (of the first ten, the mean over the
    queries) and `queries` (how many there were).

    Raises:
      UserError: the file cannot be written.
    """
    count, width = vectors.shape
    lists = lists or max(1, min(int(4 * count**0.5), count // 40))
    rng = np.random.default_rng(seed)
    sample = np.sort(rng.choice(count, min(count, lists * _TRAIN_PER_LIST), replace=False))
    centers = faiss.IndexFlatIP(width)
    kind = faiss.ScalarQuantizer.QT_8bit
    index = faiss.IndexIVFScalarQuantizer(centers, width, lists, kind, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.min_points_per_centroid = int(seed), 1
    index.train(vectors[sample].astype(np.float32))
    for at in range(0, count, _BLOCK):
        index.add(vectors[at : at + _BLOCK].astype(np.float32))
    wanted = [set(exact(query, AT)[1].tolist()) for query in queries]
    probes, recall = 1, 0.0
    while True:
        index.nprobe = probes
        found = [lists_top_k(index, vectors, query, AT)[1] for query in queries]
        recall = float(
            np.mean([len(w & set(f.tolist())) / len(w) for w, f in zip(wanted, found, strict=True)])
        )
        if recall >= RECALL or probes >= lists:
            break
        probes = min(lists, -(-probes * 3 // 2))
    write_whole(path, lambda temporary: faiss.write_index(index, temporary))
    return {"lists": lists, "probes": probes, "recall": recall, "queries": len(queries)}


def open_lists(path: Path):
    """Returns the lists, memory-mapped; they know how many of them a query reads.

    Raises:
      UserError: the file is missing or damaged.
    """
    try:
        return faiss.read_index(os.fspath(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    except RuntimeError as error:
        what = " ".join(str(error).split())[-200:]
        raise UserError(f"{path}: damaged ({what}); index the photos into a new folder") from error


def lists_top_k(
    index, vectors: Float16[np.ndarray, "n e"], query: Float[np.ndarray, " e"], k: int, allowed=None
) -> tuple[Float[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """As `exact.exact_top_k`, but some of the best may be missing, and fewer than k be found."""
    settings, bits = faiss.IVFSearchParameters(nprobe=index.nprobe), None
    if allowed is not None:
        bits = np.packbits(allowed, bitorder="little")
        settings = faiss.IVFSearchParameters(nprobe=index.nprobe, sel=faiss.IDSelectorBitmap(bits))
    # Their scores are of rounded vectors: more than asked for, scored again.
    asked = min(len(vectors), max(4 * k, 100))
    _, rows = index.search(query[None].astype(np.float32), asked, params=settings)
    rows = rows[0][rows[0] >= 0]
    scores = rescore(vectors, query, rows)
    best = np.lexsort((rows, -scores))[:k]
    return scores[best], rows[best]
