"""The address that the server listens on. This module imports nothing that takes time."""

import socket

from tpr_jax.errors import UserError

BACKLOG = 1024  # connections that may wait to be accepted


def listen(host: str, port: int) -> socket.socket:
    """Returns a listening socket. Clients can connect from now on, and wait until the server accepts them.

    Only one server can listen on a port, but several can bind it: of servers that start at the same time, all
    but one end here, before they load anything.

    Args:
      host: a name or an IPv4 or IPv6 address of this machine.
      port: the port; 0 takes a free one.

    Raises:
      UserError: the address is not available.
    """
    if not 0 <= port < 65536:
        raise UserError(f"--port {port}: must be from 0 (any free port) to 65535")
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"--host {host}: is not an address of this machine ({error}): try 127.0.0.1"
        ) from None
    family, kind, protocol, _, address = addresses[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # after an earlier server, without a wait
    try:
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise UserError(
            f"--port {port} of --host {host}: cannot listen ({error.strerror}): try --port 0"
        ) from None
    return listener
