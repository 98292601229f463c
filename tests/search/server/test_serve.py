"""The command `serve`: it listens, answers and stops."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from fastapi.testclient import TestClient

from tests import served
from tests.conftest import ROOT, _environment
from tpr_jax.errors import UserError
from tpr_jax.search.__main__ import main, run
from tpr_jax.search.index.build import build
from tpr_jax.search.query.search import open_searcher
from tpr_jax.search.server import listen, serve


@pytest.fixture(scope="module")
def index(tiny, tmp_path_factory):
    return served.make_index(tmp_path_factory.mktemp("serve"), tiny["clip"])


STARTUP = 300  # seconds to wait for a child that imports JAX and compiles, on a busy machine


@contextlib.contextmanager
def child(command):
    """Runs a command with pipes as its stdout and stderr; kills it at the end."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, env=_environment(), stdout=pipe, stderr=pipe, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_serves_until_a_signal(index, how):
    command = [sys.executable, "-m", "tpr_jax.search", "serve", "--index", str(index), "--port", "0"]
    with child(command) as process:
        line = served.read_line(process, STARTUP)
        address = re.fullmatch(r"14 photos at (http://127\.0\.0\.1:\d+/) \(Ctrl-C ends it\)\n", line)[1]
        body = json.dumps({"text": "a red coat", "top_k": 2}).encode()
        request = urllib.request.Request(f"{address}api/search", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=served.PATIENCE) as reply:
            assert len(json.load(reply)["results"]) == 2 and "server" not in reply.headers
        process.send_signal(how)
        output, errors = process.communicate(timeout=served.PATIENCE)
        assert (process.returncode, output) == (0, "ended\n"), errors
        assert "Traceback" not in errors


def test_stops_while_loading_like_while_serving(index, monkeypatch, capsys):
    """SIGTERM that arrives before the server listens ends the command in the same way."""

    def interrupted(searcher):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(served.PATIENCE)

    monkeypatch.setattr(serve, "warm_up", interrupted)
    before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        assert main(["serve", "--index", str(index), "--port", "0"]) == 0
    finally:
        for number, handler in before:
            signal.signal(number, handler)
    assert capsys.readouterr() == ("ended\n", "")


def test_rejects_a_port_in_use(index):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"--port {port} of --host 127\.0\.0\.1: cannot listen"):
            listen.bind("127.0.0.1", port)


def test_reports_a_port_in_use_before_anything_is_loaded(tmp_path):
    code = "import sys; from tpr_jax.search.__main__ import main; code = main(sys.argv[1:]); "
    code += "print({'jax', 'numpy', 'uvicorn'} & set(sys.modules)); sys.exit(code)"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-c", code, "serve", "--index", str(tmp_path / "none"), "--port", port]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "set()\n")
    assert done.stderr.startswith(f"error: --port {port} of --host 127.0.0.1: cannot listen")
    assert done.stderr.count("\n") == 1


def test_listens_on_loopback_only():
    with listen.bind("127.0.0.1", 0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
    with listen.bind("localhost", 0) as listener:
        assert listener.getsockname()[0] in ("127.0.0.1", "::1")


def test_warns_if_others_can_reach_it(index, monkeypatch):
    monkeypatch.setattr(serve.uvicorn.Server, "run", lambda self, sockets: None)
    lines = []
    serve.serve(index, host="0.0.0.0", port=0, log=lines.append)
    assert lines[0].startswith("warning: anyone who can reach this machine") and "14 photos at" in lines[1]
    lines.clear()
    serve.serve(index, port=0, log=lines.append)
    assert len(lines) == 1


@pytest.mark.parametrize(("flags", "scenes"), [([], True), (["--no_playback"], False)])
def test_no_playback_switches_scenes_off(index, monkeypatch, flags, scenes):
    def ask(server, sockets):
        asgi = server.config.app
        reply = TestClient(asgi, base_url="http://127.0.0.1").get("/api/index")
        answers.append(reply.json()["scenes"])

    answers = []
    monkeypatch.setattr(serve.uvicorn.Server, "run", ask)
    monkeypatch.setattr(serve, "exit_if_busy", lambda threads: None)
    run(["serve", "--index", str(index), "--port", "0", *flags])
    assert answers == [scenes]


def test_searching_does_not_import_the_server():
    code = "import sys, tpr_jax.search.query.search, tpr_jax.search.__main__; "
    code += "print([name for name in ('fastapi', 'uvicorn', 'starlette') if name in sys.modules])"
    command = [sys.executable, "-c", code]
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert completed.stdout == "[]\n"


STUCK = """
import sys, threading, time
from tpr_jax.search.server import images
from tpr_jax.search.__main__ import main, run
def stuck(data, size=None):
    print("stuck", flush=True)
    while True:
        time.sleep(1)
images.read_upload = stuck
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_stops_while_decoding_hangs(index, how):
    """Stops although two decodings hang, others wait for them, and a client is slow."""
    command = [sys.executable, "-c", STUCK, "serve", "--index", str(index), "--port", "0"]
    with child(command) as process:
        port = int(re.search(r"127\.0\.0\.1:(\d+)/", served.read_line(process, STARTUP))[1])
        head = b"POST /api/search/photo HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 3\r\n\r\n"
        sockets = [socket.create_connection(("127.0.0.1", port), served.PATIENCE) for _ in range(5)]
        for one in sockets[:4]:
            one.sendall(head + b"abc")
        sockets[4].sendall(head + b"a")
        assert [served.read_line(process) for _ in range(2)] == ["stuck\n"] * 2
        process.send_signal(how)
        output, errors = process.communicate(timeout=served.PATIENCE)
        assert (process.returncode, output) == (0, "ended\n"), errors
        assert "Traceback" not in errors
        assert all(b"503" in one.recv(15) for one in sockets[:4])
        for one in sockets:
            one.close()


def test_rejects_a_port_taken_while_loading(index, monkeypatch):
    """Another program binds the port too, and is the first to listen."""
    taken = socket.socket()
    real = serve.warm_up

    def slow(searcher):
        real(searcher)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()

    with listen.bind("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    monkeypatch.setattr(serve, "warm_up", slow)
    with taken, pytest.raises(UserError, match=rf"--port {port} of --host .*cannot listen.*--port 0"):
        serve.serve(index, port=port)


def test_follows_the_index(tiny, tmp_path):
    """The whole command: answers from the new index without a restart, and ends as quickly as before."""
    folder = served.make_index(tmp_path, tiny["clip"])
    command = [sys.executable, "-m", "tpr_jax.search", "serve", "--index", str(folder), "--port", "0"]
    with child(command) as process:
        address = re.search(r"http://\S+", served.read_line(process, STARTUP))[0]
        table = tmp_path / "photos" / "photos.jsonl"
        table.write_text("".join(table.read_text().splitlines(keepends=True)[:5]))
        build(table, folder)
        assert served.read_line(process) == "the index has changed: 5 photos now\n"
        body = json.dumps({"text": "a red coat"}).encode()
        request = urllib.request.Request(f"{address}api/search", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=served.PATIENCE) as reply:
            assert len(json.load(reply)["results"]) == 5
        (folder / "index.json").write_text("{")
        assert "still serving the 5 photos of before" in served.read_line(process)
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=served.PATIENCE)
        assert (process.returncode, output) == (0, "ended\n"), errors


def test_keeps_serving_an_index_that_is_replaced_or_removed(tiny, tmp_path):
    """The server keeps using the files that it has open, here without following the index."""
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
