"""Groups near-duplicate results, such as photos of one person from one camera."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Float16, Int

DEFAULT_THRESHOLD = 0.95  # minimum cosine of two near-duplicates
_MAX_DEPTH = 4096

Group = list[tuple[int, float]]  # (row, score), best first


def grouped_top_k(
    search: Callable[[int], tuple[np.ndarray, np.ndarray]],
    vectors: Float16[np.ndarray, "n e"],
    k: int,
    threshold: float = DEFAULT_THRESHOLD,
) -> list[Group]:
    """Returns the best k groups of photos.

    Goes down the ranking: a photo joins the first group whose best photo has a cosine of at least `threshold`
    with it, or starts a new group. Stops when group k + 1 starts, or after 4,096 photos.

    Args:
      search: k -> (scores, rows) of the best k photos.
      vectors: L2-normalized vectors of all photos.
      k: number of groups.
      threshold: minimum cosine of two photos of a group.
    """
    depth = 4 * k
    while True:
        scores, rows = search(depth)
        groups = _group(vectors[rows].astype(np.float32), rows, scores, threshold, k)
        if len(groups) > k or len(rows) < depth or depth >= _MAX_DEPTH:
            return groups[:k]
        depth = min(4 * depth, _MAX_DEPTH)


def _group(
    feats: Float[np.ndarray, "r e"],
    rows: Int[np.ndarray, " r"],
    scores: Float[np.ndarray, " r"],
    threshold: float,
    k: int,
) -> list[Group]:
    leaders, groups = np.zeros((0, feats.shape[1]), np.float32), []
    for feat, row, score in zip(feats, rows.tolist(), scores.tolist(), strict=True):
        similar = np.flatnonzero(leaders @ feat >= threshold)
        if len(similar):
            groups[similar[0]].append((row, score))
            continue
        groups.append([(row, score)])
        leaders = np.concatenate([leaders, feat[None]])
        if len(groups) > k:
            break
    return groups
