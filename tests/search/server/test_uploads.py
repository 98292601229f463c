"""Photos in forms, as `curl -F` and browsers send them, and damaged forms."""

import contextlib
import io
import shutil
import subprocess

import anyio
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import Request

from tests import served
from tpr_jax.errors import UserError
from tpr_jax.search.query.search import open_searcher
from tpr_jax.search.server.api import make_app
from tpr_jax.search.server.guard import Limits
from tpr_jax.search.server.live import LiveIndex
from tpr_jax.search.server.uploads import MAX_PARTS, UploadReader, parse_upload

FORM = "multipart/form-data; boundary=line"


def form(*parts, boundary="line", end="--"):
    """Returns a form with these (head, content) parts (RFC 7578)."""
    lines = [f"--{boundary}\r\n{head}\r\n\r\n".encode() + content + b"\r\n" for head, content in parts]
    return b"".join(lines) + f"--{boundary}{end}\r\n".encode()


def file_part(content, name='name="file"; filename="a.jpg"', kind="image/jpeg"):
    return f"Content-Disposition: form-data; {name}\r\nContent-Type: {kind}", content


def text_part(name, value):
    return f'Content-Disposition: form-data; name="{name}"', value.encode()


@pytest.mark.parametrize(
    "kind", ["", "application/octet-stream", "image/jpeg", "application/x-www-form-urlencoded"]
)
def test_a_body_that_is_not_a_form_is_the_photo(kind):
    assert parse_upload(kind, b"\xff\xd8--line\r\n", 100) == (b"\xff\xd8--line\r\n", {})


@given(st.binary(max_size=300), st.text(max_size=20))
@settings(deadline=None)
def test_parses_a_form(content, text):
    content = content.replace(b"--line", b"")  # clients choose a boundary that does not occur
    body = form(text_part("text", text), file_part(content), text_part("top_k", "3"))
    assert parse_upload(FORM, body, 1000) == (content, {"text": text, "top_k": "3"})


@pytest.mark.parametrize(
    "name",
    ['name="photo"; filename=""', "name=x; filename=a.jpg"],
)
def test_a_part_with_a_filename_is_the_photo(name):
    assert parse_upload('multipart/form-data; boundary="line"', form(file_part(b"x", name)), 10) == (b"x", {})


@pytest.mark.parametrize(
    ("kind", "body", "message"),
    [
        (FORM, b"", "damaged or truncated"),
        (FORM, b"\xff\xd8 no form at all", "damaged or truncated"),
        (FORM, form(file_part(b"x" * 50))[:60], "damaged or truncated"),
        (FORM, form(file_part(b"x"), end=""), "damaged or truncated"),
        (FORM, form(file_part(b"x"), boundary="other"), "damaged or truncated"),
        ("multipart/form-data", form(file_part(b"x")), "no boundary"),
        ("multipart/form-data; boundary=" + "x" * 500, form(file_part(b"x")), "damaged or truncated"),
        ("multipart/mixed; boundary=line", form(file_part(b"x")), "not a readable form"),
        (FORM, form(text_part("text", "a")), "has 0 files"),
        (FORM, form(file_part(b"x"), file_part(b"y")), "has 2 files"),
        (FORM, form(*[text_part(str(i), "a") for i in range(MAX_PARTS + 1)]), f"more than {MAX_PARTS} parts"),
        (FORM, form(text_part("text", "a" * 17_000), file_part(b"x")), "text: is too long"),
    ],
)
def test_rejects_invalid_forms(kind, body, message):
    with pytest.raises(UserError, match=message) as refused:
        parse_upload(kind, body, 1_000_000)
    assert "curl" in str(refused.value) and "\n" not in str(refused.value)


@given(st.binary(max_size=400), st.text(max_size=60))
@settings(deadline=None)
def test_any_body_is_a_photo_or_a_user_error(body, kind):
    for content_type in (FORM, f"multipart/form-data; {kind}", kind):
        for sent in (body, b"--line\r\n" + body, form(file_part(body))[: len(body) + 30]):
            with contextlib.suppress(UserError):
                parse_upload(content_type, sent, 1_000_000)


def test_a_photo_in_a_form_has_the_same_size_limit():
    assert parse_upload(FORM, form(file_part(b"x" * 100)), 100)[0] == b"x" * 100
    with pytest.raises(HTTPException) as refused:
        parse_upload(FORM, form(file_part(b"x" * 101)), 100)
    assert refused.value.status_code == 413 and "at most 100 bytes" in refused.value.detail


@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON; charset=utf-8", "application/ld+json"]
)
def test_rejects_json_as_a_photo(kind):
    async def receive():
        return {"type": "http.request", "body": b"{}"}

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-type", kind.encode())]}
    with pytest.raises(HTTPException) as refused:
        anyio.run(UploadReader(9, 9).read, Request(scope, receive))
    assert refused.value.status_code == 415 and "curl --data-binary @photo.jpg" in refused.value.detail


@pytest.fixture(scope="module")
def searcher(tiny, tmp_path_factory):
    return open_searcher(served.make_index(tmp_path_factory.mktemp("uploads"), tiny["clip"]))


@pytest.fixture(scope="module")
def client(searcher):
    limits = Limits(rate=0, hosts=served.HERE, body=50_000)
    return TestClient(
        make_app(LiveIndex(searcher), limits), base_url="http://127.0.0.1", raise_server_exceptions=False
    )


def test_a_form_gives_the_same_results_as_a_body(client, searcher):
    content = (searcher.index.folder.parent / "photos" / "004.png").read_bytes()
    plain = client.post("/api/search/photo?top_k=3&text=red&where=camera=1", content=content).json()
    fields = {"top_k": "3", "text": "red", "where": "camera=1"}
    answer = client.post("/api/search/photo", files={"file": ("x.png", content)}, data=fields).json()
    assert answer["results"] == plain["results"] and len(answer["results"]) == 3
    answer = client.post("/api/search/photo?top_k=1", files={"photo": ("x.png", io.BytesIO(content))}).json()
    assert [found["row"] for found in answer["results"]] == [4]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"top_k": "0"}, "top_k: "),
        ({"topk": "3"}, "topk: is unknown; choose from: text, texts, without, right"),
        ({"weight": "x"}, "weight"),
    ],
)
def test_checks_the_fields_of_a_form(client, fields, message):
    content = io.BytesIO()
    Image.new("RGB", (9, 9)).save(content, "PNG")
    reply = client.post("/api/search/photo", files={"file": content.getvalue()}, data=fields)
    assert reply.status_code == 422 and message in reply.json()["detail"]


def test_size_limit_of_a_form(client):
    for size, status in ((50_000, 422), (50_001, 413), (90_000, 413)):
        assert client.post("/api/search/photo", files={"file": b"x" * size}).status_code == status


@pytest.mark.skipif(not shutil.which("curl"), reason="no curl here")
def test_curl(searcher):
    photo = searcher.index.folder.parent / "photos" / "006.png"
    with served.running(searcher) as address:
        for how in (
            ["-F", f"file=@{photo}"],
            ["--data-binary", f"@{photo}"],
            ["-T", str(photo), "-X", "POST"],
        ):
            command = ["curl", "-s", *how, f"{address}/api/search/photo?top_k=1"]
            completed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
            assert '"row":6' in completed.stdout, (how, completed)
