"""Shorter vectors: the first numbers of features, and 8-bit integers instead of floats."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int8

from tpr_jax.errors import UserError, shown
from tpr_jax.utils.normalize import l2_normalize

LARGEST_CODE = 127  # -128 is not used, so that a vector and its opposite have opposite codes


def parse_sizes(text: str, flag: str = "--vectors") -> list[int]:
    """Returns the sizes that a flag names, joined by commas, from the largest on.

    Raises:
      UserError: a size is no whole number above 0.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words:
        if not (word.isascii() and word.isdigit() and int(word) > 0):
            raise UserError(f"{flag} {shown(word)}: must be whole numbers above 0, such as {flag} 256,128,64")
    if not words:
        raise UserError(f"{flag} names no size: give some, such as {flag} 256,128,64")
    return sorted({int(word) for word in words}, reverse=True)


class Int8Vectors(NamedTuple):
    """Vectors in 8 bits a number.

    Attributes:
      codes: the integers, from -127 to 127.
      scales: the factor of each row, which turns its codes into numbers.
    """

    codes: Int8[np.ndarray, "n e"]
    scales: Float[np.ndarray, "n 1"]

    @property
    def bytes_per_vector(self) -> int:
        """The size of a row, its scale included."""
        return self.codes.shape[1] * self.codes.itemsize + self.scales.itemsize


def cut(feats: Float[np.ndarray, "n e"], size: int) -> Float[np.ndarray, "n s"]:
    """Returns the first `size` numbers of each row, scaled to unit length.

    This is what Matryoshka training (Kusupati et al., NeurIPS 2022) makes room for.
    """
    return l2_normalize(feats[:, :size])


def quantize(feats: Float[np.ndarray, "n e"]) -> Int8Vectors:
    """Rounds rows to 8-bit integers; the largest absolute value of a row becomes 127."""
    scales = np.abs(feats).max(axis=1, keepdims=True).astype(np.float32) / LARGEST_CODE
    codes = np.rint(feats / np.where(scales == 0, 1, scales))
    return Int8Vectors(codes.astype(np.int8), scales)


def dequantize(vectors: Int8Vectors) -> Float[np.ndarray, "n e"]:
    """Returns the rows that the codes stand for, float32."""
    return vectors.codes.astype(np.float32) * vectors.scales
