"""Queries and gallery features that are averaged with their nearest images."""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from tpr_jax.metrics import retrieval
from tpr_jax.metrics.rerank.scores import Scores, top_neighbors
from tpr_jax.utils.normalize import l2_normalize

ROWS = 1024  # rows whose neighbors are gathered at once


def expand_queries(query: ArrayLike, gallery: ArrayLike, *, k: int = 3, alpha: float = 1.0) -> Scores:
    """Adds to each query its best gallery features: alpha query expansion.

    q' = q + sum over the k best g of max(cos(q, g), 0)^alpha g, as in Radenovic et al. (TPAMI 2019,
    arXiv:1711.02512, section 3.4, "alpha-weighted query expansion"); alpha = 0 is the average of the query
    and the k features, as in Chum et al. (ICCV 2007, section 4.2, "average query expansion").

    Args:
      query: [q, e] features of the queries; their scale does not matter.
      gallery: [g, e] features of the gallery.
      k: the number of gallery features; 0 leaves the query as it is.
      alpha: the power of the cosine in the weight.
    """
    query, gallery = retrieval.normalized(query, gallery)
    cosine, index = top_neighbors(query, gallery, k)
    weight = np.maximum(cosine, 0) ** alpha
    return Scores(l2_normalize(query + weighted_sum(weight, index, gallery)), gallery)


def fuse_neighbors(query: ArrayLike, gallery: ArrayLike, *, k: int = 2, weight: float = 1.0) -> Scores:
    """Adds to each gallery feature the mean of its nearest gallery images.

    g' = g + weight / k * (sum of the k nearest images of g, without g). With weight = k this is the average
    of k + 1 images: database-side feature augmentation, Turcot and Lowe (ICCV workshops 2009, section 3.2),
    in the form of Arandjelovic and Zisserman (CVPR 2012, section 4) for one vector per image.

    Args:
      query: [q, e] features of the queries; their scale does not matter.
      gallery: [g, e] features of the gallery.
      k: the number of neighbors; 0 leaves the gallery as it is.
      weight: the weight of the neighbors' mean; 0 leaves the gallery as it is.
    """
    query, gallery = retrieval.normalized(query, gallery)
    return Scores(query, fused_gallery(gallery, k, weight))


def fused_gallery(gallery: Float[np.ndarray, "g e"], k: int, weight: float) -> Float[np.ndarray, "g e"]:
    """Returns the features of `fuse_neighbors`, from features of length 1."""
    _, index = top_neighbors(gallery, gallery, k + 1)
    # An image is its own nearest neighbor, but for copies of it that come first.
    own = index == np.arange(len(gallery))[:, None]
    own[:, -1] |= ~own.any(axis=1)
    others = index[~own].reshape(len(gallery), -1)
    if not others.shape[1]:
        return gallery
    share = np.full(others.shape, weight / others.shape[1], gallery.dtype)
    return l2_normalize(gallery + weighted_sum(share, others, gallery))


def weighted_sum(weight, index, feats) -> Float[np.ndarray, "n e"]:
    """Returns the sum of `weight[i, j] * feats[index[i, j]]` over j, [n, e], gathered in blocks of rows."""
    total = np.zeros((len(index), feats.shape[1]), feats.dtype)
    for start in range(0, len(index), ROWS):
        rows = slice(start, start + ROWS)
        total[rows] = np.einsum("nk,nke->ne", weight[rows].astype(feats.dtype), feats[index[rows]])
    return total
