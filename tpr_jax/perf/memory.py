"""How much memory a run has taken at its worst: of its process, and of its first device."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path

import jax


def peaks(before: Mapping) -> dict[str, int | None]:
    """`peak_memory_bytes` of this process and `peak_device_memory_bytes` of its first device, so far.

    `before` holds both, or neither, from an earlier part of the same run, which this process goes on with:
    the larger counts. The device's is None where it keeps no account, as a CPU does not: what it takes is the
    process's.
    """
    now = {"peak_memory_bytes": _of_process(), "peak_device_memory_bytes": _of_device()}
    return {key: max(value or 0, before.get(key) or 0) or None for key, value in now.items()}


def _of_process() -> int:
    """Resident memory at its highest, bytes."""
    try:
        # Linux counts into ru_maxrss what the parent held when it started this process; this it does not.
        return 1024 * int(re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.M)[1])
    except (OSError, TypeError):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def of_device(device: jax.Device) -> int | None:
    """The most bytes it has held, reserved but unused ones left out; None where it keeps no account."""
    return (device.memory_stats() or {}).get("peak_bytes_in_use")


def _of_device() -> int | None:
    return of_device(jax.local_devices()[0])
