"""The line that each process of a run keeps to the first one: who has come, who is gone, and why.

JAX's own service ends a process by SIGABRT where a peer does not come or is lost. With this line, plain TCP
that carries a few words, a run ends with a sentence instead: at once where a process dies, for the system
closes its line, and within half a minute where its machine is gone without a word.
"""

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping

from tpr_jax.errors import UserError

Lines = dict[int, socket.socket]  # by the number of the process at the other end
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}


def meet(
    address: tuple[str, int], count: int, index: int, timeout: float, hosts: Mapping[int, str] | None = None
) -> Lines:
    """The lines of process `index` of `count`: the first one's to all others, any other's to the first.

    Returns when all have come. `hosts` says where those are expected that have not, for the message.

    Raises:
      UserError: not all came within `timeout` seconds, or two of the same number or of other runs did.
    """
    if index:
        return {0: _call(address, count, index, timeout)}
    lines: Lines = {}
    try:
        return _receive(address, count, timeout, hosts or {}, lines)
    except UserError as error:
        leave(lines, 2, str(error))
        raise


def _receive(address, count: int, timeout: float, hosts: Mapping[int, str], lines: Lines) -> Lines:
    deadline = time.monotonic() + timeout
    try:
        server = socket.create_server(("", address[1]), backlog=count)
    except OSError as error:
        raise UserError(
            f"port {address[1]} cannot be opened for the other processes ({error.strerror}): choose another, "
            "--coordinator HOST:PORT"
        ) from error
    with server:
        while len(lines) < count - 1:
            server.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                line, (caller, *_) = server.accept()
            except TimeoutError:
                missing = [
                    f"{i} ({hosts[i]})" if i in hosts else str(i) for i in range(1, count) if i not in lines
                ]
                raise UserError(
                    f"process {', '.join(missing)} of {count} did not come to {address[0]}:{address[1]} "
                    f"within {timeout:g} s: see that all are started, with the same --coordinator and "
                    "--num_processes"
                ) from None
            line.settimeout(10)
            hello = _read_line(line).split()
            if len(hello) != 3 or hello[0] != "hello":  # not one of ours
                line.close()
                continue
            theirs, number = int(hello[1]), int(hello[2])
            if theirs != count or not 0 < number < count or number in lines:
                told = "came twice" if number in lines else f"says that there are {theirs}"
                told = f"process {number} of {count}, from {caller}, {told}"
                told += ": see --process_id and --num_processes"
                _say(line, f"left 2 {told}")
                raise UserError(told)
            lines[number] = _kept_alive(line)
    for line in lines.values():
        _say(line, "go")
    return lines


def _call(address, count: int, index: int, timeout: float) -> socket.socket:
    deadline = time.monotonic() + timeout
    host, port = address
    while True:
        try:
            line = socket.create_connection(address, timeout=max(deadline - time.monotonic(), 0.001))
            break
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"process 0 does not answer at {host}:{port} within {timeout:g} s ({error}): see that it "
                    "is started there, and that the port is open to this machine"
                ) from error
            time.sleep(0.2)
    _say(line, f"hello {count} {index}")
    line.settimeout(max(deadline - time.monotonic(), 0) + 10)  # process 0 knows better who is missing
    told = _read_line(line)
    if told == "go":
        return _kept_alive(line)
    code, _, why = told.removeprefix("left ").partition(" ")
    raise UserError(why or f"process 0 at {host}:{port} went away before all {count} processes had come")


def _kept_alive(line: socket.socket) -> socket.socket:
    line.settimeout(None)
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):  # not on every system
            line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return line


def _say(line: socket.socket, words: str) -> None:
    with contextlib.suppress(OSError):  # who is gone is noticed by `watch`
        line.sendall((" ".join(words.split()) + "\n").encode())


def _read_line(line: socket.socket) -> str:
    """Byte by byte, so that nothing behind the line is taken; empty where the other end is gone."""
    read = bytearray()
    with contextlib.suppress(OSError):
        while (byte := line.recv(1)) not in (b"", b"\n"):
            read += byte
    return read.decode(errors="replace")


def leave(lines: Lines, code: int, why: str) -> None:
    """Tells the others that this process ends, so that they end with the same words and exit code."""
    for line in lines.values():
        _say(line, f"left {code} {why}")


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
                    words = _read_line(key.fileobj)
                    if words == "done":
                        selector.unregister(key.fileobj)
                        with changed:
                            done.add(key.data)
                            changed.notify_all()
                        continue
                    code, _, why = words.removeprefix("left ").partition(" ")
                    code, why = (int(code), why) if words else (1, f"process {key.data} ended without a word")
                    leave({number: line for number, line in lines.items() if number != key.data}, code, why)
                    ended(code, why)
                    return

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()

    def finish(timeout: float) -> bool:
        first = 0 not in lines
        deadline = time.monotonic() + timeout
        if not first:
            _say(lines[0], "done")
        with changed:
            complete = changed.wait_for(lambda: len(done) == len(lines), deadline - time.monotonic())
        if first:
            for line in lines.values():
                _say(line, "done")
        return complete

    return finish
