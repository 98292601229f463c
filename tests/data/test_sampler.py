"""P x K batches against a plain version of the sampler's definition, and against every possible draw."""

import functools
import itertools
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpr_jax.data.sampler import identity_batches, identity_order
from tpr_jax.errors import UserError


def plain_draw(counts, identities, instances, draw) -> int:
    """Returns the number of batches in one draw: a set from each of P identities, until fewer have any."""
    sets = {pid: max(1, count // instances) for pid, count in enumerate(counts)}
    batches = 0
    while len(sets) >= identities:
        for pid in draw(sorted(sets), identities):
            sets[pid] -= 1
            if not sets[pid]:
                del sets[pid]
        batches += 1
    return batches


def fewest(counts, identities, instances) -> int:
    """Returns the length of the shortest draw, by trying all of them."""

    @functools.cache
    def shortest(sets):
        if len(sets) < identities:
            return 0
        outcomes = set()
        for chosen in itertools.combinations(range(len(sets)), identities):
            left = tuple(sorted(s - (i in chosen) for i, s in enumerate(sets)))
            outcomes.add(tuple(s for s in left if s))
        return 1 + min(map(shortest, outcomes))

    return shortest(tuple(sorted(max(1, count // instances) for count in counts)))


def pids_of(counts) -> np.ndarray:
    """Returns the pids of shuffled rows, with raw ids that are neither small nor ordered."""
    names = np.random.default_rng(5).permutation(10_000)[: len(counts)].astype(np.int64) - 5_000
    return np.random.default_rng(6).permutation(np.repeat(names * 2**40, counts))


CASES = st.tuples(
    st.lists(st.integers(1, 13), min_size=1, max_size=12), st.integers(1, 6), st.integers(1, 5)
).filter(lambda case: case[1] <= len(case[0]))


@settings(max_examples=50, deadline=None)
@given(CASES, st.integers(0, 2**31), st.integers(0, 60))
def test_an_epoch_follows_the_definition(case, seed, epoch):
    counts, identities, instances = case
    pids = pids_of(counts)
    order = identity_order(pids, identities, instances, seed, epoch)
    assert order.dtype == np.int64
    batches = order.reshape(-1, identities, instances)
    assert len(batches) == identity_batches(pids, identities, instances) >= 1
    rows, repeats = batches % len(pids), batches // len(pids)
    people = pids[rows]
    assert (people == people[:, :, :1]).all()  # K of the same
    assert all(len(set(batch)) == identities for batch in people[:, :, 0].tolist())  # P that differ
    assert len(set(order.tolist())) == len(order)  # whatever is drawn again is another example
    times = Counter(people[:, :, 0].reshape(-1).tolist())
    for pid, count in zip(*np.unique(pids, return_counts=True), strict=True):
        assert times[int(pid)] <= max(1, count // instances)
    enough = np.isin(people, [pid for pid in set(pids.tolist()) if (pids == pid).sum() >= instances])
    assert (repeats[enough] == 0).all()  # so none of theirs comes twice in an epoch
    np.testing.assert_array_equal(order, identity_order(pids, identities, instances, seed, epoch))


@settings(max_examples=50, deadline=None)
@given(CASES, st.integers(0, 2**31))
def test_every_draw_has_enough_batches(case, seed):
    counts, identities, instances = case
    found = identity_batches(pids_of(counts), identities, instances)
    draws = [plain_draw(counts, identities, instances, random.Random(seed + i).sample) for i in range(3)]
    assert found <= min(draws)
    assert max(draws) < found + max(1, max(counts) // instances)


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(
        st.lists(st.integers(1, 7), min_size=2, max_size=5), st.integers(1, 3), st.integers(1, 3)
    ).filter(lambda case: case[1] <= len(case[0]))
)
def test_length_is_at_most_that_of_the_shortest_draw(case):
    counts, identities, instances = case
    assert identity_batches(pids_of(counts), identities, instances) <= fewest(counts, identities, instances)


def test_lengths_by_hand():
    """Sets of two: 2, 2, 1, 1 (of a single row). P = 2: at worst 2 + 1 and 1 + 0 go together, or 3 batches.

    6 sets, of which at most the 2 of one identity are left over: 4, in 2 batches of two. P = 4 takes all four
    at once, which two have no second set for.
    """
    pids = np.repeat([7, 8, 9, 4], [5, 4, 3, 1])
    assert identity_batches(pids, 2, 2) == 2
    assert identity_batches(pids, 1, 2) == 6
    assert identity_batches(pids, 4, 2) == 1
    assert identity_batches(np.repeat([1, 2, 3], 8), 3, 4) == 2  # P = all: both sets of each
    assert identity_batches(np.arange(10), 3, 4) == 3  # one set each: ten over three, the last stays


def test_few_examples_are_drawn_with_replacement_and_evenly():
    """Draws three of two rows: all three are the same row in a quarter of the draws."""
    pids = np.array([3, 3])
    drawn = np.array([identity_order(pids, 1, 3, seed, 0) % 2 for seed in range(2000)])
    assert abs(drawn.mean() - 0.5) < 0.03  # 6000 draws, five deviations
    assert abs(np.mean([len(set(row)) == 1 for row in drawn.tolist()]) - 0.25) < 0.05


def test_every_choice_of_identities_and_rows_is_as_likely():
    """The first batch of P = 2 of 4 identities, K = 2 of their 3 rows: 6 pairs, and 3 pairs of rows."""
    pids = np.repeat([0, 1, 2, 3], 3)
    pairs, rows = Counter(), Counter()
    for seed in range(3000):
        first = identity_order(pids, 2, 2, seed, 4)[:4]
        pairs[tuple(sorted(pids[first[::2]].tolist()))] += 1
        rows[tuple(sorted((first[:2] % 3).tolist()))] += 1
    assert len(pairs) == 6 and len(rows) == 3
    assert all(abs(n - 500) < 5 * (3000 / 6 * 5 / 6) ** 0.5 for n in pairs.values())
    assert all(abs(n - 1000) < 5 * (3000 / 3 * 2 / 3) ** 0.5 for n in rows.values())


def test_identities_with_more_come_later_again_and_not_in_two_batches_of_the_same_rows():
    pids = np.repeat(np.arange(20), 12)
    order = identity_order(pids, 5, 4, seed=1, epoch=0)
    assert len(set(order.tolist())) == len(order) == 5 * 4 * identity_batches(pids, 5, 4)
    assert 12 - 2 <= identity_batches(pids, 5, 4) <= 12  # 60 sets, five a batch


def test_epochs_and_seeds_differ():
    pids = np.repeat(np.arange(30), 5)
    orders = {
        (seed, epoch): identity_order(pids, 6, 4, seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1)
    }
    assert len({tuple(order) for order in orders.values()}) == 4


def test_too_many_identities_are_named():
    with pytest.raises(UserError, match=r"config.batch_size=12 takes 4 identities .*=3 .* there are 3: .* 9"):
        identity_order(np.array([1, 2, 2, 5]), 4, 3, 0, 0)
