"""The server's connections: how long each may take, and how many there may be.

uvicorn closes idle connections between two requests, and has no other time-out: a client that connects and
sends nothing, or a byte now and then, stays forever, and counts in `limit_concurrency`. `TimedProtocol` adds
the others. Where there is no room for a newcomer, the connection that is least likely to be missed is closed,
so that clients that only hold connections cannot keep others out.
"""

import asyncio
import json
from collections import Counter

from uvicorn.protocols.http.h11_impl import H11Protocol

from tpr_jax.search.server.guard import HEADERS, Patience, network_of

IDLE, HEAD, BODY, SEND, WORK, CLOSING = "idle", "head", "body", "send", "work", "closing"
# What may be closed for a newcomer, the first of these first. Never WORK: somebody waits for that answer.
EVICTED = (CLOSING, IDLE, HEAD, BODY, SEND)
OVERFLOW = 100  # connections beyond the limit that still get an answer: 503
SLACK = 2.0  # seconds after the guard's own time-out for a body, which answers, until it is closed without


class Connections:
    """The open connections of one server: `most` in all, `per_network` from one address (0: no such limit).

    An address of IPv6 stands for its network of 64 bits, as in the rate.
    """

    def __init__(self, patience: Patience, most: int, per_network: int):
        self.patience, self.most, self.per_network = patience, most, per_network
        self.open: set[TimedProtocol] = set()
        self.networks: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self, **settings) -> "TimedProtocol":
        """Returns the protocol of a new connection; uvicorn calls it as it would the class."""
        return TimedProtocol(self, **settings)

    def enter(self, protocol: "TimedProtocol") -> None:
        """Takes a newcomer in: in its own place, in that of another, to be told 503, or not at all."""
        protocol.network = network_of(protocol.client[0] if protocol.client else "")
        others = self.open
        crowd = [one for one in others if one.network == protocol.network] if self._crowded(protocol) else []
        if (crowd and not self._evict(crowd)) or (len(others) >= self.most and not self._evict(others)):
            protocol.app = busy
        self.open.add(protocol)
        self.networks[protocol.network] += 1
        if protocol.app is busy and sum(one.app is busy for one in self.open) > OVERFLOW:
            protocol.transport.abort()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._every(), self._sweep)

    def leave(self, protocol: "TimedProtocol") -> None:
        """Forgets a connection that is closed."""
        if protocol not in self.open:
            return
        self.open.discard(protocol)
        self.networks[protocol.network] -= 1
        if not self.networks[protocol.network]:
            del self.networks[protocol.network]

    def _crowded(self, protocol: "TimedProtocol") -> bool:
        return 0 < self.per_network <= self.networks[protocol.network]

    def _evict(self, among) -> bool:
        now = asyncio.get_running_loop().time()
        candidates = [one for one in among if one.app is not busy and one.observe(now) in EVICTED]
        if not candidates:
            return False
        victim = min(candidates, key=lambda one: (EVICTED.index(one.phase), one.merit(now)))
        self.leave(victim)
        victim.transport.abort()
        return True

    def _sweep(self) -> None:
        now = asyncio.get_running_loop().time()
        for protocol in list(self.open):
            protocol.check(now)
        # Without connections there is no timer, so that nothing keeps an idle server awake.
        self._timer = asyncio.get_running_loop().call_later(self._every(), self._sweep) if self.open else None

    def _every(self) -> float:
        patience = self.patience
        return min(1.0, min(patience.head, patience.idle, patience.body, patience.send) / 4)


