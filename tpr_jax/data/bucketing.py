"""Trims the padding of batches of texts to one of a few lengths.

A token attends only to the tokens before it, so padding after a text's end cannot change its feature. The
lengths are few because an encoder is compiled for each.
"""

import numpy as np
from jaxtyping import Int

LENGTHS = (24, 40)  # most captions of the benchmarks fit into one of these


def sort_by_length(ends: Int[np.ndarray, " n"]) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Returns the order that groups texts of equal length, and its inverse permutation."""
    order = np.argsort(ends, kind="stable")
    return order, np.argsort(order)


def trim_padding(ids: Int[np.ndarray, "n l"], ends: Int[np.ndarray, " n"]) -> Int[np.ndarray, "n m"]:
    """Truncates ids to the first of `LENGTHS` that fits all texts; `ends` holds each text's last position."""
    longest = 1 + int(ends.max(initial=0))
    return ids[:, : min((length for length in LENGTHS if length >= longest), default=None)]
