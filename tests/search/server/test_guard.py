"""The guard's limits and headers, around a plain ASGI application."""

import asyncio
import itertools
import json

import pytest
from starlette.exceptions import HTTPException

from tpr_jax.search.server.guard import (
    MAX_FORM_OVERHEAD,
    UPLOAD_PATH,
    Guard,
    Limits,
    RateLimiter,
    Timeouts,
    is_loopback,
)
from tpr_jax.search.server.metrics import ServerMetrics
from tpr_jax.search.server.serve import allowed_hosts


class Clock:
    """A clock that tests set."""

    now = 100.0

    def __call__(self):
        return self.now


def ask(
    app,
    path="/api/search",
    *,
    client="192.0.2.1",
    host="here",
    body=(b"",),
    headers=(),
    kind="http",
    method="POST",
):
    """Returns (status, headers, body) of the response, None if there is none."""
    sent, parts = [], list(body)

    async def receive():
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message):
        sent.append(message)

    names = [(b"host", host.encode()), *headers]
    scope = {"type": kind, "method": method, "path": path, "client": (client, 5), "headers": names}
    asyncio.run(app(scope, receive, send))
    if not sent:
        return None
    start, *rest = sent
    return start["status"], dict(start["headers"]), b"".join(message["body"] for message in rest)


def make(inner=None, clock=None, **limits):
    """Returns (guarded application, metrics, list of the paths that reached the inner application)."""
    asked = []

    async def reads_all(scope, receive, send):
        asked.append(scope["path"])
        more = True
        while more:
            try:
                more = (await receive())["more_body"]
            except HTTPException as error:
                await send({"type": "http.response.start", "status": error.status_code, "headers": []})
                await send({"type": "http.response.body", "body": b""})
                return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"well"})

    metrics = ServerMetrics(lambda: 3)
    return Guard(inner or reads_all, Limits(**limits), metrics, clock or Clock()), metrics, asked


def test_limits_the_rate_of_an_address():
    clock = Clock()
    app, _, asked = make(clock=clock, rate=10.0)
    statuses = [ask(app)[0] for _ in range(25)]
    assert statuses == [200] * 20 + [429] * 5 and len(asked) == 20
    assert ask(app, client="192.0.2.2")[0] == 200
    clock.now += 0.55
    assert [ask(app)[0] for _ in range(7)] == [200] * 5 + [429] * 2
    clock.now += 1000
    assert [ask(app)[0] for _ in range(21)] == [200] * 20 + [429]
    _, headers, body = ask(app)
    assert headers[b"retry-after"] == b"1" and json.loads(body)["detail"].startswith("too many")


def test_a_photo_costs_a_sixteenth_of_a_search():
    app, _, _ = make(rate=10.0)
    assert [ask(app, "/api/photos/1")[0] for _ in range(321)] == [200] * 320 + [429]


def test_an_ipv6_network_is_one_client():
    app, _, _ = make(rate=1.0)
    addresses = [f"2001:db8::{n:x}" for n in range(1, 7)]
    assert [ask(app, client=address)[0] for address in addresses] == [200] * 5 + [429]
    assert ask(app, client="2001:db8:0:1::1")[0] == 200


def test_no_rate_limit_and_many_clients():
    app, _, _ = make(rate=0)
    assert {ask(app)[0] for _ in range(200)} == {200}
    limiter = RateLimiter(1.0, Clock())
    for number in range(20_000):
        limiter.acquire(str(number), 1)
    assert len(limiter.buckets) == 10_000


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("[::1]:8000", 200),
        ("photos.example:80", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("", 421),
    ],
)
def test_answers_only_to_its_own_names(host, status):
    app, _, asked = make(hosts=allowed_hosts("127.0.0.1", ["photos.example"]))
    assert ask(app, host=host)[0] == status and len(asked) == (status == 200)


