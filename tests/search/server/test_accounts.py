"""Logging in: passwords, the token, wrong attempts, and the files and variables they come from."""

import base64
import io
import os
import re

import pytest
from fastapi.testclient import TestClient

from tests import served
from tpr_jax.errors import UserError
from tpr_jax.search.__main__ import main
from tpr_jax.search.query.search import open_searcher
from tpr_jax.search.server import accounts as accounts_lib
from tpr_jax.search.server import api
from tpr_jax.search.server.accounts import Accounts, check_password, hash_password, read_accounts
from tpr_jax.search.server.guard import Limits
from tpr_jax.search.server.live import LiveIndex

pytestmark = pytest.mark.everywhere
TOKEN = "0123456789abcdef"
PASSWORD = "pässword:1"


@pytest.fixture(scope="module")
def searcher(tiny, tmp_path_factory):
    return open_searcher(served.make_index(tmp_path_factory.mktemp("accounts"), tiny["clip"]))


@pytest.fixture
def client(searcher):
    accounts = Accounts({"anna": hash_password(PASSWORD)}, TOKEN)
    app = api.make_app(LiveIndex(searcher), Limits(rate=0, hosts=served.HERE), accounts)
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)


def basic(name, password):
    return {"authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


PATHS = ["/", "/page.js", "/api/index", "/api/photos/3", "/metrics", "/openapi.json", "/nowhere"]


@pytest.mark.parametrize("path", PATHS)
def test_everything_needs_a_login(client, path):
    reply = client.get(path)
    assert reply.status_code == 401 and reply.json() == {"detail": "this server needs a login"}
    assert reply.headers["www-authenticate"] == 'Basic realm="tpr_jax search", charset="UTF-8"'
    assert "content-security-policy" in reply.headers
    for headers in (basic("anna", PASSWORD), {"authorization": f"Bearer {TOKEN}"}):
        assert client.get(path, headers=headers).status_code == (404 if path == "/nowhere" else 200)


def test_healthz_is_open_and_says_nothing(client):
    reply = client.get("/healthz")
    assert (reply.status_code, reply.text) == (200, "ok\n")


def test_searches_need_a_login_before_their_body_is_read(client):
    assert client.post("/api/search", json={"text": "a"}).status_code == 401
    assert client.post("/api/search/photo", content=b"no image").status_code == 401
    found = client.post("/api/search", json={"text": "a"}, headers=basic("anna", PASSWORD))
    assert found.status_code == 200
    assert 'route="/api/search",status="200"' in client.get(
        "/metrics", headers=basic("anna", PASSWORD)
    ).text.replace('method="POST",', "")


@pytest.mark.parametrize(
    "header",
    [
        *("", "Basic", "Basic !!!", "Basic " + base64.b64encode(b"\xff:x").decode(), "Bearer", "Digest x"),
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}0",
        basic("anna", "")["authorization"],
        basic("anna", PASSWORD + " ")["authorization"],
        basic("Anna", PASSWORD)["authorization"],
        basic("", "")["authorization"],
        basic("token", TOKEN)["authorization"],
    ],
)
def test_wrong_credentials(client, header):
    assert client.get("/api/index", headers={"authorization": header}).status_code == 401


def test_wrong_passwords_are_limited_per_address(searcher, monkeypatch):
    now = [100.0]
    door = accounts_lib.RequireLogin
    monkeypatch.setattr(api, "RequireLogin", lambda app, accounts: door(app, accounts, clock=lambda: now[0]))
    accounts = Accounts({"anna": hash_password(PASSWORD)})
    app = api.make_app(LiveIndex(searcher), Limits(rate=0, hosts=served.HERE), accounts)

    def ask(password, address="192.0.2.1"):
        client = TestClient(app, base_url="http://127.0.0.1", client=(address, 5))
        return client.get("/api/index", headers=basic("anna", password))

    assert ask(PASSWORD, "192.0.2.7").status_code == 200
    assert [ask(f"wrong {i}").status_code for i in range(7)] == [401] * 5 + [429] * 2
    late = ask("another guess")
    assert late.status_code == 429 and int(late.headers["retry-after"]) <= 11
    assert ask(PASSWORD).status_code == 200  # a login that was right before is not an attempt
    assert ask("wrong", "192.0.2.2").status_code == 401
    now[0] += 20
    assert [ask("wrong").status_code for _ in range(3)] == [401, 401, 429]


