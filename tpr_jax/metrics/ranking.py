"""Computes the ranks of the matches in both directions from one tiled matrix product, with NumPy and Numba.

R@k, mAP and mINP only need the ranks of the few matches, and a rank is a count: of the entries that score
higher, and of those that score the same and come first. So nothing is sorted, and only one tile of the score
matrix is in memory. Each pair of rows has one score, which both directions use. Numba counts, because the
counter that JAX compiles (`ranking_device.py`) takes 2.7 times the CPU time at the size of CUHK-PEDES.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt32, UInt64
from tqdm import tqdm

from tpr_jax.data.batches import worker_threads
from tpr_jax.utils.numba_cache import njit, numba

try:
    from threadpoolctl import threadpool_limits
except ImportError:  # slower: the product of each worker then runs on all cores

    def threadpool_limits(limits, user_api):
        """Does nothing, in place of threadpoolctl's function."""
        return nullcontext()


TILE = (512, 1000)  # queries, gallery: 2 MB, which fit into a core's cache
STRIP = 50  # columns that are transposed together


@dataclass(frozen=True)
class Pairs:
    """The matches of queries and gallery entries, ordered by query and then by gallery index.

    Attributes:
      query: the query of each pair.
      gallery: the gallery entry of each pair.
      by_gallery: the permutation that orders the pairs by gallery entry and then by query.
      query_start: query i has the pairs query_start[i]:query_start[i+1].
      gallery_start: gallery entry j has the pairs gallery_start[j]:gallery_start[j+1], in the order of
        `by_gallery`.
    """

    query: Int[np.ndarray, " n"]
    gallery: Int[np.ndarray, " n"]
    by_gallery: Int[np.ndarray, " n"]
    query_start: Int[np.ndarray, " q_bounds"]
    gallery_start: Int[np.ndarray, " g_bounds"]


@dataclass(frozen=True)
class Tile:
    """One axis of a tile: a range of distinct features, and the original rows that have them.

    Attributes:
      lo: the first distinct feature.
      hi: the end of the range.
      rows: the original indices, ascending.
      source: row rows[i] has the distinct feature lo + source[i].
    """

    lo: int
    hi: int
    rows: Int[np.ndarray, " r"]
    source: Int[np.ndarray, " r"]


class Matches(NamedTuple):
    """The pairs of one side, for the compiled loops.

    Attributes:
      start: entry i has the pairs start[i] to start[i + 1].
      other: the index of each pair's entry on the other side.
      score: the score of each pair.
    """

    start: Int[np.ndarray, " q1"]
    other: Int[np.ndarray, " n"]
    score: Float[np.ndarray, " n"]


