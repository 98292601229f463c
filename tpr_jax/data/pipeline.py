"""Training batches: every random choice is a function of (seed, epoch, example)."""

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np

from tpr_jax.data.augment import ERASE_COLOR, augment_image
from tpr_jax.data.batches import decode_all, image_batches, text_batches, worker_threads
from tpr_jax.data.images.read import read_resized
from tpr_jax.data.masking import mask_caption
from tpr_jax.data.mixture import epoch_order, examples_per_epoch
from tpr_jax.data.prefetch import in_order, tensorflow
from tpr_jax.data.records import Records, caption_pairs, image_sources
from tpr_jax.data.sampler import identity_batches, identity_order
from tpr_jax.errors import UserError
from tpr_jax.utils.seeds import check_seed

tensorflow()  # before JAX computes anything, for whoever trains

__all__ = ["decode_all", "image_batches", "steps_per_epoch", "stream", "text_batches", "train_input"]

# A split whose decoded pictures take less than this is held in memory.
CACHE_BYTES = 512 * 2**20

# The last word of an example's seed. Not 0: NumPy pads short seeds with zeros, so [seed, epoch], which orders
# the epoch, and [seed, epoch, 0, 0] are the same stream.
# 3 is `mix`'s, 5 is `sampler`'s.
_AUGMENT, _MASK, _REPLACE = 1, 2, 4

# Pictures tried in the place of one that cannot be read, before the data set is given up.
_TRIES = 100


def steps_per_epoch(records: Records, batch_size: int, instances: int = 0) -> int:
    """Whole batches of caption pairs; the remainder is dropped, so that every batch has one shape.

    With `instances` above 0, batches of so many examples of each identity: see `sampler.identity_batches`.

    Raises:
      UserError: not even one batch.
    """
    pairs = examples_per_epoch(records)
    if not 1 <= batch_size <= pairs:
        raise UserError(
            f"batch_size {batch_size} does not fit {pairs} captions of {records.name}: choose at most {pairs}"
        )
    if not instances:
        return pairs // batch_size
    if batch_size % instances:
        raise UserError(f"batch_size {batch_size} must be a multiple of the {instances} of an identity")
    if records.passes is not None:
        raise UserError(
            "config.sampler='identity' passes once through the data: give those of config.mix the weight 1"
        )
    return identity_batches(caption_pairs(records)[2], batch_size // instances, instances)


def train_input(
    records: Records,
    tokenizer: Callable,
    *,
    image_size: tuple[int, int],
    batch_size: int,
    seed: int,
    instances: int = 0,
    augment: bool = True,
    pad: int = 10,
    color: np.ndarray = ERASE_COLOR,
    mask_text: bool = True,
    mlm: bool = False,
    skipped: dict[str, str] | None = None,
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
      instances: above 0: so many examples of each identity in a batch, see `sampler.identity_order`.
      augment, pad, color: see `augment.augment_image`.
      mask_text: whether `ids` are masked, see `masking.mask_caption`.
      mlm: batches hold `mlm_ids` and `mlm_labels` [b, l] besides: the masked ids, and what was masked.
      skipped: where given, another example, drawn at random, takes the place of one whose picture cannot be
        read, and the picture's name goes in here with the reason. Those that are in here already are not
        tried again.
      cache: hold all pictures, decoded, in memory; None: if they take less than 512 MiB.

    Raises:
      UserError: a setting that does not fit; a picture that cannot be read, here or when its batch is due.
    """
    steps = steps_per_epoch(records, batch_size, instances)
    if batch_size % process_count:
        raise UserError(f"batch_size {batch_size} must be a multiple of the {process_count} processes")
    check_seed(seed)
    image_index, captions, pids = caption_pairs(records)
    all_ids = tokenizer(captions)
    labels = np.unique(pids, return_inverse=True)[1].astype(np.int32)
    sources, images = image_sources(records), None
    if cache or (
        cache is None and len(records.image_paths) * image_size[0] * image_size[1] * 3 < CACHE_BYTES
    ):
        bad = None if skipped is None else {}
        images = decode_all(sources, image_size, progress, bad)
        skipped.update({str(sources[row]): why for row, why in bad.items()}) if bad else None
    share = batch_size // process_count
    shapes = [(share, *image_size, 3), (share, 3 if mlm else 1, all_ids.shape[1])]
    kinds = [(shapes[0], np.uint8), (shapes[1], np.int32), ((share,), np.int32)]

    def picture(pair: int) -> np.ndarray:
        row = image_index[pair]
        if skipped and (name := str(sources[row])) in skipped:
            raise UserError(skipped[name])
        return read_resized(sources[row], image_size) if images is None else images[row]

    def readable(epoch: int, example: int) -> tuple[int, np.ndarray]:
        """(pair, its picture): the example's own, or where that cannot be read another's."""
        pair, first = example % len(captions), None
        draw = None
        for _ in range(_TRIES):
            try:
                return pair, picture(pair)
            except UserError as error:
                if skipped is None:
                    raise
                first = first or error
                skipped[str(sources[image_index[pair]])] = str(error)
            draw = draw or np.random.default_rng((seed, epoch, example, _REPLACE))
            pair = int(draw.integers(len(captions)))
        raise UserError(f"{first}; nor can any of {_TRIES - 1} others that were tried in its place be read")

    def load_example(epoch: int, example: int, image: np.ndarray, ids: np.ndarray) -> int:
        """Fills `image`, and `ids`: [1, l], or with `mlm` ids, masked ids and labels; returns the pair."""
        pair, whole = readable(epoch, example)
        if augment:
            augment_image(whole, (seed, epoch, example, _AUGMENT), pad=pad, color=color, out=image)
        else:
            image[...] = whole
        ids[0] = all_ids[pair]
        if mask_text or mlm:
            masked, words = mask_caption(all_ids[pair], tokenizer.mask_id, (seed, epoch, example, _MASK))
            ids[0] = masked if mask_text else ids[0]
            if mlm:
                ids[1:] = masked, words
        return pair

    def batches(epoch: int, start_step: int = 0) -> Iterator[dict[str, np.ndarray]]:
        if instances:
            order = identity_order(pids, batch_size // instances, instances, seed, epoch)
        else:
            order = epoch_order(records, seed, epoch)
        order = order[: steps * batch_size].reshape(steps, process_count, share)[:, process_index]

        def load(examples: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            image, ids = _aligned(shapes[0]), np.empty(shapes[1], np.int32)
            pairs = map(load_example, itertools.repeat(epoch), examples.tolist(), image, ids)
            return image, ids, np.array(list(pairs), np.int32)

        # From memory one worker keeps up, and more would only fight over Python's lock.
        workers = worker_threads() if images is None else 1
        for image, ids, index in in_order(load, order[start_step:], kinds, workers):
            batch = {"image": image, "ids": ids[:, 0], "pid": labels[index], "index": index}
            yield batch | ({"mlm_ids": ids[:, 1], "mlm_labels": ids[:, 2]} if mlm else {})

    return batches


def stream(batches: Callable, per_epoch: int, start_step: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """The batches of `train_input` epoch after epoch, without end, from step `start_step` of the run."""
    first, skip = divmod(start_step, per_epoch)
    yield from batches(first, skip)
    for epoch in itertools.count(first + 1):
        yield from batches(epoch)


def _aligned(shape: tuple[int, ...]) -> np.ndarray:
    """uint8, not filled, where TensorFlow and XLA take memory over as it is instead of copying it."""
    memory = np.empty(math.prod(shape) + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + math.prod(shape)].reshape(shape)
