"""Answers queries of the command line by a server that runs on the same index and has everything loaded.

The server listens on a Unix socket in the folder of the index. The operating system lets only the server's
own user connect, and nobody once the server has ended, however it ended. Both sides also check who the other
is.
This module imports nothing that takes time.
"""

import contextlib
import json
import os
import socket
import stat
import struct
import threading
from collections.abc import Callable, Generator
from pathlib import Path

NAME = "server.sock"
MAX_BYTES = 2**26
READ_SECONDS, ANSWER_SECONDS = 5, 60

Answer = Callable[[dict], dict]


@contextlib.contextmanager
def answering(folder: str | os.PathLike, answer: Answer) -> Generator[Callable[[], None], None, None]:
    """Answers questions about an index within the `with` block, in a thread.

    Does nothing where the folder can have no socket, or another server already answers.

    Args:
      folder: the folder of the index.
      answer: question -> answer, both of values that JSON has.

    Yields:
      A function that removes the socket, for a process that ends within the block.
    """
    listener = _listen(Path(folder))
    if listener is None:
        yield lambda: None
        return
    path = Path(folder).absolute() / NAME

    def remove() -> None:
        with contextlib.suppress(OSError):
            path.unlink()

    thread = threading.Thread(target=_serve, args=(listener, answer), daemon=True)
    thread.start()
    try:
        yield remove
    finally:
        remove()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # ends the thread's wait
        listener.close()
        thread.join(READ_SECONDS)


def ask(folder: str | os.PathLike, question: dict) -> dict | None:
    """Returns the answer of the server that is running on an index; None if this user runs none there."""
    path = Path(folder) / NAME
    try:
        found = path.lstat()
        if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.getuid():
            return None
        with _address(Path(folder)) as address, _unix_socket() as connection:
            connection.settimeout(ANSWER_SECONDS)
            connection.connect(address)
            if not _is_own(connection):
                return None
            connection.sendall(json.dumps(question).encode())
            connection.shutdown(socket.SHUT_WR)
            return json.loads(_read(connection)) or None
    except (OSError, ValueError, AttributeError):  # nobody answers; or a system without Unix sockets
        return None


def _listen(folder: Path) -> socket.socket | None:
    listener = None
    try:
        listener = _unix_socket()
        with _address(folder) as address:
            if (folder / NAME).is_socket() and _is_stale(address):
                (folder / NAME).unlink()
            listener.bind(address)
        (folder / NAME).chmod(0o600)  # nobody can connect before `listen`
        listener.listen(16)
        return listener
    except (OSError, AttributeError):
        if listener is not None:
            listener.close()
        return None


def _is_stale(address: str) -> bool:
    """Returns whether there is a socket on which nobody listens, as a killed server leaves it."""
    with _unix_socket() as connection:
        try:
            connection.connect(address)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
        return False


def _serve(listener: socket.socket, answer: Answer) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:  # closed
            return
        with connection, contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            connection.settimeout(READ_SECONDS)
            if _is_own(connection):
                question = json.loads(_read(connection))
                connection.sendall(json.dumps(answer(question)).encode())


def _unix_socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)


@contextlib.contextmanager
def _address(folder: Path) -> Generator[str, None, None]:
    """Yields the path of the socket; a short one where possible, as about a hundred bytes are allowed."""
    if not os.path.isdir("/proc/self/fd"):
        yield str(folder.absolute() / NAME)
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        yield f"/proc/self/fd/{number}/{NAME}"
    finally:
        os.close(number)


def _is_own(connection: socket.socket) -> bool:
    """Returns whether the other side is a process of this user, where the system tells."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    fields = struct.Struct("3i")  # process, user, group
    _, user, _ = fields.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, fields.size))
    return user == os.getuid()


def _read(connection: socket.socket) -> bytes:
    """Reads to the end of what the other side sends."""
    received = bytearray()
    while part := connection.recv(2**16):
        received += part
        if len(received) > MAX_BYTES:
            raise ValueError("the message is too long")
    return bytes(received)
