"""The rendezvous of processes, which are threads here, among strangers of all kinds."""

import contextlib
import socket
import threading
import time

import pytest

from tpr_jax.distributed import connections, handshake, rendezvous
from tpr_jax.errors import UserError

TOKEN = "0123456789abcdef"
LOST = "was lost before all 2 processes had connected"
REFUSED = "it does not have the token of this run"


def free_port() -> int:
    """Returns a free port after which another port is free."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port + 1)):
                return port


def together(*calls) -> list:
    """Runs all calls at the same time and returns their results or errors."""
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


def meet(port, count, index, timeout=20.0, token=TOKEN, host="127.0.0.1", **settings):
    where = rendezvous.Rendezvous(host, port, count, index, timeout, **settings)
    return lambda: rendezvous.connect(where, token if callable(token) else lambda: token)


def call(port) -> socket.socket:
    """Connects as anybody could, as soon as the port is open."""
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=20)
        except ConnectionRefusedError:
            time.sleep(0.02)


def hang_up_time(line) -> bool:
    """Waits until the other end disconnects."""
    line.settimeout(20)
    with contextlib.suppress(ConnectionError):
        while line.recv(1000):
            pass
    return True


def test_three_processes_connect_in_any_order():
    port = free_port()
    first, second, third = together(meet(port, 3, 0), meet(port, 3, 1), meet(port, 3, 2))
    assert sorted(first) == [1, 2] and list(second) == list(third) == [0]
    connections.leave(first, 5, "why  not\n")
    for lines in (second, third):
        assert lines[0].recv(100) == b"left 5 why not\n"


def test_a_missing_peer_is_named_to_all():
    port = free_port()
    settings = {"timeout": 3.0, "hosts": {1: "here", 2: "node7"}}
    for error in together(meet(port, 3, 0, **settings), meet(port, 3, 1)):
        assert isinstance(error, UserError)
        assert f"process 2 (node7) of 3 did not connect to 127.0.0.1:{port} within 3 s" in str(error)


def test_a_missing_first_process_is_named_by_its_address():
    port = free_port()
    began = time.monotonic()
    with pytest.raises(UserError, match=f"process 0 does not answer at 127.0.0.1:{port} within 0.5 s"):
        meet(port, 2, 1, 0.5)()
    assert time.monotonic() - began < 5


def test_rejects_inconsistent_counts_and_indices():
    port = free_port()
    for error in together(meet(port, 3, 0), meet(port, 4, 1)):
        assert "process 1 of 3" in str(error) and "was started with --num_processes 4" in str(error)
    port = free_port()
    found = together(meet(port, 3, 0), meet(port, 3, 1), meet(port, 3, 1))
    assert all("connected twice" in str(error) for error in found[:1])


def test_rejects_processes_of_other_versions(monkeypatch):
    port = free_port()
    first = threading.Thread(target=lambda: told.append(together(meet(port, 2, 0))[0]))
    told: list = []
    first.start()
    call(port).close()  # it listens now, with its real version
    with monkeypatch.context() as patch:
        patch.setattr(rendezvous, "__version__", "0.0.1")
        # Both ends use this module: the first one compares with the patched version.
        patch.setattr(rendezvous.handshake, "is_proof", lambda *words: True)
        line = call(port)
        greeting = line.recv(100).split()
        line.sendall(b"hello 2 1 9.9.9 x y\n")
        assert greeting[0] == b"tpr-jax"
        first.join(20)
    assert "runs tpr_jax 9.9.9, and process 0 runs 0.0.1: install the same" in str(told[0])


def test_reports_a_port_in_use():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} cannot be opened .* choose another, --coordinator"):
            meet(port, 2, 0)()


STRANGERS = [
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"hello 2 1\n",
    b"hello 2 one\n",
    b"hello 2 1 0.1.0 x " + b"0" * 64 + b"\n",
    "hello 2 1 0.1.0 x \u00e9\u0661\n".encode(),
    b"\xff\xfe\x00\n",
    b"\n",
    b"A" * 100_000,
    b"left 2 go home\n",
    b"go x\n",
]


@pytest.mark.parametrize("words", STRANGERS, ids=range(len(STRANGERS)))
def test_strangers_are_disconnected_and_take_no_place(words):
    port = free_port()

    def stranger():
        line = call(port)
        with contextlib.suppress(ConnectionError):
            line.sendall(words)
        assert hang_up_time(line)
        gone.set()

    gone = threading.Event()
    first, _, second = together(meet(port, 2, 0), stranger, lambda: gone.wait(20) and meet(port, 2, 1)())
    assert list(first) == [1] and list(second) == [0]


def test_silent_callers_do_not_delay_the_rendezvous(monkeypatch):
    """Silent callers are disconnected after a while; the run's processes still connect."""
    port = free_port()
    monkeypatch.setattr(rendezvous, "CALLER_SECONDS", 0.3)
    silent: list = []

    def strangers():
        silent.extend(call(port) for _ in range(3))
        return all(hang_up_time(line) for line in silent)

    first, hung_up, second = together(
        meet(port, 2, 0), strangers, lambda: _until(lambda: len(silent) == 3) and meet(port, 2, 1)()
    )
    assert list(first) == [1] and hung_up and list(second) == [0]


