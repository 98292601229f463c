"""The objective that needs no labels: balanced pseudo-labels between descriptions and photos.

The labels of a description are a distribution over all photos, and those of a photo one over all
descriptions. Both are softmax probabilities that are balanced first: no photo may be the answer to everything
(self-labeling: Asano et al., ICLR 2020; Caron et al., NeurIPS 2020). The model then learns the labels from
photos that are augmented.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tpr_jax.losses import l2_normalize

Scalar = Float[Array, ""]
BALANCE_STEPS = 30
LEAST_LOGIT = -300.0  # below the largest one
SHARPNESS = 2.0


def balanced(logits: Float[np.ndarray, "t n"], steps: int = BALANCE_STEPS) -> Float[np.ndarray, "t n"]:
    """Scales rows and columns of `exp(logits)` so that all rows have equal sums, and all columns (Sinkhorn).

    Args:
      logits: cosine similarities divided by a temperature.
      steps: how often rows and columns are scaled in turn; the columns are the last.

    Returns:
      Joint probabilities, which sum to 1.
    """
    # Smaller ones would become 0 at a low temperature, and so might a whole row or column.
    joint = np.exp(np.maximum(logits - logits.max(), LEAST_LOGIT), dtype=np.float64)
    for _ in range(steps):
        joint /= joint.sum(1, keepdims=True) * len(joint)
        joint /= joint.sum(0, keepdims=True) * joint.shape[1]
    return joint


def conditional(joint: Float[np.ndarray, "t n"], sharpness: float = SHARPNESS) -> Float[np.ndarray, "t n"]:
    """Returns the distribution of each row, sharpened: `p^s / sum p^s`, in float32."""
    # The largest becomes 1 before the power, which would take small probabilities to 0.
    powers = (joint / joint.max(1, keepdims=True)) ** sharpness
    return (powers / powers.sum(1, keepdims=True)).astype(np.float32)


def pseudo_labels(
    texts: Float[np.ndarray, "t e"], photos: Float[np.ndarray, "n e"], scale: float
) -> tuple[Float[np.ndarray, "t n"], Float[np.ndarray, "n t"]]:
    """Returns the labels of the texts over the photos, and of the photos over the texts.

    Args:
      texts: L2-normalized features.
      photos: L2-normalized features.
      scale: the factor on cosine similarities, 1 / temperature.
    """
    joint = balanced(scale * (texts @ photos.T))
    return conditional(joint), conditional(joint.T)


def label_loss(
    feats: Float[Array, "b e"], others: Float[Array, "n e"], labels: Float[Array, "b n"], scale: float
) -> Scalar:
    """Computes the mean cross-entropy of the labels and of the softmax over the other modality.

    Args:
      feats: unnormalized features.
      others: L2-normalized features of all photos or texts; no gradient flows to them.
      labels: distributions over `others`.
      scale: the factor on cosine similarities.
    """
    cosines = jnp.matmul(l2_normalize(feats), others.T, precision=jax.lax.Precision.HIGHEST)
    return -jnp.mean(jnp.sum(labels * jax.nn.log_softmax(scale * cosines, axis=-1), axis=-1))