def both(function: Callable, *arguments: Sequence) -> list:
    """Maps a function over queries and gallery in parallel, because NumPy releases the GIL."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(function, *arguments))


def count_pairs(query_pids: Int[np.ndarray, " q"], gallery_pids: Int[np.ndarray, " g"]) -> int:
    """Counts the pairs of a query and a gallery entry with the same pid."""
    _, first, last = find_matches(query_pids, gallery_pids)
    return int(np.sum(last - first))


def find_pairs(query_pids: Int[np.ndarray, " q"], gallery_pids: Int[np.ndarray, " g"]) -> Pairs:
    """Finds all pairs of a query and a gallery entry with the same pid."""
    order, first, last = find_matches(query_pids, gallery_pids)
    count = last - first
    start = np.concatenate([[0], np.cumsum(count)])
    query = np.repeat(np.arange(len(query_pids)), count)
    gallery = order[np.arange(start[-1]) - start[query] + first[query]]
    by_gallery = np.argsort(gallery, kind="stable")
    gallery_start = np.concatenate([[0], np.cumsum(np.bincount(gallery, minlength=len(gallery_pids)))])
    return Pairs(query, gallery, by_gallery, start, gallery_start)


def find_matches(
    query_pids: Int[np.ndarray, " q"], gallery_pids: Int[np.ndarray, " g"]
) -> tuple[Int[np.ndarray, " g"], Int[np.ndarray, " q"], Int[np.ndarray, " q"]]:
    """Returns (gallery indices ordered by pid, start of each query's matches in that order, their end)."""
    order = np.argsort(gallery_pids, kind="stable")
    ordered = gallery_pids[order]
    first, last = (np.searchsorted(ordered, query_pids, side=side) for side in ("left", "right"))
    return order, first, last


def pair_ranks(
    query: Float[np.ndarray, "q e"],
    gallery: Float[np.ndarray, "g e"],
    query_pids: Int[np.ndarray, " q"],
    gallery_pids: Int[np.ndarray, " g"],
    pairs: Pairs,
    *,
    tile: tuple[int, int] = TILE,
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Ranks the gallery entry of each pair for its query, and the query for that entry.

    Scores are inner products; ties are ordered by original index. Requires Numba.

    Returns:
      The ranks of the gallery entries, from 1, in the order of the pairs, and the ranks of the queries, in
      the order of `pairs.by_gallery`.
    """
    (query, query_copies), (gallery, gallery_copies) = both(distinct_rows, (query, gallery))
    across = tiles(gallery_copies, len(gallery), tile[1])
    scores = _pair_scores(
        query,
        gallery,
        query_copies,
        gallery_copies,
        query_pids=query_pids,
        gallery_pids=gallery_pids,
        pairs=pairs,
    )
    forth = Matches(pairs.query_start, pairs.gallery, scores)
    back = Matches(pairs.gallery_start, pairs.query[pairs.by_gallery], scores[pairs.by_gallery])
    down = tiles(query_copies, len(query), tile[0])
    forth_counts, workers = np.zeros(len(scores), np.int64), min(worker_threads(), len(down))
    bar = tqdm(total=len(down), desc="ranking", delay=5, leave=False, dynamic_ncols=True, disable=None)

    def count_tiles(row_tiles: list[Tile]) -> Int[np.ndarray, " n"]:
        """Adds the counts for the queries of these tiles to `forth_counts`; returns those for the gallery."""
        back_counts, buffer = np.zeros(len(scores), np.int64), np.empty(tile[0] * tile[1], query.dtype)
        for rows in row_tiles:
            for columns in across:
                shape = rows.hi - rows.lo, columns.hi - columns.lo
                product = buffer[: shape[0] * shape[1]].reshape(shape)
                np.matmul(query[rows.lo : rows.hi], gallery[columns.lo : columns.hi].T, out=product)
                _put(product, rows.rows, rows.source, forth, gallery_copies, columns.lo)
                expanded = expand(product, rows, columns)
                _count(expanded, rows.rows, columns.rows, forth, forth_counts)
                for first in range(0, len(columns.rows), STRIP):
                    strip = np.ascontiguousarray(expanded[:, first : first + STRIP].T)
                    _count(strip, columns.rows[first : first + STRIP], rows.rows, back, back_counts)
            bar.update()
        return back_counts

    # One product per core: with one product over all cores, they would wait for each other between the
    # counts.
    with bar, threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        counts = pool.map(count_tiles, [down[n::workers] for n in range(workers)])
        back_counts = sum(counts, np.zeros(len(scores), np.int64))
    return forth_counts + 1, back_counts + 1


def _slices(length, step):
    return [slice(at, at + step) for at in range(0, length, step)]


def _count_loop(scores, rows, others, matches, counts):
    """Adds to `counts` of each pair of `rows` the number of columns (`others`) that precede it."""
    for i in range(len(rows)):
        for pair in range(matches.start[rows[i]], matches.start[rows[i] + 1]):
            # Equal scores precede the pair if they are before `split`, its own column.
            if matches.other[pair] <= others[0]:
                split = 0
            elif matches.other[pair] > others[-1]:
                split = len(others)
            else:
                split = np.searchsorted(others, matches.other[pair])
            pair_score = matches.score[pair]
            earlier, later = scores[i, :split], scores[i, split:]
            # A sum of 32 bits has as many SIMD lanes as the comparison; by default Numba would use 64 bits.
            # Only loops from 0 are vectorized: in others Numba checks each index for being negative.
            count = np.int32(0)
            for j in range(len(earlier)):
                count = np.int32(count + np.int32(earlier[j] >= pair_score))
            for j in range(len(later)):
                count = np.int32(count + np.int32(later[j] > pair_score))
            counts[pair] += count


def _put_loop(scores, rows, source, matches, copies, lo):
    """Overwrites the scores of the pairs within a tile with the scores that they are compared by."""
    for i in range(len(rows)):
        for pair in range(matches.start[rows[i]], matches.start[rows[i] + 1]):
            column = copies[matches.other[pair]] - lo
            if 0 <= column < scores.shape[1]:
                scores[source[i], column] = matches.score[pair]


if numba is not None:  # without Numba, `retrieval` sorts instead: the same ranks, half as fast
    _count = njit(_count_loop, nogil=True)
    _put = njit(_put_loop, nogil=True)


def _pair_scores(query, gallery, query_copies, gallery_copies, *, query_pids, gallery_pids, pairs, rows=512):
    """Computes the score of each pair; pairs of equal features get equal scores.

    The scores come from matrix products as large as the tiles', with the rows ordered by pid, because a
    product of another shape rounds differently: if all features were almost equal, the scores of all matches
    might be rounded up, and a model that learned nothing would look perfect.
    """
    by_pid, first, last = find_matches(query_pids, gallery_pids)
    position = np.empty(len(by_pid), np.int64)
    position[by_pid] = np.arange(len(by_pid))
    scores = np.empty(len(pairs.query), query.dtype)
    matched = np.flatnonzero(last > first)
    matched = matched[np.argsort(first[matched], kind="stable")]
    for s in _slices(len(matched), rows):
        chosen = matched[s]
        lo, hi = first[chosen].min(), last[chosen].max()
        product = query[query_copies[chosen]] @ gallery[gallery_copies[by_pid[lo:hi]]].T
        count = last[chosen] - first[chosen]
        row = np.repeat(np.arange(len(chosen)), count)
        within = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
        pair = pairs.query_start[chosen][row] + within
        scores[pair] = product[row, position[pairs.gallery[pair]] - lo]
    key = query_copies[pairs.query] * len(gallery) + gallery_copies[pairs.gallery]
    _, first_pair, inverse = np.unique(key, return_index=True, return_inverse=True)
    return scores[first_pair][inverse.ravel()]


def distinct_rows(feats: Float[np.ndarray, "n e"]) -> tuple[Float[np.ndarray, "d e"], Int[np.ndarray, " n"]]:
    """Returns the distinct rows in the order of their first copy, and the index of each row among them.

    A matrix product may round equal columns differently, so equal features are scored once to make them tie.
    """
    raw = np.ascontiguousarray(feats)
    raw = np.where(raw == 0, raw.dtype.type(0), raw)  # -0.0 becomes 0.0, because bytes are compared below
    keys = _hash_rows(raw.view(np.uint32))
    _, first, copies = np.unique(keys, return_index=True, return_inverse=True)
    copies = copies.ravel()
    if len(first) == len(raw):
        return raw, np.arange(len(raw))
    repeated = np.flatnonzero(first[copies] != np.arange(len(raw)))
    if any(not np.array_equal(raw[row], raw[first[copies[row]]]) for row in repeated):  # a hash collision
        as_bytes = raw.view(np.dtype((np.void, raw.dtype.itemsize * raw.shape[1]))).ravel()
        _, first, copies = np.unique(as_bytes, return_index=True, return_inverse=True)
        copies = copies.ravel()
    order = np.argsort(first)
    number = np.empty(len(first), np.int64)
    number[order] = np.arange(len(first))
    return raw[first[order]], number[copies]


def _hash_rows(words: UInt32[np.ndarray, "n w"]) -> UInt64[np.ndarray, " n"]:
    """Computes a hash of each row: a weighted sum modulo 2**64."""
    factors = np.random.default_rng(0).integers(2**62, size=words.shape[1], dtype=np.uint64) * 2 + 1
    keys = np.empty(len(words), np.uint64)
    for s in _slices(len(words), 4096):
        keys[s] = words[s].astype(np.uint64) @ factors
    return keys


def tiles(copies: Int[np.ndarray, " n"], distinct: int, size: int) -> list[Tile]:
    """Splits an axis into tiles of `size` distinct features, each with all rows that have them."""
    by_number = np.argsort(copies, kind="stable")
    axis = []
    for lo in range(0, distinct, size):
        hi = min(lo + size, distinct)
        begin, end = np.searchsorted(copies, [lo, hi], sorter=by_number)
        rows = np.sort(by_number[begin:end])
        axis.append(Tile(lo, hi, rows, copies[rows] - lo))
    return axis


def expand(scores: Float[np.ndarray, "a b"], down: Tile, right: Tile) -> Float[np.ndarray, "r c"]:
    """Expands the scores of a tile's distinct features to all its rows."""
    if len(down.rows) > len(scores):
        scores = scores[down.source]
    return scores[:, right.source] if len(right.rows) > scores.shape[1] else scores
