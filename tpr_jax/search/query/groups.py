"""Photos that show nearly the same, as those of one person before one camera, as one answer."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Float16, Int

SAME = 0.95  # cosine of two photos from which they count as nearly the same
_AT_MOST = 4096


def grouped_top_k(
    search: Callable, vectors: Float16[np.ndarray, "n e"], k: int, same: float = SAME
) -> list[list[tuple[int, float]]]:
    """The best k groups of (row, score), each by its best photo, which comes first.

    Down the ranking `search(k)`, a photo joins the first group whose best photo it resembles by a cosine of
    at least `same`, or opens a group. The ranking is followed until the group after the k-th begins, but no
    further than 4,096 photos.
    """
    asked = 4 * k
    while True:
        scores, rows = search(asked)
        groups = _groups(vectors[rows].astype(np.float32), rows, scores, same, k)
        if len(groups) > k or len(rows) < asked or asked >= _AT_MOST:
            return groups[:k]
        asked = min(4 * asked, _AT_MOST)


def _groups(
    feats: Float[np.ndarray, "r e"],
    rows: Int[np.ndarray, " r"],
    scores: Float[np.ndarray, " r"],
    same: float,
    k: int,
) -> list[list[tuple[int, float]]]:
    leaders, groups = np.zeros((0, feats.shape[1]), np.float32), []
    for feat, row, score in zip(feats, rows.tolist(), scores.tolist(), strict=True):
        alike = np.flatnonzero(leaders @ feat >= same)
        if len(alike):
            groups[alike[0]].append((row, score))
            continue
        groups.append([(row, score)])
        leaders = np.concatenate([leaders, feat[None]])
        if len(groups) > k:
            break
    return groups
