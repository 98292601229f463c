"""Reports that a run makes no progress, and what it waits for.

It runs in a thread of its own, because the loop itself hangs. It does not end the run: a bucket may recover,
and the connections of the rendezvous detect a lost machine within half a minute.
"""

import collections
import contextlib
import statistics
import threading
import time
from collections.abc import Callable, Generator

# A step is late after this many median steps, but not before MIN_SECONDS; the first one, which compiles, is
# late after FIRST_SECONDS.
MEDIAN_STEPS, MIN_SECONDS, FIRST_SECONDS = 20, 60.0, 900.0
WINDOW = 100  # the steps whose times count: at least as many as usually lie between two lines of the log

INPUT = (
    "the next batch: check that the disk or bucket of config.data_dir answers, "
    "and whether something else uses the cores"
)
DEVICE = "the device: check with nvidia-smi or tpu-info that it works"
PEERS = (
    "the devices, or one of the other processes: check what each of them prints, and that its machine answers"
)
DISK = "the disk or bucket of --workdir, to which it saves: check that it answers"


class Watchdog:
    """Tracks when the last step ended, how long steps take, and what the loop waits for.

    Attributes:
      waiting_for: what the loop waits for, one of this module's constants; the loop sets it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._step_seconds: collections.deque[float] = collections.deque(maxlen=WINDOW)
        self._last_step = clock()
        self._reported_after = 0.0  # seconds of silence at the last report of this stall
        self._paused = False
        self._first = True
        self.waiting_for = INPUT

    def step_done(self) -> None:
        """Records that a step ended."""
        now = self._clock()
        # Neither the first step, which compiles, nor a stall is typical.
        if not self._first and not self._reported_after:
            self._step_seconds.append(now - self._last_step)
        self._last_step, self._reported_after, self._first = now, 0.0, False

    @contextlib.contextmanager
    def pause(self) -> Generator[None, None, None]:
        """Expects no step within, such as during an evaluation."""
        self._paused = True
        try:
            yield
        finally:
            self._last_step, self._reported_after, self._paused = self._clock(), 0.0, False

    def median_seconds(self) -> float | None:
        """Returns the median time of a step; None before there are two."""
        return statistics.median(self._step_seconds) if self._step_seconds else None

    def limit(self) -> float:
        """Returns after how many seconds without a step the run is stalled.

        JAX dispatches steps before they are computed and waits for many of them when a loss is logged, so
        the longest recent step counts as well.
        """
        median = self.median_seconds()
        if median is None:
            return FIRST_SECONDS
        return max(MIN_SECONDS, MEDIAN_STEPS * median, 3 * max(self._step_seconds))

    def check(self) -> str | None:
        """Returns a line if the run is stalled: once, and again whenever the stall is twice as long."""
        silent = self._clock() - self._last_step
        if self._paused or silent < max(self.limit(), 2 * self._reported_after):
            return None
        self._reported_after = silent
        usual = self.median_seconds()
        pace = f"one takes {usual:.2g} s" if usual else "the first is being compiled"
        return f"no step for {silent:.0f} s ({pace}): waiting for {self.waiting_for}"


@contextlib.contextmanager
def watch(report: Callable[[str], None], every: float = 5.0) -> Generator[Watchdog, None, None]:
    """Yields a `Watchdog` that is checked every `every` seconds; `report` gets its lines."""
    watchdog, finished = Watchdog(), threading.Event()

    def check_regularly() -> None:
        while not finished.wait(every):
            if (line := watchdog.check()) is not None:
                report(line)

    thread = threading.Thread(target=check_regularly, name="watchdog", daemon=True)
    thread.start()
    try:
        yield watchdog
    finally:
        finished.set()
        thread.join()
