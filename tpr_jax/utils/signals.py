"""Turns Ctrl-C, and a cluster's preemption, into a flag that a loop checks between two steps."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Mapping

from tpr_jax.errors import UserError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """A run was stopped by signal `number`, and has saved everything."""

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.number = number


class PreemptionSignal:
    """A flag that is true once a signal has arrived; see `catch_signals`.

    Attributes:
      number: the first signal's number, 0 before it.
      again: whether a second signal arrived, which cannot wait for anything to be saved.
      sent_again: whether the next signal is the first one, whose exception was lost.
    """

    def __init__(self):
        self.number = 0
        self.again = False
        self.sent_again = False
        self._raises_immediately = False

    def __bool__(self) -> bool:
        return self.number != 0

    def __call__(self) -> bool:
        """Returns whether a signal has arrived, for callers that take a function."""
        return bool(self)

    @contextlib.contextmanager
    def raise_immediately(self, enabled: bool = True) -> Generator[None, None, None]:
        """Makes a signal, including an earlier one, raise KeyboardInterrupt within the `with` block.

        Use it where everything is saved. `enabled=False` restores the flag's behavior within such a block.
        """
        before, self._raises_immediately = self._raises_immediately, enabled
        try:
            if enabled and self.number:
                raise KeyboardInterrupt
            yield
        finally:
            self._raises_immediately = before

    def handle(self, number, frame) -> None:
        """Handles a signal."""
        self.again = self.number != 0 and not self.sent_again
        self.sent_again = False
        self.number = self.number or number
        if self.again or self._raises_immediately:
            raise KeyboardInterrupt


@contextlib.contextmanager
def _resend_lost_signals(preemption: PreemptionSignal) -> Generator[None, None, None]:
    """Sends a signal again if Python could not raise its exception.

    Python can only print an exception that is raised in a finalizer or in a callback of the garbage
    collector.
    """
    original_hook, finished = sys.unraisablehook, threading.Event()

    def hook(unraisable) -> None:
        if finished.is_set() or not preemption or unraisable.exc_type is not KeyboardInterrupt:
            original_hook(unraisable)
            return
        preemption.sent_again = True
        threading.Timer(0.01, os.kill, (os.getpid(), preemption.number)).start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        finished.set()
        if sys.unraisablehook is hook:  # else a hook installed later passes on what it does not handle
            sys.unraisablehook = original_hook


@contextlib.contextmanager
def catch_signals() -> Generator[PreemptionSignal, None, None]:
    """Yields a flag that is true once SIGINT or SIGTERM arrives; the first one does not interrupt anything.

    During a step the state is neither the old one nor the new one and cannot be saved, so the loop checks the
    flag where it can. A second signal raises KeyboardInterrupt, as signals do outside of the `with` block. In
    nested blocks, a signal that arrived in the outer one counts: an import may have swallowed its exception.
    """
    preemption = PreemptionSignal()
    # Python allows only the main thread to set signal handlers.
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, preemption.handle) for number in SIGNALS}
    outer = getattr(before.get(signal.SIGTERM), "__self__", None)
    if isinstance(outer, PreemptionSignal):
        preemption.number = preemption.number or outer.number
    try:
        with _resend_lost_signals(preemption):
            yield preemption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if isinstance(outer, PreemptionSignal):
            outer.number = outer.number or preemption.number


def exit_immediately(ends: Mapping[int, tuple[int, str]]) -> None:
    """Makes signals end the process with an exit code and a line, until another handler replaces this one.

    Use it while a program imports its modules and has not started yet: an import may replace or swallow an
    exception.

    Args:
      ends: (exit code, line) for each signal number; the line goes to stdout if the code is 0, else to
        stderr.
    """

    def end(number, frame) -> None:
        code, line = ends[number]
        with contextlib.suppress(OSError):  # the stream may be closed
            os.write(2 if code else 1, f"{line}\n".encode())
        os._exit(code)

    for number in ends:
        # A process that a shell started in the background ignores Ctrl-C, and should keep doing so.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)


@contextlib.contextmanager
def raise_stopped(message: str) -> Generator[Callable[[BaseException], BaseException], None, None]:
    """Makes SIGTERM raise `Stopped` and SIGINT raise KeyboardInterrupt within the `with` block.

    Yields:
      A function that converts an error handled within the block in the same way.

    Raises:
      Stopped: SIGTERM arrived; has the given message.
    """
    with catch_signals() as preemption:

        def convert(error: BaseException) -> BaseException:
            has_message = isinstance(error, Stopped | UserError)
            if has_message or preemption.again or preemption.number != signal.SIGTERM:
                return error
            return Stopped(preemption.number, message)

        try:
            with preemption.raise_immediately():
                yield convert
        except (Exception, KeyboardInterrupt) as error:
            if (stop := convert(error)) is error:
                raise
            raise stop from None
