"""A report says what its scores depend on, in a sentence each."""

import pytest

from tpr_jax.report.remarks import remarks


def of(**data):
    return remarks({"dataset": "cuhk_pedes", "data": data})


def test_a_plain_run_names_its_backbone_alone():
    plain = {"counts": {}, "subset": []}
    assert remarks({"backbone": {"name": "clip-mini", "revision": None}, "data": plain}) == [
        "Backbone: clip-mini."
    ]
    pinned = {"name": "openai/clip", "revision": "0123456789abcdef"}
    assert remarks({"backbone": pinned}) == ["Backbone: openai/clip, revision 0123456789."]


def test_older_results_have_no_remarks():
    assert remarks({}) == remarks({"data": {"counts": {}, "subset": None}, "backbone": None}) == []


def test_says_that_only_some_identities_were_used():
    drawn = {
        "fraction": 0.01,
        "seed": 0,
        "identities": 5,
        "images": 1,
        "captions": 2_040,
        "of_identities": 11_003,
    }
    assert of(few_shot=drawn) == ["Few-shot: trained on 5 of 11,003 identities, 1 image and 2,040 captions."]


def test_says_that_captions_were_shuffled():
    drawn = {"fraction": 0.2, "seed": 0, "captions": 1_000, "mismatched": 990, "of_captions": 5_000}
    assert of(noisy=drawn) == [
        "Noisy: 1,000 of 5,000 training captions were shuffled, 990 are with another person's image."
    ]


def test_names_each_further_data_set():
    mixed = [{"dataset": "icfg_pedes", "weight": 2.0}, {"dataset": "synth_pedes", "weight": 0.1}]
    assert of(mixed=mixed) == [
        "Also trained on ICFG-PEDES, with weight 2.",
        "Also trained on SYNTH-PEDES, with weight 0.1.",
    ]


def test_says_how_the_data_differs_from_the_official_one():
    lines = ["train has 3 identities; officially 4", "test has 1 identities; officially 2"]
    assert of(subset=lines) == [f"A subset of CUHK-PEDES: {line}." for line in lines]


@pytest.mark.parametrize(
    ("numbers", "sentence"),
    [
        ({"identities": 1, "photos": 0}, "1 identity is in two splits."),
        ({"identities": 0, "photos": 7}, "7 photos are in two splits."),
        ({"identities": 2, "photos": 1}, "2 identities and 1 photo are in two splits."),
    ],
)
def test_says_what_is_in_two_splits(numbers, sentence):
    assert of(in_two_splits=numbers) == [sentence]


@pytest.mark.parametrize(
    ("count", "sentences"),
    [
        (0, []),
        (1, ["1 photo could not be read and was skipped."]),
        (2, ["2 photos could not be read and were skipped."]),
    ],
)
def test_counts_skipped_photos(count, sentences):
    assert remarks({"skipped": {"count": count, "pictures": {}}}) == sentences
