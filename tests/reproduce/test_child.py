"""Processes that measure and test, one at a time in each folder."""

import fcntl
import sys
import threading

from tpr_jax.reproduce import child, plan


def test_waits_for_a_process_that_a_killed_one_left(tmp_path, capsys):
    run = plan.plan(["cskt"], {"cuhk_pedes": "/c"}, 1, tmp_path, [])[0].runs[0]
    folder = tmp_path / "estimate" / "one"
    folder.mkdir(parents=True)
    command = [sys.executable, "-S", "-c", "print(1); print('error: 2'); raise SystemExit(3)"]
    endings = []
    with (folder / "lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        waiting = threading.Event()
        work = threading.Thread(
            target=lambda: endings.append(child.execute(command, folder, run, lambda: waiting.set() or False))
        )
        work.start()
        assert waiting.wait(300) and not (folder / "log.txt").exists()
    work.join()
    assert endings == [(3, "error: 2")]
    assert "    another process runs it: waiting until that ends\n" in capsys.readouterr().out
    assert (folder / "log.txt").read_text().endswith("\n1\nerror: 2\n")


def test_does_not_start_after_a_signal(tmp_path):
    run = plan.plan(["cskt"], {"cuhk_pedes": "/c"}, 1, tmp_path, [])[0].runs[0]
    assert child.execute(["false"], tmp_path / "new", run, lambda: True) == (None, "not started")
    assert not (tmp_path / "new" / "log.txt").exists()


def test_the_process_holds_the_lock_too(tmp_path):
    run = plan.plan(["cskt"], {"cuhk_pedes": "/c"}, 1, tmp_path, [])[0].runs[0]
    lock = tmp_path / "new" / "lock"
    code = (
        "import os, sys; fds = os.listdir('/proc/self/fd');"
        "links = [os.readlink(f'/proc/self/fd/{fd}') for fd in fds if os.path.exists(f'/proc/self/fd/{fd}')];"
        "print(sys.argv[1] in links)"
    )
    command = [sys.executable, "-S", "-c", code, str(lock)]
    assert child.execute(command, tmp_path / "new", run, lambda: False) == (0, "True")
