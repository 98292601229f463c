"""Queries of the command line that a running server answers."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

from tests import served
from tests.conftest import ROOT, _environment
from tests.search.server.test_serve import STARTUP, child
from tpr_jax.search.__main__ import main
from tpr_jax.search.query import search as search_module
from tpr_jax.search.query.search import open_searcher
from tpr_jax.search.server import local, serve

TIMES = re.compile(r'"(encode|search)_ms": [\d.e-]+|\d+ ms to')


@pytest.fixture(scope="module")
def index(tiny, tmp_path_factory):
    return served.make_index(tmp_path_factory.mktemp("local"), tiny["clip"])


def answering(index, engine="auto"):
    searcher = open_searcher(index)
    return local.answering(index, lambda question: serve.answer(searcher, engine, question))


@pytest.fixture
def only_the_server(monkeypatch):
    """Makes opening the index fail, so that only a server can answer."""

    def fail(*_):
        raise AssertionError("not answered by the server")

    return lambda: monkeypatch.setattr(search_module, "open_searcher", fail)


@pytest.mark.parametrize(
    "words",
    [
        ["a red coat", "--top_k", "3"],
        ["a man with a \u2603 bag", "--json", "--group", "0.9"],
        ["a red coat", "--where", "x is null", "--json"],
        ["a red coat", "--where", "x=("],
        ["a red coat", "--top_k", "0"],
        [" "],
    ],
    ids=" ".join,
)
def test_the_server_answers_to_the_letter(index, words, only_the_server, capsys):
    command = ["query", *words, "--index", str(index)]
    expected = main(command), *capsys.readouterr()
    with answering(index):
        only_the_server()
        answered = main(command), *capsys.readouterr()
    assert [TIMES.sub("", str(part)) for part in answered] == [TIMES.sub("", str(part)) for part in expected]


@pytest.mark.parametrize("words", [["--engine", "cpu"], ["--image", "PHOTO"], ["--model", "clip-mini"]])
def test_other_queries_open_the_index(index, words, only_the_server, tmp_path):
    only_the_server()
    words = [str(tmp_path / "photo.png") if word == "PHOTO" else word for word in words]
    with answering(index), pytest.raises(AssertionError, match="not answered by the server"):
        main(["query", "a red coat", *words, "--index", str(index)])


@pytest.mark.parametrize("name", ["version", "info", "engine"])
def test_a_question_about_another_index_is_not_answered(index, name):
    searcher = open_searcher(index)
    question = {"version": serve.__version__, "info": dict(searcher.index.info), "engine": "auto"}
    question |= {"text": "a red coat", "options": {"top_k": 1}}
    assert len(serve.answer(searcher, "auto", question)["result"]["results"]) == 1
    assert serve.answer(searcher, "auto", {**question, name: None}) == {}


def test_asks_only_this_users_server(tmp_path, monkeypatch):
    with local.answering(tmp_path, lambda question: {"said": question}):
        assert oct((tmp_path / local.NAME).stat().st_mode & 0o777) == "0o600"
        assert local.ask(tmp_path, {"a": 1}) == {"said": {"a": 1}}
        monkeypatch.setattr(os, "getuid", lambda: 54321)
        assert local.ask(tmp_path, {"a": 1}) is None
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == [] and local.ask(tmp_path, {"a": 1}) is None


def test_the_server_answers_only_its_own_user(tmp_path, monkeypatch):
    checked = []
    monkeypatch.setattr(local, "_is_own", lambda connection: bool(checked.append(1)) or len(checked) > 2)
    with local.answering(tmp_path, lambda question: {"said": question}):
        assert local.ask(tmp_path, {}) is None  # whichever side looks first
    assert checked


def test_damaged_questions_and_answers_change_nothing(tmp_path):
    with local.answering(tmp_path, lambda question: {"said": question["a"]}):
        assert local.ask(tmp_path, {"b": 1}) is None
        with local._address(tmp_path) as address, local._unix_socket() as connection:
            connection.connect(address)
            connection.sendall(b"GET / HTTP/1.1")
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(100) == b""
        assert local.ask(tmp_path, {"a": 1}) == {"said": 1}


def test_replaces_the_socket_of_a_killed_server_and_no_other_file(tmp_path):
    with local._address(tmp_path) as address, local._unix_socket() as left:
        left.bind(address)
    assert local.ask(tmp_path, {}) is None
    with local.answering(tmp_path, lambda question: {"said": 1}):
        with local.answering(tmp_path, lambda question: {"said": 2}):  # the first one continues to answer
            assert local.ask(tmp_path, {}) == {"said": 1}
        assert local.ask(tmp_path, {}) == {"said": 1}
    (tmp_path / local.NAME).write_text("a file of the user")
    with local.answering(tmp_path, lambda question: {"said": 3}):
        assert local.ask(tmp_path, {}) is None
    assert (tmp_path / local.NAME).read_text() == "a file of the user"


def test_long_paths_and_missing_folders(tmp_path):
    folder = tmp_path / ("long" * 40)
    folder.mkdir()
    with local.answering(folder, lambda question: {"said": 1}):
        expected = {"said": 1} if os.path.isdir("/proc/self/fd") else None
        assert local.ask(folder, {}) == expected
    with local.answering(tmp_path / "none", lambda question: {"said": 1}):
        assert local.ask(tmp_path / "none", {}) is None
    assert threading.active_count() < 50


def test_a_query_without_a_server_imports_only_what_it_needs(index, tmp_path):
    """The first query stores the compiled text tower, so that later ones do not even trace it."""
    heavy = ["numba", "faiss", "optax", "jax.experimental.pallas.tpu", "pyarrow.dataset", "urllib.request"]
    heavy += ["tensorflow", "transformers", "orbax"]
    for_tracing = ["flax", "tpr_jax.models.clip", "jaxlib.mlir.dialects.mhlo", "jax.extend"]
    for_others = ["pyarrow.compute", "tpr_jax.search.index.encode", "tpr_jax.distributed.processes"]
    for_others += ["tpr_jax.data.datasets", "jax.experimental.pallas"]
    code = "import json, sys; from tpr_jax.search.__main__ import main; code = main(sys.argv[2:]); "
    code += "print(*(name for name in json.loads(sys.argv[1]) if name in sys.modules), file=sys.stderr)"
    query = ["query", "a red coat", "--index", str(index), "--engine", "cpu", "--json"]
    environment = {**_environment(), "JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
    answers = []
    for unwanted in (heavy, heavy + for_tracing + for_others):
        command = [sys.executable, "-c", code, json.dumps(unwanted), *query]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=served.PATIENCE
        )
        assert (done.returncode, done.stderr) == (0, "\n")
        answers.append(json.loads(done.stdout)["results"])
    assert answers[0] == answers[1]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_server_answers_a_query_that_loads_nothing(index, how):
    command = [sys.executable, "-m", "tpr_jax.search", "serve", "--index", str(index), "--port", "0"]
    code = "import json, sys; from tpr_jax.search.__main__ import main; "
    code += "code = main(sys.argv[1:]); print({'jax', 'numpy'} & set(sys.modules)); sys.exit(code)"
    with child(command) as process:
        served.read_line(process, STARTUP)
        query = [sys.executable, "-c", code, "query", "a red coat", "--index", str(index), "--top_k", "2"]
        done = subprocess.run(query, cwd=ROOT, capture_output=True, text=True, timeout=served.PATIENCE)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.endswith("set()\n") and "14 photos searched" in done.stdout
        process.send_signal(how)
        process.communicate(timeout=served.PATIENCE)
    assert not (index / local.NAME).exists()
    assert json.loads((index / "index.json").read_text())["count"] == 14
