"""Builds training batches; every random choice is a function of (seed, epoch, example)."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import numpy as np
from jaxtyping import Int32, UInt8

from tpr_jax.data.augment import ERASE_COLOR, augment_image
from tpr_jax.data.batches import decode_all, image_batches, text_batches, worker_threads
from tpr_jax.data.images.read import read_resized
from tpr_jax.data.masking import mask_caption
from tpr_jax.data.mixture import epoch_order, examples_per_epoch
from tpr_jax.data.prefetch import in_order, tensorflow
from tpr_jax.data.records import Records, caption_pairs, image_sources
from tpr_jax.data.sampler import identity_batches, identity_order
from tpr_jax.errors import UserError
from tpr_jax.utils.plural import counted
from tpr_jax.utils.seeds import check_seed

tensorflow()  # must be imported before JAX computes anything

__all__ = ["decode_all", "image_batches", "steps_per_epoch", "stream", "text_batches", "train_input"]

# A split whose decoded images take less than this is kept in memory.
CACHE_BYTES = 512 * 2**20

# The last word of an example's seed, which separates random streams. `mixture` uses 3, `sampler` 5,
# `protocols` 6 and 7. The masks of an image's further captions add their number, from 1. The last word must
# not be 0: NumPy pads short seeds with zeros, so [seed, epoch], which orders the epoch, and [seed, epoch, 0,
# 0] are the same stream.
_AUGMENT_STREAM, _MASK_STREAM, _REPLACE_STREAM, _CAPTION_STREAM, _PATCH_STREAM = 1, 2, 4, 8, 9

# Number of images to try for one example before the run ends.
_TRIES = 100


def steps_per_epoch(records: Records, batch_size: int, instances: int = 0) -> int:
    """Returns the number of full batches in an epoch; the remainder is dropped to keep one batch shape.

    Args:
      records: the training split.
      batch_size: caption pairs in a batch.
      instances: if above 0, examples of each identity in a batch; see `sampler.identity_batches`.

    Raises:
      UserError: the split does not fill one batch, or `instances` does not fit.
    """
    pairs = examples_per_epoch(records)
    if not 1 <= batch_size <= pairs:
        raise UserError(
            f"batch_size {batch_size} does not fit {counted(pairs, 'caption')} of {records.name}: "
            f"choose at most {pairs}"
        )
    if not instances:
        return pairs // batch_size
    if batch_size % instances:
        raise UserError(f"batch_size {batch_size} must be a multiple of {instances} examples per identity")
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
    captions_per_image: int = 1,
    patches: tuple[int, int] = (1, 1),
    augment: bool = True,
    pad: int = 10,
    color: UInt8[np.ndarray, "3"] = ERASE_COLOR,
    mask_text: bool = True,
    mask_probability: float = 0.15,
    mlm: bool = False,
    skipped: dict[str, str] | None = None,
    cache: bool | None = None,
    progress: bool = False,
    process_index: int = 0,
    process_count: int = 1,
) -> Callable[..., Iterator[dict[str, np.ndarray]]]:
    """Prepares a split for training.

    A batch is {"image": uint8 [b, h, w, 3], "ids": int32 [b, l], "pid": int32 [b], "index": int32 [b]}. The
    pids are labels from 0 in the order of the raw ids, and the index is the row of `caption_pairs(records)`.
    This process gets its contiguous shard of b = batch_size / process_count rows of every batch. With
    c = `captions_per_image` above 1, ids and labels are [b, c, l]: the caption of the pair, then further ones
    of the same image in random order; after the last one they begin again. If not all patches of an image are
    kept, there are also `patches`, int32 [b, kept], random ones in ascending order.

    Args:
      records: the training split.
      tokenizer: maps n texts to int32 [n, l]; its attributes `mask_id` and `words` are those of masking.
      image_size: height and width in pixels.
      batch_size: rows of a batch, over all processes.
      seed: the seed of all random choices.
      instances: if above 0, examples of each identity in a batch; see `sampler.identity_order`.
      captions_per_image: c, the captions of each row.
      patches: how many patches an image has, and how many of them are kept.
      augment: whether to augment images.
      pad: see `augment.augment_image`.
      color: see `augment.augment_image`.
      mask_text: whether to mask `ids`; see `masking.mask_caption`.
      mask_probability: the probability of selecting a token.
      mlm: adds `mlm_ids` and `mlm_labels` [b, l] to the batches: the masked ids and the labels.
      skipped: if given, an example whose image cannot be read is replaced by another one, drawn at random,
        and the image's name is added here with the reason. Images already listed here are not tried again.
      cache: whether to keep all decoded images in memory; None: if they take less than 512 MiB.
      progress: whether to show a progress bar while the images are decoded.
      process_index: the index of this process.
      process_count: the number of processes.

    Returns:
      `batches(epoch, start_step=0)`, an iterator over one epoch. `batches(e, k)` yields exactly what
      `batches(e)` yields after k steps.

    Raises:
      UserError: a setting does not fit; or an image cannot be read, now or when its batch is due.
    """
    steps = steps_per_epoch(records, batch_size, instances)
    if batch_size % process_count:
        raise UserError(f"batch_size {batch_size} must be a multiple of the {process_count} processes")
    check_seed(seed)
    image_index, captions, pids = caption_pairs(records)
    all_ids = tokenizer(captions)
    mask_id: int | None = getattr(tokenizer, "mask_id", None)
    words: range | None = getattr(tokenizer, "words", None)
    if (mask_text or mlm) and mask_id is None:
        raise UserError(
            "masking words needs a mask token, which the backbone's tokenizer lacks: set "
            "--config.mask_text=False and no loss 'mlm'"
        )
    labels = np.unique(pids, return_inverse=True)[1].astype(np.int32)
    sources = image_sources(records)
    decoded = _decode_cache(sources, image_size, cache=cache, skipped=skipped, progress=progress)
    masking = {"mask_id": mask_id, "probability": mask_probability, "words": words}
    examples = _Examples(
        sources=sources,
        decoded=decoded,
        image_size=image_size,
        image_index=image_index,
        captions_per_image=captions_per_image,
        num_patches=patches[0],
        ids=all_ids,
        seed=seed,
        augment=functools.partial(augment_image, pad=pad, color=color) if augment else None,
        mask=functools.partial(mask_caption, **masking) if mask_text or mlm else None,
        mask_text=mask_text,
        mlm=mlm,
        skipped=skipped,
    )
    rows = batch_size // process_count
    shapes: list[tuple[int, ...]] = [
        (rows, *image_size, 3),
        (rows, 3 if mlm else 1, captions_per_image, all_ids.shape[1]),
        (rows,),
        (rows, 0 if patches[0] == patches[1] else patches[1]),
    ]
    specs = [(shapes[0], np.uint8), *((shape, np.int32) for shape in shapes[1:])]

    def batches(epoch: int, start_step: int = 0) -> Iterator[dict[str, np.ndarray]]:
        order = (
            identity_order(pids, batch_size // instances, instances, seed, epoch)
            if instances
            else epoch_order(records, seed, epoch)
        )
        order = order[: steps * batch_size].reshape(steps, process_count, rows)[:, process_index]

        def load(numbers: np.ndarray) -> tuple[np.ndarray, ...]:
            image, ids = _empty_aligned(shapes[0]), np.empty(shapes[1], np.int32)
            kept = np.empty(shapes[3], np.int32)
            pairs = map(examples.load, itertools.repeat(epoch), numbers.tolist(), image, ids, kept)
            return image, ids, np.array(list(pairs), np.int32), kept

        # For images in memory one worker is fast enough, and more would compete for the GIL.
        workers = worker_threads() if decoded is None else 1
        loaded = in_order(load, order[start_step:], specs, workers)  # yields what `load` returns
        for image, ids, index, kept in cast(Iterator[tuple[np.ndarray, ...]], loaded):
            kinds = (ids if captions_per_image > 1 else ids[:, :, 0]).swapaxes(0, 1)
            batch = {"image": image, "ids": kinds[0], "pid": labels[index], "index": index}
            if kept.size:
                batch["patches"] = kept
            yield batch | ({"mlm_ids": kinds[1], "mlm_labels": kinds[2]} if mlm else {})

    return batches


@dataclasses.dataclass(frozen=True)
class _Examples:
    """The examples of a training split.

    Attributes:
      sources: the images, see `records.image_sources`.
      decoded: the images [n, h, w, 3] if they are kept in memory, otherwise None.
      image_size: height and width in pixels.
      image_index: the image of each pair of `caption_pairs(records)`, in ascending order.
      captions_per_image: the number of captions of each example.
      num_patches: the number of patches of an image.
      ids: the ids of each pair's caption.
      seed: the seed of all random choices.
      augment: `augment_image` with its settings; None if images are not augmented.
      mask: `mask_caption` with its settings; None if nothing is masked.
      mask_text: whether the ids themselves are masked.
      mlm: whether masked ids and labels are added to the ids.
      skipped: the names of unreadable images, with the reason; None if such an image is an error.
    """

    sources: Sequence
    decoded: UInt8[np.ndarray, "n h w 3"] | None
    image_size: tuple[int, int]
    image_index: Int32[np.ndarray, " p"]
    captions_per_image: int
    num_patches: int
    ids: Int32[np.ndarray, "p l"]
    seed: int
    augment: Callable | None
    mask: Callable | None
    mask_text: bool
    mlm: bool
    skipped: dict[str, str] | None

    def name(self, pair: int) -> str:
        """Returns the name of a pair's image."""
        return str(self.sources[self.image_index[pair]])

    def read_image(self, pair: int) -> UInt8[np.ndarray, "h w 3"]:
        """Returns a pair's image. Raises UserError if it cannot be read."""
        if self.skipped and (name := self.name(pair)) in self.skipped:
            raise UserError(self.skipped[name])
        row = self.image_index[pair]
        return read_resized(self.sources[row], self.image_size) if self.decoded is None else self.decoded[row]

    def captions(self, pair: int, seed: tuple[int, ...]) -> list[int]:
        """Returns a pair, and further pairs of its image in random order, as often as there is room."""
        if self.captions_per_image == 1:
            return [pair]
        row = self.image_index[pair]
        first, end = np.searchsorted(self.image_index, (row, row + 1))
        others = [other for other in range(first, end) if other != pair]
        own = [pair, *np.random.default_rng(seed).permutation(others).tolist()]
        return list(itertools.islice(itertools.cycle(own), self.captions_per_image))

    def load(
        self,
        epoch: int,
        number: int,
        image: UInt8[np.ndarray, "h w 3"],
        ids: Int32[np.ndarray, "k c l"],
        kept: Int32[np.ndarray, " kept"],
    ) -> int:
        """Fills the arrays of an example; returns its pair.

        `ids` gets the ids, with `mlm` also masked ids and labels, and `kept` the patches that are kept, in
        ascending order; it is empty if all are.
        """
        seed = (self.seed, epoch, number)
        pairs = _candidate_pairs(number, len(self.ids), (*seed, _REPLACE_STREAM))
        pair, original = _read_first(pairs, self.read_image, self.name, self.skipped)
        if self.augment is None:
            image[...] = original
        else:
            self.augment(original, (*seed, _AUGMENT_STREAM), out=image)
        if kept.size:
            order = np.random.default_rng((*seed, _PATCH_STREAM)).permutation(self.num_patches)
            kept[:] = np.sort(order[: len(kept)])
        for place, caption in enumerate(self.captions(pair, (*seed, _CAPTION_STREAM))):
            ids[0, place] = self.ids[caption]
            if self.mask is not None:
                words = (*seed, _MASK_STREAM, place) if place else (*seed, _MASK_STREAM)
                masked, labels = self.mask(self.ids[caption], seed=words)
                if self.mask_text:
                    ids[0, place] = masked
                if self.mlm:
                    ids[1:, place] = masked, labels
        return pair


