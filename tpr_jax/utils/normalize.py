"""L2 normalization in NumPy; `losses.l2_normalize` is its differentiable counterpart in JAX."""

import numpy as np
from jaxtyping import Float


def l2_normalize(feats: Float[np.ndarray, "n e"]) -> Float[np.ndarray, "n e"]:
    """Divides each row by its Euclidean norm; a row of zeros stays zero, so all of its cosines are 0."""
    # Divided by the largest entry first: squares of very large or small entries leave the range of float32.
    largest = np.abs(feats).max(axis=1, keepdims=True, initial=0)
    scaled = feats / np.where(largest > 0, largest, 1)
    norm = np.linalg.norm(scaled, axis=1, keepdims=True)
    return scaled / np.where(norm > 0, norm, 1)
