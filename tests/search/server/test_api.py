"""The JSON API: results against `search`, photos against their files, and invalid requests."""

import dataclasses
import io
import json
import shutil
import struct
import threading
import time
import urllib.request
import zlib
from concurrent.futures import ThreadPoolExecutor

import anyio
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import Request

from tests import served
from tpr_jax.search.query.search import open_searcher, search
from tpr_jax.search.server import api
from tpr_jax.search.server.guard import Limits, Timeouts
from tpr_jax.search.server.live import LiveIndex
from tpr_jax.search.server.uploads import UploadReader

pytestmark = pytest.mark.everywhere

ANYTHING = "application/octet-stream"


@pytest.fixture(scope="module")
def searcher(tiny, tmp_path_factory):
    return open_searcher(served.make_index(tmp_path_factory.mktemp("api"), tiny["clip"]))


def client_of(searcher, **limits):
    app = api.make_app(LiveIndex(searcher), Limits(**{"rate": 0, "hosts": served.HERE, **limits}))
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client(searcher):
    return client_of(searcher)


def photo_file(searcher, name):
    return (searcher.index.folder.parent / "photos" / name).read_bytes()


@pytest.mark.parametrize(
    "query",
    [
        {"text": "a red coat"},
        {"text": "a red coat", "top_k": 3, "where": "camera = 1 and seen > '2024-05-03'"},
        {"text": "a red coat", "top_k": 14, "group": 0.9},
        {"like": 4, "top_k": 2},
        {"text": "a red coat", "like": 4, "weight": 0.2, "top_k": 5},
        {"text": "a red coat", "right": [3, "005.png"], "wrong": [7]},
        {"right": ["secret.jpg"]},
        {"text": "coat " * 300},
        {"text": "coat", "where": "camera > 99"},
    ],
)
def test_results_equal_those_of_search(client, searcher, query):
    reply = client.post("/api/search", json=query)
    assert reply.status_code == 200, reply.text
    wanted, answer = search(searcher, **{"top_k": 24, **query}), reply.json()
    for key in ("count", "matching", "engine", "notes"):
        assert answer[key] == wanted[key]
    assert answer["results"] == [{"group": [], "seen": None, **found} for found in wanted["results"]]


def test_a_row_of_the_index_finds_itself(client):
    results = client.post("/api/search", json={"like": 7, "top_k": 3}).json()["results"]
    assert results[0]["row"] == 7 and results[0]["path"] == "007.png"
    assert results[0]["score"] == pytest.approx(1, abs=1e-3) and results[1]["score"] < 0.9999


def test_an_uploaded_photo_finds_itself(client, searcher):
    sent = {"content": photo_file(searcher, "003.png"), "headers": {"content-type": ANYTHING}}
    (best,) = client.post("/api/search/photo?top_k=1", **sent).json()["results"]
    assert best["row"] == 3 and best["score"] == pytest.approx(1, abs=1e-3)
    answer = client.post("/api/search/photo?text=red&weight=0.3&where=camera=2&top_k=4", **sent).json()
    wanted = search(searcher, "red", sent["content"], weight=0.3, where="camera=2", top_k=4)
    assert [found["row"] for found in answer["results"]] == [found["row"] for found in wanted["results"]]
    assert answer["matching"] == 4


def test_an_uploaded_photo_with_marks(client, searcher):
    photo = photo_file(searcher, "003.png")
    sent = {"content": photo, "headers": {"content-type": ANYTHING}}
    answer = client.post("/api/search/photo?right=5&right=secret.jpg&wrong=2&texts=red", **sent).json()
    marks = {"right": [5, "secret.jpg"], "wrong": [2]}
    wanted = search(searcher, "red", photo, **marks, top_k=24)
    assert [found["row"] for found in answer["results"]] == [found["row"] for found in wanted["results"]]
    assert answer["right"] == [5, "secret.jpg"] and answer["wrong"] == [2]


def png_header(width, height):
    """Returns a PNG that declares this size and has no pixels."""
    body = struct.pack(">II5B", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", body), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"", 422, "empty"),
        (b"%PDF-1.7 \n%%EOF", 422, "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 422, "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 422, "not an image"),
        (b"\xff\xd8\xff\xe0" + bytes(range(256)), 422, "upload"),
        (png_header(20_000, 20_000), 413, "too large"),
        (png_header(7_100, 7_100), 413, "too large (7100 x 7100)"),
        (png_header(100, 100), 422, "damaged"),
    ],
)
def test_rejects_invalid_uploads(client, content, status, message):
    reply = client.post("/api/search/photo", content=content, headers={"content-type": ANYTHING})
    assert reply.status_code == status and message in reply.json()["detail"]
    assert "/" not in reply.json()["detail"].replace("JPEG, PNG", "")


