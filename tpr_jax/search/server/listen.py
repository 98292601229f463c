"""The address that the server listens on. This module imports nothing that takes time."""

import socket

from tpr_jax.errors import UserError


def bind(host: str, port: int) -> socket.socket:
    """Returns a bound socket. Raises UserError if the address is not available."""
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
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise UserError(listen_error(host, port, error)) from None
    return listener


def listen_error(host: str, port: int, error: OSError) -> str:
    """Returns the message for an address that the server cannot listen on."""
    return f"--port {port} of --host {host}: cannot listen ({error.strerror}): try --port 0"
