"""The gate that bounds what is decoded at once, what is estimated for it, and what decoding really takes."""

import io
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.conftest import ROOT
from tests.pictures import encoded, smooth
from tpr_jax.data.images import memory as image_memory
from tpr_jax.data.images.memory import MemoryGate, decode_bytes, within_memory


@given(st.lists(st.integers(0, 150), min_size=1, max_size=12))
def test_the_gate_keeps_within_its_limit_and_lets_everybody_in(counts):
    gate, inside, peaks = MemoryGate(100), [], []
    lock = threading.Lock()

    def pass_through(count):
        with gate.hold(count):
            with lock:
                inside.append(min(count, 100))
                peaks.append(sum(inside))
            with lock:
                inside.remove(min(count, 100))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(pass_through, counts))
    assert max(peaks) <= 100 and gate.used == 0


def test_what_does_not_fit_waits():
    gate, entered = MemoryGate(100), threading.Event()

    def enter():
        with gate.hold(41):
            entered.set()

    thread = threading.Thread(target=enter)
    with gate.hold(60):
        thread.start()
        while not gate._waiting and not entered.is_set():
            pass
        with gate._changed:  # it has looked, and waits
            pass
        assert not entered.is_set() and gate.used == 60
    thread.join()
    assert entered.is_set() and gate.used == 0
    with gate.hold(60), gate.hold(40):
        assert gate.used == 100
    with gate.hold(1000):  # alone
        assert gate.used == 100


def test_who_comes_first_is_let_in_first():
    """Small ones do not pass a large one by, which would never get in else."""
    gate, order = MemoryGate(10), []

    def enter(count):
        with gate.hold(count):
            order.append(count)

    threads = []
    with gate.hold(5):
        for count in (10, 1):
            threads.append(threading.Thread(target=enter, args=(count,)))
            threads[-1].start()
            while len(gate._waiting) < len(threads) and not order:
                pass
        assert order == []  # the 1 would fit
    for thread in threads:
        thread.join()
    assert order == [10, 1]


def test_an_error_gives_the_memory_back():
    for needed in (1, 2**26):
        with pytest.raises(ZeroDivisionError):
            within_memory(needed, lambda: 1 / 0)
    assert image_memory._DECODING.used == 0


def test_large_pictures_share_few_threads():
    """What a thread freed stays with it: see `images.memory`."""
    names = set()
    with ThreadPoolExecutor(16) as pool:
        for name in pool.map(
            lambda _: within_memory(2**26, lambda: threading.current_thread().name), range(64)
        ):
            names.add(name)
    assert len(names) <= 4
    assert within_memory(1, threading.current_thread) is threading.current_thread()


def opened(kind, mode="RGB", **how):
    return Image.open(io.BytesIO(encoded(Image.fromarray(smooth()).convert(mode), kind, **how)))


def test_estimates_worked_by_hand():
    pixels = 48 * 20
    assert decode_bytes(opened("JPEG")) == 4 * pixels
    assert decode_bytes(opened("JPEG"), divisor=2) == 4 * pixels // 4
    assert decode_bytes(opened("JPEG"), divisor=8) == 4 * 6 * 3  # 2.5 columns are 3
    # Two bytes a coefficient, of all of the picture: at 4:2:0 half as many for color as for brightness.
    assert decode_bytes(opened("JPEG", subsampling=2), 2, 1, scans=10) == 4 * pixels // 4 + 2 * pixels * 1.5
    assert decode_bytes(opened("JPEG", subsampling=0), 2, 1, scans=10) == 4 * pixels // 4 + 2 * pixels * 3
    assert decode_bytes(opened("PNG", "L")) == (1 + 4) * pixels  # then RGB, and turned
    assert decode_bytes(opened("PNG", "RGBA")) == (4 + 12) * pixels  # white, laid upon it, RGB
    assert decode_bytes(opened("WEBP")) == 17 * pixels


MEASURE = """
import io, re, sys
from concurrent.futures import ThreadPoolExecutor
from PIL import Image
from tpr_jax.data.images import read as images
from tpr_jax.search.server.images import read_upload

def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) * 1024

data = open(sys.argv[1], "rb").read()
images.read_resized(Image.new("RGB", (9, 9)), (3, 3))
before = peak()
with ThreadPoolExecutor(32) as pool:
    for pixels in pool.map(lambda _: read_upload(data, (384, 128)), range(int(sys.argv[2]))):
        assert pixels.shape == (384, 128, 3)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("kind", "settings", "at_once", "limit"),
    [
        ("JPEG", {}, 1, 120),
        ("JPEG", {"progressive": True}, 1, 300),
        ("PNG", {"compress_level": 1}, 1, 450),
        ("JPEG", {}, 32, 700),
    ],
)
def test_what_50_megapixels_take(tmp_path, kind, settings, at_once, limit):
    """In a process of its own, MB above what it takes without; the pixels are 200 MB as Pillow holds them."""
    small = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    picture = Image.fromarray(small).resize((8640, 5760), Image.Resampling.NEAREST)
    path = tmp_path / "large"
    picture.save(path, kind, **settings)
    command = [sys.executable, "-c", MEASURE, str(path), str(at_once)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) < limit * 1e6, done.stdout