def test_a_right_password_ends_the_count_of_wrong_ones(searcher):
    accounts = Accounts({name: hash_password(PASSWORD) for name in ("anna", "ben")})
    app = api.make_app(LiveIndex(searcher), Limits(rate=0, hosts=served.HERE), accounts)
    client = TestClient(app, base_url="http://127.0.0.1")
    for name in ("anna", "ben"):
        tried = ["wrong 1", "wrong 2", "wrong 3", "wrong 4", PASSWORD]
        codes = [client.get("/api/index", headers=basic(name, password)).status_code for password in tried]
        assert codes == [401] * 4 + [200]


def test_a_password_is_hashed_once(client, monkeypatch):
    calls = []
    real = accounts_lib.check_password
    monkeypatch.setattr(accounts_lib, "check_password", lambda *args: calls.append(1) or real(*args))
    for _ in range(3):
        assert client.get("/api/index", headers=basic("anna", PASSWORD)).status_code == 200
    assert len(calls) == 1


def test_hashes_are_salted_and_checked():
    first, second = hash_password(PASSWORD), hash_password(PASSWORD)
    assert first != second and re.fullmatch(r"scrypt\$16384\$8\$1\$[0-9a-f]{32}\$[0-9a-f]{64}", first)
    assert check_password(PASSWORD, first) and not check_password("other", first)


def test_the_command_makes_a_line_of_the_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO(PASSWORD + "\n"))
    assert main(["password", "anna"]) == 0
    line = capsys.readouterr().out
    path = tmp_path / "passwords"
    path.write_text(f"# people\n\n{line}")
    path.chmod(0o644)
    said = []
    accounts = read_accounts(path, None, said.append)
    assert check_password(PASSWORD, accounts.passwords["anna"]) and accounts.token is None
    assert "other users of this machine may read it: chmod 600" in said[0]
    path.chmod(0o600)
    read_accounts(path, None, said.append)
    assert len(said) == 1


@pytest.mark.parametrize(("name", "password"), [("", "long enough"), ("a:b", "long enough"), ("a", "short")])
def test_names_and_passwords_that_cannot_be_used(name, password, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO(password + "\n"))
    assert main(["password", name]) == 2 and capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("", "has no account; add one with"),
        ("anna:secret\n", "line 1 is not name:hash"),
        ("anna:scrypt$16384$8$1$00$zz\n", "line 1 is not name:hash"),
        ("anna:scrypt$3$8$1$00$00\n", "line 1 is not name:hash"),
        ("A\nA\n", "that of another line"),
        (":A\n", "has no name"),
    ],
)
def test_files_that_are_wrong(tmp_path, text, message):
    stored = hash_password(PASSWORD)
    if text is not None:
        (tmp_path / "p").write_text(
            re.sub("^A$", f"a:{stored}", text, flags=re.MULTILINE).replace(":A", f":{stored}")
        )
    with pytest.raises(UserError, match=message) as raised:
        read_accounts(tmp_path / "p", None, print)
    assert "--password_file" in str(raised.value)


@pytest.mark.parametrize("value", [None, "", "short", "with space 0123456789", "ä" * 20])
def test_tokens_that_cannot_be_used(value, monkeypatch):
    monkeypatch.delenv("TPR_TOKEN", raising=False)
    if value is not None:
        monkeypatch.setitem(os.environ, "TPR_TOKEN", value)
    with pytest.raises(UserError, match="--token_env TPR_TOKEN: set this"):
        read_accounts(None, "TPR_TOKEN", print)


def test_a_token_alone(searcher, monkeypatch):
    monkeypatch.setenv("TPR_TOKEN", TOKEN)
    accounts = read_accounts(None, "TPR_TOKEN", print)
    app = api.make_app(LiveIndex(searcher), Limits(rate=0, hosts=served.HERE), accounts)
    client = TestClient(app, base_url="http://127.0.0.1")
    assert client.get("/api/index").headers["www-authenticate"].startswith("Bearer realm=")
    assert client.get("/api/index", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert not read_accounts(None, None, print)
