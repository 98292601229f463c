"""Words for attributes: each function returns a noun phrase for one part, and the attributes it names."""

import numpy as np

COLOR_WORDS = {
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
    """Returns a random option."""
    return options[int(rng.integers(len(options)))]


def with_article(phrase: str) -> str:
    """Puts the indefinite article before a phrase."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def join(items: list[str]) -> str:
    """Joins words: 'a', 'a and b', 'a, b and c'."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def color_word(rng, color: str) -> str:
    """Returns a random word for a color."""
    return pick(rng, COLOR_WORDS.get(color, (color,)))


def _named(rng, kind: str, color: str | None) -> str:
    noun = pick(rng, GARMENT_WORDS[kind])
    return f"{color_word(rng, color)} {noun}" if color else noun


def hair_phrase(rng, seen: dict) -> tuple[str, dict]:
    """Describes the hair, with its style if it is visible from that side."""
    style = seen.get("hair_style")
    if style == "bald":
        return pick(rng, ("a bald head", "a shaved head")), {"hair_style": style}
    named = {}
    color = ""
    if rng.random() < 0.8 or style is None:
        named["hair_color"] = seen["hair_color"]
        color = pick(rng, HAIR_WORDS.get(seen["hair_color"], (seen["hair_color"],))) + " "
    if style is None:
        return f"{color}hair", named
    named["hair_style"] = style
    text = {
        "short": ("short {c}hair", "{c}hair cut short"),
        "medium": ("chin-length {c}hair", "{c}hair down to the chin"),
        "long": ("long {c}hair", "{c}hair that falls below the shoulders"),
        "ponytail": ("{c}hair tied in a ponytail", "{c}hair in a ponytail"),
        "bun": ("{c}hair in a bun", "{c}hair put up in a bun"),
    }[style]
    return pick(rng, text).format(c=color), named


def hat_phrase(rng, seen: dict) -> tuple[str, dict]:
    """Describes the hat, mostly with its color."""
    named = {"hat": seen["hat"]}
    if rng.random() < 0.85:
        named["hat_color"] = seen["hat_color"]
    return with_article(_named(rng, seen["hat"], named.get("hat_color"))), named


def glasses_phrase(rng, seen: dict) -> tuple[str, dict]:
    """Describes the glasses."""
    return pick(rng, ("glasses", "dark glasses", "a pair of glasses")), {"glasses": "glasses"}


def top_phrase(rng, seen: dict) -> tuple[str, dict]:
    """Describes the top or dress, possibly with its pattern, sleeves or what an open jacket shows."""
    named = {"top": seen["top"]}
    if rng.random() < 0.92:
        named["top_color"] = seen["top_color"]
    words = []
    pattern = seen.get("top_pattern")
    if pattern and rng.random() < 0.85:
        named["top_pattern"] = pattern
        if "top_color" in named and rng.random() < 0.7:
            named["top_second"] = seen["top_second"]
            words.append(f"{color_word(rng, seen['top_color'])} and {color_word(rng, seen['top_second'])}")
        elif "top_color" in named:
            words.append(color_word(rng, seen["top_color"]))
        words.append(pattern if pattern == "striped" else pick(rng, ("checked", "plaid")))
    elif "top_color" in named:
        words.append(color_word(rng, seen["top_color"]))
    if seen["top"] == "dress" and rng.random() < 0.4:
        named["sleeve"] = seen["sleeve"]
        words.insert(0, seen["sleeve"])
    text = with_article(" ".join([*words, pick(rng, GARMENT_WORDS[seen["top"]])]))
    if "inner_color" in seen and rng.random() < 0.75:
        named["inner_color"] = seen["inner_color"]
        over = pick(rng, ("open over", "worn open over", "over"))
        text += f" {over} {with_article(color_word(rng, seen['inner_color']) + ' top')}"
    return text, named


def lower_phrase(rng, seen: dict) -> tuple[str, dict]:
    """Describes the trousers, shorts or skirt."""
    return _clothes(rng, "lower", seen)


def shoes_phrase(rng, seen: dict) -> tuple[str, dict]:
    """Describes the shoes."""
    return _clothes(rng, "shoes", seen)


def _clothes(rng, item: str, seen: dict) -> tuple[str, dict]:
    named = {item: seen[item]}
    if rng.random() < 0.9:
        named[f"{item}_color"] = seen[f"{item}_color"]
    text = _named(rng, seen[item], named.get(f"{item}_color"))
    if seen[item] not in PLURAL:
        return with_article(text), named
    return (f"a pair of {text}" if rng.random() < 0.25 else text), named


def bag_phrase(rng, seen: dict) -> tuple[str, dict]:
    """Describes the bag, mostly with its color."""
    named = {"bag": seen["bag"]}
    if rng.random() < 0.8:
        named["bag_color"] = seen["bag_color"]
    return with_article(_named(rng, seen["bag"], named.get("bag_color"))), named
