"""The address that the server listens on."""

import socket

import pytest

from tpr_jax.errors import UserError
from tpr_jax.search.server.listen import listen


def test_clients_can_connect_at_once():
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()) as client:
        accepted, address = listener.accept()
        with accepted:
            assert address == client.getsockname()
        port = listener.getsockname()[1]
    with listen("127.0.0.1", port):  # though the system remembers the connection that this side has closed
        pass


def test_listens_on_loopback_only():
    with listen("127.0.0.1", 0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
    with listen("localhost", 0) as listener:
        assert listener.getsockname()[0] in ("127.0.0.1", "::1")


@pytest.mark.parametrize(
    ("first", "second"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "0.0.0.0")]
)
def test_a_port_has_one_server(first, second):
    with listen(first, 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"^--port {port} of --host {second}: cannot listen .*--port 0$"):
            listen(second, port)
    with listen(second, port):  # without a wait
        pass


@pytest.mark.parametrize("host", ["::1", "::"])
def test_a_port_has_one_server_in_ipv6(host):
    try:
        taken = listen(host, 0)
    except UserError:
        pytest.skip("this machine has no IPv6")
    with taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"^--port {port} of --host {host}: cannot listen .*--port 0$"):
            listen(host, port)


@pytest.mark.parametrize(
    ("host", "port"), [("127.0.0.1", -1), ("127.0.0.1", 65536), ("no.such.host.invalid", 0)]
)
def test_rejects_what_is_no_address(host, port):
    with pytest.raises(UserError, match=f"^--port {port}: must be" if port else f"^--host {host}: is not"):
        listen(host, port)
