"""What stands before the server: whom it answers, how often, how much it reads, and what never leaves it.

Pure ASGI (https://asgi.readthedocs.io), around the whole application, so that every answer passes through it.
"""

import asyncio
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException

from tpr_jax.search.server.metrics import Meters

LOG = logging.getLogger("uvicorn.error")
UPLOAD = "/api/search/photo"  # the only path that takes much
SMALL = 65_536  # bytes that any other takes
LIGHT = 1 / 16  # of a search: what a photo or a page counts in the rate
TOO_LARGE = "the request is too large: at most"
FORM = 16_384  # bytes that a form may have besides the photo
TOO_SLOW = "the request did not come in time: send it at once"
_CLIENTS = 10_000  # remembered at once
_PORTS = {"http": ":80", "https": ":443"}  # browsers leave them out of an origin
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",  # what is searched for stands in the page's address
    "x-content-type-options": "nosniff",
}
HEADERS = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]


@dataclass(frozen=True)
class Patience:
    """Seconds that a client may take: to send a request's `head`, to begin another one (`idle`), to send a
    `body`, to read an answer (`send`). A body that comes with less than `rate` bytes a second after the first
    `head` seconds is given up earlier."""

    head: float = 10.0
    idle: float = 30.0
    body: float = 60.0
    send: float = 60.0
    rate: float = 16_000.0

    def for_body(self, received: int) -> float:
        """Returns the seconds that a body may have taken of which this many bytes are here."""
        return min(self.body, self.head + received / self.rate)


@dataclass(frozen=True)
class Limits:
    """`rate`: searches a second from one address (0: as many as it can), twice as many at once; `body`: bytes
    of an uploaded photo; `hosts`: names the server may be called by (None: any); `connections`: how many one
    address may have open (0: as many as all together)."""

    rate: float = 20.0
    body: int = 10_000_000
    hosts: frozenset[str] | None = None
    connections: int = 100
    patience: Patience = Patience()


def guarded(app: Callable, limits: Limits, meters: Meters, clock: Callable[[], float] = time.monotonic):
    """The application `app` behind these limits; each answer is counted in `meters`."""
    allowance = Allowance(limits.rate, clock)

    async def guard(scope, receive, send):
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await app(scope, receive, send)
            return
        begun, status = clock(), 0

        async def send_with_headers(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], *HEADERS]}
            await send(message)

        async def refuse(code: int, why: str, **headers: str):
            body = json.dumps({"detail": why}).encode()
            names = {"content-type": "application/json", "content-length": str(len(body)), **headers}
            raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in names.items()]
            await send_with_headers({"type": "http.response.start", "status": code, "headers": raw})
            await send({"type": "http.response.body", "body": body})

        sent, read, whole = dict(scope["headers"]), 0, False
        most = limits.body if scope["path"] == UPLOAD else SMALL
        if scope["path"] == UPLOAD and sent.get(b"content-type", b"").lower().startswith(b"multipart/"):
            most += FORM  # what a form adds to the photo

        async def receive_some():
            nonlocal read, whole
            if whole:  # what comes then is that the client left
                return await receive()
            left = limits.patience.for_body(read) - (clock() - begun)
            try:
                async with asyncio.timeout(max(left, 0)):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, TOO_SLOW, {"connection": "close"}) from None
            if message["type"] == "http.disconnect":
                raise HTTPException(499, "the client left")
            read += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if read > most:
                raise HTTPException(413, f"{TOO_LARGE} {most:,} bytes")
            return message

        try:
            if not _is_called_rightly(sent.get(b"host", b""), limits.hosts):
                await refuse(421, "this server does not go by that name: start it with --allow_host NAME")
            elif wait := allowance.ask(_who(scope), 1 if "/search" in scope["path"] else LIGHT):
                await refuse(429, "too many requests: slow down", retry_after=str(int(wait) + 1))
            elif scope["method"] not in ("GET", "HEAD") and not _is_own_page(sent, limits.hosts):
                await refuse(
                    403, "a page of another site may not ask this server: open the server's own page"
                )
            elif _length(sent) > most:
                # The connection stays, so that uvicorn reads on for a while: most clients look for an answer
                # only when they have sent everything, and closing now would lose it.
                await refuse(413, f"{TOO_LARGE} {most:,} bytes")
            elif (coding := sent.get(b"content-encoding", b"identity").strip().lower()) != b"identity":
                name = coding.decode("latin-1")[:40]
                await refuse(415, f"Content-Encoding {name} is not supported: send the body as it is")
            else:
                await app(scope, receive_some, send_with_headers)
        except asyncio.CancelledError:  # by uvicorn, which would log a traceback and is about to end
            if not status:  # else the answer breaks off
                await refuse(503, "the server is shutting down", connection="close")
        except Exception:
            # Of what went wrong here only that it did leaves the server; its log has the rest.
            LOG.exception("%s %s", scope["method"], scope["path"])
            if not status:
                await refuse(500, "internal error: the server's log says more")
        finally:
            meters.answered(scope, status or 499, clock() - begun)  # 499: nobody waited for the answer

    return guard


class Allowance:
    """A bucket of tokens for each address, `rate` more a second, at most twice as many (and at least 5)."""

    def __init__(self, rate: float, clock: Callable[[], float]):
        self.rate, self.clock = rate, clock
        self.most = max(2 * rate, 5.0)
        self.left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # address -> (tokens, when)

    def ask(self, address: str, cost: float) -> float:
        """Takes `cost` tokens; where there are not as many, takes none and says how many seconds to wait."""
        if not self.rate:
            return 0.0
        now = self.clock()
        tokens, then = self.left.pop(address, (self.most, now))
        tokens = min(self.most, tokens + (now - then) * self.rate)
        enough = tokens >= cost
        self.left[address] = (tokens - cost if enough else tokens, now)
        if len(self.left) > _CLIENTS:
            self.left.popitem(last=False)
        return 0.0 if enough else (cost - tokens) / self.rate


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on `host`."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _who(scope) -> str:
    return network_of((scope.get("client") or ("",))[0])


def network_of(host: str) -> str:
    """Returns the caller that an address stands for; of IPv6 the network of 64 bits, which one caller has."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    return host if address.version == 4 else str(ip_network((int(address), 64), strict=False))


def _is_called_rightly(header: bytes, hosts: frozenset[str] | None) -> bool:
    """Against DNS rebinding: a page elsewhere may have its own name lead to this machine, and read on."""
    if hosts is None:
        return True
    name = header.decode("latin-1").lower()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    return name in hosts


def _is_own_page(sent: dict[bytes, bytes], hosts: frozenset[str] | None) -> bool:
    """Returns whether no page of another site asks, by what the browser says of it; programs say nothing.

    Behind a proxy the page's origin may differ from the name the server is called by: one of the `hosts`, but
    not one of this machine, where another port is another program's page.
    """
    site, origin = (sent.get(name, b"").decode("latin-1").lower() for name in (b"sec-fetch-site", b"origin"))
    if site in ("same-origin", "none"):
        return True
    if not origin:
        return not site
    try:
        page = urlsplit(origin)
        name = page.hostname or ""
    except ValueError:
        return False
    called = sent.get(b"host", b"").decode("latin-1").lower()
    if page.scheme in ("http", "https") and page.netloc == called.removesuffix(_PORTS[page.scheme]):
        return True
    return hosts is not None and name in hosts and not is_loopback(name)


def _length(sent: dict) -> int:
    try:
        return int(sent.get(b"content-length", b"0"))
    except ValueError:
        return 0