def test_rejects_a_truncated_photo(client, searcher):
    whole = io.BytesIO()
    Image.open(searcher.index.folder.parent / "photos" / "001.png").resize((200, 400)).save(whole, "JPEG")
    half = whole.getvalue()[: whole.tell() // 2]
    reply = client.post("/api/search/photo", content=half, headers={"content-type": ANYTHING})
    assert reply.status_code == 422 and "the upload: damaged or truncated" in reply.json()["detail"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "the query is empty"),
        ({"text": " "}, "empty"),
        ({"text": "word " * 10_000}, "at most 2000 characters"),
        ({"text": 3}, "text"),
        ({"text": "a", "texts": [""]}, "empty"),
        ({"text": "a", "yes": ["a cup"]}, "yes 'a cup': is no attribute that is asked for"),
        ({"text": "a", "without": ["b", " "]}, "empty"),
        ({"texts": ["a"] * 9}, "texts"),
        ({"text": "a", "without": ["word " * 10_000]}, "at most 2000 characters"),
        ({"text": "a", "top_k": 201}, "top_k"),
        ({"text": "a", "top_k": 0}, "top_k"),
        ({"text": "a", "weight": 2}, "weight"),
        ({"text": "a", "group": 0}, "group"),
        ({"text": "a", "where": "camera = "}, "where"),
        ({"text": "a", "where": "color = 3"}, "column 'color' is unknown"),
        ({"text": "a", "where": "file_size > 3"}, "file_size"),
        ({"text": "a", "where": "(" * 2000}, "brackets"),
        ({"text": "a", "where": "camera = " + "9" * 310}, "a number is at most"),
        ({"text": "a", "where": "camera = " + "9" * 1900}, "a number is at most"),
        ({"like": 14}, "rows 0 to 13"),
        ({"text": "a", "right": [14]}, "right 14: the index has rows 0 to 13"),
        ({"text": "a", "wrong": ["000.png"]}, "shows several people: give one of the rows 0, 12"),
        ({"text": "a", "right": [1] * 51}, "right"),
        ({"text": "a", "right": [1], "wrong": [1]}, "right 1: 001.png is also marked wrong"),
        ({"text": "a", "yes": ["a man"], "no": ["a man"]}, "yes 'a man': is also answered with no"),
        ({"wrong": [1]}, "the query is empty"),
        ({"right": [True]}, "right: Input should be a row or a path"),
        ({"right": [1.5]}, "right"),
        ({"like": -1}, "like"),
        ({"like": 10**30}, "rows 0 to 13"),
        ({"text": "a", "image": "/etc/passwd"}, "image"),
        ([], "the request"),
    ],
)
def test_rejects_invalid_queries(client, asked, message):
    reply = client.post("/api/search", json=asked)
    assert reply.status_code == 422 and message in reply.json()["detail"]
    assert "\n" not in reply.json()["detail"] and "--" not in reply.json()["detail"]


def test_several_texts_and_what_is_lacking(client, searcher):
    asked = {"text": "a red coat", "texts": ["blue trousers"], "without": ["a green coat"], "top_k": 3}
    answer = client.post("/api/search", json=asked).json()
    expected = search(searcher, ["a red coat", "blue trousers"], without="a green coat", top_k=3)
    assert [found["row"] for found in answer["results"]] == [found["row"] for found in expected["results"]]
    assert answer["results"][0]["score"] == pytest.approx(expected["results"][0]["score"])


def test_rejects_invalid_json(client):
    for body in (b'{"text": 1', b"\xff\xfe", b"[" * 5000, b'{"text": "\\ud800"}'):
        reply = client.post("/api/search", content=body, headers={"content-type": "application/json"})
        assert 400 <= reply.status_code < 500 and reply.json()["detail"], body


def test_a_chinese_text_gets_a_note(client):
    answer = client.post("/api/search", json={"text": "一个穿红衣服的女人"}).json()
    assert "few of these words" in answer["notes"][-1] and len(answer["results"]) == 14


