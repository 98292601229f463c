"""MiniPEDES: captions are true of the rendered person, by an independent parser."""

import re
from collections import Counter

import numpy as np
import pytest

from tpr_jax.data.mini_pedes.captions import side_of, visible_attributes
from tpr_jax.data.mini_pedes.generate import make_example
from tpr_jax.data.mini_pedes.paint import PART

# Longest first, so that "navy blue" is not read as "blue".
COLORS = {
    "navy blue": "navy", "dark blue": "navy", "navy": "navy", "light blue": "light blue",
    "pale blue": "light blue", "sky blue": "light blue", "blue": "blue", "bright red": "red", "red": "red",
    "ginger": "red", "grey": "grey", "gray": "grey", "white": "white", "black": "black", "green": "green",
    "yellow": "yellow", "orange": "orange", "brown": "brown", "pink": "pink", "purple": "purple",
    "violet": "purple", "beige": "beige", "cream": "beige", "sand-coloured": "beige", "blonde": "blond",
    "blond": "blond", "fair": "blond",
}  # fmt: skip
# Phrase -> (where in the person, type). Order matters: the first that fits is taken.
THINGS = [
    (r"over an? (?:[a-z-]+ )+?top", "inner", None),
    (r"short-sleeved top|t-shirt|tee shirt", "top", "t-shirt"),
    (r"sleeveless top|tank top", "top", "sleeveless top"),
    (r"hooded sweatshirt|hoodie", "top", "hoodie"),
    (r"long-sleeved shirt|shirt with long sleeves|shirt", "top", "shirt"),
    (r"sweater|jumper|pullover", "top", "sweater"),
    (r"jacket", "top", "jacket"),
    (r"knee-length coat|overcoat|coat", "top", "coat"),
    (r"dress\b", "top", "dress"),
    (r"denim jeans|jeans", "lower", "jeans"),
    (r"trousers|pants", "lower", "trousers"),
    (r"shorts", "lower", "shorts"),
    (r"skirt", "lower", "skirt"),
    (r"trainers|sneakers|running shoes", "shoes", "trainers"),
    (r"low shoes|shoes", "shoes", "shoes"),
    (r"ankle boots|boots", "shoes", "boots"),
    (r"baseball cap|peaked cap|cap\b", "hat", "cap"),
    (r"woolly hat|beanie|knitted hat", "hat", "woolly hat"),
    (r"backpack|rucksack", "bag", "backpack"),
    (r"handbag", "bag", "handbag"),
    (r"shoulder bag|bag slung across the body|bag on a strap over the shoulder", "bag", "shoulder bag"),
    (r"glasses", "glasses", None),
    (r"bald head|shaved head", "hair", "bald"),
    (r"hair tied in a ponytail|hair in a ponytail", "hair", "ponytail"),
    (r"hair in a bun|hair put up in a bun", "hair", "bun"),
    (r"hair cut short|short (?:[a-z]+ )?hair", "hair", "short"),
    (r"chin-length (?:[a-z]+ )?hair|hair down to the chin", "hair", "medium"),
    (r"long (?:[a-z]+ )?hair|hair that falls below the shoulders", "hair", "long"),
    (r"hair", "hair", None),
]  # fmt: skip
MEN = r"\b(man|male|guy|gentleman|he|his)\b"
WOMEN = r"\b(woman|lady|female|she|her)\b"
BUILD = {"slim": r"\b(slim|thin|slender)\b", "heavy": r"heavy-set|stout|heavily built"}
SIDES = {"front": "from the front", "back": "from behind", "side": "from the side"}


def _parse(text: str) -> list[tuple[str, str | None, list[str], str]]:
    """Returns (slot, type, colors, preceding words) of everything a caption names, in order."""
    pattern = re.compile("|".join(f"(?P<t{i}>{p})" for i, (p, _, _) in enumerate(THINGS)))
    color = re.compile("|".join(rf"\b{c}\b" for c in COLORS))
    found, end = [], 0
    for match in pattern.finditer(text):
        slot, kind = THINGS[int(match.lastgroup[1:])][1:]
        before = text[end : match.end()]
        found.append((slot, kind, [COLORS[c] for c in color.findall(before)], before))
        end = match.end()
    assert not color.findall(text[end:]), f"a color of nothing: {text}"
    return found


