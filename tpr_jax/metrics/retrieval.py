"""Retrieval metrics from features: R@k, mAP and mINP, and the top of a ranking.

Similarity is the cosine. Equal scores are ordered by gallery index, so that a ranking is a function of the
features alone. Scores are computed in blocks: memory grows linearly with the number of features.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from tpr_jax.errors import UserError
from tpr_jax.metrics import ranking
from tpr_jax.utils.normalize import l2_normalize
from tpr_jax.utils.plural import counted

RECALL_AT = (1, 5, 10)
METRIC_KEYS = (*(f"R{k}" for k in RECALL_AT), "mAP", "mINP")
BLOCK_BYTES = 64 * 2**20
SORT_ABOVE = 128  # matches per query (or gallery entry, if there are more of those): sorting is faster


def retrieval_metrics(
    query_feats: ArrayLike,
    gallery_feats: ArrayLike,
    query_pids: ArrayLike,
    gallery_pids: ArrayLike,
    pair_ranks: Callable | None = None,
) -> dict[str, dict[str, float]]:
    """Computes the metrics of both directions, in percent.

    `rank_metrics` defines them.

    Args:
      query_feats: [q, e] features of the texts; their scale does not matter.
      gallery_feats: [g, e] features of the images.
      query_pids: [q] integers, the identity of each text.
      gallery_pids: [g] integers, the identity of each image.
      pair_ranks: computes the ranks; by default `ranking.pair_ranks`, or on accelerators
        `ranking_device.pair_ranks`.

    Returns:
      {"t2i": M, "i2t": M} with M = {"R1", "R5", "R10", "mAP", "mINP"}; "i2t" exchanges queries and gallery.

    Raises:
      UserError: as for `rank_metrics`.
    """
    if pair_ranks is not None and not callable(pair_ranks):
        raise UserError(f"pair_ranks is {type(pair_ranks).__name__}: give a function, or leave it out")
    query, gallery = normalized(query_feats, gallery_feats)
    query_pids = _as_pids("query", query, query_pids)
    gallery_pids = _as_pids("gallery", gallery, gallery_pids)
    matches = _count_matches(query_pids, gallery_pids)
    if pair_ranks is None and ranking.numba is not None:
        pair_ranks = ranking.pair_ranks
    if pair_ranks is None or matches > SORT_ABOVE * max(len(query), len(gallery)):
        t2i = _rank_by_sorting(query, gallery, query_pids, gallery_pids)
        i2t = _rank_by_sorting(gallery, query, gallery_pids, query_pids)
    else:
        pairs = ranking.find_pairs(query_pids, gallery_pids)
        forth, back = pair_ranks(query, gallery, query_pids, gallery_pids, pairs)
        t2i, i2t = ranking.both(_query_scores, (pairs.query_start, pairs.gallery_start), (forth, back))
    return {"t2i": _means(t2i), "i2t": _means(i2t)}


def rank_metrics(
    query_feats: ArrayLike,
    gallery_feats: ArrayLike,
    query_pids: ArrayLike,
    gallery_pids: ArrayLike,
) -> dict[str, float]:
    """Computes the metrics of one direction, in percent, by sorting.

    - R@k: the fraction of queries with a match among the first k.
    - AP: the mean of the precisions at the ranks of the matches, over the whole gallery; mAP: its mean.
    - mINP: the mean of (number of matches / rank of the last match) (Ye et al., TPAMI 2021, eq. 13).

    Args:
      query_feats: [q, e] features of the queries; their scale does not matter.
      gallery_feats: [g, e] features of the gallery.
      query_pids: [q] integers, the identity of each query.
      gallery_pids: [g] integers, the identity of each gallery entry.

    Returns:
      The metrics, `num_queries`, and `num_without_match`: the queries whose pid is not in the gallery, which
      all means leave out.

    Raises:
      UserError: the sizes disagree, one side is empty, a feature is not finite, a pid is not an integer, or
        no query has a match.
    """
    query, gallery = normalized(query_feats, gallery_feats)
    query_pids = _as_pids("query", query, query_pids)
    gallery_pids = _as_pids("gallery", gallery, gallery_pids)
    _count_matches(query_pids, gallery_pids)
    query_scores = _rank_by_sorting(query, gallery, query_pids, gallery_pids)
    counts = {"num_queries": len(query), "num_without_match": len(query) - query_scores.shape[1]}
    return {**_means(query_scores), **counts}


def _rank_by_sorting(query, gallery, query_pids, gallery_pids):
    return _rank_blocks(score_blocks(query, gallery), query_pids, gallery_pids)


def block_metrics(
    blocks: Iterable[tuple[int, np.ndarray]],
    query: Float[np.ndarray, "q e"],
    gallery: Float[np.ndarray, "g e"],
    query_pids: ArrayLike,
    gallery_pids: ArrayLike,
) -> dict[str, float]:
    """Computes the metrics of `rank_metrics` from any scores, given in blocks of queries.

    Args:
      blocks: (index of a block's first query, scores [b, g]) of all queries.
      query: as for `rank_metrics`; only the number of rows counts.
      gallery: likewise.
      query_pids: as for `rank_metrics`.
      gallery_pids: as for `rank_metrics`.

    Raises:
      UserError: as for `rank_metrics`.
    """
    query_pids = _as_pids("query", query, query_pids)
    gallery_pids = _as_pids("gallery", gallery, gallery_pids)
    _count_matches(query_pids, gallery_pids)
    return _means(_rank_blocks(blocks, query_pids, gallery_pids))


def _rank_blocks(blocks, query_pids, gallery_pids):
    """Returns `_query_scores` of the queries that have a match."""
    order, first, last = ranking.find_matches(query_pids, gallery_pids)
    ranked = []
    for start, scores in blocks:
        block = slice(start, start + len(scores))
        counts = last[block] - first[block]
        ranks = [
            match_ranks(row, order[a:b]) for row, a, b in zip(scores, first[block], last[block], strict=True)
        ]
        ranked.append(_query_scores(np.concatenate([[0], np.cumsum(counts)]), np.concatenate(ranks)))
    return np.concatenate(ranked, axis=1)


def _query_scores(
    start: Int[np.ndarray, " q_bounds"], ranks: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "3 matched"]:
    """Computes (best rank, AP, INP) of each matched query; query i has ranks[start[i]:start[i+1]]."""
    count = np.diff(start)
    query = np.repeat(np.arange(len(count)), count)
    ranks = ranks[np.lexsort((ranks, query))]
    hits = np.arange(1, len(ranks) + 1) - start[query]
    first, last, count = start[:-1][count > 0], start[1:][count > 0] - 1, count[count > 0]
    if not len(first):
        return np.zeros((3, 0))
    precision = np.add.reduceat(hits / ranks, first) / count
    return np.stack([ranks[first], precision, count / ranks[last]])


def _means(query_scores: Float[np.ndarray, "3 matched"]) -> dict[str, float]:
    best, precision, inverse_penalty = query_scores
    recalls = {f"R{k}": 100.0 * float(np.mean(best <= k)) for k in RECALL_AT}
    return {
        **recalls,
        "mAP": 100.0 * float(np.mean(precision)),
        "mINP": 100.0 * float(np.mean(inverse_penalty)),
    }


def match_ranks(scores: Float[np.ndarray, " g"], matches: Int[np.ndarray, " m"]) -> Int[np.ndarray, " m"]:
    """Returns the ranks, from 1, of the gallery indices `matches` by descending score; ties by index."""
    # Sorting values, which NumPy does with SIMD, is an order of magnitude faster than sorting indices.
    ascending = np.sort(scores)
    upper = np.searchsorted(ascending, scores[matches], side="right")
    lower = np.searchsorted(ascending, scores[matches], side="left")
    ranks = len(scores) - upper + 1
    if np.any(upper - lower > 1):
        position = np.empty(len(scores), np.int64)
        position[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
        ranks = position[matches]
    return ranks


def top_k(
    query_feats: ArrayLike, gallery_feats: ArrayLike, k: int
) -> tuple[Float[np.ndarray, "q k"], Int[np.ndarray, "q k"]]:
    """Returns the cosines and gallery indices of the best `k` for each query, best first; ties by index.

    Args:
      query_feats: [q, e] features of the queries; their scale does not matter.
      gallery_feats: [g, e] features of the gallery.
      k: number of results, limited to the size of the gallery.

    Raises:
      UserError: `k` is below 1, the widths differ, or a feature is not finite.
    """
    if not isinstance(k, int | np.integer) or isinstance(k, bool) or k < 1:
        raise UserError(f"top_k={k!r}: must be a whole number of at least 1")
    query, gallery = normalized(query_feats, gallery_feats)
    k = min(k, len(gallery))
    best_scores, best_index = [], []
    for _, scores in score_blocks(query, gallery):
        # Every candidate reaches the k-th best score; because of ties, more than k rows may.
        threshold = np.partition(scores, scores.shape[1] - k, axis=1)[:, -k]
        for row, lowest in zip(scores, threshold, strict=True):
            candidates = np.flatnonzero(row >= lowest)
            chosen = candidates[np.argsort(-row[candidates], kind="stable")[:k]]
            best_index.append(chosen)
            best_scores.append(row[chosen])
    return np.reshape(best_scores, (-1, k)), np.reshape(best_index, (-1, k)).astype(np.int64)


def score_blocks(query, gallery) -> Iterator[tuple[int, Float[np.ndarray, "b g"]]]:
    """Yields (index of the block's first query, the block's cosines with the whole gallery).

    Args:
      query: [q, e] features of length 1.
      gallery: [g, e] features of length 1; equal rows get equal scores.
    """
    distinct, copies = ranking.distinct_rows(gallery)
    rows = max(1, BLOCK_BYTES // (query.itemsize * len(gallery)))
    for start in range(0, len(query), rows):
        scores = query[start : start + rows] @ distinct.T
        yield start, scores if len(distinct) == len(gallery) else scores[:, copies]


def normalized(
    query_feats: ArrayLike, gallery_feats: ArrayLike
) -> tuple[Float[np.ndarray, "q e"], Float[np.ndarray, "g e"]]:
    """Checks the features of both sides, and divides each by its length.

    Raises:
      UserError: the widths differ, one side is empty, or a feature is not finite.
    """
    query, gallery = ranking.both(_as_features, ("query", "gallery"), (query_feats, gallery_feats))
    if query.shape[1] != gallery.shape[1]:
        raise UserError(
            f"query features are {query.shape[1]} wide and gallery features {gallery.shape[1]}: "
            "encode both with the same model"
        )
    dtype = np.result_type(query, gallery)
    return tuple(ranking.both(lambda feats: l2_normalize(feats.astype(dtype, copy=False)), (query, gallery)))


def _as_features(name, feats):
    feats = _as_array(f"{name} features", feats)
    if feats.dtype.kind not in "biufV":  # V: bfloat16, as ml_dtypes has it
        raise UserError(f"{name} features are {feats.dtype}: expected numbers")
    if feats.ndim != 2 or not feats.shape[1]:
        raise UserError(f"{name} features have shape {feats.shape}: expected [n, e]")
    if not len(feats):
        raise UserError(f"there are no {name} features: the split is empty")
    feats = feats.astype(np.float64 if feats.dtype == np.float64 else np.float32, copy=False)
    finite = np.isfinite(feats).all(axis=1)
    if not finite.all():
        count, first = np.sum(~finite), np.argmin(finite)
        raise UserError(
            f"{name} features are not finite in {counted(int(count), 'row')}, first {first}: "
            "the model is broken"
        )
    return feats


def _as_array(name: str, values) -> np.ndarray:
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:  # rows of different lengths
        raise UserError(f"{name} are not an array: {' '.join(str(error).split())}") from error


def _as_pids(name, feats, pids):
    pids = _as_array(f"{name} pids", pids)
    if pids.shape != (len(feats),):
        count = len(pids) if pids.ndim == 1 else f"shape {pids.shape} of"
        raise UserError(f"{len(feats)} {name} features but {count} {name} pids: give one pid per feature")
    # Casting float64 or uint64 could make different large ids equal.
    if pids.dtype == np.bool_ or not np.can_cast(pids.dtype, np.int64):
        raise UserError(f"{name} pids are {pids.dtype}: give whole numbers within int64")
    return pids.astype(np.int64)


def _count_matches(query_pids, gallery_pids):
    matches = ranking.count_pairs(query_pids, gallery_pids)
    if not matches:
        raise UserError("no query's pid occurs in the gallery: check that both were read from the same split")
    return matches
