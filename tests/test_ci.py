"""`.ci/run` with stand-ins for `make` and the Pythons: which Python gets which tests."""

import fnmatch
import os
import shutil
import subprocess

import pytest

from tests.conftest import ROOT

# Asked for its version as `.ci/run` asks: its exit code says whether it is the one.
PYTHON = """#!/bin/sh
case "$2" in *"'{version}'"*) exit 0 ;; *) exit 1 ;; esac
"""
# The targets that install packages in the background.
NEWER, TORCH = ".venv313/.test-tools", ".venv/.torch .venv/.docs"
QUICK = "MARKS=not torch and not slow test"
BOTH = "MARKS=(golden or everywhere and not long) and not torch test-slow"
SLOW = "MARKS=slow or torch test-torch"
SHIM = "#!/bin/sh\necho 'pyenv: python3.13: command not found' >&2\nexit 127\n"


def program(path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def run(tmp_path):
    """`run(failing)`: (the finished process, the calls of make); a call that fits the pattern fails."""
    (tmp_path / "project/.ci").mkdir(parents=True)
    shutil.copy(ROOT / ".ci/run", tmp_path / "project/.ci/run")
    program(tmp_path / "bin/chromium", "#!/bin/sh\n")

    def start(failing: str = "none") -> tuple[subprocess.CompletedProcess, list[str]]:
        called = tmp_path / "called"
        called.write_text("")
        # With BYTECODE set to nothing, `make` installs without compiling all files.
        make = '#!/bin/sh\ntest -z "${BYTECODE-unset}" || exit 3\n'
        make += f'echo "$*" >>{called}\necho "log of $*"\ncase "$*" in {failing}) exit 2 ;; esac\n'
        program(tmp_path / "bin/make", make)
        variables = {
            "PATH": f"{tmp_path / 'bin'}:{os.path.dirname(shutil.which('dirname'))}",
            "HOME": str(tmp_path / "home"),
            "PYENV_ROOT": str(tmp_path / "pyenv"),
        }
        done = subprocess.run(
            [shutil.which("bash"), tmp_path / "project/.ci/run"],
            env=variables,
            capture_output=True,
            text=True,
            timeout=300,
        )
        return done, called.read_text().splitlines()

    return start


def test_both_pythons_have_their_part(run, tmp_path):
    """pyenv's shim on the PATH does not work, but the interpreter behind it does."""
    program(tmp_path / "bin/python3.13", SHIM)
    newer = program(tmp_path / "pyenv/versions/3.13.0/bin/python3.13", PYTHON.format(version="3.13"))
    done, called = run()
    assert done.returncode == 0, done.stderr
    other = f"VENV=.venv313 PYTHON={newer}"
    assert [one for one in called if one not in (f"{other} {NEWER}", TORCH)] == [
        ".venv/.test-tools",
        QUICK,
        f"{other} {BOTH}",
        SLOW,
        "docs",
    ]
    # An environment is complete before tests run in it, and does not change while they do.
    assert called.index(f"{other} {NEWER}") < called.index(f"{other} {BOTH}")
    assert called.index(QUICK) < called.index(TORCH) < called.index(SLOW)
    assert all(f"log of {one}\n" in done.stdout for one in called)


def test_one_on_the_path_comes_first(run, tmp_path):
    program(tmp_path / "pyenv/versions/3.13.0/bin/python3.13", PYTHON.format(version="3.13"))
    newer = program(tmp_path / "bin/python3.13", PYTHON.format(version="3.13"))
    assert f"VENV=.venv313 PYTHON={newer} {BOTH}" in run()[1]


@pytest.mark.skipif(
    any(os.path.exists(f"{folder}/python3.13") for folder in ("/usr/bin", "/usr/local/bin")),
    reason="there is a Python 3.13 that cannot be hidden",
)
def test_without_another_python_all_runs_on_the_first(run, tmp_path):
    program(tmp_path / "bin/python3.13", SHIM)
    program(
        tmp_path / "pyenv/versions/3.13.0/bin/python3.13", PYTHON.format(version="3.12")
    )  # not what it is called
    done, called = run()
    assert done.returncode == 0
    assert called == [".venv/.test-tools", QUICK, TORCH, SLOW, "docs"]
    assert "Python 3.13 is not available" in done.stdout


@pytest.mark.parametrize(
    "failing, later",
    [
        (".venv/.test-tools", {QUICK, BOTH, SLOW, "docs"}),
        ("*\\ test", {BOTH, SLOW, "docs"}),
        ("*313/.test-tools", {BOTH, SLOW, "docs"}),
        ("*test-slow", {SLOW, "docs"}),
        (".venv/.torch*", {SLOW, "docs"}),
        ("*test-torch", {"docs"}),
        ("docs", set()),
    ],
)
def test_a_failure_fails_the_run_and_shows_its_log(failing, later, run, tmp_path):
    """Jobs in the background are covered too."""
    program(tmp_path / "bin/python3.13", PYTHON.format(version="3.13"))
    done, called = run(failing)
    assert done.returncode == 2
    assert not [one for one in called if f" {one}".endswith(tuple(f" {target}" for target in later))]
    (failed,) = (one for one in called if fnmatch.fnmatch(one, failing.replace("\\", "")))
    assert f"log of {failed}\n" in done.stdout


@pytest.mark.skipif(
    shutil.which("chromium", path="/usr/bin:/bin") is not None, reason="Chromium cannot be hidden"
)
def test_a_browser_is_installed_where_there_is_none(run, tmp_path):
    asked = tmp_path / "asked"
    program(tmp_path / "bin/id", "#!/bin/sh\necho 0\n")
    program(tmp_path / "bin/apt-get", f'#!/bin/sh\necho "$*" >>{asked}\nexit 1\n')
    (tmp_path / "bin/chromium").unlink()
    done, _ = run()
    assert done.returncode == 0 and "update" in asked.read_text()
    assert "the tests of the page will be skipped" in done.stdout
