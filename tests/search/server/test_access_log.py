"""The access log: one line per query, for its owner only."""

import json
import os
import stat

import pytest
from fastapi.testclient import TestClient

from tests import served
from tpr_jax import __version__
from tpr_jax.errors import UserError
from tpr_jax.search.query.search import open_searcher
from tpr_jax.search.server import api, serve
from tpr_jax.search.server.access_log import AccessLog
from tpr_jax.search.server.accounts import Accounts
from tpr_jax.search.server.guard import Limits
from tpr_jax.search.server.live import LiveIndex

pytestmark = pytest.mark.everywhere
TOKEN = "0123456789abcdef"


@pytest.fixture(scope="module")
def searcher(tiny, tmp_path_factory):
    return open_searcher(served.make_index(tmp_path_factory.mktemp("log"), tiny["clip"]))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_logs_who_asked_what(searcher, tmp_path):
    path = tmp_path / "queries.jsonl"
    path.write_text('{"earlier": 1}\n')
    path.chmod(0o644)
    log = AccessLog(path, print)
    app = api.make_app(LiveIndex(searcher), Limits(rate=0, hosts=served.HERE), Accounts(token=TOKEN), log)
    client = TestClient(app, base_url="http://127.0.0.1", client=("192.0.2.5", 7))
    headers = {"authorization": f"Bearer {TOKEN}"}
    query = {"text": "a red\ncoat", "texts": ["näher"], "without": ["hat"], "where": "camera = 1", "top_k": 3}
    query |= {"yes": ["a red top"], "no": ["a cap"]}
    client.post("/api/search", json=query, headers=headers)
    client.post("/api/search", json={"like": 4, "top_k": 2}, headers=headers)
    photo = (searcher.index.folder.parent / "photos" / "003.png").read_bytes()
    sent = {"content": photo, "headers": {**headers, "content-type": "application/octet-stream"}}
    client.post("/api/search/photo?top_k=1", **sent)
    client.post("/api/search", json={"text": "a", "where": "color = 1"}, headers=headers)
    client.post("/api/search", json={"text": "a"})  # without a login: not a query
    client.get("/api/index", headers=headers)
    serve.answer(searcher, "auto", question(searcher), log)
    log.close()
    earlier, *found = lines(path)
    assert earlier == {"earlier": 1} and stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert all(one.pop("time").endswith("+00:00") for one in found)
    here = {"user": "token", "address": "192.0.2.5"}
    nothing = {"texts": [], "without": [], "yes": [], "no": [], "where": None, "image": None}
    asked = {"texts": ["a red\ncoat", "näher"], "without": ["hat"], "where": "camera = 1"}
    asked |= {"yes": ["a red top"], "no": ["a cap"]}
    assert found == [
        {**here, **nothing, **asked, "hits": 3},
        {**here, **nothing, "image": "row 4", "hits": 2},
        {**here, **nothing, "image": "uploaded", "hits": 1},
        {**here, **nothing, "texts": ["a"], "where": "color = 1", "hits": None},
        {"user": None, "address": "local", **nothing, "texts": ["a man"], "hits": 5},
    ]


def question(searcher):
    info = dict(searcher.index.info)
    asked = {"version": __version__, "info": info, "engine": "auto", "text": "a man"}
    return {**asked, "options": {"top_k": 5, "without": [], "where": None}}


def test_there_is_no_log_by_default(searcher, tmp_path):
    app = api.make_app(LiveIndex(searcher), Limits(rate=0, hosts=served.HERE))
    assert TestClient(app, base_url="http://127.0.0.1").post("/api/search", json={"text": "a"}).is_success
    assert "result" in serve.answer(searcher, "auto", question(searcher))


def test_a_log_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match=r"--access_log .*: cannot be written"):
        AccessLog(tmp_path, print)
    if os.path.exists("/dev/full"):
        said = []
        log = AccessLog("/dev/full", said.append)
        for _ in range(3):
            log.record(None, "here", {}, 1)
        assert len(said) == 1 and "a query was not logged" in said[0]
