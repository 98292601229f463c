"""Names the machine and the versions of packages that a result comes from."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Sequence
from typing import TYPE_CHECKING

import tpr_jax
from tpr_jax.utils import cpu

if TYPE_CHECKING:
    import jax

# The packages that a run computes with.
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "pillow", "tensorflow", "tensorflow-cpu")


def describe(devices: Sequence[jax.Device]) -> dict:
    """Describes the devices of a run and the versions that it computes with, as JSON values.

    Args:
      devices: the devices of the run's mesh, of all processes.

    Returns:
      `platform` ("cpu", "gpu" or "tpu"), `device` (its name), `devices` (their number) and `versions` by
      package, of which those that are not installed are left out.
    """
    return {
        "platform": devices[0].platform,
        "device": device_name(devices[0]),
        "devices": len(devices),
        "versions": versions(),
    }


def device_name(device: jax.Device) -> str:
    """Returns the name of a device; a CPU's with the most recent of its low-precision instruction sets."""
    return cpu_name() if device.platform == "cpu" else device.device_kind


def cpu_name() -> str:
    """Returns the CPU's name and the most recent of its low-precision instruction sets."""
    fields, available = cpu.fields(), cpu.instruction_sets()
    if not fields:
        return platform.processor() or platform.machine()
    units = [name for name in ("amx_bf16", "avx512_bf16", "avx512f") if name in available]
    name = fields.get("model name", [platform.machine()])[-1]
    return " ".join([name, *(f"with {unit}" for unit in units[:1])])


def versions() -> dict[str, str]:
    """Returns the versions of this package, of Python, and of the packages that a run computes with."""
    found = {"tpr_jax": tpr_jax.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