def test_photos_have_the_pixels_of_their_files(client, searcher):
    reply = client.get("/api/photos/5?size=large")
    assert reply.headers["content-type"] == "image/jpeg"
    shown = np.asarray(Image.open(io.BytesIO(reply.content)), np.float32)
    stored = np.asarray(Image.open(io.BytesIO(photo_file(searcher, "005.png"))), np.float32)
    assert shown.shape == stored.shape
    for half in (slice(20), slice(20, 40)):  # JPEG smooths the noise
        assert np.abs(shown[half].mean((0, 1)) - stored[half].mean((0, 1))).max() < 4


def test_a_photo_that_was_overwritten_is_not_shown(tiny, tmp_path):
    """The page may keep its small image, which shows who was found."""
    client = client_of(open_searcher(served.make_index(tmp_path, tiny["clip"])))
    small = client.get("/api/photos/5")
    shutil.copyfile(tmp_path / "photos" / "006.png", tmp_path / "photos" / "005.png")
    reply = client.get("/api/photos/5?size=large")
    assert reply.status_code == 404
    assert reply.json() == {"detail": "the photo has changed since it was indexed: index the photos again"}
    assert small.status_code == 200 and client.get("/api/photos/5").content == small.content
    assert client.get("/api/photos/6?size=large").status_code == 200


def test_a_photo_with_a_box_shows_no_more_than_the_box(client, searcher):
    shown = np.asarray(Image.open(io.BytesIO(client.get(f"/api/photos/{served.BOXED}").content)), np.float32)
    whole = np.asarray(Image.open(io.BytesIO(photo_file(searcher, "000.png"))), np.float32)
    assert shown.shape == (20, 20, 3)
    assert np.abs(shown.mean((0, 1)) - whole[20:].mean((0, 1))).max() < 4
    assert np.abs(shown.mean((0, 1)) - whole[:20].mean((0, 1))).max() > 20


@pytest.mark.parametrize("size", ["small", "large"])
def test_photos_carry_no_metadata(client, searcher, size):
    assert served.SECRET_TEXT in photo_file(searcher, "secret.jpg")
    content = client.get(f"/api/photos/{served.SECRET}?size={size}").content
    assert served.SECRET_TEXT not in content and not Image.open(io.BytesIO(content)).getexif()


@pytest.mark.parametrize(
    "path",
    [
        "14",
        "-1",
        "1e3",
        "0x1",
        "../index.json",
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e/photos.jsonl",
        "000.png",
        "",
    ],
)
def test_serves_only_rows_of_the_index(client, path):
    reply = client.get(f"/api/photos/{path}")
    assert reply.status_code in (404, 422) and set(reply.json()) == {"detail"}


def test_a_missing_photo(tiny, tmp_path):
    index = served.make_index(tmp_path, tiny["clip"])
    gone = client_of(open_searcher(index))
    (tmp_path / "photos" / "002.png").unlink()
    (tmp_path / "photos" / "003.png").write_text("not an image")
    for row in (2, 3):
        reply = gone.get(f"/api/photos/{row}")
        assert reply.status_code == 404 and str(tmp_path) not in reply.text and "again" in reply.text


def test_describes_the_index(client, searcher, tiny):
    answer = client.get("/api/index").json()
    assert answer["count"] == 14 and answer["model"] == "clip" and tiny["clip"] not in json.dumps(answer)
    columns = {column["name"]: column for column in answer["columns"]}
    assert set(columns) == {"camera", "note", "seen"}
    assert columns["camera"] == {
        "name": "camera",
        "kind": "number",
        "values": [0, 1, 2, 7, 8],
        "least": 0,
        "most": 8,
        "resolution": None,
    }
    assert columns["seen"]["kind"] == "time" and columns["seen"]["most"] == "2024-05-12T00:00:00"
    renewed = dataclasses.replace(searcher.index, info={**searcher.index.info, "number": 99})
    other = client_of(dataclasses.replace(searcher, index=renewed)).get("/api/index").json()
    assert {**other, "version": answer["version"]} == answer and other["version"] != answer["version"]


