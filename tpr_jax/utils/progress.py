"""Shows the progress of long work: a bar on a terminal, and a line every ten seconds elsewhere."""

import sys
import time
from typing import Self

from tqdm import tqdm

SECONDS = 10.0  # between two lines


class Lines:
    """Prints lines to stderr: in a log file, a bar would be one endless line.

    Attributes:
      n: the amount that is done.
    """

    def __init__(self, total: int, name: str):
        """Begins to measure the time.

        Args:
          total: the amount to do.
          name: what is counted, such as "photos".
        """
        self.n, self._total, self._name = 0.0, total, name
        self._start = self._last = time.monotonic()

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Does nothing."""

    def update(self, n: float) -> None:
        """Adds to the amount that is done, and prints a line if the last one is ten seconds old."""
        self.n += n
        now = time.monotonic()
        if now - self._last < SECONDS or self.n >= self._total:
            return
        self._last = now
        rate = self.n / (now - self._start)
        left = tqdm.format_interval((self._total - self.n) / rate) if rate else "?"
        done = f"{self.n:,.0f} of {self._total:,} {self._name}"
        print(f"{done}, {rate:.3g} per second, {left} left", file=sys.stderr, flush=True)


def show(total: int, name: str) -> tqdm | Lines:
    """Returns a bar if stderr is a terminal, else lines.

    Args:
      total: the amount to do.
      name: what is counted, such as "photos".
    """
    if sys.stderr.isatty():
        return tqdm(total=total, desc=name, unit="", dynamic_ncols=True)
    return Lines(total, name)
