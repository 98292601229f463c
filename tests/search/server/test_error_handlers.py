"""Invalid requests: each response says in one line of JSON what to send."""

import pytest
from fastapi.testclient import TestClient

from tests import served
from tpr_jax.search.query.search import open_searcher
from tpr_jax.search.server.api import make_app
from tpr_jax.search.server.error_handlers import is_json
from tpr_jax.search.server.guard import Limits
from tpr_jax.search.server.live import LiveIndex

JSON = {"content-type": "application/json"}
GZIP = {**JSON, "content-encoding": "gzip"}
FORM = {"content-type": "application/x-www-form-urlencoded"}
TEXT = '{"text": "a woman in a red coat"}'


@pytest.fixture(scope="module")
def client(tiny, tmp_path_factory):
    index = served.make_index(tmp_path_factory.mktemp("errors"), tiny["clip"])
    app = make_app(LiveIndex(open_searcher(index)), Limits(rate=0, hosts=served.HERE))
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)


@pytest.mark.parametrize(
    ("content", "headers", "status", "message"),
    [
        (TEXT, FORM, 415, "Content-Type: application/json"),  # curl -d without -H
        (TEXT, {"content-type": "text/plain"}, 415, "Content-Type: application/json"),
        (TEXT, {}, 415, "Content-Type: application/json"),
        (b"\xff\xd8\xff", {"content-type": "image/jpeg"}, 415, "Content-Type: application/json"),
        (b"", FORM, 415, "Content-Type: application/json"),
        (b"", JSON, 422, TEXT),
        (b"\x1f\x8b\x08\x00", GZIP, 415, "Content-Encoding gzip is not supported"),
        (TEXT, {**JSON, "content-encoding": "identity"}, 200, ""),
        (b"\xff\xfe\x00", JSON, 400, TEXT),
        (b'{"top_k": ' + b"9" * 5000 + b"}", JSON, 400, TEXT),
        (b'{"text": "a"', JSON, 422, "is not valid JSON"),
        (b"text=a", JSON, 422, "is not valid JSON"),
        (b"[" * 100_00, JSON, 400, TEXT),
        (b"[]", JSON, 422, TEXT),
        (b"[1]", JSON, 422, TEXT),
        (b'"a coat"', JSON, 422, TEXT),
        (b"17", JSON, 422, TEXT),
        (b"null", JSON, 422, TEXT),
        (b"NaN", JSON, 422, TEXT),
        (b'{"text": "a", "weight": NaN}', JSON, 422, "weight"),
        (b'{"text": "a", "weight": 1e999}', JSON, 422, "weight"),
        (b'{"text": ["a"]}', JSON, 422, "text"),
        (
            b'{"query": "a"}',
            JSON,
            422,
            "query: is unknown; choose from: text, texts, without, right, wrong, yes, no, unknown, ask, "
            "version, weight, top_k, where, group, like",
        ),
        (b"\xef\xbb\xbf" + TEXT.encode(), JSON, 200, ""),
        (b'{"text": "a", "group": true}', JSON, 422, "group: Input should be a valid number"),
        (b'{"text": "a", "top_k": "3"}', JSON, 422, "top_k: Input should be a valid number"),
        (b'{"like": true}', JSON, 422, "like: Input should be a valid number"),
        (b'{"text": "a", "top_k": 3.0}', JSON, 200, ""),
    ],
)
def test_rejects_invalid_search_requests(client, content, headers, status, message):
    reply = client.post("/api/search", content=content, headers=headers)
    if status == 200:
        assert reply.status_code == 200
        return
    detail = reply.json()["detail"]
    assert (reply.status_code, message in detail) == (status, True), (reply.status_code, detail)
    assert "\n" not in detail and len(detail) < 300


@pytest.mark.parametrize(
    ("content", "headers", "status", "message"),
    [
        (TEXT, JSON, 415, "curl -F file=@photo.jpg"),
        (b"\x1f\x8b", {"content-encoding": "gzip"}, 415, "send the body uncompressed"),
        (b"\x1f\x8b", {}, 422, "not an image"),
        (b"file=%40photo.jpg", FORM, 422, "not an image"),
        (b"", {}, 422, "empty"),
        (b"x", {"content-type": "multipart/form-data"}, 422, "boundary"),
    ],
)
def test_rejects_invalid_photo_requests(client, content, headers, status, message):
    reply = client.post("/api/search/photo", content=content, headers=headers)
    assert reply.status_code == status and message in reply.json()["detail"], reply.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("POST", "/nothing", 404),
        ("GET", "/api/search", 405),
        ("PUT", "/api/search/photo", 405),
        ("DELETE", "/api/photos/1", 405),
        ("OPTIONS", "/api/search", 405),
        ("BREW", "/", 405),
    ],
)
def test_unknown_addresses_and_methods(client, method, path, status):
    reply = client.request(method, path)
    assert reply.status_code == status and "/openapi.json" in reply.json()["detail"]


def test_an_unknown_row_has_its_own_message(client):
    assert client.get("/api/photos/99").json() == {"detail": "the index has rows 0 to 13"}


def test_is_json():
    assert (
        is_json("application/json")
        and is_json("APPLICATION/JSON; charset=x")
        and is_json("application/a+json")
    )
    assert not any(map(is_json, ("", "text/json", "application/jsonp", "application/x-www-form-urlencoded")))
