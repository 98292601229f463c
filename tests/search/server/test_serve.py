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
import threading
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
from tpr_jax.search.server import serve
from tpr_jax.search.server.listen import listen


@pytest.fixture(scope="module")
def index(tiny, tmp_path_factory):
    return served.make_index(tmp_path_factory.mktemp("serve"), tiny["clip"])


STARTUP = 300  # seconds to wait for a child that imports JAX and compiles, on a busy machine


@contextlib.contextmanager
def child(command, stdin=None):
    """Runs a command with pipes as its stdout and stderr; kills it at the end."""
    pipes = {"stdin": stdin, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=ROOT, env=_environment(), text=True, **pipes)
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
    assert main(["serve", "--index", str(index), "--port", "0"]) == 0
    assert capsys.readouterr() == ("ended\n", "")


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
import os, sys, time
from tpr_jax.search.server import images
from tpr_jax.search.__main__ import main
def stuck(data, size=None):
    os.write(1, b"stuck\\n")  # in one piece: print() of two threads can mix their lines
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


def test_holds_its_port_from_the_start(index, monkeypatch):
    """Nobody else can take the port while the model loads; a client that is early waits for its answer."""
    real, replies = serve.warm_up, []

    def slow(searcher):
        with pytest.raises(UserError, match=rf"--port {port} of --host 127.0.0.1: cannot listen.*--port 0"):
            listen("127.0.0.1", port)
        early.connect(("127.0.0.1", port))
        early.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        real(searcher)

    def read(early):
        with early.makefile("rb") as reply:
            replies.append(reply.read())
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(serve, "warm_up", slow)
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    with socket.socket() as early:
        ready = threading.Thread(target=read, args=(early,))
        serve.serve(index, listener=listener, log=lambda line: None, ready=lambda remove: ready.start())
        ready.join(served.PATIENCE)
    assert replies[0].startswith(b"HTTP/1.1 200") and listener.fileno() == -1


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1"])
def test_of_two_servers_that_start_at_once_one_serves(index, host):
    """Both wait for the test at the moment between binding the port and listening on it."""
    try:
        free = listen(host, 0)
    except UserError:
        pytest.skip(f"this machine has no {host}")
    with free:
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", AT_ONCE, "serve", "--index", str(index), "--host", host, "--port", port]
    with child(command, stdin=subprocess.PIPE) as one, child(command, stdin=subprocess.PIPE) as other:
        assert {served.read_line(process, STARTUP) for process in (one, other)} == {"bound\n"}
        for process in (one, other):
            process.stdin.write("go\n")
            process.stdin.flush()
        lines = {process: served.read_line(process, STARTUP) for process in (one, other)}
        # The loser prints what it has imported, and ends.
        loser = one if lines[one] == "set()\n" else other
        server = other if loser is one else one
        assert lines[loser] == "set()\n"
        output, errors = loser.communicate(timeout=served.PATIENCE)
        assert (loser.returncode, output) == (2, "") and errors.count("\n") == 1
        told = f"error: --port {port} of --host {host}: cannot listen (Address already in use): try --port 0"
        assert errors.strip() == told
        line = lines[server] if "photos at" in lines[server] else served.read_line(server, STARTUP)
        address = re.search(r"http://\S+", line)[0].replace("0.0.0.0", "127.0.0.1")
        with urllib.request.urlopen(f"{address}healthz", timeout=served.PATIENCE) as reply:
            assert reply.status == 200
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=served.PATIENCE)
        assert server.returncode == 0


AT_ONCE = """
import socket, sys
from tpr_jax.search.__main__ import main

class Slow(socket.socket):
    def listen(self, *args):
        if not sys.stdin.closed:
            print("bound", flush=True)
            sys.stdin.readline()
            sys.stdin.close()
        super().listen(*args)

socket.socket = Slow
code = main(sys.argv[1:])
if code:
    print({"jax", "numpy", "uvicorn"} & set(sys.modules), flush=True)
sys.exit(code)
"""


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
