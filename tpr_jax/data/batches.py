"""Batches for encoding a split or a folder of photos, and pictures decoded once: no TensorFlow here."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Bool, Int, UInt8
from tqdm import tqdm

from tpr_jax.data.bucketing import trim_padding
from tpr_jax.data.images.read import read_resized
from tpr_jax.errors import UserError


def decode_all(
    sources: Sequence, image_size: tuple[int, int], progress: bool = False, bad: dict | None = None
) -> UInt8[np.ndarray, "n h w 3"]:
    """Reads and resizes every picture of `sources` (paths, PIL images or arrays) into one array.

    Where `bad` is given, a picture that cannot be read is all zeros, and `bad` gets its row: why.

    Raises:
      UserError: without `bad`, the first picture, in the order of `sources`, that cannot be read.
    """
    images = np.empty((len(sources), *image_size, 3), np.uint8)

    def fill(index: int) -> None:
        images[index] = _read(sources[index], image_size, index, bad)

    with ThreadPoolExecutor(worker_threads()) as pool:  # Pillow decodes and resizes outside Python's lock
        try:
            done = pool.map(fill, range(len(sources)))
            for _ in tqdm(done, "reading pictures", len(sources), disable=not progress, leave=False):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return images


def image_batches(
    sources: Sequence | UInt8[np.ndarray, "n h w 3"],
    image_size: tuple[int, int],
    batch_size: int,
    bad: dict | None = None,
    here: Bool[np.ndarray, " b"] | None = None,
) -> Iterator[tuple[UInt8[np.ndarray, "b h w 3"], int]]:
    """Pictures in order, as (batch, number of valid rows); the last batch is filled up with zeros.

    `sources` is a list of paths, PIL images or arrays, or one uint8 array [n, h, w, 3]. The next batch is
    decoded while the caller works on this one; no more than two are held. Where `bad` is given, a picture
    that cannot be read is all zeros, and `bad` gets its row: why. With `here` only these rows of each batch
    are read; the others, which other processes read, stay zeros.

    Raises:
      UserError: without `bad`, a picture that cannot be read, when its batch is due.
    """
    with ThreadPoolExecutor(worker_threads()) as pool:
        pending = None
        try:
            for start in range(0, len(sources) + batch_size, batch_size):
                following = sources[start : start + batch_size]
                reads = {
                    row: pool.submit(_read, source, image_size, start + row, bad)
                    for row, source in enumerate(following)
                    if here is None or here[row]
                }
                current, pending = pending, (reads, len(following))
                if current:
                    reads, count = current
                    batch = np.zeros((batch_size, *image_size, 3), np.uint8)
                    for row, future in reads.items():
                        batch[row] = future.result()
                    yield batch, count
        finally:
            pool.shutdown(cancel_futures=True)


def _read(source, image_size: tuple[int, int], row: int, bad: dict | None) -> np.ndarray:
    try:
        return read_resized(source, image_size)
    except UserError as error:
        if bad is None:
            raise
        bad[row] = str(error)
        return np.zeros((*image_size, 3), np.uint8)


def text_batches(
    ids: Int[np.ndarray, "n l"], batch_size: int, ends: Int[np.ndarray, " n"] | None = None
) -> Iterator[tuple[Int[np.ndarray, "b m"], int]]:
    """Token ids in order, as (batch, number of valid rows); the last batch is filled up with zeros.

    Where it is said at which token each text `ends`, batches are `shortened`.
    """
    for start in range(0, len(ids), batch_size):
        part = ids[start : start + batch_size]
        if ends is not None:
            part = trim_padding(part, ends[start : start + batch_size])
        batch = np.zeros((batch_size, *part.shape[1:]), ids.dtype)
        batch[: len(part)] = part
        yield batch, len(part)


def worker_threads() -> int:
    """Threads for decoding: the cores this process may use, which may be fewer than there are, at most 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(16, cores or 1)
