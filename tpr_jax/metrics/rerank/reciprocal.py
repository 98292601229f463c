"""k-reciprocal re-ranking, for queries that are texts and a gallery of images.

Zhong et al. (CVPR 2017, arXiv:1701.08398) compare images with images. Texts and images lie apart in CLIP's
space: the images around an image are all closer to it than any text is, so that "the query is among the
neighbors of the image" never holds. Here the images of the gallery are encoded as in the paper, among
themselves. A query is encoded by its nearest images, all of which count as reciprocal, and by the reciprocal
neighbors that these add. No query sees another query.
"""

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy import sparse

from tpr_jax.metrics import retrieval
from tpr_jax.metrics.rerank.scores import Scores, top_neighbors


def k_reciprocal(
    query: ArrayLike, gallery: ArrayLike, *, k1: int = 20, k2: int = 6, weight: float = 0.3
) -> Scores:
    """Re-ranks by the overlap of k-reciprocal neighborhoods: d* = (1 - lambda) d_J + lambda d.

    Zhong et al. (CVPR 2017, arXiv:1701.08398), sections 3.2 to 3.4. N(p, k) are the k nearest images of p, p
    itself among them if it is an image; R(p, k) = {g in N(p, k): p in N(g, k)}; R*(p, k) adds R(g, k/2) for
    each g in R(p, k) if at least two thirds of it lie in R(p, k); V_p holds exp(-d(p, g)) for g in R*, else
    0, divided by its sum as in the authors' program. V is then averaged over the k2 nearest, and
    d_J = 1 - sum min(V_p, V_g) / sum max(V_p, V_g).

    For a text R(p, k) = N(p, k), and the average is over its own V and those of its k2 - 1 nearest images.

    Args:
      query: [q, e] features of the texts; their scale does not matter.
      gallery: [g, e] features of the images.
      k1: the size of a neighborhood.
      k2: the number of encodings that are averaged; 1 averages nothing.
      weight: 1 - lambda, the weight of the Jaccard distance; 0 leaves the ranking as it is.

    Returns:
      Scores -d*, with d the cosine distance.
    """
    query, gallery = retrieval.normalized(query, gallery)
    k1, k2 = min(k1, len(gallery)), min(k2, len(gallery))
    if k1 < 1 or not weight:
        return Scores(query, gallery)
    _, nearest = top_neighbors(gallery, gallery, max(k1, k2))
    nearest = _self_first(nearest)
    half = _reciprocal(nearest[:, : -(-k1 // 2)])
    images = _encode(_expand(_reciprocal(nearest[:, :k1]), half), gallery, gallery)
    _, of_query = top_neighbors(query, gallery, max(k1, k2))
    texts = _encode(_expand(_members(of_query[:, :k1], len(gallery)), half), query, gallery)
    if k2 > 1:
        near = _members(of_query[:, : k2 - 1], len(gallery))
        texts = ((texts + near @ images) / k2).tocsr()
        images = (_members(nearest[:, :k2], len(gallery)) @ images / k2).tocsr()
    images_by_column = images.tocsc()

    def change(rows, block):
        overlap = _overlaps(texts[rows], images_by_column)
        jaccard = 1 - overlap / (2 - overlap)  # both sum to 1, so that sum max = 2 - sum min
        return (-weight * jaccard - (1 - weight) * (1 - block)).astype(block.dtype)

    return Scores(query, gallery, change)


def _self_first(nearest: Int[np.ndarray, "g k"]) -> Int[np.ndarray, "g k"]:
    """Puts each image first in its own list, before copies of it that tie."""
    own = np.arange(len(nearest))[:, None]
    found = np.where((nearest == own).any(axis=1), np.argmax(nearest == own, axis=1), nearest.shape[1] - 1)
    ordered = nearest.copy()
    for row in np.flatnonzero(found):
        ordered[row, 1 : found[row] + 1] = nearest[row, : found[row]]
    ordered[:, 0] = own[:, 0]
    return ordered


def _members(lists: Int[np.ndarray, "n k"], columns: int) -> sparse.csr_matrix:
    """Returns the 0/1 matrix [n, columns] of lists of neighbors."""
    start = np.arange(len(lists) + 1) * lists.shape[1]
    ones = np.ones(lists.size, np.float32)
    return sparse.csr_matrix((ones, lists.ravel(), start), (len(lists), columns))


def _reciprocal(nearest: Int[np.ndarray, "g k"]) -> sparse.csr_matrix:
    """Returns R(., k) as a 0/1 matrix [g, g]."""
    near = _members(nearest, len(nearest))
    return near.multiply(near.T).tocsr()


def _expand(members: sparse.csr_matrix, half: sparse.csr_matrix) -> sparse.csr_matrix:
    """Returns R* as a 0/1 matrix: adds those rows of `half` of members of which two thirds lie in the set."""
    size = np.asarray(half.sum(axis=1)).ravel()
    shared = members.multiply(members @ half.T).tocsr()  # |R(p, k) and R(g, k/2)| at the members g
    added = shared.copy()
    added.data = (3 * shared.data >= 2 * size[shared.indices]).astype(np.float32)
    added.eliminate_zeros()
    union = (members + added @ half).tocsr()
    union.data = np.ones_like(union.data)
    return union


def _encode(members: sparse.csr_matrix, feats, gallery) -> sparse.csr_matrix:
    """Returns V: exp(-d) at the members with d the cosine distance, each row divided by its sum."""
    encoded = members.tocsr(copy=True)
    encoded.sort_indices()
    count = np.diff(encoded.indptr)
    row = np.repeat(np.arange(len(count)), count)
    weight = np.empty(len(row))
    for start in range(0, len(row), 2**16):
        part = slice(start, start + 2**16)
        cosine = np.einsum("ne,ne->n", feats[row[part]], gallery[encoded.indices[part]])
        weight[part] = np.exp(cosine.astype(np.float64) - 1)
    total = np.bincount(row, weight, minlength=len(count))
    encoded.data = (weight / total[row]).astype(np.float32)
    return encoded


def _overlaps(texts: sparse.csr_matrix, images: sparse.csc_matrix) -> Float[np.ndarray, "b g"]:
    """Returns the sums of the minima of each text's and each image's encoding."""
    overlap = np.zeros((texts.shape[0], images.shape[0]), np.float32)
    for i in range(texts.shape[0]):
        for at in range(texts.indptr[i], texts.indptr[i + 1]):
            column = texts.indices[at]
            inside = slice(images.indptr[column], images.indptr[column + 1])
            # Each image occurs once in a column, so that no addition is lost.
            overlap[i, images.indices[inside]] += np.minimum(images.data[inside], texts.data[at])
    return overlap
