"""The outermost layer of the server: allowed hosts and origins, rate and size limits, security headers.

`Guard` is pure ASGI (https://asgi.readthedocs.io) middleware around the whole application, so that every
response passes through it.
"""

import asyncio
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import NamedTuple
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException

from tpr_jax.search.server.metrics import ServerMetrics

LOG = logging.getLogger("uvicorn.error")
UPLOAD_PATH = "/api/search/photo"  # the only path that accepts a large body
MAX_SMALL_BODY = 65_536  # bytes of a body on any other path
LIGHT_COST = 1 / 16  # rate-limit cost of a photo or page, relative to a search
MAX_FORM_OVERHEAD = 16_384  # bytes that a form may have in addition to its photo
TOO_SLOW = "the request did not arrive in time: send it without pauses"
_MAX_CLIENTS = 10_000  # addresses that the rate limiter remembers
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}  # browsers omit them from an origin
_SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob:; media-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",  # the page's address contains the query
    "x-content-type-options": "nosniff",
}
SECURITY_HEADERS = [(name.encode(), value.encode()) for name, value in _SECURITY_HEADERS.items()]


@dataclass(frozen=True)
class Timeouts:
    """Seconds that a client may take.

    Attributes:
      head: the time to send the head of a request.
      idle: the time to begin another request on the same connection.
      body: the time to send a body.
      send: the time to read a response.
      rate: minimum bytes per second of a body after its first `head` seconds.
    """

    head: float = 10.0
    idle: float = 30.0
    body: float = 60.0
    send: float = 60.0
    rate: float = 16_000.0

    def for_body(self, received: int) -> float:
        """Returns the seconds that a body may have taken when `received` bytes have arrived."""
        return min(self.body, self.head + received / self.rate)


@dataclass(frozen=True)
class Limits:
    """The limits of one client.

    Attributes:
      rate: searches per second from one address, with bursts of twice as many; 0 means no limit.
      body: maximum bytes of an uploaded photo.
      hosts: names that the server answers to; None means any.
      connections: maximum open connections from one address; 0 means no limit per address.
      timeouts: how long a client may take.
    """

    rate: float = 20.0
    body: int = 10_000_000
    hosts: frozenset[str] | None = None
    connections: int = 100
    timeouts: Timeouts = Timeouts()


class Refusal(NamedTuple):
    """A response in place of the application's."""

    status: int
    detail: str
    headers: Mapping[str, str] = {}

    def messages(self) -> tuple[dict, dict]:
        """Returns the ASGI messages of the response: its head and its body."""
        body = json.dumps({"detail": self.detail}).encode()
        fields = {"content-type": "application/json", "content-length": str(len(body)), **self.headers}
        raw = [(name.encode(), value.encode()) for name, value in fields.items()]
        start = {"type": "http.response.start", "status": self.status, "headers": raw}
        return start, {"type": "http.response.body", "body": body}


