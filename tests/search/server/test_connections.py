"""A server whose clients say nothing, or little, or read nothing: they are closed, and others are served."""

import asyncio
import contextlib
import functools
import http.client
import json
import resource
import selectors
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
from tpr_jax.search.server.guard import Limits, Patience, guarded
from tpr_jax.search.server.metrics import Meters

HURRY = Patience(head=0.4, idle=0.4, body=1.2, send=0.8, rate=1000.0)
CALM = Patience(head=600, idle=600, body=600, send=600)  # nothing is closed for its time
BIG = 4_000_000  # bytes of an answer that no socket's buffers hold
SENT = b"POST / HTTP/1.1\r\nhost: here\r\ncontent-length: 10\r\n\r\n"


async def app(scope, receive, send):
    """Reads the body and says how long it was; `/big` is a long answer, `/wait` one that a test allows."""
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


GATE = threading.Event()  # opened by a test, for answers that wait


@contextlib.contextmanager
def running(patience=HURRY, most=None, inner=app, **limits):
    """(port, the server's open connections) of a server of it, in a thread."""
    limits = Limits(rate=0, patience=patience, **{"connections": 0, **limits})

    async def with_errors(scope, receive, send):
        try:
            await inner(scope, receive, send)
        except HTTPException as error:
            headers = [(b"connection", b"close"), (b"content-length", b"0")]
            await send({"type": "http.response.start", "status": error.status_code, "headers": headers})
            await send({"type": "http.response.body", "body": b""})

    settings = serve.settings(guarded(with_errors, limits, Meters(0)), limits)
    if most is not None:
        settings.http.most = most
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        listener.bind(("127.0.0.1", 0))
        listener.listen(2048)
        server = uvicorn.Server(settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        GATE.clear()
        try:
            until(lambda: server.started)
            yield listener.getsockname()[1], settings.http.open
        finally:
            GATE.set()
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


def until(condition, seconds=120):
    """Waits until it holds; the machine may be busy."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.02)


def connect(port, *sent, source="127.0.0.1"):
    one = socket.create_connection(("127.0.0.1", port), timeout=120, source_address=(source, 0))
    for part in sent:
        one.sendall(part)
    return one


def rest(one):
    """All that comes until the server closes; what a reset leaves of it."""
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
    """Sends a byte now and then until the server closes; returns whether it did."""
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


def test_a_silent_connection_is_closed():
    with running() as (port, _):
        assert rest(connect(port)) == b""


def test_half_of_a_head_is_told_that_it_is_late():
    with running() as (port, opened):
        told = rest(connect(port, b"GET / HTTP/1.1\r\nhost: he"))
        assert told.startswith(b"HTTP/1.1 408 ") and b"did not come in time" in told
        assert b"x-content-type-options: nosniff" in told
        until(lambda: not opened)


def test_a_head_that_comes_byte_by_byte_is_not_waited_for():
    with running() as (port, _), connect(port, b"GET / HTTP/1.1\r\nx: ") as one:
        assert drip(one, b"y")


def test_lines_without_a_request_are_no_progress():
    with running() as (port, _), connect(port) as one:
        assert drip(one, b"\r\n")


def test_a_body_that_stops_is_told_that_it_is_late():
    with running() as (port, _):
        assert rest(connect(port, SENT, b"12345")).startswith(b"HTTP/1.1 408 ")


def test_a_body_that_comes_byte_by_byte_is_not_waited_for():
    with running() as (port, _), connect(port, SENT.replace(b"10", b"60000")) as one:
        assert drip(one, b"y") and one.recv(12) == b"HTTP/1.1 408"


def test_a_body_that_nobody_reads_is_not_waited_for():
    """The answer is there before the body, and the client goes on sending."""

    async def answers(scope, receive, send):
        await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    with running(inner=answers) as (port, opened), connect(port, SENT.replace(b"10", b"60000")) as one:
        assert one.recv(12) == b"HTTP/1.1 404"

        def goes_on():
            with contextlib.suppress(OSError):
                one.sendall(b"y")
            return not opened

        until(goes_on)


def test_between_two_requests_it_waits_a_while():
    with running() as (port, opened), connect(port, b"GET / HTTP/1.1\r\nhost: h\r\n\r\n") as one:
        assert one.recv(15) == b"HTTP/1.1 200 OK"
        until(lambda: not opened)
    with running() as (port, opened), connect(port, b"GET / HTTP/1.1\r\nhost: h\r\n\r\n") as one:
        assert one.recv(15) == b"HTTP/1.1 200 OK"
        assert drip(one, b"G")
        until(lambda: not opened)


def test_an_answer_that_nobody_reads_is_given_up():
    with running() as (port, opened), socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.connect(("127.0.0.1", port))
        one.sendall(b"GET /big HTTP/1.1\r\nhost: h\r\n\r\n")
        until(lambda: opened)
        until(lambda: not opened)


def test_a_slow_server_is_waited_for():
    """The time-outs are the clients': an answer may take longer than any of them."""
    with running() as (port, opened), ThreadPoolExecutor() as pool:
        answer = pool.submit(get, port, "/wait")
        until(lambda: opened)
        time.sleep(4 * HURRY.body)
        GATE.set()
        assert answer.result() == (200, b"0")


def test_a_body_that_keeps_its_pace_may_take_longer_than_the_head():
    """Five parts, each within its time, and all together longer than a head may take."""
    patience = Patience(head=2.0, idle=2.0, body=600.0, send=60.0, rate=1.0)
    with running(patience) as (port, _), connect(port, SENT.replace(b"10", b"50000")) as one:
        for _ in range(5):
            one.sendall(b"x" * 10_000)
            time.sleep(0.6)
        assert one.recv(15) == b"HTTP/1.1 200 OK"


@pytest.mark.parametrize(("received", "seconds"), [(0, 10), (160_000, 20), (800_000, 60), (10**9, 60)])
def test_seconds_for_a_body(received, seconds):
    assert Patience().for_body(received) == seconds


def thousand(port, count):
    """As many connections of three kinds: silent, amid a head, amid a body."""
    head, body = b"GET / HTTP/1.1\r\nhost: he", SENT + b"123"
    return [connect(port, *((), (head,), (body,))[number % 3]) for number in range(count)]


def test_a_thousand_that_say_little_keep_nobody_out():
    """Nothing is closed for its time here, so that those served are served in the others' presence."""
    count = min(1000, serve.room(1300) // 2 - 100)
    with running(CALM, most=count // 2) as (port, opened), contextlib.ExitStack() as stack:
        for one in thousand(port, count):
            stack.enter_context(one)
        until(lambda: len(opened) == count // 2)
        with ThreadPoolExecutor(50) as pool:
            answers = list(pool.map(lambda _: get(port, body=b"12345"), range(200)))
        assert answers == [(200, b"5")] * 200
        assert len(opened) <= count // 2 + connections.OVERFLOW


def test_a_thousand_that_say_little_are_closed():
    with running(HURRY) as (port, opened), selectors.DefaultSelector() as selector:
        sockets = thousand(port, min(990, serve.room(1300) // 2 - 100))
        for one in sockets:
            selector.register(one, selectors.EVENT_READ)
        until(lambda: not opened)
        assert {len(one.recv(10)) for one in sockets[::3]} == {0}
        for one in sockets:
            one.close()
        assert get(port) == (200, b"0")


def test_one_address_keeps_no_other_out():
    with running(CALM, most=40, connections=5) as (port, opened), contextlib.ExitStack() as stack:
        for one in thousand(port, 30):
            stack.enter_context(one)
        until(lambda: len(opened) == 5)
        for _ in range(3):
            stack.enter_context(connect(port, source="127.0.0.2"))
        until(lambda: len(opened) == 8)
        assert get(port) == (200, b"0") and get(port, source="127.0.0.2") == (200, b"0")
        until(lambda: len(opened) == 8 - 1)  # one of those of 127.0.0.1 made room


def test_who_waits_for_an_answer_is_never_put_out():
    with running(CALM, connections=3) as (port, opened), ThreadPoolExecutor() as pool:
        waiting = [pool.submit(get, port, "/wait") for _ in range(3)]
        until(lambda: len(opened) == 3 and all(one.cycle is not None for one in opened))
        status, told = get(port)
        assert status == 503 and "--max_connections 0" in json.loads(told)["detail"]
        assert get(port, source="127.0.0.3") == (200, b"0")
        GATE.set()
        assert [one.result() for one in waiting] == [(200, b"0")] * 3


def test_the_slowest_body_goes_first():
    with running(CALM, connections=2) as (port, opened):
        quick = connect(port, SENT.replace(b"10", b"60000"), b"x" * 50_000)
        slow = connect(port, SENT, b"1")
        until(lambda: len(opened) == 2 and all(one.cycle is not None for one in opened))
        until(lambda: max(one.received for one in opened) >= 50_000)
        third = connect(port, b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
        assert third.recv(15) == b"HTTP/1.1 200 OK" and rest(slow) in (b"", b"reset")
        quick.sendall(b"x" * 10_000)
        assert quick.recv(15) == b"HTTP/1.1 200 OK"
        quick.close()
        third.close()


def test_too_much_is_told_though_the_client_sends_on():
    """A client that looks for an answer only when it has sent everything."""
    with running(CALM, body=1000) as (port, _):
        assert get(port, body=b"x" * 3_000_000)[0] == 413


def test_a_client_that_leaves_amid_its_body_leaves_no_traceback(caplog):
    with running(CALM) as (port, opened):
        connect(port, SENT, b"123").close()
        until(lambda: not opened)
        connect(port, b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n").close()
        until(lambda: not opened)
    assert "Traceback" not in caplog.text and not [line for line in caplog.records if line.exc_info]


def test_room_leaves_some_files_for_others():
    assert serve.room(10) == 10
    code = "import resource; from tpr_jax.search.server.connections import room; "
    code += "resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300)); print(room(1000)); "
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout == "172\n"
    code = code.replace("(300, 300)", "(300, 4000)")
    code += "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout == "1000\n1128\n" or resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 4000
