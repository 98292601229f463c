"""Peak memory of a run: of its process and of its first device."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path

import jax


def peaks(before: Mapping) -> dict[str, int | None]:
    """Returns the peak memory of this process and of its first device so far.

    Args:
      before: the result of an earlier part of the same run, which this process resumes, or an empty mapping.

    Returns:
      `peak_memory_bytes` and `peak_device_memory_bytes`, each the larger of now and before. The device's is
      None where it keeps no statistics, such as a CPU, whose memory is the process's.
    """
    now = {"peak_memory_bytes": _process_peak(), "peak_device_memory_bytes": _first_device_peak()}
    return {key: max(value or 0, before.get(key) or 0) or None for key, value in now.items()}


def _process_peak() -> int:
    """Returns the process's peak resident memory in bytes."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        status = ""
    # Unlike Linux's ru_maxrss this does not count what the parent held when it started this process.
    if peak := re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE):
        return 1024 * int(peak[1])
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def device_peak(device: jax.Device) -> int | None:
    """Returns the device's peak bytes in use, without reserved ones, or None if it keeps no statistics."""
    return (device.memory_stats() or {}).get("peak_bytes_in_use")


def _first_device_peak() -> int | None:
    return device_peak(jax.local_devices()[0])
