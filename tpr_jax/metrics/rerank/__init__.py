"""Rankings that are changed after training: by neighbors, by hubs, or by several captions.

Every function takes features and returns changed features or `Scores`, which are computed in blocks. Nothing
here is used unless it is asked for.
"""

from tpr_jax.metrics.rerank.captions import fuse_captions
from tpr_jax.metrics.rerank.hubs import (
    dual_softmax,
    inverted_softmax,
    nearest_neighbor_normalization,
    qb_norm,
)
from tpr_jax.metrics.rerank.neighbors import expand_queries, fuse_neighbors
from tpr_jax.metrics.rerank.options import OPTIONS, Features, Option, parse_names
from tpr_jax.metrics.rerank.reciprocal import k_reciprocal
from tpr_jax.metrics.rerank.scores import Scores, cosines, score_metrics

__all__ = [
    "OPTIONS",
    "Features",
    "Option",
    "Scores",
    "cosines",
    "dual_softmax",
    "expand_queries",
    "fuse_captions",
    "fuse_neighbors",
    "inverted_softmax",
    "k_reciprocal",
    "nearest_neighbor_normalization",
    "parse_names",
    "qb_norm",
    "score_metrics",
]
