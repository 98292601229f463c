"""Batches of the identity sampler: P x K, sharded over processes, and the same from any step."""

from dataclasses import replace

import numpy as np
import pytest

from tpr_jax.data.pipeline import steps_per_epoch, train_input
from tpr_jax.data.records import Records
from tpr_jax.data.sampler import identity_order
from tpr_jax.errors import UserError


def tokenize(texts):
    return np.array([[int(text)] for text in texts], np.int32)


@pytest.fixture
def records():
    """Fifteen gray images of five identities, with two captions each; a sixth has one with one caption."""
    pictures = [np.full((6, 4, 3), 10 * i, np.uint8) for i in range(16)]
    captions = [[str(2 * i), str(2 * i + 1)] for i in range(15)] + [["30"]]
    names, pids = [f"{i}.png" for i in range(16)], np.array([*np.repeat([9, 4, 7, 5, 3], 3), 8])
    return Records("gray:train", names, captions, pids, stored=pictures)


def make(records, **settings):
    plain = {"image_size": (6, 4), "batch_size": 8, "seed": 3, "instances": 4, "mask_text": False}
    return train_input(records, tokenize, **{**plain, "augment": False, **settings})


def joined(batches) -> dict:
    batches = list(batches)
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def test_batches_have_p_identities_with_k_examples(records):
    batches = list(make(records)(2))
    # Five identities with six captions, one with one: a set of four each; six of which two a batch.
    assert len(batches) == steps_per_epoch(records, 8, 4) == 3
    for batch in batches:
        assert np.unique(batch["pid"], return_counts=True)[1].tolist() == [4, 4]
        assert (batch["pid"].reshape(2, 4) == batch["pid"][::4, None]).all()
    found = joined(batches)
    np.testing.assert_array_equal(found["image"][:, 0, 0, 0], 10 * (found["index"] // 2))
    np.testing.assert_array_equal(found["ids"][:, 0], found["index"])
    labels = {9: 5, 4: 1, 7: 3, 5: 2, 3: 0, 8: 4}
    assert found["pid"].tolist() == [labels[records.pids[i // 2]] for i in found["index"]]
    raw = np.append(np.repeat(records.pids[:15], 2), 8)
    np.testing.assert_array_equal(found["index"], identity_order(raw, 2, 4, 3, 2) % 31)
    alone = found["index"] == 30
    assert alone.sum() in (0, 4)  # the sixth identity's only caption, four times


def test_the_same_caption_again_is_augmented_anew(records):
    for epoch in range(9):
        found = joined(make(records, augment=True, pad=2)(epoch))
        again = found["image"][found["index"] == 30]
        if len(again):
            assert len({picture.tobytes() for picture in again}) > 1
            return
    raise AssertionError("the sixth identity never came")


def test_is_the_same_from_any_step_and_for_any_process(records):
    whole = list(make(records)(1))
    for step in (0, 1, 2):
        for one, other in zip(make(records)(1, step), whole[step:], strict=True):
            np.testing.assert_array_equal(one["index"], other["index"])
    parts = [list(make(records, process_index=p, process_count=4)(1)) for p in range(4)]
    for step, batch in enumerate(whole):
        shared = np.concatenate([part[step]["index"] for part in parts])
        np.testing.assert_array_equal(shared, batch["index"])


def test_rejects_batch_sizes_that_do_not_fit(records):
    with pytest.raises(UserError, match="batch_size 10 must be a multiple of 4 examples per identity"):
        make(records, batch_size=10)
    with pytest.raises(UserError, match=r"takes 7 identities .* there are 6: choose at most 24"):
        make(records, batch_size=28)
    mixed = replace(records, passes=np.full(16, 0.5))
    with pytest.raises(
        UserError, match=r"config.sampler='identity' .* give those of config.mix the weight 1"
    ):
        make(mixed, batch_size=4)
