"""Freed memory stays in the process, so that fewer pages are cleared."""

import subprocess
import sys

import pytest

from tpr_jax.perf.allocator import keep_freed_memory, release_freed_memory

COUNT = """
import resource, sys
import numpy as np
from tpr_jax.perf.allocator import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    raise SystemExit(3)
np.full(2**24, 1.0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    np.full(2**24, 1.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", COUNT, how], capture_output=True, text=True)
    if done.returncode == 3:
        pytest.skip("the C library here has no mallopt")
    return int(done.stdout)


def test_large_blocks_are_reused():
    # 128 MiB five times are 160,000 pages of 4 KiB, or 320 huge pages.
    assert faults("keep") < faults("leave") / 10


def test_does_nothing_on_another_platform(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False
    assert release_freed_memory() is False


HOLD = """
import re
from tpr_jax.perf.allocator import release_freed_memory, keep_freed_memory

def resident():
    return int(re.search(r"VmRSS:\\s*(\\d+)", open("/proc/self/status").read())[1]) // 1024

keep_freed_memory()
blocks = [bytearray(50_000) for _ in range(4000)]
last = bytearray(50_000)  # the topmost block keeps those below from being trimmed
before = resident()
del blocks
kept = resident()
print(before - kept, before - resident() if release_freed_memory() else "cannot")
"""


def test_free_memory_is_returned_to_the_system():
    """The process keeps 200 MB of freed small blocks until it is told to return them."""
    done = subprocess.run([sys.executable, "-c", HOLD], capture_output=True, text=True, check=True)
    kept, handed_back = done.stdout.split()
    if handed_back == "cannot":
        pytest.skip("the C library here has no malloc_trim")
    assert int(kept) < 20 and int(handed_back) > 150
