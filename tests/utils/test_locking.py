"""Locking of folders: messages name the holder, a crash releases the lock, and locks are optional."""

import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from tests.compare_stand_in import compared_fixture, stand_in_fixture, starts, zero_fixture  # noqa: F401
from tests.conftest import ROOT, _environment
from tpr_jax.cli.exit import explain_and_exit
from tpr_jax.cross import __main__ as cross
from tpr_jax.errors import UserError
from tpr_jax.search.__main__ import main as search_main
from tpr_jax.train import eval_run, loop
from tpr_jax.utils import locking

HOLDER = """
import sys, time
from tpr_jax.utils import locking
with locking.hold(sys.argv[1], "--workdir", "training"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def holder(folder):
    """Starts a process that holds the folder."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=ROOT, env=_environment()) as process:
        try:
            assert process.stdout.readline() == b"held\n"
            yield process
        finally:
            process.kill()


def hold(folder, said=None):
    return locking.hold(folder, "--workdir", "training here", (said if said is not None else []).append)


def test_describes_the_holder_and_how_far_it_is(tmp_path):
    assert locking.describe_holder(tmp_path / "none") is None
    with hold(tmp_path) as note:
        me = f"process {os.getpid()} on {socket.gethostname()}"
        assert locking.describe_holder(tmp_path) == f" ({me})"
        for progress in ("3 of 10 photos", "4 of 10"):  # the shorter one leaves nothing of the longer one
            note(progress)
            assert locking.describe_holder(tmp_path) == f" ({me}, {progress})"
    assert locking.describe_holder(tmp_path) is None
    (tmp_path / locking.NAME).write_text("left by a killed process")
    assert locking.describe_holder(tmp_path) is None
    with hold(tmp_path):  # asking has not locked it
        pass


def test_a_second_process_learns_who_holds_the_lock(tmp_path):
    folder = tmp_path / "new" / "run"
    with holder(folder) as process:
        with pytest.raises(UserError) as error, hold(folder):
            pass
        assert str(error.value) == (
            f"--workdir {folder}: another process is training here (process {process.pid} on "
            f"{socket.gethostname()}); wait until it is done"
        )


def test_killing_the_holder_releases_the_lock(tmp_path):
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (tmp_path / locking.NAME).exists()
        with hold(tmp_path):
            assert json.loads((tmp_path / locking.NAME).read_text())["pid"] == os.getpid()
    assert os.listdir(tmp_path) == []


def test_removes_the_lock_file(tmp_path):
    with pytest.raises(ZeroDivisionError), hold(tmp_path / "a" / "b"):
        assert os.listdir(tmp_path / "a" / "b") == [locking.NAME]
        1 / 0  # noqa: B018
    assert os.listdir(tmp_path) == []
    with hold(tmp_path / "a"):
        (tmp_path / "a" / "mine").touch()
    assert os.listdir(tmp_path / "a") == ["mine"]


def test_reopens_a_lock_file_that_was_removed(tmp_path, monkeypatch):
    """Between opening and locking, the holder may remove the file and another process lock a new one."""
    flock = fcntl.flock
    called = []

    def slow(file, how):
        called.append(file)
        if len(called) == 1:
            os.unlink(tmp_path / locking.NAME)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", slow)
    with hold(tmp_path):
        assert len(called) == 2
        held = os.stat(tmp_path / locking.NAME)
        assert os.path.samestat(held, os.fstat(called[1].fileno()))


@pytest.mark.parametrize("code", ["ENOLCK", "ENOSYS", "EOPNOTSUPP", "ENOTSUP", "EINVAL"])
def test_file_system_without_locks(tmp_path, monkeypatch, code):
    def refuse(file, how):
        raise OSError(getattr(errno, code), "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    said = []
    with hold(tmp_path / "run", said):
        (tmp_path / "run" / "mine").touch()
    assert len(said) == 1 and "no locks" in said[0] and str(tmp_path / "run") in said[0]


@pytest.mark.parametrize("code", ["EAGAIN", "EWOULDBLOCK", "EACCES"])
def test_recognizes_error_codes_of_a_taken_lock(tmp_path, monkeypatch, code):
    def refuse(file, how):
        raise OSError(getattr(errno, code), "taken")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(UserError, match="another process is training here; wait"), hold(tmp_path):
        pass


def test_a_system_without_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "fcntl", None)
    said = []
    with hold(tmp_path, said):
        pass
    assert len(said) == 1


def test_an_address_is_not_locked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with hold("gs://bucket/run"):
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("folder", "told"), [("file", "cannot be created"), ("/proc/self", "cannot be written")]
)
def test_a_folder_that_cannot_be_written(tmp_path, folder, told):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=told), hold(tmp_path / folder):
        pass


