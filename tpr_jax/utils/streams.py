"""Handles stdout and stderr: closed pipes, as in `... | head -1`, odd encodings, and suppressed output."""

import contextlib
import json
import os
import sys
from collections.abc import Generator

CLOSED_PIPE = 128 + 13  # the exit code that shells give a program ended by SIGPIPE


@contextlib.contextmanager
def quiet_when_closed() -> Generator[None, None, None]:
    """Exits with code 141 and without a traceback if stdout or stderr is a pipe that nobody reads.

    Does not use the signal SIGPIPE itself, which would leave no time to finish a checkpoint. Also makes the
    streams print any text; see `print_any_text`.
    """
    print_any_text()
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        for stream in (sys.stdout, sys.stderr):
            _discard_if_closed(stream)
        raise SystemExit(CLOSED_PIPE) from None


def print_any_text() -> None:
    """Makes stdout and stderr escape, as Python does, what their encoding cannot represent.

    Examples are an accented letter on an ASCII terminal, or a lone surrogate anywhere: paths and texts come
    from the user and may hold both. Every command calls this first.
    """
    for stream in (sys.stdout, sys.stderr):
        # A notebook's stream cannot be reconfigured and does not need it; other error handlers were set on
        # purpose.
        reconfigure = getattr(stream, "reconfigure", None)
        if getattr(stream, "errors", "") in ("strict", "surrogateescape") and reconfigure is not None:
            reconfigure(errors="backslashreplace")


def as_json(value, stream=None, **settings) -> str:
    """Returns JSON that `stream` (default: stdout) can print; escapes non-ASCII letters only if needed."""
    text = json.dumps(value, ensure_ascii=False, **settings)
    encoding = getattr(sys.stdout if stream is None else stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return json.dumps(value, **settings)
    return text


def _discard_if_closed(stream) -> None:
    """Redirects a closed stream to the null device: Python flushes it at exit and would raise again."""
    try:
        stream.flush()
    except BrokenPipeError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


@contextlib.contextmanager
def suppress_stderr() -> Generator[int, None, None]:
    """Discards what the process writes to stderr, also from C++ code and its children.

    Yields:
      A descriptor of the original stderr.
    """
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield saved
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
