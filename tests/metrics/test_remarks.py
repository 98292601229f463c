"""Scores are shown with what they depend on, in a sentence each."""

import pytest

from tpr_jax.metrics.remarks import remarks

FEW = {"fraction": 0.01, "seed": 0, "identities": 5, "images": 1, "captions": 2_040, "of_identities": 11_003}
TRAINED = "Few-shot: trained on 5 of 11,003 identities, 1 image and 2,040 captions."


def of(**data):
    return remarks({"dataset": "cuhk_pedes", "data": data})


def test_a_plain_run_names_its_backbone_alone():
    plain = {"counts": {}, "subset": []}
    assert remarks({"backbone": {"name": "clip-mini", "revision": None}, "data": plain}) == [
        "Backbone: clip-mini."
    ]
    pinned = {
        "name": "openai/clip",
        "revision": "0123456789abcdef",
        "image_size": [384, 128],
        "text_length": 77,
    }
    assert remarks({"backbone": pinned | {"from_scratch": False}}) == [
        "Backbone: openai/clip, revision 0123456789, images of 384 x 128 pixels, texts of up to 77 tokens."
    ]


def test_names_the_data_that_the_backbone_was_trained_on():
    facts = {"name": "runs/a", "trained_on": ["icfg_pedes", "synth_pedes"], "text_length": 77}
    assert remarks({"backbone": facts}) == [
        "Backbone: runs/a, trained on ICFG-PEDES and SYNTH-PEDES, texts of up to 77 tokens."
    ]


def test_says_that_the_weights_were_random():
    facts = {"name": "clip-mini", "from_scratch": True}
    assert remarks({"backbone": facts}) == ["Initialized at random, in the form of clip-mini."]


def test_older_results_have_no_remarks():
    assert remarks({}) == remarks({"data": {"counts": {}, "subset": None}, "backbone": None}) == []
    assert remarks({"dataset": "unknown", "skipped": {"count": None}}) == []


def test_says_that_only_some_identities_were_used():
    assert of(few_shot=FEW) == [TRAINED]


@pytest.mark.parametrize(
    ("results", "sentences"),
    [
        ({"trainable_params": 0}, []),
        ({"trainable_params": 7, "checkpoint": None}, []),
        ({"trainable_params": 7, "checkpoint": "best"}, [TRAINED]),
        ({"trainable_params": 7}, [TRAINED]),
    ],
)
def test_says_nothing_of_training_where_there_was_none(results, sentences):
    assert remarks(results | {"data": {"few_shot": FEW}}) == sentences


def test_names_the_teacher_and_the_average():
    assert remarks({"teacher": "runs/large", "ema_decay": 0.98}) == [
        "Distilled from runs/large.",
        "The trained weights are an average over the steps, with decay 0.98.",
    ]


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
    assert of(subset=lines) == [f"Not the official CUHK-PEDES: {line}." for line in lines]


def test_names_the_folder_of_rendered_data():
    assert remarks({"dataset": "mini_pedes", "data": {"folder": "data/hard"}}) == [
        "The data is that of data/hard, not the bundled one."
    ]


def test_says_that_the_test_split_is_invented():
    data = {"counts": {"test": {"identities": 1_000, "images": 9, "captions": 9}}}
    assert remarks({"dataset": "synth_pedes", "data": data}) == [
        "SYNTH-PEDES has no splits: test is its last 1,000 identities."
    ]
    assert remarks({"dataset": "webperson"}) == ["WebPerson-5M has no splits: test is its last identities."]


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
    ("counts", "sentences"),
    [
        ({"count": 0, "test": 0}, []),
        ({"count": 1}, ["1 photo could not be read and was skipped."]),
        (
            {"count": 2_000, "test": 1_500},
            ["2,000 photos could not be read and were skipped, 1,500 of test, whose captions were left out."],
        ),
    ],
)
def test_counts_skipped_photos(counts, sentences):
    assert remarks({"skipped": counts}) == sentences
