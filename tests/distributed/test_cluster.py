"""Detection of a run's processes from the variables that clusters really set."""

import pytest

from tpr_jax.distributed.cluster import Peers, find, split_address
from tpr_jax.errors import UserError

SLURM = {
    "SLURM_JOB_ID": "5000",
    "SLURM_STEP_NODELIST": "gpu[003-005,009],login1",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_NTASKS": "16",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
}
MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
}
GKE = {
    "TPU_WORKER_HOSTNAMES": "job-0.svc,job-1.svc,job-2.svc,job-3.svc",
    "TPU_WORKER_ID": "2",
    "JOB_COMPLETION_INDEX": "2",
}
EXPLICIT = {
    "JAX_COORDINATOR_ADDRESS": "10.0.0.1:7000",
    "JAX_NUM_PROCESSES": "2",
    "JAX_PROCESS_ID": "1",
}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"HOME": "/root"},
        SLURM | {"SLURM_STEP_NUM_TASKS": "1"},
        # In a batch script itself, where srun has not started the tasks.
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_NODELIST": "gpu[1-2]"},
        MPI | {"OMPI_COMM_WORLD_SIZE": "1"},
        {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"},  # as on a single TPU VM, or Colab
        {"JOB_COMPLETION_INDEX": "0"},
        EXPLICIT | {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"},
        {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"},
        {"JAX_PROCESS_ID": ""},
    ],
)
def test_a_single_process_has_no_peers(environment):
    assert find(environment) is None


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu[003-005,009],login1", "gpu003"),
        ("gpu[12,14-15]", "gpu12"),
        ("node1", "node1"),
        ("node1,node7", "node1"),
        ("rack-a-[1-2]", "rack-a-1"),
    ],
)
def test_slurm(nodes, first):
    found = find(SLURM | {"SLURM_STEP_NODELIST": nodes})
    assert found == Peers(f"{first}:{61440 + 5000 % 2047 * 2}", 8, 5, devices=(1,))


def test_slurm_tasks_with_their_own_gpu_or_machine():
    assert find(SLURM | {"CUDA_VISIBLE_DEVICES": "3"}).devices is None
    assert find(SLURM | {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}).devices == (1,)
    assert find(SLURM | {"SLURM_STEP_NUM_NODES": "8"}).devices is None


@pytest.mark.parametrize(
    ("gpus", "devices"),
    [
        # srun --gpus-per-task=2 gives each task two of the node's four, numbered from 0.
        ({"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_GPUS_ON_NODE": "4", "SLURM_GPUS_PER_TASK": "2"}, None),
        ({"CUDA_VISIBLE_DEVICES": "2,3", "SLURM_GPUS_ON_NODE": "4"}, None),
        ({"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_GPUS_PER_TASK": "a100:2"}, None),
        # If all tasks of a node see all of its GPUs, they divide them without overlap or remainder.
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3", "SLURM_GPUS_ON_NODE": "4"}, (2, 3)),
        ({"SLURM_GPUS_ON_NODE": "8"}, (4, 5, 6, 7)),
        ({"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_GPUS_ON_NODE": "2"}, (1,)),
        ({}, (1,)),
    ],
)
def test_a_slurm_task_uses_all_of_its_gpus(gpus, devices):
    two_here = {
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
        "SLURM_NODEID": "1",
        "SLURM_PROCID": "3",
    }
    assert find(SLURM | two_here | gpus).devices == devices


