"""Slow clients are disconnected, and others are served."""

import asyncio
import contextlib
import functools
import http.client
import json
import resource
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import uvicorn
from starlette.exceptions import HTTPException

from tests.conftest import ROOT
from tpr_jax.search.server import connections, serve
from tpr_jax.search.server.guard import Guard, Limits, Timeouts
from tpr_jax.search.server.metrics import ServerMetrics

# A test lets all its clients get where it wants them without timeouts, and then calls `hurry`.
CALM = Timeouts(head=600, idle=600, body=600, send=600)
HURRY = Timeouts(head=0.4, idle=0.4, body=1.2, send=0.8, rate=1000.0)
SHORT_BODY = Timeouts(head=600, idle=600, body=1, send=600)  # for the guard's own timeout
BIG = 4_000_000  # bytes of a response, more than the buffers of a socket hold
SENT = b"POST / HTTP/1.1\r\nhost: here\r\ncontent-length: 10\r\n\r\n"


async def app(scope, receive, send):
    """Answers with the length of the body; `/big` with a long response, `/wait` when `GATE` opens."""
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    if scope["path"] == "/wait":
        while not GATE.is_set():
            await asyncio.sleep(0.01)
    body = b"x" * BIG if scope["path"] == "/big" else str(size).encode()
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


GATE = threading.Event()


@contextlib.contextmanager
def running(timeouts=CALM, max_total=None, inner=app, **limits):
    """Runs a server in a thread; yields its port and its set of open connections."""
    limits = Limits(rate=0, timeouts=timeouts, **{"connections": 0, **limits})

    async def with_errors(scope, receive, send):
        try:
            await inner(scope, receive, send)
        except HTTPException as error:
            headers = [(b"connection", b"close"), (b"content-length", b"0")]
            await send({"type": "http.response.start", "status": error.status_code, "headers": headers})
            await send({"type": "http.response.body", "body": b""})

    config = serve.server_config(Guard(with_errors, limits, ServerMetrics(lambda: 0)), limits)
    if max_total is not None:
        config.http.max_total = max_total
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        listener.bind(("127.0.0.1", 0))
        listener.listen(2048)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        GATE.clear()
        try:
            until(lambda: server.started)
            yield listener.getsockname()[1], config.http.open
        finally:
            GATE.set()
            server.should_exit = True
            thread.join(120)
            assert not thread.is_alive()


