"""Runs blocking work of the server in threads."""

import functools

import anyio

# Python cannot stop a thread that runs C code; abandoning it lets the server stop.
run_in_thread = functools.partial(anyio.to_thread.run_sync, abandon_on_cancel=True)
