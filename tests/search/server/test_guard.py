"""Whom the server answers and how often, by a plain ASGI application behind the guard."""

import asyncio
import itertools
import json

import pytest
from starlette.exceptions import HTTPException

from tpr_jax.search.server.guard import FORM, UPLOAD, Allowance, Limits, guarded, is_loopback
from tpr_jax.search.server.metrics import Meters
from tpr_jax.search.server.serve import hosts_of


class Clock:
    """A clock that a test sets."""

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
    """(status, headers, body) of the answer, None where there is none."""
    told, parts = [], list(body)

    async def receive():
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message):
        told.append(message)

    names = [(b"host", host.encode()), *headers]
    scope = {"type": kind, "method": method, "path": path, "client": (client, 5), "headers": names}
    asyncio.run(app(scope, receive, send))
    if not told:
        return None
    start, *rest = told
    return start["status"], dict(start["headers"]), b"".join(message["body"] for message in rest)


def make(inner=None, clock=None, **limits):
    """(the guarded application, what it counted, how often the inner one was asked)."""
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

    meters = Meters(3)
    return guarded(inner or reads_all, Limits(**limits), meters, clock or Clock()), meters, asked


def test_searches_from_one_address_are_limited_by_the_second():
    clock = Clock()
    app, _, asked = make(clock=clock, rate=10.0)
    statuses = [ask(app)[0] for _ in range(25)]
    assert statuses == [200] * 20 + [429] * 5 and len(asked) == 20
    assert ask(app, client="192.0.2.2")[0] == 200
    clock.now += 0.55
    assert [ask(app)[0] for _ in range(7)] == [200] * 5 + [429] * 2
    clock.now += 1000
    assert [ask(app)[0] for _ in range(21)] == [200] * 20 + [429]
    status, headers, body = ask(app)
    assert headers[b"retry-after"] == b"1" and json.loads(body)["detail"].startswith("too many")


def test_photos_weigh_a_sixteenth():
    app, _, _ = make(rate=10.0)
    assert [ask(app, "/api/photos/1")[0] for _ in range(321)] == [200] * 320 + [429]


def test_an_ipv6_network_is_one_caller():
    app, _, _ = make(rate=1.0)
    addresses = [f"2001:db8::{n:x}" for n in range(1, 7)]
    assert [ask(app, client=address)[0] for address in addresses] == [200] * 5 + [429]
    assert ask(app, client="2001:db8:0:1::1")[0] == 200


def test_without_a_rate_and_with_many_callers():
    app, _, _ = make(rate=0)
    assert {ask(app)[0] for _ in range(200)} == {200}
    allowance = Allowance(1.0, Clock())
    for number in range(20_000):
        allowance.ask(str(number), 1)
    assert len(allowance.left) == 10_000


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
def test_answers_to_its_own_names_alone(host, status):
    app, _, asked = make(hosts=hosts_of("127.0.0.1", ["photos.example"]))
    assert ask(app, host=host)[0] == status and len(asked) == (status == 200)


def test_names_of_a_server():
    assert hosts_of("0.0.0.0", []) is None and hosts_of("::", []) is None
    assert hosts_of("0.0.0.0", ["a.example"]) == {"0.0.0.0", "a.example"}
    assert "127.0.0.9" in hosts_of("127.0.0.9", [])
    assert [is_loopback(host) for host in ("127.1.2.3", "::1", "localhost", "0.0.0.0", "10.0.0.1", "a")] == [
        *[True] * 3,
        *[False] * 3,
    ]


def test_a_body_that_says_it_is_too_long_is_not_read():
    app, _, asked = make(body=100_000)
    for path, most in ((UPLOAD, 100_000), ("/api/search", 65_536)):
        status, _, body = ask(app, path, headers=[(b"content-length", str(most + 1).encode())])
        assert status == 413 and f"at most {most:,} bytes" in json.loads(body)["detail"] and not asked
    for path, most in ((UPLOAD, 100_000), ("/api/search", 65_536)):
        assert ask(app, path, headers=[(b"content-length", b"%d" % most)], body=[b"x" * most])[0] == 200


def test_a_body_that_does_not_say_so_is_read_so_far():
    app, _, asked = make(body=100)
    read = itertools.repeat(b"x" * 30, 50)
    assert ask(app, UPLOAD, body=read, headers=[(b"transfer-encoding", b"chunked")])[0] == 413
    assert ask(app, UPLOAD, body=[b"x" * 50, b"x" * 50], headers=[(b"content-length", b"what")])[0] == 200


def test_every_answer_forbids_what_the_page_does_not_need():
    app, _, _ = make(rate=1.0, hosts=frozenset({"here"}))
    answers = [ask(app), ask(app, host="there"), *(ask(app) for _ in range(8))]
    assert {status for status, _, _ in answers} == {200, 421, 429}
    for _, headers, _ in answers:
        assert (
            headers[b"x-content-type-options"] == b"nosniff" and headers[b"referrer-policy"] == b"no-referrer"
        )
        policy = headers[b"content-security-policy"].decode()
        assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "http" not in policy


