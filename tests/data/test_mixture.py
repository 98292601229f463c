"""Mixing data sets: separate identities, and each caption as often per epoch as its weight says."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from tpr_jax.data.mixture import describe_shared, epoch_order, examples_per_epoch, mix
from tpr_jax.data.records import Records, caption_pairs, select_images
from tpr_jax.errors import UserError


def part(name, pids, captions_each=2, boxes=None):
    paths = [f"{name}/{i}.jpg" for i in range(len(pids))]
    captions = [[f"{name} {i} {k}" for k in range(captions_each)] for i in range(len(pids))]
    return Records(f"{name}:train", paths, captions, np.array(pids, np.int64), boxes)


A = part("a", [5, 5, 9, 1])  # 8 captions
B = part("b", [5, 9, 9, 2**62, -3], 1, [None, (0, 0, 4, 4), None, None, None])  # 5 captions
C = part("c", list(range(30)), 1)


def test_data_sets_share_no_identity():
    mixed = mix([A, B, A], [1, 1, 1])
    assert mixed.pids.tolist() == [1, 1, 2, 0, 4, 5, 5, 6, 3, 8, 8, 9, 7]
    assert mixed.name == "a:train + b:train + a:train"
    assert mixed.image_paths == A.image_paths + B.image_paths + A.image_paths
    assert mixed.captions == A.captions + B.captions + A.captions
    assert mixed.boxes == [None] * 5 + [(0, 0, 4, 4)] + [None] * 7
    assert mixed.passes is None  # weights of 1: the order is that of the records without weights


def test_tells_of_photos_that_two_data_sets_share():
    other = replace(B, image_paths=["b/./0.jpg", "a/3.jpg", "b/1.jpg", "a/../b/9.jpg", "c/2.jpg"])
    rest = "the people of two data sets count as different ones, so leave out one if they are the same"
    assert describe_shared([A, B, C]) == []
    assert describe_shared([A, B, other]) == [
        f"config.mix: 1 photo of b:train is in a:train too: {rest}",
        f"config.mix: 2 photos of b:train are in b:train too: {rest}",
    ]


@pytest.mark.parametrize("weight", [1, 2, 3])
def test_whole_weights(weight):
    mixed = mix([A, B], [1, weight])
    order = epoch_order(mixed, seed=3, epoch=2)
    assert len(order) == examples_per_epoch(mixed) == 8 + 5 * weight
    assert len(set(order.tolist())) == len(order)  # a pair's second time is an example of its own
    times = Counter((order % 13).tolist())
    assert times == {pair: 1 if pair < 8 else weight for pair in range(13)}
    assert caption_pairs(mixed)[1][8] == "b 0 0"


@pytest.mark.parametrize(("weight", "examples"), [(0.5, 15), (0.1, 3), (1.5, 45), (2.25, 68), (0.017, 1)])
def test_fractional_weights(weight, examples):
    mixed = mix([A, C], [1, weight])
    assert examples_per_epoch(mixed) == 8 + examples
    seen = Counter()
    for epoch in range(200):
        order = epoch_order(mixed, seed=1, epoch=epoch)
        assert len(order) == 8 + examples
        times = Counter((order % 38).tolist())
        assert [times[pair] for pair in range(8)] == [1] * 8
        assert all(int(weight) <= times[pair] <= int(weight) + 1 for pair in range(8, 38))
        seen += Counter(pair for pair in times.elements() if pair >= 8)
    # Each caption comes as often as any other in the long run: 200 draws of its chance, within 5 deviations.
    chance = examples / 30 - int(weight)
    for pair in range(8, 38):
        assert abs(seen[pair] - 200 * examples / 30) <= 5 * np.sqrt(200 * chance * (1 - chance)) + 1e-9


@pytest.mark.parametrize("weight", [0.0166, 0.01, 1e-9, 1e-300])
def test_a_weight_that_gives_no_example_is_an_error(weight):
    with pytest.raises(
        UserError, match=r"weight .* of c:train .* of 30 captions: .* at least 0\.016667"
    ) as error:
        mix([A, C, A], [1, weight, 0.5])
    assert f"weight {weight:g} " in str(error.value) and "\n" not in str(error.value)
    assert examples_per_epoch(mix([A, C], [1, 0.016667])) == 8 + 1


def test_data_sets_of_one_weight_share_their_examples():
    """Neither has an example of its own in each epoch, but both together have one."""
    mixed = mix([A, C, C], [1, 0.01, 0.01])
    assert examples_per_epoch(mixed) == 8 + 1
    seen = {int(pair) for epoch in range(40) for pair in epoch_order(mixed, 1, epoch) % 68}
    assert any(8 <= pair < 38 for pair in seen) and any(pair >= 38 for pair in seen)


def test_order_is_repeatable_and_differs_between_epochs_and_seeds():
    mixed = mix([A, C], [1, 0.5])
    first = epoch_order(mixed, 7, 0)
    np.testing.assert_array_equal(first, epoch_order(mixed, 7, 0))
    for seed, epoch in ((7, 1), (8, 0)):
        assert first.tolist() != epoch_order(mixed, seed, epoch).tolist()
    chosen = [set((epoch_order(mixed, 7, epoch) % 38).tolist()) for epoch in range(2)]
    assert chosen[0] != chosen[1]  # another half of the second data set


def test_unweighted_order_is_a_plain_permutation():
    expected = np.random.default_rng([7, 4]).permutation(8)
    np.testing.assert_array_equal(epoch_order(A, 7, 4), expected)


def test_select_images_keeps_all_fields():
    mixed = mix([A, B], [1, 0.5])
    kept = select_images(mixed, np.arange(9) % 2 == 1)
    assert kept.image_paths == ["a/1.jpg", "a/3.jpg", "b/1.jpg", "b/3.jpg"]
    assert kept.captions == [A.captions[1], A.captions[3], B.captions[1], B.captions[3]]
    assert kept.pids.tolist() == mixed.pids[1::2].tolist()
    assert kept.boxes == [None, None, (0, 0, 4, 4), None]
    assert kept.passes.tolist() == [1, 1, 0.5, 0.5]
