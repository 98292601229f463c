"""Texts without most of their padding: each token sees only those before it, so none behind a text's end can
change its feature. Lengths are few, because an encoder is compiled for each.
"""

import numpy as np
from jaxtyping import Int

LENGTHS = (24, 40)  # most sentences of the benchmarks end before the one or the other


def sort_by_length(ends: Int[np.ndarray, " n"]) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """The order in which texts of a length are together, and the order that puts them back."""
    order = np.argsort(ends, kind="stable")
    return order, np.argsort(order)


def trim_padding(ids: Int[np.ndarray, "n l"], ends: Int[np.ndarray, " n"]) -> Int[np.ndarray, "n m"]:
    """The ids up to the first of `LENGTHS` that holds every text, the last token of each being at `ends`."""
    longest = 1 + int(ends.max(initial=0))
    return ids[:, : min((length for length in LENGTHS if length >= longest), default=None)]
