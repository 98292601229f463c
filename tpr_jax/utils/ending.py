"""Ends a process immediately on a signal, with one line.

Every command imports this first, so nothing here may take time to import.
"""

import os
import signal
from collections.abc import Callable, Mapping
from types import FrameType


class Ending:
    """A signal handler that ends the process with an exit code and a line; see `exit_immediately`."""

    def __init__(self, code: int, line: str, before: Callable[[], object] | None = None):
        self.code, self.line, self.before = code, line, before
        try:
            self.stream = os.dup(2 if code else 1)  # imports may hide what is printed for a while
        except OSError:  # closed
            self.stream = -1

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Ends the process."""
        try:
            if self.before is not None:
                self.before()
            os.write(self.stream, f"{self.line}\n".encode())
        except OSError:  # the stream may be closed
            pass
        os._exit(self.code)


def exit_immediately(ends: Mapping[int, tuple[int, str]], before: Callable[[], object] | None = None) -> None:
    """Makes signals end the process with an exit code and a line, until another handler replaces this one.

    Use it while a program imports its modules and has not started yet: an import may replace or swallow an
    exception, and an exception within the initialization of an extension module may crash the process.

    Args:
      ends: (exit code, line) for each signal number; the line goes to stdout if the code is 0, else to
        stderr.
      before: called before the line is printed.
    """
    for number, (code, line) in ends.items():
        # A process that a shell started in the background ignores Ctrl-C, and should keep doing so.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, Ending(code, line, before))


def ends_immediately() -> bool:
    """Returns whether a signal ends the process immediately, as in a command that is starting."""
    return any(isinstance(signal.getsignal(number), Ending) for number in (signal.SIGINT, signal.SIGTERM))
