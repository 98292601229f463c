import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tpr_jax.data.augment import ERASE_COLOR
from tpr_jax.data.pipeline import steps_per_epoch, stream, train_input
from tpr_jax.data.records import Records
from tpr_jax.errors import UserError

SIZE = (32, 16)
PLAIN = {"augment": False, "mask_text": False}


class Tokenizer:
    """Makes ids that identify the caption: its number, several times."""

    mask_id = 90

    def __call__(self, texts):
        ids = np.zeros((len(texts), 12), np.int32)
        for row, text in enumerate(texts):
            ids[row, :10] = [91, *[int(text)] * 8, 92]
        return ids


@pytest.fixture
def records(tmp_path):
    """Nine pictures, the i-th with 1 + i % 3 captions: 18 pairs, the captions their numbers from 1."""
    captions, number = [], 0
    rng = np.random.default_rng(0)
    for picture in range(9):
        image = rng.integers(0, 256, (50, 30, 3), np.uint8)
        Image.fromarray(image).save(tmp_path / f"{picture}.png")
        captions.append([str(number + 1 + k) for k in range(1 + picture % 3)])
        number += len(captions[-1])
    pids = np.array([70, 70, 12, 12, 12, 900, 900, 5, 5])
    return Records("tiny:train", [str(tmp_path / f"{i}.png") for i in range(9)], captions, pids)


def make(records, **settings):
    return train_input(records, Tokenizer(), **{"image_size": SIZE, "batch_size": 4, "seed": 3, **settings})


def whole(batches):
    batches = list(batches)
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def assert_same(left, right):
    left, right = list(left), list(right)
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert one[name].dtype == other[name].dtype
            np.testing.assert_array_equal(one[name], other[name], name)


def test_shapes_types_and_dropped_remainder(records):
    batches = list(make(records)(0))
    assert len(batches) == steps_per_epoch(records, 4) == 4
    for batch in batches:
        kinds = {name: (value.dtype, value.shape) for name, value in batch.items()}
        assert kinds == {
            "image": (np.uint8, (4, *SIZE, 3)),
            "ids": (np.int32, (4, 12)),
            "pid": (np.int32, (4,)),
            "index": (np.int32, (4,)),
        }