def test_a_full_disk(tmp_path, monkeypatch):
    def full(*args, **settings):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(locking, "open", full, raising=False)
    with pytest.raises(UserError, match=f"no space left on the disk of {tmp_path}"), hold(tmp_path):
        pass


def test_two_runs_in_one_folder(tiny, tmp_path, explained, capsys):
    flags = ("--config", tiny["config"], "--workdir", str(tmp_path / "run"))
    with holder(tmp_path / "run") as process:
        line = explained(capsys, *flags)
        assert f"another process is training in this folder (process {process.pid} on" in line
        assert sorted(os.listdir(tmp_path / "run")) == [locking.NAME]  # nothing was written before the error


def test_the_lock_is_held_while_it_trains_and_not_to_score(make_config, tmp_path, monkeypatch):
    seen = []

    def looking(config, workdir, *args):
        with pytest.raises(UserError, match="another process"), hold(workdir):
            pass
        seen.append(workdir)

    monkeypatch.setattr(loop, "_train", looking)
    loop.train(make_config(), tmp_path / "run")
    assert seen == [tmp_path / "run"]
    # The first process of a run holds the lock for all its processes.
    monkeypatch.setattr(loop.processes, "is_first", lambda: False)
    monkeypatch.setattr(loop, "_train", lambda config, workdir, *args: seen.append(workdir))
    with holder(tmp_path / "run"):
        loop.train(make_config(), tmp_path / "run")
        monkeypatch.setattr(eval_run, "prepare", lambda config, **settings: 1 / 0)
        with pytest.raises(ZeroDivisionError):  # it came past where a lock would have been
            eval_run.evaluate_run(make_config(), tmp_path / "run", initial=True)
    assert len(seen) == 2


def test_two_comparisons_in_one_folder(compared, stand_in, tmp_path):
    with holder(tmp_path / "all") as process:
        code, stdout, stderr = compared()
        assert (code, stdout) == (2, "")
        assert f"another process is comparing in this folder (process {process.pid} on" in stderr
        assert stderr.startswith("error: --workdir") and stderr.count("\n") == 1
        assert os.listdir(tmp_path / "all") == [locking.NAME]
    code, stdout, _ = compared()  # that one is gone
    assert code == 0 and starts(tmp_path, "tiny/seed_0") == 1
    assert not (tmp_path / "all" / locking.NAME).exists()
    code, stdout, _ = compared()
    assert code == 0 and stdout.count("already done") == 4


def test_two_cross_tables_in_one_folder(tmp_path, capsys):
    with holder(tmp_path / "out"), pytest.raises(SystemExit) as ended:
        argv = ["cross", "clip-mini", "--data", "mini_pedes", "--out", str(tmp_path / "out")]
        explain_and_exit(cross.run, argv)
    assert ended.value.code == 2 and "another process is writing these tables" in capsys.readouterr().err


def test_two_that_index(tiny, tmp_path, capsys):
    from tests import search_galleries

    search_galleries.photos(tmp_path / "photos", 2)
    words = ["index", str(tmp_path / "photos"), "--index", str(tmp_path / "i"), "--model", tiny["clip"]]
    with holder(tmp_path / "i") as process:
        assert search_main(words) == 2
        line = capsys.readouterr().err
        assert f"another process is writing this index (process {process.pid} on" in line
        assert line.startswith("error: ") and line.count("\n") == 1
        assert os.listdir(tmp_path / "i") == [locking.NAME]
    assert search_main(words) == 0


def test_an_index_on_a_file_system_without_locks(tiny, tmp_path, capsys, monkeypatch):
    from tests import search_galleries

    def refuse(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    search_galleries.photos(tmp_path / "photos", 2)
    words = ["index", str(tmp_path / "photos"), "--index", str(tmp_path / "i"), "--model", tiny["clip"]]
    assert search_main(words) == 0
    assert "this file system has no locks" in capsys.readouterr().out


def test_an_error_on_a_disk_that_is_full_stays_the_same(tmp_path):
    """The name of the holder cannot be written, neither at once nor when the file is closed."""
    script = """if True:
        import resource, sys
        from tpr_jax.utils import locking
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))  # Python ignores the signal
        try:
            with locking.hold(sys.argv[1], "--index", "writing"):
                raise KeyError("of the work")
        except KeyError as error:
            print(error, error.__context__)
    """
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "index")],
        cwd=ROOT,
        env=_environment(),
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
    )
    assert done.stdout == "'of the work' None\n"
