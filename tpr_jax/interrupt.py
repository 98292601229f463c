"""Ctrl-C, and the notice a cluster gives before it takes a machine away, as a question between two steps."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def noticed() -> Iterator[Callable[[], bool]]:
    """Gives `asked()`: whether SIGINT or SIGTERM came since; the first one interrupts nothing.

    Amid a step the state is neither the old one nor the new one and cannot be saved, so the loop asks where
    it can. A second signal stops at once, as it does outside of the `with`.
    """
    came = []

    def note(number, frame):
        if came:
            raise KeyboardInterrupt
        came.append(number)

    # Python lets only the main thread say what a signal does.
    numbers = [signal.SIGINT, signal.SIGTERM]
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
