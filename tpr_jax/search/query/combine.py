"""Combines descriptions and a photo into one query vector.

The scores of a query are cosines with this vector: each part adds to the score of every photo by its weight.
"""

import numpy as np
from jaxtyping import Float

# The weight of what the person does not have. Measured on the 1,000 test photos of MiniPEDES with the demo's
# model: among the first 20 photos of seven short descriptions, 6 % have a skirt and 6 % a dress; without "a
# skirt" or "a dress" none has. The median rank that these 20 have in the plain ranking goes from 10 to about
# 20; with a weight of 0.5 it goes to 25, and with 1 to 40 and more.
WITHOUT_WEIGHT = 0.3


def combine(
    texts: Float[np.ndarray, "n e"],
    without: Float[np.ndarray, "m e"],
    photo: Float[np.ndarray, " e"] | None,
    weight: float = 0.5,
) -> Float[np.ndarray, " e"]:
    """Computes weight * mean(texts) + (1 - weight) * photo - 0.3 * mean(without), of any length.

    The mean of several descriptions finds more than one text that joins them. On MiniPEDES' test split with
    the demo's model, two captions of a photo reach R@1 51.2 apart and 41.6 joined, and one reaches 36.6.

    Args:
      texts: unit features of descriptions of the person.
      without: unit features of descriptions of what the person does not have.
      photo: unit features of a photo of the person.
      weight: the weight of the texts relative to the photo, where there are both.
    """
    vector = np.zeros(texts.shape[1], np.float32)
    both = len(texts) > 0 and photo is not None
    if len(texts):
        vector += (weight if both else 1) * texts.mean(axis=0)
    if photo is not None:
        vector += (1 - weight if both else 1) * photo
    if len(without):
        vector -= WITHOUT_WEIGHT * without.mean(axis=0)
    return vector
