"""Vectors rounded to 8 bits, so that FAISS passes over half the bytes; the answer stays exact.

Each number of a vector v is rounded to one of 256 between the least and the greatest that it has in the
gallery. The index knows the largest distance |v - c| from a vector to what it was rounded to, and by Cauchy
and Schwarz a score q.v of a query of length 1 is off by no more than that. So a photo can only be among the
best k if its rounded score reaches the k-th best one less twice that distance. Those photos, a few hundred,
are scored again with the vectors themselves.
"""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
from jaxtyping import Bool, Float, Float16, Int

from tpr_jax.data.batches import worker_threads
from tpr_jax.errors import UserError
from tpr_jax.writing import write_json, write_whole

FROM = 4096  # vectors: fewer are scored at once
_BLOCK, _PIECES = 16384, 16
_ROUNDING = 1e-5  # of float32 sums in another order than ours


@dataclass(frozen=True)
class Codes:
    """The pieces in order, each a FAISS index over memory-mapped codes of `rows` vectors."""

    pieces: list
    rows: int
    error: float  # the largest |v - c|


def write_codes(vectors: Float16[np.ndarray, "n e"], folder: Path, stem: str) -> list[str]:
    """Rounds vectors and writes the pieces and how far that took them; returns the files' names.

    Raises:
      UserError: a file cannot be written.
    """
    count, width = vectors.shape
    span = _span(vectors)
    # A piece begins at a multiple of eight rows, where a byte of a filter's bitmap does.
    rows = -(-max(_BLOCK, -(-count // _PIECES)) // 8) * 8
    names, error = [], 0.0
    for start in range(0, count, rows):
        # Not QT_8bit_direct_signed: FAISS 1.15 rounds the query too where the width is a multiple of 32.
        kind = faiss.ScalarQuantizer.QT_8bit
        piece = faiss.IndexScalarQuantizer(width, kind, faiss.METRIC_INNER_PRODUCT)
        piece.train(span)
        stop = min(start + rows, count)
        for at in range(start, stop, _BLOCK):
            block = vectors[at : min(at + _BLOCK, stop)].astype(np.float32)
            piece.add(block)
            rounded = piece.reconstruct_n(at - start, len(block))
            error = max(error, float(np.linalg.norm(block - rounded, axis=1).max()))
        name = f"{stem}-{len(names):02d}.faiss"
        write_whole(folder / name, lambda temporary, piece=piece: faiss.write_index(piece, temporary))
        names.append(name)
    write_json(folder / f"{stem}.json", {"rows": rows, "error": error})
    return [f"{stem}.json", *names]


def open_codes(folder: Path, names: list[str]) -> Codes:
    """Maps what `write_codes` wrote into memory; nothing but its size is read yet.

    Raises:
      UserError: a file is missing or damaged.
    """
    try:
        settings = json.loads((folder / names[0]).read_text())
        mapped = faiss.IO_FLAG_MMAP_IFC
        pieces = [faiss.read_index(os.fspath(folder / name), mapped) for name in names[1:]]
        return Codes(pieces, settings["rows"], settings["error"])
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        what = " ".join(str(error).split())[:200]
        raise UserError(
            f"{folder / names[0]}: damaged ({what}); index the photos into a new folder"
        ) from error


def exact_top_k(
    codes: Codes,
    vectors: Float16[np.ndarray, "n e"],
    query: Float[np.ndarray, "e"],
    k: int,
    allowed: Bool[np.ndarray, "n"] | None = None,
) -> tuple[Float[np.ndarray, "k"], Int[np.ndarray, "k"]]:
    """Scores and rows of the k best by q.v, best first, ties by row; `query` has length 1.

    Fewer where fewer rows are `allowed`.
    """
    k = min(k, len(vectors) if allowed is None else int(allowed.sum()))
    asked = max(2 * k, 64)  # candidates of each piece
    while True:
        near, rows, left_out = _candidates(codes, query, asked, allowed)
        slack = 2 * (codes.error + _ROUNDING)
        least = np.inf if k == 0 else -np.inf
        if 0 < k <= len(near):
            least = np.partition(near, len(near) - k)[len(near) - k] - slack
        # A row that was left out may be among the best, unless its rounded score is too low for that.
        if left_out < least or left_out == -np.inf:
            rows = rows[near >= least]
            scores = rescore(vectors, query, rows)
            best = np.lexsort((rows, -scores))[:k]
            return scores[best], rows[best]
        asked *= 8


def rescore(
    vectors: Float16[np.ndarray, "n e"], query: Float[np.ndarray, "e"], rows: Int[np.ndarray, "r"]
) -> Float[np.ndarray, "r"]:
    """q.v of these rows. In float64, so that equal vectors tie whatever else is scored with them."""
    scores = np.empty(len(rows), np.float32)
    for at in range(0, len(rows), _BLOCK):
        part = vectors[rows[at : at + _BLOCK]].astype(np.float32).astype(np.float64)
        scores[at : at + _BLOCK] = part @ query.astype(np.float64)
    return scores


def _candidates(codes: Codes, query, asked: int, allowed) -> tuple[np.ndarray, np.ndarray, float]:
    """(rounded scores and rows of each piece's best, the highest rounded score of any row left out)."""
    question = np.ascontiguousarray(query, np.float32)[None]

    def search(number: int) -> tuple[np.ndarray, np.ndarray, float]:
        faiss.omp_set_num_threads(1)  # of this thread: the pieces are what is done side by side
        piece, start = codes.pieces[number], codes.rows * number
        settings, bits = None, None
        if allowed is not None:
            bits = np.packbits(allowed[start : start + piece.ntotal], bitorder="little")
            settings = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bits))
        wanted = min(asked, piece.ntotal)
        scores, rows = (found[0] for found in piece.search(question, wanted, params=settings))
        found = rows >= 0
        # Where all were wanted, or fewer were found than wanted, nothing was left out.
        left_out = float(scores[-1]) if wanted < piece.ntotal and found.all() else -np.inf
        return scores[found], rows[found] + start, left_out

    with ThreadPoolExecutor(worker_threads()) as pool:
        scores, rows, left_out = zip(*pool.map(search, range(len(codes.pieces))), strict=True)
    return np.concatenate(scores), np.concatenate(rows), max(left_out)


def _span(vectors) -> Float[np.ndarray, "2 e"]:
    """The least and the greatest of each number."""
    low, high = np.full(vectors.shape[1], np.inf), np.full(vectors.shape[1], -np.inf)
    for at in range(0, len(vectors), _BLOCK):
        block = vectors[at : at + _BLOCK].astype(np.float32)
        low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
    return np.stack([low, high]).astype(np.float32)
