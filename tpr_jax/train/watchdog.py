"""A run that stands still says so, and what it waits for; so does nobody but who looks at the clock.

A thread of its own looks, for the loop itself is what hangs. It ends nothing: a bucket may come back, a
machine that is gone without a word is noticed by the rendezvous' connections within half a minute.
"""

import collections
import contextlib
import statistics
import threading
import time
from collections.abc import Callable, Iterator

TIMES, LEAST, FIRST = 20, 60.0, 900.0  # median steps; seconds; seconds while the step is compiled
KEPT = 100  # steps that are looked back at: as many as lie between two lines of the log, or more

INPUT = "the next batch: see that the disk or bucket of config.data_dir answers, and what else uses the cores"
DEVICE = "the device: see with nvidia-smi or tpu-info that it works"
PEERS = "the devices, or one of the other processes: see what each of them says, and that its machine answers"
DISK = "the disk or bucket of --workdir, to which it saves: see that it answers"


class Progress:
    """What the loop tells of itself: what it waits for, and each step that is done."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._gaps: collections.deque[float] = collections.deque(maxlen=KEPT)
        self._last, self._told, self._off, self._first = clock(), 0.0, False, True
        self.waits_for = INPUT

    def step(self) -> None:
        """A step is done."""
        now = self._clock()
        # The first one was compiled; and a stall is no measure of what is usual.
        if not self._first and not self._told:
            self._gaps.append(now - self._last)
        self._last, self._told, self._first = now, 0.0, False

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Within this, an evaluation for one, no step is expected."""
        self._off = True
        try:
            yield
        finally:
            self._last, self._told, self._off = self._clock(), 0.0, False

    def usual(self) -> float | None:
        """The median step, seconds; None before there are two."""
        return statistics.median(self._gaps) if self._gaps else None

    def limit(self) -> float:
        """Seconds after which no step is a stall.

        JAX hands steps over before they are computed, and waits for many of them where a loss is logged: the
        longest of late counts too.
        """
        if not self._gaps:
            return FIRST
        return max(LEAST, TIMES * self.usual(), 3 * max(self._gaps))

    def complaint(self) -> str | None:
        """What is to be said now: once a stall, and again each time it has become twice as long."""
        silent = self._clock() - self._last
        if self._off or silent < max(self.limit(), 2 * self._told):
            return None
        self._told = silent
        usual = self.usual()
        one = f"one takes {usual:.2g} s" if usual else "the first is being compiled"
        return f"no step for {silent:.0f} s ({one}): waiting for {self.waits_for}"


@contextlib.contextmanager
def watched(say: Callable[[str], None], every: float = 5.0) -> Iterator[Progress]:
    """Gives a `Progress` and looks at it every so many seconds; `say` gets its complaints."""
    progress, over = Progress(), threading.Event()

    def look() -> None:
        while not over.wait(every):
            if (line := progress.complaint()) is not None:
                say(line)

    thread = threading.Thread(target=look, name="stalls", daemon=True)
    thread.start()
    try:
        yield progress
    finally:
        over.set()
        thread.join()
