"""Commands whose output is not read to its end, each in its own process."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import benchmark_folders
from tpr_jax.utils.streams import as_json, print_any_text, suppress_stderr

ROOT = Path(__file__).parents[2]
BEGIN = "import sys\nfrom tpr_jax.utils.streams import quiet_when_closed\nwith quiet_when_closed():\n    "


def without_reader(*command, closed="stdout", unbuffered=False) -> tuple[int, str]:
    """Runs a command with one stream closed; returns (exit code, the other stream)."""
    reader, writer = os.pipe()
    os.close(reader)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, closed: writer}
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    if unbuffered:
        environment["PYTHONUNBUFFERED"] = "1"
    process = subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, env=environment, text=True, timeout=600, **streams
    )
    os.close(writer)
    return process.returncode, process.stderr if closed == "stdout" else process.stdout


@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize("code", ["print('one line')", "print('x' * 10**6)", "print('help'); sys.exit(0)"])
def test_ends_silently_when_the_pipe_closes(code, unbuffered):
    assert without_reader("-c", BEGIN + code, unbuffered=unbuffered) == (141, "")


def test_ends_at_the_line_that_fails():
    code = BEGIN + "print('a line', flush=True); print('never reached', file=sys.stderr)"
    assert without_reader("-c", code) == (141, "")


def test_closed_stderr():
    code = BEGIN + "print('fine', flush=True); print('error: x', file=sys.stderr); raise SystemExit(2)"
    assert without_reader("-c", code, closed="stderr") == (141, "fine\n")


def test_other_errors_stay_as_they_are():
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + "1 / 0"], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr


def test_suppresses_stderr(capfd):
    echo = [sys.executable, "-c", "import sys; sys.exit('from a child')"]
    with suppress_stderr() as saved:
        os.write(2, b"from C")
        subprocess.run(echo, timeout=600)
        os.write(saved, b"on purpose\n")
    subprocess.run(echo, timeout=600)
    assert capfd.readouterr().err == "on purpose\nfrom a child\n"


@pytest.mark.parametrize("module", ["tpr_jax", "tpr_jax.main", "tpr_jax.data.mini_pedes"])
def test_help_of_the_commands(module):
    assert without_reader("-m", module, "--help") == (141, "")


@pytest.mark.parametrize("argument", ["configs", "--version"])
def test_short_answers_of_the_front_command(argument):
    assert without_reader("-m", "tpr_jax", argument) == (141, "")


def test_mini_pedes_is_whole_all_the_same(tmp_path):
    flags = ["--out", tmp_path / "d", "--split", "test", "--identities", 1, "--size", "48x16"]
    code, said = without_reader("-m", "tpr_jax.data.mini_pedes", *flags, "--processes", 1)
    assert code == 141 and "Error" not in said  # the progress bar is on stderr
    assert (tmp_path / "d" / "reid_raw.json").exists()


PRINTED = "print('caf\\xe9 \\udcff \\ud83d'); print('caf\\xe9 \\ud83d', file=sys.stderr)"


@pytest.mark.parametrize(
    ("encoding", "letter"),
    [("ascii", b"\\xe9"), ("latin-1", b"\xe9"), ("utf-8", b"\xc3\xa9"), ("cp437", b"\x82")],
)
def test_prints_any_text(encoding, letter):
    """Characters that the encoding lacks are escaped as Python does."""
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + PRINTED], cwd=ROOT, env=environment, capture_output=True, timeout=600
    )
    assert (done.returncode, done.stdout) == (0, b"caf" + letter + b" \\udcff \\ud83d\n")
    assert done.stderr == b"caf" + letter + b" \\ud83d\n"


def test_keeps_another_error_handler():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:replace"}
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + PRINTED], cwd=ROOT, env=environment, capture_output=True, timeout=600
    )
    assert done.stdout == b"caf? ? ?\n"


def test_ignores_streams_without_reconfigure(monkeypatch):
    class Notebook:
        errors = "strict"

    monkeypatch.setattr(sys, "stdout", Notebook())
    monkeypatch.setattr(sys, "stderr", None)
    print_any_text()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_stays_json(encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    for text in ("caf\u00e9", "\u65e5", "\udcff", "plain"):
        written = as_json({"path": text}, stream)
        assert json.loads(written) == {"path": text}
        written.encode(encoding)
    assert ("\u00e9" in as_json("\u00e9", stream)) == (encoding != "ascii")


def test_every_command_uses_quiet_when_closed():
    """Every module that `python -m` runs uses it."""
    ways = ("quiet_when_closed()", "explain_and_exit(", "print_any_text()")
    modules = [
        path for path in (ROOT / "tpr_jax").rglob("*.py") if '__name__ == "__main__"' in path.read_text()
    ]
    assert len(modules) > 15
    for path in modules:
        whole = path.read_text()
        text = whole.partition('__name__ == "__main__"')[2]
        if "main(" in text:  # a function above
            text = whole
        assert any(way in text for way in ways), path


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_search_on_a_terminal_in_ascii(tmp_path, form):
    photos = tmp_path / "caf\u00e9"
    for number in range(2):
        benchmark_folders.draw(photos / f"Zo\u00eb {number}.jpg", number)
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}

    def search(*words):
        command = [
            sys.executable,
            "-m",
            "tpr_jax.search",
            *map(str, words),
            "--index",
            str(tmp_path / "index"),
        ]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=500)

    done = search("index", photos)
    assert done.returncode == 0, done.stderr
    done = search("query", "a caf\u00e9 \u2019 \udce9", *form)
    assert done.returncode == 0, done.stderr
    if form:
        told = json.loads(done.stdout)
        assert told["query"]["text"] == "a caf\u00e9 \u2019 \udce9"
        assert {found["path"] for found in told["results"]} == {"Zo\u00eb 0.jpg", "Zo\u00eb 1.jpg"}
    else:
        assert rb"Zo\xeb 0.jpg" in done.stdout
