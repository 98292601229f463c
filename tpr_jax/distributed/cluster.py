"""Finds the processes of a run from flags or from the environment of a cluster.

Flags come first, then the variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, then what
SLURM (srun), Open MPI (mpirun), GKE with JobSet and Cloud TPU set. If none of them names several processes,
there is one.

`jax.distributed` detects these clusters too, but uses only one GPU per SLURM task, even if a task has more.
"""

import glob
import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from tpr_jax.errors import UserError

PORT = 8476  # where only a host is given


@dataclass(frozen=True)
class Peers:
    """The processes of a run, as one of them sees them.

    Attributes:
      coordinator: HOST:PORT of the first process.
      count: the number of processes.
      index: this process's index.
      devices: the indices of the visible GPUs that this process uses; None is all of them.
      hosts: the processes' hosts by index, as far as they are known.
    """

    coordinator: str = ""
    count: int = 0
    index: int = -1
    devices: tuple[int, ...] | None = None
    hosts: Mapping[int, str] = field(default_factory=dict)


def find(
    environment: Mapping[str, str],
    coordinator: str | None = None,
    count: int | None = None,
    index: int | None = None,
    metadata: Callable[[str], str] | None = None,
) -> Peers | None:
    """Finds the processes of this run.

    Args:
      environment: the environment variables.
      coordinator: HOST:PORT of the first process; flags take precedence over the environment.
      count: the number of processes.
      index: this process's index.
      metadata: reads an attribute of this Cloud TPU VM, if it is one.

    Returns:
      The processes, or None if there is only this one.

    Raises:
      UserError: there are several processes, but a setting is missing or invalid.
    """
    detected = (detect(environment) for detect in (_slurm, _open_mpi, _cloud_tpu(metadata)))
    peers = next((peers for peers in detected if peers is not None), Peers())
    for key, flag, variable in (
        ("coordinator", coordinator, "JAX_COORDINATOR_ADDRESS"),
        ("count", count, "JAX_NUM_PROCESSES"),
        ("index", index, "JAX_PROCESS_ID"),
    ):
        value = flag if flag is not None else environment.get(variable)
        if value not in (None, ""):
            peers = replace(peers, **{key: value if key == "coordinator" else _number(value, variable)})
    if not peers.coordinator and peers.count in (0, 1):
        _check_single(environment, peers.count, index)
        return None
    if peers.index < 0 and (pod := environment.get("JOB_COMPLETION_INDEX")):  # set by a Kubernetes Job
        peers = replace(peers, index=_number(pod, "JOB_COMPLETION_INDEX"))
    return _checked(peers)


def find_here(coordinator: str | None, count: int | None, index: int | None) -> Peers | None:
    """Calls `find` with the environment of this process and machine."""
    metadata = vm_metadata if on_tpu_vm() else None
    return find(os.environ, coordinator, count, index, metadata)


def _number(value, name: str) -> int:
    try:
        return int(value)
    except ValueError as error:
        raise UserError(f"{name}={value!r} must be a whole number") from error


def _check_single(environment: Mapping[str, str], count: int, index: int | None) -> None:
    """Rejects an index, by flag or variable, of a process that would run alone over everything.

    The index of a Kubernetes Job does not count: the only pod of a Job has one too.
    """
    value = environment.get("JAX_PROCESS_ID", "") if index is None else index
    if value == "":
        return
    given = f"JAX_PROCESS_ID={value}" if index is None else f"--process_id {value}"
    if not count:
        raise UserError(
            f"{given}: a run of several processes also needs --coordinator HOST:PORT and --num_processes"
        )
    if _number(value, "JAX_PROCESS_ID"):
        raise UserError(f"{given}: must be 0 with --num_processes {count}")


