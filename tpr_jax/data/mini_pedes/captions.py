"""Composes captions: English sentences about a part of what is visible of a person from one side."""

from collections.abc import Callable

import numpy as np

from tpr_jax.data.mini_pedes import phrases
from tpr_jax.data.mini_pedes.paint import PART
from tpr_jax.data.mini_pedes.phrases import join, pick, with_article

# A part is named only if it covers at least this fraction of the frame.
LEAST_SHARE = {"glasses": 0.0004, "hair": 0.001, "hat": 0.001, "bag": 0.002, "inner": 0.005, "shoes": 0.001}
GROUPS = {
    "hair": phrases.hair_phrase,
    "hat": phrases.hat_phrase,
    "glasses": phrases.glasses_phrase,
    "top": phrases.top_phrase,
    "lower": phrases.lower_phrase,
    "shoes": phrases.shoes_phrase,
    "bag": phrases.bag_phrase,
}
# The coarser words of the `pretrain` domain.
COARSE = {
    **dict.fromkeys(("black", "brown", "navy"), "dark"),
    **dict.fromkeys(("white", "yellow", "beige"), "light"),
    "light blue": "blue",
}
COARSE_GARMENT = {
    "t-shirt": "top",
    "shirt": "top",
    "sweater": "top",
    "sleeveless top": "top",
    "hoodie": "jacket",
    "coat": "jacket",
    "jeans": "trousers",
    "trainers": "shoes",
    "boots": "shoes",
    "cap": "hat",
    "woolly hat": "hat",
    "backpack": "bag",
    "handbag": "bag",
    "shoulder bag": "bag",
}
# The parts that its captions name, two to four of those in view, with their sampling weights.
PRETRAIN_PARTS = {"top": 4.0, "lower": 2.5, "bag": 2.0, "hat": 2.0, "shoes": 1.5, "hair": 1.2, "glasses": 1.0}


def side_of(view: dict) -> str:
    """Returns the side that the camera sees: 'front', 'back' or 'side'."""
    facing = np.cos(view["azimuth"])
    return "front" if facing > 0.64 else "back" if facing < -0.64 else "side"


def part_shares(parts: np.ndarray) -> dict[str, float]:
    """Returns the fraction of the frame that each part covers in a part map [h, w] of `render.render`."""
    counts = np.bincount(parts.ravel(), minlength=len(PART))
    return {name: float(counts[i]) / parts.size for name, i in PART.items()}


def visible_attributes(person: dict, view: dict, shares: dict[str, float] | None = None) -> dict[str, str]:
    """Returns the attributes of a person that are visible in a view, with their values.

    Without `shares` (from `part_shares`) visibility depends on the side alone; with them, parts that are
    hidden, cropped or too small are left out too.
    """
    side = side_of(view)

    def is_visible(part: str) -> bool:
        return shares is None or shares[part] >= LEAST_SHARE.get(part, 0.004)

    seen = {"sex": person["sex"], "side": side}
    if person["build"]:
        seen["build"] = person["build"]
    seen |= _visible_hair(person, side, is_visible)
    if person["hat"] and is_visible("hat"):
        seen |= {"hat": person["hat"]["type"], "hat_color": person["hat"]["color"]}
    if person["glasses"] and side != "back" and is_visible("glasses"):
        seen["glasses"] = "glasses"
    if is_visible("top"):
        seen |= _visible_top(person, side, is_visible)
    if person["lower"]["type"] != "dress" and is_visible("lower"):
        seen |= {"lower": person["lower"]["type"], "lower_color": person["lower"]["color"]}
    if is_visible("shoes"):
        seen |= {"shoes": person["shoes"]["type"], "shoes_color": person["shoes"]["color"]}
    if person["bag"] and is_visible("bag"):
        seen |= {"bag": person["bag"]["type"], "bag_color": person["bag"]["color"]}
    return seen


def _visible_hair(person: dict, side: str, is_visible: Callable[[str], bool]) -> dict[str, str]:
    style, hat = person["hair"]["style"], person["hat"]
    if style == "bald":
        return {} if hat else {"hair_style": style}
    if not is_visible("hair") or (hat and style == "short"):
        return {}
    seen = {"hair_color": person["hair"]["color"]}
    if style not in ("ponytail", "bun") or (side != "front" and not hat):
        seen["hair_style"] = style
    return seen


