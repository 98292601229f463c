"""Scores corrected for hubs: images that are close to many captions, whatever these say.

The corrections need captions to compare with, the bank: those of the training split. `dual_softmax` can use
the test captions instead, all of them together; its numbers are then not comparable with those of a model
that sees one query at a time.
"""

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from scipy.special import expit

from tpr_jax.errors import UserError
from tpr_jax.metrics import retrieval
from tpr_jax.metrics.rerank.scores import Scores


def nearest_neighbor_normalization(
    query: ArrayLike, gallery: ArrayLike, bank: ArrayLike, *, k: int = 16, alpha: float = 0.75
) -> Scores:
    """Subtracts from each score a bias of the image: nearest neighbor normalization (NNN).

    s'(q, g) = s(q, g) - alpha * mean of the k largest s(b, g) over the captions b of the bank: Chowdhury et
    al. (EMNLP 2024, arXiv:2410.24114), the definition of the bias b(r) and of the debiased score in section
    2.

    Args:
      query: [q, e] features of the queries; their scale does not matter.
      gallery: [g, e] features of the gallery.
      bank: [n, e] features of captions that are not queries.
      k: the number of nearest captions; 0 leaves the scores as they are.
      alpha: the weight of the bias; 0 leaves the scores as they are.
    """
    query, gallery = retrieval.normalized(query, gallery)
    bank = _normalized_bank(gallery, bank)
    k = min(k, len(bank))
    if not k or not alpha:
        return Scores(query, gallery)
    nearest = [
        np.partition(block, len(bank) - k, axis=1)[:, -k:].mean(axis=1)
        for _, block in retrieval.score_blocks(gallery, bank)
    ]
    bias = (alpha * np.concatenate(nearest)).astype(gallery.dtype)
    return Scores(query, gallery, lambda _, block: block - bias)


def inverted_softmax(
    query: ArrayLike, gallery: ArrayLike, bank: ArrayLike, *, temperature: float = 0.05
) -> Scores:
    """Divides the weight of each image by its sum over the bank: the inverted softmax.

    eta(q, g) = exp(s(q, g) / T) / sum over b of exp(s(b, g) / T): Smith et al. (ICLR 2017, arXiv:1702.03859,
    section 2.2.2), as Bogolin et al. (CVPR 2022, arXiv:2112.12777, section 3.3) use it with a query bank.
    The scores are T log eta, which order the images in the same way.

    Args:
      query: [q, e] features of the queries; their scale does not matter.
      gallery: [g, e] features of the gallery.
      bank: [n, e] features of captions that are not queries.
      temperature: T, in units of the cosine, 1 / beta in the paper.
    """
    query, gallery = retrieval.normalized(query, gallery)
    norm, _ = _bank_norm(gallery, _normalized_bank(gallery, bank), temperature)
    return Scores(query, gallery, lambda _, block: block - norm)


def qb_norm(query: ArrayLike, gallery: ArrayLike, bank: ArrayLike, *, temperature: float = 0.05) -> Scores:
    """Applies the inverted softmax to the queries whose best image is a hub: QB-Norm.

    The dynamic inverted softmax of Bogolin et al. (CVPR 2022, arXiv:2112.12777, section 3.3): the activation
    set holds every image that is the best of some caption of the bank. A query whose best image is in the set
    gets the scores of `inverted_softmax`, any other one keeps its cosines.

    Args:
      query: [q, e] features of the queries; their scale does not matter.
      gallery: [g, e] features of the gallery.
      bank: [n, e] features of captions that are not queries.
      temperature: T of `inverted_softmax`.
    """
    query, gallery = retrieval.normalized(query, gallery)
    norm, is_hub = _bank_norm(gallery, _normalized_bank(gallery, bank), temperature)

    def change(_, block):
        active = is_hub[np.argmax(block, axis=1)]
        return np.where(active[:, None], block - norm, block)

    return Scores(query, gallery, change)


def dual_softmax(
    query: ArrayLike, gallery: ArrayLike, bank: ArrayLike | None = None, *, temperature: float = 0.05
) -> Scores:
    """Multiplies each cosine by the probability of the query given the image: the dual softmax.

    s'(q, g) = s(q, g) * exp(s(q, g) / T) / sum over q' of exp(s(q', g) / T): Cheng et al. (2021,
    arXiv:2109.04290, section 3.4, "dual softmax loss" at inference). Without a bank q' goes through all
    queries, so that the score of one query depends on the others. With a bank it goes through the query
    itself and the bank's captions, so that each query stands alone.

    Args:
      query: [q, e] features of the queries; their scale does not matter.
      gallery: [g, e] features of the gallery.
      bank: [n, e] features of captions that are not queries, or None.
      temperature: T, in units of the cosine.
    """
    query, gallery = retrieval.normalized(query, gallery)
    others = query if bank is None else _normalized_bank(gallery, bank)
    # The mean over the others, times their number, is the sum.
    norm, _ = _bank_norm(gallery, others, temperature)
    log_sum = (norm / temperature + np.log(len(others))).astype(gallery.dtype)

    def change(_, block):
        log_ratio = block / temperature - log_sum
        # With the query itself in the sum, exp(l) / (exp(l) + sum) is the logistic function of log_ratio.
        return block * (np.exp(log_ratio) if bank is None else expit(log_ratio))

    return Scores(query, gallery, change)


def _bank_norm(
    gallery: Float[np.ndarray, "g e"], bank: Float[np.ndarray, "n e"], temperature: float
) -> tuple[Float[np.ndarray, " g"], Bool[np.ndarray, " g"]]:
    """Returns T log(mean over the bank of exp(s / T)) of each image, and whether it is the best of a caption.

    The mean instead of the sum shifts all scores alike.
    """
    if not temperature > 0:
        raise UserError(f"temperature={temperature}: must be above 0")
    # In one pass over blocks of captions, with the running maximum of each image.
    top, total = np.full(len(gallery), -np.inf), np.zeros(len(gallery))
    is_best = np.zeros(len(gallery), bool)
    for _, block in retrieval.score_blocks(bank, gallery):
        is_best[np.argmax(block, axis=1)] = True
        higher = np.maximum(top, block.max(axis=0))
        total *= np.exp((top - higher) / temperature)
        total += np.exp((block - higher.astype(block.dtype)) / temperature).sum(axis=0, dtype=np.float64)
        top = higher
    norm = top + temperature * np.log(total / len(bank))
    return norm.astype(gallery.dtype), is_best


def _normalized_bank(gallery, bank):
    """Returns the bank's features, of length 1 and of the gallery's type."""
    return retrieval.normalized(bank, gallery)[0].astype(gallery.dtype, copy=False)
