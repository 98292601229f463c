"""Prefetches batches in order, with tf.data or with threads."""

import collections
import functools
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import numpy as np
from jaxtyping import Int

from tpr_jax.utils.imports import without
from tpr_jax.utils.streams import suppress_stderr

# Loaded batches to keep, besides those being loaded.
AHEAD = 2

Arrays = tuple[np.ndarray | np.generic, ...]


@functools.cache
def tensorflow() -> ModuleType | None:
    """Imports TensorFlow and hides the accelerators from it; returns None if it cannot be imported.

    It is missing on Python 3.14, which has no wheel for it, and broken where several versions are mixed.
    Threads then replace it without any loss, so that no message is printed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # for later messages
    try:
        # Its C++ code prints on import, whatever the log level. Importing Keras takes a quarter of the time;
        # `tf.keras` still imports it when used.
        with suppress_stderr(), without("keras"):
            import tensorflow as tf

            for kind in ("GPU", "TPU"):
                tf.config.set_visible_devices([], kind)
    except Exception:  # a broken installation may raise anything, such as a TypeError of protobuf
        # Keeps later imports from a half-initialized module: Orbax tries for each path.
        sys.modules.setdefault("tensorflow", None)  # ty: ignore[no-matching-overload] (None blocks imports)
        return None
    return tf


def in_order(
    load: Callable[[Int[np.ndarray, " b"]], Arrays],
    rows: Int[np.ndarray, "n b"],
    specs: Sequence[tuple[tuple[int, ...], type]],
    workers: int,
) -> Iterator[Arrays]:
    """Yields `load(row)` for every row, in order, prefetched with tf.data or, without it, with threads.

    Both yield the same arrays. An exception of `load` is raised when its row is due.

    Args:
      load: maps a row to arrays.
      rows: the arguments of `load`.
      specs: shape and dtype of each array that `load` returns.
      workers: number of threads.
    """
    tf = tensorflow()
    if tf is None:
        return by_threads(load, rows, workers)
    return by_tensorflow(tf, load, rows, specs, workers)


def by_threads(load: Callable, rows: Int[np.ndarray, "n b"], workers: int) -> Iterator[Arrays]:
    """Implements `in_order` with a thread pool; Pillow and NumPy release the GIL."""
    pending, remaining = collections.deque(), iter(rows)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="tpr_jax_input")
    try:
        for row in itertools.islice(remaining, workers + AHEAD):
            pending.append(pool.submit(load, row))
        while pending:
            arrays = pending.popleft().result()
            for row in itertools.islice(remaining, 1):
                pending.append(pool.submit(load, row))
            yield arrays
    finally:
        pool.shutdown(cancel_futures=True)


def by_tensorflow(
    tf: ModuleType, load: Callable, rows: Int[np.ndarray, "n b"], specs: Sequence, workers: int
) -> Iterator[Arrays]:
    """Implements `in_order` with tf.data."""
    failures: dict[int, Exception] = {}

    def load_numbered(number: np.int64) -> Arrays:
        try:
            return load(rows[number])
        except Exception as error:
            # TensorFlow would raise it with its own traceback, and possibly before its row is due.
            failures[int(number)] = error
            return tuple(np.zeros(shape, dtype) for shape, dtype in specs)

    @tf.autograph.experimental.do_not_convert  # which would write the source of this function into /tmp
    def load_tensors(number):
        arrays = tf.numpy_function(load_numbered, [number], tuple(tf.as_dtype(dtype) for _, dtype in specs))
        return number, *(tf.ensure_shape(a, shape) for a, (shape, _) in zip(arrays, specs, strict=True))

    options = tf.data.Options()
    # The thread for tuning sleeps for up to a minute, and whatever drops the iterator before its end, such as
    # a stopped run, waits until it wakes up. It has nothing to tune: all numbers are given.
    options.autotune.enabled = False
    options.threading.private_threadpool_size = workers
    dataset = tf.data.Dataset.range(len(rows)).map(
        load_tensors, num_parallel_calls=workers, deterministic=True
    )
    for number, *arrays in dataset.prefetch(AHEAD).with_options(options).as_numpy_iterator():
        if int(number) in failures:
            raise failures[int(number)]
        yield tuple(arrays)
