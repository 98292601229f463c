"""Few-shot splits and noisy correspondence: what remains, what moves, and what stays the same."""

import itertools
from collections import Counter

import numpy as np
import pytest
from ml_collections import ConfigDict

from tpr_jax.data import mini_pedes, protocols
from tpr_jax.data.records import Records, caption_pairs, load_records

FRACTIONS = (0.01, 0.05, 0.1, 0.25)


def people(number: int, images_each=3) -> Records:
    """Records with unordered raw ids and one to three captions per image, all different."""
    pids = np.repeat(np.random.default_rng(0).permutation(number) * 7 - 50, images_each)
    paths = [f"{i}.jpg" for i in range(len(pids))]
    captions = [[f"{i} {k}" for k in range(1 + i % 3)] for i in range(len(pids))]
    return Records("people:train", paths, captions, pids, [None, (0, 0, 2, 2)] * (len(pids) // 2))


def config(**asked) -> ConfigDict:
    return ConfigDict({"few_shot": 0.0, "few_shot_seed": 0, "noisy_fraction": 0.0, "noise_seed": 0} | asked)


@pytest.mark.parametrize(("fraction", "left"), list(zip(FRACTIONS, (2, 10, 20, 50), strict=True)))
def test_few_shot_keeps_whole_identities(fraction, left):
    records = people(200)
    few = protocols.few_shot(records, fraction, seed=3)
    chosen = set(few.pids.tolist())
    assert len(chosen) == left
    rows = [row for row, pid in enumerate(records.pids.tolist()) if pid in chosen]
    assert len(rows) == 3 * left
    assert few.image_paths == [records.image_paths[row] for row in rows]
    assert few.captions == [records.captions[row] for row in rows]
    assert few.pids.tolist() == records.pids[rows].tolist()
    assert few.boxes == [records.boxes[row] for row in rows] and few.name == records.name


def test_few_shot_is_nested_deterministic_and_uniform():
    records = people(200)
    chosen = [set(protocols.few_shot(records, fraction, 3).pids.tolist()) for fraction in FRACTIONS]
    assert all(small < large for small, large in itertools.pairwise(chosen))
    assert set(protocols.few_shot(records, 0.25, 3).pids.tolist()) == chosen[-1]
    times = Counter(
        pid for seed in range(400) for pid in set(protocols.few_shot(records, 0.1, seed).pids.tolist())
    )
    # 400 draws of a chance of one in ten, 200 times: 40 each, deviation 6.
    assert len(times) == 200 and all(abs(n - 40) < 5 * 6 for n in times.values())
    # Whichever way the annotation is ordered, the same people are chosen.
    backwards = Records("", records.image_paths, records.captions, records.pids[::-1])
    assert set(protocols.few_shot(backwards, 0.1, 3).pids.tolist()) == chosen[2]
    assert len(set(protocols.few_shot(people(30), 0.01, 0).pids.tolist())) == 1  # at least one
    assert protocols.few_shot(records, 1.0, 0).image_paths == records.image_paths


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.8, 1.0])
def test_noise_moves_captions_and_nothing_else(fraction):
    records = people(200)
    mixed = protocols.noisy(records, fraction, seed=5)
    assert mixed.image_paths == records.image_paths and mixed.boxes == records.boxes
    assert mixed.pids.tolist() == records.pids.tolist()  # the loss sees the identity of the picture
    assert list(map(len, mixed.captions)) == list(map(len, records.captions))
    rows, before, _ = caption_pairs(records)
    _, after, pids = caption_pairs(mixed)
    assert sorted(before) == sorted(after)
    moved = [place for place, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    # 1,200 captions; a permutation keeps one in place on average, never many.
    assert round(1200 * fraction) - 8 <= len(moved) <= round(1200 * fraction)
    owner = dict(zip(before, records.pids[rows].tolist(), strict=True))
    wrong = sum(owner[caption] != pid for caption, pid in zip(after, pids.tolist(), strict=True))
    assert protocols.count_mismatched(records, mixed) == wrong
    assert len(moved) - 25 < wrong <= len(moved)  # six of 1,200 are the same person's
    assert protocols.noisy(records, fraction, 5).captions == mixed.captions
    assert protocols.noisy(records, fraction, 6).captions != mixed.captions


def test_reduce_prints_and_returns_a_summary(capsys):
    records = people(40)
    same, facts = protocols.reduce(records, config())
    assert same is records and facts == {} and capsys.readouterr().out == ""
    few, facts = protocols.reduce(
        records, config(few_shot=0.25, few_shot_seed=2, noisy_fraction=0.5, noise_seed=4)
    )
    captions = sum(map(len, few.captions))
    left = {"identities": 10, "images": 30, "captions": captions, "of_identities": 40}
    assert facts["few_shot"] == {"fraction": 0.25, "seed": 2, **left}
    clean = protocols.few_shot(records, 0.25, 2)
    wrong = protocols.count_mismatched(clean, few)
    shuffled = {"captions": round(captions / 2), "mismatched": wrong, "of_captions": captions}
    assert facts["noisy"] == {"fraction": 0.5, "seed": 4, **shuffled} and 0 < wrong <= round(captions / 2)
    assert few.captions == protocols.noisy(clean, 0.5, 4).captions
    first, second = capsys.readouterr().out.splitlines()
    assert first == (
        f"few-shot: 10 of 40 identities of people:train (30 images, {captions} captions), seed 2"
    )
    assert second.startswith(
        f"noisy: {round(captions / 2)} of {captions} captions of people:train shuffled, {wrong} "
    )


def test_bundled_data_set_at_the_fractions_in_use():
    """Every fraction leaves identities of MiniPEDES, and the draws are independent."""
    records = load_records(mini_pedes.bundled_dir(), "train", "mini_pedes")
    number = len(np.unique(records.pids))
    for fraction in FRACTIONS:
        few = protocols.few_shot(records, fraction, 0)
        assert len(np.unique(few.pids)) == round(fraction * number) >= 1
        assert set(few.image_paths) <= set(records.image_paths)
