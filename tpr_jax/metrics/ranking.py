"""Ranks of the matches in both directions from one matrix product, tile by tile. CPU; NumPy and Numba.

R@k, mAP and mINP ask for the ranks of the few matches only, and a rank is a count: of the entries that score
higher, and of those that score the same and come first. So nothing is sorted and no more than a tile of the
matrix is held. Every pair of rows has one score, which both directions use.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from tpr_jax.data.batches import worker_threads
from tpr_jax.utils.numba_cache import njit, numba

try:
    from threadpoolctl import threadpool_limits
except ImportError:  # slower: each core's products are then shared out over all cores

    def threadpool_limits(limits, user_api):
        return nullcontext()


TILE = (512, 1000)  # queries, gallery: 2 MB, which a core's cache holds
STRIP = 50  # columns that are transposed at a time


@dataclass(frozen=True)
class Pairs:
    """The matches, ordered by query and then by gallery index; row i has pairs start[i]:start[i+1].

    `by_gallery` orders them by gallery index and then by query; `gallery_start` counts in that order.
    """

    query: Int[np.ndarray, " n"]
    gallery: Int[np.ndarray, " n"]
    by_gallery: Int[np.ndarray, " n"]
    query_start: Int[np.ndarray, " q_bounds"]
    gallery_start: Int[np.ndarray, " g_bounds"]


@dataclass(frozen=True)
class Tile:
    """One axis of a tile: the rows lo:hi of the distinct features, and who has them.

    `rows` are the original indices, ascending; the features of rows[i] are number lo + source[i].
    """

    lo: int
    hi: int
    rows: Int[np.ndarray, " r"]
    source: Int[np.ndarray, " r"]


def both(function: Callable, *arguments: Sequence) -> list:
    """`map` over queries and gallery at the same time: NumPy works outside Python's lock."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(function, *arguments))


def count_pairs(query_pids: Int[np.ndarray, " q"], gallery_pids: Int[np.ndarray, " g"]) -> int:
    """How many pairs of a query and a gallery entry have one pid."""
    _, first, last = matches_of(query_pids, gallery_pids)
    return int(np.sum(last - first))


def find_pairs(query_pids: Int[np.ndarray, " q"], gallery_pids: Int[np.ndarray, " g"]) -> Pairs:
    order, first, last = matches_of(query_pids, gallery_pids)
    count = last - first
    start = np.concatenate([[0], np.cumsum(count)])
    query = np.repeat(np.arange(len(query_pids)), count)
    gallery = order[np.arange(start[-1]) - start[query] + first[query]]
    by_gallery = np.argsort(gallery, kind="stable")
    gallery_start = np.concatenate([[0], np.cumsum(np.bincount(gallery, minlength=len(gallery_pids)))])
    return Pairs(query, gallery, by_gallery, start, gallery_start)


def matches_of(query_pids: Int[np.ndarray, " q"], gallery_pids: Int[np.ndarray, " g"]) -> tuple:
    """(the gallery ordered by pid, where each query's matches begin in that order, and where they end)."""
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
    tile: tuple[int, int] = TILE,
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """(rank of each pair's gallery entry for its query, rank of its query for that entry), from 1.

    Scores are inner products, the ties ordered by original index. The second array is in the order of
    `pairs.by_gallery`. Needs Numba.
    """
    (query, query_copies), (gallery, gallery_copies) = both(distinct_rows, (query, gallery))
    across = tiles(gallery_copies, len(gallery), tile[1])
    scores = _pair_scores(query, gallery, query_copies, gallery_copies, query_pids, gallery_pids, pairs)
    forth = (pairs.query_start, pairs.gallery, scores)
    back = (pairs.gallery_start, pairs.query[pairs.by_gallery], scores[pairs.by_gallery])
    down = tiles(query_copies, len(query), tile[0])
    ahead, workers = np.zeros(len(scores), np.int64), min(worker_threads(), len(down))
    bar = tqdm(total=len(down), desc="ranking", delay=5, leave=False, dynamic_ncols=True, disable=None)

    def work(mine):
        """What precedes the pairs of the queries of these tiles goes into `ahead`; returns the other way."""
        behind, product = np.zeros(len(scores), np.int64), np.empty(tile[0] * tile[1], query.dtype)
        for rows in mine:
            for columns in across:
                shape = rows.hi - rows.lo, columns.hi - columns.lo
                part = product[: shape[0] * shape[1]].reshape(shape)
                np.matmul(query[rows.lo : rows.hi], gallery[columns.lo : columns.hi].T, out=part)
                _put(part, rows.rows, rows.source, *forth, gallery_copies, columns.lo)
                part = expand(part, rows, columns)
                _count(part, rows.rows, columns.rows, *forth, ahead)
                for at in range(0, len(columns.rows), STRIP):
                    strip = np.ascontiguousarray(part[:, at : at + STRIP].T)
                    _count(strip, columns.rows[at : at + STRIP], rows.rows, *back, behind)
            bar.update()
        return behind

    # A product a core: one product over all cores leaves them waiting for each other between the counts.
    with bar, threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        behind = sum(pool.map(work, [down[n::workers] for n in range(workers)]))
    return ahead + 1, behind + 1


def _slices(length, step):
    return [slice(at, at + step) for at in range(0, length, step)]


