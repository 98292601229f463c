"""launch/local.sh with real processes."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests import without_tensorflow
from tests.conftest import ROOT, quick_environment
from tests.ports import free_port
from tests.train.test_resume import rows

pytestmark = pytest.mark.slow
FLAGS = ["--config.total_steps=12", "--config.eval_every=0", "--config.checkpoint_every=2"]


@pytest.fixture
def begin(tiny, tmp_path_factory):
    """Returns `begin(workdir)`, which starts local.sh with the tiny run as two processes of two devices."""

    site = without_tensorflow.environment(tmp_path_factory.mktemp("site"))

    def start(workdir) -> subprocess.Popen:
        settings = {"DEVICES": "2", "PORT": str(free_port()), "PYTHONUNBUFFERED": "1"}
        python = {"PYTHON": os.sys.executable, **site}
        return subprocess.Popen(
            [ROOT / "launch/local.sh", "--config", tiny["config"], "--workdir", str(workdir), *FLAGS],
            env={**os.environ, **quick_environment(), **settings, **python},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    return start


def wait_for_step(process, workdir, step: int) -> None:
    path = workdir / "metrics.jsonl"
    while not (path.exists() and any(row["step"] >= step for row in rows(workdir))):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def processes_of(script: int) -> list[int]:
    """Returns the ids of the Python processes that a script has started."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(script)], capture_output=True, text=True)
    words = [(int(pid), Path(f"/proc/{pid}/cmdline").read_bytes()) for pid in found.stdout.split()]
    return [pid for pid, line in words if b"tpr_jax.main" in line]


def test_restarts_after_a_process_is_killed(begin, tmp_path):
    workdir = tmp_path / "run"
    script = begin(workdir)
    wait_for_step(script, workdir, 7)  # after a checkpoint, which takes a moment to write
    os.kill(processes_of(script.pid)[1], signal.SIGKILL)
    stdout, stderr = script.communicate(timeout=600)
    assert script.returncode == 0, stderr
    assert "restarting (1 of 3)" in stderr and "process 1 ended unexpectedly" in stderr
    assert re.search(r"resumed at step \d+ of 12", stdout), (stdout, stderr)
    assert (workdir / "results.json").exists()
    assert [row["step"] for row in rows(workdir) if "loss" in row] == list(range(1, 13))


def test_sigterm_saves_and_stops_the_run(begin, tmp_path):
    workdir = tmp_path / "run"
    script = begin(workdir)
    wait_for_step(script, workdir, 3)
    os.killpg(script.pid, signal.SIGTERM)
    stdout, stderr = script.communicate(timeout=600)
    assert script.returncode == 0, stderr
    assert "resume with: python -m tpr_jax.main --config" in stdout
    assert not (workdir / "results.json").exists() and "restarting" not in stderr, stderr
