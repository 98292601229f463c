"""Shows the progress of a process, by the files that it writes."""

import contextlib
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path

from tpr_jax.compare import outcome
from tpr_jax.utils.progress import show

SECONDS = 5.0  # between two looks
SECONDS_IN_A_LOG = 300.0  # where each look prints a line


@contextlib.contextmanager
def follow(
    asked_to_stop: Callable[[], bool], count: Callable[[], int], total: int, name: str
) -> Generator[Callable[[], bool], None, None]:
    """Yields a function that returns what `asked_to_stop` does, and shows the progress from time to time.

    Args:
      asked_to_stop: returns whether this process was asked to stop; called several times a second.
      count: returns how much is done.
      total: how much there is to do; 0 if that is unknown, and then nothing is shown.
      name: what is counted, such as "steps".
    """
    if not total:
        yield asked_to_stop
        return
    pause = SECONDS if sys.stderr.isatty() else SECONDS_IN_A_LOG
    with show(total, name) as bar:
        looked = time.monotonic()

        def look() -> bool:
            nonlocal looked
            if time.monotonic() - looked >= pause:
                looked = time.monotonic()
                bar.update(max(0, min(count(), total) - bar.n))
            return asked_to_stop()

        yield look


def steps(folder: Path) -> int:
    """Returns the last logged step of a run."""
    return max((row.get("step", 0) for row in outcome.read_metrics(folder)), default=0)


def files(folder: Path) -> int:
    """Returns the number of JSON files in a folder."""
    return sum(1 for _ in folder.glob("*.json"))
