"""Ctrl-C in the first moments of a command: one line and exit code 130, whatever Python is doing."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tpr_jax.__main__ import COMMANDS
from tpr_jax.cli import start

LINE = f"{start.INTERRUPTED[1]}\n"


@pytest.mark.parametrize(
    ("argv", "original", "expected"),
    [
        (["-m", "query", "a"], ["python", "-m", "tpr_jax.search", "query", "a"], True),
        (["-m"], ["python", "-X", "dev", "-mtpr_jax.main"], True),
        (["-m"], ["python", "-m", "tpr_jax"], True),
        (["/bin/tpr-jax", "search"], ["python", "/bin/tpr-jax", "search"], True),
        (["tpr-jax.exe"], ["tpr-jax.exe"], True),
        (["-m", "x"], ["python", "-m", "tpr_jaxen", "x"], False),
        (["-m", "tpr_jax.search"], ["python", "-m", "pytest", "tpr_jax.search"], False),
        # Their own program, and a process that `multiprocessing` starts with its parent's arguments.
        (["mine.py", "tpr_jax"], ["python", "mine.py", "tpr_jax"], False),
        (["/bin/tpr-jax"], ["python", "-c", "from multiprocessing.spawn import spawn_main; ..."], False),
        ([""], ["python"], False),
        ([], ["python"], False),
        (["a", "b", "c"], ["a"], False),
    ],
)
def test_is_command(argv, original, expected):
    assert start.is_command(argv, original) is expected


def test_nothing_slow_is_imported_before_ctrl_c_is_handled():
    code = "import sys; before = set(sys.modules); import tpr_jax.cli.start; "
    code += "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    command = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    light = {"tpr_jax", "atexit", "gc", "signal", "collections", "enum", "types", "operator", "functools"}
    light |= {"itertools", "keyword", "reprlib", "_collections", "_operator", "_functools", "builtins"}
    assert set(done.stdout.split()) <= light


# Commands set how often garbage is collected; a program that imports the package keeps its own setting.
THRESHOLD = "import gc; gc.set_threshold(123); "
PRINTED = "import atexit; atexit.register(lambda: print(gc.get_threshold()[0])); "


@pytest.mark.parametrize(
    ("words", "expected"), [(["tpr_jax", "--version"], start.OBJECTS_PER_COLLECTION), (["mine"], 123)]
)
def test_only_a_command_collects_garbage_less_often(tmp_path, words, expected):
    (tmp_path / "sitecustomize.py").write_text(THRESHOLD + PRINTED)
    (tmp_path / "mine.py").write_text("import tpr_jax.cli.exit")
    environment = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = run([sys.executable, "-m", *words], **environment)
    assert done.stdout.splitlines()[-1:] == [str(expected)], done.stderr


# Python runs this file before anything else. It sends the process SIGINT at the n-th import that follows the
# first one of a module, as Ctrl-C would.
SITE = """
import os, signal, sys

class Finder:
    started, sought = False, 0

    def find_spec(self, name, path=None, target=None):
        Finder.started = Finder.started or name == os.environ["TEST_FIRST"]
        Finder.sought += Finder.started
        if Finder.sought == int(os.environ["TEST_AT"]):
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
"""


def interrupted(folder, at: int, *words, first: str = "shlex") -> subprocess.CompletedProcess:
    """Runs a command that is interrupted; `shlex` is the first module that it imports after `cli.start`."""
    (folder / "sitecustomize.py").write_text(SITE)
    environment = {"PYTHONPATH": f"{folder}", "TEST_AT": str(at), "TEST_FIRST": first}
    return run([sys.executable, "-m", *map(str, words)], **environment)


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=600,
    )


MODULES = sorted({command.module for command in COMMANDS.values() if command.module})


@pytest.mark.parametrize("module", [*MODULES, "tpr_jax"])
@pytest.mark.parametrize("at", [1, 60])
def test_one_line_and_130_during_the_imports_of_every_command(tmp_path, module, at):
    ended = interrupted(tmp_path, at, module, "--help" if at == 1 else "x")
    if module in ("tpr_jax.compare", "tpr_jax.reproduce") and at > 1:
        assert "error: stopped at its beginning; resume with: " in ended.stderr
    elif ended.returncode == 2 and at > 1:  # few imports, so the unknown argument is reported before
        assert ended.stderr.startswith("error: ")
        return
    else:
        assert ended.stderr == LINE
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (130, "", 1), ended


@pytest.mark.parametrize("at", [200, 500, 800])
@pytest.mark.parametrize("words", [["query", "a red coat"], ["serve", "--port", "0"]], ids=["query", "serve"])
def test_one_line_and_130_while_jax_is_imported(tmp_path, words, at):
    """Extension modules crash, and some modules continue, if an import raises KeyboardInterrupt."""
    ended = interrupted(tmp_path, at, "tpr_jax.search", *words, "--index", tmp_path / "none")
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", LINE)


# A command that is interrupted at a moment of its own choice; argv[1] says which.
COMMAND = """
import atexit, os, signal, sys, threading
from tpr_jax.cli import start
from tpr_jax.cli.exit import explain_and_exit
from tpr_jax.utils.streams import suppress_stderr

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)

if sys.argv[1] == "while Python shuts down":
    atexit.register(interrupt)  # what is registered first is called last
start.IS_COMMAND = True
start.begin()

class Interrupting:
    def __del__(self):
        interrupt()

def command(argv):
    try:
        if argv[1] == "once":
            interrupt()
        elif argv[1] == "in a finalizer":
            Interrupting()
        elif argv[1] == "while stderr is hidden":
            with suppress_stderr():
                sys.path.insert(0, argv[2])
                import interrupting
        elif argv[1] == "with a busy thread":
            threading.Thread(target=threading.Event().wait).start()
            interrupt()
        elif argv[1] == "at its end":
            atexit.register(interrupt)
    finally:
        print("removed")
        if argv[2:] == ["twice"]:
            interrupt()

explain_and_exit(command, sys.argv)
"""


@pytest.mark.parametrize(
    ("moment", "out"),
    [
        (["once"], "removed\n"),
        (["once", "twice"], "removed\n"),
        (["in a finalizer"], ""),
        (["with a busy thread"], "removed\n"),
    ],
    ids=" ".join,
)
def test_one_line_and_130_while_a_command_runs(moment, out):
    ended = run([sys.executable, "-c", COMMAND, *moment])
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, out, LINE)


def test_one_line_and_130_during_an_import_that_hides_stderr(tmp_path):
    (tmp_path / "interrupting.py").write_text("interrupt = __import__('__main__').interrupt; interrupt()")
    ended = run([sys.executable, "-c", COMMAND, "while stderr is hidden", str(tmp_path)])
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", LINE)


@pytest.mark.parametrize(("moment", "code"), [("at its end", 130), ("while Python shuts down", 0)])
def test_no_traceback_once_a_command_is_done(moment, code):
    ended = run([sys.executable, "-c", COMMAND, moment])
    assert (ended.returncode, ended.stdout) == (code, "removed\n")
    assert ended.stderr == (LINE if code else "")


def test_a_program_that_calls_a_command_goes_on():
    code = "import sys, tpr_jax.__main__ as command\n"
    code += "sys.argv = ['x', 'search', 'query', 'a', '--index', 'none']\n"
    code += "try:\n    command.main()\nexcept SystemExit as ended:\n    print('continues', ended.code)"
    ended = run([sys.executable, "-c", code])
    assert (ended.returncode, ended.stdout) == (0, "continues 2\n"), ended
