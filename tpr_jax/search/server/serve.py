"""The server of `python -m tpr_jax.search serve`: an index in the browser and over HTTP."""

import contextlib
import functools
import math
import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence, Set

import numpy as np
import uvicorn

from tpr_jax import __version__
from tpr_jax.data.bucketing import LENGTHS
from tpr_jax.errors import UserError
from tpr_jax.search.index.store import check_vectors
from tpr_jax.search.query.search import Searcher, as_texts, open_searcher, search
from tpr_jax.search.server import local
from tpr_jax.search.server.access_log import AccessLog, describe_query
from tpr_jax.search.server.accounts import read_accounts
from tpr_jax.search.server.api import make_app
from tpr_jax.search.server.connections import Connections, max_open_connections
from tpr_jax.search.server.guard import Limits, is_loopback
from tpr_jax.search.server.listen import listen
from tpr_jax.search.server.live import Follower, LiveIndex, following, read_signature
from tpr_jax.search.server.tls import check_certificate
from tpr_jax.utils.plural import counted

MAX_CONNECTIONS = 1000  # from all addresses together
GRACE_SECONDS = 5  # that responses have to finish when the server is stopped


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
    password_file: str | os.PathLike | None = None,
    token_env: str | None = None,
    certificate: str | os.PathLike | None = None,
    key: str | os.PathLike | None = None,
    access_log: str | os.PathLike | None = None,
    blur_faces: bool = False,
    playback: bool = True,
    listener: socket.socket | None = None,
    log: Callable[[str], None] = print,
    ready: Callable[[Callable[[], None]], None] = lambda remove: None,
) -> None:
    """Serves an index until it is interrupted. Takes up the index when `search index` has changed it.

    Args:
      folder: the index.
      model: where the index's model is now; by default where it was when the index was made.
      engine: see `make_engine`.
      host: the address to listen on.
      port: the port to listen on; 0 takes a free one.
      rate: searches per second from one address; 0 means no limit.
      max_upload: maximum bytes of an uploaded photo.
      max_connections: maximum connections from one address; 0 means no limit per address.
      allow_hosts: further names that the server answers to.
      password_file: the accounts, see `accounts.read_accounts`; by default nobody has to log in.
      token_env: the environment variable with the token of programs.
      certificate: a PEM file, for TLS.
      key: the key of the certificate, a PEM file.
      access_log: the file in which queries are logged; by default none are.
      blur_faces: blur the heads of people in all photos, and serve no scenes.
      playback: whether whole frames, photos and videos are served, not only the people in them.
      listener: a socket that already listens on `host` and `port`; it is closed at the end.
      log: called with the address, and with warnings.
      ready: called once the server answers, before the address is logged, with a function that removes what
        the server keeps beside the index while it runs.

    Raises:
      UserError: as `open_searcher`; or the server cannot listen on the address, or a limit is out of range.
    """
    if not 0 <= rate < math.inf:
        raise UserError(f"--rate {rate}: must be searches per second, or 0 for no limit")
    if max_upload < 1:
        raise UserError(f"--max_upload {max_upload}: must be at least 1 byte")
    if max_connections < 0:
        raise UserError(
            f"--max_connections {max_connections}: must be connections per address, or 0 for no limit"
        )
    accounts = read_accounts(password_file, token_env, log)
    encryption = check_certificate(certificate, key)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listener or listen(host, port))
        queries = None if access_log is None else AccessLog(access_log, log)
        if queries is not None:
            stack.callback(queries.close)
        signature = read_signature(folder)
        searcher = open_searcher(folder, model, engine)
        warm_up(searcher)
        live = LiveIndex(searcher, blur_faces)
        limits = Limits(rate, max_upload, allowed_hosts(host, allow_hosts), max_connections)
        app = make_app(live, limits, accounts, queries, playback)
        server = uvicorn.Server(server_config(app, limits, encryption))
        url_host = f"[{host}]" if ":" in host else host
        if not is_loopback(host) and not accounts:
            log("warning: anyone who can reach this machine can search and see these photos")
        elif not is_loopback(host) and not encryption:
            log("warning: passwords and photos travel unencrypted: give --certificate and --key")
        with local.answering(
            folder, lambda question: answer(live.current.searcher, engine, question, queries)
        ) as remove:
            ready(remove)
            address = f"{'https' if encryption else 'http'}://{url_host}:{listener.getsockname()[1]}/"
            log(f"{counted(len(searcher.index.vectors), 'photo')} at {address} (Ctrl-C ends it)")
            open_newer = functools.partial(_open_newer, folder, model, engine)
            try:
                with following(Follower(live, folder, open_newer, log, signature)):
                    server.run(sockets=[listener])
            except KeyboardInterrupt:  # uvicorn raises it after it has stopped
                log("ended")