@pytest.mark.parametrize("cache", [True, False])
def test_rows_have_matching_image_caption_and_pid(records, cache):
    batch = whole(make(records, cache=cache, **PLAIN)(0))
    picture_of = [i for i, captions in enumerate(records.captions) for _ in captions]
    for image, ids, pid, index in zip(*batch.values(), strict=True):
        picture = picture_of[index]
        expected = Image.open(records.image_paths[picture]).resize(SIZE[::-1], Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(image, np.asarray(expected))
        assert ids.tolist() == [91, *[index + 1] * 8, 92, 0, 0]
        assert [5, 12, 70, 900][pid] == records.pids[picture]


@pytest.mark.parametrize("cache", [True, False])
def test_further_captions_are_of_the_same_image(records, cache):
    """The images have 1, 2 or 3 captions: those with fewer than asked for repeat them."""
    picture_of = [i for i, captions in enumerate(records.captions) for _ in captions]
    for count in (2, 3, 4):
        one, several = (whole(make(records, cache=cache, captions_per_image=k)(0)) for k in (1, count))
        for name in ("image", "pid", "index"):
            np.testing.assert_array_equal(several[name], one[name])
        np.testing.assert_array_equal(several["ids"][:, 0], one["ids"])  # masked alike
        plain = whole(make(records, cache=cache, captions_per_image=count, mask_text=False)(0))["ids"]
        assert plain.shape == (16, count, 12)
        for ids, index in zip(plain, one["index"], strict=True):
            own = {int(caption) for caption in records.captions[picture_of[index]]}
            told = ids[:, 1].tolist()
            assert told[0] == index + 1 and set(told) <= own
            assert len(set(told)) == min(len(own), count)
            assert told == [told[place % len(own)] for place in range(count)]


def test_further_captions_are_in_random_order_and_masked_each(records):
    unmasked = make(records, captions_per_image=3, mask_text=False)
    orders = set()
    for epoch in range(9):
        batch = whole(unmasked(epoch))
        orders |= {tuple(ids[:, 1].tolist()) for ids in batch["ids"][batch["index"] == 3]}
    assert orders == {(4, 5, 6), (4, 6, 5)}  # the third image has the captions 4 to 6
    batches = make(records, captions_per_image=3, mlm=True)
    assert_same(batches(2, 1), list(batches(2))[1:])
    found = whole(batches(2))
    assert found["mlm_ids"].shape == found["mlm_labels"].shape == (16, 3, 12)
    np.testing.assert_array_equal(found["ids"], found["mlm_ids"])
    alone = found["mlm_labels"][np.isin(found["index"], [0, 6, 12])] > 0
    # These images have one caption: three times, masked anew each time.
    assert any(len({row.tobytes() for row in masked}) > 1 for masked in alone)


@pytest.mark.parametrize("cache", [True, False])
def test_kept_patches_are_random_ones_of_each_image(records, cache):
    plain, batches = make(records, cache=cache), make(records, cache=cache, patches=(8, 5))
    assert "patches" not in whole(make(records, cache=cache, patches=(8, 8))(0))
    found = whole(batches(3))
    kept = found.pop("patches")
    assert (kept.dtype, kept.shape) == (np.int32, (16, 5))
    for name, array in whole(plain(3)).items():
        np.testing.assert_array_equal(found[name], array)  # all else stays as it is
    assert (np.diff(kept, axis=1) > 0).all() and kept.min() == 0 and kept.max() == 7
    assert len({row.tobytes() for row in kept}) > 8
    assert_same(batches(3, 2), list(batches(3))[2:])
    assert (whole(batches(4))["patches"] != kept).any()
    # Each patch is kept equally often: 5 of 8 times.
    many = np.concatenate([whole(batches(epoch))["patches"] for epoch in range(40)])
    share = np.bincount(many.ravel()) / len(many)
    np.testing.assert_allclose(share, 5 / 8, atol=0.08)  # four standard errors


def test_order_depends_on_seed_and_epoch(records):
    for seed, epoch in [(0, 0), (0, 1), (7, 0)]:
        index = whole(make(records, seed=seed, **PLAIN)(epoch))["index"]
        np.testing.assert_array_equal(index, np.random.default_rng([seed, epoch]).permutation(18)[:16])


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("step", [0, 1, 3, 4])
def test_starting_in_the_middle_gives_the_same_batches(records, cache, step):
    expected = list(make(records, cache=cache)(5))
    batches = make(records, cache=cache)
    next(batches(4))  # nothing of one epoch reaches into another
    assert_same(batches(5, step), expected[step:])
    assert_same(batches(5), expected)


@pytest.mark.parametrize("start", [0, 3, 4, 9])
def test_stream_continues_with_the_next_epoch(records, start):
    batches = make(records)
    whole_run = [batch for epoch in range(4) for batch in batches(epoch)]
    taken = stream(batches, 4, start)
    assert_same([next(taken) for _ in range(16 - start)], whole_run[start:])


def test_cached_and_uncached_batches_are_equal(records):
    assert_same(make(records, cache=True)(2), make(records, cache=False)(2))


def test_choices_depend_on_seed_epoch_and_example_alone(records):
    def by_example(batch):
        return {
            index: (image.tobytes(), ids.tobytes())
            for image, ids, _, index in zip(*batch.values(), strict=True)
        }

    small, large = by_example(whole(make(records)(1))), by_example(whole(make(records, batch_size=9)(1)))
    assert len(small) == 16 and len(large) == 18
    assert all(large[index] == small[index] for index in small)
    for other in (by_example(whole(make(records)(2))), by_example(whole(make(records, seed=4)(1)))):
        shared = small.keys() & other.keys()
        assert sum(small[i][0] != other[i][0] for i in shared) >= len(shared) - 2
        assert sum(small[i][1] != other[i][1] for i in shared) > len(shared) / 3
    # The picture's choices do not hang on the caption's, nor the other way round.
    unmasked, still = (
        by_example(whole(make(records, mask_text=False)(1))),
        by_example(whole(make(records, augment=False)(1))),
    )
    assert all(unmasked[i][0] == small[i][0] and still[i][1] == small[i][1] for i in small)


def test_captions_of_one_picture_are_augmented_differently(records):
    batch = whole(make(records, batch_size=18)(0))
    pictures = batch["image"][np.argsort(batch["index"])]
    assert not np.array_equal(pictures[3], pictures[4])  # both of the third picture


def test_augmentation_and_masking_happen(records):
    plain, changed = whole(make(records, **PLAIN)(0)), whole(make(records, pad=4)(0))
    np.testing.assert_array_equal(plain["index"], changed["index"])
    assert (plain["image"] != changed["image"]).any((1, 2, 3)).sum() >= 14
    assert (changed["image"] == ERASE_COLOR).all(-1).sum() > 100
    masked = changed["ids"] == Tokenizer.mask_id
    assert masked.any(1).sum() >= 12 and not masked[:, [0, 9, 10, 11]].any()


@pytest.mark.parametrize("settings", [{"mask_text": True}, {"mask_text": False, "mlm": True}])
def test_masking_without_a_mask_token_is_an_error(records, monkeypatch, settings):
    monkeypatch.setattr(Tokenizer, "mask_id", None)
    with pytest.raises(UserError, match="needs a mask token, which the backbone's tokenizer lacks"):
        make(records, **settings)
    make(records, mask_text=False)


@pytest.mark.parametrize("mask_text", [True, False])
def test_mlm_adds_masked_ids_and_labels(records, mask_text):
    """The labels restore the caption, and everything else is as without `mlm`."""
    without = whole(make(records, mask_text=mask_text)(2))
    found = whole(make(records, mask_text=mask_text, mlm=True)(2))
    assert set(found) == set(without) | {"mlm_ids", "mlm_labels"}
    for name, values in without.items():
        np.testing.assert_array_equal(found[name], values)
    plain = whole(make(records, **PLAIN)(2))["ids"]
    masked, labels = found["mlm_ids"], found["mlm_labels"]
    assert masked.dtype == labels.dtype == np.int32
    np.testing.assert_array_equal(np.where(labels > 0, labels, masked), plain)
    assert ((labels > 0).sum(1) > 0).all() and (masked != plain).any(1).sum() >= 12
    np.testing.assert_array_equal(found["ids"], masked if mask_text else plain)


@pytest.mark.parametrize("count", [2, 4])
def test_processes_get_shards_of_every_batch(records, count):
    shares = [list(make(records, process_index=p, process_count=count)(1)) for p in range(count)]
    joined = [
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*shares, strict=True)
    ]
    assert_same(joined, make(records)(1))