def test_an_internal_error_reveals_nothing(searcher, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("secret of /home/somebody")

    monkeypatch.setattr(api, "search", broken)
    broken_client = client_of(searcher)
    reply = broken_client.post("/api/search", json={"text": "a"})
    assert reply.status_code == 500 and reply.json() == {"detail": "internal error: see the server's log"}
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert 'status="500"' in broken_client.get("/metrics").text


def test_rejects_searches_when_too_many_wait(searcher, monkeypatch):
    monkeypatch.setattr(api, "MAX_WAITING", 0)
    reply = client_of(searcher).post("/api/search", json={"text": "a"})
    assert reply.status_code == 503 and reply.headers["retry-after"] == "2"


def test_rejects_uploads_when_too_many_wait(searcher, monkeypatch):
    monkeypatch.setattr(api, "MAX_UPLOADS", 0)
    reply = client_of(searcher).post("/api/search/photo", content=b"")
    assert reply.status_code == 503 and "too many photos" in reply.json()["detail"]


def ask_in_parts(app, parts, path="/api/search/photo"):
    """Returns (status, detail) for a request whose body arrives in these parts; None never arrives."""
    left, sent = list(parts), []

    async def receive():
        part = left.pop(0)
        if part is None:
            await anyio.sleep(600)
        return {"type": "http.request", "body": part, "more_body": bool(left)}

    async def send(message):
        sent.append(message)

    names = [(b"host", b"127.0.0.1"), (b"content-type", b"application/octet-stream")]
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
    scope |= {"headers": names, "client": ("127.0.0.1", 5), "http_version": "1.1", "scheme": "http"}
    anyio.run(app, scope, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])["detail"]


@pytest.mark.parametrize("path", ["/api/search", "/api/search/photo"])
def test_a_body_that_never_arrives_times_out(searcher, path):
    limits = Limits(rate=0, timeouts=Timeouts(head=0.05))
    status, detail = ask_in_parts(api.make_app(LiveIndex(searcher), limits), [b"1", None], path)
    assert status == 408 and "did not arrive in time" in detail


def test_slow_uploads_do_not_block_others(searcher, monkeypatch):
    """While forty uploads are incomplete, a complete one is searched for."""
    app = api.make_app(LiveIndex(searcher), Limits(rate=0, hosts=served.HERE))
    content, names = photo_file(searcher, "003.png"), [(b"host", b"127.0.0.1")]
    path = {"path": "/api/search/photo", "raw_path": b"/api/search/photo", "query_string": b"top_k=1"}
    scope = {"type": "http", "method": "POST", "headers": names, "client": ("127.0.0.1", 5), **path}
    scope |= {"http_version": "1.1", "scheme": "http"}
    sent = []

    async def never():
        await anyio.sleep(600)

    async def at_once():
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message):
        sent.append(message)

    async def all_of_them():
        async with anyio.create_task_group() as group:
            for _ in range(40):
                group.start_soon(app, dict(scope), never, send)
            await anyio.wait_all_tasks_blocked()
            await app(dict(scope), at_once, send)
            group.cancel_scope.cancel()

    anyio.run(all_of_them)
    assert sent[0]["status"] == 200 and json.loads(sent[1]["body"])["results"][0]["row"] == 3


def test_the_memory_of_uploads_is_bounded(searcher, monkeypatch):
    monkeypatch.setattr(api, "MAX_UPLOADS", 1)
    app = api.make_app(LiveIndex(searcher), Limits(rate=0, body=1000))
    for _ in range(3):  # rejected and answered uploads no longer count
        assert ask_in_parts(app, [b"x" * 600, b"x" * 399])[0] == 422
        assert ask_in_parts(app, [b"x" * 600, b"x" * 401])[0] == 413
    uploads = UploadReader(1000, 1500)
    first = anyio.run(uploads.read, request_of([b"x" * 1000]))
    for _ in range(2):
        with pytest.raises(HTTPException) as refused:
            anyio.run(uploads.read, request_of([b"x" * 400, b"x" * 200]))
        assert refused.value.status_code == 503 and uploads.bytes_in_use == 1000
    uploads.release(first)
    assert uploads.bytes_in_use == 0


