"""Captions of the domain `hard`: true, in two wordings, and some exchanged."""

import re

import numpy as np
import pytest

from tpr_jax.data.mini_pedes import phrases
from tpr_jax.data.mini_pedes.captions import visible_attributes
from tpr_jax.data.mini_pedes.hard_captions import SYNONYMS, exchange_captions, hard_caption, part_of
from tpr_jax.data.mini_pedes.hard_people import sample_group
from tpr_jax.data.mini_pedes.hard_scene import hard_view

# What one wording says and the other does not, written without the tables of the module.
TRAIN_ONLY = (
    "man|guy|woman|slim|thin|heavy-set|t-shirt|long-sleeved shirt|sweater|sleeveless top|hoodie|"
    "coat|knee-length coat|trousers|trainers|running shoes|baseball cap|woolly hat|backpack|shoulder bag|"
    "checked|navy|light blue|grey|beige|purple|blond|chin-length|short (?:\\w+ )?hair|long (?:\\w+ )?hair|"
    "bald|wears|is wearing|carries|carrying|he|she"
)
TEST_ONLY = (
    "male|gentleman|lady|female|slender|stout|heavily built|tee shirt|short-sleeved top|"
    "shirt with long sleeves|jumper|pullover|tank top|hooded sweatshirt|overcoat|pants|sneakers|low shoes|"
    "ankle boots|peaked cap|beanie|knitted hat|rucksack|slung|strap|pair of glasses|plaid|dark blue|"
    "pale blue|sky blue|gray|bright red|cream|sand-coloured|violet|fair|ginger|cut short|tied|put up|"
    "dressed in|has on|having|this"
)
COLORS = {
    "navy": "navy|dark blue",
    "light blue": "light blue|pale blue|sky blue",
    "grey": "gr[ea]y",
    "beige": "beige|cream|sand-coloured",
    "purple": "purple|violet",
}
BAGS = {
    None: "no bag",
    "backpack": "backpack|rucksack",
    "handbag": "handbag",
    "shoulder bag": "shoulder bag|slung|strap",
}


def _matches(pattern: str, text: str) -> set[str]:
    return set(re.findall(rf"\b(?:{pattern})\b", text.lower()))


@pytest.fixture(scope="module")
def captions():
    """Captions of the people of groups: wording, attribute, person, seen, text, named."""
    made = []
    for i in range(150):
        attribute, people = sample_group(np.random.default_rng([7, i]))
        rng = np.random.default_rng([8, i])
        for view, person in enumerate(people):
            seen = visible_attributes(person, hard_view(rng, view))
            for wording in (False, True):
                text, named = hard_caption(rng, seen, attribute, is_test=wording)
                made.append((wording, attribute, person, seen, text, named))
    return made


def test_the_wordings_of_train_and_test_are_disjoint(captions):
    used = {is_test: (set(), set()) for is_test in (False, True)}
    for is_test, *_, text, _ in captions:
        used[is_test][0].update(_matches(TRAIN_ONLY, text))
        used[is_test][1].update(_matches(TEST_ONLY, text))
    assert len(used[False][0]) > 30 and not used[False][1]
    assert len(used[True][1]) > 38 and not used[True][0]


def test_clip_mini_has_learned_the_words_of_both():
    """The captions of `pretrain` draw from these tables."""
    tables = (phrases.GARMENT_WORDS, phrases.COLOR_WORDS, phrases.SUBJECTS, phrases.BUILDS)
    learned = {word for words in tables for options in words.values() for word in options}
    learned |= {"checked", "plaid", "glasses", "a pair of glasses"}
    for for_train, for_test in SYNONYMS.values():
        assert for_train and for_test and not set(for_train) & set(for_test)
        assert {*for_train, *for_test} <= learned


def test_no_caption_is_in_both_wordings(captions):
    texts = {w: {text for is_test, *_, text, _ in captions if is_test == w} for w in (False, True)}
    assert not texts[False] & texts[True]


def test_captions_of_look_alikes_name_what_differs(captions):
    for _, attribute, person, _, text, named in captions:
        assert attribute in named
        if attribute == "bag":
            kind = person["bag"]["type"] if person["bag"] else None
            for other, words in BAGS.items():
                assert bool(_matches(words, text)) == (other == kind), text
        else:
            color = person[part_of(attribute)]["color"]
            assert _matches(COLORS.get(color, color), text), (text, color)


def test_captions_are_true_and_name_what_they_say(captions):
    for _, _, person, seen, text, named in captions:
        assert all(named[k] == seen.get(k, "none") for k in named), text
        if "sex" in named:
            wrong = {"man": "woman|lady|female|she", "woman": "man|guy|male|gentleman|he"}[person["sex"]]
            assert not _matches(wrong, text), text
        assert bool(_matches("glasses", text)) == ("glasses" in named)
        assert bool(re.search(r"\b(hair|head)\b", text)) == bool({"hair_style", "hair_color"} & named.keys())
        if "lower" not in named:
            assert not _matches("trousers|pants|jeans|shorts|skirt", text), text
        if "shoes" not in named:
            assert not _matches("trainers|shoes|sneakers|boots", text), text
        if "hat" not in named:
            assert not _matches("cap|hat|beanie", text), text
        assert text[0].isupper() and text[-1] == "." and "  " not in text
        assert 5 <= len(text.split()) <= 50
        assert not re.search(r"\ba [aeio]|\ban [^aeiou]", text), text
    assert {n for *_, named in captions for n in named} >= {
        "build",
        "top_pattern",
        "top_second",
        "inner_color",
    }


def _records(people: int, captions: int) -> list[dict]:
    splits = ["train"] * people + ["val", "test"]
    return [
        {"split": split, "id": i, "captions": [f"{i} {j}" for j in range(captions)]}
        for i, split in enumerate(splits)
    ]


def test_a_tenth_of_the_training_captions_is_exchanged_and_marked():
    before = _records(100, 3)
    after = exchange_captions(before, 0.1, np.random.default_rng(0))
    assert before == _records(100, 3)
    wrong = [(r["id"], j) for r in after if r["split"] == "train" for j in r["wrong"]]
    assert len(wrong) == 30
    for old, new in zip(before, after, strict=True):
        if old["split"] != "train":
            assert new == old
            continue
        for j, text in enumerate(new["captions"]):
            is_wrong = text.split()[0] != str(old["id"])
            assert is_wrong == (j in new["wrong"]) and (is_wrong or text == old["captions"][j])
    texts = [sorted(t for r in records for t in r["captions"]) for records in (before, after)]
    assert texts[0] == texts[1]  # each caption is still somewhere
    again = exchange_captions(before, 0.1, np.random.default_rng(0))
    other = exchange_captions(before, 0.1, np.random.default_rng(1))
    assert again == after != other


def test_a_single_person_keeps_all_captions():
    after = exchange_captions(_records(1, 10), 0.5, np.random.default_rng(0))
    assert after[0]["wrong"] == [] and after[0]["captions"] == _records(1, 10)[0]["captions"]