def _visible_top(person: dict, side: str, is_visible: Callable[[str], bool]) -> dict[str, str]:
    top = person["top"]
    seen = {"top": top["type"], "top_color": top["color"]}
    if top["pattern"]:
        seen |= {"top_pattern": top["pattern"], "top_second": top["second"]}
    seen["sleeve"] = (
        "sleeveless" if top["sleeve"] < 0.5 else "short-sleeved" if top["sleeve"] < 1 else "long-sleeved"
    )
    if person["inner"] and side == "front" and is_visible("inner"):
        seen["inner_color"] = person["inner"]
    return seen


def _groups_seen(seen: dict) -> list[str]:
    has = {"hair": "hair_style" in seen or "hair_color" in seen}
    return [name for name in GROUPS if has.get(name, name in seen)]


def _subject(rng, seen: dict) -> tuple[str, str, dict]:
    """Returns a noun, a pronoun, and the attributes that they name."""
    named = {}
    if rng.random() < 0.08:
        noun, pronoun = "person", "The person"
    else:
        named["sex"] = seen["sex"]
        noun = pick(rng, phrases.SUBJECTS[seen["sex"]])
        pronoun = "He" if seen["sex"] == "man" else "She"
    if "build" in seen and rng.random() < 0.45:
        named["build"] = seen["build"]
        noun = f"{pick(rng, phrases.BUILDS[seen['build']])} {noun}"
    return noun, pronoun, named


def _sentences(rng, noun: str, pronoun: str, said: dict[str, str]) -> str:
    """Arranges the noun phrases of the chosen groups in sentences; `said` maps a group to its phrase."""
    worn = [said[k] for k in rng.permutation([k for k in ("top", "lower", "shoes") if k in said])]
    if rng.random() < 0.7:  # most people describe from the top down
        worn = [said[k] for k in ("top", "lower", "shoes") if k in said]
    head = [said[k] for k in ("hat", "glasses") if k in said]
    wears = pick(rng, ("wears", "is wearing", "is dressed in", "has on"))
    carries = pick(rng, ("carries", "is carrying", "has"))
    carrying = pick(rng, ("carrying", "with"))
    a_noun = pick(rng, (with_article(noun), f"the {noun}", f"this {noun}"))
    hair, bag = said.get("hair"), said.get("bag")
    plan = int(rng.integers(5))
    if plan == 0:
        first = f"{a_noun}{f' with {hair}' if hair else ''} {wears} {join(worn + head)}"
        return first + (f". {pronoun} {carries} {bag}." if bag else ".")
    if plan == 1:
        rest = [f"{pronoun} also wears {join(head)}."] if head else []
        rest += [f"{pronoun} has {hair}."] if hair else []
        return " ".join([f"{a_noun} {wears} {join(worn)}{f', {carrying} {bag}' if bag else ''}.", *rest])
    if plan == 2:
        tail = [f"has {hair}"] if hair else []
        tail += [f"{carries} {bag}"] if bag else []
        opening = pick(rng, ("wearing", "dressed in"))
        if not tail:
            return f"{opening} {join(worn + head)}, {a_noun} is in the picture."
        return f"{opening} {join(worn + head)}, {a_noun} {' and '.join(tail)}."
    if plan == 3:
        having = [x for x in (hair, bag) if x]
        first = f"{a_noun} has {join(having)} and " if having else f"{a_noun} "
        return first + f"{pick(rng, ('wears', 'is wearing', 'is dressed in'))} {join(head + worn)}."
    first = f"{with_article(noun)} in {join(worn)}"
    extra = ([f"with {hair}"] if hair else []) + ([f"wearing {join(head)}"] if head else [])
    extra += [f"{carrying} {bag}"] if bag else []
    if not extra:
        return f"{first} {pick(rng, ('is in the picture', 'can be seen', 'is on the way'))}."
    return f"{first}, {', '.join(extra)}."


def _mini_caption(rng, seen: dict) -> tuple[str, dict]:
    noun, pronoun, named = _subject(rng, seen)
    groups = _groups_seen(seen)
    count = min(len(groups), int(rng.integers(3, 6)))
    chosen = set(rng.permutation(groups)[:count])
    chosen.add("top" if "top" in seen else groups[0])
    said = {}
    for group in groups:
        if group in chosen:
            said[group], told = GROUPS[group](rng, seen)
            named = named | told
    if not any(k in said for k in ("top", "lower", "shoes")):
        raise AssertionError("no garment in view: every view shows a top")
    text = _sentences(rng, noun, pronoun, said)
    if rng.random() < 0.15:
        words = {
            "front": ("seen from the front",),
            "back": ("seen from behind",),
            "side": ("seen from the side",),
        }
        text = f"{pick(rng, words[seen['side']])}, {text}"
        named = named | {"side": seen["side"]}
    return ". ".join(s[0].upper() + s[1:] for s in text.split(". ")), named