def _true_colors(person: dict, slot: str) -> set:
    if slot == "inner":
        return {person["inner"]}
    item = person[slot]
    return {item["color"], item.get("second")} if slot == "top" else {item["color"]}


def _check(text: str, example: dict) -> set[str]:
    """Asserts that everything the text says is true; returns the slots that it names."""
    person, view, low = example["person"], example["view"], text.lower()
    assert not re.search(WOMEN if person["sex"] == "man" else MEN, low), text
    for build, words in BUILD.items():
        assert person["build"] == build or not re.search(words, low), text
    for side, words in SIDES.items():
        assert side_of(view) == side or words not in low, text
    slots = set()
    for slot, kind, colors, before in _parse(low):
        slots.add(slot)
        if slot == "glasses":
            assert person["glasses"] and side_of(view) != "back", text
            assert not colors, text
            continue
        if slot == "inner":
            assert person["inner"] and side_of(view) == "front", text
        elif slot == "hair":
            assert kind in (None, person["hair"]["style"]), text
        else:
            assert person[slot] and person[slot]["type"] == kind, text
        assert set(colors) <= _true_colors(person, slot), text
        if slot == "top":
            assert "striped" not in before or person["top"]["pattern"] == "striped", text
            assert not re.search("checked|plaid", before) or person["top"]["pattern"] == "checked", text
            sleeve = person["top"]["sleeve"]
            assert "short-sleeved" not in before or 0.5 < sleeve < 1, text
            assert "sleeveless" not in before or sleeve < 0.5, text
            assert "long-sleeved" not in before or sleeve > 1, text
        else:
            assert not re.search("striped|checked|plaid", before), text
        # Each named thing covers some of the image.
        part = "top" if slot == "top" else slot
        if kind != "bald":
            assert (example["parts"] == PART[part]).sum() >= 3, text
    return slots


