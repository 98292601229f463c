"""Processes that meet, part and miss each other: here threads, which cannot tell the difference."""

import socket
import threading
import time

import pytest

from tpr_jax import meeting
from tpr_jax.errors import UserError


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def together(*calls) -> list:
    """What each call returns or raises, all made at a time."""
    found: list = [None] * len(calls)

    def make(i, call):
        try:
            found[i] = call()
        except UserError as error:
            found[i] = error

    threads = [threading.Thread(target=make, args=pair) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return found


def meet(port, count, index, timeout=10.0, **settings):
    return lambda: meeting.meet(("127.0.0.1", port), count, index, timeout, **settings)


def test_three_meet_in_any_order():
    port = free_port()
    first, second, third = together(meet(port, 3, 0), meet(port, 3, 1), meet(port, 3, 2))
    assert sorted(first) == [1, 2] and list(second) == list(third) == [0]
    meeting.leave(first, 5, "why  not\n")
    for lines in (second, third):
        assert lines[0].recv(100) == b"left 5 why not\n"


def test_a_peer_that_never_comes_is_named_to_all():
    port = free_port()
    settings = {"timeout": 1.0, "hosts": {1: "here", 2: "node7"}}
    for error in together(meet(port, 3, 0, **settings), meet(port, 3, 1)):
        assert isinstance(error, UserError)
        assert f"process 2 (node7) of 3 did not come to 127.0.0.1:{port} within 1 s" in str(error)


def test_the_first_that_never_comes_is_named_by_its_address():
    port = free_port()
    began = time.monotonic()
    with pytest.raises(UserError, match=f"process 0 does not answer at 127.0.0.1:{port} within 0.5 s"):
        meet(port, 2, 1, 0.5)()
    assert time.monotonic() - began < 5


def test_numbers_that_do_not_go_together():
    port = free_port()
    for error in together(meet(port, 3, 0), meet(port, 4, 1)):
        assert "process 1 of 3" in str(error) and "says that there are 4" in str(error)
    port = free_port()
    found = together(meet(port, 3, 0), meet(port, 3, 1), meet(port, 3, 1))
    assert all("came twice" in str(error) for error in found[:1])


def test_a_port_in_use():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} cannot be opened .* choose another, --coordinator"):
            meet(port, 2, 0)()


def test_strangers_are_not_taken_for_processes():
    port = free_port()

    def stranger():
        for _ in range(100):
            try:
                with socket.create_connection(("127.0.0.1", port)) as line:
                    line.sendall(b"GET / HTTP/1.1\n")
                    return
            except OSError:
                time.sleep(0.02)

    first, _, second = together(meet(port, 2, 0), stranger, lambda: time.sleep(0.5) or meet(port, 2, 1)())
    assert list(first) == [1] and list(second) == [0]


@pytest.fixture
def lines_of_three():
    """The lines of three processes that have met."""
    port = free_port()
    return together(*(meet(port, 3, index) for index in range(3)))


def watched(lines):
    """(lines, what `ended` was called with, finish) of one of them."""
    told: list = []
    return lines, told, meeting.watch(lines, lambda *words: told.append(words))


@pytest.fixture
def three(lines_of_three):
    return [watched(lines) for lines in lines_of_three]


def wait_for(happened) -> None:
    deadline = time.monotonic() + 10
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert happened()


@pytest.mark.parametrize("lost", [0, 2])
def test_all_others_hear_of_one_that_is_gone(lines_of_three, lost):
    others = [watched(lines) for index, lines in enumerate(lines_of_three) if index != lost]
    for line in lines_of_three[lost].values():  # nobody watches here: one that was killed says nothing more
        line.shutdown(socket.SHUT_RDWR)  # what the system does for it
    for _, told, _ in others:
        wait_for(lambda told=told: told)
        assert told == [(1, f"process {lost} ended without a word")]


def test_one_that_leaves_tells_why(three):
    meeting.leave(three[1][0], 2, "a.jpg: cannot be read")
    for _, told, _ in (three[0], three[2]):
        wait_for(lambda told=told: told)
        assert told == [(2, "a.jpg: cannot be read")]


def test_at_the_end_each_waits_for_the_others(three):
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


def test_who_waits_in_vain_says_so(three):
    assert three[0][2](0.2) is False
