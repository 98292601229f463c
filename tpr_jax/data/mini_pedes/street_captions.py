"""Captions of the domain `street`: what a passer-by would say about clothes and colors, and about things."""

import numpy as np

from tpr_jax.data.mini_pedes.phrases import SUBJECTS, join, pick, with_article

COLORS = {
    "black": ("black", "black", "black", "dark"),
    "dark grey": ("dark gray", "dark grey", "gray", "dark"),
    "grey": ("gray", "grey", "gray"),
    "white": ("white",),
    "navy": ("navy", "dark blue", "navy blue", "dark blue", "dark"),
    "blue": ("blue",),
    "light blue": ("light blue", "light blue", "blue", "pale blue"),
    "turquoise": ("turquoise",),
    "green": ("green",),
    "dark green": ("dark green", "green", "olive"),
    "red": ("red", "red", "bright red"),
    "dark red": ("dark red", "red", "maroon"),
    "orange": ("orange",),
    "yellow": ("yellow",),
    "brown": ("brown", "brown", "light brown"),
    "dark brown": ("dark brown", "dark brown", "brown", "dark"),
    "beige": ("beige", "light brown", "cream"),
    "pink": ("pink",),
    "purple": ("purple", "violet"),
}
DENIM = {
    "blue": ("blue", "blue", "blue", ""),
    "light blue": ("light blue", "light blue", "blue", "faded", ""),
    "navy": ("dark blue", "blue", "dark", ""),
    "black": ("black", "dark"),
    "grey": ("gray", "grey"),
}
GARMENTS = {
    "jacket": ("jacket", "jacket", "jacket", "coat"),
    "coat": ("coat", "coat", "long coat", "knee-length coat", "jacket"),
    "sweater": ("sweater", "pullover", "jumper", "top"),
    "hoodie": ("hoodie", "hooded jacket", "sweater"),
    "t-shirt": ("t-shirt", "short-sleeved top", "top"),
    "shirt": ("shirt", "long-sleeved shirt"),
    "sleeveless top": ("sleeveless top", "tank top"),
    "dress": ("dress",),
    "trousers": ("trousers", "trousers", "pants"),
    "jeans": ("jeans", "jeans", "jeans", "trousers"),
    "shorts": ("shorts",),
    "skirt": ("skirt",),
    "trainers": ("shoes", "sneakers", "trainers"),
    "shoes": ("shoes",),
    "boots": ("boots", "shoes"),
    "cap": ("cap", "hat"),
    "woolly hat": ("hat", "woolly hat", "beanie"),
    "backpack": ("backpack", "backpack", "bag"),
    "handbag": ("bag", "handbag"),
    "shoulder bag": ("shoulder bag", "bag"),
}
PLURAL = {"trousers", "jeans", "shorts", "trainers", "shoes", "boots"}
HAIR = {"blond": ("blond", "blonde", "fair"), "grey": ("gray", "grey"), "red": ("red", "ginger")}
# The parts that captions name, with their sampling weights.
PARTS = {"lower": 5.0, "hair": 2.0, "shoes": 1.6, "bag": 2.2, "hat": 2.2, "glasses": 0.7}


def _colored(rng, kind: str, color: str) -> str:
    noun = pick(rng, GARMENTS[kind])
    if kind == "jeans":
        word = pick(rng, DENIM[color])
        if noun != "jeans" and not word:
            word = "blue"
    else:
        word = pick(rng, COLORS[color])
    if noun.split()[0] in word.split():  # no "long long coat"
        noun = noun.split()[-1]
    return f"{word} {noun}".strip()


def _garment(rng, seen: dict, part: str, named: dict) -> str:
    kind = named[part] = seen[part]
    if rng.random() < 0.04:
        text = pick(rng, GARMENTS[kind])
    else:
        named[f"{part}_color"] = seen[f"{part}_color"]
        text = _colored(rng, kind, seen[f"{part}_color"])
    return text if kind in PLURAL else with_article(text)


def _top(rng, person: dict, seen: dict, named: dict) -> str:
    kind = named["top"] = seen["top"]
    pattern = seen.get("top_pattern")
    first, noun = pick(rng, COLORS[seen["top_color"]]), pick(rng, GARMENTS[kind])
    named["top_color"] = seen["top_color"]
    if pattern and rng.random() < 0.8:
        named["top_pattern"], named["top_second"] = pattern, seen["top_second"]
        second = pick(rng, COLORS[seen["top_second"]])
        both = f"{first} and {second}" if rng.random() < 0.6 else f"{second} and {first}"
        if pattern == "sleeves":
            noun = noun.removeprefix("long ")
            options = (f"{first} {noun} with {second} sleeves", f"{both} {noun}")
            return with_article(pick(rng, options))
        word = pattern if pattern == "striped" else pick(rng, ("checked", "plaid"))
        return with_article(pick(rng, (f"{both} {word} {noun}", f"{first} {word} {noun}", f"{word} {noun}")))
    text = with_article(f"{first} {noun}")
    if person["top"].get("hood") and rng.random() < 0.5:
        named["hood"] = person["top"]["hood"]
        return f"{text} with {with_article(pick(rng, COLORS[person['top']['hood']]) + ' hood')}"
    if "inner_color" in seen and rng.random() < 0.5:
        named["inner_color"] = seen["inner_color"]
        text += f" over {with_article(pick(rng, COLORS[seen['inner_color']]) + ' top')}"
    return text


