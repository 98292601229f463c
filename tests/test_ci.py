"""`.ci/run` with stand-ins for `make` and the Pythons: which Python gets which tests."""

import os
import shutil
import subprocess

import pytest

from tests.conftest import ROOT

# Asked for its version as `.ci/run` asks: its exit code says whether it is the one.
PYTHON = """#!/bin/sh
case "$2" in *"'{version}'"*) exit 0 ;; *) exit 1 ;; esac
"""
SHIM = "#!/bin/sh\necho 'pyenv: python3.13: command not found' >&2\nexit 127\n"


def program(path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def run(tmp_path):
    """`run(failing)`: (the finished process, the calls of make), `make` failing at that target."""
    (tmp_path / "project/.ci").mkdir(parents=True)
    shutil.copy(ROOT / ".ci/run", tmp_path / "project/.ci/run")
    program(tmp_path / "bin/chromium", "#!/bin/sh\n")

    def start(failing: str = "none") -> tuple[subprocess.CompletedProcess, list[str]]:
        called = tmp_path / "called"
        called.write_text("")
        make = f'#!/bin/sh\necho "$*" >>{called}\ncase "$*" in *{failing}*) exit 2 ;; esac\n'
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
    """pyenv's own program on the PATH does not work; the one that it keeps does."""
    program(tmp_path / "bin/python3.13", SHIM)
    newer = program(tmp_path / "pyenv/versions/3.13.0/bin/python3.13", PYTHON.format(version="3.13"))
    done, called = run()
    assert done.returncode == 0, done.stderr
    assert called == [f"VENV=.venv313 PYTHON={newer} test", "test-slow", "test-torch", "docs"]


def test_one_on_the_path_comes_first(run, tmp_path):
    program(tmp_path / "pyenv/versions/3.13.0/bin/python3.13", PYTHON.format(version="3.13"))
    newer = program(tmp_path / "bin/python3.13", PYTHON.format(version="3.13"))
    assert run()[1][0] == f"VENV=.venv313 PYTHON={newer} test"


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
    assert done.returncode == 0 and called == ["test", "test-slow", "test-torch", "docs"]
    assert "there is no Python 3.13 here" in done.stdout


@pytest.mark.parametrize("failing", ["VENV=.venv313", "test-slow", "docs"])
def test_what_fails_ends_it(failing, run, tmp_path):
    program(tmp_path / "bin/python3.13", PYTHON.format(version="3.13"))
    done, called = run(failing)
    assert done.returncode != 0 and failing in called[-1]