class TimedProtocol(H11Protocol):
    """A connection that is closed where the client takes too long over its turn.

    `phase` says what it waits for since `since`: the client to begin another request (IDLE), to send the head
    of one (HEAD; a newcomer from the start) or its body (BODY), or to read the answer (SEND); or the server
    (WORK). It is read off uvicorn's own state of the request, `cycle`, every so often (`Connections`).
    """

    def __init__(self, connections: Connections, **settings):
        super().__init__(**settings)
        self.others, self.patience = connections, connections.patience
        self.network = ""
        self.phase, self.since = HEAD, self.loop.time()
        self.heard = False  # whether a byte came since the last request's head
        self.received = 0  # bytes of the present request's body, about
        self._seen = None  # the request that `phase` is of

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.others.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.others.leave(self)
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before, self.heard = self.cycle, True
        self.received += len(data)
        super().data_received(data)
        if self.cycle is not before:  # a request's head came, and perhaps some of its body with it
            self.heard, self.received = False, len(data)

    def on_response_complete(self) -> None:
        before = self.cycle
        super().on_response_complete()
        if self.cycle is not before:  # the next request was here already
            self.heard, self.received = False, 0

    def observe(self, now: float) -> str:
        """The phase, brought up to date."""
        phase = self._phase()
        if (phase, self.cycle) != (self.phase, self._seen):
            self.phase, self._seen, self.since = phase, self.cycle, now
        return phase

    def merit(self, now: float) -> float:
        """Orders connections of one phase: the least is the first to go."""
        if self.phase == BODY:  # the slowest one
            return (self.received + self.patience.rate) / (now - self.since + 1)
        return self.since  # the oldest one

    def check(self, now: float) -> None:
        """Closes the connection where its time is up."""
        phase = self.observe(now)
        if now - self.since <= self._allowed(phase):
            return
        if phase in (CLOSING, SEND):
            self.transport.abort()  # close() would wait for the client to read
            return
        if phase == HEAD and self.heard:
            self.transport.write(TOO_SLOW)
        self.transport.close()

    def _phase(self) -> str:
        if self.transport.is_closing():
            return CLOSING
        if self.transport.get_write_buffer_size():
            return SEND
        if self.cycle is None:
            return HEAD
        if self.cycle.more_body:
            return BODY
        if not self.cycle.response_complete:
            return WORK
        return HEAD if self.heard else IDLE

    def _allowed(self, phase: str) -> float:
        patience = self.patience
        if phase == BODY:
            return patience.for_body(self.received) + (0 if self.cycle.response_complete else SLACK)
        return {HEAD: patience.head, IDLE: patience.idle, SEND: patience.send, CLOSING: patience.head}.get(
            phase, float("inf")
        )


def _answer(status: str, why: str) -> tuple[list[tuple[bytes, bytes]], bytes, bytes]:
    """Returns the headers, the body and all bytes of an answer after which the connection is closed."""
    body = json.dumps({"detail": why}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        (b"retry-after", b"2"),
        *HEADERS,
    ]
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
    return headers, body, f"HTTP/1.1 {status}\r\n".encode() + lines + b"\r\n" + body


TOO_SLOW = _answer("408 Request Timeout", "the request did not come in time: send it at once")[2]
_BUSY = _answer(
    "503 Service Unavailable",
    "too many connections: try again soon; behind a proxy, or for many people at one address, start the "
    "server with --max_connections 0",
)


async def busy(scope, receive, send) -> None:
    """The ASGI application that tells a connection for which there is no room."""
    await send({"type": "http.response.start", "status": 503, "headers": _BUSY[0]})
    await send({"type": "http.response.body", "body": _BUSY[1]})


def room(most: int) -> int:
    """Returns how many connections this process can hold, at most `most`: each takes a file descriptor.

    Raises the process's own limit toward what the system allows, and leaves some for photos and the index.
    """
    try:
        import resource  # not on Windows, which has no such limit
    except ImportError:
        return most
    spare = 128
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most + spare
    if soft != resource.RLIM_INFINITY and soft < wanted:
        reachable = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
            soft = reachable
        except (OSError, ValueError):  # macOS may refuse
            pass
    return most if soft == resource.RLIM_INFINITY else min(most, max(soft - spare, soft // 2))
