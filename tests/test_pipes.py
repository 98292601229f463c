"""Commands whose output nobody reads to its end; each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tpr_jax.pipes import stderr_nowhere

ROOT = Path(__file__).parent.parent
BEGIN = "import sys\nfrom tpr_jax.pipes import quiet_when_closed\nwith quiet_when_closed():\n    "


def without_reader(*command, closed="stdout", unbuffered=False) -> tuple[int, str]:
    """(exit code, the other stream) of a command, one stream of which is a pipe without reader."""
    reader, writer = os.pipe()
    os.close(reader)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, closed: writer}
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    if unbuffered:
        environment["PYTHONUNBUFFERED"] = "1"
    process = subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, env=environment, text=True, timeout=200, **streams
    )
    os.close(writer)
    return process.returncode, process.stderr if closed == "stdout" else process.stdout


@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize("code", ["print('one line')", "print('x' * 10**6)", "print('help'); sys.exit(0)"])
def test_it_ends_without_a_word(code, unbuffered):
    assert without_reader("-c", BEGIN + code, unbuffered=unbuffered) == (141, "")


def test_it_ends_at_the_line_that_fails():
    code = BEGIN + "print('a line', flush=True); print('never reached', file=sys.stderr)"
    assert without_reader("-c", code) == (141, "")


def test_closed_stderr():
    code = BEGIN + "print('fine', flush=True); print('error: x', file=sys.stderr); raise SystemExit(2)"
    assert without_reader("-c", code, closed="stderr") == (141, "fine\n")


def test_other_errors_stay_as_they_are():
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + "1 / 0"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr


def test_stderr_goes_nowhere_for_a_while(capfd):
    echo = [sys.executable, "-c", "import sys; sys.exit('from a child')"]
    with stderr_nowhere() as saved:
        os.write(2, b"from C")
        subprocess.run(echo, timeout=60)
        os.write(saved, b"on purpose\n")
    subprocess.run(echo, timeout=60)
    assert capfd.readouterr().err == "on purpose\nfrom a child\n"


@pytest.mark.parametrize("module", ["tpr_jax.main", "tpr_jax.data.mini_pedes"])
def test_help_of_the_commands(module):
    assert without_reader("-m", module, "--help") == (141, "")


def test_mini_pedes_is_whole_all_the_same(tmp_path):
    flags = ["--out", tmp_path / "d", "--split", "test", "--identities", 1, "--size", "48x16"]
    code, said = without_reader("-m", "tpr_jax.data.mini_pedes", *flags, "--processes", 1)
    assert code == 141 and "Error" not in said  # the progress bar is on stderr
    assert (tmp_path / "d" / "reid_raw.json").exists()
