"""Ports for tests that need a port and the one after it."""

import contextlib
import random
import socket

# Below the range that Linux hands out for port 0 and for outgoing connections (32768 and up): other tests
# that run meanwhile cannot be given the second port of a pair between this check and its use.
LOWEST, HIGHEST = 20_000, 32_000


def free_port() -> int:
    """Returns a free port whose next port is free too."""
    # A generator of its own: tests seed the shared one, and two workers would then draw the same ports.
    draw = random.SystemRandom()
    while True:
        port = draw.randrange(LOWEST, HIGHEST, 2)
        with (
            contextlib.suppress(OSError),
            socket.create_server(("", port)),
            socket.create_server(("", port + 1)),
        ):
            return port
