"""The runs of a comparison: their names, and one process at a time in a folder."""

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


def test_the_lock_outlives_a_killed_comparison(stand_in, tiny, tmp_path):
    """The run's process holds it too: without that, two would write the same checkpoints."""
    stand_in({"tiny/seed_0": "wait1"})
    (run,) = compare_runs.plan([tiny["config"]], 1, tmp_path / "all", [])
    asked = threading.Event()
    folder = run["folder"]

    def work():
        with compare_runs.alone(run, asked.is_set, print) as mine:
            seen.append(compare_runs.execute(mine, asked.is_set))

    seen = []
    thread = threading.Thread(target=work)
    thread.start()
    while not (folder / "ready").exists():
        time.sleep(0.02)
    pids = [int(p.name) for p in Path("/proc").glob("[0-9]*") if holds(p, folder / "lock")]
    asked.set()
    thread.join()
    assert len(pids) == 2 and os.getpid() in pids
    assert seen == [(None, "error: stopped after 1")]
    with (folder / "lock").open("a") as file:  # and it is free again
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def holds(process: Path, path: Path) -> bool:
    try:
        return any(os.readlink(link) == str(path) for link in (process / "fd").iterdir())
    except OSError:
        return False


def test_names_tell_configs_apart():
    names = compare_runs.names_of
    assert names(["configs/a.py", "configs/b.py:cuhk_pedes"]) == ["a", "b:cuhk_pedes"]
    assert names(["configs/a.py", "configs/a.py:cuhk_pedes"]) == ["a", "a:cuhk_pedes"]
    assert names(["/x/one/a.py", "/x/two/a.py", "b.py"]) == ["one/a", "two/a", "b"]
    # Different names, the same folder: that would not do either.
    assert len({*map(compare_runs.folder_of, names(["/x/a-c.py", "/y/a.py:c"]))}) == 2
    for twice in (["a.py", "a.py"], ["a.py", "./a.py"]):
        with pytest.raises(UserError, match="given twice"):
            names(twice)


def test_a_run_that_another_process_is_at_is_waited_for(compared, stand_in, tmp_path):
    folder = tmp_path / "all" / "tiny" / "seed_0"
    folder.mkdir(parents=True)
    lock = "f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); time.sleep(1.5)"
    command = [sys.executable, "-S", "-c", f"import fcntl, sys, time; {lock}", str(folder / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        began = time.time()
        code, stdout, _ = compared()
        assert code == 0 and time.time() - began > 1
    assert "tiny, seed 0: another process is at it: waiting until that ends ... R@1 10.00" in stdout