def test_iterator_may_be_left_early(records):
    batches = make(records, cache=False)
    for epoch in range(5):
        next(batches(epoch))


@pytest.mark.parametrize("cache", [True, False])
def test_raises_the_original_error_for_an_unreadable_image(records, cache, capfd):
    expected = list(make(records, **PLAIN)(0))
    bad = records.image_paths[8]
    with open(bad, "r+b") as file:
        file.truncate(500)
    if cache:
        with pytest.raises(UserError, match=r"8\.png: damaged or truncated"):
            make(records, cache=True)
    else:
        good = [batch for batch in expected if not np.isin([15, 16, 17], batch["index"]).any()]
        before = next(k for k, b in enumerate(expected) if np.isin([15, 16, 17], b["index"]).any())
        batches, received = make(records, cache=False, **PLAIN)(0), []
        with pytest.raises(UserError, match=r"8\.png: damaged or truncated") as error:
            for batch in batches:
                received.append(batch)  # noqa: PERF402  keeps what came before the error
        assert "\n" not in str(error.value) and error.value.__cause__ is None
        assert_same(received, good[:before])
    assert capfd.readouterr().err == ""


def test_rejects_settings_that_do_not_fit(records):
    for batch_size in (0, -1, 19):
        with pytest.raises(UserError, match=f"batch_size {batch_size} .*18 captions of tiny:train"):
            make(records, batch_size=batch_size)
    with pytest.raises(UserError, match="batch_size 4 must be a multiple of the 3 processes"):
        make(records, process_count=3)
    with pytest.raises(UserError, match="seed -1"):
        make(records, seed=-1)


def test_importing_is_silent_and_leaves_stderr_open():
    code = "import sys, tpr_jax.data.pipeline; print('after', file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "after\n")
