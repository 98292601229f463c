"""Scores of queries and gallery that are computed block by block, and their metrics."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from tpr_jax.metrics import retrieval

# (the block's queries, their cosines [b, g]) -> the scores [b, g]
Change = Callable[[slice, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Scores:
    """The scores of every query with every gallery entry; higher is better. Only blocks are in memory.

    Attributes:
      query: [q, e] features of length 1.
      gallery: [g, e] features of length 1.
      change: makes scores from the cosines of a block of queries; None: the cosines are the scores.
    """

    query: Float[np.ndarray, "q e"]
    gallery: Float[np.ndarray, "g e"]
    change: Change | None = None

    def blocks(self) -> Iterator[tuple[int, Float[np.ndarray, "b g"]]]:
        """Yields (index of the block's first query, the block's scores), in the order of the queries."""
        for start, block in retrieval.score_blocks(self.query, self.gallery):
            rows = slice(start, start + len(block))
            yield start, block if self.change is None else self.change(rows, block)

    def dense(self) -> Float[np.ndarray, "q g"]:
        """Returns all scores as one matrix, for small galleries."""
        return np.concatenate([block for _, block in self.blocks()])


def cosines(query: ArrayLike, gallery: ArrayLike) -> Scores:
    """Returns the plain scores: cosines.

    Args:
      query: [q, e] features of the queries; their scale does not matter.
      gallery: [g, e] features of the gallery.

    Raises:
      UserError: the widths differ, one side is empty, or a feature is not finite.
    """
    return Scores(*retrieval.normalized(query, gallery))


def score_metrics(
    scores: Scores, query_pids: Int[np.ndarray, " q"], gallery_pids: Int[np.ndarray, " g"]
) -> dict[str, float]:
    """Computes R@k, mAP and mINP of scores, in percent, as `retrieval.rank_metrics` defines them.

    Args:
      scores: the scores; equal ones are ordered by gallery index.
      query_pids: the identity of each query.
      gallery_pids: the identity of each gallery entry.

    Raises:
      UserError: no query has a match, or the numbers of pids and features differ.
    """
    return retrieval.block_metrics(scores.blocks(), scores.query, scores.gallery, query_pids, gallery_pids)


def top_neighbors(
    feats: Float[np.ndarray, "n e"], others: Float[np.ndarray, "m e"], k: int
) -> tuple[Float[np.ndarray, "n k"], Int[np.ndarray, "n k"]]:
    """Returns the cosines and indices of the `k` best of `others` for each row, best first; ties by index.

    Args:
      feats: features of length 1.
      others: features of length 1.
      k: the number of neighbors, at most the number of others.
    """
    k = min(k, len(others))
    if not k:
        return np.zeros((len(feats), 0), feats.dtype), np.zeros((len(feats), 0), np.int64)
    best, index = [], []
    for _, block in retrieval.score_blocks(feats, others):
        # Sorted by index first: the stable sort by score then orders ties by index.
        chosen = np.sort(np.argpartition(-block, k - 1, axis=1)[:, :k], axis=1)
        cosine = np.take_along_axis(block, chosen, axis=1)
        order = np.argsort(-cosine, axis=1, kind="stable")
        best.append(np.take_along_axis(cosine, order, axis=1))
        index.append(np.take_along_axis(chosen, order, axis=1))
    return np.concatenate(best), np.concatenate(index)
