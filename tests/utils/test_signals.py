"""Signals as a flag that a loop checks."""

import contextlib
import gc
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
import weakref

import pytest

from tests.conftest import ROOT
from tpr_jax.errors import UserError
from tpr_jax.utils import ending
from tpr_jax.utils.signals import Stopped, catch_signals, raise_stopped


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_sets_the_flag_and_second_interrupts(number):
    before = signal.getsignal(number)
    with catch_signals() as preemption:
        assert not preemption and preemption() is False
        os.kill(os.getpid(), number)
        assert preemption and preemption() is True and preemption.number == number
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_raise_immediately_interrupts():
    with catch_signals() as preemption:
        with pytest.raises(KeyboardInterrupt), preemption.raise_immediately():
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("went on")
        assert preemption.number == signal.SIGTERM
        # A signal that arrived before the block also counts.
        with pytest.raises(KeyboardInterrupt), preemption.raise_immediately():
            pytest.fail("went on")


def test_raise_immediately_ends_with_its_block():
    with catch_signals() as preemption, preemption.raise_immediately(), preemption.raise_immediately(False):
        os.kill(os.getpid(), signal.SIGINT)
    with catch_signals() as preemption:
        with preemption.raise_immediately():
            pass
        os.kill(os.getpid(), signal.SIGINT)
        assert preemption.number == signal.SIGINT


def test_does_nothing_in_another_thread():
    seen = []

    def work():
        with catch_signals() as preemption:
            seen.append((bool(preemption), signal.getsignal(signal.SIGINT)))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


def test_remembers_a_signal_that_an_import_swallowed():
    """A module may do so while it is being imported."""
    with catch_signals() as outer:
        with outer.raise_immediately(), contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGTERM)
        with catch_signals() as inner:
            assert inner.number == signal.SIGTERM
            with pytest.raises(KeyboardInterrupt), inner.raise_immediately():
                pytest.fail("went on")
    with catch_signals() as preemption:
        assert not preemption


def test_inner_block_tells_the_outer_one():
    with catch_signals() as outer:
        with catch_signals():
            os.kill(os.getpid(), signal.SIGTERM)
        assert outer.number == signal.SIGTERM


def test_raise_stopped():
    with pytest.raises(Stopped, match="before all") as stopped, raise_stopped("before all"):
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("went on")
    assert stopped.value.number == signal.SIGTERM
    with pytest.raises(KeyboardInterrupt), raise_stopped("x"):
        os.kill(os.getpid(), signal.SIGINT)
    # A signal swallowed by an import still stops the run; other errors pass through.
    with pytest.raises(Stopped), raise_stopped("x"):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt as error:
            raise ImportError("initialization failed") from error
    with pytest.raises(ImportError), raise_stopped("x"):
        raise ImportError("no such module")
    # Errors handled inside the block are converted the same way.
    with catch_signals(), pytest.raises(Stopped), raise_stopped("x") as told:
        bug = ValueError("a bug")
        assert told(bug) is bug
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt as error:
            assert isinstance(told(error), Stopped) and str(told(error)) == "x"
            raise
    for known in (UserError("a.jpg is broken"), Stopped(signal.SIGTERM, "at step 3")):
        with pytest.raises(type(known), match=str(known)), raise_stopped("x"):
            with catch_signals():
                os.kill(os.getpid(), signal.SIGTERM)
            raise known


def in_a_finalizer(come) -> None:
    class Finalized:
        def __del__(self):
            come()

    Finalized()


def in_a_weak_references_callback(come) -> None:
    kept = type("Kept", (), {})()
    reference = weakref.ref(kept, lambda _: come())
    del kept
    assert reference() is None


def in_a_garbage_collection(come) -> None:
    gc.collect()  # what other tests left: its finalizers may swallow exceptions

    def at_collection(phase, info):
        if phase == "start":
            come()

    gc.callbacks.append(at_collection)
    try:
        gc.collect()
    finally:
        gc.callbacks.remove(at_collection)


def wait() -> None:
    """Waits for the signal's exception; fails by one that does not become `Stopped`.

    In short sleeps, which end although the signal arrives just before one, or in another thread.
    """
    for _ in range(600):
        time.sleep(0.1)
    pytest.fail("the signal was lost")


@pytest.mark.parametrize("where", [in_a_finalizer, in_a_weak_references_callback, in_a_garbage_collection])
def test_resends_signals_whose_exceptions_are_lost(capfd, where):
    """Python only prints exceptions raised there, and JAX registers a garbage-collection callback."""
    came = []

    def come():
        if not came:
            came.append(True)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0)  # here Python calls the handler

    hook = sys.unraisablehook
    with pytest.raises(Stopped), raise_stopped("x"):
        where(come)
        wait()
    assert came and capfd.readouterr().err == ""
    assert sys.unraisablehook is hook


