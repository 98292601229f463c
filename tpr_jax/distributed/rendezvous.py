"""The rendezvous of a run's processes: each connects to the first one and stays connected (`connections.py`).

JAX's own service ends a process by SIGABRT if a peer does not connect or is lost. Plain TCP connections that
carry a few messages let a run end with an error message instead: immediately if a process dies, because the
system closes its connection, and within half a minute if its machine disappears.

Anybody can connect to the port. A caller that does not prove within seconds that it knows the run's token
(`handshake.py`) is disconnected; it neither takes a process's place nor delays the others.
"""

import contextlib
import selectors
import socket
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import cast

from tpr_jax import __version__
from tpr_jax.distributed import handshake
from tpr_jax.distributed.connections import Connections, keep_alive, leave, parse_left, receive, send
from tpr_jax.errors import UserError

_GREETING = "tpr-jax"
CALLER_SECONDS = 10.0  # time that a caller has to identify itself
CALLERS = 64  # that may be unidentified at a time, besides the run's own; the oldest makes room for the next

# Why a call failed.
_REFUSED = (
    "it does not have the token of this run: it was started with another --workdir or "
    f"{handshake.VARIABLE}, or belongs to another run"
)
_LOST = "it was lost"


@dataclass(frozen=True)
class Rendezvous:
    """The address at which a run's processes connect, and the index of this process.

    Attributes:
      host: the host of the first process.
      port: the port that it listens on; JAX's service takes the next one.
      count: the number of processes.
      index: this process's index.
      timeout: seconds until all have to be connected.
      hosts: the hosts on which processes are expected, by index, for messages.
    """

    host: str
    port: int
    count: int
    index: int
    timeout: float
    hosts: Mapping[int, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """HOST:PORT, with brackets around an IPv6 address."""
        return format_address(self.host, self.port)


def format_address(host: str, port: int) -> str:
    """Returns HOST:PORT, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def connect(rendezvous: Rendezvous, token: Callable[[], str]) -> Connections:
    """Connects the processes of a run; returns when all have connected.

    Args:
      rendezvous: the address, and the index of this process.
      token: returns the run's token, or "" as long as it is not known.

    Returns:
      The first process's connections to all others, or another's connection to the first.

    Raises:
      UserError: not all connected in time, two have the same index or belong to different runs, or a port is
        in use.
    """
    if rendezvous.index:
        return {0: _call(rendezvous, token)}
    peers: Connections = {}
    try:
        _accept_peers(rendezvous, token(), peers)
    except UserError as error:
        leave(peers, 2, str(error))
        raise
    return peers


@dataclass
class _Caller:
    """A connection that has not identified itself yet."""

    connection: socket.socket
    host: str
    deadline: float
    challenge: str
    received: bytearray = field(default_factory=bytearray)


class _Callers:
    """The unidentified callers at the first process's port, registered with a selector."""

    def __init__(self, selector: selectors.BaseSelector, limit: int):
        self.selector, self.limit = selector, limit
        self.by_connection: dict[socket.socket, _Caller] = {}

    def accept(self, server: socket.socket) -> None:
        """Accepts a caller and greets it with a challenge; the oldest makes room for it."""
        try:
            connection, (host, *_) = server.accept()
        except OSError:  # it is gone again, or there are no descriptors left
            return
        connection.setblocking(False)
        caller = _Caller(connection, host, time.monotonic() + CALLER_SECONDS, handshake.challenge())
        send(connection, f"{_GREETING} {caller.challenge}")
        self.selector.register(connection, selectors.EVENT_READ)
        self.by_connection[connection] = caller
        if len(self.by_connection) > self.limit:
            self.hang_up(min(self.by_connection.values(), key=lambda caller: caller.deadline))

    def hang_up(self, caller: _Caller) -> None:
        """Disconnects a caller."""
        self.selector.unregister(caller.connection)
        del self.by_connection[caller.connection]
        caller.connection.close()

    def hang_up_late(self, now: float) -> None:
        """Disconnects those that did not identify themselves in time."""
        for caller in [caller for caller in self.by_connection.values() if caller.deadline <= now]:
            self.hang_up(caller)

    def next_deadline(self, deadline: float) -> float:
        """Returns the earliest deadline of a caller, or `deadline` if that is earlier."""
        return min([deadline, *(caller.deadline for caller in self.by_connection.values())])


def _accept_peers(rendezvous: Rendezvous, token: str, peers: Connections) -> None:
    """Accepts connections until all peers are connected, and tells them to go."""
    deadline = time.monotonic() + rendezvous.timeout
    proofs: dict[int, str] = {}  # peer -> proof that this is the first process
    with _listen(rendezvous) as server, selectors.DefaultSelector() as selector:
        server.setblocking(False)
        selector.register(server, selectors.EVENT_READ)
        callers = _Callers(selector, CALLERS + rendezvous.count)
        try:
            while len(peers) < rendezvous.count - 1:
                now = time.monotonic()
                if now >= deadline:
                    raise UserError(_missing_message(rendezvous, peers))
                callers.hang_up_late(now)
                timeout = max(callers.next_deadline(deadline) - now, 0)
                # Only sockets are registered.
                ready = [cast(socket.socket, key.fileobj) for key, _ in selector.select(timeout)]
                # Lost peers first: one may be back already, under the same index.
                for index in [index for index, peer in peers.items() if peer in ready]:
                    selector.unregister(peers[index])
                    peers.pop(index).close()
                for caller in [callers.by_connection[c] for c in ready if c in callers.by_connection]:
                    hello = _read_hello(caller)
                    if hello is None:
                        continue
                    index, proof = _admit(rendezvous, token, caller, hello, peers)
                    if proof:
                        del callers.by_connection[caller.connection]
                        peers[index], proofs[index] = caller.connection, proof
                    else:
                        callers.hang_up(caller)
                if server in ready:
                    callers.accept(server)
        finally:
            for caller in list(callers.by_connection.values()):
                callers.hang_up(caller)
    _check_next_port(rendezvous)
    for index, peer in peers.items():
        keep_alive(peer)
        send(peer, f"go {proofs[index]}")


def _listen(rendezvous: Rendezvous) -> socket.socket:
    """Opens the port for IPv4 and, where the machine supports it, for IPv6."""
    try:
        if socket.has_dualstack_ipv6():
            with contextlib.suppress(OSError):  # IPv6 may be compiled in but disabled, or the port in use
                return socket.create_server(
                    ("::", rendezvous.port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128
                )
        return socket.create_server(("", rendezvous.port), backlog=128)
    except OSError as error:
        raise UserError(
            f"port {rendezvous.port} cannot be opened for the other processes ({error.strerror}): choose "
            "another, --coordinator HOST:PORT"
        ) from error


def _check_next_port(rendezvous: Rendezvous) -> None:
    """Raises UserError if JAX's service could not open its port, which would end the process by a signal."""
    port = rendezvous.port + 1
    try:
        _listen(Rendezvous(rendezvous.host, port, rendezvous.count, 0, 0)).close()
    except UserError as error:
        raise UserError(
            f"port {port}, the one after the coordinator's, where JAX's own service listens, is in use: "
            "choose another pair by --coordinator HOST:PORT"
        ) from error


def _read_hello(caller: _Caller) -> str | None:
    """Reads a caller's first line: None before its end, "" if it cannot be a process of a run."""
    try:
        more = caller.connection.recv(1024)
    except BlockingIOError:
        return None
    except OSError:
        return ""
    caller.received += more
    line, end, rest = bytes(caller.received).partition(b"\n")
    if not more or rest or len(line) > 1024:
        return ""
    return line.decode("ascii", "replace") if end else None


def _admit(
    rendezvous: Rendezvous, token: str, caller: _Caller, hello: str, connected: Collection[int]
) -> tuple[int, str]:
    """Identifies a caller: returns its index and the proof for it, or (0, "") if it is not of this run.

    Raises:
      UserError: it knows the token, and still cannot belong to this run.
    """
    words = hello.split(" ")
    if len(words) != 6 or not handshake.is_proof(words[5], token, caller.challenge, *words[:5]):
        send(caller.connection, "stranger")
        return 0, ""
    _, count, index, version, challenge, _ = words  # well-formed as in `_call`: only it knows the token
    index, problem = int(index), ""
    if int(count) != rendezvous.count:
        problem = f"was started with --num_processes {count}: start all with the same number"
    elif version != __version__:
        problem = (
            f"runs tpr_jax {version}, and process 0 runs {__version__}: install the same on all machines"
        )
    elif not 0 < index < rendezvous.count or index in connected:
        problem = "connected twice: check --process_id and --num_processes"
    if problem:
        message = f"process {index} of {rendezvous.count}, from {caller.host}, {problem}"
        send(caller.connection, f"left 2 {message}")
        raise UserError(message)
    return index, handshake.proof(token, challenge, "go")


def _missing_message(rendezvous: Rendezvous, connected: Collection[int]) -> str:
    missing = [
        f"{index} ({rendezvous.hosts[index]})" if index in rendezvous.hosts else str(index)
        for index in range(1, rendezvous.count)
        if index not in connected
    ]
    return (
        f"process {', '.join(missing)} of {rendezvous.count} did not connect to {rendezvous.address} within "
        f"{rendezvous.timeout:g} s: check that all are started, with the same --coordinator, --num_processes "
        f"and --workdir (or {handshake.VARIABLE})"
    )


def _call(rendezvous: Rendezvous, token: Callable[[], str]) -> socket.socket:
    """Calls the first process until it answers."""
    deadline = time.monotonic() + rendezvous.timeout
    refused = None  # the token with which the first process refused this one
    while True:
        run_token = token()
        if run_token:
            connection, reason = _try_call(rendezvous, run_token, deadline)
            if connection is not None:
                return connection
        else:
            reason = "the first process has written no token to the workdir, which all processes must share"
        if reason == _REFUSED:
            refused = run_token
        elif run_token == refused:
            reason = _REFUSED  # says more than how the first process ended meanwhile
        elif reason == _LOST:
            raise UserError(
                f"process 0 at {rendezvous.address} was lost before all {rendezvous.count} processes had "
                "connected"
            )
        if time.monotonic() > deadline:
            raise UserError(
                f"process 0 does not answer at {rendezvous.address} within {rendezvous.timeout:g} s "
                f"({reason}): check that it is started there, and that this machine can reach the port"
            )
        time.sleep(0.2)


def _try_call(rendezvous: Rendezvous, token: str, deadline: float) -> tuple[socket.socket | None, str]:
    """Returns (the connection to the first process, ""), or (None, the reason why there is none yet).

    Raises:
      UserError: the first process says why this run ends.
    """
    timeout = max(min(deadline - time.monotonic(), CALLER_SECONDS), 0.001)
    try:
        connection = socket.create_connection((rendezvous.host, rendezvous.port), timeout=timeout)
    except UnicodeError as error:
        raise UserError(f"--coordinator {rendezvous.address}: is not the name of a host") from error
    except socket.gaierror as error:
        return None, f"the host {rendezvous.host} is unknown: {error.strerror or error}"
    except OSError as error:
        return None, str(error)
    greeting = receive(connection).split(" ")
    if len(greeting) != 2 or greeting[0] != _GREETING:
        connection.close()
        return None, "another program, or another version of tpr_jax, listens there"
    challenge = handshake.challenge()
    words = ("hello", rendezvous.count, rendezvous.index, __version__, challenge)
    send(connection, " ".join(map(str, (*words, handshake.proof(token, greeting[1], *words)))))
    # Process 0 waits no longer than this one, and its message says who is missing.
    connection.settimeout(max(deadline - time.monotonic(), 0) + 10)
    answer = receive(connection)
    if answer.startswith("go ") and handshake.is_proof(answer[3:], token, challenge, "go"):
        keep_alive(connection)
        return connection, ""
    connection.close()
    if answer == "stranger" or answer.startswith("go "):
        return None, _REFUSED
    left = parse_left(answer)
    if left and left[1]:
        raise UserError(left[1])
    return None, _LOST