def _count_loop(scores, rows, others, start, other, score, ahead):
    """Adds to `ahead` of each pair of `rows` how many of the columns (`others`) precede it."""
    for i in range(len(rows)):
        for pair in range(start[rows[i]], start[rows[i] + 1]):
            # Up to `place` an equal score precedes, behind it does not. The pair itself stands at `place`.
            if other[pair] <= others[0]:
                place = 0
            elif other[pair] > others[-1]:
                place = len(others)
            else:
                place = np.searchsorted(others, other[pair])
            own = score[pair]
            before, behind = scores[i, :place], scores[i, place:]
            # Sums of 32 bits are added as many at a time as are compared; Numba would make them 64. And only
            # loops from 0 are vectorized: of others it asks at each turn whether the index is negative.
            count = np.int32(0)
            for j in range(len(before)):
                count = np.int32(count + np.int32(before[j] >= own))
            for j in range(len(behind)):
                count = np.int32(count + np.int32(behind[j] > own))
            ahead[pair] += count


def _put_loop(scores, rows, source, start, other, score, copies, lo):
    """Gives the pairs within a tile the scores that they are compared by."""
    for i in range(len(rows)):
        for pair in range(start[rows[i]], start[rows[i] + 1]):
            column = copies[other[pair]] - lo
            if 0 <= column < scores.shape[1]:
                scores[source[i], column] = score[pair]


if numba is not None:  # else metrics.py sorts instead: the same ranks, twice as slow
    _count = njit(_count_loop, nogil=True)
    _put = njit(_put_loop, nogil=True)


def _pair_scores(query, gallery, query_copies, gallery_copies, query_pids, gallery_pids, pairs, rows=512):
    """The score of each pair, equal for pairs of equal features.

    They come from matrix products that are as large as the tiles', identities beside each other, because a
    product of another shape rounds in another way: were all features almost equal, the matches' scores might
    all be the larger ones, and a model that learned nothing would look perfect.
    """
    by_pid, first, last = matches_of(query_pids, gallery_pids)
    where = np.empty(len(by_pid), np.int64)
    where[by_pid] = np.arange(len(by_pid))
    scores = np.empty(len(pairs.query), query.dtype)
    having = np.flatnonzero(last > first)
    having = having[np.argsort(first[having], kind="stable")]
    for s in _slices(len(having), rows):
        chosen = having[s]
        lo, hi = first[chosen].min(), last[chosen].max()
        part = query[query_copies[chosen]] @ gallery[gallery_copies[by_pid[lo:hi]]].T
        count = last[chosen] - first[chosen]
        row = np.repeat(np.arange(len(chosen)), count)
        within = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
        pair = pairs.query_start[chosen][row] + within
        scores[pair] = part[row, where[pairs.gallery[pair]] - lo]
    key = query_copies[pairs.query] * len(gallery) + gallery_copies[pairs.gallery]
    _, one, each = np.unique(key, return_index=True, return_inverse=True)
    return scores[one][each.ravel()]


def distinct_rows(feats: Float[np.ndarray, "n e"]) -> tuple[Float[np.ndarray, "d e"], Int[np.ndarray, " n"]]:
    """The rows without repetition in the order of their first copy, and each row's place among them.

    A matrix product may round equal columns differently; equal features are scored once so that they tie.
    """
    raw = np.ascontiguousarray(feats)
    raw = np.where(raw == 0, raw.dtype.type(0), raw)  # -0.0 becomes 0.0: the comparison below is of bytes
    words = raw.view(np.uint32)
    keys = _keys(words)
    _, first, copies = np.unique(keys, return_index=True, return_inverse=True)
    copies = copies.ravel()
    if len(first) == len(raw):
        return raw, np.arange(len(raw))
    again = np.flatnonzero(first[copies] != np.arange(len(raw)))
    if any(
        not np.array_equal(raw[row], raw[first[copies[row]]]) for row in again
    ):  # unequal rows, equal keys
        as_bytes = raw.view(np.dtype((np.void, raw.dtype.itemsize * raw.shape[1]))).ravel()
        _, first, copies = np.unique(as_bytes, return_index=True, return_inverse=True)
        copies = copies.ravel()
    order = np.argsort(first)
    number = np.empty(len(first), np.int64)
    number[order] = np.arange(len(first))
    return raw[first[order]], number[copies]


def _keys(words):
    """A number for each row, the same for equal rows and hardly ever for others: sums modulo 2**64."""
    factors = np.random.default_rng(0).integers(2**62, size=words.shape[1], dtype=np.uint64) * 2 + 1
    keys = np.empty(len(words), np.uint64)
    for s in _slices(len(words), 4096):
        keys[s] = words[s].astype(np.uint64) @ factors
    return keys


def tiles(copies: Int[np.ndarray, " n"], distinct: int, size: int) -> list[Tile]:
    """An axis in pieces of `size` distinct features, each with all the rows that have them."""
    by_number = np.argsort(copies, kind="stable")
    found = []
    for lo in range(0, distinct, size):
        hi = min(lo + size, distinct)
        begin, end = np.searchsorted(copies, [lo, hi], sorter=by_number)
        rows = np.sort(by_number[begin:end])
        found.append(Tile(lo, hi, rows, copies[rows] - lo))
    return found


def expand(scores: Float[np.ndarray, "a b"], down: Tile, right: Tile) -> Float[np.ndarray, "r c"]:
    """The scores of a tile's distinct features as those of its rows: nothing to do where none has a copy."""
    if len(down.rows) > len(scores):
        scores = scores[down.source]
    return scores[:, right.source] if len(right.rows) > scores.shape[1] else scores
