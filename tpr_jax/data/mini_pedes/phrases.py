"""Words for attributes: each function turns part of a person into a noun phrase and says what it named."""

import numpy as np

COLOUR_WORDS = {
    "navy": ("navy", "navy blue", "dark blue"),
    "light blue": ("light blue", "pale blue", "sky blue"),
    "grey": ("grey", "gray"),
    "red": ("red", "bright red"),
    "green": ("green",),
    "beige": ("beige", "cream", "sand-coloured"),
    "purple": ("purple", "violet"),
}
HAIR_WORDS = {"blond": ("blond", "blonde", "fair"), "red": ("red", "ginger"), "grey": ("grey", "gray")}
GARMENT_WORDS = {
    "t-shirt": ("t-shirt", "tee shirt", "short-sleeved top"),
    "shirt": ("long-sleeved shirt", "shirt", "shirt with long sleeves"),
    "sweater": ("sweater", "jumper", "pullover"),
    "sleeveless top": ("sleeveless top", "tank top"),
    "hoodie": ("hoodie", "hooded sweatshirt"),
    "jacket": ("jacket",),
    "coat": ("coat", "knee-length coat", "overcoat"),
    "dress": ("dress",),
    "trousers": ("trousers", "pants"),
    "jeans": ("jeans", "denim jeans"),
    "shorts": ("shorts",),
    "skirt": ("skirt",),
    "trainers": ("trainers", "sneakers", "running shoes"),
    "shoes": ("shoes", "low shoes"),
    "boots": ("boots", "ankle boots"),
    "cap": ("cap", "baseball cap", "peaked cap"),
    "woolly hat": ("woolly hat", "beanie", "knitted hat"),
    "backpack": ("backpack", "rucksack"),
    "handbag": ("handbag",),
    "shoulder bag": ("shoulder bag", "bag slung across the body", "bag on a strap over the shoulder"),
}
SUBJECTS = {
    "man": ("man", "man", "man", "male", "guy", "gentleman"),
    "woman": ("woman", "woman", "woman", "lady", "female"),
}
BUILDS = {"slim": ("slim", "thin", "slender"), "heavy": ("heavy-set", "stout", "heavily built")}
PLURAL = {"trousers", "jeans", "shorts", "trainers", "shoes", "boots"}


def pick(rng: np.random.Generator, options):
    return options[int(rng.integers(len(options)))]


def with_article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def join(items: list[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def colour_word(rng, colour: str) -> str:
    return pick(rng, COLOUR_WORDS.get(colour, (colour,)))


def _named(rng, kind: str, colour: str | None) -> str:
    noun = pick(rng, GARMENT_WORDS[kind])
    return f"{colour_word(rng, colour)} {noun}" if colour else noun


def hair_phrase(rng, seen: dict) -> tuple[str, dict]:
    """Hair, with its style where that side shows it."""
    style = seen.get("hair_style")
    if style == "bald":
        return pick(rng, ("a bald head", "a shaved head")), {"hair_style": style}
    named = {}
    colour = ""
    if rng.random() < 0.8 or style is None:
        named["hair_colour"] = seen["hair_colour"]
        colour = pick(rng, HAIR_WORDS.get(seen["hair_colour"], (seen["hair_colour"],))) + " "
    if style is None:
        return f"{colour}hair", named
    named["hair_style"] = style
    text = {
        "short": ("short {c}hair", "{c}hair cut short"),
        "medium": ("chin-length {c}hair", "{c}hair down to the chin"),
        "long": ("long {c}hair", "{c}hair that falls below the shoulders"),
        "ponytail": ("{c}hair tied in a ponytail", "{c}hair in a ponytail"),
        "bun": ("{c}hair in a bun", "{c}hair put up in a bun"),
    }[style]
    return pick(rng, text).format(c=colour), named


def hat_phrase(rng, seen: dict) -> tuple[str, dict]:
    named = {"hat": seen["hat"]}
    if rng.random() < 0.85:
        named["hat_colour"] = seen["hat_colour"]
    return with_article(_named(rng, seen["hat"], named.get("hat_colour"))), named


def glasses_phrase(rng, seen: dict) -> tuple[str, dict]:
    return pick(rng, ("glasses", "dark glasses", "a pair of glasses")), {"glasses": "glasses"}


def top_phrase(rng, seen: dict) -> tuple[str, dict]:
    """The top or dress, perhaps with its pattern, sleeves or what an open jacket shows."""
    named = {"top": seen["top"]}
    if rng.random() < 0.92:
        named["top_colour"] = seen["top_colour"]
    words = []
    pattern = seen.get("top_pattern")
    if pattern and rng.random() < 0.85:
        named["top_pattern"] = pattern
        if "top_colour" in named and rng.random() < 0.7:
            named["top_second"] = seen["top_second"]
            words.append(f"{colour_word(rng, seen['top_colour'])} and {colour_word(rng, seen['top_second'])}")
        elif "top_colour" in named:
            words.append(colour_word(rng, seen["top_colour"]))
        words.append(pattern if pattern == "striped" else pick(rng, ("checked", "plaid")))
    elif "top_colour" in named:
        words.append(colour_word(rng, seen["top_colour"]))
    if seen["top"] == "dress" and rng.random() < 0.4:
        named["sleeve"] = seen["sleeve"]
        words.insert(0, seen["sleeve"])
    text = with_article(" ".join([*words, pick(rng, GARMENT_WORDS[seen["top"]])]))
    if "inner_colour" in seen and rng.random() < 0.75:
        named["inner_colour"] = seen["inner_colour"]
        over = pick(rng, ("open over", "worn open over", "over"))
        text += f" {over} {with_article(colour_word(rng, seen['inner_colour']) + ' top')}"
    return text, named


def lower_phrase(rng, seen: dict) -> tuple[str, dict]:
    return _clothes(rng, "lower", seen)


def shoes_phrase(rng, seen: dict) -> tuple[str, dict]:
    return _clothes(rng, "shoes", seen)


def _clothes(rng, item: str, seen: dict) -> tuple[str, dict]:
    named = {item: seen[item]}
    if rng.random() < 0.9:
        named[f"{item}_colour"] = seen[f"{item}_colour"]
    text = _named(rng, seen[item], named.get(f"{item}_colour"))
    if seen[item] not in PLURAL:
        return with_article(text), named
    return (f"a pair of {text}" if rng.random() < 0.25 else text), named


def bag_phrase(rng, seen: dict) -> tuple[str, dict]:
    named = {"bag": seen["bag"]}
    if rng.random() < 0.8:
        named["bag_colour"] = seen["bag_colour"]
    return with_article(_named(rng, seen["bag"], named.get("bag_colour"))), named
