"""Ctrl-C, and the notice a cluster gives before it takes a machine away, as a question between two steps."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping

from tpr_jax.errors import UserError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """A run that was asked to stop, by signal `number`, and has lost nothing."""

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.number = number


class PreemptionSignal:
    """What came since; see `noticed`."""

    def __init__(self):
        self.number = 0  # of the signal
        self.again = False  # a second one came, which cannot wait for anything to be saved
        self.sent_again = False  # the next one is the first one, whose exception was lost
        self._at_once = False

    def __bool__(self) -> bool:
        return self.number != 0

    def __call__(self) -> bool:
        """As a question, for who takes one."""
        return bool(self)

    @contextlib.contextmanager
    def raise_immediately(self, now: bool = True) -> Iterator[None]:
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
        self.again = self.number != 0 and not self.sent_again
        self.sent_again = False
        self.number = self.number or number
        if self.again or self._at_once:
            raise KeyboardInterrupt


@contextlib.contextmanager
def _sent_again_where_lost(notice: PreemptionSignal) -> Iterator[None]:
    """Sends a signal again whose exception Python could only print.

    It can do no more where the signal met a finalizer, or a callback of the garbage collector.
    """
    report, over = sys.unraisablehook, threading.Event()

    def hook(unraisable) -> None:
        if over.is_set() or not notice or unraisable.exc_type is not KeyboardInterrupt:
            report(unraisable)
            return
        notice.sent_again = True
        threading.Timer(0.01, os.kill, (os.getpid(), notice.number)).start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        over.set()
        if sys.unraisablehook is hook:  # else another one passes on to it what is not its own
            sys.unraisablehook = report


@contextlib.contextmanager
def catch_signals() -> Iterator[PreemptionSignal]:
    """Gives a notice that is true once SIGINT or SIGTERM came; the first one interrupts nothing.

    Amid a step the state is neither the old one nor the new one and cannot be saved, so the loop asks where
    it can. A second signal stops at once, as it does outside of the `with`. Within another `with` of this
    kind a signal that came before counts: an import may have swallowed the exception that it raised.
    """
    notice = PreemptionSignal()
    # Python lets only the main thread say what a signal does.
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, notice.note) for number in SIGNALS}
    outer = getattr(before.get(signal.SIGTERM), "__self__", None)
    if isinstance(outer, PreemptionSignal):
        notice.number = notice.number or outer.number
    try:
        with _sent_again_where_lost(notice):
            yield notice
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if isinstance(outer, PreemptionSignal):
            outer.number = outer.number or notice.number


def exit_immediately(ends: Mapping[int, tuple[int, str]]) -> None:
    """Lets a signal end the process with an exit code and a line, until another handler takes it.

    For the time in which a program imports what it needs and has begun nothing: an exception could come out
    of an import as another, or not at all. `ends` has (exit code, line) by the number of the signal; the line
    goes to stdout with 0, else to stderr.
    """

    def end(number, frame) -> None:
        code, line = ends[number]
        with contextlib.suppress(OSError):  # nobody may read it
            os.write(2 if code else 1, f"{line}\n".encode())
        os._exit(code)

    for number in ends:
        # What a shell starts in the background ignores Ctrl-C, and is to go on doing so.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)


@contextlib.contextmanager
def raise_stopped(message: str) -> Iterator[Callable[[BaseException], BaseException]]:
    """Ends what is within by `Stopped` where SIGTERM comes, by KeyboardInterrupt where SIGINT does.

    Gives a function that makes the same of an error which is handled within.

    Raises:
      Stopped: SIGTERM came, with this message.
    """
    with catch_signals() as notice:

        def told(error: BaseException) -> BaseException:
            known = isinstance(error, Stopped | UserError)  # they have their own words
            if known or notice.again or notice.number != signal.SIGTERM:
                return error
            return Stopped(notice.number, message)

        try:
            with notice.raise_immediately():
                yield told
        except (Exception, KeyboardInterrupt) as error:
            if (stop := told(error)) is error:
                raise
            raise stop from None
