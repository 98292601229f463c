"""Decodes images, and batches images and texts for encoding. Does not use TensorFlow."""

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
    """Reads and resizes all images into one array.

    Args:
      sources: paths, PIL images, arrays, or other arguments of `images.read.read_image`.
      image_size: height and width.
      progress: whether to show a progress bar.
      bad: if given, an image that cannot be read becomes all zeros, and `bad[row]` is set to the reason.

    Raises:
      UserError: without `bad`, for the first image, in the order of `sources`, that cannot be read.
    """
    images = np.empty((len(sources), *image_size, 3), np.uint8)

    def fill(index: int) -> None:
        images[index] = _read(sources[index], image_size, index, bad)

    with ThreadPoolExecutor(worker_threads()) as pool:  # Pillow releases the GIL
        try:
            done = pool.map(fill, range(len(sources)))
            for _ in tqdm(done, "reading images", len(sources), disable=not progress, leave=False):
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
    row_mask: Bool[np.ndarray, " b"] | None = None,
) -> Iterator[tuple[UInt8[np.ndarray, "b h w 3"], int]]:
    """Yields images in order, as (batch, number of valid rows); pads the last batch with zeros.

    Decodes the next batch while the caller works on the current one; holds at most two.

    Args:
      sources: a list of paths, PIL images or arrays, or one uint8 array [n, h, w, 3].
      image_size: height and width.
      batch_size: rows of a batch.
      bad: if given, an image that cannot be read becomes all zeros, and `bad[row]` is set to the reason.
      row_mask: the rows of each batch to read; the others, which other processes read, stay zeros.

    Raises:
      UserError: without `bad`, for an image that cannot be read, when its batch is due.
    """
    with ThreadPoolExecutor(worker_threads()) as pool:
        pending = None
        try:
            for start in range(0, len(sources) + batch_size, batch_size):
                following = sources[start : start + batch_size]
                reads = {
                    row: pool.submit(_read, source, image_size, start + row, bad)
                    for row, source in enumerate(following)
                    if row_mask is None or row_mask[row]
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


def _read(source, image_size: tuple[int, int], row: int, bad: dict | None) -> UInt8[np.ndarray, "h w 3"]:
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
    """Yields token ids in order, as (batch, number of valid rows); pads the last batch with zeros.

    Args:
      ids: the token ids.
      batch_size: rows of a batch.
      ends: the last position of each text; if given, batches are trimmed by `bucketing.trim_padding`.
    """
    for start in range(0, len(ids), batch_size):
        rows = ids[start : start + batch_size]
        if ends is not None:
            rows = trim_padding(rows, ends[start : start + batch_size])
        batch = np.zeros((batch_size, *rows.shape[1:]), ids.dtype)
        batch[: len(rows)] = rows
        yield batch, len(rows)


def worker_threads() -> int:
    """Returns the number of threads for decoding: the cores this process may use, at most 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(16, cores or 1)
