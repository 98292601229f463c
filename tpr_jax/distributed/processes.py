"""Runs several processes as one: initializes JAX among them, and ends all of them when one ends.

The processes connect at the coordinator's port (`distributed/rendezvous.py`); JAX's own service listens on
the next one.
"""

import collections
import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Generator
from typing import Any

from tpr_jax.distributed import connections, handshake, rendezvous
from tpr_jax.distributed.cluster import Peers, split_address
from tpr_jax.errors import UserError
from tpr_jax.utils.signals import Stopped


@contextlib.contextmanager
def initialized(
    peers: Peers | None,
    timeout: float,
    workdir: str | os.PathLike,
    verdict: Callable[[BaseException], tuple[int, str]],
) -> Generator[None, None, None]:
    """Initializes JAX among the processes of a run for the duration of a `with` block.

    Only the first process prints. If one fails or is lost, all end with its message and the exit code that
    `verdict(error)` returns; this function does not return then, because JAX would wait for the lost process.
    At the end each process waits until all are done.

    Args:
      peers: the processes; with None there is only this one, and nothing is done.
      timeout: seconds until all have to be connected.
      workdir: where the processes find the run's token, see `handshake.py`.
      verdict: returns the exit code and the message that an error ends the run with; without a message it is
        unexpected and its traceback is printed.

    Raises:
      UserError: the others do not connect in time.
    """
    if peers is None:
        yield
        return
    host, port = split_address(peers.coordinator)
    where = rendezvous.Rendezvous(host, port, peers.count, peers.index, timeout, peers.hosts)
    peer_connections = _connect(where, str(workdir))
    sys.stdout = _python_stdout(peers.index)
    finish = connections.watch(peer_connections, _end)
    _start_jax(rendezvous.format_address(host, port + 1), peers, timeout)
    try:
        yield
        if not finish(600):
            raise UserError(
                "the other processes did not finish in time; the results are complete nonetheless"
            )
        _leave_jax()
    except BaseException as error:
        code, line = verdict(error)
        if isinstance(error, Stopped) and finish(15):  # if not all were asked to stop, `leave` tells them
            _leave_jax()
        elif not line:
            # A collective may have failed because a peer is gone: give `watch` time for its better message.
            time.sleep(10)
            traceback.print_exception(error)
            line = f"error: process {peers.index} failed: {type(error).__name__}"
        connections.leave(peer_connections, code, line)
        _end(code, line)


def _connect(where: rendezvous.Rendezvous, workdir: str) -> connections.Connections:
    if where.index:
        return rendezvous.connect(where, handshake.token_reader(os.environ, workdir))
    with handshake.offer_token(os.environ, workdir) as token:
        return rendezvous.connect(where, lambda: token)


def _leave_jax() -> None:
    import jax

    jax.distributed.shutdown()


def _start_jax(address: str, peers: Peers, timeout: float) -> None:
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # unused, and it would handle SIGTERM
    jax.distributed.initialize(
        address,
        peers.count,
        peers.index,
        local_device_ids=peers.devices,
        cluster_detection_method="deactivate",
        initialization_timeout=int(max(timeout, 60)),  # all are connected already
        heartbeat_timeout_seconds=60,  # detects a process that hangs; `connections` detects a lost one sooner
    )


def _python_stdout(index: int):
    """Lets only the first process print, and only from Python, because gloo prints on stdout too."""
    sys.stdout.flush()
    saved, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    return os.fdopen(nowhere if index else saved, "w", buffering=1)


def _end(code: int, line: str) -> None:
    """Ends this process immediately, whatever its threads are waiting for."""
    if not line.startswith("error: ") and code:
        line = f"error: {line}; rerun the same command to resume from the newest checkpoint"
    if code:
        # JAX reports a lost peer too, with a C++ stack trace; this line is all that a user needs.
        stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.write(stderr, f"{line}\n".encode())
    with contextlib.suppress(OSError, ValueError):  # its reader may be gone
        if not code:
            print(line)
        sys.stdout.flush()
    os._exit(code)


def is_first() -> bool:
    """Returns whether this process is the one that writes a run's files, other than checkpoints."""
    import jax

    return jax.process_index() == 0


def broadcast_from_first(value: Any) -> Any:
    """Returns the first process's value, which must be valid JSON; all processes must call this.

    Decisions go through it too, because floating-point results may differ between machines.
    """
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return value
    encoded = np.frombuffer(json.dumps(value).encode() if is_first() else b"", np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(encoded))))
    padded = np.pad(encoded, (0, size - len(encoded)))
    return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes())


def all_gather_dict(local: dict[str, str]) -> dict[str, str]:
    """Returns the union of the dicts of all processes, all of which must call this."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return local
    encoded = np.frombuffer(json.dumps(local).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(encoded)))
    padded = np.pad(encoded, (0, sizes.max() - len(encoded)))
    gathered = zip(multihost_utils.process_allgather(padded), sizes, strict=True)
    return {key: value for rows, size in gathered for key, value in json.loads(rows[:size].tobytes()).items()}


def any_process(mesh) -> Callable[[bool], bool]:
    """Returns `ask(flag)`, which returns whether any process set its flag, the same in all processes.

    With several processes the answer is that to the call before last, so that calling it after each step does
    not make the processes wait for each other.
    """
    import jax
    import numpy as np

    from tpr_jax.distributed.sharding import AXES

    if jax.process_count() == 1:
        return bool
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXES))
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    any_set = jax.jit(lambda flags: flags.max(), out_shardings=replicated)
    local_devices = len(mesh.local_devices)
    pending: collections.deque = collections.deque()

    def ask(flag: bool) -> bool:
        local = np.full(local_devices, flag, np.int32)
        pending.append(any_set(jax.make_array_from_process_local_data(rows, local, (mesh.size,))))
        return len(pending) > 2 and bool(pending.popleft())

    return ask
