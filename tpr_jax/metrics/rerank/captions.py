"""Several captions of one image as one query: a protocol of its own, with fewer and longer queries."""

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from tpr_jax.metrics import retrieval
from tpr_jax.utils.normalize import l2_normalize


def fuse_captions(
    query: ArrayLike,
    query_images: Int[np.ndarray, " q"],
    query_pids: Int[np.ndarray, " q"],
) -> tuple[Float[np.ndarray, "n e"], Int[np.ndarray, " n"]]:
    """Averages the captions of each image: one query per image, (features of length 1, pids).

    q' = mean of the normalized caption features of the image. The CUHK-PEDES protocol (Li et al., CVPR 2017,
    section 3) asks with each caption alone, so that the scores of the two are not comparable.

    Args:
      query: [q, e] features of the captions; their scale does not matter.
      query_images: the image of each caption.
      query_pids: the identity of each caption.
    """
    feats, _ = retrieval.normalized(query, query)
    _, first, image = np.unique(query_images, return_index=True, return_inverse=True)
    total = np.zeros((len(first), feats.shape[1]), feats.dtype)
    np.add.at(total, image.ravel(), feats)
    return l2_normalize(total), query_pids[first]  # the sum has the direction of the mean