def _decode_cache(
    sources: Sequence,
    image_size: tuple[int, int],
    *,
    cache: bool | None,
    skipped: dict[str, str] | None,
    progress: bool,
) -> UInt8[np.ndarray, "n h w 3"] | None:
    """Decodes all images if they should be kept in memory; adds unreadable ones to `skipped` if given."""
    if cache is None:
        cache = len(sources) * image_size[0] * image_size[1] * 3 < CACHE_BYTES
    if not cache:
        return None
    bad = None if skipped is None else {}
    images = decode_all(sources, image_size, progress, bad)
    if bad and skipped is not None:
        skipped.update({str(sources[row]): reason for row, reason in bad.items()})
    return images


def _candidate_pairs(example: int, number: int, seeds: tuple[int, ...]) -> Iterator[int]:
    """Yields the pair of an example, and then random replacements among the `number` pairs."""
    yield example % number
    rng = np.random.default_rng(seeds)
    while True:
        yield int(rng.integers(number))


def _read_first(
    pairs: Iterator[int], read: Callable, name: Callable[[int], str], skipped: dict[str, str] | None
) -> tuple[int, UInt8[np.ndarray, "h w 3"]]:
    """Returns the first of `pairs` with a readable image, and the image; without `skipped`, tries one."""
    first_error = None
    for pair in itertools.islice(pairs, _TRIES):
        try:
            return pair, read(pair)
        except UserError as error:
            if skipped is None:
                raise
            first_error = first_error or error
            skipped[name(pair)] = str(error)
    raise UserError(f"{first_error}; nor can any of the {_TRIES - 1} images tried in its place be read")


def stream(batches: Callable, per_epoch: int, start_step: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Yields the batches of `train_input` epoch after epoch, endlessly, from step `start_step` of the run."""
    first_epoch, first_step = divmod(start_step, per_epoch)
    yield from batches(first_epoch, first_step)
    for epoch in itertools.count(first_epoch + 1):
        yield from batches(epoch)


def _empty_aligned(shape: tuple[int, ...]) -> UInt8[np.ndarray, "..."]:
    """Allocates uint8 memory aligned to 64 bytes, which TensorFlow and XLA can use without a copy."""
    memory = np.empty(math.prod(shape) + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + math.prod(shape)].reshape(shape)
