"""Several data sets trained on together, each with a weight: how often an epoch passes through it."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from tpr_jax.data.records import Records, caption_pairs, image_sources
from tpr_jax.utils.seeds import check_seed

# The last word of the stream that draws parts of data sets; see `pipeline` for the others.
_PICK = 3


def mix(parts: Sequence[Records], weights: Sequence[float]) -> Records:
    """The training splits of several data sets as one, in their order.

    A caption of a data set with weight w comes w times an epoch: with 0.5 another random half of the captions
    each epoch, with 2 each of them twice. Identities are numbered anew, so that no two data sets share one.
    """
    pids, offset = [], 0
    for records in parts:
        distinct, labels = np.unique(records.pids, return_inverse=True)
        pids.append(labels.astype(np.int64) + offset)
        offset += len(distinct)
    passes = [np.full(len(r.image_paths), float(w)) for r, w in zip(parts, weights, strict=True)]
    boxes = [r.boxes or [None] * len(r.image_paths) for r in parts]
    return Records(
        name=" + ".join(records.name for records in parts),
        image_paths=[path for records in parts for path in records.image_paths],
        captions=[captions for records in parts for captions in records.captions],
        pids=np.concatenate(pids),
        boxes=[box for some in boxes for box in some] if any(r.boxes for r in parts) else None,
        passes=np.concatenate(passes) if any(weight != 1 for weight in weights) else None,
        stored=[s for r in parts for s in image_sources(r)] if any(r.stored for r in parts) else None,
    )


def examples_per_epoch(records: Records) -> int:
    """How many caption pairs an epoch has."""
    if records.passes is None:
        return sum(map(len, records.captions))
    return sum(number for _, number in _groups(_pair_passes(records)))


def epoch_order(records: Records, seed: int, epoch: int) -> Int[np.ndarray, " m"]:
    """The examples of an epoch, a function of (seed, epoch).

    An example is pair + n * repeat: the row among the n of `caption_pairs(records)`, and how often the epoch
    has had it before, so that a pair's second time is another example with an augmentation of its own.
    """
    shuffle = np.random.default_rng([check_seed(seed), epoch])
    if records.passes is None:
        return shuffle.permutation(sum(map(len, records.captions)))
    passes = _pair_passes(records)
    pick = np.random.default_rng([seed, epoch, _PICK])
    examples = []
    for value, number in _groups(passes):
        group = np.flatnonzero(passes == value)
        repeats, rest = divmod(number, len(group))
        examples += [group + len(passes) * repeat for repeat in range(repeats)]
        examples.append(pick.permutation(group)[:rest] + len(passes) * repeats)
    return shuffle.permutation(np.concatenate(examples))


def _pair_passes(records: Records) -> Float[np.ndarray, " n"]:
    return records.passes[caption_pairs(records)[0]]


def _groups(passes: np.ndarray) -> list[tuple[float, int]]:
    """(weight, number of examples an epoch) of the pairs of each weight."""
    values, counts = np.unique(passes, return_counts=True)
    return [(v, math.floor(v * n + 0.5)) for v, n in zip(values.tolist(), counts.tolist(), strict=True)]
