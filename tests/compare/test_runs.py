"""The runs of a comparison: their names, and the lock of their folders."""

import fcntl
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.compare_stand_in import compared_fixture, stand_in_fixture, zero_fixture  # noqa: F401
from tpr_jax.compare import runs as compare_runs
from tpr_jax.errors import UserError


def test_lock_outlives_a_killed_comparison(stand_in, tiny, tmp_path):
    """The run's process holds it too; else two processes could write the same checkpoints."""
    stand_in({"tiny/seed_0": "wait1"})
    (run,) = compare_runs.plan([tiny["config"]], 1, tmp_path / "all", [])
    asked = threading.Event()
    folder = run.folder

    def work():
        with compare_runs.lock_run(run, asked.is_set, print) as locked:
            endings.append(compare_runs.execute(locked, asked.is_set))

    endings = []
    thread = threading.Thread(target=work)
    thread.start()
    while not (folder / "ready").exists():
        time.sleep(0.02)
    pids = [int(p.name) for p in Path("/proc").glob("[0-9]*") if holds(p, folder / "lock")]
    asked.set()
    thread.join()
    assert len(pids) == 2 and os.getpid() in pids
    assert endings == [(None, "error: stopped after 1")]
    with (folder / "lock").open("a") as file:  # the lock is free again
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def holds(process: Path, path: Path) -> bool:
    try:
        return any(os.readlink(link) == str(path) for link in (process / "fd").iterdir())
    except OSError:
        return False


def test_config_names_are_unique():
    names = compare_runs.config_names
    assert names(["configs/a.py", "configs/b.py:cuhk_pedes"]) == ["a", "b:cuhk_pedes"]
    assert names(["configs/a.py", "configs/a.py:cuhk_pedes"]) == ["a", "a:cuhk_pedes"]
    assert names(["/x/one/a.py", "/x/two/a.py", "b.py"]) == ["one/a", "two/a", "b"]
    # Different names must not share a folder either.
    assert len({*map(compare_runs.folder_name, names(["/x/a-c.py", "/y/a.py:c"]))}) == 2
    for twice in (["a.py", "a.py"], ["a.py", "./a.py"]):
        with pytest.raises(UserError, match="given twice"):
            names(twice)


def test_waits_for_a_run_of_another_process(compared, stand_in, tmp_path):
    folder = tmp_path / "all" / "tiny" / "seed_0"
    folder.mkdir(parents=True)
    lock = "f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); time.sleep(1.5)"
    command = [sys.executable, "-S", "-c", f"import fcntl, sys, time; {lock}", str(folder / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        code, stdout, _ = compared()
        assert code == 0
    assert "tiny, seed 0: another process runs it: waiting until that ends ... R@1 10.00" in stdout
