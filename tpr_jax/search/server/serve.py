"""The server of `python -m tpr_jax.search serve`: an index in a browser, and over HTTP."""

import math
import os
import socket
import sys
import threading
from collections.abc import Callable, Sequence, Set

import numpy as np
import uvicorn

from tpr_jax.data.bucketing import LENGTHS
from tpr_jax.errors import UserError
from tpr_jax.search.query.search import Searcher, open_searcher, search
from tpr_jax.search.server.api import make_app
from tpr_jax.search.server.connections import Connections, room
from tpr_jax.search.server.guard import Limits, is_loopback

MAX_CONNECTIONS = 1000  # all together
GRACE = 5  # seconds that answers have to end in when the server is asked to


def serve(
    folder: str | os.PathLike,
    model: str | os.PathLike | None = None,
    engine: str = "auto",
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    rate: float = 20.0,
    max_upload: int = 10_000_000,
    max_connections: int = 100,
    allow_hosts: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> None:
    """Serves an index until it is interrupted; `port` 0 takes a free one. `say` gets the address, and what
    there is to be warned of.

    Raises:
      UserError: as `open_searcher`, or the address cannot be listened on, or a limit is out of range.
    """
    if not 0 <= rate < math.inf:
        raise UserError(f"--rate {rate}: must be 0 (no limit) or searches a second")
    if max_upload < 1:
        raise UserError(f"--max_upload {max_upload}: must be at least 1 byte")
    if max_connections < 0:
        raise UserError(
            f"--max_connections {max_connections}: must be 0 (no limit) or connections of one address"
        )
    with listen(host, port) as listener:
        searcher = open_searcher(folder, model, engine)
        warm_up(searcher)
        limits = Limits(rate, max_upload, hosts_of(host, allow_hosts), max_connections)
        server = uvicorn.Server(settings(make_app(searcher, limits), limits))
        shown = f"[{host}]" if ":" in host else host
        if not is_loopback(host):
            say("warning: whoever reaches this machine can search these photos and see them")
        try:
            listener.listen(
                1024
            )  # from here on who asks is not turned away, though the server is only to start
        except OSError as error:  # another program was bound to the port as well, and was quicker to listen
            raise UserError(_not_listened(host, port, error)) from None
        address = f"http://{shown}:{listener.getsockname()[1]}/"
        say(f"{len(searcher.index.vectors):,} photos at {address} (Ctrl-C ends it)")
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:  # which uvicorn hands on when it has answered what was asked
            say("ended")


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound. Raises UserError where that cannot be."""
    if not 0 <= port < 65536:
        raise UserError(f"--port {port}: must be from 0 (any that is free) to 65535")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host {host}: is no address of this machine ({error}): try 127.0.0.1") from None
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise UserError(_not_listened(host, port, error)) from None
    return listener


def _not_listened(host: str, port: int, error: OSError) -> str:
    return f"--port {port} of --host {host}: cannot be listened on ({error.strerror}): try --port 0"


def end_if_busy(before: Set[threading.Thread], code: int = 0) -> None:
    """Ends the process at once where a thread that was not there `before` is busy. Call it last.

    Python itself would wait for it, as for the decoding of a photo, however long that takes; and to break off
    a daemon thread amid C++ may crash.
    """
    others = set(threading.enumerate()) - before - {threading.current_thread()}
    for thread in others:
        thread.join(0.5)
    if any(thread.is_alive() and not thread.daemon for thread in others):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def hosts_of(host: str, allowed: Sequence[str]) -> frozenset[str] | None:
    """The names a server on `host` may be called by; any, where others may reach it and nobody said which."""
    if not is_loopback(host) and not allowed:
        return None
    own = ("localhost", "127.0.0.1", "::1", host) if is_loopback(host) else (host,)
    return frozenset(name.lower() for name in (*own, *allowed))


def warm_up(searcher: Searcher) -> None:
    """Compiles the encoders and reads the index once, so that the first question does not wait for it."""
    if searcher.model.tokenizer is not None:
        for words in (1, *LENGTHS):  # too many for the length before
            search(searcher, " ".join(["person"] * words))
    search(searcher, image=np.zeros((8, 4, 3), np.uint8))


def settings(app, limits: Limits | None = None) -> uvicorn.Config:
    """How uvicorn runs the application behind these limits."""
    limits = limits or Limits()
    return uvicorn.Config(
        app,
        http=Connections(limits.patience, room(MAX_CONNECTIONS), limits.connections),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # anybody may write them
        ws="none",
        lifespan="off",
        timeout_keep_alive=math.ceil(limits.patience.idle),
        timeout_graceful_shutdown=GRACE,
    )
