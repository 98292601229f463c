"""Progress as a bar and as lines, by a clock of its own."""

import sys
from types import SimpleNamespace

import pytest
from tqdm import tqdm

from tpr_jax.utils import progress


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=100.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_a_line_every_ten_seconds_with_rate_and_time_left(clock, capsys):
    with progress.show(20_000, "photos") as shown:
        for seconds, count in ((4, 1000), (6, 1000), (9, 1000), (1, 1000), (50, 4000)):
            clock.now += seconds
            shown.update(count)
        # By hand: 2,000 after 10 s, 18,000 left at 200 per second; 4,000 after 20 s; 8,000 after 70 s.
        assert capsys.readouterr().err.splitlines() == [
            "2,000 of 20,000 photos, 200 per second, 01:30 left",
            "4,000 of 20,000 photos, 200 per second, 01:20 left",
            "8,000 of 20,000 photos, 114 per second, 01:45 left",
        ]
        clock.now += 60
        shown.update(12_000)  # the end is told by what follows
    assert shown.n == 20_000 and capsys.readouterr().err == ""


def test_nothing_done_for_long(clock, capsys):
    with progress.show(5, "photos") as shown:
        clock.now += 20
        shown.update(0)
    assert capsys.readouterr().err == "0 of 5 photos, 0 per second, ? left\n"


def test_a_terminal_gets_a_bar(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress.show(5, "photos") as shown:
        assert isinstance(shown, tqdm)
        shown.update(5)
        assert shown.n == 5
