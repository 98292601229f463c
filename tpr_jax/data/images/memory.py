"""Estimates the memory that decoding takes, and limits that of all images decoded at the same time."""

import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from PIL import Image

from tpr_jax.perf.allocator import release_freed_memory

DECODE_BYTES = 384 * 2**20  # limit for all images decoded at the same time
MAX_DECODE_BYTES = 768 * 2**20  # limit for one image, which is then decoded alone
FILE_BYTES = 128 * 2**20  # limit for all files read at the same time; a larger file is read alone
_LARGE, _HUGE = 32 * 2**20, 128 * 2**20

# Bytes per pixel that a decoder takes besides the image, measured with Pillow 13 on 24 megapixels.
_DECODER = {"WEBP": 13, "JPEG2000": 16, "AVIF": 6, "HEIF": 4, "TIFF": 8}
_STORED = {
    "1": 1,
    "L": 1,
    "P": 1,
    "I;16": 2,
    "I;16B": 2,
    "I;16L": 2,
    "I;16N": 2,
}  # bytes per pixel in Pillow; others: 4
_ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")


class MemoryGate:
    """Limits the memory in use by all holders; serves requests in order of arrival."""

    def __init__(self, limit: int):
        self.limit, self.used = limit, 0
        self._waiting: deque = deque()
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, count: int) -> Generator[None, None, None]:
        """Holds `count` bytes, once they fit; more than the limit fit if there is no other holder."""
        count, ticket = min(count, self.limit), object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is ticket and self.used + count <= self.limit)
                self.used += count
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self.used -= count
                self._changed.notify_all()


FILES = MemoryGate(FILE_BYTES)  # acquired before, and held while waiting for, `_DECODING`
_DECODING = MemoryGate(DECODE_BYTES)
# glibc keeps the memory that a thread frees for that thread: with many threads, large images would add up.
_THREADS = ThreadPoolExecutor(4, "large-image")


def within_memory(needed: int, work: Callable[[], object]):
    """Returns `work()`, started once `needed` bytes are available for it."""
    if needed <= _LARGE:
        with _DECODING.hold(needed):
            return work()
    return _THREADS.submit(_large, needed, work).result()


def _large(needed: int, work: Callable[[], object]):
    with _DECODING.hold(needed):
        try:
            return work()
        finally:
            if needed > _HUGE:
                release_freed_memory()


def decode_bytes(image: Image.Image, divisor: int = 1, shrink: int = 1, scans: int = 1) -> int:
    """Estimates the peak memory, in bytes, of decoding an opened image to upright RGB.

    Args:
      image: the opened image.
      divisor: what a JPEG's sides are divided by during decoding.
      shrink: what any image's sides are divided by after decoding.
      scans: a JPEG of several scans holds all its coefficients, 2 bytes each, whatever the divisor.
    """
    pixels = -(-image.width // divisor) * -(-image.height // divisor)
    stored = _STORED.get(image.mode, 4)
    per_pixel = stored + _DECODER.get(image.format or "", 0)
    transparent = image.mode in _ALPHA or "transparency" in image.info
    if shrink > 1 and (transparent or stored < 4):
        per_pixel = max(per_pixel, stored + (12 if transparent and image.mode not in _ALPHA else 4))
    reduced = pixels // shrink**2
    convert = 12 if transparent else 0 if image.mode == "RGB" else 4
    rotate = 0 if image.format == "JPEG" and "exif" not in image.info and "xmp" not in image.info else 4
    total = max(pixels * per_pixel, pixels * stored + reduced * max(convert, rotate))
    layers = getattr(image, "layer", None)
    if scans > 1 and layers:
        horizontal, vertical = (max(layer[axis] for layer in layers) for axis in (1, 2))
        coefficients_per_pixel = sum(layer[1] * layer[2] for layer in layers) / (horizontal * vertical)
        total += round(2 * image.width * image.height * coefficients_per_pixel)
    return total