class Guard:
    """ASGI middleware that enforces `limits` on the requests to `app`.

    Args:
      app: the ASGI application.
      limits: the limits of one client.
      metrics: counts every response.
      clock: returns the time in seconds.
    """

    def __init__(
        self,
        app: Callable[..., Awaitable[None]],
        limits: Limits,
        metrics: ServerMetrics,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.app, self.limits, self.metrics, self.clock = app, limits, metrics, clock
        self.rate_limiter = RateLimiter(limits.rate, clock)

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        """Answers a request, or passes it on to the application."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        exchange = _Exchange(receive, send, self.limits.timeouts, _max_body(scope, self.limits), self.clock)
        try:
            if refusal := self._check(scope, exchange.max_body):
                await exchange.refuse(refusal)
            else:
                await self.app(scope, exchange.receive_limited, exchange.send_secured)
        except asyncio.CancelledError:  # from uvicorn at shutdown; it would log a traceback
            if not exchange.status:  # otherwise the response is cut off
                await exchange.refuse(Refusal(503, "the server is shutting down", {"connection": "close"}))
        except Exception:
            # The details go to the log only, never to the client.
            LOG.exception("%s %s", scope["method"], scope["path"])
            if not exchange.status:
                await exchange.refuse(Refusal(500, "internal error: see the server's log"))
        finally:
            status = exchange.status or 499  # 499: the client left before a response
            self.metrics.record_response(scope, status, self.clock() - exchange.start)

    def _check(self, scope: dict, max_body: int) -> Refusal | None:
        """Returns why the request is refused by its address and headers, None if it is not."""
        headers = dict(scope["headers"])
        if not _is_allowed_host(headers.get(b"host", b""), self.limits.hosts):
            return Refusal(
                421, "the server does not answer to this host name: start it with --allow_host NAME"
            )
        cost = 1 if "/search" in scope["path"] else LIGHT_COST
        if wait := self.rate_limiter.acquire(_client_network(scope), cost):
            return Refusal(429, "too many requests: slow down", {"retry-after": str(int(wait) + 1)})
        if scope["method"] not in ("GET", "HEAD") and not _is_same_origin(headers, self.limits.hosts):
            return Refusal(403, "pages of other sites may not use this server: open the server's own page")
        if _content_length(headers) > max_body:
            # The connection stays open so that uvicorn keeps reading for a while: most clients look for a
            # response only after they have sent everything, and closing now would lose it.
            return Refusal(413, _too_large(max_body))
        coding = headers.get(b"content-encoding", b"identity").strip().lower()
        if coding != b"identity":
            name = coding.decode("latin-1")[:40]
            return Refusal(415, f"Content-Encoding {name} is not supported: send the body uncompressed")
        return None


@dataclass
class _Exchange:
    """One request and its response: reads the body within the limits, and adds headers to the response."""

    receive: Callable
    send: Callable
    timeouts: Timeouts
    max_body: int
    clock: Callable[[], float]
    status: int = 0  # status of the response, 0 before it starts
    received: int = 0  # bytes of the body
    complete: bool = False  # whether the whole body has arrived
    start: float = field(init=False)

    def __post_init__(self):
        self.start = self.clock()

    async def receive_limited(self) -> dict:
        """Returns the next message of the request.

        Raises:
          HTTPException: 408 if the body is too slow, 413 if it is too large, 499 if the client left.
        """
        if self.complete:  # the only message that can follow is a disconnect
            return await self.receive()
        remaining = self.timeouts.for_body(self.received) - (self.clock() - self.start)
        try:
            async with asyncio.timeout(max(remaining, 0)):
                message = await self.receive()
        except TimeoutError:
            raise HTTPException(408, TOO_SLOW, {"connection": "close"}) from None
        if message["type"] == "http.disconnect":
            raise HTTPException(499, "the client left")
        self.received += len(message.get("body", b""))
        self.complete = not message.get("more_body", False)
        if self.received > self.max_body:
            raise HTTPException(413, _too_large(self.max_body))
        return message

    async def send_secured(self, message: dict) -> None:
        """Sends a message of the response, with the security headers added to its head."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message["headers"], *SECURITY_HEADERS]}
        await self.send(message)

    async def refuse(self, refusal: Refusal) -> None:
        """Sends a refusal as the response."""
        start, body = refusal.messages()
        await self.send_secured(start)
        await self.send(body)


class RateLimiter:
    """A token bucket per address: refills by `rate` per second and holds twice as many (at least 5)."""

    def __init__(self, rate: float, clock: Callable[[], float]):
        self.rate, self.clock = rate, clock
        self.capacity = max(2 * rate, 5.0)
        self.buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # address -> (tokens, time)

    def acquire(self, address: str, cost: float) -> float:
        """Takes `cost` tokens if there are enough; otherwise takes none and returns the seconds to wait."""
        if not self.rate:
            return 0.0
        now = self.clock()
        tokens, last = self.buckets.pop(address, (self.capacity, now))
        tokens = min(self.capacity, tokens + (now - last) * self.rate)
        enough = tokens >= cost
        self.buckets[address] = (tokens - cost if enough else tokens, now)
        if len(self.buckets) > _MAX_CLIENTS:
            self.buckets.popitem(last=False)
        return 0.0 if enough else (cost - tokens) / self.rate


def is_loopback(host: str) -> bool:
    """Returns whether only this machine can reach a server that listens on `host`."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def client_network(host: str) -> str:
    """Returns what identifies a client: its IPv4 address, or the /64 network of its IPv6 address."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    return host if address.version == 4 else str(ip_network((int(address), 64), strict=False))


def _client_network(scope: dict) -> str:
    return client_network((scope.get("client") or ("",))[0])


def _max_body(scope: dict, limits: Limits) -> int:
    if scope["path"] != UPLOAD_PATH:
        return MAX_SMALL_BODY
    content_type = dict(scope["headers"]).get(b"content-type", b"").lower()
    return limits.body + (MAX_FORM_OVERHEAD if content_type.startswith(b"multipart/") else 0)


def _too_large(max_body: int) -> str:
    return f"the request is too large: at most {max_body:,} bytes"


# Not Starlette's TrustedHostMiddleware, which answers 400 in plain text where the API promises 421 in JSON.
def _is_allowed_host(header: bytes, hosts: frozenset[str] | None) -> bool:
    """Returns whether the Host header has one of the names.

    Prevents DNS rebinding, where a page of another site resolves its own name to this machine.
    """
    if hosts is None:
        return True
    name = header.decode("latin-1").lower()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    return name in hosts


def _is_same_origin(headers: dict[bytes, bytes], hosts: frozenset[str] | None) -> bool:
    """Returns whether a request comes from the server's own page or from a program, not from another site.

    Browsers send Sec-Fetch-Site or Origin; other programs send neither. Behind a proxy the page's origin may
    differ from the Host header: it may be any of the `hosts` but this machine, where another port belongs to
    another program.
    """
    site, origin = (
        headers.get(name, b"").decode("latin-1").lower() for name in (b"sec-fetch-site", b"origin")
    )
    if site in ("same-origin", "none"):
        return True
    if not origin:
        return not site
    try:
        page = urlsplit(origin)
        name = page.hostname or ""
    except ValueError:
        return False
    host = headers.get(b"host", b"").decode("latin-1").lower()
    if page.scheme in ("http", "https") and page.netloc == host.removesuffix(_DEFAULT_PORTS[page.scheme]):
        return True
    return hosts is not None and name in hosts and not is_loopback(name)


def _content_length(headers: dict[bytes, bytes]) -> int:
    try:
        return int(headers.get(b"content-length", b"0"))
    except ValueError:
        return 0