def _open_newer(
    folder: str | os.PathLike, model: str | os.PathLike | None, engine: str, current: Searcher
) -> Searcher:
    newer = open_searcher(folder, model, engine, previous=current)
    warm_up(newer)
    return newer


def answer(searcher: Searcher, engine: str, question: dict, access_log: AccessLog | None = None) -> dict:
    """Answers a query of the command line.

    Args:
      searcher: the server's index and model.
      engine: the engine that the server was asked for.
      question: `version` of the package, `info` of the index, `engine`, `text`, and `options` of `search`.
      access_log: where the query is logged.

    Returns:
      `result`, that of `search`; or `error`, a message; or nothing if the question is about another index.
    """
    mine = {"version": __version__, "info": dict(searcher.index.info), "engine": engine}
    if any(question[name] != value for name, value in mine.items()):
        return {}
    hits = None
    try:
        result = search(searcher, question["text"], **question["options"])
        hits = len(result["results"])
        return {"result": result}
    except UserError as error:
        return {"error": str(error)}
    finally:
        if access_log is not None:
            texts = as_texts("text", question["text"])
            access_log.record(None, "local", describe_query(texts, question["options"]), hits)


def exit_if_busy(previous: Set[threading.Thread], code: int = 0) -> None:
    """Ends the process immediately if a thread that is not among the `previous` ones is busy. Call it last.

    Python itself would wait for the thread, for example for the decoding of a photo, however long that takes.
    A daemon thread is no alternative: ending one in the middle of C++ code may crash.
    """
    others = set(threading.enumerate()) - previous - {threading.current_thread()}
    for thread in others:
        thread.join(0.5)
    if any(thread.is_alive() and not thread.daemon for thread in others):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def allowed_hosts(host: str, extra: Sequence[str]) -> frozenset[str] | None:
    """Returns the names that a server on `host` answers to.

    None means any name: the server can be reached by others, and no name was given.
    """
    if not is_loopback(host) and not extra:
        return None
    own = ("localhost", "127.0.0.1", "::1", host) if is_loopback(host) else (host,)
    return frozenset(name.lower() for name in (*own, *extra))


def warm_up(searcher: Searcher) -> None:
    """Compiles the encoders and reads the index once, so that the first query does not wait for either.

    Raises:
      UserError: a vector of the index is damaged.
    """
    check_vectors(searcher.index)
    if searcher.model.tokenizer is not None:
        for words in (1, *LENGTHS):  # one word more than the previous length holds
            search(searcher, " ".join(["person"] * words))
    search(searcher, image=np.zeros((8, 4, 3), np.uint8))


def server_config(
    app, limits: Limits | None = None, encryption: Mapping[str, str] | None = None
) -> uvicorn.Config:
    """Returns uvicorn's configuration for an application with these limits, and options of `tls`."""
    limits = limits or Limits()
    connections = Connections(limits.timeouts, max_open_connections(MAX_CONNECTIONS), limits.connections)
    return uvicorn.Config(
        app,
        http=connections,  # ty: ignore[invalid-argument-type] (uvicorn only calls it)
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # any client can send them
        ws="none",
        lifespan="off",
        timeout_keep_alive=math.ceil(limits.timeouts.idle),
        timeout_graceful_shutdown=GRACE_SECONDS,
        **(encryption or {}),  # ty: ignore[invalid-argument-type]
    )
