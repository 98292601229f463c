"""Captions of the domain `hard`: one wording for train and val, another for test, and wrong captions.

Each wording has half of the synonyms of `phrases` and its own sentences. The captions of `pretrain`, from
which clip-mini learned, use all of `SYNONYMS`, and their own words for hair.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tpr_jax.data.mini_pedes.phrases import PLURAL, join, pick, with_article

# Kind or color -> its words in train and val, and in test. What is not listed has one word, used in both.
SYNONYMS = {
    "man": (("man", "guy"), ("male", "gentleman")),
    "woman": (("woman",), ("lady", "female")),
    "slim": (("slim", "thin"), ("slender",)),
    "heavy": (("heavy-set",), ("stout", "heavily built")),
    "t-shirt": (("t-shirt",), ("tee shirt", "short-sleeved top")),
    "shirt": (("long-sleeved shirt",), ("shirt with long sleeves",)),
    "sweater": (("sweater",), ("jumper", "pullover")),
    "sleeveless top": (("sleeveless top",), ("tank top",)),
    "hoodie": (("hoodie",), ("hooded sweatshirt",)),
    "coat": (("coat", "knee-length coat"), ("overcoat",)),
    "trousers": (("trousers",), ("pants",)),
    "trainers": (("trainers", "running shoes"), ("sneakers",)),
    "shoes": (("shoes",), ("low shoes",)),
    "boots": (("boots",), ("ankle boots",)),
    "cap": (("cap", "baseball cap"), ("peaked cap",)),
    "woolly hat": (("woolly hat",), ("beanie", "knitted hat")),
    "backpack": (("backpack",), ("rucksack",)),
    "shoulder bag": (("shoulder bag",), ("bag slung across the body", "bag on a strap over the shoulder")),
    "glasses": (("glasses",), ("a pair of glasses",)),
    "checked": (("checked",), ("plaid",)),
    "navy": (("navy", "navy blue"), ("dark blue",)),
    "light blue": (("light blue",), ("pale blue", "sky blue")),
    "grey": (("grey",), ("gray",)),
    "red": (("red",), ("bright red",)),
    "beige": (("beige",), ("cream", "sand-coloured")),
    "purple": (("purple",), ("violet",)),
}
HAIR_COLORS = {
    "blond": (("blond",), ("fair",)),
    "red": (("red",), ("ginger",)),
    "grey": (("grey",), ("gray",)),
}
HAIR_STYLES = {
    "bald": (("a bald head",), ("a shaved head",)),
    "short": (("short {c}hair",), ("{c}hair cut short",)),
    "medium": (("chin-length {c}hair",), ("{c}hair down to the chin",)),
    "long": (("long {c}hair",), ("{c}hair that falls below the shoulders",)),
    "ponytail": (("{c}hair in a ponytail",), ("{c}hair tied in a ponytail",)),
    "bun": (("{c}hair in a bun",), ("{c}hair put up in a bun",)),
}
PARTS = ("hat", "glasses", "top", "lower", "shoes", "hair", "bag")
WRONG_SHARE = 0.1  # of the captions of train


class Said(NamedTuple):
    """The phrases of one caption: the person, and what the person wears, has and carries."""

    noun: str
    pronoun: str
    worn: list[str]
    hair: str
    bag: str


def part_of(attribute: str) -> str:
    """Returns the part that a visible attribute belongs to: 'shoes_color' -> 'shoes'."""
    return attribute.partition("_")[0]


class _Words:
    """Draws the words of one wording: 0 for train and val, 1 for test."""

    def __init__(self, rng: np.random.Generator, wording: int):
        self.rng, self.wording = rng, wording

    def word(self, name: str, table: dict = SYNONYMS) -> str:
        return pick(self.rng, table[name][self.wording]) if name in table else name

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)


def _item(words: _Words, seen: dict, part: str, must: str | None, named: dict) -> str:
    """Describes a garment, hat or bag: color, pattern and kind, and what an open jacket shows."""
    named[part] = seen[part]
    phrase = [words.word(seen[part])]
    pattern = seen.get("top_pattern") if part == "top" else None
    if pattern and words.chance(0.85):
        named["top_pattern"] = pattern
        phrase.insert(0, words.word(pattern))
    if must == f"{part}_color" or words.chance(0.88):
        named[f"{part}_color"] = seen[f"{part}_color"]
        color = words.word(seen[f"{part}_color"])
        if "top_pattern" in named and part == "top" and words.chance(0.7):
            named["top_second"] = seen["top_second"]
            color += f" and {words.word(seen['top_second'])}"
        phrase.insert(0, color)
    text = " ".join(phrase)
    text = text if seen[part] in PLURAL else with_article(text)
    if part == "top" and "inner_color" in seen and words.chance(0.7):
        named["inner_color"] = seen["inner_color"]
        over = ("over", "worn open over")[words.wording]
        text += f" {over} {with_article(words.word(seen['inner_color']) + ' top')}"
    return text


def _hair(words: _Words, seen: dict, named: dict) -> str:
    style, color = seen.get("hair_style"), ""
    if style != "bald" and (style is None or words.chance(0.8)):
        named["hair_color"] = seen["hair_color"]
        color = words.word(seen["hair_color"], HAIR_COLORS) + " "
    if style is None:
        return f"{color}hair"
    named["hair_style"] = style
    return words.word(style, HAIR_STYLES).format(c=color)


def _noun(words: _Words, seen: dict, named: dict) -> str:
    noun = "person"
    if words.chance(0.92):
        named["sex"] = seen["sex"]
        noun = words.word(seen["sex"])
    if "build" in seen and words.chance(0.4):
        named["build"] = seen["build"]
        noun = f"{words.word(seen['build'])} {noun}"
    return noun


def _plain_sentence(rng: np.random.Generator, said: Said) -> str:
    """Arranges the phrases as the captions of train and val do: subject first, with `wears` and `carries`."""
    worn = join(said.worn)
    wears, carries = pick(rng, ("wears", "is wearing")), pick(rng, ("carries", "is carrying"))
    plan = int(rng.integers(3))
    if plan == 0:
        subject = with_article(said.noun) + (f" with {said.hair}" if said.hair else "")
        return f"{subject} {wears} {worn}." + (f" {said.pronoun} {carries} {said.bag}." if said.bag else "")
    if plan == 1:
        more = ([f"has {said.hair}"] if said.hair else []) + ([f"{carries} {said.bag}"] if said.bag else [])
        rest = f" {said.pronoun} {' and '.join(more)}." if more else ""
        return f"the {said.noun} {wears} {worn}.{rest}"
    extra = ([f"with {said.hair}"] if said.hair else []) + ([f"carrying {said.bag}"] if said.bag else [])
    return ", ".join([f"{with_article(said.noun)} wearing {worn}", *extra]) + "."


def _other_sentence(rng: np.random.Generator, said: Said) -> str:
    """Arranges the phrases as the captions of test do: clothes first, often from the shoes up."""
    worn = join(said.worn[::-1] if rng.random() < 0.5 else said.worn)
    has = [phrase for phrase in (said.bag, said.hair) if phrase]
    plan = int(rng.integers(3))
    if plan == 0:
        ending = f"this {said.noun} has {join(has)}" if has else f"this {said.noun} can be seen"
        return f"dressed in {worn}, {ending}."
    if plan == 1:
        having = f" having {join(has)}" if has else ""
        return f"{worn} on {with_article(said.noun)}{having}."
    return f"this {said.noun}{f', having {join(has)},' if has else ''} has on {worn}."


SENTENCES: tuple[Callable[[np.random.Generator, Said], str], ...] = (_plain_sentence, _other_sentence)


def hard_caption(
    rng: np.random.Generator, seen: dict[str, str], must: str | None, *, is_test: bool
) -> tuple[str, dict[str, str]]:
    """Writes one caption of the attributes from `visible_attributes`, and returns those that it names too.

    Args:
      rng: draws what is named, and the words.
      seen: the visible attributes, at least those of the top.
      must: an attribute that the caption names; 'bag' may be missing from `seen`, which is "no bag".
      is_test: whether the wording is that of test.
    """
    words, named = _Words(rng, int(is_test)), {}
    noun = _noun(words, seen, named)
    present = [part for part in PARTS if part in seen or (part == "hair" and "hair_color" in seen)]
    if "hair_style" in seen and "hair" not in present:
        present.append("hair")
    chosen = {"top", *rng.permutation(present)[: int(rng.integers(3, 6))].tolist()}
    if must:
        chosen.add(part_of(must))
    worn = [
        _item(words, seen, part, must, named) for part in ("top", "lower", "shoes", "hat") if part in chosen
    ]
    if "glasses" in chosen:
        named["glasses"] = "glasses"
        worn.append(words.word("glasses"))
    hair = _hair(words, seen, named) if "hair" in chosen else ""
    bag = ""
    if "bag" in chosen:
        bag = _item(words, seen, "bag", must, named) if "bag" in seen else "no bag"
        named["bag"] = seen.get("bag", "none")
    pronoun = {"man": "He", "woman": "She"}.get(named.get("sex", ""), "The person")
    text = SENTENCES[int(is_test)](rng, Said(noun, pronoun, worn, hair, bag))
    return text[0].upper() + text[1:], named


def exchange_captions(records: list[dict], share: float, rng: np.random.Generator) -> list[dict]:
    """Exchanges a share of the captions of `train` among its people, and marks them.

    Returns:
      Records of the same order. Those of `train` have the field `wrong`: the indices of the captions that
      describe somebody else. The other records are the same objects.
    """
    places = [
        (i, j) for i, r in enumerate(records) if r["split"] == "train" for j in range(len(r["captions"]))
    ]
    drawn = rng.permutation(len(places))[: round(share * len(places))]
    # Half a turn in the order of the people: nobody has so many captions, unless there are only a few people.
    chosen = sorted((places[k] for k in drawn.tolist()), key=lambda place: (records[place[0]]["id"], *place))
    half = len(chosen) // 2
    source = dict(zip(chosen, chosen[half:] + chosen[:half], strict=True))
    out = []
    for i, record in enumerate(records):
        if record["split"] != "train":
            out.append(record)
            continue
        captions, wrong = list(record["captions"]), []
        for j in range(len(captions)):
            k, caption = source.get((i, j), (i, j))
            if records[k]["id"] != record["id"]:
                captions[j] = records[k]["captions"][caption]
                wrong.append(j)
        out.append(record | {"captions": captions, "wrong": wrong})
    return out