def test_times_out_while_strangers_keep_calling():
    port, over = free_port(), threading.Event()

    def strangers():
        lines = []
        with contextlib.suppress(OSError):
            while not over.is_set():
                lines.append(socket.create_connection(("127.0.0.1", port), timeout=20))
                lines[-1].sendall(b"h")
                time.sleep(0.05)

    def first():
        try:
            return meet(port, 2, 0, timeout=1.0)()
        finally:
            over.set()

    found, _ = together(first, lambda: _until(lambda: _listens(port)) and strangers())
    assert "process 1 of 2 did not connect" in str(found)


def test_the_oldest_of_many_strangers_is_disconnected(monkeypatch):
    port = free_port()
    monkeypatch.setattr(rendezvous, "CALLERS", 4)
    monkeypatch.setattr(rendezvous, "CALLER_SECONDS", 60)

    def strangers():
        lines = [call(port) for _ in range(20)]
        assert hang_up_time(lines[0])
        come.set()
        return lines

    come = threading.Event()
    first, lines, second = together(meet(port, 2, 0), strangers, lambda: come.wait(20) and meet(port, 2, 1)())
    assert list(first) == [1] and list(second) == [0] and len(lines) == 20


def _until(happened) -> bool:
    deadline = time.monotonic() + 20
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert happened()
    return True


def _listens(port) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_a_process_with_another_token_is_refused():
    port, over = free_port(), threading.Event()

    def stranger():
        try:
            return _until(lambda: _listens(port)) and meet(port, 2, 1, timeout=2.0, token="f" * 16)()
        finally:
            over.set()

    first, second, own = together(meet(port, 2, 0), stranger, lambda: over.wait(20) and meet(port, 2, 1)())
    assert REFUSED in str(second)
    assert list(first) == [1] and list(own) == [0]


def test_a_process_with_another_token_counts_as_missing():
    port, settings = free_port(), {"timeout": 1.5}
    first, _ = together(meet(port, 2, 0, **settings), meet(port, 2, 1, token="f" * 16, **settings))
    assert "process 1 of 2 did not connect" in str(first)


def told_by(*answers: bytes, token=TOKEN, timeout=2.0) -> str:
    """Returns the error of process 1 whose calls get these answers; after the last, nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def first():
            for answer in answers:
                line, _ = server.accept()
                with line:
                    line.sendall(b"tpr-jax 0011\n")
                    line.recv(1000)
                    line.sendall(answer)
            server.close()

        return str(together(first, meet(port, 2, 1, timeout=timeout, token=token))[1])


def test_a_lost_first_process_ends_the_others_immediately():
    assert LOST in told_by(b"", timeout=20)


@pytest.mark.parametrize("later", [(), (b"",)], ids=["between_calls", "while_the_caller_waits"])
def test_a_refusal_is_reported_even_if_the_first_process_ends_later(later):
    """That it refused says more than that it has ended, which is what the caller sees last."""
    assert REFUSED in told_by(b"stranger\n", *later)


def test_a_refusal_counts_for_its_token_alone():
    tokens = iter(["an earlier run's"])
    assert LOST in told_by(b"stranger\n", b"", token=lambda: next(tokens, TOKEN), timeout=20)


def test_waits_for_the_token_of_this_run():
    """The workdir holds the token of an earlier run until the first process replaces it."""
    port, calls = free_port(), []

    def token():
        calls.append(["", "an earlier run's", TOKEN][min(len(calls), 2)])
        return calls[-1]

    first, second = together(meet(port, 2, 0), meet(port, 2, 1, token=token))
    assert list(first) == [1] and list(second) == [0] and len(calls) >= 3


def test_an_impostor_of_the_first_process_is_refused():
    """An impostor does not know the token, so it cannot prove its "go"."""
    assert REFUSED in told_by(b"go " + b"0" * 64 + b"\n")


def test_a_process_that_dies_early_may_reconnect():
    port, gone = free_port(), threading.Event()

    def dies():
        line = call(port)
        challenge = line.recv(100).split()[1].decode()
        words = ("hello", 3, 1, rendezvous.__version__, "mine")
        line.sendall(f"{' '.join(map(str, words))} {handshake.proof(TOKEN, challenge, *words)}\n".encode())
        line.close()
        gone.set()

    first, _, again, other = together(
        meet(port, 3, 0),
        dies,
        lambda: gone.wait(20) and meet(port, 3, 1)(),
        lambda: gone.wait(20) and meet(port, 3, 2)(),
    )
    assert sorted(first) == [1, 2] and list(again) == list(other) == [0]


def test_reports_jaxs_port_in_use_to_all():
    port = free_port()
    with socket.create_server(("", port + 1)):
        for error in together(meet(port, 2, 0), meet(port, 2, 1)):
            assert isinstance(error, UserError)
            assert f"port {port + 1}, the one after the coordinator's" in str(error) and "in use" in str(
                error
            )


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_connects_by_ipv6():
    port = free_port()
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine's loopback has no IPv6 address")
    first, second = together(meet(port, 2, 0, host="::1"), meet(port, 2, 1, host="::1"))
    assert list(first) == [1] and list(second) == [0]
    with pytest.raises(UserError, match=rf"at \[::1\]:{port} within"):
        meet(port, 2, 1, timeout=0.1, host="::1")()


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("no.such.host.invalid", "the host no.such.host.invalid is unknown"),
        ("x" * 80, "is not the name of a host"),
    ],
)
def test_reports_an_unknown_host(host, told):
    with pytest.raises(UserError) as error:
        meet(free_port(), 2, 1, timeout=0.3, host=host)()
    assert told in str(error.value) and "\n" not in str(error.value)
