import numpy as np
import pytest

from tpr_jax.data.masking import mask_caption

MASK, START, END = 49405, 49406, 49407


def caption(words, length=77):
    ids = np.zeros(length, np.int32)
    ids[: len(words) + 2] = [START, *words, END]
    return ids


def test_pure_function_of_the_seed():
    ids = caption(range(100, 140))
    before = ids.copy()
    masked, labels = mask_caption(ids, MASK, (1, 2, 3))
    again, labels_again = mask_caption(ids, MASK, (1, 2, 3))
    np.testing.assert_array_equal(masked, again)
    np.testing.assert_array_equal(labels, labels_again)
    np.testing.assert_array_equal(ids, before)
    assert masked.dtype == labels.dtype == np.int32
    assert len({mask_caption(ids, MASK, (1, 2, k))[0].tobytes() for k in range(50)}) > 45


def test_labels_are_the_ids_of_chosen_words_and_the_rest_is_untouched():
    ids = caption(range(100, 140))
    for seed in range(200):
        masked, labels = mask_caption(ids, MASK, seed)
        chosen = labels != 0
        np.testing.assert_array_equal(labels[chosen], ids[chosen])
        np.testing.assert_array_equal(masked[~chosen], ids[~chosen])
        assert chosen.any()
        assert ((ids[chosen] >= 1) & (ids[chosen] < MASK)).all()


@pytest.mark.parametrize("mask_id", [49405, 60])
def test_fractions_of_selected_masked_random_and_kept_tokens(mask_id):
    words = np.full(75, mask_id - 1, np.int32)
    chosen = masks = kept = total = 0
    random_ids = []
    for seed in range(4000):
        masked, labels = mask_caption(caption(words), mask_id, seed)
        at = labels != 0
        total += len(words)
        chosen += at.sum()
        masks += (masked[at] == mask_id).sum()
        kept += (masked[at] == mask_id - 1).sum()
        random_ids += masked[at & (masked != mask_id) & (masked != mask_id - 1)].tolist()
    # With a small vocabulary a random id is now and then the word itself; it never is the mask.
    luck = 0.1 / (mask_id - 1)

    def close(count, of, share):
        return abs(count - of * share) < 4.5 * np.sqrt(of * share * (1 - share))

    assert close(chosen, total, 0.15)
    assert close(masks, chosen, 0.8)
    assert close(kept, chosen, 0.1 + luck)
    assert min(random_ids) >= 1 and max(random_ids) < mask_id - 1
    assert abs(np.mean(random_ids) / mask_id - 0.5) < 0.03
    if mask_id == 60:
        assert set(random_ids) == set(range(1, 59))


def test_random_ids_are_those_below_the_mask():
    """METHODS: 1..49404 with the mask at 49405. Here 1, 2 and 3 below 4, each as often as the others."""
    words, total = np.full(75, 3, np.int32), 75 * 400
    drawn = [mask_caption(caption(words), 4, seed, probability=1.0)[0][1:76] for seed in range(400)]
    counts = np.bincount(np.concatenate(drawn), minlength=5)
    shares = {1: 0.1 / 3, 2: 0.1 / 3, 3: 0.1 / 3 + 0.1, 4: 0.8}
    for token, share in shares.items():
        assert abs(counts[token] - total * share) < 4.5 * np.sqrt(total * share * (1 - share)), token
    assert counts[0] == counts[5:].sum() == 0


def test_smallest_vocabulary():
    for seed in range(100):
        masked, _ = mask_caption(caption([1, 1, 1]), 2, seed, probability=1.0)
        assert set(masked[1:4]) <= {1, 2}
    masked, _ = mask_caption(caption([]), 1, 0)
    np.testing.assert_array_equal(masked, caption([]))


def test_masks_the_first_word_if_none_is_selected():
    ids = caption([320, 786])
    nothing = 0
    for seed in range(500):
        masked, labels = mask_caption(ids, MASK, seed, probability=0.0)
        assert masked[1] == MASK and labels[1] == 320
        np.testing.assert_array_equal(np.delete(masked, 1), np.delete(ids, 1))
        np.testing.assert_array_equal(np.delete(labels, 1), 0)
        masked, labels = mask_caption(ids, MASK, seed)
        nothing += (labels != 0).sum() == 1 and labels[1] != 0 and masked[1] == MASK
    # Both words are missed with 0.85^2; with 0.15 x 0.85 x 0.8 the first alone is chosen and masked.
    share = 0.85**2 + 0.15 * 0.85 * 0.8
    assert abs(nothing - 500 * share) < 4 * np.sqrt(500 * share * (1 - share))


def test_special_tokens_and_padding_are_never_chosen():
    for seed in range(300):
        ids = caption([320, MASK, 786, 0, 5])
        masked, labels = mask_caption(ids, MASK, seed, probability=1.0)
        still = np.isin(ids, [0, MASK, START, END])
        np.testing.assert_array_equal(masked[still], ids[still])
        np.testing.assert_array_equal(labels != 0, ~still)


def test_padding_with_end_of_text_and_a_caption_without_words():
    ids = np.full(20, END, np.int32)
    ids[:3] = START, 320, 786
    masked, labels = mask_caption(ids, MASK, 0)
    np.testing.assert_array_equal(masked[3:], END)
    masked, labels = mask_caption(caption([]), MASK, 0)
    np.testing.assert_array_equal(masked, caption([]))
    np.testing.assert_array_equal(labels, 0)


def test_words_above_the_special_ids_and_without_start_of_text():
    """As in SigLIP 2: padding 0, end of text 1, mask 4, words from 5 on."""
    ids = np.array([7, 8, 9, 1, 0, 0], np.int32)
    for seed in range(200):
        masked, labels = mask_caption(ids, 4, seed, words=range(5, 12))
        np.testing.assert_array_equal(masked[3:], ids[3:])
        assert not labels[3:].any() and labels.any()
        changed = masked[labels != 0]
        assert ((changed == 4) | ((changed >= 5) & (changed < 12))).all()
    # Without any selected word it is the first one.
    masked, labels = mask_caption(ids, 4, 0, probability=0.0, words=range(5, 12))
    assert masked.tolist() == [4, 8, 9, 1, 0, 0] and labels.tolist() == [7, 0, 0, 0, 0, 0]
    empty = np.array([1, 0, 0], np.int32)
    masked, labels = mask_caption(empty, 4, 0, words=range(5, 12))
    assert masked.tolist() == [1, 0, 0] and not labels.any()
