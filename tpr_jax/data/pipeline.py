"""Training batches by tf.data: every random choice is a function of (seed, epoch, example)."""

import contextlib
import os
from collections.abc import Callable, Iterator

import numpy as np

from tpr_jax.data.augment import augment_image
from tpr_jax.data.batches import decode_all, image_batches, text_batches, worker_threads
from tpr_jax.data.images import read_image, resize
from tpr_jax.data.masking import mask_caption
from tpr_jax.data.records import Records, caption_pairs
from tpr_jax.errors import UserError


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Sends the process' stderr nowhere: TensorFlow's C++ greets there on import, whatever is set."""
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # for what it says later
with _quiet_stderr():
    import tensorflow as tf

tf.config.set_visible_devices([], "GPU")  # the accelerator is JAX's alone
tf.config.set_visible_devices([], "TPU")

__all__ = ["decode_all", "image_batches", "steps_per_epoch", "text_batches", "train_input"]

# A split whose decoded pictures take less than this is held in memory.
CACHE_BYTES = 512 * 2**20

# The last word of an example's seed. Not 0: NumPy pads short seeds with zeros, so [seed, epoch], which orders
# the epoch, and [seed, epoch, 0, 0] are the same stream.
_AUGMENT, _MASK = 1, 2


def steps_per_epoch(records: Records, batch_size: int) -> int:
    """Whole batches of caption pairs; the remainder is dropped, so that every batch has one shape.

    Raises:
      UserError: not even one batch.
    """
    pairs = sum(map(len, records.captions))
    if not 1 <= batch_size <= pairs:
        raise UserError(
            f"batch_size {batch_size} does not fit {pairs} captions of {records.name}: choose at most {pairs}"
        )
    return pairs // batch_size


def train_input(
    records: Records,
    tokenizer: Callable,
    *,
    image_size: tuple[int, int],
    batch_size: int,
    seed: int,
    augment: bool = True,
    pad: int = 10,
    mask_text: bool = True,
    cache: bool | None = None,
    progress: bool = False,
    process_index: int = 0,
    process_count: int = 1,
) -> Callable[..., Iterator[dict[str, np.ndarray]]]:
    """Prepares a split for training; returns `batches(epoch, start_step=0)`, one epoch of it.

    A batch is {"image": uint8 [b, h, w, 3], "ids": int32 [b, l], "pid": int32 [b], "index": int32 [b]}: the
    pids are labels from 0 in the order of the raw ids, and the index is the row among
    `caption_pairs(records)`. `batch_size` is that of all processes together; this process gets its contiguous
    share b = batch_size / process_count of every batch. `batches(e, k)` gives exactly what `batches(e)` gives
    after k steps.

    Args:
      tokenizer: list of n texts -> int32 [n, l]; with `mask_text` its field `mask_id` is used too.
      image_size: height, width in pixels.
      augment, pad: see `augment.augment_image`.
      mask_text: whether `ids` are masked, see `masking.mask_caption`.
      cache: hold all pictures, decoded, in memory; None: if they take less than 512 MiB.

    Raises:
      UserError: a setting that does not fit; a picture that cannot be read, here or when its batch is due.
    """
    steps = steps_per_epoch(records, batch_size)
    if batch_size % process_count:
        raise UserError(f"batch_size {batch_size} must be a multiple of the {process_count} processes")
    if seed < 0:
        raise UserError(f"seed {seed} must not be negative")
    image_index, captions, pids = caption_pairs(records)
    all_ids = tokenizer(captions)
    labels = np.unique(pids, return_inverse=True)[1].astype(np.int32)
    images = None
    if cache or (
        cache is None and len(records.image_paths) * image_size[0] * image_size[1] * 3 < CACHE_BYTES
    ):
        images = decode_all(records.image_paths, image_size, progress)
    share = batch_size // process_count
    shapes = [(share, *image_size, 3), (share, all_ids.shape[1])]

    def example_image(epoch: int, index: int) -> np.ndarray:
        row = image_index[index]
        image = resize(read_image(records.image_paths[row]), image_size) if images is None else images[row]
        return augment_image(image, (seed, epoch, index, _AUGMENT), pad=pad) if augment else image

    def example_ids(epoch: int, index: int) -> np.ndarray:
        if not mask_text:
            return all_ids[index]
        return mask_caption(all_ids[index], tokenizer.mask_id, (seed, epoch, index, _MASK))[0]

    def batches(epoch: int, start_step: int = 0) -> Iterator[dict[str, np.ndarray]]:
        order = np.random.default_rng([seed, epoch]).permutation(len(captions))
        order = order[: steps * batch_size].reshape(steps, process_count, share)[:, process_index]
        failures = {}

        def arrays(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            examples = indices.tolist()
            try:
                image = np.stack([example_image(epoch, index) for index in examples])
                return image, np.stack([example_ids(epoch, index) for index in examples])
            except UserError as error:
                # Through TensorFlow it would come out as a traceback of its own, and perhaps before its turn.
                failures[examples[0]] = error
                return np.zeros(shapes[0], np.uint8), np.zeros(shapes[1], np.int32)

        def load(indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            image, ids = tf.numpy_function(arrays, [indices], (tf.uint8, tf.int32))
            return tf.ensure_shape(image, shapes[0]), tf.ensure_shape(ids, shapes[1]), indices

        dataset = tf.data.Dataset.from_tensor_slices(order[start_step:].astype(np.int32))
        # From memory one worker keeps up, and more would only fight over Python's lock.
        workers = worker_threads() if images is None else 1
        options = tf.data.Options()
        options.threading.private_threadpool_size = workers
        dataset = dataset.map(load, num_parallel_calls=workers, deterministic=True).prefetch(2)
        for image, ids, index in dataset.with_options(options).as_numpy_iterator():
            if int(index[0]) in failures:
                raise failures[int(index[0])]
            yield {"image": image, "ids": ids, "pid": labels[index], "index": index}

    return batches