@pytest.fixture(scope="module", params=[160, pytest.param(320, marks=pytest.mark.slow)])
def examples(request):
    """Rendering them takes almost all the time."""
    return [make_example(5, "mini", "test", i // 4, i % 4, size=(96, 32)) for i in range(request.param)]


def test_every_caption_is_true_of_its_image(examples):
    for example in examples:
        for text, named in zip(example["captions"], example["named"], strict=True):
            slots = _check(text, example)
            told = {k.split("_")[0] for k in named} - {"sex", "build", "side", "sleeve"}
            assert slots == told, (text, named)
            assert all(example["seen"][k] == v for k, v in named.items()), (text, named)


def test_the_parser_of_this_test_catches_false_captions(examples):
    false = [
        "A {other} wears a coat.",
        "A person has on a pink skirt and a violet skirt.",
        "Seen with glasses and a rucksack and a handbag.",
    ]
    for text in false:
        caught = 0
        for example in examples[:40]:
            try:
                _check(text.format(other="woman" if example["person"]["sex"] == "man" else "man"), example)
            except AssertionError:
                caught += 1
        assert caught == 40, text


def test_captions_are_sentences_of_varied_wording_that_name_a_part_only(examples):
    texts = [text for example in examples for text in example["captions"]]
    counts = [len(text.split()) for text in texts]
    assert min(counts) >= 8 and max(counts) <= 45 and 15 <= np.mean(counts) <= 30
    assert len(set(texts)) > 0.97 * len(texts)
    assert all(
        text[0].isupper() and text.endswith(".") and "  " not in text and " ," not in text for text in texts
    )
    assert not [t for t in texts if re.search(r"\ba [aeio]|\ban [^aeio]", t)]
    shares = [len(named) / len(e["seen"]) for e in examples for named in e["named"]]
    assert np.mean(shares) < 0.85
    openings = Counter(text.split()[0] for text in texts)
    assert len(openings) >= 6


def test_captions_omit_what_is_hidden():
    person = make_example(0, "mini", "train", 0, 0, size=(64, 32))["person"]
    person = person | {
        "glasses": True,
        "hat": None,
        "inner": "white",
        "hair": {"style": "ponytail", "color": "red"},
    }
    front = visible_attributes(person, {"azimuth": 0.1})
    back = visible_attributes(person, {"azimuth": np.pi})
    assert "glasses" in front and "glasses" not in back
    assert front["inner_color"] == "white" and "inner_color" not in back
    assert "hair_style" not in front and back["hair_style"] == "ponytail"
    tiny = dict.fromkeys(PART, 0.0) | {"top": 0.1}
    left = set(visible_attributes(person, {"azimuth": 0.1}, tiny)) - {"sex", "side", "build", "sleeve"}
    assert left and all(name.startswith("top") for name in left)


# Further meanings in the other domain's captions: phrase -> (slot, types it may stand for).
COARSE_THINGS = [
    (r"top\b", "top", {"t-shirt", "shirt", "sweater", "sleeveless top"}),
    (r"jacket", "top", {"jacket", "hoodie", "coat"}),
    (r"trousers|pants", "lower", {"trousers", "jeans"}),
    (r"shoes", "shoes", {"shoes", "trainers", "boots"}),
    (r"hat\b", "hat", {"cap", "woolly hat"}),
    (r"bag\b", "bag", {"backpack", "handbag", "shoulder bag"}),
    (r"no hair", "hair", {"bald"}),
    (r"tied (?:[a-z]+ )?hair", "hair", {"ponytail"}),
]
COARSE_COLORS = {name: {color} for name, color in COLORS.items()} | {
    "blue": {"blue", "light blue"},
    "dark": {"black", "brown", "navy"},
    "light": {"white", "yellow", "beige"},
}


def _check_coarse(text: str, person: dict) -> set[str]:
    """Like `_check`, for the `pretrain` domain, where a word may mean several things."""
    assert not re.search(WOMEN if person["sex"] == "man" else MEN, text), text
    for build, words in BUILD.items():
        assert person["build"] == build or not re.search(words, text), text
    vague = {phrase for phrase, _, _ in COARSE_THINGS} | {"low shoes|shoes"}
    exact = [(p, slot, {kind} if kind else None) for p, slot, kind in THINGS if p not in vague]
    table = exact[:-1] + COARSE_THINGS + exact[-1:]  # 'hair' alone comes last
    thing = re.compile("|".join(f"(?P<t{i}>{p})" for i, (p, _, _) in enumerate(table)))
    color = re.compile("|".join(rf"\b{c}\b" for c in COARSE_COLORS))
    slots, end = set(), 0
    for match in thing.finditer(text):
        slot, kinds = table[int(match.lastgroup[1:])][1:]
        before = text[end : match.end()]
        end = match.end()
        slots.add(slot)
        named = [COARSE_COLORS[c] for c in color.findall(before)]
        if slot in ("inner", "glasses"):
            assert person[slot], text
            if slot == "inner":
                assert person["inner"] in named[0], text
            else:
                assert not named or "dark glasses" in before, text
            continue
        worn = person[slot]
        assert worn and (kinds is None or worn["style" if slot == "hair" else "type"] in kinds), text
        assert all(worn["color"] in colors for colors in named), text
        pattern = re.search("striped|checked|plaid", before)
        if pattern:
            what = "striped" if pattern[0] == "striped" else "checked"
            assert slot == "top" and worn["pattern"] == what, text
    assert not color.findall(text[end:]), f"a color of nothing: {text}"
    return slots


def test_pretrain_captions_are_short_coarse_and_true():
    counts = []
    for i in range(100):
        example = make_example(0, "pretrain", "train", i // 4, i % 4, size=(64, 32))
        for text, named in zip(example["captions"], example["named"], strict=True):
            slots = _check_coarse(text, example["person"])
            assert slots == {k.split("_")[0] for k in named} - {"sex", "build", "side"}, (text, named)
            assert side_of(example["view"]) == named.get("side", side_of(example["view"]))
            assert ("seen from" in text) == ("side" in named)
            counts.append(len(slots - {"inner"}))
            assert 4 <= len(text.split()) <= 36, text
    assert set(counts) == {2, 3, 4}
    person = example["person"] | {"sex": "man"}
    for false in ("a woman in a top", "a man with pink hair", "a man in a top, red"):
        with pytest.raises(AssertionError):
            _check_coarse(false, person)
