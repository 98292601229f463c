"""How a run of several processes ends; train/test_several_processes.py runs real ones."""

import errno
import signal
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from tpr_jax.cli.exit import verdict
from tpr_jax.distributed import processes
from tpr_jax.distributed.cluster import Peers
from tpr_jax.errors import UserError
from tpr_jax.utils.signals import Stopped

ROOT = str(Path(__file__).parents[2])


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("a.jpg: broken"), 2, "error: a.jpg: broken"),
        (
            Stopped(signal.SIGTERM, "stopped at step 3"),
            0,
            "stopped at step 3; resume with: python -m tpr_jax.main --config 'my config.py' --workdir w",
        ),
        (
            Stopped(signal.SIGINT, "stopped at step 3"),
            130,
            "error: stopped at step 3: rerun the same command to resume",
        ),
        (
            KeyboardInterrupt(),
            130,
            "error: interrupted; rerun the same command to resume",
        ),
        (
            OSError(errno.ENOSPC, "full", "/disk/a"),
            2,
            "error: no space left on the disk of /disk/a: "
            "free some space and rerun the same command to resume",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/mnt/tpr/a"),
            2,
            "error: /mnt/tpr/a: permission denied: check that this account may use that disk or bucket",
        ),
        (OSError(errno.EPERM, "no"), 1, ""),
        (ValueError("a bug"), 1, ""),
    ],
)
def test_verdict_of_each_error(error, code, line):
    argv = ["tpr_jax/main.py", "--config", "my config.py", "--workdir", "w"]
    assert verdict(error, argv) == (code, line)


def test_a_single_process_initializes_nothing():
    with processes.initialized(None, 1.0, "run", lambda error: (1, "")):
        pass
    with (
        pytest.raises(ValueError, match="a bug"),
        processes.initialized(None, 1.0, "run", lambda error: (1, "")),
    ):
        raise ValueError("a bug")


@pytest.mark.parametrize(
    ("peers", "address", "devices"),
    [
        (Peers("host:70", 2, 1, (2, 3)), "host:71", (2, 3)),
        (Peers("[::1]:70", 2, 1), "[::1]:71", None),  # all GPUs that the process sees
    ],
)
def test_initializes_jax_with_the_address_and_devices(monkeypatch, tmp_path, peers, address, devices):
    told = {}
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: told.update(k, arguments=a))
    monkeypatch.setattr(jax.config, "update", lambda *words: None)
    monkeypatch.setattr(processes.connections, "watch", lambda lines, ended: lambda timeout: True)
    monkeypatch.setattr(processes, "_connect", lambda place, workdir: met.append((place, workdir)) or {})
    monkeypatch.setattr(processes, "_python_stdout", lambda index: processes.sys.stdout)
    monkeypatch.setattr(processes, "_leave_jax", lambda: None)
    met: list = []
    with processes.initialized(peers, 5.0, tmp_path, lambda error: (1, "")):
        pass
    assert told["arguments"] == (address, 2, 1) and told["local_device_ids"] == devices
    assert met == [
        (processes.rendezvous.Rendezvous(address[:-3].strip("[]"), 70, 2, 1, 5.0, {}), str(tmp_path))
    ]


def test_a_single_process_needs_no_communication():
    ask = processes.any_process(None)
    assert [ask(said) for said in (False, True, False)] == [False, True, False]
    assert (
        processes.is_first()
        and processes.broadcast_from_first(True)
        and not processes.broadcast_from_first(False)
    )


ENDS = """
import threading, time
from tpr_jax.distributed import processes as distributed
threading.Timer(0.1, distributed._end, ({code}, {line!r})).start()
print("so far")
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("code", "line", "stdout", "stderr"),
    [
        (0, "stopped; resume with: x", "so far\nstopped; resume with: x\n", ""),
        (2, "error: a.jpg: broken", "so far\n", "error: a.jpg: broken\n"),
        (
            1,
            "process 3 ended unexpectedly",
            "so far\n",
            "error: process 3 ended unexpectedly; rerun the same command to resume from the newest "
            "checkpoint\n",
        ),
    ],
)
def test_ends_immediately_whatever_it_waits_for(code, line, stdout, stderr):
    done = subprocess.run(
        [sys.executable, "-c", ENDS.format(code=code, line=line)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, stdout, stderr)