def test_allowed_hosts_and_loopback():
    assert allowed_hosts("0.0.0.0", []) is None and allowed_hosts("::", []) is None
    assert allowed_hosts("0.0.0.0", ["a.example"]) == {"0.0.0.0", "a.example"}
    assert "127.0.0.9" in allowed_hosts("127.0.0.9", [])
    assert [is_loopback(host) for host in ("127.1.2.3", "::1", "localhost", "0.0.0.0", "10.0.0.1", "a")] == [
        *[True] * 3,
        *[False] * 3,
    ]


def test_rejects_a_long_body_by_its_content_length():
    app, _, asked = make(body=100_000)
    for path, most in ((UPLOAD_PATH, 100_000), ("/api/search", 65_536)):
        status, _, body = ask(app, path, headers=[(b"content-length", str(most + 1).encode())])
        assert status == 413 and f"at most {most:,} bytes" in json.loads(body)["detail"] and not asked
    for path, most in ((UPLOAD_PATH, 100_000), ("/api/search", 65_536)):
        assert ask(app, path, headers=[(b"content-length", b"%d" % most)], body=[b"x" * most])[0] == 200


def test_stops_reading_a_long_body():
    app, _, _ = make(body=100)
    read = itertools.repeat(b"x" * 30, 50)
    assert ask(app, UPLOAD_PATH, body=read, headers=[(b"transfer-encoding", b"chunked")])[0] == 413
    assert (
        ask(app, UPLOAD_PATH, body=[b"x" * 50, b"x" * 50], headers=[(b"content-length", b"what")])[0] == 200
    )


def test_every_response_has_security_headers():
    app, _, _ = make(rate=1.0, hosts=frozenset({"here"}))
    answers = [ask(app), ask(app, host="there"), *(ask(app) for _ in range(8))]
    assert {status for status, _, _ in answers} == {200, 421, 429}
    for _, headers, _ in answers:
        assert (
            headers[b"x-content-type-options"] == b"nosniff" and headers[b"referrer-policy"] == b"no-referrer"
        )
        policy = headers[b"content-security-policy"].decode()
        assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "http" not in policy


def test_an_error_is_logged_and_answered_in_one_line(caplog):
    async def breaks(scope, receive, send):
        raise RuntimeError("in /home/somebody")

    app, metrics, _ = make(breaks)
    status, _, body = ask(app)
    assert (status, json.loads(body)) == (500, {"detail": "internal error: see the server's log"})
    assert "in /home/somebody" in caplog.text
    assert 'status="500"} 1.0' in metrics.to_text().decode()


