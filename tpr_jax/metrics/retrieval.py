"""Retrieval metrics from features: R@k, mAP and mINP, and the top of a ranking.

Similarity is the cosine. Equal scores are ordered by gallery index, so a ranking is a function of the
features alone. Scores are made in blocks: memory grows with the features, not with their square.
"""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float, Int

from tpr_jax.errors import UserError
from tpr_jax.metrics import ranking
from tpr_jax.utils.normalize import l2_normalize

RECALL_AT = (1, 5, 10)
METRIC_KEYS = (*(f"R{k}" for k in RECALL_AT), "mAP", "mINP")
BLOCK_BYTES = 64 * 2**20
MANY = 128  # matches a query (or gallery entry, if those are more) above which sorting beats counting


def retrieval_metrics(
    query_feats: Float[np.ndarray, "q e"],
    gallery_feats: Float[np.ndarray, "g e"],
    query_pids: Int[np.ndarray, "q"],
    gallery_pids: Int[np.ndarray, "g"],
    pair_ranks: Callable | None = None,
) -> dict[str, dict[str, float]]:
    """Metrics of both directions, percent: texts are the queries and images the gallery of "t2i".

    Returns {"t2i": M, "i2t": M} with M = {"R1", "R5", "R10", "mAP", "mINP"}; "i2t" is the same with the roles
    exchanged. `rank_metrics` gives one direction together with the numbers of queries behind it; there it
    says what the figures are and which input is refused. `pair_ranks` does the ranking: by default
    `ranking.pair_ranks`; `ranking_device.pair_ranks` does it on accelerators.
    """
    if pair_ranks is not None and not callable(pair_ranks):
        raise UserError(f"pair_ranks is {type(pair_ranks).__name__}: give a function, or leave it out")
    query, gallery = _normalized(query_feats, gallery_feats)
    query_pids = _as_pids("query", query, query_pids)
    gallery_pids = _as_pids("gallery", gallery, gallery_pids)
    matches = _count_matches(query_pids, gallery_pids)
    if pair_ranks is None and ranking.numba is not None:
        pair_ranks = ranking.pair_ranks
    if pair_ranks is None or matches > MANY * max(len(query), len(gallery)):
        t2i = _rank_by_sorting(query, gallery, query_pids, gallery_pids)
        i2t = _rank_by_sorting(gallery, query, gallery_pids, query_pids)
    else:
        pairs = ranking.find_pairs(query_pids, gallery_pids)
        forth, back = pair_ranks(query, gallery, query_pids, gallery_pids, pairs)
        t2i, i2t = ranking.both(_figures, (pairs.query_start, pairs.gallery_start), (forth, back))
    return {"t2i": _means(t2i), "i2t": _means(i2t)}


def rank_metrics(
    query_feats: Float[np.ndarray, "q e"],
    gallery_feats: Float[np.ndarray, "g e"],
    query_pids: Int[np.ndarray, "q"],
    gallery_pids: Int[np.ndarray, "g"],
) -> dict[str, float]:
    """Metrics of one direction, percent, with `num_queries` and `num_without_match` beside them.

    - R@k: the share of queries with a match within the first k.
    - AP: the mean of the precisions at the ranks of the matches, over the whole gallery; mAP: their mean.
    - mINP: the mean of (number of matches / rank of the last match) (Ye et al., TPAMI 2021, eq. 13).

    A query whose pid is not in the gallery is left out of every mean and counted in `num_without_match`;
    `num_queries` counts all. Raises UserError where sizes disagree, one side is empty, a feature is not
    finite, a pid is no whole number, or no query has a match. This one sorts; it takes any number of matches.
    """
    query, gallery = _normalized(query_feats, gallery_feats)
    query_pids = _as_pids("query", query, query_pids)
    gallery_pids = _as_pids("gallery", gallery, gallery_pids)
    _count_matches(query_pids, gallery_pids)
    figures = _rank_by_sorting(query, gallery, query_pids, gallery_pids)
    counts = {"num_queries": len(query), "num_without_match": len(query) - figures.shape[1]}
    return {**_means(figures), **counts}


def _rank_by_sorting(query, gallery, query_pids, gallery_pids):
    """`_figures` of the queries that have a match."""
    order, first, last = ranking.matches_of(query_pids, gallery_pids)
    found = []
    for start, scores in _score_blocks(query, gallery):
        these = slice(start, start + len(scores))
        counts = last[these] - first[these]
        ranks = [
            match_ranks(row, order[a:b]) for row, a, b in zip(scores, first[these], last[these], strict=True)
        ]
        found.append(_figures(np.concatenate([[0], np.cumsum(counts)]), np.concatenate(ranks)))
    return np.concatenate(found, axis=1)