def _checked(peers: Peers) -> Peers | None:
    flags = {"coordinator": "--coordinator HOST:PORT", "count": "--num_processes", "index": "--process_id"}
    missing = [flag for key, flag in flags.items() if getattr(peers, key) == getattr(Peers, key)]
    if missing:
        raise UserError(f"a run of several processes also needs {' and '.join(missing)}")
    if not 0 <= peers.index < peers.count:
        raise UserError(
            f"--process_id {peers.index} must lie between 0 and {peers.count - 1}, below --num_processes"
        )
    if peers.count == 1:
        return None
    host, port = split_address(peers.coordinator)
    return replace(peers, coordinator=f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def split_address(address: str) -> tuple[str, int]:
    """Splits HOST, HOST:PORT, an IPv6 address or [IPv6 address]:PORT into host and port.

    Raises:
      UserError: the address has another form, or its port or the one after it does not exist.
    """
    bare_ipv6 = address.count(":") > 1 and not address.startswith("[")
    host, port = address, PORT
    if not bare_ipv6:
        match = re.fullmatch(r"(\[[^\[\]]+\]|[^\[\]:]+)(?::(.*))?", address)
        if match is None:
            raise UserError(f"--coordinator {address}: must be HOST:PORT, or [ADDRESS]:PORT for IPv6")
        host, digits = match[1], match[2]
        port = PORT if digits is None else int(digits) if re.fullmatch(r"[0-9]{1,5}", digits) else -1
    host = host.strip("[]")
    if bare_ipv6 or address.startswith("["):
        try:
            ipaddress.IPv6Address(host.partition("%")[0])
        except ValueError as error:
            raise UserError(f"--coordinator {address}: {host} is not an IPv6 address") from error
    if not 0 < port < 65535:
        raise UserError(
            f"--coordinator {address}: the port must be a number from 1 to 65534; the one after it is JAX's"
        )
    return host, port


def _slurm(environment: Mapping[str, str]) -> Peers | None:
    """Detects a step that srun started; in the batch script itself the tasks do not run yet."""
    if not {"SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID"} <= environment.keys():
        return None
    count = int(environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS") or 1)
    if count < 2:
        return None
    nodes = environment["SLURM_STEP_NODELIST"]
    # gpu[003-005,9],login1 -> gpu003
    first = re.sub(r"^([^,\[]*)(?:\[(\w+)[^\]]*\])?.*$", lambda m: m[1] + (m[2] or ""), nodes)
    port = (
        61440 + int(environment["SLURM_JOB_ID"]) % 2047 * 2
    )  # so that two jobs on a machine use different ports
    local_tasks = _slurm_tasks_here(environment, count)
    gpus = _number(environment.get("SLURM_GPUS_ON_NODE") or 0, "SLURM_GPUS_ON_NODE")
    devices = _own_devices(environment, environment.get("SLURM_LOCALID"), local_tasks, gpus)
    return Peers(f"{first}:{port}", count, int(environment["SLURM_PROCID"]), devices)


def _slurm_tasks_here(environment: Mapping[str, str], count: int) -> int:
    """Returns how many of the step's tasks run on this node, from a list such as "2(x3),1"."""
    tasks: list[int] = []
    for entry in (environment.get("SLURM_STEP_TASKS_PER_NODE") or "").split(","):
        if match := re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", entry):
            tasks += [int(match[1])] * int(match[2] or 1)
    node = int(environment.get("SLURM_NODEID") or 0)
    nodes = int(environment.get("SLURM_STEP_NUM_NODES") or 1)
    return tasks[node] if node < len(tasks) else -(-count // nodes)


def _open_mpi(environment: Mapping[str, str]) -> Peers | None:
    """Detects a start by mpirun; across machines only Open MPI 4 tells on which host it was called."""
    count = int(environment.get("OMPI_COMM_WORLD_SIZE") or 1)
    if count < 2:
        return None
    local_count = int(environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") or 0)
    uri = re.search(
        r"^(\d+).*?tcp6?://(?:\[([^,\]]+)|([^,:]+))", environment.get("OMPI_MCA_orte_hnp_uri", "")
    )
    host = "127.0.0.1" if local_count == count else (uri[2] or uri[3]) if uri else ""
    job = int(uri[1]) // 4096 if uri else 0
    local = environment.get("OMPI_COMM_WORLD_LOCAL_RANK")
    address = f"{host}:{61440 + job % 2047 * 2}" if host else ""
    address = f"[{host}]:{61440 + job % 2047 * 2}" if ":" in host else address
    return Peers(
        address,
        count,
        int(environment["OMPI_COMM_WORLD_RANK"]),
        _own_devices(environment, local, local_count),
    )


def _own_devices(
    environment: Mapping[str, str], local: str | None, count: int, gpus: int = 0
) -> tuple[int, ...] | None:
    """Returns the indices of the visible GPUs that a process uses, or None for all.

    A process that sees fewer GPUs than the machine has was given its own, as by `srun --gpus-per-task`;
    otherwise the processes divide the machine's GPUs evenly.

    Args:
      environment: the environment variables.
      local: the process's index among those of this machine.
      count: the number of processes on this machine.
      gpus: the number of GPUs that the job has on this machine; 0 if it is unknown.
    """
    listed = environment.get("CUDA_VISIBLE_DEVICES", "").strip(", ")
    seen = len(listed.split(",")) if listed else gpus
    if not local or count < 2 or seen == 1 or (listed and 0 < seen < gpus):
        return None
    if not gpus and listed and str(seen) == environment.get("SLURM_GPUS_PER_TASK", "").rpartition(":")[2]:
        return None
    each = max(seen // count, 1)
    return tuple(range(int(local) * each, int(local) * each + each))


def _cloud_tpu(metadata: Callable[[str], str] | None) -> Callable[[Mapping[str, str]], Peers | None]:
    """Detects the workers of one or several slices, from variables of GKE and JobSet or a VM's metadata."""

    def detect(environment: Mapping[str, str]) -> Peers | None:
        hosts = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES") or ""
        worker = environment.get("TPU_WORKER_ID", "")
        slices = environment
        if not hosts and metadata is not None:
            # Each entry is a host, or name:number:address.
            workers = metadata("worker-network-endpoints").split(",")
            hosts = ",".join(entry.split(":")[-1] for entry in workers)
            worker = metadata("agent-worker-number")
            pairs = re.findall(r"^(MEGASCALE_\w+):\s*'?([^'\n]*)'?$", metadata("tpu-env"), re.MULTILINE)
            slices = dict(pairs) | dict(environment)
        if not hosts or not worker.strip().isdigit():
            return None
        names = [host.split(":")[0] for host in hosts.split(",")]
        slice_count = int(slices.get("MEGASCALE_NUM_SLICES") or 1)
        before = int(slices.get("MEGASCALE_SLICE_ID") or 0) * len(names)
        first = (slices.get("MEGASCALE_COORDINATOR_ADDRESS") or names[0]).split(":")[0]
        if slice_count * len(names) < 2:
            return None
        hosts_by_index = {before + i: name for i, name in enumerate(names)}
        return Peers(f"{first}:{PORT}", slice_count * len(names), before + int(worker), None, hosts_by_index)

    return detect


def on_tpu_vm() -> bool:
    """Returns whether this machine has TPU chips, and so may have a metadata server."""
    return bool(glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"))


def vm_metadata(key: str) -> str:
    """Returns an attribute of this Google Cloud VM, or "" if it has none of that name."""
    url = f"http://metadata.google.internal/computeMetadata/v1/instance/attributes/{key}"
    import urllib.request  # takes a while, and most machines need none

    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read().decode()
    except OSError:
        return ""