def _coarse(rng, seen: dict, part: str, named: dict) -> str:
    """Describes a garment or bag by its color's coarse word and, half of the time, its coarse noun."""
    kind = seen[part]
    named[part] = kind
    noun = COARSE_GARMENT.get(kind, kind) if rng.random() < 0.5 else pick(rng, phrases.GARMENT_WORDS[kind])
    pattern = seen.get("top_pattern") if part == "top" else None
    if pattern and rng.random() < 0.4:
        named["top_pattern"] = pattern
        noun = f"{pattern if pattern == 'striped' else pick(rng, ('checked', 'plaid'))} {noun}"
    if rng.random() < 0.9:
        color = named[f"{part}_color"] = seen[f"{part}_color"]
        coarse = COARSE.get(color, color) if rng.random() < 0.5 else phrases.color_word(rng, color)
        noun = f"{coarse} {noun}"
    text = noun if kind in phrases.PLURAL else with_article(noun)
    if part == "top" and "inner_color" in seen and rng.random() < 0.3:
        named["inner_color"] = seen["inner_color"]
        text += f" over {with_article(phrases.color_word(rng, seen['inner_color']) + ' top')}"
    return text


def _coarse_hair(rng, seen: dict, named: dict) -> str:
    style, color = seen.get("hair_style"), seen.get("hair_color")
    if style == "bald":
        named["hair_style"] = style
        return "no hair"
    words = []
    if style in ("short", "long", "ponytail") and rng.random() < 0.7:
        named["hair_style"] = style
        words.append("tied" if style == "ponytail" else style)
    if not words or rng.random() < 0.4:
        named["hair_color"] = color
        words.append({"black": "dark", "brown": "dark", "blond": "fair"}.get(color, color))
    return " ".join([*words, "hair"])


def _pretrain_caption(rng, seen: dict) -> tuple[str, dict]:
    """Writes a short, coarse caption of two to four parts, mostly with their color and kind only."""
    named = {}
    noun = "person"
    if rng.random() < 0.85:
        named["sex"] = seen["sex"]
        noun = pick(rng, phrases.SUBJECTS[seen["sex"]])
    if "build" in seen and rng.random() < 0.2:
        named["build"] = seen["build"]
        noun = f"{pick(rng, phrases.BUILDS[seen['build']])} {noun}"
    groups = [g for g in _groups_seen(seen) if g in PRETRAIN_PARTS]
    weights = np.array([PRETRAIN_PARTS[g] for g in groups])
    count = min(len(groups), int(rng.integers(2, 5)))
    chosen = rng.choice(groups, count, replace=False, p=weights / weights.sum())
    worn = [_coarse(rng, seen, g, named) for g in chosen if g in ("top", "lower", "shoes", "hat")]
    if "glasses" in chosen:
        text, told = phrases.glasses_phrase(rng, seen)
        worn.append(text)
        named |= told
    extra = [_coarse_hair(rng, seen, named)] if "hair" in chosen else []
    extra += [_coarse(rng, seen, "bag", named)] if "bag" in chosen else []
    text = with_article(noun)
    if worn:
        text += f" {pick(rng, ('in', 'wearing', 'with'))} {join(worn)}"
    if extra:
        text += f"{',' if worn else ''} {pick(rng, ('with', 'having'))} {join(extra)}"
    if rng.random() < 0.08:
        named["side"] = seen["side"]
        text += f", seen from {'behind' if seen['side'] == 'back' else 'the ' + seen['side']}"
    return text, named


def caption(rng: np.random.Generator, person: dict, seen: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Writes one caption of the attributes from `visible_attributes`; also returns those that it names.

    `mini` captions have 12 to 40 words; `pretrain` captions are coarser and have about 4 to 25.
    """
    if person["domain"] == "pretrain":
        return _pretrain_caption(rng, seen)
    for _ in range(50):
        text, named = _mini_caption(rng, seen)
        if 12 <= len(text.split()) <= 40:
            break
    return text, named
