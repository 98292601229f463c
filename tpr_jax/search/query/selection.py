"""The rows of an index that a query chooses from."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Selection:
    """The rows that meet a condition, ready to be ranked.

    Attributes:
      engine: the name of the engine that answers.
      count: their number.
      search: (query, k) -> (scores, rows) of the best k of them, best first, ties by row.
      mask: computes which rows of the index they are, [n]; None stands for all.
    """

    engine: str
    count: int
    search: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
    mask: Callable[[], np.ndarray | None]
