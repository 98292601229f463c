"""The command: it listens where it is told, answers, and ends when it is asked to."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from tests import served
from tests.conftest import ROOT, _environment
from tpr_jax.errors import UserError
from tpr_jax.search.index.build import build
from tpr_jax.search.query.search import open_searcher
from tpr_jax.search.server import serve


@pytest.fixture(scope="module")
def index(tiny, tmp_path_factory):
    return served.make_index(tmp_path_factory.mktemp("serve"), tiny["clip"])


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_serves_until_it_is_asked_to_end(index, how):
    command = [sys.executable, "-m", "tpr_jax.search", "serve", "--index", str(index), "--port", "0"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, env=_environment(), stdout=pipe, stderr=pipe, text=True)
    line = process.stdout.readline()
    address = re.fullmatch(r"14 photos at (http://127\.0\.0\.1:\d+/) \(Ctrl-C ends it\)\n", line)[1]
    body = json.dumps({"text": "a red coat", "top_k": 2}).encode()
    asked = urllib.request.Request(f"{address}api/search", body, {"content-type": "application/json"})
    with urllib.request.urlopen(asked, timeout=120) as reply:
        assert len(json.load(reply)["results"]) == 2 and "server" not in reply.headers
    process.send_signal(how)
    told, errors = process.communicate(timeout=120)
    assert (process.returncode, told) == (0, "ended\n"), errors
    assert "Traceback" not in errors


def test_a_port_that_is_taken(index):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port} of --host 127.0.0.1: cannot be listened on"):
            serve.listen("127.0.0.1", port)


def test_by_default_only_this_machine_is_listened_to():
    with serve.listen("127.0.0.1", 0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
    with serve.listen("localhost", 0) as listener:
        assert listener.getsockname()[0] in ("127.0.0.1", "::1")


def test_whom_it_warns(index, monkeypatch):
    monkeypatch.setattr(serve.uvicorn.Server, "run", lambda self, sockets: None)
    said = []
    serve.serve(index, host="0.0.0.0", port=0, say=said.append)
    assert said[0].startswith("warning: whoever reaches this machine") and "14 photos at" in said[1]
    said.clear()
    serve.serve(index, port=0, say=said.append)
    assert len(said) == 1


def test_importing_the_search_does_not_import_a_server():
    code = "import sys, tpr_jax.search.query.search, tpr_jax.search.__main__; "
    code += "print([name for name in ('fastapi', 'uvicorn', 'starlette') if name in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"


STUCK = """
import sys, threading, time
from tpr_jax.search.server import pictures
from tpr_jax.search.__main__ import main
def stuck(data, size=None):
    print("stuck", flush=True)
    while True:
        time.sleep(1)
pictures.read_upload = stuck
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ends_though_a_photo_is_never_decoded(index, how):
    """Two decodings never end, others wait behind them, and a client is slow: none of it holds the server."""
    command = [sys.executable, "-c", STUCK, "serve", "--index", str(index), "--port", "0"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, env=_environment(), stdout=pipe, stderr=pipe, text=True)
    try:
        port = int(re.search(r"127\.0\.0\.1:(\d+)/", process.stdout.readline())[1])
        asked = b"POST /api/search/photo HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 3\r\n\r\n"
        sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(5)]
        for one in sockets[:4]:
            one.sendall(asked + b"abc")
        sockets[4].sendall(asked + b"a")
        assert [process.stdout.readline() for _ in range(2)] == ["stuck\n"] * 2
        process.send_signal(how)
        told, errors = process.communicate(timeout=120)
        assert (process.returncode, told) == (0, "ended\n"), errors
        assert "Traceback" not in errors
        assert all(b"503" in one.recv(15) for one in sockets[:4])
        for one in sockets:
            one.close()
    finally:
        process.kill()


def test_two_that_take_one_port_at_once(index, monkeypatch):
    """Both are bound before one of them listens."""
    taken = socket.socket()
    real = serve.warm_up

    def slow(searcher):
        real(searcher)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()

    with serve.listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    monkeypatch.setattr(serve, "warm_up", slow)
    with taken, pytest.raises(UserError, match=f"--port {port} of --host .*cannot be listened on.*--port 0"):
        serve.serve(index, port=port)


def test_an_index_that_is_renewed_or_removed_while_it_serves(tiny, tmp_path):
    """The server goes on with what it has opened."""
    folder = served.make_index(tmp_path, tiny["clip"])
    searcher = open_searcher(folder)

    def ask(address):
        body = json.dumps({"text": "a red coat", "top_k": 3}).encode()
        asked = urllib.request.Request(f"{address}/api/search", body, {"content-type": "application/json"})
        with urllib.request.urlopen(asked, timeout=120) as reply:
            return [(found["path"], found["score"]) for found in json.load(reply)["results"]]

    with served.running(searcher) as address:
        before = ask(address)
        table = tmp_path / "photos" / "photos.jsonl"
        table.write_text("".join(table.read_text().splitlines(keepends=True)[:5]))
        build(table, folder)
        assert len(open_searcher(folder).index.vectors) == 5
        assert ask(address) == before
        shutil.rmtree(folder)
        assert ask(address) == before
        with urllib.request.urlopen(f"{address}/api/photos/9", timeout=120) as reply:
            assert reply.status == 200
