"""When a stalled run is reported, on a clock that the tests control, and once on a real one."""

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


def steps(dog, clock, gaps) -> None:
    for gap in gaps:
        clock.now += gap
        dog.step_done()


def told_at(dog, clock, until: float) -> list[float]:
    """Returns the seconds from now at which something is reported, checked once a second."""
    began, said = clock.now, []
    while clock.now - began < until:
        clock.now += 1
        if dog.check():
            said.append(clock.now - began)
    return said


def test_reports_once_and_again_when_twice_as_long(clock):
    dog = watchdog.Watchdog(clock)
    steps(dog, clock, [30, *[5.0] * 10])  # the first was compiled
    assert dog.median_seconds() == 5.0 and dog.limit() == 100.0  # 20 times the median
    assert told_at(dog, clock, 450) == [100, 200, 400]
    steps(dog, clock, [0.5])  # the run continues
    assert dog.median_seconds() == 5.0  # which the stall has not changed
    assert told_at(dog, clock, 101) == [100]


def test_reports_nothing_before_a_minute(clock):
    dog = watchdog.Watchdog(clock)
    steps(dog, clock, [1, *[0.01] * 5])
    assert told_at(dog, clock, 70) == [60]


def test_asynchronous_dispatch_is_not_a_stall(clock):
    """Ninety-nine steps return at once, and logging the loss waits for all of them."""
    dog = watchdog.Watchdog(clock)
    steps(dog, clock, [1, *([0.001] * 99 + [90.0]) * 2])
    assert told_at(dog, clock, 269) == [] and told_at(dog, clock, 2) == [1]


def test_compilation_may_take_long(clock):
    dog = watchdog.Watchdog(clock)
    assert told_at(dog, clock, 899) == []
    clock.now += 1
    assert dog.check().startswith("no step for 900 s (the first is being compiled): waiting for the")


def test_reports_nothing_while_paused(clock):
    dog = watchdog.Watchdog(clock)
    steps(dog, clock, [1, 1, 1])
    with dog.pause():
        assert told_at(dog, clock, 500) == []
    assert told_at(dog, clock, 61) == [60]
    with pytest.raises(ValueError), dog.pause():
        raise ValueError
    assert told_at(dog, clock, 61) == [60]


@pytest.mark.parametrize("what", [watchdog.INPUT, watchdog.DEVICE, watchdog.PEERS, watchdog.DISK])
def test_report_says_what_is_waited_for(clock, what):
    dog = watchdog.Watchdog(clock)
    steps(dog, clock, [1, 2.5, 2.5])
    dog.waiting_for = what
    clock.now += 75
    assert dog.check() == f"no step for 75 s (one takes 2.5 s): waiting for {what}"
    assert "check " in what


def test_thread_reports_a_stall(monkeypatch):
    monkeypatch.setattr(watchdog, "FIRST_SECONDS", 0.05)
    said, heard = [], threading.Event()

    def say(line):
        said.append(line)
        heard.set()

    with watchdog.watch(say, every=0.01) as dog:
        dog.waiting_for = watchdog.DISK
        assert heard.wait(30)
    assert said[0].endswith(watchdog.DISK)
    assert not [thread for thread in threading.enumerate() if thread.name == "watchdog"]