def test_resends_signals_until_they_are_raised(monkeypatch):
    """Also if the signal that is sent again arrives before the hook that sends it has returned."""
    started = []

    class Slow(threading.Timer):
        def start(self):
            started.append(self)
            super().start()
            if len(started) < 4:
                self.join()
                time.sleep(0)  # here Python calls the handler

    monkeypatch.setattr(threading, "Timer", Slow)
    came = []

    def come():
        if not came:
            came.append(True)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0)

    with pytest.raises(Stopped), raise_stopped("x"):
        in_a_finalizer(come)
        wait()
    assert 1 < len(started) < 10


def test_resends_signals_that_arrive_while_another_exception_is_printed(monkeypatch):
    came = []

    def print_slowly(unraisable):
        came.append(unraisable.exc_type)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0)  # here Python calls the handler

    class Broken:
        def __del__(self):
            raise ValueError

    monkeypatch.setattr(sys, "unraisablehook", print_slowly)
    with pytest.raises(Stopped), raise_stopped("x"):
        Broken()
        wait()
    assert came == [ValueError]


def test_reports_other_unraisable_exceptions(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)

    class Broken:
        def __del__(self):
            raise ValueError("a bug")

    with catch_signals() as preemption:
        Broken()
        os.kill(os.getpid(), signal.SIGTERM)
        assert preemption
        Broken()
        # A hook installed later stays, and still sees the exceptions that ours passes on.
        over = sys.unraisablehook
        monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: over(unraisable))
    Broken()
    assert [unraisable.exc_type for unraisable in seen] == [ValueError] * 3


ENDS = """
import os, signal, sys
from tpr_jax.utils import ending
ending.exit_immediately({signal.SIGTERM: (0, "stopped"), signal.SIGINT: (130, "error: interrupted")})
print("ready", flush=True)
try:
    while True:
        signal.pause()
finally:
    print("no exception is raised")
"""


@pytest.mark.parametrize(
    ("number", "code", "said"), [("SIGTERM", 0, "ready\nstopped\n"), ("SIGINT", 130, "ready\n")]
)
def test_exit_immediately_prints_a_line(number, code, said):
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", ENDS], stdout=pipe, stderr=pipe, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(getattr(signal, number))
    stdout, stderr = process.communicate()
    assert (process.returncode, "ready\n" + stdout) == (code, said)
    assert stderr == ("" if code == 0 else "error: interrupted\n")


def test_a_signal_that_the_shell_has_ignored_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ending.exit_immediately({signal.SIGINT: (130, "")})
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


# Sends SIGTERM to itself when the n-th module is imported; the first few are the command itself. Before a
# command handles signals, it imports only shlex and tpr_jax.cli.exit.
AT_IMPORT = """
import os, runpy, signal, sys
import shlex, tpr_jax.cli.exit

class Finder:
    sought = 0

    def find_spec(self, name, path=None, target=None):
        Finder.sought += 1
        if Finder.sought == at:
            os.kill(os.getpid(), signal.SIGTERM)

module, at = sys.argv[1], int(sys.argv[2])
sys.argv = [module, *sys.argv[3:]]
sys.meta_path.insert(0, Finder())
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def stopped_at_import(module: str, at: int, *flags) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", AT_IMPORT, module, str(at), *map(str, flags)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("at", [3, 30, 300, 1000, 2000])
def test_sigterm_during_imports_stops_like_any_other(tiny, tmp_path, at):
    """From the first import on, and while JAX and TensorFlow are imported."""
    flags = ["--config", tiny["config"], "--workdir", tmp_path / "run", "--config.total_steps=1"]
    ended = stopped_at_import("tpr_jax.main", at, *flags)
    assert (ended.returncode, ended.stderr) == (0, ""), ended
    again = shlex.join(["python", "-m", "tpr_jax.main", *map(str, flags)])
    assert ended.stdout == f"stopped; resume with: {again}\n"
    assert not (tmp_path / "run" / "results.json").exists()


@pytest.mark.parametrize("at", [3, 30, 300])
def test_other_commands_end_as_they_do_when_they_are_stopped_later(tiny, tmp_path, at):
    flags = [tiny["config"], "--workdir", str(tmp_path / "all")]
    ended = stopped_at_import("tpr_jax.compare", at + 1, *flags)
    again = shlex.join(["python", "-m", "tpr_jax.compare", *flags])
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"error: stopped at its beginning; resume with: {again}\n"
    ended = stopped_at_import("tpr_jax.search", at + 1, "index", tiny["data"], "--index", tmp_path / "index")
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr == "error: interrupted; rerun the same command to resume\n"
    ended = stopped_at_import("tpr_jax.search", at + 1, "serve", "--index", tmp_path / "index")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "ended\n", "")
