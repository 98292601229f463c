"""The server's connections: how long each may take, and how many there may be.

uvicorn closes connections that are idle between two requests, and has no other timeout: a client that
connects and sends nothing, or a byte now and then, stays forever and counts toward `limit_concurrency`.
`TimedProtocol` adds the other timeouts. When there is no room for a new connection, the least active one is
closed, so that clients that only hold connections open cannot keep others out.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Iterable

from uvicorn.protocols.http.h11_impl import H11Protocol

from tpr_jax.search.server.guard import SECURITY_HEADERS, TOO_SLOW, Timeouts, client_network

IDLE, HEAD, BODY, SEND, WORK, CLOSING = "idle", "head", "body", "send", "work", "closing"
# Phases in which a connection may be evicted, in order of preference. WORK is not among them: a client waits
# for that response.
EVICTABLE = (CLOSING, IDLE, HEAD, BODY, SEND)
MAX_REJECTED = 100  # connections beyond the limit that still get a response, 503
BODY_GRACE = 2.0  # seconds between the guard's timeout of a body, which sends 408, and closing without one


class Connections:
    """The open connections of one server.

    Args:
      timeouts: how long a connection may stay in each phase.
      max_total: maximum number of connections.
      max_per_network: maximum number from one address; 0 means no such limit. As for the rate, an IPv6
        address counts as its /64 network.
    """

    def __init__(self, timeouts: Timeouts, max_total: int, max_per_network: int):
        self.timeouts, self.max_total, self.max_per_network = timeouts, max_total, max_per_network
        self.open: set[TimedProtocol] = set()
        self.networks: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self, **settings) -> "TimedProtocol":
        """Returns the protocol of a new connection; uvicorn calls it as it would call a protocol class."""
        return TimedProtocol(self, **settings)

    def add(self, protocol: "TimedProtocol") -> None:
        """Adds a new connection: accepts it, evicts another for it, answers it with 503, or drops it."""
        protocol.network = client_network(protocol.client[0] if protocol.client else "")
        if not self._make_room(protocol.network):
            protocol.app = reject
        self.open.add(protocol)
        self.networks[protocol.network] += 1
        if protocol.app is reject and sum(other.app is reject for other in self.open) > MAX_REJECTED:
            protocol.transport.abort()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._interval(), self._sweep)

    def remove(self, protocol: "TimedProtocol") -> None:
        """Removes a closed connection."""
        if protocol not in self.open:
            return
        self.open.discard(protocol)
        self.networks[protocol.network] -= 1
        if not self.networks[protocol.network]:
            del self.networks[protocol.network]

    def _make_room(self, network: str) -> bool:
        """Returns whether there is room for a connection from this network, after evictions if needed."""
        if 0 < self.max_per_network <= self.networks[network]:
            neighbors = [other for other in self.open if other.network == network]
            if not self._evict(neighbors):
                return False
        return len(self.open) < self.max_total or self._evict(self.open)

    def _evict(self, protocols: Iterable["TimedProtocol"]) -> bool:
        """Closes the least active of these connections; returns False if none may be closed."""
        now = asyncio.get_running_loop().time()
        candidates = [p for p in protocols if p.app is not reject and p.update_phase(now) in EVICTABLE]
        if not candidates:
            return False
        victim = min(candidates, key=lambda p: (EVICTABLE.index(p.phase), p.activity(now)))
        self.remove(victim)
        victim.transport.abort()
        return True

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for protocol in list(self.open):
            protocol.close_if_late(now)
        # Without connections there is no timer, so that an idle server sleeps.
        self._timer = loop.call_later(self._interval(), self._sweep) if self.open else None

    def _interval(self) -> float:
        timeouts = self.timeouts
        return min(1.0, min(timeouts.head, timeouts.idle, timeouts.body, timeouts.send) / 4)


class TimedProtocol(H11Protocol):
    """A connection that is closed when the client takes too long.

    `phase` is what the connection has been waiting for since the time `since`: for the client to begin
    another request (IDLE), to send the head of one (HEAD, the first phase of every connection) or its body
    (BODY), or to read the response (SEND); or for the server (WORK). `Connections` derives it periodically
    from uvicorn's own state of the request, `cycle`.
    """

    def __init__(self, connections: Connections, **settings):
        super().__init__(**settings)
        self.registry, self.timeouts = connections, connections.timeouts
        self.network = ""
        self.phase, self.since = HEAD, self.loop.time()
        self.heard = False  # whether a byte has arrived since the head of the last request
        self.received = 0  # approximate bytes of the current request's body
        self._phase_cycle = None  # the request that `phase` refers to

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Registers the connection."""
        super().connection_made(transport)
        self.registry.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Unregisters the connection."""
        self.registry.remove(self)
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Counts the bytes of the current request."""
        previous, self.heard = self.cycle, True
        self.received += len(data)
        super().data_received(data)
        if self.cycle is not previous:  # the head of a request arrived, perhaps with a part of its body
            self.heard, self.received = False, len(data)

    def on_response_complete(self) -> None:
        """Resets the counts when the next request has already arrived."""
        previous = self.cycle
        super().on_response_complete()
        if self.cycle is not previous:
            self.heard, self.received = False, 0

    def update_phase(self, now: float) -> str:
        """Updates the phase, and returns it."""
        phase = self._current_phase()
        if (phase, self.cycle) != (self.phase, self._phase_cycle):
            self.phase, self._phase_cycle, self.since = phase, self.cycle, now
        return phase

    def activity(self, now: float) -> float:
        """Orders connections in the same phase; the smallest value is evicted first."""
        if self.phase == BODY:  # the slowest body
            return (self.received + self.timeouts.rate) / (now - self.since + 1)
        return self.since  # the oldest

    def close_if_late(self, now: float) -> None:
        """Closes the connection if its phase has lasted too long."""
        phase = self.update_phase(now)
        if now - self.since <= self._timeout(phase):
            return
        if phase in (CLOSING, SEND):
            self.transport.abort()  # close() would wait for the client to read
            return
        if phase == HEAD and self.heard:
            self.transport.write(_TIMEOUT_RESPONSE)
        self.transport.close()

    def _current_phase(self) -> str:
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

    def _timeout(self, phase: str) -> float:
        timeouts = self.timeouts
        if phase == BODY:
            return timeouts.for_body(self.received) + (0 if self.cycle.response_complete else BODY_GRACE)
        seconds = {HEAD: timeouts.head, IDLE: timeouts.idle, SEND: timeouts.send, CLOSING: timeouts.head}
        return seconds.get(phase, float("inf"))