def test_an_error_during_a_response_is_not_answered_twice():
    async def breaks(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError

    assert ask(make(breaks)[0])[2] == b"half"


HERE = "127.0.0.1:8000"


@pytest.mark.parametrize(
    ("host", "fields", "status"),
    [
        (HERE, {}, 200),  # a program
        (HERE, {"origin": "http://127.0.0.1:8000"}, 200),
        (HERE, {"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"}, 200),
        (HERE, {"sec-fetch-site": "none"}, 200),
        (HERE, {"origin": "https://evil.example"}, 403),
        (HERE, {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}, 403),
        (HERE, {"origin": "null"}, 403),  # a page in a sandboxed frame, or of a file
        (
            HERE,
            {"origin": "http://127.0.0.1:9000", "sec-fetch-site": "same-site"},
            403,
        ),  # another program's page
        (HERE, {"origin": "http://127.0.0.1"}, 403),
        (HERE, {"origin": "http://localhost:8000"}, 403),
        (HERE, {"sec-fetch-site": "cross-site"}, 403),
        (HERE, {"origin": "http://[::1"}, 403),
        (HERE, {"origin": "file://127.0.0.1:8000"}, 403),
        (HERE, {"origin": "http://127.0.0.1:8000.evil.example"}, 403),
        ("localhost:80", {"origin": "http://localhost"}, 200),
        ("LOCALHOST", {"origin": "http://localhost"}, 200),
        ("[::1]:8000", {"origin": "http://[::1]:8000"}, 200),
        # Behind a proxy with TLS that uses another Host header, or its own name.
        (HERE, {"origin": "https://photos.example"}, 200),
        ("photos.example", {"origin": "https://photos.example"}, 200),
        ("photos.example", {"origin": "https://other.example"}, 403),
    ],
)
def test_rejects_pages_of_other_sites(host, fields, status):
    headers = [(name.encode(), value.encode()) for name, value in fields.items()]
    app, _, asked = make(hosts=allowed_hosts("127.0.0.1", ["photos.example"]))
    response = ask(app, host=host, headers=headers)
    assert response[0] == status and len(asked) == (status == 200)
    # Links from other pages still work; CORP forbids embedding images.
    status, headers, _ = ask(app, "/", host=host, headers=headers, method="GET")
    assert status == 200 and headers[b"cross-origin-resource-policy"] == b"same-origin"


def test_rejects_pages_of_other_sites_for_any_host():
    app, _, _ = make(hosts=None)
    assert ask(app, host="box:8000", headers=[(b"origin", b"http://box:8000")])[0] == 200
    assert ask(app, host="box:8000", headers=[(b"origin", b"http://evil.example")])[0] == 403


@pytest.mark.parametrize("coding", ["gzip", "br", "GZIP", "gzip, identity", "x" * 500])
def test_rejects_a_compressed_body(coding):
    app, _, asked = make()
    status, _, body = ask(app, headers=[(b"content-encoding", coding.encode())])
    assert status == 415 and "send the body uncompressed" in json.loads(body)["detail"] and not asked
    assert len(body) < 200
    assert ask(app, headers=[(b"content-encoding", b"identity")])[0] == 200


@pytest.mark.parametrize(("size", "status"), [(160_000, 200), (10, 408)])
def test_a_slow_body_times_out_and_a_steady_one_does_not(size, status):
    """Five parts, 8 seconds apart: 40 seconds in all, where a head may take only 10."""
    clock, left = Clock(), [b"x" * size] * 5
    app, _, _ = make(clock=clock, body=1_000_000, timeouts=Timeouts())
    sent = []

    async def receive():
        clock.now += 8
        await asyncio.sleep(0)
        return {"type": "http.request", "body": left.pop(), "more_body": bool(left)}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": UPLOAD_PATH, "client": ("192.0.2.1", 5)}
    asyncio.run(app(scope | {"headers": [(b"host", b"here")]}, receive, send))
    assert sent[0]["status"] == status


def test_a_form_may_be_slightly_longer_than_its_photo():
    app, _, _ = make(body=1000)
    form = (b"content-type", b"multipart/form-data; boundary=x")
    for size, status in ((1000 + MAX_FORM_OVERHEAD, 200), (1001 + MAX_FORM_OVERHEAD, 413)):
        assert ask(app, UPLOAD_PATH, body=[b"x" * size], headers=[form])[0] == status
    assert ask(app, "/api/search", body=[b"x" * 65_537], headers=[form])[0] == 413


def test_answers_503_at_shutdown():
    async def never(scope, receive, send):
        await asyncio.sleep(600)

    sent = []

    async def send(message):
        sent.append(message)

    async def cancelled():
        app, _, _ = make(never)
        scope = {"type": "http", "method": "POST", "path": "/", "client": None, "headers": []}
        task = asyncio.create_task(app(scope, None, send))
        await asyncio.sleep(0)
        task.cancel()
        await task

    asyncio.run(cancelled())
    assert sent[0]["status"] == 503 and "shutting down" in json.loads(sent[1]["body"])["detail"]


def test_ignores_other_protocols():
    app, _, asked = make()
    assert ask(app, kind="websocket") is None and not asked


def test_unknown_methods_and_routes_share_a_label():
    metrics = ServerMetrics(lambda: 0)
    for word in ("BREW", "X" * 50, "Y"):
        metrics.record_response({"method": word, "path": f"/{word}"}, 404, 0.01)
    assert 'tpr_requests_total{method="other",route="other",status="404"} 3.0' in metrics.to_text().decode()