def test_an_error_leaves_one_line(caplog):
    async def breaks(scope, receive, send):
        raise RuntimeError("in /home/somebody")

    app, meters, _ = make(breaks)
    status, _, body = ask(app)
    assert (status, json.loads(body)) == (500, {"detail": "internal error: the server's log says more"})
    assert "in /home/somebody" in caplog.text
    assert 'status="500"} 1.0' in meters.text().decode()


def test_an_error_amid_an_answer_is_not_answered_twice():
    async def breaks(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError

    assert ask(make(breaks)[0])[2] == b"half"


HERE = "127.0.0.1:8000"


@pytest.mark.parametrize(
    ("host", "said", "status"),
    [
        (HERE, {}, 200),  # a program
        (HERE, {"origin": "http://127.0.0.1:8000"}, 200),
        (HERE, {"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"}, 200),
        (HERE, {"sec-fetch-site": "none"}, 200),
        (HERE, {"origin": "https://evil.example"}, 403),
        (HERE, {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}, 403),
        (HERE, {"origin": "null"}, 403),  # a page in a frame, or of a file
        (HERE, {"origin": "http://127.0.0.1:9000", "sec-fetch-site": "same-site"}, 403),  # another program's
        (HERE, {"origin": "http://127.0.0.1"}, 403),
        (HERE, {"origin": "http://localhost:8000"}, 403),
        (HERE, {"sec-fetch-site": "cross-site"}, 403),
        (HERE, {"origin": "http://[::1"}, 403),
        (HERE, {"origin": "file://127.0.0.1:8000"}, 403),
        (HERE, {"origin": "http://127.0.0.1:8000.evil.example"}, 403),
        ("localhost:80", {"origin": "http://localhost"}, 200),
        ("LOCALHOST", {"origin": "http://localhost"}, 200),
        ("[::1]:8000", {"origin": "http://[::1]:8000"}, 200),
        # Behind a proxy that speaks TLS, and calls the server by another name or by its own.
        (HERE, {"origin": "https://photos.example"}, 200),
        ("photos.example", {"origin": "https://photos.example"}, 200),
        ("photos.example", {"origin": "https://other.example"}, 403),
    ],
)
def test_no_page_of_another_site_asks(host, said, status):
    headers = [(name.encode(), value.encode()) for name, value in said.items()]
    app, _, asked = make(hosts=hosts_of("127.0.0.1", ["photos.example"]))
    told = ask(app, host=host, headers=headers)
    assert told[0] == status and len(asked) == (status == 200)
    # Links from other pages lead here all the same, and their pictures are forbidden by CORP.
    status, headers, _ = ask(app, "/", host=host, headers=headers, method="GET")
    assert status == 200 and headers[b"cross-origin-resource-policy"] == b"same-origin"


def test_a_server_of_any_name_is_asked_by_its_own_pages_alone():
    app, _, asked = make(hosts=None)
    assert ask(app, host="box:8000", headers=[(b"origin", b"http://box:8000")])[0] == 200
    assert ask(app, host="box:8000", headers=[(b"origin", b"http://evil.example")])[0] == 403


@pytest.mark.parametrize("coding", ["gzip", "br", "GZIP", "gzip, identity", "x" * 500])
def test_a_body_that_is_compressed(coding):
    app, _, asked = make()
    status, _, body = ask(app, headers=[(b"content-encoding", coding.encode())])
    assert status == 415 and "send the body as it is" in json.loads(body)["detail"] and not asked
    assert len(body) < 200
    assert ask(app, headers=[(b"content-encoding", b"identity")])[0] == 200


def test_a_form_may_be_a_little_longer_than_its_photo():
    app, _, _ = make(body=1000)
    form = (b"content-type", b"multipart/form-data; boundary=x")
    for size, status in ((1000 + FORM, 200), (1001 + FORM, 413)):
        assert ask(app, UPLOAD, body=[b"x" * size], headers=[form])[0] == status
    assert ask(app, "/api/search", body=[b"x" * 65_537], headers=[form])[0] == 413


def test_a_server_that_ends_says_so():
    async def never(scope, receive, send):
        await asyncio.sleep(600)

    told = []

    async def send(message):
        told.append(message)

    async def cancelled():
        app, _, _ = make(never)
        scope = {"type": "http", "method": "POST", "path": "/", "client": None, "headers": []}
        task = asyncio.create_task(app(scope, None, send))
        await asyncio.sleep(0)
        task.cancel()
        await task

    asyncio.run(cancelled())
    assert told[0]["status"] == 503 and "shutting down" in json.loads(told[1]["body"])["detail"]


def test_nothing_but_http():
    app, _, asked = make()
    assert ask(app, kind="websocket") is None and not asked


def test_strange_methods_and_routes_share_a_label():
    meters = Meters(0)
    for word in ("BREW", "X" * 50, "Y"):
        meters.answered({"method": word, "path": f"/{word}"}, 404, 0.01)
    assert 'tpr_requests_total{method="other",route="other",status="404"} 3.0' in meters.text().decode()
