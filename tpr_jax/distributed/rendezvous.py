"""How the processes of a run meet: each opens a line to the first one, and keeps it (`peer_lines.py`).

JAX's own service ends a process by SIGABRT where a peer does not come or is lost. With this line, plain TCP
that carries a few words, a run ends with a sentence instead: at once where a process dies, for the system
closes its line, and within half a minute where its machine is gone without a word.

Anybody may call at the port: who does not prove within seconds to know the run's token (`handshake.py`) is
hung up on, and neither takes a process's place nor delays the others.
"""

import contextlib
import selectors
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tpr_jax import __version__
from tpr_jax.distributed import handshake
from tpr_jax.distributed.peer_lines import Lines, keep_alive, leave, parse_left, read_line, say
from tpr_jax.errors import UserError

_GREETING = "tpr-jax"
CALLER_SECONDS = 10.0  # for a caller to say who it is
CALLERS = 64  # that may be about to say so, beside the run's own; the oldest makes room for the next


@dataclass(frozen=True)
class Place:
    """Where a run's processes meet, and who this one is; `hosts` says where the others are expected."""

    host: str
    port: int
    count: int
    index: int
    timeout: float  # seconds until all have to be there
    hosts: Mapping[int, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """HOST:PORT, with brackets around an IPv6 address."""
        return join_address(self.host, self.port)


def join_address(host: str, port: int) -> str:
    """Returns HOST:PORT, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def meet(place: Place, token: Callable[[], str]) -> Lines:
    """Returns the lines of a process: the first one's to all others, any other's to the first.

    Returns when all have come. `token()` gives the run's token, or "" as long as it is not known.

    Raises:
      UserError: not all came in time, two of the same number or of other runs did, or a port is in use.
    """
    if place.index:
        return {0: _call(place, token)}
    lines: Lines = {}
    try:
        _receive(place, token(), lines)
    except UserError as error:
        leave(lines, 2, str(error))
        raise
    return lines


@dataclass
class _Caller:
    """Somebody at the port who has not said yet who it is."""

    line: socket.socket
    host: str
    deadline: float
    challenge: str
    said: bytearray = field(default_factory=bytearray)


def _receive(place: Place, token: str, lines: Lines) -> None:
    """Takes the others' calls until all have come, and tells them to go."""
    deadline = time.monotonic() + place.timeout
    answers: dict[int, str] = {}  # what proves to each that this is the first process
    callers: dict[socket.socket, _Caller] = {}
    with _listen(place) as server, selectors.DefaultSelector() as selector:
        server.setblocking(False)
        selector.register(server, selectors.EVENT_READ)

        def hang_up(line: socket.socket) -> None:
            selector.unregister(line)
            callers.pop(line, None)
            line.close()

        try:
            while len(lines) < place.count - 1:
                now = time.monotonic()
                if now >= deadline:
                    raise UserError(_who_is_missing(place, lines))
                for caller in [caller for caller in callers.values() if caller.deadline <= now]:
                    hang_up(caller.line)
                until = min([deadline, *(caller.deadline for caller in callers.values())])
                ready = [key.fileobj for key, _ in selector.select(max(until - now, 0))]
                # First who is gone: it may be back already, under the same number.
                for number in [number for number, line in lines.items() if line in ready]:
                    selector.unregister(lines[number])
                    lines.pop(number).close()
                for line in [line for line in ready if line in callers]:
                    hello = _read_hello(callers[line])
                    if hello is None:
                        continue
                    number, answer = _admit(place, token, callers[line], hello, lines)
                    if not answer:
                        hang_up(line)
                        continue
                    del callers[line]
                    lines[number], answers[number] = line, answer
                if server in ready:
                    caller = _take_call(server)
                    if caller is not None:
                        selector.register(caller.line, selectors.EVENT_READ)
                        callers[caller.line] = caller
                    if len(callers) > CALLERS + place.count:
                        hang_up(min(callers.values(), key=lambda caller: caller.deadline).line)
        finally:
            for line in list(callers):
                hang_up(line)
    _check_next_port(place)
    for number, line in lines.items():
        keep_alive(line)
        say(line, f"go {answers[number]}")


def _listen(place: Place) -> socket.socket:
    """Opens the port for callers by IPv4 and, where the machine has it, by IPv6."""
    try:
        if socket.has_dualstack_ipv6():
            with contextlib.suppress(OSError):  # IPv6 may be compiled in and switched off, or the port in use
                return socket.create_server(
                    ("::", place.port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128
                )
        return socket.create_server(("", place.port), backlog=128)
    except OSError as error:
        raise UserError(
            f"port {place.port} cannot be opened for the other processes ({error.strerror}): choose another, "
            "--coordinator HOST:PORT"
        ) from error


def _check_next_port(place: Place) -> None:
    """Raises UserError where JAX's service could not open its port, at which it would end by a signal."""
    try:
        _listen(Place(place.host, place.port + 1, place.count, 0, 0)).close()
    except UserError as error:
        raise UserError(
            f"port {place.port + 1}, the one after the coordinator's, where JAX's own service listens, is in "
            "use: choose another pair by --coordinator HOST:PORT"
        ) from error


def _take_call(server: socket.socket) -> _Caller | None:
    try:
        line, (host, *_) = server.accept()
    except OSError:  # gone again, or no descriptors are left
        return None
    line.setblocking(False)
    caller = _Caller(line, host, time.monotonic() + CALLER_SECONDS, handshake.challenge())
    say(line, f"{_GREETING} {caller.challenge}")
    return caller


def _read_hello(caller: _Caller) -> str | None:
    """Returns what a caller says of itself, "" where it is not one of a run's, None before its line ends."""
    try:
        more = caller.line.recv(1024)
    except BlockingIOError:
        return None
    except OSError:
        return ""
    caller.said += more
    line, end, behind = bytes(caller.said).partition(b"\n")
    if not more or behind or len(line) > 1024:
        return ""
    return line.decode("ascii", "replace") if end else None


def _admit(place: Place, token: str, caller: _Caller, hello: str, lines: Lines) -> tuple[int, str]:
    """Returns (the number of a process of this run, the proof for it), or (0, "") for anybody else.

    Raises:
      UserError: it knows the token, and still cannot be of this run.
    """
    words = hello.split(" ")
    if len(words) != 6 or not handshake.is_proof(words[5], token, caller.challenge, *words[:5]):
        say(caller.line, "stranger")
        return 0, ""
    _, count, index, version, challenge, _ = words  # as `_call` wrote them: only it knows the token
    number, told = int(index), ""
    if int(count) != place.count:
        told = f"says that there are {count}: see --process_id and --num_processes"
    elif version != __version__:
        told = f"runs tpr_jax {version}, and process 0 runs {__version__}: install the same on all machines"
    elif not 0 < number < place.count or number in lines:
        told = "came twice: see --process_id and --num_processes"
    if told:
        told = f"process {number} of {place.count}, from {caller.host}, {told}"
        say(caller.line, f"left 2 {told}")
        raise UserError(told)
    return number, handshake.proof(token, challenge, "go")


def _who_is_missing(place: Place, lines: Lines) -> str:
    missing = [
        f"{number} ({place.hosts[number]})" if number in place.hosts else str(number)
        for number in range(1, place.count)
        if number not in lines
    ]
    return (
        f"process {', '.join(missing)} of {place.count} did not come to {place.address} within "
        f"{place.timeout:g} s: see that all are started, with the same --coordinator, --num_processes and "
        f"--workdir (or {handshake.VARIABLE})"
    )


def _call(place: Place, token: Callable[[], str]) -> socket.socket:
    """Calls the first process until it answers."""
    deadline = time.monotonic() + place.timeout
    while True:
        known = token()
        if known:
            line, why = _try_call(place, known, deadline)
            if line is not None:
                return line
        else:
            why = "the first process has put no token into the workdir, which all processes have to share"
        if time.monotonic() > deadline:
            raise UserError(
                f"process 0 does not answer at {place.address} within {place.timeout:g} s ({why}): see that "
                "it is started there, and that the port is open to this machine"
            )
        time.sleep(0.2)


def _try_call(place: Place, token: str, deadline: float) -> tuple[socket.socket | None, str]:
    """Returns (the line to the first process, ""), or (None, why there is none yet).

    Raises:
      UserError: the first process says why this run ends, or went away.
    """
    soon = max(min(deadline - time.monotonic(), CALLER_SECONDS), 0.001)
    try:
        line = socket.create_connection((place.host, place.port), timeout=soon)
    except UnicodeError as error:
        raise UserError(f"--coordinator {place.address}: is not the name of a host") from error
    except socket.gaierror as error:
        return None, f"the host {place.host} is unknown: {error.strerror or error}"
    except OSError as error:
        return None, str(error)
    greeting = read_line(line).split(" ")
    if len(greeting) != 2 or greeting[0] != _GREETING:
        line.close()
        return None, "what listens there is not a run of this version of tpr_jax"
    mine = handshake.challenge()
    words = ("hello", place.count, place.index, __version__, mine)
    say(line, " ".join(map(str, (*words, handshake.proof(token, greeting[1], *words)))))
    line.settimeout(max(deadline - time.monotonic(), 0) + 10)  # process 0 knows better who is missing
    told = read_line(line)
    if told.startswith("go ") and handshake.is_proof(told[3:], token, mine, "go"):
        keep_alive(line)
        return line, ""
    line.close()
    if told == "stranger" or told.startswith("go "):
        same = f"another --workdir or {handshake.VARIABLE} there, or another run"
        return None, f"it does not have the token of this run: {same}"
    left = parse_left(told)
    raise UserError(
        (left and left[1])
        or f"process 0 at {place.address} went away before all {place.count} processes had come"
    )
