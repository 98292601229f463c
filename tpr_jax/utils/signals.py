"""Turns Ctrl-C, and a cluster's preemption, into a flag that a loop checks between two steps."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Generator
from types import FrameType

from tpr_jax.errors import UserError
from tpr_jax.utils.ending import Ending

SIGNALS = (signal.SIGINT, signal.SIGTERM)
IMPORT_SYSTEM = "<frozen importlib._bootstrap"  # how the file names of Python's import code begin


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
      is_printing: whether Python prints an exception that it cannot raise; one raised there is lost.
      before: the handlers that this one replaces, by signal.
    """

    def __init__(self):
        self.number = 0
        self.again = False
        self.sent_again = False
        self.is_printing = False
        self.before: dict = {}
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
        if not (self.again or self._raises_immediately):
            return
        if self.is_printing:
            self.send_again()
            return
        raise_or_end(self.before.get(number), number, frame)

    def send_again(self) -> None:
        """Sends the signal again in a moment, because its exception was lost or would be."""
        self.sent_again = not self.again
        threading.Timer(0.01, os.kill, (os.getpid(), self.number)).start()


@contextlib.contextmanager
def _resend_lost_signals(preemption: PreemptionSignal) -> Generator[None, None, None]:
    """Sends a signal again if Python could not raise its exception.

    Python can only print an exception that is raised in a finalizer or in a callback of the garbage
    collector, or while another such exception is printed.
    """
    original_hook, finished = sys.unraisablehook, threading.Event()

    def hook(unraisable) -> None:
        if finished.is_set():
            original_hook(unraisable)
            return
        preemption.is_printing = True
        try:
            if preemption and unraisable.exc_type is KeyboardInterrupt:
                preemption.send_again()
            else:
                original_hook(unraisable)
        finally:
            preemption.is_printing = False

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
    before = preemption.before
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            before[number] = signal.getsignal(number)
            signal.signal(number, preemption.handle)
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


def is_importing(frame: FrameType | None) -> bool:
    """Returns whether the code of a frame runs because a module is being imported."""
    while frame is not None:
        if frame.f_code.co_filename.startswith(IMPORT_SYSTEM):
            return True
        frame = frame.f_back
    return False


def raise_or_end(before, number: int, frame: FrameType | None) -> None:
    """Raises KeyboardInterrupt, or calls the handler that was set before where an exception may be lost.

    Args:
      before: the handler; anything that is not callable is ignored.
      number: the signal.
      frame: what the signal interrupts.

    Raises:
      KeyboardInterrupt: no module is being imported, or there is no such handler.
    """
    if callable(before) and is_importing(frame):
        before(number, frame)
    raise KeyboardInterrupt


@contextlib.contextmanager
def raise_interrupt(numbers: Collection[int] = (signal.SIGINT,)) -> Generator[None, None, None]:
    """Makes signals raise KeyboardInterrupt within the `with` block, if they ended the process before.

    A second one ends the process immediately, and so does the first one during an import, or where Python
    could only print its exception, as in a finalizer.

    Args:
      numbers: the signals. Those that do not end the process immediately (`ending`) keep their handlers.
    """
    handlers = {number: signal.getsignal(number) for number in numbers}
    changed = {number: handler for number, handler in handlers.items() if isinstance(handler, Ending)}

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(number, changed[number])
        raise_or_end(changed[number], number, frame)

    original_hook = sys.unraisablehook

    def hook(unraisable) -> None:
        if changed and unraisable.exc_type is KeyboardInterrupt:
            next(iter(changed.values()))(signal.SIGINT, None)
        original_hook(unraisable)

    sys.unraisablehook = hook
    for number in changed:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, end in changed.items():
            signal.signal(number, end)
        if sys.unraisablehook is hook:
            sys.unraisablehook = original_hook


@contextlib.contextmanager
def blocked() -> Generator[None, None, None]:
    """Delays Ctrl-C until the end of the `with` block; processes that are started within never see it.

    A terminal sends Ctrl-C to all processes of a command. Use this to start those that the command itself
    ends, which would otherwise print a traceback each.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


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
