"""TCP connections between the first process of a run and the others: messages, and detection of losses."""

import contextlib
import re
import selectors
import socket
import threading
import time
from collections.abc import Callable

Connections = dict[int, socket.socket]  # by the index of the process at the other end
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
_MAX_BYTES = 8192  # maximum size of a message


def keep_alive(connection: socket.socket) -> None:
    """Makes a connection blocking, and has the system detect within 30 s that the peer's machine is gone."""
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):  # not available on every system
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def send(connection: socket.socket, message: str) -> None:
    """Sends a message as one line; a lost peer is left to `watch` to detect."""
    with contextlib.suppress(OSError):
        connection.sendall((" ".join(message.split()) + "\n").encode())


def receive(connection: socket.socket) -> str:
    """Receives a message byte by byte, so that nothing after its line is consumed.

    Returns:
      The message; what has arrived of it if it is too long or does not end within the connection's timeout;
      empty if the peer is gone.
    """
    received = bytearray()
    timeout = connection.gettimeout()
    deadline = None if timeout is None else time.monotonic() + timeout
    with contextlib.suppress(OSError):
        while len(received) < _MAX_BYTES and (byte := connection.recv(1)) not in (b"", b"\n"):
            received += byte
            if deadline is not None:  # a socket's timeout applies to each byte
                connection.settimeout(max(deadline - time.monotonic(), 0.001))
    return received.decode(errors="replace")


def parse_left(message: str) -> tuple[int, str] | None:
    """Parses a message of `leave`: its exit code and reason, or None for other or truncated messages."""
    match = re.fullmatch(r"left ([0-9]{1,3})(?: (.*))?", message)
    return (int(match[1]), match[2] or "") if match else None


def leave(connections: Connections, code: int, reason: str) -> None:
    """Tells the peers that this process ends, so that they end with the same message and exit code."""
    for connection in connections.values():
        send(connection, f"left {code} {reason}")


def watch(connections: Connections, on_end: Callable[[int, str], None]) -> Callable[[float], bool]:
    """Listens to the peers in a thread of its own.

    Args:
      connections: the connections to the peers.
      on_end: called once with an exit code and a reason when a peer ends early or is lost.

    Returns:
      `finish(timeout)`, which tells the peers that this process is done, waits until they are too and returns
      whether they are. From then on no loss is reported.
    """
    done: set[int] = set()
    changed = threading.Condition()

    def listen() -> None:
        with selectors.DefaultSelector() as selector:
            for index, connection in connections.items():
                selector.register(connection, selectors.EVENT_READ, index)
            while len(done) < len(connections):
                for key, _ in selector.select():
                    message = receive(connections[key.data])
                    if message == "done":
                        selector.unregister(key.fileobj)
                        with changed:
                            done.add(key.data)
                            changed.notify_all()
                        continue
                    code, reason = parse_left(message) or (1, f"process {key.data} ended unexpectedly")
                    others = {index: peer for index, peer in connections.items() if index != key.data}
                    leave(others, code, reason)
                    on_end(code, reason)
                    return

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()

    def finish(timeout: float) -> bool:
        is_first = 0 not in connections
        deadline = time.monotonic() + timeout
        if not is_first:
            send(connections[0], "done")
        with changed:
            complete = changed.wait_for(lambda: len(done) == len(connections), deadline - time.monotonic())
        if is_first:
            for connection in connections.values():
                send(connection, "done")
        return complete

    return finish
