"""Describes GPUs to XLA's compiler, which then compiles for them on a machine that has none."""

import os
import re
from typing import NamedTuple

from tpr_jax.errors import UserError
from tpr_jax.perf import chips

MEBI = 2**20
# Of a GPU's memory, JAX takes this share at its start, unless XLA_PYTHON_CLIENT_MEM_FRACTION names another.
MEMORY_FRACTION = 0.75


class Gpu(NamedTuple):
    """A model of GPU.

    Attributes:
      kind: the name that JAX gives it.
      capability: the CUDA compute capability, (major, minor).
      cores: the number of streaming multiprocessors.
      clock: the boost clock, GHz.
      memory: the memory that `nvidia-smi` reports, MiB.
      cache: the L2 cache, MiB.
    """

    kind: str
    capability: tuple[int, int]
    cores: int
    clock: float
    memory: int
    cache: int


# NVIDIA's data sheets and architecture white papers; A100, H100 and B200 are the SXM models.
GPUS = {
    "rtx3090": Gpu("NVIDIA GeForce RTX 3090", (8, 6), cores=82, clock=1.70, memory=24576, cache=6),
    "rtx4090": Gpu("NVIDIA GeForce RTX 4090", (8, 9), cores=128, clock=2.52, memory=24564, cache=72),
    "l4": Gpu("NVIDIA L4", (8, 9), cores=58, clock=2.04, memory=23034, cache=48),
    "l40s": Gpu("NVIDIA L40S", (8, 9), cores=142, clock=2.52, memory=46068, cache=96),
    "a100-40gb": Gpu("NVIDIA A100-SXM4-40GB", (8, 0), cores=108, clock=1.41, memory=40960, cache=40),
    "a100": Gpu("NVIDIA A100-SXM4-80GB", (8, 0), cores=108, clock=1.41, memory=81920, cache=40),
    "h100": Gpu("NVIDIA H100 80GB HBM3", (9, 0), cores=132, clock=1.98, memory=81559, cache=50),
    "h200": Gpu("NVIDIA H200", (9, 0), cores=132, clock=1.98, memory=143771, cache=50),
    "b200": Gpu("NVIDIA B200", (10, 0), cores=148, clock=1.97, memory=183359, cache=126),
}


class _Limits(NamedTuple):
    """What one multiprocessor offers: KiB of shared memory (all, for one block), threads, float32 units."""

    shared: int
    shared_of_block: int
    threads: int
    units: int


# CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
_LIMITS = {
    (8, 0): _Limits(shared=164, shared_of_block=163, threads=2048, units=64),
    (8, 6): _Limits(shared=100, shared_of_block=99, threads=1536, units=128),
    (8, 9): _Limits(shared=100, shared_of_block=99, threads=1536, units=128),
    (9, 0): _Limits(shared=228, shared_of_block=227, threads=2048, units=128),
    (10, 0): _Limits(shared=228, shared_of_block=227, threads=2048, units=128),
}


def parse(topology: str) -> tuple[Gpu, str] | None:
    """Parses `h100`, `h100:8` (GPUs of one machine) or `h100:2x8` (machines x GPUs); None for other names.

    Returns:
      The model, and its number as the compiler counts: slices x machines x GPUs of a machine.
    """
    match = re.fullmatch(r"([\w-]+?)(?::(?:([1-9]\d*)x)?([1-9]\d*))?", topology)
    if match is None or match[1] not in GPUS:
        return None
    return GPUS[match[1]], f"1x{match[2] or 1}x{match[3] or 1}"


def is_near(topology: str) -> bool:
    """Returns whether a topology that `parse` does not know begins with the name of a GPU, or nearly so."""
    return topology.lower().startswith(tuple(GPUS))


def description(gpu: Gpu) -> str:
    """Returns what XLA has to know of a GPU, as the text of its protocol buffer `GpuTargetConfigProto`."""
    limits = _LIMITS[gpu.capability]
    major, minor = gpu.capability
    # Hopper's and later matrix units have instructions that code for all later GPUs may not use.
    feature = "feature_extension: ACCELERATED_FEATURES" if major >= 9 else ""
    return f"""
gpu_device_info {{
  cuda_compute_capability {{ major: {major} minor: {minor} {feature} }}
  core_count: {gpu.cores}
  fpus_per_core: {limits.units}
  clock_rate_ghz: {gpu.clock}
  device_memory_size: {gpu.memory * MEBI}
  memory_bandwidth: {int(chips.GPUS[gpu.kind].bandwidth)}
  l2_cache_size: {gpu.cache * MEBI}
  shared_memory_per_core: {limits.shared * 1024}
  shared_memory_per_block: {48 * 1024}
  shared_memory_per_block_optin: {limits.shared_of_block * 1024}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  threads_per_core_limit: {limits.threads}
  threads_per_block_limit: 1024
  threads_per_warp: 32
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{gpu.kind}"
"""


def shortage(kind: str, needed: int) -> dict[str, float] | None:
    """Returns the bytes `needed`, `available` and `missing` if a program does not fit, else None.

    GPUs' compiler does not refuse a program that needs too much memory.

    Args:
      kind: the name that JAX gives the device; programs for others than `GPUS` fit.
      needed: the bytes of the program and its arguments.

    Raises:
      UserError: XLA_PYTHON_CLIENT_MEM_FRACTION is not a number.
    """
    memory = next((gpu.memory * MEBI for gpu in GPUS.values() if gpu.kind == kind), None)
    if memory is None:
        return None
    available = memory * _memory_fraction()
    if needed <= available:
        return None
    return {"needed": float(needed), "available": available, "missing": needed - available}


def _memory_fraction() -> float:
    given = os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", str(MEMORY_FRACTION))
    try:
        return float(given)
    except ValueError:
        raise UserError(
            f"XLA_PYTHON_CLIENT_MEM_FRACTION={given}: is not a number: give a fraction, such as 0.9"
        ) from None