def _closing_response(status: str, detail: str) -> tuple[list[tuple[bytes, bytes]], bytes, bytes]:
    """Returns the headers, the body and all bytes of a response after which the connection is closed."""
    body = json.dumps({"detail": detail}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        (b"retry-after", b"2"),
        *SECURITY_HEADERS,
    ]
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
    return headers, body, f"HTTP/1.1 {status}\r\n".encode() + lines + b"\r\n" + body


_TIMEOUT_RESPONSE = _closing_response("408 Request Timeout", TOO_SLOW)[2]
_REJECT_HEADERS, _REJECT_BODY, _ = _closing_response(
    "503 Service Unavailable",
    "too many connections: try again soon; behind a proxy, or for many people at one address, start the "
    "server with --max_connections 0",
)


async def reject(scope, receive, send) -> None:
    """Answers 503: the ASGI application of a connection for which there is no room."""
    await send({"type": "http.response.start", "status": 503, "headers": _REJECT_HEADERS})
    await send({"type": "http.response.body", "body": _REJECT_BODY})


def max_open_connections(limit: int) -> int:
    """Returns how many connections this process can hold, at most `limit`: each takes a file descriptor.

    Raises the process's soft limit toward the hard limit, and reserves some descriptors for photos and the
    index.
    """
    try:
        import resource  # not on Windows, which has no such limit
    except ImportError:
        return limit
    reserved = 128
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = limit + reserved
    if soft != resource.RLIM_INFINITY and soft < needed:
        reachable = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
            soft = reachable
        except (OSError, ValueError):  # macOS may refuse
            pass
    return limit if soft == resource.RLIM_INFINITY else min(limit, max(soft - reserved, soft // 2))
