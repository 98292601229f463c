"""The lines between the first process of a run and each other: what is said on them, and who is lost."""

import contextlib
import re
import selectors
import socket
import threading
import time
from collections.abc import Callable

Lines = dict[int, socket.socket]  # by the number of the process at the other end
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
_LONGEST = 8192  # bytes of a line


def keep_alive(line: socket.socket) -> None:
    line.settimeout(None)
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):  # not on every system
            line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def say(line: socket.socket, words: str) -> None:
    with contextlib.suppress(OSError):  # who is gone is noticed by `watch`
        line.sendall((" ".join(words.split()) + "\n").encode())


def read_line(line: socket.socket) -> str:
    """Byte by byte, so that nothing behind the line is taken; empty where the other end is gone.

    A line that does not end in time, or is too long, is what has come of it.
    """
    read = bytearray()
    deadline = None if line.gettimeout() is None else time.monotonic() + line.gettimeout()
    with contextlib.suppress(OSError):
        while len(read) < _LONGEST and (byte := line.recv(1)) not in (b"", b"\n"):
            read += byte
            if deadline is not None:  # the limit of a socket is one for each byte
                line.settimeout(max(deadline - time.monotonic(), 0.001))
    return read.decode(errors="replace")


def parse_left(words: str) -> tuple[int, str] | None:
    """Returns (exit code, why) of the words of `leave`; None of others, as of a line that was cut off."""
    found = re.fullmatch(r"left ([0-9]{1,3})(?: (.*))?", words)
    return (int(found[1]), found[2] or "") if found else None


def leave(lines: Lines, code: int, why: str) -> None:
    """Tells the others that this process ends, so that they end with the same words and exit code."""
    for line in lines.values():
        say(line, f"left {code} {why}")


def watch(lines: Lines, ended: Callable[[int, str], None]) -> Callable[[float], bool]:
    """Listens in a thread of its own, and calls `ended(exit code, why)` once where a process is lost.

    Returns `finish(timeout)`: says that this process is done, waits for the others to be, and returns whether
    they are; from then on nobody is missed.
    """
    done: set[int] = set()
    changed = threading.Condition()

    def listen() -> None:
        with selectors.DefaultSelector() as selector:
            for number, line in lines.items():
                selector.register(line, selectors.EVENT_READ, number)
            while len(done) < len(lines):
                for key, _ in selector.select():
                    words = read_line(key.fileobj)
                    if words == "done":
                        selector.unregister(key.fileobj)
                        with changed:
                            done.add(key.data)
                            changed.notify_all()
                        continue
                    code, why = parse_left(words) or (1, f"process {key.data} ended without a word")
                    leave({number: line for number, line in lines.items() if number != key.data}, code, why)
                    ended(code, why)
                    return

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()

    def finish(timeout: float) -> bool:
        first = 0 not in lines
        deadline = time.monotonic() + timeout
        if not first:
            say(lines[0], "done")
        with changed:
            complete = changed.wait_for(lambda: len(done) == len(lines), deadline - time.monotonic())
        if first:
            for line in lines.values():
                say(line, "done")
        return complete

    return finish
