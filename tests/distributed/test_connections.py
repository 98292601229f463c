"""Processes that leave or are lost, on connections between threads."""

import socket
import time

import pytest

from tests.distributed.test_rendezvous import free_port, meet, together
from tpr_jax.distributed import connections


@pytest.fixture
def lines_of_three():
    """Returns the connections of three processes."""
    port = free_port()
    return together(*(meet(port, 3, index) for index in range(3)))


def watched(lines):
    """Returns (connections, arguments of the calls of `on_end`, finish) of one process."""
    told: list = []
    return lines, told, connections.watch(lines, lambda *words: told.append(words))


@pytest.fixture
def three(lines_of_three):
    return [watched(lines) for lines in lines_of_three]


def wait_for(happened) -> None:
    deadline = time.monotonic() + 10
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert happened()


@pytest.mark.parametrize("lost", [0, 2])
def test_all_peers_learn_that_one_is_lost(lines_of_three, lost):
    others = [watched(lines) for index, lines in enumerate(lines_of_three) if index != lost]
    for line in lines_of_three[lost].values():  # a killed process sends nothing more
        line.shutdown(socket.SHUT_RDWR)  # as the system does for it
    for _, told, _ in others:
        wait_for(lambda told=told: told)
        assert told == [(1, f"process {lost} ended unexpectedly")]


def test_leave_tells_the_reason(three):
    connections.leave(three[1][0], 2, "a.jpg: cannot be read")
    for _, told, _ in (three[0], three[2]):
        wait_for(lambda told=told: told)
        assert told == [(2, "a.jpg: cannot be read")]


def test_finish_waits_for_all_peers(three):
    finished = []

    def finish(index, after):
        time.sleep(after)
        finished.append((three[index][2](10), time.monotonic()))

    began = time.monotonic()
    together(*(lambda pair=pair: finish(*pair) for pair in ((0, 0.0), (1, 0.6), (2, 0.0))))
    assert all(complete and at - began >= 0.5 for complete, at in finished) and len(finished) == 3
    for lines, told, _ in three:
        for line in lines.values():
            line.close()
        assert told == []


def test_finish_returns_false_after_its_timeout(three):
    assert three[0][2](0.2) is False


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("left 2 a.jpg: cannot be read", (2, "a.jpg: cannot be read")),
        ("left 0", (0, "")),
        ("left", None),
        ("left two", None),
        ("lef", None),
        ("", None),
        ("left 2x", None),
    ],
)
def test_parse_left(words, told):
    assert connections.parse_left(words) == told


@pytest.mark.parametrize("words", [b"left 2", b"left x y\n", b"\xff\n", b"x" * 20_000 + b"\n"])
def test_a_truncated_or_unknown_message_counts_as_a_loss(lines_of_three, words):
    _, told, _ = watched(lines_of_three[0])
    lines_of_three[1][0].sendall(words)
    lines_of_three[1][0].shutdown(socket.SHUT_RDWR)
    wait_for(lambda: told)
    assert told[0][1] in ("process 1 ended unexpectedly", "") and len(told) == 1
