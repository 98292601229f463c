"""P x K batches: so many identities in each, so many examples of each identity."""

import numpy as np
from jaxtyping import Int

from tpr_jax.errors import UserError
from tpr_jax.utils.seeds import check_seed

# The last word of the stream that draws an epoch's batches; `pipeline` and `mix` have others.
_IDENTITY = 5


def identity_batches(pids: Int[np.ndarray, " n"], identities: int, instances: int) -> int:
    """How many batches an epoch has: as many as every draw of `identity_order` is sure to have.

    A draw ends with fewer than P identities left, and how many of their sets of K then lie idle is a matter
    of chance. They are at most those of the P - 1 identities with the most; and as long as the P identities
    with the most have sets left, it does not end. So an epoch is shorter than its longest draw by fewer
    batches than the largest identity has sets, and all epochs have the same length, as the schedule needs.

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
    most_first = np.sort(sets)[::-1]
    sure = sets.sum() - most_first[: identities - 1].sum()
    return int(max(-(-sure // identities), most_first[identities - 1]))


def identity_order(
    pids: Int[np.ndarray, " n"], identities: int, instances: int, seed: int, epoch: int
) -> Int[np.ndarray, " m"]:
    """The examples of an epoch, P = `identities` a batch with K = `instances` each, in the order of batches.

    As the RandomIdentitySampler of re-identification does it (IRRA's and DM-Adapter's code hold it): an
    identity's examples are shuffled and cut into sets of K, what remains of them waits for another epoch; of
    fewer than K, K are drawn with replacement. Each batch draws P of the identities that still have a set,
    and takes one set of each, until fewer than P have any; here it ends a little before, after
    `identity_batches`. It is a function of its arguments, so that it can be had again at any step.

    An example is row + n * repeat as in `mix.epoch_order`: a row that was drawn again is another example,
    with an augmentation of its own.

    Raises:
      UserError: as `identity_batches`.
    """
    number = identity_batches(pids, identities, instances)
    rng = np.random.default_rng([check_seed(seed), epoch, _IDENTITY])
    labels, counts = np.unique(pids, return_inverse=True, return_counts=True)[1:]
    shuffled = np.lexsort((rng.random(len(pids)), labels))  # by identity, and at random within each
    starts = np.cumsum(counts) - counts
    place = np.arange(len(pids)) - starts[labels[shuffled]]
    whole = shuffled[place < (counts // instances * instances)[labels[shuffled]]].reshape(-1, instances)
    few = np.flatnonzero(counts < instances)
    again = starts[few, None] + rng.integers(counts[few, None], size=(len(few), instances))
    drawn = shuffled[again] + len(pids) * np.arange(instances)
    owners = np.concatenate([labels[whole[:, 0]], few])
    members = np.concatenate([whole, drawn])[np.argsort(owners, kind="stable")]  # [sets, K], by identity

    sets = np.bincount(owners)
    first, used, available = np.cumsum(sets) - sets, np.zeros_like(sets), np.arange(len(sets))
    batches = np.empty((number, identities, instances), np.int64)
    for batch in range(number):
        chosen = rng.choice(available, identities, replace=False)
        batches[batch] = members[first[chosen] + used[chosen]]
        used[chosen] += 1
        available = available[used[available] < sets[available]]
    return batches.reshape(-1)