def _figures(start: Int[np.ndarray, "q+1"], ranks: Int[np.ndarray, "n"]) -> Float[np.ndarray, "3 scored"]:
    """(best rank, AP, INP) of each query that has a match, whose ranks are ranks[start[i]:start[i+1]]."""
    count = np.diff(start)
    query = np.repeat(np.arange(len(count)), count)
    ranks = ranks[np.lexsort((ranks, query))]
    found = np.arange(1, len(ranks) + 1) - start[query]
    first, last, count = start[:-1][count > 0], start[1:][count > 0] - 1, count[count > 0]
    if not len(first):
        return np.zeros((3, 0))
    precision = np.add.reduceat(found / ranks, first) / count
    return np.stack([ranks[first], precision, count / ranks[last]])


def _means(figures: Float[np.ndarray, "3 scored"]) -> dict[str, float]:
    best, precision, penalty = figures
    recalls = {f"R{k}": 100.0 * float(np.mean(best <= k)) for k in RECALL_AT}
    return {**recalls, "mAP": 100.0 * float(np.mean(precision)), "mINP": 100.0 * float(np.mean(penalty))}


def match_ranks(scores: Float[np.ndarray, "g"], matches: Int[np.ndarray, "m"]) -> Int[np.ndarray, "m"]:
    """Ranks, from 1, of the gallery indices `matches` when `scores` fall and ties go by gallery index."""
    # Sorting values is an order of magnitude faster than sorting indices (NumPy does it with SIMD).
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
    query_feats: Float[np.ndarray, "q e"], gallery_feats: Float[np.ndarray, "g e"], k: int
) -> tuple[Float[np.ndarray, "q k"], Int[np.ndarray, "q k"]]:
    """Cosines and gallery indices of the best `k` for each query, best first, ties by gallery index.

    `k` is cut to the size of the gallery. Raises UserError for k < 1, widths that differ, or a feature that
    is not finite.
    """
    if not isinstance(k, int | np.integer) or isinstance(k, bool) or k < 1:
        raise UserError(f"top_k={k!r}: ask for at least one result, as a whole number")
    query, gallery = _normalized(query_feats, gallery_feats)
    k = min(k, len(gallery))
    best_scores, best_index = [], []
    for _, scores in _score_blocks(query, gallery):
        # The k-th best value admits every candidate; ties at it may admit more than k.
        threshold = np.partition(scores, scores.shape[1] - k, axis=1)[:, -k]
        for row, least in zip(scores, threshold, strict=True):
            candidates = np.flatnonzero(row >= least)
            chosen = candidates[np.argsort(-row[candidates], kind="stable")[:k]]
            best_index.append(chosen)
            best_scores.append(row[chosen])
    return np.reshape(best_scores, (-1, k)), np.reshape(best_index, (-1, k)).astype(np.int64)


def _score_blocks(query, gallery) -> Iterator[tuple[int, Float[np.ndarray, "b g"]]]:
    """(index of the block's first query, its scores with the whole gallery), block after block."""
    distinct, copies = ranking.distinct_rows(gallery)
    rows = max(1, BLOCK_BYTES // (query.itemsize * len(gallery)))
    for start in range(0, len(query), rows):
        scores = query[start : start + rows] @ distinct.T
        yield start, scores if len(distinct) == len(gallery) else scores[:, copies]


def _normalized(query_feats, gallery_feats):
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
        raise UserError(f"{name} features are not finite in {count} rows, first {first}: the model is broken")
    return feats


def _as_array(what, values):
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:  # rows of different lengths
        raise UserError(f"{what} are no array: {' '.join(str(error).split())}") from error


def _as_pids(name, feats, pids):
    pids = _as_array(f"{name} pids", pids)
    if pids.shape != (len(feats),):
        count = len(pids) if pids.ndim == 1 else f"shape {pids.shape} of"
        raise UserError(f"{len(feats)} {name} features but {count} {name} pids: give one pid a feature")
    if pids.dtype == np.bool_ or not np.can_cast(
        pids.dtype, np.int64
    ):  # float64 and uint64 would make large ids equal that are not
        raise UserError(f"{name} pids are {pids.dtype}: give whole numbers within int64")
    return pids.astype(np.int64)


def _count_matches(query_pids, gallery_pids):
    matches = ranking.count_pairs(query_pids, gallery_pids)
    if not matches:
        raise UserError("no query's pid occurs in the gallery: check that both were read from the same split")
    return matches
