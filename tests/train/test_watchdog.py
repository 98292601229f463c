"""When a run that stands still says so, on a clock that the tests move, and once on a real one."""

import threading

import pytest

from tpr_jax.train import watchdog


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def steps(progress, clock, gaps) -> None:
    for gap in gaps:
        clock.now += gap
        progress.step()


def told_at(progress, clock, until: float) -> list[float]:
    """At which seconds from now something is said, looked at once a second."""
    began, said = clock.now, []
    while clock.now - began < until:
        clock.now += 1
        if progress.complaint():
            said.append(clock.now - began)
    return said


def test_said_once_and_again_when_twice_as_long(clock):
    progress = watchdog.Progress(clock)
    steps(progress, clock, [30, *[5.0] * 10])  # the first was compiled
    assert progress.usual() == 5.0 and progress.limit() == 100.0  # 20 times the median
    assert told_at(progress, clock, 450) == [100, 200, 400]
    steps(progress, clock, [0.5])  # it goes on
    assert progress.usual() == 5.0  # which the stall has not changed
    assert told_at(progress, clock, 101) == [100]


def test_never_before_a_minute(clock):
    progress = watchdog.Progress(clock)
    steps(progress, clock, [1, *[0.01] * 5])
    assert told_at(progress, clock, 70) == [60]


def test_steps_that_are_handed_over_before_they_are_computed(clock):
    """Ninety-nine at once, and the wait for all of them where the loss is logged."""
    progress = watchdog.Progress(clock)
    steps(progress, clock, [1, *([0.001] * 99 + [90.0]) * 2])
    assert told_at(progress, clock, 269) == [] and told_at(progress, clock, 2) == [1]


def test_compiling_may_take_long(clock):
    progress = watchdog.Progress(clock)
    assert told_at(progress, clock, 899) == []
    clock.now += 1
    assert progress.complaint().startswith("no step for 900 s (the first is being compiled): waiting for the")


def test_nothing_is_said_while_it_evaluates(clock):
    progress = watchdog.Progress(clock)
    steps(progress, clock, [1, 1, 1])
    with progress.paused():
        assert told_at(progress, clock, 500) == []
    assert told_at(progress, clock, 61) == [60]
    with pytest.raises(ValueError), progress.paused():
        raise ValueError
    assert told_at(progress, clock, 61) == [60]


@pytest.mark.parametrize("what", [watchdog.INPUT, watchdog.DEVICE, watchdog.PEERS, watchdog.DISK])
def test_it_says_what_is_waited_for_and_what_to_look_at(clock, what):
    progress = watchdog.Progress(clock)
    steps(progress, clock, [1, 2.5, 2.5])
    progress.waits_for = what
    clock.now += 75
    assert progress.complaint() == f"no step for 75 s (one takes 2.5 s): waiting for {what}"
    assert "see " in what


def test_watched_by_a_thread(monkeypatch):
    monkeypatch.setattr(watchdog, "FIRST", 0.05)
    said, heard = [], threading.Event()

    def say(line):
        said.append(line)
        heard.set()

    with watchdog.watched(say, every=0.01) as progress:
        progress.waits_for = watchdog.DISK
        assert heard.wait(30)
    assert said[0].endswith(watchdog.DISK)
    assert not [thread for thread in threading.enumerate() if thread.name == "stalls"]
