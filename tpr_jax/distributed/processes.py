"""Several processes as one run: JAX among them, and how the run ends when one of them does.

The processes meet at the coordinator's port (`distributed/rendezvous.py`); JAX's own service listens on the
next one.
"""

import collections
import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator

from tpr_jax.distributed import handshake, peer_lines, rendezvous
from tpr_jax.distributed.cluster import Peers, split_address
from tpr_jax.errors import UserError
from tpr_jax.utils.signals import Stopped

TIMEOUT = 300.0  # seconds that all may take to come


@contextlib.contextmanager
def initialized(
    peers: Peers | None,
    timeout: float,
    workdir: str | os.PathLike,
    verdict: Callable[[BaseException], tuple[int, str]],
) -> Iterator[None]:
    """JAX among these processes; with None only this one, and nothing is done.

    All but the first print nothing. Where one fails, or is lost, all end: with its line and the exit code
    that `verdict(error)` gives; this does not return then, for JAX would wait for the lost. At the end each
    waits until all are done.

    `workdir` is where they find the run's token, see `handshake.py`.

    Raises:
      UserError: the others do not come in time.
    """
    if peers is None:
        yield
        return
    host, port = split_address(peers.coordinator)
    lines = _meet(rendezvous.Place(host, port, peers.count, peers.index, timeout, peers.hosts), str(workdir))
    sys.stdout = _python_stdout(peers.index)
    finish = peer_lines.watch(lines, _end)
    _start_jax(rendezvous.join_address(host, port + 1), peers, timeout)
    try:
        yield
        if not finish(600):
            raise UserError("the other processes were not done in time; the results are whole all the same")
        _leave_jax()
    except BaseException as error:
        code, line = verdict(error)
        if isinstance(error, Stopped) and finish(15):  # else not all were asked, and the others hear it now
            _leave_jax()
        elif not line:
            # A collective that fails because its peer is gone: give `watch` time to say so better.
            time.sleep(10)
            traceback.print_exception(error)
            line = f"error: process {peers.index} failed: {type(error).__name__}"
        peer_lines.leave(lines, code, line)
        _end(code, line)


def _meet(place: rendezvous.Place, workdir: str) -> peer_lines.Lines:
    if place.index:
        return rendezvous.meet(place, handshake.reader(os.environ, workdir))
    with handshake.offered(os.environ, workdir) as token:
        return rendezvous.meet(place, lambda: token)


def _leave_jax() -> None:
    import jax

    jax.distributed.shutdown()


def _start_jax(address: str, peers: Peers, timeout: float) -> None:
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM, and nobody asks it
    jax.distributed.initialize(
        address,
        peers.count,
        peers.index,
        local_device_ids=peers.devices,
        cluster_detection_method="deactivate",
        initialization_timeout=int(max(timeout, 60)),  # they are all there already
        heartbeat_timeout_seconds=60,  # for one that hangs; of one that is gone `meeting` knows sooner
    )


def _python_stdout(index: int):
    """Lets only the first process print, and only from Python: gloo greets each of its peers on stdout."""
    sys.stdout.flush()
    saved, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    return os.fdopen(nowhere if index else saved, "w", buffering=1)


def _end(code: int, line: str) -> None:
    """Ends this process at once, whatever its threads are waiting for."""
    if not line.startswith("error: ") and code:
        line = f"error: {line}; the same command goes on from the newest checkpoint"
    if code:
        # JAX notices too that a peer is gone, and reports it with the stack of its C++: this is all that is
        # needed of it.
        stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.write(stderr, f"{line}\n".encode())
    with contextlib.suppress(OSError, ValueError):  # nobody may read it any longer
        if not code:
            print(line)
        sys.stdout.flush()
    os._exit(code)


def is_first() -> bool:
    """Whether this process is the one that writes what a run leaves, checkpoints apart."""
    import jax

    return jax.process_index() == 0


def broadcast_from_first(decision: bool) -> bool:
    """What the first process decided: by floating-point numbers of their own, different machines might not
    agree."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return decision
    return bool(multihost_utils.broadcast_one_to_all(np.int32(decision)))


def all_gather_dict(mine: dict[str, str]) -> dict[str, str]:
    """What the dicts of all processes hold together; all have to ask."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return mine
    written = np.frombuffer(json.dumps(mine).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(written)))
    padded = np.pad(written, (0, sizes.max() - len(written)))
    found = zip(multihost_utils.process_allgather(padded), sizes, strict=True)
    return {key: value for rows, size in found for key, value in json.loads(rows[:size].tobytes()).items()}


def any_process(mesh) -> Callable[[bool], bool]:
    """`ask(mine)`: whether any process said yes. All get the same answer at the same question.

    With several processes it is that to the question before last: asked after each step it makes none wait
    for another.
    """
    import jax
    import numpy as np

    from tpr_jax.distributed.sharding import AXES

    if jax.process_count() == 1:
        return bool
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXES))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    highest = jax.jit(lambda said: said.max(), out_shardings=everywhere)
    here = len(mesh.local_devices)
    waiting: collections.deque = collections.deque()

    def ask(mine: bool) -> bool:
        said = jax.make_array_from_process_local_data(rows, np.full(here, mine, np.int32), (mesh.size,))
        waiting.append(highest(said))
        return len(waiting) > 2 and bool(waiting.popleft())

    return ask