def request_of(parts, **headers):
    """Returns a request whose body arrives in these parts."""
    left = list(parts)

    async def receive():
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    names = [(name.encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": names}, receive)


def test_few_uploads_are_decoded_at_once_and_kept_small(searcher, monkeypatch):
    """Only the uploads being decoded, not all 32 concurrent ones, are in memory at full size."""
    at_once, most, shapes, lock = 0, 0, [], threading.Lock()
    real = search

    def decode(data, size):
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.02)
        with lock:
            at_once -= 1
        return np.zeros((*size, 3), np.uint8)

    def seen(searcher, **question):
        shapes.append(question["image"].shape)
        return real(searcher, **question)

    monkeypatch.setattr(api.images, "read_upload", decode)
    monkeypatch.setattr(api, "worker_threads", lambda: 16)  # as on a larger machine
    monkeypatch.setattr(api, "search", seen)

    def post(address):
        with urllib.request.urlopen(f"{address}/api/search/photo", b"x" * 5000, timeout=120) as reply:
            return reply.status

    with served.running(searcher) as address, ThreadPoolExecutor(32) as pool:
        assert set(pool.map(post, [address] * 32)) == {200}
    assert most <= api.MAX_DECODERS and set(shapes) == {(*searcher.model.config.image_size, 3)}


def test_metrics_count_responses(searcher):
    fresh = client_of(searcher)
    for _ in range(3):
        fresh.post("/api/search", json={"text": "a"})
    fresh.post("/api/search", json={"text": ""})
    fresh.get("/api/photos/3")
    fresh.get("/api/photos/14")
    for strange in ("/a", "/b", "/c"):
        fresh.get(strange)
    text = fresh.get("/metrics").text
    assert 'tpr_requests_total{method="POST",route="/api/search",status="200"} 3.0' in text
    assert 'tpr_requests_total{method="POST",route="/api/search",status="422"} 1.0' in text
    assert 'tpr_requests_total{method="GET",route="/api/photos/{row}",status="200"} 1.0' in text
    assert 'tpr_requests_total{method="GET",route="other",status="404"} 4.0' in text
    assert "tpr_encode_seconds_count 3.0" in text and "tpr_photos 14.0" in text
    assert "tpr_searches_waiting 0.0" in text


def test_serves_the_page_and_its_files(client):
    reply = client.get("/")
    assert reply.headers["content-type"].startswith("text/html") and "<form" in reply.text
    kinds = {"page.js": "text/javascript", "question.js": "text/javascript", "page.css": "text/css"}
    for name, kind in kinds.items():
        assert client.get(f"/{name}").headers["content-type"].startswith(kind)
    pages = [client.get(f"/{file.name}").text for file in api.PAGE.iterdir() if file.name != "index.html"]
    assert len(pages) > 5
    for text in (reply.text, *pages):
        assert "://" not in text.replace("http://www.w3.org/2000/svg", "")  # nothing from other sites
    for elsewhere in ("/docs", "/redoc", "/page/../api.py", "/index.html", "/static"):
        assert client.get(elsewhere).status_code == 404


def test_openapi_describes_every_route(client):
    described = client.get("/openapi.json").json()
    searches = {"/api/index", "/api/search", "/api/search/photo", "/api/photos/{row}"}
    scenes = {
        f"/api/scenes/{{row}}{path}" for path in ("", "/frame", "/moments", "/moments/{number}", "/video")
    }
    assert set(described["paths"]) == searches | scenes
    for path in described["paths"].values():
        for method in path.values():
            assert {"200", "422", "429"} <= set(method["responses"])
            assert method["responses"]["422"]["content"]["application/json"]["schema"]["$ref"].endswith(
                "/Error"
            )


@pytest.mark.parametrize(("mark", "reason"), [("0" * 5000, "4096 characters"), ("0" * 25, "no such photo")])
def test_a_long_row_of_digits_is_a_path(client, mark, reason):
    reply = client.post("/api/search", json={"text": "a coat", "right": [mark]})
    assert reply.status_code == 422 and reason in reply.text


def test_asks_a_question_and_takes_its_answer(client, searcher):
    asked = {"text": "a red coat", "top_k": 3}
    plain = client.post("/api/search", json=asked).json()
    assert plain["question"] is None
    found = client.post("/api/search", json={**asked, "ask": True}).json()
    assert found["question"] == search(searcher, "a red coat", ask=True)["question"]
    answers = {"yes": ["a red top"], "no": ["a cap"]}
    answered = client.post("/api/search", json={**asked, **answers}).json()
    expected = search(searcher, "a red coat", top_k=3, **answers)
    assert [one["score"] for one in answered["results"]] == [one["score"] for one in expected["results"]]
    assert [one["score"] for one in answered["results"]] != [one["score"] for one in plain["results"]]
