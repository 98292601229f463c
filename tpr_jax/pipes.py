"""What a process prints: when nobody reads it any longer, as in `... | head -1`, and when nobody is to."""

import contextlib
import os
import sys
from collections.abc import Iterator

CLOSED_PIPE = 128 + 13  # the exit code that shells give a program ended by SIGPIPE


@contextlib.contextmanager
def quiet_when_closed() -> Iterator[None]:
    """Ends the process without a traceback, exit code 141, where stdout or stderr is a pipe without reader.

    Not by the signal itself, which leaves no time to finish a checkpoint.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        for stream in (sys.stdout, sys.stderr):
            _drop_if_closed(stream)
        raise SystemExit(CLOSED_PIPE) from None


def _drop_if_closed(stream) -> None:
    """Lets what is left in the buffer go nowhere: Python writes it as it ends, and would complain again."""
    try:
        stream.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@contextlib.contextmanager
def stderr_nowhere() -> Iterator[int]:
    """Drops what is written to the process' stderr meanwhile, from C++ or by its children too.

    Gives a descriptor of where it goes otherwise.
    """
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield saved
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