def _hair(rng, seen: dict, named: dict) -> str:
    style, color = seen.get("hair_style"), seen.get("hair_color")
    if style == "bald":
        named["hair_style"] = style
        return pick(rng, ("no hair", "a bald head"))
    words = []
    if style in ("short", "long", "ponytail") and rng.random() < 0.6:
        named["hair_style"] = style
        words.append("tied" if style == "ponytail" else style)
    if color and (not words or rng.random() < 0.75):
        named["hair_color"] = color
        word = pick(rng, HAIR.get(color, (color,)))
        words.append("dark" if color in ("black", "brown") and rng.random() < 0.4 else word)
    return " ".join([*words, "hair"])


def _subject(rng, person: dict, seen: dict, named: dict) -> str:
    """Returns a noun phrase with its article, and notes what it tells."""
    if rng.random() < 0.14:
        return pick(rng, ("a person", "a person", "somebody", "someone"))
    named["sex"] = seen["sex"]
    noun = pick(rng, SUBJECTS[seen["sex"]])
    if person["old"] and seen.get("hair_color") == "grey" and rng.random() < 0.5:
        noun = f"{pick(rng, ('old', 'elderly', 'older'))} {noun}"
    elif seen.get("hair_style") == "bald" and rng.random() < 0.5:
        named["hair_style"] = "bald"
        noun = f"{pick(rng, ('bald', 'balding'))} {noun}"
    elif seen.get("hair_color") == "blond" and rng.random() < 0.15:
        named["hair_color"] = "blond"
        noun = f"{pick(rng, ('blond', 'blonde'))} {noun}"
    elif rng.random() < 0.06:
        noun = f"young {noun}" if not person["old"] else noun
    return with_article(noun)


def _one_color(seen: dict) -> str | None:
    """Returns the color of all clothes, or None if they have several or a pattern."""
    if "top" not in seen or "lower" not in seen or seen.get("top_pattern") or "inner_color" in seen:
        return None
    return seen["top_color"] if seen["top_color"] == seen["lower_color"] else None


def street_caption(rng: np.random.Generator, person: dict, seen: dict) -> tuple[str, dict[str, str]]:
    """Writes one caption in everyday words of the attributes from `visible_attributes`.

    It names one to four parts, almost always the top among them. Also returns the attributes named.
    """
    named: dict[str, str] = {}
    subject = _subject(rng, person, seen, named)
    groups = [name for name in PARTS if name in seen or f"{name}_color" in seen or f"{name}_style" in seen]
    weights = np.array([PARTS[name] for name in groups])
    count = min(len(groups), int(rng.choice(4, p=[0.12, 0.48, 0.28, 0.12])))
    chosen = set(rng.choice(groups, count, replace=False, p=weights / weights.sum())) if count else set()
    worn = []
    color = _one_color(seen)
    if color in ("black", "white") and "lower" in chosen and rng.random() < 0.4:
        named |= {"top_color": color, "lower_color": color}
        worn.append(pick(rng, (f"{color} clothes", f"all {color}", f"{color}")))
    else:
        if "top" in seen:
            worn.append(_top(rng, person, seen, named))
        if "lower" in chosen:
            worn.append(_garment(rng, seen, "lower", named))
    worn += [_garment(rng, seen, part, named) for part in ("shoes", "hat") if part in chosen]
    if rng.random() < 0.15:
        worn = [worn[i] for i in rng.permutation(len(worn))]
    having = [_hair(rng, seen, named)] if "hair" in chosen and "hair_style" not in named else []
    if "glasses" in chosen:
        named["glasses"] = "glasses"
        having.append("glasses")
    text = f"{subject} with {join(having)}" if having else subject
    if worn:
        text += f" {pick(rng, ('in', 'wearing', 'in', 'dressed in'))} {join(worn)}"
    if "bag" in chosen:
        text += _bag(rng, seen, named)
    return text, named


def _bag(rng, seen: dict, named: dict) -> str:
    if seen["bag"] == "paper":
        named["bag"] = "paper"
        what = pick(rng, ("a white paper", "a sheet of paper", "papers", "a paper in the hand"))
        return f"{pick(rng, (' with', ', holding', ', carrying'))} {what}"
    bag = _garment(rng, seen, "bag", named)
    return f"{pick(rng, (' with', ', carrying', ' and', ' carrying'))} {bag}"


def thing_caption(rng: np.random.Generator, thing: str | None, color: str) -> str:
    """Writes a caption of an image without a person, which shows a vehicle, a sign, or neither."""
    if thing in ("van", "car"):
        word = pick(rng, COLORS[color])
        return pick(rng, (f"a {word} {thing}", f"a parked {thing}", f"a {word} {thing} on the street"))
    if thing == "sign":
        return pick(rng, ("a sign", f"a {pick(rng, COLORS[color])} sign", "a sign on a pole"))
    return pick(
        rng, ("an empty street", "nobody", "an empty place without people", "a street without people")
    )
