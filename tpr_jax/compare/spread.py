"""The mean and the standard deviation of a score over several seeds."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """The scores of several seeds, in percent.

    Attributes:
      mean: their mean.
      deviation: their sample standard deviation (n - 1), None for a single one.
      values: the scores, in the order of the seeds.
    """

    mean: float
    deviation: float | None
    values: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.mean:.2f}" if self.deviation is None else f"{self.mean:.2f} ± {self.deviation:.2f}"


def spread(values: Sequence[float]) -> Spread:
    """Returns the mean and the sample standard deviation of the scores of several seeds."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.fmean(values), deviation, tuple(values))
