"""Batches loaded ahead of their turn and handed out in order: by tf.data, or by threads."""

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

from tpr_jax.utils.streams import stderr_nowhere

# Batches that wait for their turn, beside those that are being loaded.
AHEAD = 2

Arrays = tuple[np.ndarray, ...]


@functools.cache
def tensorflow() -> ModuleType | None:
    """Returns TensorFlow, kept off the accelerators, which are JAX's alone; None where it cannot be imported.

    That is Python 3.14, for which there is none, an environment without it, and one where versions got mixed.
    Nothing is lost by it here, so nothing is said.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # for what it says later
    try:
        with stderr_nowhere():  # its C++ greets there on import, whatever is set
            import tensorflow as tf

            for kind in ("GPU", "TPU"):
                tf.config.set_visible_devices([], kind)
    except Exception:  # a broken one may raise anything: ImportError, TypeError of protobuf, AttributeError
        # Nor does it come halfway to whoever asks next: Orbax does, for each path.
        sys.modules.setdefault("tensorflow", None)
        return None
    return tf


def in_order(
    load: Callable[[Int[np.ndarray, " b"]], Arrays],
    rows: Int[np.ndarray, "n b"],
    kinds: Sequence[tuple[tuple[int, ...], type]],
    workers: int,
) -> Iterator[Arrays]:
    """Yields `load(row)` of every row, in order, loaded ahead by so many threads.

    Which of the two ways is taken changes nothing in what comes out. What `load` raises is raised when its
    turn has come.

    Args:
      load: a row -> arrays of the shapes and types that `kinds` lists.
    """
    tf = tensorflow()
    if tf is None:
        return by_threads(load, rows, workers)
    return by_tensorflow(tf, load, rows, kinds, workers)


def by_threads(load: Callable, rows: np.ndarray, workers: int) -> Iterator[Arrays]:
    """Yields as `in_order`, by a pool of threads. Pillow and NumPy work outside Python's lock."""
    waiting, coming = collections.deque(), iter(rows)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="tpr_jax_input")
    try:
        for row in itertools.islice(coming, workers + AHEAD):
            waiting.append(pool.submit(load, row))
        while waiting:
            arrays = waiting.popleft().result()
            for row in itertools.islice(coming, 1):
                waiting.append(pool.submit(load, row))
            yield arrays
    finally:
        pool.shutdown(cancel_futures=True)


def by_tensorflow(
    tf: ModuleType, load: Callable, rows: np.ndarray, kinds: Sequence, workers: int
) -> Iterator[Arrays]:
    """Yields as `in_order`, by tf.data."""
    failures: dict[int, Exception] = {}

    def arrays(number: np.int64) -> tuple:
        try:
            return load(rows[number])
        except Exception as error:
            # Through TensorFlow it would come out as a traceback of its own, and perhaps before its turn.
            failures[int(number)] = error
            return tuple(np.zeros(shape, kind) for shape, kind in kinds)

    def mapped(number):
        found = tf.numpy_function(arrays, [number], tuple(tf.as_dtype(kind) for _, kind in kinds))
        return number, *(tf.ensure_shape(one, shape) for one, (shape, _) in zip(found, kinds, strict=True))

    options = tf.data.Options()
    options.threading.private_threadpool_size = workers
    dataset = tf.data.Dataset.range(len(rows)).map(mapped, num_parallel_calls=workers, deterministic=True)
    for number, *found in dataset.prefetch(AHEAD).with_options(options).as_numpy_iterator():
        if int(number) in failures:
            raise failures[int(number)]
        yield tuple(found)
