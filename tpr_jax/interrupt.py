"""Ctrl-C, and the notice a cluster gives before it takes a machine away, as a question between two steps."""

import contextlib
import signal
import threading
from collections.abc import Iterator


class Stopped(Exception):
    """A run that was asked to stop, by signal `number`, and has lost nothing."""

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.number = number


class Notice:
    """What came since; see `noticed`."""

    def __init__(self):
        self.number = 0  # of the signal
        self.again = False  # a second one came, which cannot wait for anything to be saved
        self._at_once = False

    def __bool__(self) -> bool:
        return self.number != 0

    def __call__(self) -> bool:
        """As a question, for who takes one."""
        return bool(self)

    @contextlib.contextmanager
    def at_once(self, now: bool = True) -> Iterator[None]:
        """Within this, where all that counts is saved, a signal raises KeyboardInterrupt at once; so does one
        that came before. With `now=False` it is patient again, within such a part."""
        before, self._at_once = self._at_once, now
        try:
            if now and self.number:
                raise KeyboardInterrupt
            yield
        finally:
            self._at_once = before

    def note(self, number, frame) -> None:
        self.again = self.number != 0
        self.number = self.number or number
        if self.again or self._at_once:
            raise KeyboardInterrupt


@contextlib.contextmanager
def noticed() -> Iterator[Notice]:
    """Gives a notice that is true once SIGINT or SIGTERM came; the first one interrupts nothing.

    Amid a step the state is neither the old one nor the new one and cannot be saved, so the loop asks where
    it can. A second signal stops at once, as it does outside of the `with`.
    """
    notice = Notice()
    # Python lets only the main thread say what a signal does.
    numbers = [signal.SIGINT, signal.SIGTERM]
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, notice.note) for number in numbers}
    try:
        yield notice
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
