"""Peak memory: of a real process, and across an interruption."""

import resource
import subprocess
import sys

import pytest

from tpr_jax.perf import memory

MIB = 2**20


RISE = """
import resource
import numpy as np
from tpr_jax.perf import memory
before = memory.peaks({})["peak_memory_bytes"]
block = np.ones(before + 200 * 2**20, np.uint8)  # more than its peak so far
during = memory.peaks({})["peak_memory_bytes"]
size = block.nbytes
del block
after = memory.peaks({})["peak_memory_bytes"]
print(size, during, after, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_peak_rises_with_allocations_and_does_not_fall():
    """Runs in a separate process started by a shell, because a child of the test process would inherit its
    peak memory."""
    by_shell = ["sh", "-c", '"$0" -c "$1"; exit $?', sys.executable, RISE]
    done = subprocess.run(by_shell, capture_output=True, text=True, check=True)
    size, during, after, by_kernel = map(int, done.stdout.split())
    assert size <= during < 3 * size + 500 * MIB
    # The kernel updates its counters in batches of pages, so they differ by less than this.
    assert abs(after - during) < 20 * MIB
    assert abs(after - by_kernel) < 20 * MIB


def test_memory_of_the_parent_is_not_counted():
    code = (
        "import numpy as np, subprocess, sys\n"
        "block = np.ones(1_500_000_000, np.uint8)\n"
        "child = 'from tpr_jax.perf import memory; print(memory.peaks({})[\"peak_memory_bytes\"])'\n"
        "subprocess.run([sys.executable, '-c', child], check=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 50 * MIB < int(done.stdout) < 1_000_000_000


def test_returns_the_larger_of_before_and_now(monkeypatch):
    monkeypatch.setattr(memory, "_process_peak", lambda: 100)
    monkeypatch.setattr(memory, "_first_device_peak", lambda: None)
    key, device = "peak_memory_bytes", "peak_device_memory_bytes"
    assert memory.peaks({}) == {key: 100, device: None}
    assert memory.peaks({key: 300, device: None}) == {key: 300, device: None}
    assert memory.peaks({key: 99, "seconds": 5.0}) == {key: 100, device: None}
    monkeypatch.setattr(memory, "_first_device_peak", lambda: 70)
    assert memory.peaks({key: 1, device: 80}) == {key: 100, device: 80}
    assert memory.peaks({key: 1, device: 8}) == {key: 100, device: 70}


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_falls_back_to_rusage_without_proc(monkeypatch):
    class Nowhere:
        def __init__(self, *_):
            pass

        def read_text(self):
            raise FileNotFoundError

    near = memory.peaks({})["peak_memory_bytes"]
    monkeypatch.setattr(memory, "Path", Nowhere)
    by_kernel = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert abs(memory.peaks({})["peak_memory_bytes"] - by_kernel) < 20 * MIB
    assert memory.peaks({})["peak_memory_bytes"] >= 0.9 * near
