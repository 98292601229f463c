"""What a process prints: when nobody reads it any longer, as in `... | head -1`, and when nobody is to."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator

CLOSED_PIPE = 128 + 13  # the exit code that shells give a program ended by SIGPIPE


@contextlib.contextmanager
def quiet_when_closed() -> Iterator[None]:
    """Ends the process without a traceback, exit code 141, where stdout or stderr is a pipe without reader.

    Not by the signal itself, which leaves no time to finish a checkpoint. What is printed meanwhile may be
    any text, see `print_any_text`.
    """
    print_any_text()
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        for stream in (sys.stdout, sys.stderr):
            _drop_if_closed(stream)
        raise SystemExit(CLOSED_PIPE) from None


def print_any_text() -> None:
    """Lets stdout and stderr print what their encoding does not have, escaped as Python writes it.

    That is an accented letter on a terminal in ASCII, or half of a surrogate pair anywhere: paths and texts
    are the users', and may hold both. Called first by every command.
    """
    for stream in (sys.stdout, sys.stderr):
        # A notebook's stream cannot be told, and needs not; other ways to go on were asked for.
        if getattr(stream, "errors", "") in ("strict", "surrogateescape") and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def as_json(value, stream=None, **settings) -> str:
    """Returns JSON that `stream` (stdout) can print: letters as they are, or all escaped as JSON does it."""
    text = json.dumps(value, ensure_ascii=False, **settings)
    encoding = getattr(sys.stdout if stream is None else stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return json.dumps(value, **settings)
    return text


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
