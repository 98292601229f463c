"""Samples P x K batches: P identities with K examples of each."""

import numpy as np
from jaxtyping import Int

from tpr_jax.errors import UserError
from tpr_jax.utils.seeds import check_seed

# The last word of the random stream that draws an epoch's batches; `pipeline` lists the others.
_IDENTITY_STREAM = 5


def identity_batches(pids: Int[np.ndarray, " n"], identities: int, instances: int) -> int:
    """Returns the number of batches in an epoch, which every draw of `identity_order` has.

    A draw ends when fewer than P identities have sets of K left, so its length varies. This returns a length
    that every draw reaches, so that all epochs are equally long, as the learning-rate schedule requires. At
    most the sets of the P - 1 largest identities stay unused, and a draw lasts at least as long as the P-th
    largest identity has sets.

    Raises:
      UserError: there are fewer than `identities` distinct identities.
    """
    sets = np.maximum(np.unique(pids, return_counts=True)[1] // instances, 1)
    if identities > len(sets):
        raise UserError(
            f"config.batch_size={identities * instances} takes {identities} identities of config."
            f"instances_per_identity={instances} examples each, but there are {len(sets)}: "
            f"choose at most {len(sets) * instances}"
        )
    largest_first = np.sort(sets)[::-1]
    certain = sets.sum() - largest_first[: identities - 1].sum()
    return int(max(-(-certain // identities), largest_first[identities - 1]))


def identity_order(
    pids: Int[np.ndarray, " n"], identities: int, instances: int, seed: int, epoch: int
) -> Int[np.ndarray, " m"]:
    """Returns the examples of an epoch, batch after batch, with P = `identities` and K = `instances`.

    Follows the RandomIdentitySampler of person re-identification (in the code of IRRA and DM-Adapter). Each
    identity's examples are shuffled and cut into sets of K; the rest wait for another epoch. An identity with
    fewer than K examples gets one set, drawn with replacement. Each batch takes one set from each of P random
    identities that have sets left, until fewer than P have any; here it stops slightly earlier, after
    `identity_batches`. The order is a function of the arguments, so that it can be recomputed at any step.

    An example is row + n * repeat as in `mixture.epoch_order`: a row that is drawn again is another example,
    with its own augmentation.

    Raises:
      UserError: there are fewer than `identities` distinct identities.
    """
    number = identity_batches(pids, identities, instances)
    rng = np.random.default_rng([check_seed(seed), epoch, _IDENTITY_STREAM])
    labels, counts = np.unique(pids, return_inverse=True, return_counts=True)[1:]
    shuffled = np.lexsort((rng.random(len(pids)), labels))  # by identity, and at random within each
    starts = np.cumsum(counts) - counts
    position = np.arange(len(pids)) - starts[labels[shuffled]]
    is_in_set = position < (counts // instances * instances)[labels[shuffled]]
    full_sets = shuffled[is_in_set].reshape(-1, instances)
    small = np.flatnonzero(counts < instances)
    with_replacement = starts[small, None] + rng.integers(counts[small, None], size=(len(small), instances))
    drawn_sets = shuffled[with_replacement] + len(pids) * np.arange(instances)
    owners = np.concatenate([labels[full_sets[:, 0]], small])
    all_sets = np.concatenate([full_sets, drawn_sets])[np.argsort(owners, kind="stable")]  # [sets, K]

    sets = np.bincount(owners)
    first, used, available = np.cumsum(sets) - sets, np.zeros_like(sets), np.arange(len(sets))
    batches = np.empty((number, identities, instances), np.int64)
    for batch in range(number):
        chosen = rng.choice(available, identities, replace=False)
        batches[batch] = all_sets[first[chosen] + used[chosen]]
        used[chosen] += 1
        available = available[used[available] < sets[available]]
    return batches.reshape(-1)
