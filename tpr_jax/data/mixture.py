"""Mixes several data sets for training, each with a weight: its number of passes per epoch."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from tpr_jax.data.image_paths import ImagePaths
from tpr_jax.data.records import Records, caption_pairs, image_sources
from tpr_jax.errors import UserError
from tpr_jax.utils.plural import counted
from tpr_jax.utils.seeds import check_seed

# The last word of the random stream that draws fractions of data sets; `pipeline` lists the others.
_PICK_STREAM = 3


def mix(splits: Sequence[Records], weights: Sequence[float]) -> Records:
    """Concatenates the training splits of several data sets.

    A caption of a data set with weight w occurs w times per epoch: with 0.5 a new random half of the captions
    in each epoch, with 2 each caption twice. Identities are renumbered so that no two data sets share one.

    Raises:
      UserError: a weight is so small that no caption would occur.
    """
    _check_weights(splits, weights)
    pids, offset = [], 0
    for records in splits:
        distinct, labels = np.unique(records.pids, return_inverse=True)
        pids.append(labels.astype(np.int64) + offset)
        offset += len(distinct)
    passes = [np.full(len(r.image_paths), float(w)) for r, w in zip(splits, weights, strict=True)]
    boxes = [r.boxes or [None] * len(r.image_paths) for r in splits]
    return Records(
        name=" + ".join(records.name for records in splits),
        image_paths=[path for records in splits for path in records.image_paths],
        captions=[captions for records in splits for captions in records.captions],
        pids=np.concatenate(pids),
        boxes=[box for split_boxes in boxes for box in split_boxes] if any(r.boxes for r in splits) else None,
        passes=np.concatenate(passes) if any(weight != 1 for weight in weights) else None,
        stored=[s for r in splits for s in image_sources(r)] if any(r.stored for r in splits) else None,
    )


def describe_shared(splits: Sequence[Records]) -> list[str]:
    """Returns a line for each data set that has photos of an earlier one: its people then count twice."""
    image_paths = ImagePaths()
    keys = [{image_paths.key(path) for path in records.image_paths} for records in splits]
    remedy = "the people of two data sets count as different ones, so leave out one if they are the same"
    return [
        f"config.mix: {counted(shared, 'photo')} of {splits[i].name} {'is' if shared == 1 else 'are'} in "
        f"{splits[j].name} too: {remedy}"
        for i in range(len(splits))
        for j in range(i)
        if (shared := len(keys[i] & keys[j]))
    ]


def _check_weights(splits: Sequence[Records], weights: Sequence[float]) -> None:
    """Rejects a weight that gives no example per epoch; data sets of one weight share their examples."""
    counts = [sum(map(len, records.captions)) for records in splits]
    repeated = np.repeat(np.array(weights, np.float64), counts)
    empty = [weight for weight, number in _weight_groups(repeated) if not number]
    for records, weight in zip(splits, weights, strict=True):
        if weight in empty:
            count = sum(n for n, w in zip(counts, weights, strict=True) if w == weight)
            least = math.ceil(5e5 / count) / 1e6
            raise UserError(
                f"config.mix: the weight {weight:g} of {records.name} gives no example per epoch of "
                f"{counted(count, 'caption')}: give it a weight of at least {least:g}, or leave it out"
            )


def examples_per_epoch(records: Records) -> int:
    """Returns the number of caption pairs in an epoch."""
    if records.passes is None:
        return sum(map(len, records.captions))
    return sum(number for _, number in _weight_groups(_pair_passes(records, records.passes)))


def epoch_order(records: Records, seed: int, epoch: int) -> Int[np.ndarray, " m"]:
    """Returns the examples of an epoch in random order, as a function of (seed, epoch).

    An example is pair + n * repeat, where the pair is a row among the n of `caption_pairs(records)`, and the
    repeat counts its earlier occurrences in the epoch: the second occurrence of a pair is another example,
    with its own augmentation.
    """
    shuffle_rng = np.random.default_rng([check_seed(seed), epoch])
    if records.passes is None:
        return shuffle_rng.permutation(sum(map(len, records.captions)))
    passes = _pair_passes(records, records.passes)
    pick_rng = np.random.default_rng([seed, epoch, _PICK_STREAM])
    examples = []
    for weight, number in _weight_groups(passes):
        group = np.flatnonzero(passes == weight)
        repeats, remainder = divmod(number, len(group))
        examples += [group + len(passes) * repeat for repeat in range(repeats)]
        examples.append(pick_rng.permutation(group)[:remainder] + len(passes) * repeats)
    return shuffle_rng.permutation(np.concatenate(examples))


def _pair_passes(records: Records, passes: Float[np.ndarray, " images"]) -> Float[np.ndarray, " n"]:
    return passes[caption_pairs(records)[0]]


def _weight_groups(passes: Float[np.ndarray, " n"]) -> list[tuple[float, int]]:
    """Returns (weight, number of examples per epoch) for each distinct weight of the pairs."""
    values, counts = np.unique(passes, return_counts=True)
    return [(v, math.floor(v * n + 0.5)) for v, n in zip(values.tolist(), counts.tolist(), strict=True)]