@pytest.mark.parametrize(("node", "devices"), [("0", (1,)), ("1", (1,)), ("2", (2, 3))])
def test_slurm_nodes_may_have_different_numbers_of_tasks(node, devices):
    tasks = {"SLURM_STEP_TASKS_PER_NODE": "4(x2),2", "SLURM_NODEID": node, "SLURM_STEP_NUM_TASKS": "10"}
    seen = {"CUDA_VISIBLE_DEVICES": "0,1,2,3", "SLURM_STEP_NUM_NODES": "3"}
    assert find(SLURM | tasks | seen).devices == devices


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("host:1", "host", 1),
        ("host", "host", 8476),
        ("[::1]:1234", "::1", 1234),
        ("[fe80::1%eth0]:65534", "fe80::1%eth0", 65534),
        ("::1", "::1", 8476),
        ("[::1]", "::1", 8476),
        ("10.0.0.1:7000", "10.0.0.1", 7000),
    ],
)
def test_addresses(address, host, port):
    assert split_address(address) == (host, port)
    found = find({}, coordinator=address, count=2, index=0).coordinator
    assert found == (f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    assert split_address(found) == (host, port)


@pytest.mark.parametrize(
    "address",
    [
        *("host:65535", "host:65536", "host:0", "host:-1", "host:x", "host:", "host:1:2", "[::1]:99999"),
        *(":8476", "[]:1", "[::1]8476", "[host]:1", "1:2:3", "host:\u0661\u0662", "a[b]:1", ""),
    ],
)
def test_rejects_malformed_addresses(address):
    with pytest.raises(UserError) as error:
        split_address(address)
    assert f"--coordinator {address}" in str(error.value) and "\n" not in str(error.value)


def test_concurrent_jobs_use_different_ports():
    ports = {find(SLURM | {"SLURM_JOB_ID": str(job)}).coordinator.split(":")[1] for job in range(4000, 6000)}
    both = {int(port) for port in ports} | {int(port) + 1 for port in ports}  # the next one is JAX's
    assert len(both) == 4000 and max(both) < 65536


def test_open_mpi():
    found = find(MPI)
    assert found.coordinator.startswith("10.96.0.1:")
    assert (found.count, found.index, found.devices) == (4, 3, (1,))
    six = MPI | {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp6://[fe80::1]:43370"}
    assert find(six).coordinator.startswith("[fe80::1]:")
    # All on one machine, which Open MPI 5 tells too.
    local = {key: MPI[key] for key in MPI if "uri" not in key} | {"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}
    assert find(local).coordinator.startswith("127.0.0.1:")
    with pytest.raises(UserError, match="also needs --coordinator HOST:PORT"):
        find({key: MPI[key] for key in MPI if "uri" not in key})
    assert find({key: MPI[key] for key in MPI if "uri" not in key}, coordinator="a:1").coordinator == "a:1"


def test_gke():
    hosts = {i: f"job-{i}.svc" for i in range(4)}
    assert find(GKE) == Peers("job-0.svc:8476", 4, 2, None, hosts)
    slices = {"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1", "MEGASCALE_COORDINATOR_ADDRESS": "c:99"}
    found = find(GKE | slices)
    assert (found.coordinator, found.count, found.index) == ("c:8476", 8, 6)
    assert found.hosts == {i + 4: host for i, host in hosts.items()}


def test_a_pod_gets_its_index_from_the_job():
    found = find(
        {"JOB_COMPLETION_INDEX": "3", "JAX_COORDINATOR_ADDRESS": "job-0.svc", "JAX_NUM_PROCESSES": "4"}
    )
    assert found == Peers("job-0.svc:8476", 4, 3)


@pytest.mark.parametrize("endpoints", ["10.0.0.5,10.0.0.6", "unknown:unknown:10.0.0.5,w1:1:10.0.0.6"])
def test_a_cloud_tpu_vm_reads_its_metadata(endpoints):
    metadata = {"worker-network-endpoints": endpoints, "agent-worker-number": "1", "tpu-env": "ZONE: 'x'\n"}
    found = find({}, metadata=metadata.__getitem__)
    assert found == Peers("10.0.0.5:8476", 2, 1, None, {0: "10.0.0.5", 1: "10.0.0.6"})
    metadata["tpu-env"] = "ZONE: 'x'\nMEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\n"
    found = find({}, metadata=metadata.__getitem__)
    assert (found.count, found.index) == (4, 3)
    assert find({}, metadata=lambda key: "") is None


def test_flags_override_variables_which_override_the_cluster():
    assert find(EXPLICIT) == Peers("10.0.0.1:7000", 2, 1)
    assert find(EXPLICIT, index=0, coordinator="b:2") == Peers("b:2", 2, 0)
    assert find(SLURM | EXPLICIT).coordinator == "10.0.0.1:7000"
    assert find(SLURM | {"JAX_PROCESS_ID": "0"}).index == 0


@pytest.mark.parametrize(
    ("environment", "flags", "told"),
    [
        ({}, {"coordinator": "a:1"}, "also needs --num_processes and --process_id"),
        ({}, {"count": 2}, "also needs --coordinator HOST:PORT and --process_id"),
        (
            {},
            {"index": 3},
            "--process_id 3: a run of several processes also needs --coordinator HOST:PORT and",
        ),
        ({}, {"index": 0}, "--process_id 0: a run of several processes also needs"),
        ({"JAX_PROCESS_ID": "3"}, {}, "JAX_PROCESS_ID=3: a run of several processes also needs"),
        ({}, {"index": 3, "count": 1}, "--process_id 3: must be 0 with --num_processes 1"),
        ({}, {"index": -1}, "--process_id -1: a run of several processes also needs"),
        (EXPLICIT, {"index": 2}, "--process_id 2 must lie between 0 and 1"),
        (EXPLICIT, {"count": -3}, "must lie between"),
        (EXPLICIT | {"JAX_NUM_PROCESSES": "two"}, {}, "JAX_NUM_PROCESSES='two' must be a whole number"),
    ],
)
def test_rejects_inconsistent_settings(environment, flags, told):
    with pytest.raises(UserError) as error:
        find(environment, **flags)
    assert told in str(error.value) and "\n" not in str(error.value)