def until(condition, seconds=120):
    """Waits for a condition; the machine may be busy."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition never held"
        time.sleep(0.02)


def hurry(opened):
    """Gives all open connections short timeouts from now on."""
    for protocol in list(opened):
        protocol.timeouts = HURRY


def connect(port, *sent, source="127.0.0.1"):
    one = socket.create_connection(("127.0.0.1", port), timeout=120, source_address=(source, 0))
    for part in sent:
        one.sendall(part)
    return one


def read_all(one):
    """Returns all bytes until the server closes the connection, b"reset" if it resets it."""
    with one, contextlib.suppress(ConnectionResetError):
        return b"".join(iter(functools.partial(one.recv, 65536), b""))
    return b"reset"


def get(port, path="/", source="127.0.0.1", body=None, timeout=120):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout, source_address=(source, 0))
    with contextlib.closing(connection):
        connection.request("POST" if body else "GET", path, body)
        reply = connection.getresponse()
        return reply.status, reply.read()


def drip(one, part, every=0.05):
    """Sends bytes now and then until the server answers or closes; returns whether it did."""
    stop = time.monotonic() + 120
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while time.monotonic() < stop:
            one.sendall(part)
            one.settimeout(every)
            try:
                if one.recv(65536, socket.MSG_PEEK) is not None:
                    return True
            except TimeoutError:
                pass
            finally:
                one.settimeout(120)
        return False
    return True


def test_closes_a_silent_connection():
    with running() as (port, opened):
        one = connect(port)
        until(lambda: opened)
        hurry(opened)
        assert read_all(one) == b""


def test_answers_408_to_an_incomplete_head():
    with running() as (port, opened):
        one = connect(port, b"GET / HTTP/1.1\r\nhost: he")
        until(lambda: any(protocol.heard for protocol in opened))
        hurry(opened)
        response = read_all(one)
        assert response.startswith(b"HTTP/1.1 408 ") and b"did not arrive in time" in response
        assert b"x-content-type-options: nosniff" in response
        until(lambda: not opened)


@pytest.mark.parametrize(("head", "part"), [(b"GET / HTTP/1.1\r\nx: ", b"y"), (b"", b"\r\n")])
def test_closes_a_connection_whose_head_never_ends(head, part):
    with running() as (port, opened), connect(port, head) as one:
        until(lambda: opened)
        hurry(opened)
        assert drip(one, part)


def test_answers_408_to_an_incomplete_body():
    with running(SHORT_BODY) as (port, _):
        assert read_all(connect(port, SENT, b"12345")).startswith(b"HTTP/1.1 408 ")


def test_answers_408_to_a_body_that_arrives_byte_by_byte():
    with running(SHORT_BODY) as (port, _), connect(port, SENT.replace(b"10", b"60000")) as one:
        assert drip(one, b"y") and one.recv(12) == b"HTTP/1.1 408"


def test_closes_a_connection_that_keeps_sending_a_rejected_body():
    """The response is complete before the body, and the client keeps sending."""

    async def rejects(scope, receive, send):
        await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    with running(inner=rejects) as (port, opened), connect(port, SENT.replace(b"10", b"60000")) as one:
        assert one.recv(12) == b"HTTP/1.1 404"
        hurry(opened)

        def is_closed():
            with contextlib.suppress(OSError):
                one.sendall(b"y")
            return not opened

        until(is_closed)


@pytest.mark.parametrize("next_head", [b"", b"G"])
def test_closes_a_connection_without_a_further_request(next_head):
    with running() as (port, opened), connect(port, b"GET / HTTP/1.1\r\nhost: h\r\n\r\n") as one:
        assert one.recv(15) == b"HTTP/1.1 200 OK"
        one.sendall(next_head)
        hurry(opened)
        until(lambda: not opened)


def test_closes_a_connection_whose_response_is_not_read():
    with running() as (port, opened), socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.connect(("127.0.0.1", port))
        one.sendall(b"GET /big HTTP/1.1\r\nhost: h\r\n\r\n")
        until(lambda: any(protocol.phase == connections.SEND for protocol in opened))
        hurry(opened)
        until(lambda: not opened)


def test_waits_for_a_slow_server():
    """The timeouts apply to clients: the server may take longer than any of them."""
    with running() as (port, opened), ThreadPoolExecutor() as pool:
        response = pool.submit(get, port, "/wait")
        until(lambda: any(protocol.phase == connections.WORK for protocol in opened))
        hurry(opened)
        time.sleep(4 * HURRY.body)
        GATE.set()
        assert response.result() == (200, b"0")


@pytest.mark.parametrize(("received", "seconds"), [(0, 10), (160_000, 20), (800_000, 60), (10**9, 60)])
def test_seconds_for_a_body(received, seconds):
    assert Timeouts().for_body(received) == seconds


def slow_connections(port, count):
    """Opens connections of three kinds: silent, with an incomplete head, with an incomplete body."""
    head, body = b"GET / HTTP/1.1\r\nhost: he", SENT + b"123"
    return [connect(port, *((), (head,), (body,))[number % 3]) for number in range(count)]


def test_a_thousand_slow_connections_keep_no_one_out():
    """Without timeouts, so that requests are served while the slow connections are open."""
    count = min(1000, connections.max_open_connections(1300) // 2 - 100)
    with running(CALM, max_total=count // 2) as (port, opened), contextlib.ExitStack() as stack:
        for one in slow_connections(port, count):
            stack.enter_context(one)
        until(lambda: len(opened) == count // 2)
        with ThreadPoolExecutor(50) as pool:
            answers = list(pool.map(lambda _: get(port, body=b"12345"), range(200)))
        assert answers == [(200, b"5")] * 200
        assert len(opened) <= count // 2 + connections.MAX_REJECTED


def test_closes_a_thousand_slow_connections():
    with running() as (port, opened):
        sockets = slow_connections(port, min(990, connections.max_open_connections(1300) // 2 - 100))
        until(lambda: len(opened) == len(sockets))
        hurry(opened)
        until(lambda: not opened)
        assert {len(one.recv(10)) for one in sockets[::3]} == {0}
        for one in sockets:
            one.close()
        assert get(port) == (200, b"0")


def test_one_address_keeps_no_other_out():
    with running(CALM, max_total=40, connections=5) as (port, opened), contextlib.ExitStack() as stack:
        for one in slow_connections(port, 30):
            stack.enter_context(one)
        until(lambda: len(opened) == 5)
        for _ in range(3):
            stack.enter_context(connect(port, source="127.0.0.2"))
        until(lambda: len(opened) == 8)
        assert get(port) == (200, b"0") and get(port, source="127.0.0.2") == (200, b"0")
        until(lambda: len(opened) == 8 - 1)  # one connection from 127.0.0.1 made room


def test_never_evicts_a_client_that_waits_for_a_response():
    with running(CALM, connections=3) as (port, opened), ThreadPoolExecutor() as pool:
        waiting = [pool.submit(get, port, "/wait") for _ in range(3)]
        until(lambda: len(opened) == 3 and all(one.cycle is not None for one in opened))
        status, body = get(port)
        assert status == 503 and "--max_connections 0" in json.loads(body)["detail"]
        assert get(port, source="127.0.0.3") == (200, b"0")
        GATE.set()
        assert [one.result() for one in waiting] == [(200, b"0")] * 3


def test_evicts_the_slowest_body_first():
    with running(CALM, connections=2) as (port, opened):
        quick = connect(port, SENT.replace(b"10", b"60000"), b"x" * 50_000)
        slow = connect(port, SENT, b"1")
        until(lambda: len(opened) == 2 and all(one.cycle is not None for one in opened))
        until(lambda: max(one.received for one in opened) >= 50_000)
        third = connect(port, b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
        assert third.recv(15) == b"HTTP/1.1 200 OK" and read_all(slow) in (b"", b"reset")
        quick.sendall(b"x" * 10_000)
        assert quick.recv(15) == b"HTTP/1.1 200 OK"
        quick.close()
        third.close()


def test_answers_413_while_the_client_is_still_sending():
    """For clients that look for a response only after they have sent everything."""
    with running(CALM, body=1000) as (port, _):
        assert get(port, body=b"x" * 3_000_000)[0] == 413


def test_logs_no_traceback_when_a_client_leaves(caplog):
    with running(CALM) as (port, opened):
        connect(port, SENT, b"123").close()
        until(lambda: not opened)
        connect(port, b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n").close()
        until(lambda: not opened)
    assert "Traceback" not in caplog.text and not [line for line in caplog.records if line.exc_info]


def run_python(code):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)


def test_reserves_file_descriptors():
    assert connections.max_open_connections(10) == 10
    code = "import resource; from tpr_jax.search.server.connections import max_open_connections; "
    code += "resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300)); print(max_open_connections(1000)); "
    completed = run_python(code)
    assert completed.stdout == "172\n"
    code = code.replace("(300, 300)", "(300, 4000)")
    code += "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    completed = run_python(code)
    assert completed.stdout == "1000\n1128\n" or resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 4000
