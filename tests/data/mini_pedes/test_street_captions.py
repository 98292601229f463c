"""Captions of the domain `street`: true, in everyday words, and about things without people."""

import re

import numpy as np
import pytest

from tpr_jax.data.mini_pedes import street_captions
from tpr_jax.data.mini_pedes.captions import visible_attributes
from tpr_jax.data.mini_pedes.street_captions import COLORS, DENIM, street_caption, thing_caption
from tpr_jax.data.mini_pedes.street_people import sample_street_person
from tpr_jax.data.mini_pedes.street_scene import street_view

MEN, WOMEN = r"\b(man|male|guy|gentleman)\b", r"\b(woman|lady|female)\b"
WORDS = sorted({word for words in COLORS.values() for word in words} | {"faded"}, key=len, reverse=True)
COLOR = re.compile("|".join(rf"\b{word}\b" for word in WORDS))
HAIR = re.compile(r"(?:(short|long|tied) )?(?:(\w+) )?hair")


@pytest.fixture(scope="module")
def captions():
    made = []
    for i in range(400):
        rng = np.random.default_rng([3, i])
        person = sample_street_person(rng)
        seen = visible_attributes(person, street_view(rng, i))
        made.append((person, seen, *street_caption(rng, person, seen)))
    return made


def _colors_of(person: dict) -> set[str]:
    """Returns all words for the colors of the person's clothes and bag."""
    items = [person["top"], person["shoes"], person["hat"], person["bag"]]
    names = [item["color"] for item in items if item] + [person["inner"], person["top"]["second"]]
    names += [person["top"].get("hood")]
    words = {word for name in names if name for word in COLORS[name]}
    if person["lower"]["type"] == "jeans":
        return (
            words
            | set(DENIM[person["lower"]["color"]])
            | {"blue" if "" in DENIM[person["lower"]["color"]] else ""}
        )
    return words | set(COLORS[person["lower"]["color"]])


def test_captions_are_true(captions):
    for person, seen, text, _ in captions:
        assert not re.search(WOMEN if person["sex"] == "man" else MEN, text), text
        without_hair = HAIR.sub("", text)
        named = set(COLOR.findall(without_hair))
        if "paper" in text:
            assert person["bag"]["type"] == "paper"
        assert named <= _colors_of(person), text
        assert "striped" not in text or seen["top_pattern"] == "striped"
        assert not re.search("checked|plaid", text) or seen["top_pattern"] == "checked"
        assert "sleeves" not in text or seen["top_pattern"] == "sleeves"
        assert "hood" not in text or person["top"].get("hood") or person["top"]["type"] == "hoodie"
        assert not re.search(r"\b(old|older|elderly)\b", text) or person["old"]
        assert not re.search(r"\bbald", text) or person["hair"]["style"] == "bald"
        for length, word in HAIR.findall(text):
            assert not length or {"tied": "ponytail"}.get(length, length) == person["hair"]["style"], text
            allowed = {
                *street_captions.HAIR.get(person["hair"]["color"], ()),
                person["hair"]["color"],
                "dark",
            }
            assert word in ("", "no", "with") or word in allowed, text


def test_the_attributes_named_are_visible(captions):
    for person, seen, text, named in captions:
        for key, value in named.items():
            assert value == (person["top"]["hood"] if key == "hood" else seen[key]), text
        for key in ("hat", "bag", "shoes"):
            nouns = set(street_captions.GARMENTS.get(seen.get(key), ())) | {"paper", "papers"}
            assert key not in named or any(noun in text for noun in nouns), text


def test_captions_are_short_and_varied_and_almost_all_name_the_top(captions):
    texts = [text for *_, text, _ in captions]
    assert all(3 <= len(text.split()) <= 26 for text in texts)
    assert len(set(texts)) > 380
    assert sum("top_color" in named for *_, named in captions) > 0.97 * len(captions)
    share = sum("lower" in named or "lower_color" in named for *_, named in captions) / len(captions)
    assert 0.5 < share < 0.8
    assert not any(re.search(r"\blong long\b|\bknee-length knee-length\b|  ", text) for text in texts)


def test_black_from_top_to_bottom_has_its_own_words():
    rng = np.random.default_rng(0)
    person = sample_street_person(rng) | {"inner": None}
    seen = {"sex": "man", "side": "front", "top": "coat", "top_color": "black", "sleeve": "long-sleeved"}
    seen |= {"lower": "trousers", "lower_color": "black"}
    texts = {street_caption(rng, person, seen)[0] for _ in range(200)}
    assert any("all black" in text for text in texts) and any("black clothes" in text for text in texts)
    other = {street_caption(rng, person, seen | {"lower_color": "beige"})[0] for _ in range(200)}
    assert not any("all black" in text or "black clothes" in text for text in other)


@pytest.mark.parametrize(
    ("thing", "noun"), [("van", "van"), ("car", "car"), ("sign", "sign"), (None, "people|nobody|empty")]
)
def test_captions_of_things(thing, noun):
    texts = {thing_caption(np.random.default_rng(i), thing, "white") for i in range(60)}
    assert all(re.search(noun, text) for text in texts)
    assert any("white" in text for text in texts) == (thing is not None)
