"""Retrieval metrics from features: R@k, mAP and mINP, and the top of a ranking. NumPy only.

Similarity is the cosine. Equal scores are ordered by gallery index, so a ranking is a function of the
features alone. Scores are made in blocks of queries: memory grows with the gallery, not with its square.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from tpr_jax.errors import UserError

RECALL_AT = (1, 5, 10)
METRIC_KEYS = (*(f"R{k}" for k in RECALL_AT), "mAP", "mINP")
BLOCK_BYTES = 64 * 2**20


def retrieval_metrics(
    query_feats: Float[np.ndarray, "q e"],
    gallery_feats: Float[np.ndarray, "g e"],
    query_pids: Int[np.ndarray, "q"],
    gallery_pids: Int[np.ndarray, "g"],
) -> dict[str, dict[str, float]]:
    """Metrics of both directions, percent: texts are the queries and images the gallery of "t2i".

    Returns {"t2i": M, "i2t": M} with M = {"R1", "R5", "R10", "mAP", "mINP"}; "i2t" is the same with the roles
    exchanged. `rank_metrics` gives one direction together with the numbers of queries behind it.
    """
    t2i = rank_metrics(query_feats, gallery_feats, query_pids, gallery_pids)
    i2t = rank_metrics(gallery_feats, query_feats, gallery_pids, query_pids)
    return {"t2i": {k: t2i[k] for k in METRIC_KEYS}, "i2t": {k: i2t[k] for k in METRIC_KEYS}}


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
    `num_queries` counts all. Raises UserError where sizes disagree, a feature is not finite, or no query
    has a match.
    """
    query_pids, gallery_pids = np.asarray(query_pids), np.asarray(gallery_pids)
    _check_pids("query", query_feats, query_pids)
    _check_pids("gallery", gallery_feats, gallery_pids)
    num_queries = len(query_pids)
    order = np.argsort(gallery_pids, kind="stable")
    first = np.searchsorted(gallery_pids[order], query_pids, side="left")
    last = np.searchsorted(gallery_pids[order], query_pids, side="right")
    if not np.any(last > first):
        raise UserError("no query's pid occurs in the gallery: check that both were read from the same split")

    hits = dict.fromkeys(RECALL_AT, 0)
    average_precision, inverse_penalty = [], []
    for start, scores in _score_blocks(query_feats, gallery_feats):
        for row, query in zip(scores, range(start, start + len(scores)), strict=True):
            matches = order[first[query] : last[query]]
            if not len(matches):
                continue
            ranks = np.sort(match_ranks(row, matches))
            found = np.arange(1, len(ranks) + 1)
            for k in RECALL_AT:
                hits[k] += int(ranks[0] <= k)
            average_precision.append(np.mean(found / ranks))
            inverse_penalty.append(len(ranks) / ranks[-1])

    scored = len(average_precision)
    return {
        **{f"R{k}": 100.0 * hits[k] / scored for k in RECALL_AT},
        "mAP": 100.0 * float(np.mean(average_precision)),
        "mINP": 100.0 * float(np.mean(inverse_penalty)),
        "num_queries": num_queries,
        "num_without_match": num_queries - scored,
    }


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
    if k < 1:
        raise UserError(f"top_k={k}: ask for at least one result")
    k = min(k, len(gallery_feats))
    best_scores, best_index = [], []
    for _, scores in _score_blocks(query_feats, gallery_feats):
        # The k-th best value admits every candidate; ties at it may admit more than k.
        threshold = np.partition(scores, scores.shape[1] - k, axis=1)[:, -k]
        for row, least in zip(scores, threshold, strict=True):
            candidates = np.flatnonzero(row >= least)
            chosen = candidates[np.argsort(-row[candidates], kind="stable")[:k]]
            best_index.append(chosen)
            best_scores.append(row[chosen])
    return np.reshape(best_scores, (-1, k)), np.reshape(best_index, (-1, k)).astype(np.int64)


def l2_normalise(feats: Float[np.ndarray, "n e"]) -> Float[np.ndarray, "n e"]:
    """Rows divided by their Euclidean length; a zero row stays zero, so its cosine with everything is 0."""
    # The largest entry is taken out first: squares of very large or very small entries leave float32's range.
    largest = np.abs(feats).max(axis=1, keepdims=True, initial=0)
    scaled = feats / np.where(largest > 0, largest, 1)
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    return scaled / np.where(length > 0, length, 1)


def _score_blocks(query_feats, gallery_feats) -> Iterator[tuple[int, Float[np.ndarray, "b g"]]]:
    """(index of the block's first query, its cosines with the whole gallery), block after block."""
    query, gallery = _as_features("query", query_feats), _as_features("gallery", gallery_feats)
    if query.shape[1] != gallery.shape[1]:
        raise UserError(
            f"query features are {query.shape[1]} wide and gallery features {gallery.shape[1]}: "
            "encode both with the same model"
        )
    dtype = np.result_type(query, gallery)
    distinct, copies = _distinct_rows(l2_normalise(gallery.astype(dtype)))
    query = l2_normalise(query.astype(dtype))
    rows = max(1, BLOCK_BYTES // (dtype.itemsize * max(1, len(gallery))))
    for start in range(0, len(query), rows):
        scores = query[start : start + rows] @ distinct.T
        yield start, scores if copies is None else scores[:, copies]


def _distinct_rows(feats):
    """Rows without repetition, and each row's place among them (None where nothing repeats).

    A matrix product may round equal columns differently; equal features are scored once so that they tie.
    """
    raw = np.ascontiguousarray(feats + 0.0)  # -0.0 becomes 0.0: the comparison below is of bytes
    as_bytes = raw.view(np.dtype((np.void, raw.dtype.itemsize * raw.shape[1]))).ravel()
    _, first, copies = np.unique(as_bytes, return_index=True, return_inverse=True)
    return (feats, None) if len(first) == len(feats) else (feats[first], copies.ravel())


def _as_features(name, feats):
    feats = np.asarray(feats)
    if feats.ndim != 2 or not feats.shape[1]:
        raise UserError(f"{name} features have shape {feats.shape}: expected [n, e]")
    feats = feats.astype(np.float64 if feats.dtype == np.float64 else np.float32, copy=False)
    finite = np.isfinite(feats).all(axis=1)
    if not finite.all():
        count, first = np.sum(~finite), np.argmin(finite)
        raise UserError(f"{name} features are not finite in {count} rows, first {first}: the model is broken")
    return feats


def _check_pids(name, feats, pids):
    if len(pids) != len(feats):
        raise UserError(f"{len(feats)} {name} features but {len(pids)} {name} pids: give one pid a feature")
